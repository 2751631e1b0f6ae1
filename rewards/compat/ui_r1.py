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
from vlrft.rewards.compat.actions import finite, first_item, true_action
from vlrft.rewards.compat.answers import is_right, numbers, setting
from vlrft.rewards.compat.places import scale
from vlrft.types import Score


def action(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """1 when the action type is the true one.

    Formula: 1[action = truth]
    Range: [0, 1]
    Example: score("compat.ui_r1.action", "<answer>[{'action': 'scroll'}]</answer>", {"action": "scroll"}) -> 1.0
    """
    truth = true_action(target, "compat.ui_r1.action", needs_place=False)
    return Score(value=float(_name(first_item(parsed)) == truth["action"]))


def coord(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """1 when the point lies in the true box, edges included; free for other actions of the right type.

    Kept: the scaled point is cut to whole numbers; an action without a place gets the point for its type alone.
    Mended: boxes of floats are read.

    Formula: 1[x1 <= int(x s_x) <= x2] * 1[y1 <= int(y s_y) <= y2], s = stored size / input size
    Range: [0, 1]
    Example: score("compat.ui_r1.coord", "<answer>{'action': 'back'}</answer>", {"action": "back"}) -> 1.0
    """
    truth = true_action(target, "compat.ui_r1.coord")
    item = first_item(parsed)
    if truth["action"] != "click":
        return Score(value=float(_name(item) == truth["action"]))
    box = truth["place"]
    if box is None or len(box) != 4:
        raise TargetError(f"compat.ui_r1.coord needs a box of four numbers for a click, got {target!r}")
    sx, sy = scale(meta)
    point = finite((item or {}).get("coordinate", (item or {}).get("point")))
    if point is None or len(point) != 2:
        return Score(value=0.0, flags=("unparsable",))
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
        fine = _own(meta, lengths, right)
        scores.append(Score(value=max(0.1, 0.5 - 0.5 * over) if fine else min(-0.1, 0.9 * over - 0.1)))
    return scores


def _own(meta: Mapping[str, Any], lengths: list[float], right: list[bool]) -> bool:
    """Whether this completion is right: as its own meta says, else as the group's lists say of its length."""
    if meta.get("correct", meta.get("accuracy")) is None:
        mine = _tokens(meta, "num_tokens")
        said = {fine for length, fine in zip(lengths, right, strict=True) if length == mine}
        if len(said) == 1:
            return said.pop()
    return is_right(meta, "compat.ui_r1.dast")


def _group(group: Judged) -> tuple[list[float], list[bool]]:
    """(tokens of every completion, whether it is right)."""
    own, meta = [_tokens(row, "num_tokens") for row in group.meta], group.meta[0]
    lengths = numbers(meta.get("group_lengths", own), "compat.ui_r1.dast: meta['group_lengths']")
    given = meta.get("group_correct")
    if given is None:
        given = [is_right(row, "compat.ui_r1.dast") for row in group.meta]
    right = numbers(given, "compat.ui_r1.dast: meta['group_correct']")
    if len(lengths) != len(right):
        raise TargetError("compat.ui_r1.dast: meta['group_lengths'] and meta['group_correct'] must be equally long")
    return lengths, [value >= 0.5 for value in right]


def _tokens(meta: Mapping[str, Any], key: str) -> float:
    if meta.get(key) is None:
        raise TargetError(f"compat.ui_r1.dast needs meta[{key!r}]")
    return setting(meta, key, 0.0)


def _name(item: dict[str, Any] | None) -> str:
    return str((item or {}).get("action", "")).strip().lower()
