"""Every task, in every space and output mode: the reference scores full marks, other answers do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from task_rows import CASES, DURATION, IMAGE_SIZE, INPUT_SIZE, OPTIONS, Case, sample_of

from vlrft.config import OutputMode, RewardSpec
from vlrft.coords import SPACES
from vlrft.data.native import read_native
from vlrft.data.problems import DataError, Quarantine
from vlrft.data.synthetic import GENERATORS, build_generator
from vlrft.data.synthetic.base import parse_options, write_scenes
from vlrft.data.tasks import TASKS, build_task
from vlrft.rewards import Judge
from vlrft.rewards.call import find
from vlrft.types import MediaPart, Sample, TextPart

FORMAT = "format.think_answer"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("media")


def _specs(case: Case) -> list[RewardSpec]:
    return [RewardSpec(**spec) for spec in case.rewards] or build_task(case.task).reward_specs()


def _meta(space: str) -> dict[str, Any]:
    return {"coord_space": space, "image_size": list(IMAGE_SIZE), "input_size": list(INPUT_SIZE), "num_tokens": 9}


def _reference(sample: Sample, space: str, mode: OutputMode) -> str:
    return build_task(sample.task).reference(
        sample, space=space, image_size=IMAGE_SIZE, input_size=INPUT_SIZE, output_mode=mode
    )


def _wrapped(answer: str, mode: str, style: str | None) -> str:
    glue = "<glue>[(3.5, 3.6)]</glue>" if style == "glue" else ""
    match mode:
        case "direct":
            return answer
        case "answer_then_think":
            return f"<answer>{answer}</answer><think>so</think>"
    return f"<think>so</think><answer>{answer}</answer>{glue}"


def _named(cases: list[Case]) -> list[Any]:
    return [pytest.param(case, id=f"{case.task}-{case.name}") for case in cases]


def test_every_task_has_a_case() -> None:
    assert {case.task for case in CASES} == set(TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_what_a_task_says_of_itself(name: str) -> None:
    task = build_task(name)
    assert task.name == name
    assert set(task.rewards) == {spec.func for spec in task.reward_specs()}
    assert FORMAT in task.rewards
    for reward in (*task.rewards, task.metric):
        assert callable(find(reward))
    assert (type(task).__module__.rpartition(".")[2], bool(type(task).__doc__)) == (name, True)
    together = [spec.weight for spec in task.reward_specs() if not spec.when]
    limited = [spec.weight for spec in task.reward_specs() if spec.when]
    assert sum(together) + max(limited, default=0.0) == pytest.approx(1.0)


@pytest.mark.parametrize("case", _named(CASES))
def test_the_reference_scores_full_marks_and_others_do_not(case: Case, folder: Path) -> None:
    sample = sample_of(case, folder)
    style = sample.meta.get("answer_style")
    for mode in case.modes:
        judge = Judge(_specs(case), mode)
        # A sandbox run takes its time, and a program has no coordinates.
        for space in SPACES if mode in ("think", "direct") and case.task != "chart_to_code" else ("norm_1000",):
            judge.check(sample, _meta(space))
            right = judge.score(_reference(sample, space, mode), sample, _meta(space))
            assert right.value is not None
            assert right.value > 0.96, (space, mode, right)
            assert right.flags == ()
            applying = [name for name, value in right.parts.items() if value is not None and "/" not in name]
            for name in applying:
                assert (right.parts[name] or 0.0) > 0.95, (space, mode, right)
            for wrong in case.wrong:
                score = judge.score(_wrapped(wrong, mode, style), sample, _meta(space))
                own = [value for name in applying if name != FORMAT and (value := score.parts[name]) is not None]
                assert sum(own) / len(own) <= case.low, (space, mode, wrong, score)
            empty = judge.score("", sample, _meta(space))
            assert all(empty.parts[name] == 0.0 for name in applying if (name, mode) != (FORMAT, "adaptive"))
        judge.close()


@pytest.mark.parametrize("case", _named(CASES))
def test_the_prompt_asks_for_it(case: Case, folder: Path) -> None:
    sample = sample_of(case, folder)
    texts = {}
    for mode in case.modes:
        for space in SPACES:
            parts = build_task(case.task).user_parts(
                sample, space=space, output_mode=mode, template=None, input_size=INPUT_SIZE
            )
            assert [p.index for p in parts if isinstance(p, MediaPart)] == list(range(len(sample.media)))
            texts[mode, space] = "".join(part.text for part in parts if isinstance(part, TextPart))
            assert "What is asked" in texts[mode, space]
            assert ("<answer>" in texts[mode, space]) == (mode != "direct")
            assert not any(mark in texts[mode, space] for mark in ("{{", "{%", "{#", "  ", "\n\n", " ,", ". ."))
    assert len(set(texts.values())) >= len(case.modes)


def _prompt(name: str, folder: Path, space: str = "norm_1000", **meta: Any) -> str:
    case = next(case for case in CASES if f"{case.task}-{case.name}" == name)
    row = {**case.row, "meta": {**case.row["meta"], **meta}}
    sample = sample_of(Case(task=case.task, name=case.name, row=row, media=case.media, wrong=()), folder)
    parts = build_task(case.task).user_parts(
        sample, space=space, output_mode="direct", template=None, input_size=INPUT_SIZE
    )
    return "".join(part.text for part in parts if isinstance(part, TextPart))


def test_coordinates_are_asked_for_in_the_models_space(folder: Path) -> None:
    with_coordinates = ("grounding-json", "detection-open", "reasoning_grounding-points", "gui_grounding-box",
                        "gui_action-click", "tracking-null")  # fmt: skip
    for name in with_coordinates:
        assert "from 0 to 1000" in _prompt(name, folder)
        assert "in pixels of a 448x336" in _prompt(name, folder, "abs_input")
        assert "in pixels of a 640x480" in _prompt(name, folder, "abs_original")
    assert "across the frame" in _prompt("tracking-null", folder)
    # The box that the prompt gives away is in the same space: 64/640 of 1000 and so on.
    assert "In frame 0 it is at [100, 100, 500, 500]." in _prompt("tracking-null", folder)
    assert "In frame 0 it is at [45, 34, 224, 168]." in _prompt("tracking-null", folder, "abs_input")
    assert "In frame 5 it is at" in _prompt("tracking-null", folder, first_frame=5)
    assert "seconds 0.00, 2.00" in _prompt("tracking-unit", folder)


def test_times_are_asked_for_in_the_rows_unit(folder: Path) -> None:
    assert '"start to end" in seconds' in _prompt("temporal_grounding-seconds", folder)
    assert "fractions of the video's length" in _prompt("temporal_grounding-relative", folder)
    assert "[start, end] in seconds" in _prompt("temporal_grounding-json", folder)
    assert "minutes and seconds" in _prompt("temporal_grounding-clock", folder)


def test_options_labels_history_and_units_are_told(folder: Path) -> None:
    assert "What is asked\nA. a red kite\nB. Vitamin A\n" in _prompt("choice-letter", folder)
    lettered = [f"({letter}) {text}" for letter, text in zip("ABCD", OPTIONS, strict=True)]
    assert "What is asked\nA. a red kite\nB. Vitamin A\n" in _prompt("choice-letter", folder, options=lettered)
    assert "one of: cat, hot dog, bird" in _prompt("detection-closed", folder)
    assert "Actions so far: click" in _prompt("gui_action-back", folder)
    assert "the names are press_back, wait;" in _prompt("gui_action-back", folder, actions=["press_back", "wait"])
    assert "in cm" in _prompt("math-number", folder)
    assert "yes or no" in _prompt("medical_qa-yesno", folder)
    assert "likeliest first" in _prompt("medical_qa-ranked", folder)


def test_options_that_the_question_names_are_not_repeated(folder: Path) -> None:
    case = next(case for case in CASES if case.name == "letter")
    question = "Which? A. a red kite B. Vitamin A C. the sea D. none of these"
    sample = sample_of(Case(task="choice", name="x", row={**case.row, "prompt": question}, media="", wrong=()), folder)
    (part,) = build_task("choice").user_parts(
        sample, space="norm_1000", output_mode="direct", template="{{ instruction }}", input_size=None
    )
    assert part == TextPart(text=question)


@pytest.mark.parametrize(
    ("name", "space", "answer"),
    [
        ("detection-open", "norm_1000",
         '[{"bbox_2d": [100, 100, 500, 500], "label": "cat"}, {"bbox_2d": [625, 208, 781, 625], "label": "hot dog"}]'),
        ("detection-classless", "norm_1", '[{"bbox_2d": [0.100, 0.100, 0.500, 0.500]}]'),
        ("gui_grounding-box", "abs_input", '{"point_2d": [134, 101]}'),
        ("gui_grounding-icon", "abs_original", '{"point_2d": [100.5, 100.5]}'),
        ("gui_action-point", "norm_1000", '{"action": "long_press", "point": [100, 100]}'),
        ("gui_action-type", "norm_1000", '{"action": "type", "text": "say \\"hi\\", ä"}'),
        ("temporal_grounding-seconds", "norm_1", "1.25 to 3.50"),
        ("temporal_grounding-relative", "norm_1", "0.3125 to 0.8750"),
        ("temporal_grounding-clock", "norm_1", "00:01.00 to 00:03.56"),
        ("temporal_grounding-published", "norm_1", "1.00 to 4.00"),
        ("grounded_video_qa-brackets", "norm_1", "(B) [[0.50, 1.00], [2.00, 3.25]]"),
        ("tracking-null", "norm_1000",
         "[[100, 100, 500, 500], [125, 104, 516, 521], null, [156, 125, 547, 542]]"),
        ("medical_qa-ranked", "norm_1", "1. asthma\n2. flu\n3. COPD"),
        ("spatial_transformation-calls", "norm_1", "move(1, 'left')\npaint(2, 'it\\'s red, (dark)')"),
        ("spatial_transformation-odd", "norm_1", '[["set", "a, b", 3]]'),
    ],
)  # fmt: skip
def test_how_references_are_written(name: str, space: str, answer: str, folder: Path) -> None:
    case = next(case for case in CASES if f"{case.task}-{case.name}" == name)
    assert _reference(sample_of(case, folder), space, "direct") == answer


def test_glue_is_a_block_of_its_own_and_for_thinking_only(folder: Path) -> None:
    sample = sample_of(next(case for case in CASES if case.name == "glue"), folder)
    text = _reference(sample, "norm_1000", "think")
    assert text.endswith("</think><answer>B</answer><glue>[(0.50, 1.00), (2.00, 3.25)]</glue>")
    with pytest.raises(DataError, match=r"sample glue: .*'glue' is for data.output_mode think, not 'direct'"):
        _reference(sample, "norm_1000", "direct")
    with pytest.raises(DataError, match="use the style 'brackets'"):
        build_task(sample.task).user_parts(
            sample, space="norm_1000", output_mode="adaptive", template=None, input_size=None
        )


def test_what_a_sample_knows_of_its_media(folder: Path) -> None:
    by_name = {f"{case.task}-{case.name}": case for case in CASES}
    video = sample_of(by_name["temporal_grounding-seconds"], folder)
    assert (video.media[0].kind, len(video.media[0].frames), video.media[0].fps) == ("video", 8, 2.0)
    assert (video.meta["duration"], video.meta["image_size"]) == (DURATION, list(IMAGE_SIZE))
    assert sample_of(by_name["choice-letter"], folder).meta["image_size"] == list(IMAGE_SIZE)
    assert "image_size" not in sample_of(by_name["math-latex"], folder).meta


@pytest.mark.parametrize("mode", get_args(OutputMode))
def test_thinking_of_the_row_is_taught(mode: OutputMode, folder: Path) -> None:
    case = next(case for case in CASES if case.task == "counting")
    row = {**case.row, "meta": {"think": "One by one."}}
    sample = sample_of(Case(task="counting", name="think", row=row, media="image", wrong=()), folder)
    assert ("<think>One by one.</think>" in _reference(sample, "norm_1000", mode)) == (mode != "direct")


@pytest.mark.parametrize("name", GENERATORS)
def test_generated_rows_are_rows_of_their_task(name: str, tmp_path: Path) -> None:
    if name == "charts":
        pytest.importorskip("matplotlib")
    generator = build_generator(name)
    scenes = write_scenes(generator, parse_options(generator.options, {"n": 2}, "train"), tmp_path)
    for where, row in read_native(scenes / "rows.jsonl", split=None, images=scenes, quarantine=Quarantine()):
        task = build_task(row["task"])
        sample = task.to_sample(row, where=where)
        width, height = sample.meta["image_size"]
        meta = {**_meta("norm_1000"), "image_size": [width, height]}
        text = task.reference(
            sample, space="norm_1000", image_size=(width, height), input_size=INPUT_SIZE, output_mode="think"
        )
        judge = Judge(task.reward_specs())
        judge.check(sample, meta)
        assert (judge.score(text, sample, meta).value or 0.0) > 0.95
        judge.close()
