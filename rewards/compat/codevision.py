"""CodeVision: image tools as required, and what surplus ones cost.

Target: `{"ops": [names], "box": [x1, y1, x2, y2] or null, "answer": text}`, or the true answer alone with the rest in
meta. Ops are those that undo what was done to the image: rotate90, rotate180, rotate270, flip_horizontal,
flip_vertical, crop.
Meta: the peer's `required_transforms` and `gt_bbox` where the target does not have them (transforms are taken as the
required ones, not inverted again); `calls`, a list of names or `{"name", "parameters"}`, else they are read from the
completion's `<tool_call>` blocks: a call's name, or what its `code` does; `accuracy` of the answer.
Answer: the last answer block, else what follows an answer tag left open, else the last line.
Guards: the bonus for operations that nobody asked for is kept, and the penalty has no floor: use tool.visual.
Source: CodeVision (arXiv 2512.03746), released weights; its judge model is not asked, so that an answer which the rules
do not accept is wrong unless `accuracy` says otherwise. Its group term has weight 0 there and is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from vlrft.coords import Box
from vlrft.parse import Parsed
from vlrft.parse.calls import parse_calls
from vlrft.rewards.base import TargetError
from vlrft.rewards.box import intersection_over_union
from vlrft.rewards.compat.answers import unwrap
from vlrft.rewards.compat.letters import is_article
from vlrft.rewards.compat.places import read_upright
from vlrft.types import Score

FREE_CALLS = 2
CROP = "crop"

_FORMAT, _EXACT, _EMERGENT, _PENALTY = 0.1, 0.1, 0.2, 0.5
_LUCKY = 0.1
_TOLERANCE = 1e-4
_DETAILS = ("angle", "degrees", "degree", "direction", "axis")
"""Parameters that say which rotation or flip is meant."""
_LONGEST = 10_000
_ANSWER_TAG = re.compile(r"</?answer>")
_RESPONSE = re.compile(r"<tool_response>(?:(?!<tool_response>).)*?</tool_response>", re.DOTALL)
_THINK = re.compile(r"<think>|</think>")
_LETTER = re.compile(r"(?<![A-Za-z0-9])([A-D])(?![A-Za-z0-9])")
_NUMBER = re.compile(
    r"[-+]?(?:\d{1,30}(?:\.\d{1,30})?|\.\d{1,30})(?:[eE][-+]?\d{1,3}(?!\d)|\s?/\s?\d{1,30})?", re.ASCII
)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))", re.ASCII)
_PIL_ROTATED = re.compile(r"\.rotate\(\s*(-?\d{1,4})|Image\.(?:Transpose\.)?ROTATE_(\d{2,3})")
_CV_ROTATED = re.compile(r"cv2\.ROTATE_(90_CLOCKWISE|180|90_COUNTERCLOCKWISE)")
_NP_ROTATED = re.compile(r"np\.rot90\(\s*[\w.]{1,40}\s*(?:,\s*(?:k\s*=\s*)?(-?\d))?")
_FLIPPED = {
    "flipvertical": re.compile(
        r"FLIP_TOP_BOTTOM|ImageOps\.flip\(|np\.flipud\(|(?:cv2|np)\.flip\(\s*[\w.]{1,40}\s*,\s*(?:axis\s*=\s*)?0"
        r"|cv2\.flip\(\s*[\w.]{1,40}\s*,\s*-1"
    ),
    "fliphorizontal": re.compile(
        r"FLIP_LEFT_RIGHT|ImageOps\.mirror\(|np\.fliplr\(|(?:cv2|np)\.flip\(\s*[\w.]{1,40}\s*,\s*(?:axis\s*=\s*)?-?1"
    ),
}
"""OpenCV's code -1 flips both ways."""
_CLOCKWISE = {"90_CLOCKWISE": 270, "180": 180, "90_COUNTERCLOCKWISE": 90}
_CROPPED = re.compile(r"\.crop\(\s*[(\[]([^()\[\]]{3,120})[)\]]")
_SLICED = re.compile(r"\w\[\s*(\d{1,6})\s*:\s*(\d{1,6})\s*,\s*(\d{1,6})\s*:\s*(\d{1,6})\s*[\],]")
_OTHER = re.compile(r"\.(resize|enhance|filter|convert|equalize|autocontrast|threshold|GaussianBlur|Canny)\(")


@dataclass(frozen=True, slots=True)
class _Task:
    ops: frozenset[str]
    box: Box | None
    answer: str | None


@dataclass(frozen=True, slots=True)
class _Use:
    calls: int
    ops: frozenset[str]
    boxes: tuple[Box, ...]


def total(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """The whole reward of a trajectory.

    Where a crop was required and `mandatory` is below 0.1, accuracy is multiplied by it. Usage: calls beyond
    max(2, #required); spurious: rotations and flips used when none was required. `exact` compares the core operations
    (rotations, flips, crop), so it is paid too where none was required and none used. The spec does not say what the
    crop region is measured in: pixels of the stored image here.

    Formula: accuracy + 0.1 format + mandatory + 0.1 exact + 0.2 emergent - 0.5 (usage + spurious)
    Range: unbounded below, at most 2.4
    Example: score("compat.codevision.total", "<think>a</think><answer>B</answer>", {"ops": [], "answer": "C"}) -> 0.2
    """
    task, use = _task("compat.codevision.total", target, meta), _use(parsed, meta)
    right = _accuracy(parsed, task, meta)
    share = _mandatory(task, use)
    paid = right * share if CROP in task.ops and share < _LUCKY else right
    core, other = frozenset(filter(_is_core, use.ops)), [op for op in use.ops if not _is_core(op)]
    turned = frozenset(filter(_is_turn, use.ops))
    surplus = max(0, use.calls - max(FREE_CALLS, len(task.ops)))
    spurious = len(turned) if not any(map(_is_turn, task.ops)) else 0
    value = paid + _FORMAT * _has_format(parsed.text) + share
    value += _EXACT * (core == frozenset(filter(_is_core, task.ops)))
    value += _EMERGENT * (right >= 0.5 and bool(other))
    return Score(value=value - _PENALTY * (surplus + spurious))


def mandatory(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """Share of the required operations that were used; a crop counts by its best IoU with the true box.

    Where nothing is required the value is 0: there is nothing to earn (the spec leaves it open).

    Formula: min(1, (#required without crop that were used + best crop IoU) / #required)
    Range: [0, 1]
    Example: score("compat.codevision.mandatory", "", {"ops": ["rotate90", "crop"]}, {"calls": ["rotate90"]}) -> 0.5
    """
    return Score(value=_mandatory(_task("compat.codevision.mandatory", target, meta), _use(parsed, meta)))


def _mandatory(task: _Task, use: _Use) -> float:
    if not task.ops:
        return 0.0
    hits = float(len((task.ops - {CROP}) & use.ops))
    if CROP in task.ops:
        if task.box is not None:
            hits += max((intersection_over_union(box, task.box) for box in use.boxes), default=0.0)
        else:
            hits += CROP in use.ops
    return min(1.0, hits / len(task.ops))


def _task(what: str, target: Any, meta: Mapping[str, Any]) -> _Task:
    given = target if isinstance(target, Mapping) else {"answer": target}
    ops = given.get("ops", meta.get("required_transforms"))
    box = given.get("box", meta.get("gt_bbox"))
    if not isinstance(ops, list | tuple) or not all(isinstance(op, str | dict) for op in ops):
        raise TargetError(f'{what} needs a list of operations in target["ops"] or meta["required_transforms"]: {ops!r}')
    region = read_upright(box)
    if box is not None and region is None:
        raise TargetError(f"{what}: the box must be [x1, y1, x2, y2] with an area, got {box!r}")
    answer = unwrap(given.get("answer"))
    return _Task(frozenset(map(_op, ops)), region, None if answer is None else str(answer).strip())


def _op(given: Any) -> str:
    """One name per operation, whatever its spelling: rotate90, fliphorizontal, flipvertical, crop, or another."""
    name, parameters = (
        (given.get("name", ""), given.get("parameters") or {}) if isinstance(given, dict) else (given, {})
    )
    bare = re.sub(r"[^a-z0-9-]", "", str(name).lower()).replace("rotation", "rotate")
    detail = next((parameters[k] for k in _DETAILS if k in parameters), "")
    if bare.startswith("rotate"):
        angle = re.search(r"-?\d{1,4}", f"{bare} {detail}")
        return f"rotate{int(angle.group()) % 360}" if angle else "rotate"
    if "flip" in bare or bare == "mirror":
        words = f"{bare} {detail}".lower()
        upright = bare.startswith(("vflip", "flipud")) or any(word in words for word in ("vert", "top", "upside"))
        return "flipvertical" if upright else "fliphorizontal"
    return CROP if CROP in bare or "zoom" in bare else bare


def _is_turn(op: str) -> bool:
    return op.startswith(("rotate", "flip"))


def _is_core(op: str) -> bool:
    return op == CROP or _is_turn(op)


def _use(parsed: Parsed, meta: Mapping[str, Any]) -> _Use:
    made: Sequence[Any] | None = meta.get("calls")
    if made is None:
        written = parse_calls(parsed.text, last_close=False).calls
        made = [{"name": call.name, "parameters": call.parameters} for call in written]
    if not isinstance(made, list | tuple) or not all(isinstance(call, str | dict) for call in made):
        raise TargetError(f'meta["calls"] must be a list of names or of {{"name", "parameters"}}, got {made!r}')
    ops: set[str] = set()
    boxes: list[Box] = []
    for call in made:
        parameters = call.get("parameters") or call.get("arguments") or {} if isinstance(call, dict) else {}
        code = parameters.get("code") if isinstance(parameters, dict) else None
        if isinstance(code, str):
            found, regions = _in_code(code[:_LONGEST])
            ops |= found
            boxes += regions
            continue
        ops.add(_op(call if isinstance(call, str) else {"name": call.get("name"), "parameters": parameters}))
        for value in parameters.values() if isinstance(parameters, dict) else ():
            region = read_upright(value)
            boxes += [region] if region is not None else []
    return _Use(len(made), frozenset(ops), tuple(boxes))


def _in_code(code: str) -> tuple[set[str], list[Box]]:
    """(operations, crop regions) of a call's program. Angles are counter-clockwise, as Pillow and NumPy have them."""
    ops = {f"rotate{int(a or b) % 360}" for a, b in _PIL_ROTATED.findall(code)}
    ops |= {f"rotate{_CLOCKWISE[turn]}" for turn in _CV_ROTATED.findall(code)}
    ops |= {f"rotate{90 * int(turns or 1) % 360}" for turns in _NP_ROTATED.findall(code)}
    ops |= {op for op, pattern in _FLIPPED.items() if pattern.search(code)}
    ops |= {name.lower() for name in _OTHER.findall(code)}
    regions = [_floats(written) for written in _CROPPED.findall(code)]
    regions += [[float(left), float(top), float(right), float(bottom)]
                for top, bottom, left, right in _SLICED.findall(code)]  # fmt: skip
    ops |= {CROP} if ".crop(" in code or _SLICED.search(code) else set()
    boxes = (read_upright(region) for region in regions)
    return ops, [box for box in boxes if box is not None]


def _floats(written: str) -> list[float] | None:
    """Numbers between commas; None where a part is no number."""
    try:
        return [float(part) for part in written.split(",")]
    except ValueError:
        return None


def _accuracy(parsed: Parsed, task: _Task, meta: Mapping[str, Any]) -> float:
    known = meta.get("accuracy", meta.get("correct"))
    if known is not None:
        if not isinstance(known, int | float) or not 0.0 <= known <= 1.0:
            raise TargetError(f"meta['accuracy'] must lie in [0, 1], got {known!r}")
        return float(known)
    if task.answer is None:
        raise TargetError('compat.codevision.total needs target["answer"] or meta["accuracy"]')
    answer = _answer(parsed.text)
    if answer == task.answer or (len(task.answer) > 1 and answer.lower() == task.answer.lower()):
        return float(bool(answer))
    answer = answer[-_LONGEST:]
    if re.fullmatch(r"[A-D]", task.answer):
        letters = [m.group() for m in _LETTER.finditer(answer) if not is_article(answer, m.start())]
        return float(bool(letters) and letters[-1] == task.answer)
    wanted, whole = _number(task.answer), _number(answer)
    if wanted is not None and whole == wanted:
        return 1.0
    numbers = _NUMBER.findall(_THOUSANDS.sub("", answer))
    found = _number(numbers[-1]) if numbers else None
    return float(wanted is not None and found is not None and abs(found - wanted) <= _TOLERANCE)


def _number(text: str) -> Fraction | None:
    """A plain number or fraction; None for anything else."""
    bare = _THOUSANDS.sub("", text.strip())
    try:
        return Fraction(bare.replace(" ", "")) if _NUMBER.fullmatch(bare) else None
    except (ValueError, ZeroDivisionError):
        return None


def _answer(text: str) -> str:
    tags = list(_ANSWER_TAG.finditer(text))
    for opened, closed in zip(tags[-2::-1], tags[:0:-1], strict=True):
        if opened.group() == "<answer>" and closed.group() == "</answer>":
            return text[opened.end() : closed.start()].strip()
    if tags and tags[-1].group() == "<answer>":
        return text[tags[-1].end() :].strip()
    return text.strip().rpartition("\n")[2].strip()


def _has_format(text: str) -> bool:
    """Starts with a think block, as many closed as opened; one answer, at the end and in no think block."""
    bare = _RESPONSE.sub("", text).strip()
    opened, closed = bare.count("<think>"), bare.count("</think>")
    if not bare.startswith("<think>") or opened != closed or opened < 1:
        return False
    if not bare.count("<answer>") == bare.count("</answer>") == 1 or not bare.endswith("</answer>"):
        return False
    marks = _THINK.findall(bare[: bare.index("<answer>")])
    return marks.count("<think>") == marks.count("</think>") == opened
