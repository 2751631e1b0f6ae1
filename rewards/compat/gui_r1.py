"""GUI-R1: action accuracy, format and their mix.

Target: `{"action", "box" or "point", "text"}`, or the peer's columns `gt_action`, `gt_bbox`, `gt_input_text`; places in
pixels of the resized image, as the answer's (the peer scales its 0-1 truth at load).
Answer: the first answer block, a list `[{'action', 'point': [x, y], 'input_text'}]`; its first item counts.
Guards: for training use gui.action and gui.step.
Source: GUI-R1 (arXiv 2504.10458), released rewards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlrft.parse import Parsed
from vlrft.rewards.compat.actions import finite, first_item, read_data, true_action
from vlrft.rewards.compat.answers import first, has_shape, setting
from vlrft.types import Score

RADIUS = 140.0
"""Pixels within which a point counts as a point, whatever the resolution."""

_TEXT_ACTIONS = {"type", "select", "scroll", "open_app"}
_NEEDS_TEXT = {"type", "select", "open_app"}
_DIRECTIONS = {"up", "down", "left", "right"}


def accuracy(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """1 when the action is the true one and its place or text fits.

    Click: strictly inside a box, within 140 pixels (`meta["radius"]`) of a point. Type, select, scroll: F1 of the sets
    of words >= 0.5, or containment where both are one word. Other actions: 1. Mended: double quotes are read;
    "close/delete" can match; one letter matches no longer word; the text of open_app counts as that of type.

    Formula: 1[action] * 1[place or text]
    Range: [0, 1]
    Example: score("compat.gui_r1.accuracy", "<answer>[{'action': 'wait'}]</answer>", {"action": "wait"}) -> 1.0
    """
    truth = true_action(target, "compat.gui_r1.accuracy")
    item = first_item(parsed)
    if item is None:
        return Score(value=0.0, flags=("unparsable",))
    if str(item.get("action", "")).strip().lower() != truth["action"]:
        return Score(value=0.0)
    if truth["action"] == "click":
        point = finite(item.get("point"))
        hit = point is not None and len(point) == 2 and truth["place"] is not None
        return Score(value=float(hit and _near(point, truth["place"], setting(meta, "radius", RADIUS))))
    if truth["action"] in _TEXT_ACTIONS and (truth["text"] or truth["action"] != "open_app"):
        return Score(value=float(_alike(str(item.get("input_text", "")), truth["text"])))
    return Score(value=1.0)


def format(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """1 when the completion is a think and an answer block, and the answer a list of well-formed actions.

    Each has an action (text), a point (two whole numbers) and an input_text; type, select and open_app need a text,
    scroll one of four directions. Mended: the peer runs `eval` on the model's text; here it is only read.

    Formula: 1[shape] * 1[every action is well-formed]
    Range: [0, 1]
    Example: score("compat.gui_r1.format", "<think>t</think><answer>[{'action': 'wait'}]</answer>", None) -> 0.0
    """
    items = read_data(first(parsed.text))
    fits = has_shape(parsed.text) and isinstance(items, list) and bool(items) and all(map(_well_formed, items))
    return Score(value=float(fits))


def overall(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """Accuracy and format in one number.

    Formula: 0.8 accuracy + 0.2 format
    Range: [0, 1]
    Example: score("compat.gui_r1.overall", "<answer>[{'action': 'wait'}]</answer>", {"action": "wait"}) -> 0.8
    """
    right, shaped = accuracy(parsed, target, meta), format(parsed, target, meta)
    return Score(value=0.8 * (right.value or 0.0) + 0.2 * (shaped.value or 0.0), flags=right.flags)


def _near(point: Any, place: Any, radius: float) -> bool:
    x, y = point
    if len(place) == 4:
        return bool(place[0] < x < place[2] and place[1] < y < place[3])
    return bool(((x - place[0]) ** 2 + (y - place[1]) ** 2) ** 0.5 <= radius)


def _alike(mine: str, true: str) -> bool:
    ours, theirs = set(mine.lower().split()), set(true.lower().split())
    if not ours or not theirs:
        return not ours and not theirs
    if len(ours) == len(theirs) == 1:
        (a,), (b,) = ours, theirs
        return a == b or (min(len(a), len(b)) > 1 and (a in b or b in a))
    shared = len(ours & theirs)
    return shared > 0 and 2 * shared / (len(ours) + len(theirs)) >= 0.5


def _well_formed(item: Any) -> bool:
    if not isinstance(item, dict) or not isinstance(item.get("action"), str):
        return False
    point, text = item.get("point"), item.get("input_text")
    whole = isinstance(point, list | tuple) and len(point) == 2
    if not whole or not all(isinstance(c, int) and not isinstance(c, bool) for c in point or ()):
        return False
    if not isinstance(text, str):
        return False
    action = item["action"].strip().lower()
    if action in _NEEDS_TEXT and text in ("", "no input text"):
        return False
    return action != "scroll" or text in _DIRECTIONS
