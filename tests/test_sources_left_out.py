"""What a source leaves out: listed by kind, all of it when asked, and counted against the rows that there are."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from videos import write_video

import vlrft
from vlrft.config import DataConfig, SourceConfig
from vlrft.data.problems import DataError, SampleError
from vlrft.data.sources import Loaded, load_samples, size_of
from vlrft.runfolder import read_metrics

Row = dict[str, Any]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        Image.new("RGB", (40, 30), "gray").save(tmp_path / f"{name}.png")
    return tmp_path


def row(name: str | None, **changes: Any) -> Row:
    made = {"prompt": "the dog", "images": ["a.png"], "boxes": {"box": [1, 2, 30, 20], "space": "abs_original"}}
    return {**({"id": name} if name else {}), **made, **changes}


def write(root: Path, *rows: Row | str) -> None:
    text = "".join((item if isinstance(item, str) else json.dumps(item)) + "\n" for item in rows)
    (root / "rows.jsonl").write_text(text)


def load(root: Path, *, on_bad: Any = "error", task: str = "grounding", collect: bool = False, **source: Any) -> Loaded:
    data = DataConfig(root=str(root), on_bad_sample=on_bad, task=task)
    return load_samples(data, SourceConfig(**{"path": "rows.jsonl", **source}), role="train", collect=collect)


def listed(loaded: Loaded) -> list[tuple[str, str, str]]:
    """(line, kind, reason) of what was left out."""
    return [(item.where.rpartition(":")[2], item.kind, item.reason) for item in loaded.skipped]


def test_everything_that_is_wrong_is_listed_at_once(root: Path) -> None:
    write(root, row("a"), "{", row("a"), row("b", prompt=""), row("a", prompt=""), row("c", task="groundnig"),
          row("d", task=["x"]), row("e"))  # fmt: skip
    loaded = load(root, collect=True)
    assert [sample.id for sample in loaded.samples] == ["a", "e"]
    assert loaded.problems == ()
    lines = [(line, item.kind, item.stops) for (line, *_), item in zip(listed(loaded), loaded.skipped, strict=True)]
    assert lines == [("2", "bad", False), ("3", "bad", True), ("4", "bad", False), ("5", "bad", True),
                     ("6", "bad", False), ("7", "bad", False)]  # fmt: skip
    reasons = [item.reason for item in loaded.skipped]
    assert reasons[1] == f"id 'a' is taken already by {root / 'rows.jsonl'}:1; give every row its own id"
    assert "unknown task 'groundnig'; did you mean 'grounding'" in reasons[4]
    assert reasons[5] == "`task` is ['x']; write the name of a task"
    assert (loaded.rows, size_of(loaded)) == (8, "2 samples of 8 rows; left out: 6 bad")


def test_a_source_of_bad_rows_only_is_listed_too(root: Path) -> None:
    write(root, row("a", prompt=""), row("b", images=["c.png"]))
    loaded = load(root, collect=True)
    assert [item.reason.partition(";")[0] for item in loaded.skipped] == ["`prompt` is empty", "no such file"]
    (problem,) = loaded.problems
    assert "data.train holds no usable sample; first of 2 skipped: " in str(problem)
    with pytest.raises(DataError, match=r"data\.train holds no usable sample; first of 2 skipped"):
        load(root, on_bad="skip")


def test_one_broken_source_of_a_mixture_does_not_hide_the_others(root: Path) -> None:
    write(root, row("a"), row("b", prompt=""))
    entries = [{"path": "none.jsonl", "name": "x"}, {"path": "rows.jsonl", "name": "y"},
               {"path": "rows.jsonl", "name": "z", "options": {"answer_stile": "json"}}]  # fmt: skip
    data = DataConfig(root=str(root))
    loaded = load_samples(data, SourceConfig.model_validate(entries), role="train", collect=True)
    assert [sample.id for sample in loaded.samples] == ["y/a"]
    missing, misspelt = map(str, loaded.problems)
    assert missing.startswith(f"no file or folder {root / 'none.jsonl'}; check data.root")
    assert misspelt.startswith("data.train.mixture[2].options: unknown 'answer_stile'; did you mean 'answer_style'?")
    assert [item.reason.partition(";")[0] for item in loaded.skipped] == ["`prompt` is empty"]


def test_training_stops_at_an_unknown_task_and_says_where(root: Path) -> None:
    write(root, row("a"), row("b", task="groundnig"))
    with pytest.raises(SampleError, match=r"rows\.jsonl:2: unknown task 'groundnig'; did you mean 'grounding'"):
        load(root)
    assert [sample.id for sample in load(root, on_bad="skip").samples] == ["a"]


def test_ids_are_compared_over_all_rows_as_text(root: Path) -> None:
    write(root, row("1"), row("2", prompt=""), row(None, id=1))
    with pytest.raises(DataError, match=r"rows\.jsonl:3: id '1' is taken already by .*rows\.jsonl:1"):
        load(root, on_bad="skip")


def test_a_limit_counts_rows(root: Path) -> None:
    write(root, row("a"), row("b", prompt=""), row("c"))
    loaded = load(root, on_bad="skip", limit=2)
    assert ([sample.id for sample in loaded.samples], len(loaded.skipped)) == (["a"], 1)


def timed(name: str, span: list[float], **meta: Any) -> Row:
    return {"id": name, "prompt": "x", "videos": ["v.mp4"], "answer": span, "meta": {"duration": 4.0, **meta}}


def test_rows_that_a_published_file_has_so_never_stop_a_run(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("av")
    write_video(root / "v.mp4", 40)
    write(
        root,
        timed("good", [1, 2]),
        timed("late", [1, 9], flags=["ends after the stated duration"]),
        timed("reversed", [3, 2], flags=["span [3, 2] ends before it starts"]),
        timed("past", [5, 6], flags=["starts after the video", "seen twice"]),
    )
    with caplog.at_level(logging.INFO, logger="vlrft"):
        loaded = load(root, task="temporal_grounding")
    assert [sample.id for sample in loaded.samples] == ["good", "late"], "what can be judged counts"
    assert listed(loaded) == [
        ("3", "published", "span [3, 2] ends before it starts; no answer can be judged: span [3.0, 2.0] has to have "
                           "0 <= start <= end, in seconds"),
        ("4", "published", "starts after the video; seen twice; no answer can be judged: span [5.0, 6.0] starts at or "
                           "after the end of the video, which lasts 4 s"),
    ]  # fmt: skip
    assert "data.train: 2 samples of 4 rows; left out: 2 as published" in caplog.text
    write(root, timed("good", [1, 2]), timed("reversed", [3, 2]))
    with pytest.raises(SampleError, match=r"rows\.jsonl:2: span \[3\.0, 2\.0\] has to have .*correct the row"):
        load(root, task="temporal_grounding")


def test_a_flag_excuses_no_file_that_is_missing(root: Path) -> None:
    write(root, timed("a", [1, 2], flags=["seen twice"]))
    with pytest.raises(SampleError, match=r"v\.mp4: no such file"):
        load(root, task="temporal_grounding")


BOXES = [[1, 2, 30, 20], [5, 5, 5, 20], [30, 2, 1, 20], [0, 0, 400, 20]]


def test_zero_area_and_swapped_boxes_of_a_flagged_file(root: Path) -> None:
    flagged = [row(f"r{i}", boxes={"box": box, "space": "abs_original"}, meta={"flags": ["odd box"]})
               for i, box in enumerate(BOXES)]  # fmt: skip
    write(root, *flagged)
    loaded = load(root)
    assert ([sample.id for sample in loaded.samples], loaded.rows) == (["r0"], 4)
    assert {item.kind for item in loaded.skipped} == {"published"}
    assert all(item.reason.startswith("odd box; no answer can be judged: box ") for item in loaded.skipped)


def coco(root: Path) -> None:
    boxes = [(1, [1, 2, 10, 10]), (2, [5, 5, 0, 10])]
    content = {
        "images": [
            {"id": i, "file_name": f"{name}.png", "width": 40, "height": 30} for i, name in ((1, "a"), (2, "b"))
        ],
        "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": box} for i, box in boxes],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (root / "rows.json").write_text(json.dumps(content))


def test_a_box_without_area_is_told_apart_from_what_the_recipe_filters(root: Path) -> None:
    coco(root)
    loaded = load(root, path="rows.json")
    assert size_of(loaded) == "1 samples of 2 rows; left out: 1 as published"
    assert [(item.whole, item.kind) for item in loaded.skipped] == [(False, "published"), (True, "published")]
    content = json.loads((root / "rows.json").read_text())
    content["annotations"].append({"id": 3, "image_id": 1, "category_id": 1, "bbox": [20, 5, 9, 9]})
    content["annotations"][1]["bbox"] = [5, 5, 9, 9]
    (root / "rows.json").write_text(json.dumps(content))
    assert size_of(load(root, path="rows.json")) == "1 samples; 1 filtered by the recipe"


def test_an_evaluation_says_how_many_rows_it_covers(recipe: Any, root: Path) -> None:
    rows = [row(f"r{i}") for i in range(3)]
    write(root, *rows, row("odd", boxes={"box": [5, 5, 5, 20]}, meta={"flags": ["the box has no area"]}))
    source = {"format": "native", "path": "rows.jsonl"}
    data = {"root": str(root), "train": source, "eval": source}
    run = vlrft.train(recipe(data=data, train={"steps": 1}))
    first = read_metrics(run.path)[0]
    assert (first["kind"], first["eval/n"], first["eval/of"]) == ("eval", 3, 4)
    assert (run.summary["start/eval/n"], run.summary["start/eval/of"]) == (3, 4)
    assert vlrft.evaluate(run).metrics["eval/of"] == 4
    limited = vlrft.evaluate(run, "eval.limit=2").metrics
    assert (limited["eval/n"], limited["eval/of"]) == (2, 2), "what was not asked for is not missing"
    assert (run.path / "skipped.jsonl").read_text().count("the box has no area") == 1
