"""How the report writes numbers, embedded JSON and its content security policy."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence


def short(value: object) -> str:
    """A number in about four digits; a dash for None; anything else as text."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"


def duration(seconds: float) -> str:
    """Seconds as `450 ms`, `12.3 s`, `4 min 05 s` or `2 h 03 min`."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def script_json(tree: object) -> str:
    """JSON that is safe inside a script element: it can neither close it nor open a comment in it.

    Lone surrogates, which UTF-8 cannot hold, become question marks.
    """
    text = json.dumps(tree, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text = text.encode("utf-8", errors="replace").decode("utf-8")
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text


def security_policy(scripts: Sequence[str]) -> str:
    """Content security policy that runs these inline scripts and embedded pictures, and loads nothing."""
    hashes = (base64.b64encode(hashlib.sha256(s.encode("utf-8")).digest()).decode("ascii") for s in scripts)
    allowed = " ".join(f"'sha256-{h}'" for h in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"
