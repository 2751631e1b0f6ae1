"""Sources in the formats of others: layouts told by their columns, published forms by name, spaces asked for."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlrft.config import DataConfig, SourceConfig
from vlrft.data import prep
from vlrft.data.detect import formats
from vlrft.data.layouts import LAYOUTS, from_native
from vlrft.data.prep import FORMS, Form
from vlrft.data.problems import DataError, Quarantine, SampleError
from vlrft.data.sources import Loaded, load_samples
from vlrft.data.tasks import TASKS
from vlrft.registry import load_reference
from vlrft.types import MediaPart, TextPart

Row = dict[str, Any]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "pics").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (40, 30), "gray").save(tmp_path / "pics" / f"{name}.png")
    return tmp_path


def _write(root: Path, *rows: Row) -> None:
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _load(root: Path, *, task: str = "open_qa", on_bad: Any = "error", **source: Any) -> Loaded:
    data = DataConfig(root=str(root), task=task, on_bad_sample=on_bad)
    return load_samples(data, SourceConfig(**{"path": "rows.jsonl", **source}), role="train")


SWIFT = {
    "messages": [{"role": "user", "content": "<image>Which is left, <image>?"}],
    "images": ["pics/a.png", "pics/b.png"],
    "solution": "<answer>the first</answer>",
}


def test_a_layout_is_told_by_its_columns_and_the_log_says_so(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    _write(root, SWIFT)
    with caplog.at_level(logging.INFO, logger="vlrft"):
        (sample,) = _load(root).samples
    assert "rows.jsonl read as ms-swift, by suffix .jsonl, messages and solution" in caplog.text
    assert sample.target == "the first"
    assert sample.parts == (
        MediaPart(index=0),
        TextPart(text="Which is left, "),
        MediaPart(index=1),
        TextPart(text="?"),
    )
    assert [ref.path for ref in sample.media] == [str(root / "pics/a.png"), str(root / "pics/b.png")]
    assert sample.id == "rows-1"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_sample_that_the_native_row_gives(root: Path, layout: str) -> None:
    native = {
        "id": "a",
        "prompt": "the dog",
        "images": ["pics/a.png"],
        "boxes": {"box": [100, 200, 500, 900], "space": "norm_1000"},
        "meta": {"source": "x"},
    }
    _write(root, native)
    (expected,) = _load(root, task="grounding").samples
    _write(root, from_native(layout, native, where="x"))
    (sample,) = _load(root, task="grounding").samples
    assert sample == expected


def test_coordinates_need_a_stated_space(root: Path) -> None:
    _write(root, {"image": "pics/a.png", "problem": "the dog", "solution": "<answer>[100, 200, 500, 900]</answer>"})
    with pytest.raises(SampleError, match=r"rows\.jsonl:1: does not state the coordinate space.*options"):
        _load(root, task="grounding")
    (sample,) = _load(root, task="grounding", options={"space": "norm_1000"}).samples
    assert (sample.target, sample.target_space) == ([100.0, 200.0, 500.0, 900.0], "norm_1000")
    with pytest.raises(SampleError, match=r"data\.train\.options: space is 'norm_100'; did you mean 'norm_1000'"):
        _load(root, task="grounding", options={"space": "norm_100"})


def test_native_rows_state_their_space_themselves(root: Path) -> None:
    _write(root, {"prompt": "x", "images": ["pics/a.png"], "answer": [1, 2, 3, 4]})
    with pytest.raises(DataError, match=r"native rows state their space in `boxes`"):
        _load(root, task="grounding", options={"space": "norm_1000"})


def test_bad_rows_of_a_layout_stop_or_are_listed(root: Path) -> None:
    _write(
        root, SWIFT, {**SWIFT, "images": ["pics/a.png"]}, {**SWIFT, "solution": None, "images": ["pics/none.png"] * 2}
    )
    with pytest.raises(SampleError, match=r"rows\.jsonl:2: the text has 2 <image> markers, but the row has 1 images"):
        _load(root)
    loaded = _load(root, on_bad="skip")
    assert len(loaded.samples) == 1
    first, second = loaded.skipped
    assert first.where.endswith("rows.jsonl:2")
    assert "rows.jsonl:3: " in second.where


def test_ids_that_a_layout_repeats_are_told_apart(root: Path) -> None:
    _write(root, {**SWIFT, "id": 7}, {**SWIFT, "id": 7}, {**SWIFT, "id": 8})
    assert [sample.id for sample in _load(root).samples] == ["7", "7-2", "8"]


def test_a_task_of_the_source_goes_before_that_of_the_block(root: Path) -> None:
    _write(root, SWIFT)
    data = DataConfig(root=str(root), task="grounding")
    (sample,) = load_samples(data, SourceConfig(path="rows.jsonl", task="open_qa"), role="train").samples
    assert sample.task == "open_qa"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("easyr2", r"data\.train\.format: unknown format 'easyr2'; did you mean 'easyr1'\?; `auto` tells.*`native`"),
        ("vlmeval", r"did you mean 'vlmevalkit'"),
        ("swift", r"did you mean 'ms-swift'"),
    ],
)
def test_unknown_formats_name_the_nearest(root: Path, name: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        _load(root, format=name)


def test_the_names_of_formats_are_one_set() -> None:
    assert {"auto", "native", "coco", "voc", "shapes", "synthetic", *LAYOUTS, *FORMS} == set(formats())
    assert not set(LAYOUTS) & set(FORMS)


@pytest.mark.parametrize("name", sorted(FORMS))
def test_every_form_has_a_reader_and_a_line_about_it(name: str) -> None:
    assert callable(load_reference(FORMS[name].reader))
    assert len(FORMS[name].about) < 100


def form_of_tests(
    path: Path, *, split: str | None, images: Path | None, quarantine: Quarantine, space: str = "abs_original",
    classes: list[str] | None = None,
) -> Iterator[tuple[str, Row]]:  # fmt: skip
    """A reader as data/prep holds them; its second line is no row."""
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        where = f"{path}:{number}"
        if line == "bad":
            quarantine.bad(SampleError(where, "is bad"))
            continue
        name, picture = line.split()
        boxes = {"box": [1, 2, 30, 20], "space": space}
        yield (
            where,
            {"id": name, "prompt": f"{name} {split} {classes}", "images": [picture], "boxes": boxes, "meta": {}},
        )


@pytest.fixture
def form(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(prep.FORMS, "ours", Form(reader=f"{__name__}:form_of_tests", seen=True, about="for tests"))
    (root / "list.txt").write_text("dog a.png\nbad\ncat b.png\n")


@pytest.mark.usefixtures("form")
def test_a_form_is_a_format(root: Path) -> None:
    source = {"format": "ours", "path": "list.txt", "images": "pics", "split": "val", "classes": ["dog"]}
    loaded = _load(root, task="grounding", on_bad="skip", options={"answer_style": "plain"}, **source)
    dog, cat = loaded.samples
    assert dog.parts[1] == TextPart(text="dog val ['dog']")
    assert dog.meta["answer_style"] == "plain"
    assert cat.media[0].path == str(root / "pics/b.png")
    assert [item.reason for item in loaded.skipped] == ["is bad"]
    with pytest.raises(SampleError, match=r"list\.txt:2: is bad"):
        _load(root, task="grounding", **source)
    with pytest.raises(
        DataError, match=r"options: the form ours has no option 'spac'; did you mean 'space'\?; it takes: space"
    ):
        _load(root, task="grounding", options={"spac": "norm_1"}, **source)


def test_detection_files_of_another_task_go_to_the_form(root: Path) -> None:
    (root / "Annotations").mkdir()
    (root / "ImageSets" / "Main").mkdir(parents=True)
    if "voc" in FORMS:
        with pytest.raises(DataError, match="split"):
            _load(root, task="detection", path=".")
    else:
        with pytest.raises(DataError, match="files in voc are read for the task grounding only, not for detection"):
            _load(root, task="detection", path=".")


def test_instances_mean_nothing_to_rows(root: Path) -> None:
    _write(root, SWIFT)
    with pytest.raises(DataError, match=r"data\.train\.instances is for the task grounding on COCO and VOC files"):
        _load(root, instances="largest")


def test_tasks_of_rows_are_those_of_the_table() -> None:
    """`task` of a foreign row is a task only where it names one: some files call the question so."""
    from vlrft.data.layouts import to_native

    row = {"problem": "x", "solution": "1", "task": "open the app"}
    assert to_native("r1v", row, where="x")["meta"] == {"task": "open the app"}
    assert to_native("r1v", {**row, "task": "math"}, where="x")["task"] == "math"
    assert "math" in TASKS
