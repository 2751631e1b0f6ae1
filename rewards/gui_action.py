"""What to do on the screen: one action with its argument.

Target: `{"action": name}` and what the action needs: `"box"` `[x1, y1, x2, y2]` or `"point"` `[x, y]` where the screen
is touched (the box counts where both are given), `"text"` to be typed, selected or opened, `"direction"` (up, down,
left, right), `"key"`. Names are those of ACTIONS or their synonyms; coordinates are in `meta["target_space"]`.

Meta: as for gui.point_in_box: `target_space`, `coord_space`, `image_size`, `input_size`.

Answer: an object with `action`, alone or in a list, in JSON or Python quoting, fenced or not, amid prose; its fields
may stand in an inner `arguments`. A point stands under `point`, `coordinate`, `bbox` and the like, a text under `text`,
`input_text`, `content` or `value`; a direction or a key may stand under `text` too. Or a call with named arguments, as
UI-TARS writes it: "click(start_box='(12,30)')", "scroll(point='<point>12 30</point>', direction='down')", "wait()".
None of these is `unparsable`, an action that ACTIONS does not hold is `unknown_label`; both are worth 0.

Guards: the argument counts only with the right action, so that a click never earns the text's credit. Of several
actions, or several different values of one field (under one key or under several that mean the same, such as `point`,
`bbox` and `x`, `y`), the first counts and the value is divided by their number. Words are compared
as a multiset, so that repeated and added words cost. One letter never stands for a word.

Source: GUI-R1 and UI-R1, without their loose text match and their free coordinate credit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from vlrft.parse import Parsed, normalise, words
from vlrft.parse.actions import ParsedAction, read_actions
from vlrft.registry import nearest
from vlrft.rewards.base import TargetError, ordered
from vlrft.rewards.box import true_box
from vlrft.rewards.gui import NEAR, check_threshold, inside, located, near, true_point
from vlrft.types import Score

ACTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "click": ("point", ("tap", "left_click", "single_click", "left_single")),
    "double_click": ("point", ("double_tap", "left_double")),
    "right_click": ("point", ("right_single",)),
    "long_press": ("point", ("long_click", "long_tap")),
    "hover": ("point", ("move", "move_to", "mouse_move")),
    "type": ("text", ("input_text", "input", "type_text", "enter_text", "write")),
    "select": ("text", ("select_option", "choose")),
    "open_app": ("text", ("open", "launch", "launch_app", "start_app")),
    "answer": ("text", ("respond", "reply")),
    "scroll": ("direction", ()),
    "swipe": ("direction", ()),
    "key": ("key", ("press", "press_key", "keypress", "hotkey", "keyboard", "system_button")),
    "press_back": ("none", ("back", "navigate_back", "go_back")),
    "press_home": ("none", ("home", "navigate_home", "go_home")),
    "press_recent": ("none", ("recent", "recents", "app_switch")),
    "press_enter": ("none", ("enter", "keyboard_enter", "submit")),
    "wait": ("none", ("sleep", "pause")),
    "complete": ("none", ("finish", "finished", "done", "terminate", "status", "task_complete")),
    "impossible": ("none", ("infeasible", "task_impossible")),
    "close": ("none", ("close/delete", "delete", "dismiss")),
    "screenshot": ("none", ("take_screenshot",)),
}
"""Action -> (what it needs, synonyms). Case, spaces, underscores and dashes do not matter. A swipe is not a scroll: the
content moves the other way."""

DIRECTIONS = ("up", "down", "left", "right")
_KEYS_WITH_NAMES = {"back": "press_back", "home": "press_home", "enter": "press_enter", "return": "press_enter"}
"""Keys that many action spaces have as actions of their own."""


def _flat(name: str) -> str:
    return normalise(name[:100]).replace(" ", "")


_NAMES = {_flat(name): action for action, (_, synonyms) in ACTIONS.items() for name in (action, *synonyms)}


def action(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, threshold: float = NEAR) -> Score:
    """The right action with the right argument.

    Formula: 1[same action] * argument / n actions given; argument = 1[point in the box or near the point], token F1 of
    the text, 1[same direction], 1[same key], or 1 for an action that needs none
    Range: [0, 1]

    threshold: how near a true point is hit, as in gui.point_dist.

    Example: score("gui.action", "<answer>{'action': 'Press Back'}</answer>", {"action": "press_back"}) -> 1.0
    """
    _, value, flags = _judged("gui.action", parsed, target, meta, threshold)
    return Score(value=value, flags=flags)


def step(
    parsed: Parsed,
    target: Any,
    meta: Mapping[str, Any],
    *,
    threshold: float = NEAR,
    type_weight: float = 0.4,
) -> Score:
    """The right action, and more with the right argument.

    Formula: type_weight * 1[same action] / n actions given + (1 - type_weight) * gui.action
    Range: [0, 1]

    threshold: see gui.action.

    type_weight: share of the value that the action's name alone earns, in [0, 1].

    Example: score("gui.step", "<answer>{'action': 'tap'}</answer>", {"action": "click", "box": [0, 0, 5, 5]}) -> 0.4
    """
    if not 0.0 <= type_weight <= 1.0:
        raise ValueError(f"gui.step: type_weight must lie in [0, 1], got {type_weight!r}")
    kind, value, flags = _judged("gui.step", parsed, target, meta, threshold)
    return Score(value=type_weight * kind + (1.0 - type_weight) * value, flags=flags)


def _judged(
    name: str, parsed: Parsed, target: Any, meta: Mapping[str, Any], threshold: float
) -> tuple[float, float, tuple[str, ...]]:
    """(1 for the right action, 1 for that with the right argument, both divided by the number of actions; flags)."""
    check_threshold(name, threshold)
    wanted, kind, truth = _true_action(target, meta)
    flags = set(parsed.flags)
    if parsed.answer is None:
        return 0.0, 0.0, ordered(flags)
    found = read_actions(parsed.answer)
    if not found:
        return 0.0, 0.0, ordered(flags | {"unparsable"})
    count = sum(each.choices for each in found)
    flags |= {"several_answers"} if count > 1 else set()
    first = found[0]
    given = _canonical(first.name, first.key or first.text)
    if given != wanted:
        return 0.0, 0.0, ordered(flags if given else flags | {"unknown_label"})
    value, wrong = _argument(kind, first, truth, meta, threshold)
    return 1.0 / count, value / count, ordered(flags | wrong)


def _canonical(name: str, key: str | None) -> str:
    """The name in ACTIONS of an action as written, an empty string where there is none."""
    known = _NAMES.get(_flat(name), "")
    return _KEYS_WITH_NAMES.get(_chord(key), known) if known == "key" and key else known


def _argument(
    kind: str, given: ParsedAction, truth: Any, meta: Mapping[str, Any], threshold: float
) -> tuple[float, set[str]]:
    """(credit of the argument, flags)."""
    if kind == "none":
        return 1.0, set()
    if kind == "text":
        return token_f1(given.text or "", truth), set()
    if kind == "direction":
        return float(normalise((given.direction or given.text or "")[:100]) == truth), set()
    if kind == "key":
        return float(_chord(given.key or given.text or "") == truth), set()
    if given.point is None:
        return 0.0, set()
    point, flags = located(given.point, meta, "abs_original" if kind == "box" else "norm_1")
    hit = point is not None and (inside(point, truth) if kind == "box" else near(point, truth, threshold))
    return float(hit), flags


def token_f1(text: str, reference: str) -> float:
    """F1 of two texts as multisets of words; equality in normal form where the reference has no words."""
    ours, theirs = words(text), words(reference)
    if not theirs:
        return float(normalise(text) == normalise(reference))
    shared = (Counter(ours) & Counter(theirs)).total()
    return 2.0 * shared / (len(ours) + len(theirs))


def _chord(key: str) -> str:
    """A key or chord in one form: "Ctrl + C" and "ctrl_c" are the same."""
    return "".join(words(key[:100])) or key[:100].strip()


def _true_action(target: Any, meta: Mapping[str, Any]) -> tuple[str, str, Any]:
    """(action, `box` or `point` or what else ACTIONS says that it needs, the argument to compare with)."""
    if not isinstance(target, Mapping) or not isinstance(target.get("action"), str):
        raise TargetError(f"an action target is {{'action': name, ...}}, got {target!r}; correct the row")
    name = target["action"]
    key = target.get("key")
    wanted = _canonical(name, key if isinstance(key, str) else None)
    if not wanted:
        raise TargetError(
            f"unknown action {name!r} in the target{nearest(name, list(ACTIONS))}; known: {', '.join(ACTIONS)}"
        )
    kind = ACTIONS[wanted][0]
    if kind == "point":
        if target.get("box") is None and target.get("point") is None:
            raise TargetError(f"a target of action {name!r} needs 'box' or 'point', got {target!r}; add one")
        if target.get("box") is not None:
            return wanted, "box", true_box(target["box"], meta)
        return wanted, "point", true_point(target["point"], meta)
    if kind == "none":
        return wanted, kind, None
    text = target.get(kind) if target.get(kind) is not None else target.get("text")
    if not isinstance(text, str) or not text.strip():
        raise TargetError(f"a target of action {name!r} needs {kind!r}, a text that is not blank, got {text!r}; add it")
    if kind == "direction" and normalise(text) not in DIRECTIONS:
        raise TargetError(f"'direction' must be one of {', '.join(DIRECTIONS)}, got {text!r}; correct the row")
    return wanted, kind, {"text": text, "direction": normalise(text), "key": _chord(text)}[kind]
