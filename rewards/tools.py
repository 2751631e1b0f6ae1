"""Tool calls: are they the right ones, did the image tools help, were they few, did they work?

Target: `tool.call`: a list of `{"name", "parameters"}`, `[]` when no tool is needed. `tool.visual`:
`{"ops": [...], "box": [x1, y1, x2, y2] or null}`; an op is a name, such as "crop" or "rotate90", or
`{"name", "parameters"}`; an `"answer"` may stand beside them. `tool.efficiency`: `{"needed": number of calls}`.
`tool.result`: the expected outcome, any JSON.

Meta: `calls`, the list of calls made, in the target's form; where it is missing they are read from the completion.
`result`, the outcome of the last call as executed. `accuracy` in [0, 1] (or `correct`), what another judge says of the
answer. `image_size`, `input_size`, `coord_space`, `target_space` for the box of `tool.visual`, as box.*.

Answer: `<tool_call>` blocks outside the reasoning, each one JSON object, a list of them, or one object per line, with
`name` and `parameters` (`arguments`, `args`); where there is no such block, an answer that is nothing else than such
objects. A block or line that is no call makes the whole completion unparsable: 0.

Guards: every call counts in the denominator, duplicates too. A call where none is needed, a completion that says
nothing, and calls in a tool response or in the reasoning are worth 0; reasoning is all that stands before a `</think>`
that closes nothing, too. An argument that is NaN or infinite equals nothing and has the flag `non_finite`. Outcomes are
read from `meta` only, never from the text, where the model could have written them itself. By its formula `tool.call`
pays 0.5 for the right name and keys with wrong values: where that is too much, weigh `tool.result` above it.
`tool.efficiency` counts calls and nothing else: any answer in its tags without a call earns 1, so give it a small
weight and a gate on a reward that judges the answer.

Source: ToolRL (names, keys and values of paired calls), CodeVision (required operations, crop by IoU) without its bonus
for unexpected operations and without its unbounded penalties.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vlrft.coords import Box, CoordError, InvalidBoxError, convert, validate_box
from vlrft.parse import Parsed, visible_length
from vlrft.parse.calls import ToolCall, as_call, as_calls, outside_reasoning, parse_calls, read_json
from vlrft.rewards.base import TargetError, is_number, ordered
from vlrft.rewards.box import intersection_over_union, target_space, true_box
from vlrft.rewards.structure import assign, check_json, scalar_key, too_large, tree_f1
from vlrft.types import Score

BOX_KEYS = frozenset({"bbox", "bbox_2d", "box", "box_2d", "region", "crop", "crop_box", "roi", "coordinates"})
"""Parameters whose four numbers are a box."""
CROP_NAMES = frozenset(
    {"crop", "zoom", "zoomin", "cropimage", "imagecrop", "zoomimage", "imagezoomintool", "imagezoomin"}
)
"""Names, squeezed to letters and digits, of tools that cut a region out of the image."""
FREE_CALLS = 2
"""Calls that an economical solution may make where at least one is required, as in CodeVision."""

_TAG = re.compile(r"</?[A-Za-z_]+>")
_MOST_COUNTED = 10_000
"""Calls that a row may state as a number."""
_LOOSE = frozenset({"no_answer", "several_answers", "lenient"})
"""Flags that speak of the answer tags, not of calls."""


def call(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """How well the calls fit the true ones, one to one.

    Formula: sum over the best assignment of same-name pairs of (0.2 + 0.3 key F1 + 0.5 value score) /
    max(made, true); value score = mean over the true parameters of 1[equal], of the tree F1 for nested ones, of the
    IoU for boxes (0 for a missing one). No true calls: 1 iff none was made.
    Range: [0, 1]

    Example: score("tool.call", '<answer>{"name": "f"}</answer>', [{"name": "f", "parameters": {"x": 2}}]) -> 0.2
    """
    truth = _listed_calls("tool.call", "the target", target)
    for true in truth:
        check_json("tool.call", true.parameters)
    made, flags = _calls_made("tool.call", parsed, meta)
    if made is None:
        return Score(value=0.0, flags=flags)
    if not truth or not made:
        return Score(value=float(not truth and not made), flags=flags)
    if too_large(len(made), len(truth)):
        return Score(value=0.0, flags=ordered({*flags, "over_length"}))
    total = 0.0
    for name in {c.name for c in truth}:
        ours, theirs = ([c for c in side if c.name == name] for side in (made, truth))
        total += assign(ours, theirs, _pair)
    return Score(value=min(1.0, total / max(len(made), len(truth))), flags=flags)


def visual(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, budget: int | None = None) -> Score:
    """Image tools used as required, beside the answer itself.

    Formula: 0.5 accuracy + 0.2 recall of required ops (a crop counts by its best IoU with the box) + 0.1 op-set F1
    + 0.1 format + 0.1 min(1, budget / calls), over the sum of the weights that apply
    Range: [0, 1]

    Accuracy: `meta["accuracy"]` (or `correct`), else whether the answer equals the target's `answer`; where there is
    neither it does not apply. Where no op is required, recall is 1 iff no call was tried; without calls economy is 1.
    Format: every block is a call, and exactly one answer follows the reasoning; calls that cannot be read earn nothing.

    budget: calls that cost nothing; by default (or `meta["budget"]`) the number of required ops but at least 2, and 0
    where none is required.

    Example: score("tool.visual", "<answer>7</answer>", {"ops": ["crop"]}, {"accuracy": 1}) -> 0.7
    """
    ops, box = _required(target, meta)
    right = _accuracy(parsed, target, meta)
    budget = _budget(meta, budget, len(ops))
    made, flags = _calls_made("tool.visual", parsed, meta)
    if made is None and "no_answer" in flags:
        return Score(value=0.0, flags=flags)
    unreadable = made is None
    made = list(parse_calls(parsed.text).calls) if made is None else made
    attempted = unreadable or bool(made)
    used = [max((_fit(op, c, box, meta) for c in made), default=0.0) for op in ops]
    hits = sum(any(_is_op(op, c) for c in made) for op in ops)
    others = {_squeezed(c.name) for c in made if not any(_is_op(op, c) for op in ops)}
    well_formed = parsed.answer is not None and not unreadable and not _LOOSE & set(parsed.flags)
    parts: dict[str, float | None] = {
        "tool.visual.accuracy": right,
        "tool.visual.recall": math.fsum(used) / len(ops) if ops else float(not attempted),
        "tool.visual.ops_f1": 2.0 * hits / (len(ops) + hits + len(others)) if ops or made else float(not attempted),
        "tool.visual.format": float(well_formed),
        "tool.visual.economy": min(1.0, budget / len(made)) if made else 1.0,
    }
    weighed = [(w, v) for w, v in zip((0.5, 0.2, 0.1, 0.1, 0.1), parts.values(), strict=True) if v is not None]
    value = math.fsum(w * v for w, v in weighed) / math.fsum(w for w, _ in weighed)
    return Score(value=min(1.0, value), parts=parts, flags=flags)


def efficiency(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """Calls beyond those needed cost; fewer do not.

    Formula: min(1, needed / calls); where no call was made, 1[there is an answer in its tags]
    Range: [0, 1]

    `meta["calls"]` may also be the number of calls, or a list of names.

    Example: score("tool.efficiency", '<answer>[{"name": "f"}, {"name": "f"}]</answer>', {"needed": 1}) -> 0.5
    """
    needed = target.get("needed") if isinstance(target, Mapping) else None
    if isinstance(needed, bool) or not isinstance(needed, int) or needed < 0:
        raise TargetError(
            f'tool.efficiency: the target must be {{"needed": number of calls, 0 or more}}, got {target!r}'
        )
    made, flags = _calls_made("tool.efficiency", parsed, _named_calls(meta))
    if made is None:
        return Score(value=0.0, flags=flags)
    if not made and parsed.answer is None:
        return Score(value=0.0, flags=ordered({*flags, "no_answer"}))
    return Score(value=min(1.0, needed / len(made)) if made else 1.0, flags=flags)


def _named_calls(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    """`meta` with `calls` as a list of calls where it is their number or a list of their names."""
    calls = meta.get("calls")
    if isinstance(calls, int) and not isinstance(calls, bool) and 0 <= calls <= _MOST_COUNTED:
        return {**meta, "calls": [{"name": "call"}] * calls}
    if isinstance(calls, list | tuple) and calls and all(isinstance(name, str) and name for name in calls):
        return {**meta, "calls": [{"name": name} for name in calls]}
    return meta


def result(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """The outcome of the last executed call against the expected one.

    Formula: tree F1 of `meta["result"]` and the target (equality for a number or a text); 0 when calls were made and
    none has a result; None when nothing says that anything was executed
    Range: [0, 1] or None

    The outcome is `meta["result"]`, else the `result` of the last of `meta["calls"]`. It deserves the dominant weight
    beside `tool.call`.

    Example: score("tool.result", "<answer>done</answer>", {"a": 3, "b": "kg"}, {"result": {"a": 3, "b": "g"}}) -> 0.5
    """
    if target is None:
        raise TargetError(
            "tool.result: the target is the expected outcome, got None; leave the reward out for this row"
        )
    check_json("tool.result", target)
    _, flags = _calls_made("tool.result", parsed, {})
    listed = meta.get("calls")
    executed = _listed_calls("tool.result", 'meta["calls"]', listed) if listed is not None else []
    if "result" not in meta and listed is None:
        return Score(value=None, flags=flags)
    if not _says_something(parsed):
        return Score(value=0.0, flags=flags)
    last = listed[-1] if executed and isinstance(listed, list | tuple) else {}
    outcome = meta["result"] if "result" in meta else last.get("result")
    if outcome is None or not _judgeable(ToolCall("", {"result": outcome})):
        return Score(value=0.0, flags=flags)
    return Score(value=tree_f1(outcome, target) or 0.0, flags=flags)


def _pair(made: ToolCall, true: ToolCall) -> float:
    """What one predicted call is worth against a true one of the same name."""
    ours, theirs = ({str(key).casefold(): v for key, v in side.parameters.items()} for side in (made, true))
    if not ours and not theirs:
        return 1.0
    common = ours.keys() & theirs.keys()
    key_f1 = 2.0 * len(common) / (len(ours) + len(theirs))
    values = math.fsum(_value(key, ours[key], theirs[key]) for key in common)
    return 0.2 + 0.3 * key_f1 + 0.5 * (values / len(theirs) if theirs else 0.0)


def _value(key: str, made: Any, true: Any) -> float:
    wanted = _as_box(true) if key.casefold() in BOX_KEYS else None
    if wanted is not None:
        given = _as_box(made)
        return 0.0 if given is None else intersection_over_union(given, wanted)
    if isinstance(made, dict | list) or isinstance(true, dict | list | tuple):
        return tree_f1(made, true, ordered=True) or 0.0
    return float(scalar_key(made) == scalar_key(true))


def _as_box(value: Any) -> Box | None:
    """A valid box, or None."""
    numbers = isinstance(value, list | tuple) and all(map(is_number, value))
    try:
        return validate_box(value) if numbers else None
    except InvalidBoxError:
        return None


def _listed_calls(name: str, what: str, value: Any) -> list[ToolCall]:
    """Calls as data give them. Raises TargetError."""
    if not isinstance(value, list | tuple):
        raise TargetError(f'{name}: {what} must be a list of {{"name", "parameters"}}, got {value!r}')
    found = [as_call(item) for item in value]
    for item, made in zip(value, found, strict=True):
        if made is None:
            raise TargetError(f'{name}: {item!r} in {what} is no call; write {{"name": ..., "parameters": {{...}}}}')
    return [made for made in found if made is not None]


def _calls_made(name: str, parsed: Parsed, meta: Mapping[str, Any]) -> tuple[list[ToolCall] | None, tuple[str, ...]]:
    """(calls of `meta` or else of the completion, flags); no list for a completion that cannot be judged."""
    listed = _listed_calls(name, 'meta["calls"]', meta["calls"]) if meta.get("calls") is not None else None
    found = parse_calls(parsed.text)
    odd = {"non_finite"} if any(_is_odd(c.parameters) for c in listed or found.calls) else set()
    # The model wrote the parameters of listed calls as well: what cannot be judged in them is its own fault.
    if not all(map(_judgeable, listed)) if listed is not None else found.errors:
        return None, ordered({*parsed.flags, *odd, "unparsable"} - _LOOSE)
    if not _says_something(parsed):
        return None, ordered({*parsed.flags, "no_answer"})
    if listed is not None:
        return listed, ordered(set(parsed.flags) - _LOOSE)
    if not found.blocks and parsed.answer is not None and parsed.answer[:1] in ("{", "["):
        made = as_calls(read_json(parsed.answer)) or []
        return made, ordered({*parsed.flags, *(["non_finite"] if any(_is_odd(c.parameters) for c in made) else [])})
    return list(found.calls), ordered((set(parsed.flags) | odd) - _LOOSE)


def _is_odd(value: Any) -> bool:
    """Whether `value` is or holds NaN or an infinity."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, list | tuple):
            waiting += item
        elif isinstance(item, float) and not math.isfinite(item):
            return True
    return False


def _judgeable(made: ToolCall) -> bool:
    try:
        check_json("", made.parameters)
    except TargetError:
        return False
    return True


def _says_something(parsed: Parsed) -> bool:
    """False for a completion without any content outside its reasoning and its tags."""
    return visible_length(_TAG.sub("", outside_reasoning(parsed.text))) > 0


def _required(target: Any, meta: Mapping[str, Any]) -> tuple[list[ToolCall], Box | None]:
    """(required ops, box in pixels of the stored image) of a target of tool.visual."""
    ops = target.get("ops") if isinstance(target, Mapping) else None
    if not isinstance(target, Mapping) or not isinstance(ops, list | tuple):
        raise TargetError(f'tool.visual: the target must be {{"ops": [names], "box": box or null}}, got {target!r}')
    found = [as_call({"name": op}) if isinstance(op, str) else as_call(op) for op in ops]
    required: list[ToolCall] = []
    for op, made in zip(ops, found, strict=True):
        if made is None or not _squeezed(made.name):
            raise TargetError(f'tool.visual: op {op!r} of the target is neither a name nor {{"name", "parameters"}}')
        check_json("tool.visual", made.parameters)
        required += [made] if made not in required else []
    box = target.get("box")
    if box is None:
        return required, None
    try:
        _to_pixels((0.0, 0.0, 1.0, 1.0), meta)
    except CoordError as error:
        raise TargetError(
            f"tool.visual: the regions of calls cannot be compared with the target's box: {error}"
        ) from error
    return required, true_box(box, meta)


def _accuracy(parsed: Parsed, target: Mapping[str, Any], meta: Mapping[str, Any]) -> float | None:
    known = meta.get("accuracy", meta.get("correct"))
    if known is not None:
        if not isinstance(known, int | float) or not 0.0 <= known <= 1.0:
            raise TargetError(f"tool.visual: meta['accuracy'] must lie in [0, 1], got {known!r}")
        return float(known)
    wanted = target.get("answer")
    if wanted is None:
        return None
    names = [wanted] if isinstance(wanted, str | int | float) else wanted
    if not isinstance(names, list | tuple) or not names or not all(isinstance(n, str | int | float) for n in names):
        raise TargetError(
            f"tool.visual: the target's answer must be a text, a number or a list of them, got {wanted!r}"
        )
    check_json("tool.visual", names)
    return float(parsed.answer is not None and scalar_key(parsed.answer.rstrip(".")) in set(map(scalar_key, names)))


def _budget(meta: Mapping[str, Any], option: int | None, required: int) -> int:
    budget = meta.get("budget") if option is None else option
    if budget is None:
        return max(FREE_CALLS, required) if required else 0
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 0:
        raise TargetError(f"tool.visual: budget must be a whole number of at least 0, got {budget!r}")
    return budget


def _squeezed(name: str) -> str:
    """A tool's name as letters and digits; the tools that cut a region out are all called crop."""
    bare = "".join(c for c in name.casefold() if c.isalnum())
    return "crop" if bare in CROP_NAMES else bare


def _is_op(op: ToolCall, made: ToolCall) -> bool:
    """True when the call is of the kind that is required: "rotate90" is also rotate with a parameter of 90."""
    wanted, name = _squeezed(op.name), _squeezed(made.name)
    scalars = [v for v in made.parameters.values() if isinstance(v, str | int | float)]
    if wanted != name and wanted not in {name + _squeezed(_shown(v)) for v in scalars}:
        return False
    return all(
        key.casefold() in BOX_KEYS or (key in made.parameters and _value(key, made.parameters[key], true) == 1.0)
        for key, true in op.parameters.items()
    )


def _shown(value: str | float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _fit(op: ToolCall, made: ToolCall, box: Box | None, meta: Mapping[str, Any]) -> float:
    """1 for the required operation; for a crop with a known box, the IoU of the region."""
    if not _is_op(op, made):
        return 0.0
    if box is None or _squeezed(op.name) != "crop":
        return 1.0
    region = _region(made.parameters, meta)
    return 0.0 if region is None else intersection_over_union(region, box)


def _region(parameters: Mapping[str, Any], meta: Mapping[str, Any]) -> Box | None:
    """The box that a call cuts out, in pixels of the stored image; None where it names no valid one."""
    corners = [parameters.get(key) for key in ("x1", "y1", "x2", "y2")]
    given: Sequence[Any] = [*(parameters[key] for key in parameters if key.casefold() in BOX_KEYS), corners]
    box = next((found for value in given if (found := _as_box(value)) is not None), None)
    if box is None:
        return None
    try:
        return validate_box(_to_pixels(box, meta))
    except InvalidBoxError:
        return None


def _to_pixels(box: Box, meta: Mapping[str, Any]) -> tuple[float, ...]:
    space = str(meta.get("coord_space") or target_space(meta))
    sizes = {"image_size": meta.get("image_size"), "input_size": meta.get("input_size")}
    return convert(box, space, "abs_original", **sizes)
