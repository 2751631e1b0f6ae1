"""The pages of docs/rewards/, one per family and an index, made from the docstrings by `vlrft rewards docs`."""

from __future__ import annotations

from collections.abc import Sequence

from vlrft.rewards.describe import Described, describe
from vlrft.rewards.table import REWARDS

INDEX = "README.md"
_HEADINGS = {
    "Target": "Target",
    "Meta": "Meta",
    "Answer": "How the answer is read",
    "Guards": "What would defeat it, and what stops that",
    "Source": "Source",
}
_MADE = "<!-- Made from the docstrings by `vlrft rewards docs`; edit those. -->"


def pages() -> dict[str, str]:
    """File name to Markdown text."""
    families: dict[str, list[Described]] = {}
    for name in REWARDS:
        described = describe(name)
        families.setdefault(page_name(described), []).append(described)
    return {INDEX: _index(families), **{page: _page(members) for page, members in families.items()}}


def page_name(described: Described) -> str:
    """`box.md` for vlrft.rewards.box, `compat_gui_r1.md` for vlrft.rewards.compat.gui_r1."""
    return described.module.removeprefix("vlrft.rewards.").replace(".", "_") + ".md"


def _index(families: dict[str, list[Described]]) -> str:
    lines = [
        _MADE,
        "",
        "# Rewards",
        "",
        "Every reward is a function of a completion, a target and meta. A bad completion is worth 0 and has a flag;",
        "a bad target is an error, raised before compute is spent. Values lie in [0, 1], but for some of `compat`,",
        "whose ranges are the peer's own. `vlrft rewards show NAME` prints the same as these pages.",
    ]
    for page, members in families.items():
        lines += ["", f"## [{members[0].title.rstrip('.')}]({page})", "", "| reward | |", "| --- | --- |"]
        lines += [f"| `{d.name}` | {_cell(d.summary)} |" for d in members]
    return "\n".join(lines) + "\n"


def _page(members: Sequence[Described]) -> str:
    first = members[0]
    lines = [_MADE, "", f"# {first.title.rstrip('.')}"]
    for key, heading in _HEADINGS.items():
        if key in first.family:
            lines += ["", f"**{heading}.** {_sentence(first.family[key])}"]
    for described in members:
        lines += ["", f"## `{described.name}`", "", _prose(described.summary), "", *_body(described)]
        if described.example is not None:
            example = described.example
            lines += ["", "```python", f"{example.source}.value  # {example.value:.6g}", "```"]
    return "\n".join(lines) + "\n"


def _body(described: Described) -> list[str]:
    """Formula and range as a block of text as it is written; the other paragraphs as prose."""
    lines: list[str] = []
    for paragraph in described.body.split("\n\n"):
        verbatim = paragraph.startswith(("Formula:", "Range:"))
        lines += ["```text", paragraph, "```", ""] if verbatim else [_prose(paragraph), ""]
    return lines[:-1]


def _prose(text: str) -> str:
    """Docstring prose in Markdown: what stands outside of backticks is not markup."""
    pieces = text.split("`")
    for i in range(0, len(pieces), 2):
        for mark in "<*_":
            pieces[i] = pieces[i].replace(mark, f"\\{mark}")
    return "`".join(pieces)


def _sentence(text: str) -> str:
    return _prose(text[:1].upper() + text[1:])


def _cell(text: str) -> str:
    return _prose(text).replace("|", "\\|")
