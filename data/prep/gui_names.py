"""Names of GUI actions in published files, and the arguments that go with them."""

from __future__ import annotations

from typing import Any

from vlrft.data.problems import SampleError

_TOUCHING = ("click", "double_click", "right_click", "long_press", "hover")
_TYPING = ("type", "select", "open_app")
_MOVING = ("scroll", "swipe")
_PLAIN = ("press_back", "press_home", "press_recent", "press_enter", "wait", "complete", "impossible", "close")

_NAMES = {
    "doubleclick": "double_click", "rightclick": "right_click", "longpress": "long_press", "moveto": "hover",
    "tap": "click", "inputtext": "type", "input": "type", "openapp": "open_app", "launchapp": "open_app",
    "navigateback": "press_back", "pressback": "press_back", "back": "press_back", "navigatehome": "press_home",
    "presshome": "press_home", "home": "press_home", "enter": "press_enter", "pressenter": "press_enter",
    "keyboardenter": "press_enter", "pressrecent": "press_recent", "hotkey": "key", "presskey": "key",
    "closedelete": "close", "finish": "complete", "finished": "complete", "done": "complete",
}  # fmt: skip
"""Published names without marks -> the names of the gui_action task."""

DIRECTIONS = ("up", "down", "left", "right")
ABOUT_PLACES = _TOUCHING
GUI_R1 = (*_TOUCHING, *_TYPING, "scroll", "key", *_PLAIN)
"""Action space of GUI-R1's rows, phones, browsers and desktops together."""
ANDROID = ("click", "long_press", "type", "open_app", "scroll", "press_back", "press_home", "wait", "complete")
"""Action space of AndroidControl."""


def action_name(published: Any, where: str, *, space: tuple[str, ...]) -> str:
    """The name in the action space `space`. Raises SampleError for one that is not in it."""
    flat = "".join(c for c in str(published).lower() if c.isalnum())
    name = _NAMES.get(flat) or next((known for known in space if known.replace("_", "") == flat), None)
    if name not in space:
        raise SampleError(where, f"has the action {published!r}, which is none of {', '.join(space)}; correct the row")
    return name


def action_words(action: str, text: Any, where: str) -> dict[str, str]:
    """`text`, `direction` or `key` of an action that needs one. Raises SampleError where it is missing."""
    said = text.strip() if isinstance(text, str) else ""
    if action in _MOVING:
        if said.lower() not in DIRECTIONS:
            raise SampleError(where, f"scrolls to {text!r}, which is none of {', '.join(DIRECTIONS)}; correct the row")
        return {"direction": said.lower()}
    if action not in (*_TYPING, "key"):
        return {}
    if not said:
        raise SampleError(where, f"has the action {action} without its text; correct the row")
    return {"key" if action == "key" else "text": said}
