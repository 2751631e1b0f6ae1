"""The grounding task: prompts for every coordinate space and output mode, and reference answers that are right."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlrft.config import OutputMode
from vlrft.coords import SPACES, CoordError, convert
from vlrft.data.problems import DataError
from vlrft.data.tasks import build_task
from vlrft.data.tasks.grounding import format_box
from vlrft.parse import parse, parse_boxes
from vlrft.types import MediaPart, MediaRef, Sample, TextPart

IMAGE_SIZE, INPUT_SIZE = (640, 480), (448, 336)
TASK = build_task("grounding")


def _sample(**changes: Any) -> Sample:
    fields: dict[str, Any] = {
        "id": "s",
        "task": "grounding",
        "parts": (MediaPart(index=0), TextPart(text="the dog")),
        "media": (MediaRef(path="/x.png"),),
        "target": [64.0, 48.0, 320.0, 240.0],
        "meta": {"image_size": [640, 480]},
    }
    return Sample(**{**fields, **changes})


def _reference(sample: Sample, space: str, mode: OutputMode) -> str:
    return TASK.reference(sample, space=space, image_size=IMAGE_SIZE, input_size=INPUT_SIZE, output_mode=mode)


def _text(sample: Sample, space: str = "norm_1000", mode: OutputMode = "think", template: str | None = None) -> str:
    parts = TASK.user_parts(sample, space=space, output_mode=mode, template=template, input_size=INPUT_SIZE)
    return "".join(part.text if isinstance(part, TextPart) else "[img]" for part in parts)


@pytest.mark.parametrize(
    ("space", "answer"),
    [
        ("abs_original", '{"bbox_2d": [64, 48, 320, 240]}'),
        ("abs_input", '{"bbox_2d": [45, 34, 224, 168]}'),
        ("norm_1000", '{"bbox_2d": [100, 100, 500, 500]}'),
        ("norm_999", '{"bbox_2d": [100, 100, 500, 500]}'),
        ("norm_1", '{"bbox_2d": [0.100, 0.100, 0.500, 0.500]}'),
    ],
)
def test_reference_numbers(space: str, answer: str) -> None:
    assert _reference(_sample(), space, "direct") == answer


def test_plain_style() -> None:
    sample = _sample(meta={"answer_style": "plain"})
    assert _reference(sample, "norm_1000", "direct") == "100 100 500 500"
    assert "x1 y1 x2 y2" in _text(sample)
    assert "JSON" not in _text(sample)
    assert '{"bbox_2d": [x1, y1, x2, y2]}' in _text(_sample())


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("mode", get_args(OutputMode))
@pytest.mark.parametrize("style", ["json", "plain"])
def test_reference_is_read_back_as_the_target(space: str, mode: OutputMode, style: str) -> None:
    sample = _sample(meta={"answer_style": style})
    parsed = parse(_reference(sample, space, mode), mode)
    assert parsed.answer is not None
    (found,) = parse_boxes(parsed.answer)
    back = convert(found.box, space, "abs_original", image_size=IMAGE_SIZE, input_size=INPUT_SIZE)
    assert back == pytest.approx(sample.target, abs=1.0)


def test_thinking_comes_from_the_row() -> None:
    own = _sample(meta={"think": "It is left."})
    answer = '<answer>{"bbox_2d": [100, 100, 500, 500]}</answer>'
    assert _reference(own, "norm_1000", "think") == "<think>It is left.</think>" + answer
    assert _reference(own, "norm_1000", "answer_then_think") == answer + "<think>It is left.</think>"
    assert _reference(own, "norm_1000", "adaptive") == "<think>It is left.</think>" + answer
    assert _reference(_sample(), "norm_1000", "adaptive") == answer


@given(
    corner=st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)),
    size=st.tuples(st.floats(1e-6, 1), st.floats(1e-6, 1)),
    space=st.sampled_from(["norm_1", "norm_1000"]),
)
def test_written_box_never_closes(corner: tuple[float, float], size: tuple[float, float], space: str) -> None:
    scale = 1.0 if space == "norm_1" else 1000.0
    box = [corner[0], corner[1], min(corner[0] + size[0], 1.0), min(corner[1] + size[1], 1.0)]
    written = [float(x) for x in format_box([v * scale for v in box], space=space, style="plain").split()]
    assert written[0] < written[2] <= scale
    assert written[1] < written[3] <= scale
    assert written == pytest.approx([v * scale for v in box], abs=1.001 * scale / 1000)


def test_prompt_states_space_size_and_mode() -> None:
    assert "in pixels of a 448x336 image" in _text(_sample(), "abs_input")
    assert "in pixels of a 640x480 image" in _text(_sample(), "abs_original")
    assert "from 0 to 1000" in _text(_sample(), "norm_1000")
    texts = {_text(_sample(), "norm_1", mode) for mode in get_args(OutputMode)}
    assert len(texts) == len(get_args(OutputMode))
    assert "<answer>" not in _text(_sample(), "norm_1", "direct")
    with pytest.raises(CoordError, match="unknown coordinate space"):
        _text(_sample(), "pixels")


def test_own_template_keeps_media_in_place() -> None:
    assert _text(_sample(), template="{{ question }}|{{ space }}") == "[img]the dog|norm_1000"
    inner = _sample(parts=(TextPart(text="In "), MediaPart(index=0), TextPart(text=" the <image> {{ dog }}")))
    assert _text(inner, template="Q: {{ question }}") == "Q: In [img] the <image> {{ dog }}"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ question }} {{ hint }}", "'hint' is undefined.*question, format_hint and space"),
        ("{{ question", "data.prompt_template fails"),
        ("find it", "loses or repeats media"),
        ("{{ question }}{{ question }}", "loses or repeats media"),
    ],
)
def test_bad_template(template: str, says: str) -> None:
    sample = _sample(parts=(TextPart(text="In "), MediaPart(index=0)))
    with pytest.raises(DataError, match=says):
        _text(sample, template=template)
