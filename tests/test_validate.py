"""`vlrft validate`: what it finds in rows, media, coordinates, times and splits, and what its exit code says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from videos import shared_clip, write_video

from vlrft import cli
from vlrft.compose import compose
from vlrft.data.boxes import check_box
from vlrft.data.problems import SampleError
from vlrft.data.tasks.targets import check_boxes, check_point
from vlrft.validate import Report, validate
from vlrft.validate.report import Finding
from vlrft.validate.rows import _SPACE, suspicious_spaces

Row = dict[str, Any]
Check = Callable[..., Report]


def row_of(i: int, **changes: Any) -> Row:
    box = {"box": [2 + i % 20, 4, 20 + i % 30, 30], "space": "abs_original"}
    return {"id": f"r{i}", "prompt": f"square {i}", "images": [f"{i}.png"], "boxes": box, **changes}


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    """Twelve good rows over images in tmp_path/images; a test spoils some."""
    (tmp_path / "images").mkdir()
    for i in range(12):
        Image.new("RGB", (64, 48), (20 * i, 90, 200)).save(tmp_path / "images" / f"{i}.png")
    return [row_of(i) for i in range(12)]


def write(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def recipe_of(recipe: Any, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """`recipe_of(rows, held_out, **blocks)`: the tiny recipe on these rows, with rewards that can tell."""

    def make(rows: list[Row], held_out: list[Row] | None = None, **blocks: Any) -> dict[str, Any]:
        write(tmp_path / "train.jsonl", rows)
        data = {"root": str(tmp_path), "output_mode": "think", "eval": None}
        data["train"] = {"format": "native", "path": "train.jsonl", "images": "images"}
        if held_out is not None:
            write(tmp_path / "eval.jsonl", held_out)
            data["eval"] = {**data["train"], "path": "eval.jsonl"}
        rewards = {"funcs": [{"func": "box.iou", "weight": 0.9}, {"func": "format.think_answer", "weight": 0.1}]}
        blocks = {"rewards": rewards, "eval": {"metrics": ["box.iou"]}, **blocks}
        return dict(recipe(data={**data, **blocks.pop("data", {})}, **blocks))

    return make


@pytest.fixture
def check(recipe_of: Callable[..., dict[str, Any]]) -> Check:
    def run(
        rows: list[Row], held_out: list[Row] | None = None, *, n: int | None = None, decode: bool = False, **blocks: Any
    ) -> Report:
        return validate(compose(recipe_of(rows, held_out, **blocks)), rows=n, decode=decode)

    return run


def finding(report: Report, text: str, level: str = "problem") -> Finding:
    """The one finding of `level` that says `text`."""
    [found] = [f for f in report.findings if text in f.what and f.level == level]
    return found


def test_a_good_recipe(check: Check, rows: list[Row]) -> None:
    report = check(rows[:8], rows[8:])
    assert report.ok, report.as_text()
    assert not report.of("warning"), report.as_text()
    assert [(s.where, dict(s.tasks), s.bad, s.images) for s in report.splits] == [
        ("data.train", {"grounding": 8}, 0, 8),
        ("data.eval", {"grounding": 4}, 0, 4),
    ]
    [trained, held_out] = report.scores
    assert (trained.where, held_out.where) == ("rewards.funcs on data.train", "eval.metrics on data.eval")
    by_answer = {line.answer: line for line in trained.lines}
    tricks = ["empty", "blank", "gibberish", "numbers", "labels", "boxes", "question", "whole"]
    assert list(by_answer) == ["reference", *tricks]
    assert by_answer["reference"].count == 8
    assert by_answer["reference"].parts["box.iou"] == pytest.approx(1.0, abs=0.02)
    assert by_answer["reference"].parts["format.think_answer"] == 1.0
    assert all((by_answer[name].parts["box.iou"] or 0.0) < 0.3 for name in tricks)
    assert by_answer["gibberish"].total == pytest.approx(0.1), "it has the right form"
    assert "fine: nothing to remark" in report.as_text()


def test_exit_codes_and_json(
    recipe_of: Any, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["vlrft", "validate", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return int(caught.value.code or 0)

    path, out = tmp_path / "mine.yaml", tmp_path / "new" / "found.json"
    path.write_text(yaml.safe_dump(recipe_of(rows)))
    assert call(str(path), "--json", str(out)) == 0
    assert "box.iou" in capsys.readouterr().out
    content = json.loads(out.read_text())
    assert (content["ok"], content["findings"]) == (True, [])
    assert content["splits"][0]["samples"] == 12
    assert content["seconds"] < 60
    rows[3]["boxes"]["box"] = [0, 0, 640, 30]
    path.write_text(yaml.safe_dump(recipe_of(rows)))
    assert call(str(path), "--json", str(out)) == 1
    said = capsys.readouterr().out
    assert "train.jsonl:4" in said
    assert "not fine: 1 problem" in said
    [found] = json.loads(out.read_text())["findings"]
    assert (found["level"], found["count"]) == ("problem", 1)
    assert found["examples"][0].endswith("train.jsonl:4")
    assert call(str(path), "--rows", "2") == 0, "the bad row is not among the first two"
    assert "2 grounding (the first 2 of each source)" in capsys.readouterr().out
    for arguments in (["./none.yaml"], [str(path), "train.stepps=1"], [str(path), "--rows", "0"], []):
        assert call(*arguments) == 2


def test_neither_torch_nor_a_processor_is_loaded(recipe_of: Any, rows: list[Row], tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps(recipe_of(rows, rows[8:])))
    code = (
        "import json, sys\nfrom vlrft.compose import compose\nfrom vlrft.validate import validate\n"
        f"report = validate(compose(json.load(open({str(tmp_path / 'recipe.json')!r}))))\n"
        "assert report.scores\n"
        "print(*({'torch', 'transformers', 'accelerate', 'vlrft.models.chat'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def spoil(row: Row, how: str, folder: Path) -> None:
    if how == "missing file":
        (folder / row["images"][0]).unlink()
    elif how == "no image":
        (folder / row["images"][0]).write_bytes(b"<html>404</html>")
    elif how == "other column":
        row["problem"] = row.pop("prompt")
    elif how == "no box":
        row["bbox"] = row.pop("boxes")["box"]
    elif how == "box outside":
        row["boxes"]["box"] = [0, 0, 640, 30]
    elif how == "two images":
        row["images"] *= 2
    elif how == "unknown task":
        row["task"] = "groundnig"
    else:
        row["boxes"]["box"] = "left"


BAD = {
    "missing file": "no such file",
    "no image": "is not an image",
    "other column": "no `prompt`, but `problem`",
    "no box": "no `boxes`, but `bbox`",
    "box outside": "lies outside the 64x48 image",
    "two images": "has 2 images; grounding takes exactly one",
    "wrong target": "is not four numbers",
}


@pytest.mark.parametrize("how", BAD)
def test_bad_rows_are_counted_by_kind(how: str, check: Check, rows: list[Row], tmp_path: Path) -> None:
    for row in rows[3:5]:
        spoil(row, how, tmp_path / "images")
    found = finding(check(rows), BAD[how])
    assert (found.count, [Path(e.partition(": ")[0]).name for e in found.examples]) == (
        2,
        ["train.jsonl:4", "train.jsonl:5"],
    )
    assert found.where == "data.train"
    assert "on_bad_sample" in found.next
    skipping = check(rows, data={"on_bad_sample": "skip"})
    assert skipping.ok, "the recipe says so"
    assert finding(skipping, BAD[how], "warning").count == 2
    assert skipping.splits[0].samples == 10


def test_skipping_most_rows_is_a_problem_all_the_same(check: Check, rows: list[Row], tmp_path: Path) -> None:
    for row in rows[:8]:
        spoil(row, "other column", tmp_path)
    assert not check(rows, data={"on_bad_sample": "skip"}).ok


@pytest.mark.parametrize(("space", "scale", "hint"), [("abs_original", 1000, "norm_1000"), ("norm_1000", 1, "norm_1")])
def test_boxes_in_the_wrong_space(space: str, scale: float, hint: str, check: Check, rows: list[Row]) -> None:
    for row in rows[:9]:
        row["boxes"] = {"box": [0.1 * scale, 0.2 * scale, 0.8 * scale, 0.9 * scale], "space": space}
    found = finding(check(rows), "coordinates of most rows (9 of 12)")
    assert f"would fit {hint}" in found.what
    assert "boxes.space" in found.next


def test_all_boxes_in_the_wrong_space(check: Check, rows: list[Row]) -> None:
    for row in rows:
        row["boxes"]["box"] = [100, 200, 800, 900]
    found = finding(check(rows), "holds no usable sample; first of 12 skipped: ")
    assert "train.jsonl:1: box" in found.what
    assert "it would fit norm_1000" in found.what
    assert "boxes.space" in found.next


@pytest.mark.parametrize(
    "refused",
    [
        lambda: check_box([0, 0, 700, 30], space="abs_original", image_size=(64, 48), where="x"),
        lambda: check_box([0.1, 0.2, 0.3, 0.4], space="norm_1000", image_size=(64, 48), where="x"),
        lambda: check_boxes([[0, 0, 700, 30]] * 2, space="norm_1", image_size=(64, 48), where="x"),
        lambda: check_boxes([[0, 0, 0.7, 0.3]] * 2, space="abs_original", image_size=(64, 48), where="x"),
        lambda: check_point([100, 3], space="abs_original", image_size=(64, 48), where="x"),
        lambda: check_point([0.1, 0.3], space="abs_original", image_size=(64, 48), where="x"),
    ],
)
def test_every_refusal_of_a_space_is_known_as_one(refused: Callable[[], Any]) -> None:
    with pytest.raises(SampleError) as caught:
        refused()
    assert _SPACE.search(caught.value.reason)


def test_boxes_that_fit_a_space_by_accident(check: Check, rows: list[Row]) -> None:
    many = [row_of(i % 12, id=f"r{i}", prompt=f"square {i}") for i in range(24)]
    for row in many:
        row["boxes"]["space"] = "norm_1000"
    found = finding(check(many), "are they abs_original?", "warning")
    assert found.count == 24
    large = list(_samples(many, size=(3000, 2000), space="abs_original"))
    [warning] = suspicious_spaces(large, "data.train")
    assert "are they norm_1000?" in warning.what
    assert not list(suspicious_spaces(large[:5], "data.train")), "a few prove nothing"
    assert not list(suspicious_spaces(list(_samples(many, size=(64, 48), space="abs_original")), "data.train"))


def _samples(rows: list[Row], size: tuple[int, int], space: str) -> Any:
    from vlrft.types import Sample

    for row in rows:
        yield Sample(id=row["id"], task="grounding", parts=(), target=row["boxes"]["box"], target_space=space,
                     meta={"image_size": list(size)})  # fmt: skip


def test_taken_ids(check: Check, rows: list[Row]) -> None:
    rows[5]["id"] = rows[7]["id"] = "r2"
    rows[8]["boxes"]["box"] = [0, 0, 640, 30]
    report = check(rows, data={"on_bad_sample": "skip"})
    found = finding(report, "id 'r2' is taken already")
    assert "train.jsonl:3" in found.what
    assert [Path(name).name for name in found.examples] == ["train.jsonl:6", "train.jsonl:8"]
    assert finding(report, "lies outside", "warning").count == 1, "what else is wrong is told too"
    assert report.scores
    assert not report.ok, "no run starts, whatever the recipe says of bad rows"


def test_a_source_without_any_usable_row_tells_every_kind(check: Check, rows: list[Row], tmp_path: Path) -> None:
    for i, row in enumerate(rows):
        spoil(row, ("two images", "other column", "unknown task")[i % 3], tmp_path)
    report = check(rows)
    assert "first of 12 skipped" in finding(report, "holds no usable sample").what
    for text in ("has 2 images", "no `prompt`, but `problem`", "unknown task 'groundnig'; did you mean 'grounding'"):
        [found] = [f for f in report.of("problem") if f.what.startswith(text)]
        assert (found.count, len(found.examples)) == (4, 3)
    assert [(s.samples, s.bad, s.rows) for s in report.splits] == [(0, 12, 12)]
    assert "data.train: no sample of 12 rows; 0 images, 0 videos; 12 bad rows" in report.as_text()


def test_one_missing_source_of_a_mixture_does_not_hide_the_rest(check: Check, rows: list[Row], tmp_path: Path) -> None:
    native = {"format": "native", "images": "images"}
    sources = [{**native, "path": "train.jsonl"}, {**native, "path": "nothing.jsonl"}]
    rows[1]["prompt"] = " "
    report = check(rows, data={"train": sources})
    assert "nothing.jsonl" in finding(report, "no file or folder").what
    assert finding(report, "`prompt` is empty").count == 1
    assert report.splits[0].samples == 11


def test_rows_left_out_as_published_are_no_problem(check: Check, rows: list[Row]) -> None:
    for i in (2, 5):
        rows[i] |= {"boxes": {"box": [5, 5, 5, 9]}, "meta": {"flags": [f"box {i} has no area"]}}
    report = check(rows)
    assert report.ok, report.as_text()
    assert finding(report, "left out as published: box 2 has no area; no answer can be judged", "note").count == 2
    assert (report.splits[0].published, report.splits[0].bad, report.splits[0].rows) == (2, 0, 12)
    assert "data.train: 10 grounding of 12 rows; 10 images" in report.as_text()
    assert report.as_json()["splits"][0]["rows"] == 12


def test_a_missing_file_is_told_with_what_else_is_wrong(check: Check, rows: list[Row]) -> None:
    report = check(rows, data={"train": {"format": "native", "path": "nothing.jsonl"}},
                   rewards={"funcs": [{"func": "box.iuo"}]})  # fmt: skip
    assert "nothing.jsonl" in finding(report, "no file or folder").what
    assert finding(report, "did you mean 'box.iou'?").where == "rewards.funcs"


def test_held_out_rows_that_are_trained_on(check: Check, rows: list[Row], tmp_path: Path) -> None:
    (tmp_path / "images" / "copy.png").write_bytes((tmp_path / "images" / "3.png").read_bytes())
    held_out = [
        row_of(1),
        row_of(20, images=["copy.png"], prompt=" Square  3"),
        row_of(2, prompt="another question", id="x"),
        row_of(11),
    ]
    report = check(rows[:8], held_out)
    found = finding(report, "the media and the question of a training row")
    assert found.examples == ("r1 (in train: r1)", "r20 (in train: r3)")
    assert finding(report, "images or videos are trained on", "note").count == 3


def test_questions_that_are_asked_twice(check: Check, rows: list[Row]) -> None:
    again = [row_of(1, id="same"), row_of(2, id="other", boxes={"box": [30, 30, 60, 40]})]
    report = check([*rows, *again])
    assert report.ok
    assert finding(report, "has two answers", "warning").examples == ("r2 and other",)
    assert finding(report, "with the same answer", "note").examples == ("r1 and same",)


def test_text_that_looks_like_a_slot_is_counted(check: Check, rows: list[Row]) -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "what does <image> mean?"}]
    rows[0]["prompt"] = [{"role": "user", "content": parts}]
    assert finding(check(rows), "the text <image> or <video>", "note").examples == ("r0",)


def timed(i: int, answer: list[float], **changes: Any) -> Row:
    return {"id": f"t{i}", "prompt": f"Event {i}?", "videos": ["v.mp4"], "answer": answer, "meta": {}, **changes}


def test_times_past_the_end_and_wrong_durations(check: Check, rows: list[Row], tmp_path: Path) -> None:
    pytest.importorskip("av")
    write_video(tmp_path / "images" / "v.mp4", 40)
    asked = [
        timed(0, [1.0, 2.0]),
        timed(1, [3.0, 9.0]),
        timed(2, [3.0, 9.0], meta={"duration": 12.0}),
        timed(3, [5.0, 9.0]),
        timed(4, [0.5, 9.0], meta={"flags": ["ends after the video"]}),
        timed(5, [0.0, 1.0], videos=[{"path": "v.mp4", "start": 1.0, "end": 9.0}]),
    ]
    report = check(asked, data={"task": "temporal_grounding"}, rewards={"funcs": [{"func": "tg.iou"}]})
    assert finding(report, "ends after the video, which lasts 4 s").examples[0].endswith("train.jsonl:2")
    assert finding(report, "starts at or after the end of the video").examples[0].endswith("train.jsonl:4")
    assert finding(report, "the clip 1 s to 9 s lies outside").examples[0].endswith("train.jsonl:6")
    assert finding(report, "meta.duration is 12 s, and the clip lasts 4.00 s", "warning").examples == ("t2",)
    assert finding(report, "kept as published", "note").examples == ("t4",)
    assert report.splits[0].samples == 3
    [scores] = report.scores
    assert {line.answer: line.parts["tg.iou"] for line in scores.lines}["reference"] == pytest.approx(1.0)


def test_damage_behind_a_good_header_is_found_by_decoding(check: Check, rows: list[Row], tmp_path: Path) -> None:
    pytest.importorskip("av")
    asked = [timed(0, [0.0, 1.0], videos=[str(shared_clip("clip.mp4"))])]
    asked.append(timed(1, [0.0, 1.0], videos=[str(shared_clip("corrupted.mp4"))]))
    settings: dict[str, Any] = {
        "data": {"task": "temporal_grounding", "video": {"num_frames": 4}},
        "rewards": {"funcs": [{"func": "tg.iou"}]},
    }
    assert check(asked, **settings).ok
    report = check(asked, decode=True, **settings)
    found = finding(report, "is damaged")
    assert "corrupted.mp4" in found.what
    assert (found.examples, report.splits[0].samples) == (("sample t1",), 1)
    Image.effect_noise((64, 48), 90).convert("RGB").save(tmp_path / "images" / "4.png")
    whole = (tmp_path / "images" / "4.png").read_bytes()
    (tmp_path / "images" / "4.png").write_bytes(whole[:700])
    assert check(rows).ok
    assert finding(check(rows, decode=True), "truncated or damaged").examples == ("sample r4",)


def test_stages_share_what_they_read(check: Check, rows: list[Row]) -> None:
    report = check(rows, stages=[{"kind": "sft"}, {"kind": "grpo"}])
    assert len(report.splits) == len(report.scores) == 1
    other = check(rows, stages=[{"kind": "sft", "data": {"train": {"limit": 4}}}, {"kind": "grpo"}])
    assert [(s.where, s.samples) for s in other.splits] == [
        ("stage sft, data.train", 4),
        ("stage grpo, data.train", 12),
    ]


def test_generated_rows_and_mixtures(recipe: Any, check: Check, rows: list[Row], tmp_path: Path) -> None:
    native = {"format": "native", "path": str(tmp_path / "train.jsonl"), "images": str(tmp_path / "images")}
    drawn = {"format": "shapes", "options": {"n": 6, "size": [56, 56], "grid": 14, "min_size": 14, "max_size": 42}}
    report = check(rows, data={"train": [{**native, "name": "mine"}, {**drawn, "name": "drawn"}]}, n=5)
    assert report.ok, report.as_text()
    assert report.splits[0].samples == 10
