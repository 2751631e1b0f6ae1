"""UI-R1: action type, coordinate, and the length term of its efficient variant (DAST).

Target: `{"action", "box"}`, box in pixels of the stored image.
Meta: `image_size`, `input_size`: the answer's point is scaled from the one to the other; for `dast` the group's lists.
Answer: the first answer block, a list or object with `action` and `coordinate` (or `point`).
Guards: for training use gui.action and gui.step.
Source: UI-R1 (arXiv 2503.21620), released rewards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlrft.parse import Parsed
from vlrft.rewards.base import Judged, TargetError
from vlrft.rewards.compat.actions import finite, read_data, true_action
from vlrft.rewards.compat.answers import first, is_right, numbers, setting
from vlrft.types import Score


def action(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """1 when the action type is the true one.

    Formula: 1[action = truth]
    Range: [0, 1]
    Example: score("compat.ui_r1.action", "<answer>[{'action': 'scroll'}]</answer>", {"action": "scroll"}) -> 1.0
    """
    truth = true_action(target, "compat.ui_r1.action")
    return Score(value=float(_name(_item(parsed)) == truth["action"]))


def coord(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """1 when the point lies in the true box, edges included; free for other actions of the right type.

    Kept: the scaled point is cut to whole numbers; an action without a place gets the point for its type alone.
    Mended: boxes of floats are read.

    Formula: 1[x1 <= int(x s_x) <= x2] * 1[y1 <= int(y s_y) <= y2], s = stored size / input size
    Range: [0, 1]
    Example: score("compat.ui_r1.coord", "<answer>{'action': 'back'}</answer>", {"action": "back"}) -> 1.0
    """
    truth = true_action(target, "compat.ui_r1.coord")
    item = _item(parsed)
    if truth["action"] != "click":
        return Score(value=float(_name(item) == truth["action"]))
    box = truth["place"]
    if box is None or len(box) != 4:
        raise TargetError(f"compat.ui_r1.coord needs a box of four numbers for a click, got {target!r}")
    point = finite((item or {}).get("coordinate", (item or {}).get("point")))
    if point is None or len(point) != 2:
        return Score(value=0.0, flags=("unparsable",))
    sx, sy = _scale(meta)
    x, y = int(point[0] * sx), int(point[1] * sy)
    return Score(value=float(box[0] <= x <= box[2] and box[1] <= y <= box[3]))


def dast(group: Judged) -> list[Score]:
    """What a completion's length adds, against a budget that shrinks as the group gets better.

    meta: `num_tokens`, `correct`, `max_tokens`; alone also `group_lengths` and `group_correct` (one per completion).
    Lr is the mean length of the correct completions (read so by us; the spec does not define it), Lmax is `max_tokens`.

    Formula: Lb = p Lr + (1 - p) Lmax, l = (L - Lb) / Lb; correct max(.1, -.5 l + .5), wrong min(-.1, .9 l - .1)
    Range: [-1, 1]
    Example: score("compat.ui_r1.dast", "", None, {"num_tokens": 9, "max_tokens": 9, "group_correct": [0]}) -> -0.1
    """
    lengths, right = _group(group)
    good = [length for length, fine in zip(lengths, right, strict=True) if fine]
    share = len(good) / len(lengths)
    budget = share * (sum(good) / len(good) if good else 0.0) + (1.0 - share) * _tokens(group.meta[0], "max_tokens")
    if not budget > 0.0:
        raise TargetError("compat.ui_r1.dast: the length budget is 0; check group_lengths and max_tokens")
    scores = []
    for meta in group.meta:
        over = (_tokens(meta, "num_tokens") - budget) / budget
        scores.append(Score(value=max(0.1, 0.5 - 0.5 * over) if is_right(meta) else min(-0.1, 0.9 * over - 0.1)))
    return scores


def _group(group: Judged) -> tuple[list[float], list[bool]]:
    """(tokens of every completion, whether it is right)."""
    own, meta = [_tokens(row, "num_tokens") for row in group.meta], group.meta[0]
    lengths = numbers(meta.get("group_lengths", own), "compat.ui_r1.dast: meta['group_lengths']")
    right = numbers(
        meta.get("group_correct", [is_right(row) for row in group.meta]), "compat.ui_r1.dast: meta['group_correct']"
    )
    if len(lengths) != len(right):
        raise TargetError("compat.ui_r1.dast: meta['group_lengths'] and meta['group_correct'] must be equally long")
    return lengths, [value >= 0.5 for value in right]


def _tokens(meta: Mapping[str, Any], key: str) -> float:
    if meta.get(key) is None:
        raise TargetError(f"compat.ui_r1.dast needs meta[{key!r}]")
    return setting(meta, key, 0.0)


def _item(parsed: Parsed) -> dict[str, Any] | None:
    data = read_data(first(parsed.text))
    item = data[0] if isinstance(data, list) and data else data
    return item if isinstance(item, dict) else None


def _name(item: dict[str, Any] | None) -> str:
    return str((item or {}).get("action", "")).strip().lower()


def _scale(meta: Mapping[str, Any]) -> tuple[float, float]:
    stored, seen = finite(meta.get("image_size")), finite(meta.get("input_size"))
    if stored is None or seen is None or len(stored) != 2 or len(seen) != 2 or 0.0 in seen:
        return 1.0, 1.0
    return stored[0] / seen[0], stored[1] / seen[1]
