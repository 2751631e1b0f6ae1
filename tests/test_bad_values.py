"""Rows with values of a wrong type or size: each is a bad row that names file, row and what is wrong, never a crash."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from task_rows import CASES, IMAGE_SIZE, INPUT_SIZE, media_of

from vlrft.config import DataConfig, SourceConfig
from vlrft.data.convert import Request, convert
from vlrft.data.forms import read_form
from vlrft.data.layouts import LAYOUTS, to_native
from vlrft.data.problems import DataError, Quarantine, SampleError, of_row
from vlrft.data.sources import Loaded, load_samples
from vlrft.data.tasks import TASKS, build_task

Row = dict[str, Any]
LONG = "9" * 5000
"""Digits of an integer that Python refuses to read."""
HUGE = 10**400
JUNK = (
    None, 3, -1, 0, 1.5, float("nan"), HUGE, True, "", "x", [], {}, [3], [[]], {"a": 1}, [None], ["a", "b"], "[1",
    "\ud800", LONG, [HUGE, 0], "\0",
)  # fmt: skip
EMPTY_META = dict.fromkeys(
    ("unit", "answer_style", "think", "duration", "labels", "options", "given_frames", "timestamps", "num_options",
     "flags", "spans", "history", "synonyms", "mask", "points")
)  # fmt: skip


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, item in items:
        yield from _paths(item, (*path, key))


def _put(row: Row, path: tuple[Any, ...], value: Any) -> Row:
    made = copy.deepcopy(row)
    at: Any = made
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return made


def _load(folder: Path, text: str, task: str, name: str = "rows.jsonl", **source: Any) -> Loaded:
    (folder / name).write_text(text, encoding="utf-8")
    data = DataConfig(root=str(folder), task=task, on_bad_sample="skip")
    return load_samples(data, SourceConfig(path=name, **source), role="train")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rows")


@pytest.mark.parametrize("task", list(TASKS))
def test_one_wrong_value_spoils_one_row(task: str, folder: Path) -> None:
    case = next(case for case in CASES if case.task == task)
    good = {**case.row, **media_of(folder, case.media), "width": None, "height": None}
    good = {"boxes": {"space": "abs_original"}, **good, "meta": {**EMPTY_META, **case.row["meta"]}, "task": task}
    paths = list(_paths(good))

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(path=st.sampled_from(paths), value=st.sampled_from(JUNK), native=st.booleans())
    def spoil(path: tuple[Any, ...], value: Any, native: bool) -> None:
        row = _put(good, path, value)
        text = json.dumps(row).replace(json.dumps(LONG), LONG if native else json.dumps(LONG))
        loaded = _load(folder, f"{text}\n{json.dumps({**good, 'id': 'good'})}\n", task, format="native")
        assert [s.id for s in loaded.samples if s.id == "good"] == ["good"]
        assert len(loaded.samples) + len(loaded.skipped) == 2
        assert all("rows.jsonl:1" in item.where and item.reason for item in loaded.skipped)
        for sample in loaded.samples:
            read = build_task(sample.task)
            with contextlib.suppress(DataError):
                sizes: Row = {"space": "norm_1000", "input_size": INPUT_SIZE, "output_mode": "think"}
                read.reference(sample, image_size=IMAGE_SIZE, **sizes)
                read.user_parts(sample, template=None, **sizes)

    spoil()


LAYOUT_ROWS: dict[str, Row] = {
    "trl": {"prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "q"}]}],
            "images": ["a"], "solution": "<answer>[1,2,3,4]</answer>"},
    "r1v": {"image": "a", "problem": "q", "solution": "[1,2,3,4]", "problem_type": "numerical", "path": None},
    "easyr1": {"problem": "<image>q", "images": ["a"], "answer": "[1,2,3,4]"},
    "verl": {"data_source": "x", "prompt": [{"role": "user", "content": "<image>q"}], "images": [{"image": "a"}],
             "reward_model": {"style": "rule", "ground_truth": "[1,2,3,4]"}, "extra_info": {"id": "1"}},
    "sharegpt": {"conversations": [{"from": "human", "value": "<image>q"}, {"from": "gpt", "value": "[1,2,3,4]"}],
                 "image": "a"},
    "ms-swift": {"messages": [{"role": "user", "content": "<image>the <ref-object>"},
                              {"role": "assistant", "content": "<bbox>"}], "images": ["a"],
                 "objects": {"ref": ["c"], "bbox": [[1, 2, 3, 4]], "bbox_type": "real", "image_id": [0]}},
    "openrlhf": {"prompt": "<image>q", "images": ["a"], "label": "[1,2,3,4]"},
}  # fmt: skip


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_one_wrong_value_in_a_row_of_another_layout(layout: str) -> None:
    read = 0
    for path in _paths(LAYOUT_ROWS[layout]):
        for value in (*JUNK, b"x"):
            row = _put(LAYOUT_ROWS[layout], path, value)
            try:
                read += "prompt" in to_native(layout, row, where="rows.jsonl:4")
            except SampleError as error:
                assert str(error).startswith("rows.jsonl:4: ")  # noqa: PT017 - many rows are good ones
    assert read > 0


@pytest.mark.parametrize(
    ("task", "changes", "reason"),
    [
        ("grounding", {"videos": 3}, "`videos` is 3; write a list"),
        ("grounding", {"answer": None, "boxes": {"boxes": 3}}, "`boxes.boxes` is 3; list one box"),
        ("grounding", {"answer": [1, 2, 3, HUGE]}, "a number too large"),
        ("grounding", {"width": "640", "height": "480"}, "`width` is '640'; write a number of pixels"),
        ("grounding", {"answer": LONG}, "is not a box"),
        ("grounding", {"task": 3}, "`task` is 3; write the name of a task"),
        ("detection", {"answer": LONG}, "is not valid JSON"),
        ("medical_qa", {"meta": {"question_type": "open", "labels": 3}}, "meta.labels is 3; list the class names"),
        ("counting", {"answer": HUGE}, "is not a finite number"),
        ("temporal_grounding", {"meta": {"duration": HUGE}}, "meta.duration is 1000"),
    ],
)
def test_what_is_wrong_is_said(task: str, changes: Row, reason: str, folder: Path) -> None:
    case = next(case for case in CASES if case.task == task)
    row = {**case.row, **media_of(folder, case.media), **changes}
    good = {**case.row, **media_of(folder, case.media), "id": "good"}
    loaded = _load(folder, f"{json.dumps(row)}\n{json.dumps(good)}\n", task, format="native")
    [skipped] = loaded.skipped
    assert skipped.where.endswith("rows.jsonl:1")
    assert reason in skipped.reason


def test_an_integer_of_5000_digits_is_one_bad_line(folder: Path) -> None:
    good = '{"id": "a", "prompt": "q", "answer": "4"}'
    loaded = _load(folder, good.replace('"4"', LONG) + f"\n{good}\n", "math", format="native")
    assert [(s.id, Path(loaded.skipped[0].where).name) for s in loaded.samples] == [("a", "rows.jsonl:1")]
    assert "is not valid JSON (Exceeds the limit" in loaded.skipped[0].reason


PUBLISHED: list[tuple[str, str, Any]] = [
    ("coco", "instances.json", {
        "images": [{"id": 1, "file_name": "1.png", "width": 40, "height": 30}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "iscrowd": 0}],
        "categories": [{"id": 1, "name": "cat"}],
    }),
    ("lisa", "a.json", {"text": ["q"], "is_sentence": False, "shapes": [{"label": "target", "points": [[1, 1], [9, 1],
                        [9, 9]]}]}),
    ("activitynet", "val.json", {"v": {"duration": 9.0, "timestamps": [[1, 2]], "sentences": ["he runs"]}}),
    ("vqa-rad", "a.json", [{"qid": 1, "image_name": "1.png", "question": "Where?", "answer": "lung",
                            "answer_type": "OPEN", "phrase_type": "freeform"}]),
    ("video-r1", "train.json", [{"problem_id": 1, "problem": "How long?", "data_type": "video", "options": [],
                                 "problem_type": "numerical", "solution": "<answer>12.5</answer>", "path": "v.mp4"}]),
    ("gui-r1", "train.json", [{"image": "1.png", "gt_bbox": [0.1, 0.2], "instruction": "Go", "gt_action": "click",
                               "gt_input_text": "no input text", "history": "None", "task_type": "high"}]),
    ("screenspot", "a.json", [{"img_filename": "1.png", "bbox": [1, 2, 9, 9], "instruction": "go", "data_type": "icon",
                               "data_source": "ios"}]),
    ("geo170k", "qa.json", [{"image": "1.png", "conversations": [{"from": "human", "value": "<image>\nq?\nA. 1"},
                             {"from": "gpt", "value": "Answer:A"}]}]),
]  # fmt: skip


@pytest.mark.parametrize(("form", "file", "content"), PUBLISHED, ids=[case[0] for case in PUBLISHED])
def test_one_wrong_value_in_a_published_file(form: str, file: str, content: Any, tmp_path: Path) -> None:
    """Nothing but DataError comes of it, with the name of the file."""
    for name in ("1.png", "a.jpg"):
        Image.new("RGB", (40, 30)).save(tmp_path / name)
    path = tmp_path / file
    for place in _paths(content):
        for value in JUNK:
            path.write_text(json.dumps(_put(content, place, value)), encoding="utf-8")
            quarantine = Quarantine(policy="skip")
            try:
                source = tmp_path if form == "lisa" else path
                list(
                    read_form(form, source, split=None, images=None, quarantine=quarantine, options={}, what="options")
                )
            except DataError as error:
                assert file in str(error)  # noqa: PT017 - most values spoil a row, not the file
            assert all(file in item.where for item in quarantine.skipped)


def test_a_task_of_the_users_own_that_fails_on_a_row(folder: Path) -> None:
    (folder / "own.py").write_text(
        "from vlrft.data.tasks.open_qa import OpenQA\n"
        "class Halved(OpenQA):\n"
        "    name = 'halved'\n"
        "    def read_target(self, fields):\n"
        "        return str(fields.row['answer'] / 2)\n"
    )
    rows = [{"id": str(i), "prompt": "q", "answer": answer} for i, answer in enumerate((4, "x"))]
    loaded = _load(folder, "".join(json.dumps(row) + "\n" for row in rows), f"{folder}/own.py:Halved", format="native")
    assert [sample.target for sample in loaded.samples] == ["2.0"]
    [skipped] = loaded.skipped
    assert skipped.where.endswith("rows.jsonl:2")
    assert skipped.reason.startswith("holds a value of a wrong type or size (TypeError: unsupported operand")


def test_of_row_leaves_other_errors_alone() -> None:
    with pytest.raises(DataError, match=r"^a file$"), of_row("rows.jsonl:1"):
        raise DataError("a file")
    with pytest.raises(KeyError), of_row("rows.jsonl:1"):
        raise KeyError("a mistake in the program")
    with pytest.raises(SampleError, match=r"^rows.jsonl:1: holds .*OverflowError: too large"), of_row("rows.jsonl:1"):
        raise OverflowError("too large")


def test_skipped_rows_stay_in_the_order_of_the_file(folder: Path) -> None:
    good = {"prompt": "q", "answer": "a"}
    lines = [json.dumps({"id": str(i), **good}) for i in range(150)]
    for i in (3, 70, 130):
        lines[i] = "{"
    for i in (2, 4, 71, 149):
        lines[i] = json.dumps({"id": str(i), "prompt": "q"})
    loaded = _load(folder, "\n".join(lines), "open_qa", format="native")
    assert [int(item.where.rpartition(":")[2]) - 1 for item in loaded.skipped] == [2, 3, 4, 70, 71, 130, 149]
    assert len(loaded.samples) == 143
    data = DataConfig(root=str(folder), task="open_qa")
    with pytest.raises(SampleError, match=r"rows.jsonl:3: no `answer`"):
        load_samples(data, SourceConfig(path="rows.jsonl", format="native"), role="train")
    lines[2] = lines[1]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"rows.jsonl:3: id '1' is taken already"):
        load_samples(data, SourceConfig(path="rows.jsonl", format="native"), role="train")


def test_made_up_ids_never_collide(tmp_path: Path) -> None:
    (tmp_path / "r1v").mkdir()
    for name in "abc":
        row = {"id": 1, "problem": "q?", "solution": f"<answer>{name}</answer>"}
        (tmp_path / "r1v" / f"{name}.jsonl").write_text(json.dumps(row))
    out = tmp_path / "out.jsonl"
    convert(Request(form="r1v", source=str(tmp_path / "r1v"), out=out))
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == [1, "1-1", "1-1-2"]
    data = DataConfig(root=str(tmp_path), task="open_qa")
    loaded = load_samples(data, SourceConfig(path="r1v", format="r1v"), role="train")
    assert [sample.id for sample in loaded.samples] == ["1", "1-1", "1-1-2"]
    (tmp_path / "med").mkdir()
    for name in "abc":
        entry = {"question_id": "q1", "question": "?", "gt_answer": "x", "option_A": "x", "option_B": "y"}
        (tmp_path / "med" / f"{name}.json").write_text(json.dumps([{**entry, "image_path": "x.png"}]))
    convert(Request(form="omni-med-vqa", source=str(tmp_path / "med"), out=out, force=True))
    ids = [json.loads(line)["id"] for line in out.read_text().splitlines()]
    assert len(set(ids)) == 3


def test_convert_writes_no_id_twice(tmp_path: Path) -> None:
    rows = [{"id": name, "prompt": "q", "answer": "a"} for name in (1, "1", 2)] + [{"prompt": "q", "answer": "a"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = convert(Request(form="native", source=str(tmp_path / "in.jsonl"), out=tmp_path / "out.jsonl"))
    ids = [json.loads(line)["id"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert ids == [1, 2, "in-4"]
    [left] = report.left_out
    assert left.where.endswith("in.jsonl:2")
    assert "id '1' is taken already by" in left.reason


def test_a_reader_that_fails_on_one_row(tmp_path: Path) -> None:
    from vlrft.data.native import rows_of
    from vlrft.data.tables import RowStream

    (tmp_path / "in.jsonl").write_text('{"id": 1, "n": "x"}\n{"id": 2, "n": 3}\n')
    quarantine = Quarantine(policy="skip")
    read = rows_of(
        RowStream(tmp_path / "in.jsonl"), lambda row, _: {**row, "n": row["n"] + 1}, images=tmp_path,
        quarantine=quarantine,
    )  # fmt: skip
    assert [row["n"] for _, row in read] == [4]
    assert quarantine.skipped[0].where.endswith("in.jsonl:1")


def test_videos_of_many_rows_are_looked_into_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av", reason="needs the extra video")
    from videos import write_video

    from vlrft.data import sources

    rows = []
    for i in range(3):
        write_video(tmp_path / f"{i}.mp4", 4)
        rows.append({"id": str(i), "prompt": "q", "videos": [f"{i}.mp4"], "answer": "a"})
    rows.append({"id": "3", "prompt": "q", "videos": 3, "answer": "a"})
    rows.append({"id": "4", "prompt": "q", "videos": [3, "gone.mp4"], "answer": "a"})
    asked: list[list[str | None]] = []
    probe_many = sources.probe_many
    monkeypatch.setattr(sources, "probe_many", lambda refs: asked.append([r.path for r in refs]) or probe_many(refs))
    loaded = _load(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "open_qa", format="native")
    assert [[Path(str(path)).name for path in paths] for paths in asked] == [["0.mp4", "1.mp4", "2.mp4", "gone.mp4"]]
    assert ([s.id for s in loaded.samples], len(loaded.skipped)) == (["0", "1", "2"], 2)
