"""Rewards as the peers define them, for recipes that reproduce their papers: `compat.<peer>.<name>`.

The value is the peer's own wherever its released function has no documented bug, and the sane one where it has; each
function says what it keeps and what it mends. Ranges are the peer's own ([0, 2], [-3, 3]), here and nowhere else.
"""
