"""What a new user of the data side tries: settings that cannot work are refused, by messages that say what does."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from vlrft.cli import app, is_user_error
from vlrft.compose import ConfigError, compose
from vlrft.config import DataConfig, SourceConfig
from vlrft.data import images as media
from vlrft.data import option_pages
from vlrft.data.forms import form_options, read_form
from vlrft.data.images import image_ref, open_image
from vlrft.data.layouts import LAYOUTS, from_native, to_native
from vlrft.data.prep import FORMS
from vlrft.data.problems import DataError, Quarantine, SampleError
from vlrft.data.sources import load_samples
from vlrft.data.synthetic import GENERATORS, build_generator
from vlrft.data.synthetic.base import parse_options
from vlrft.data.tasks import TASKS, check_templates
from vlrft.data.tasks.templates import check_question, template_names, whole_template
from vlrft.types import MediaRef

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("VLRFT_SHARED_DATA", ROOT.parent / "shared" / "data"))
CHARADES = SHARED / "formats" / "charades_sta.json"
BCCD = SHARED / "bccd"
TINY: dict[str, Any] = {"model": {"tiny": {}}}


def _run(*args: Any) -> str:
    result = CliRunner().invoke(app, ["data", *map(str, args)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def _refused(*args: Any) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        CliRunner().invoke(app, ["data", *map(str, args)], catch_exceptions=False)
    assert is_user_error(caught.value), f"{type(caught.value)} would be shown with a traceback"
    return str(caught.value)


# Templates


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("no question", r"for counting leaves out the question: put \{\{ question \}\} into it.*\{\{ instruction \}\}"),
        ("{{ format_hint }} {{ space }}", "leaves out the question"),
        ("{{ question", "for counting does not compile"),
    ],
)
def test_a_template_without_the_question_is_refused(template: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        check_templates(DataConfig(task="counting", prompt_template=template))


@pytest.mark.parametrize(
    "template", ["Q: {{ question }}", "{{ instruction }}", "{% if mode %}{{ question }}{% endif %}"]
)
def test_a_template_with_the_question_passes(template: str) -> None:
    check_templates(DataConfig(task="counting", prompt_template=template))


def test_every_shipped_template_asks_the_question() -> None:
    for task in TASKS:
        for name in template_names(task):
            check_question(whole_template(name, task), task)


# Sixteen bits


def _png(values: Any) -> MediaRef:
    buffer = io.BytesIO()
    Image.fromarray(np.array(values, dtype=np.uint16)).save(buffer, "PNG")
    return MediaRef(data=buffer.getvalue())


@pytest.mark.parametrize(
    ("top", "shown"),
    [(4032, 252), (4095, 255), (2047, 127), (40, 2), (4096, 128), (0x3FFF, 255), (0x8000, 128), (0xFFFF, 255)],
)
def test_sixteen_bit_grey_is_scaled_by_the_bits_that_it_takes(top: int, shown: int) -> None:
    opened = open_image(_png([[0, top]]))
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 0), (shown,) * 3]


def test_the_range_is_logged_once_per_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    media._ranges.clear()
    path = tmp_path / "ct.png"
    path.write_bytes(_png([[0, 4032]]).data or b"")
    with caplog.at_level(logging.WARNING, logger="vlrft.data.images"):
        for _ in range(2):
            open_image(MediaRef(path=str(path)))
    assert caplog.messages == [
        f"{path}: 16-bit grey with values up to 4032, shown as 12-bit (see Images in docs/data.md)"
    ]
    for number in range(30):
        copy = tmp_path / f"{number}.png"
        copy.write_bytes(path.read_bytes())
        open_image(MediaRef(path=str(copy)))
    assert len(caplog.messages) == 20
    assert caplog.messages[-1].endswith("further files like it are not named")


# Encoded pictures


def test_base64_in_json_is_read() -> None:
    encoded = base64.b64encode(_png([[0xFFFF]]).data or b"").decode()
    for held in ({"bytes": encoded}, {"bytes": f"data:image/png;base64,{encoded}"}):
        assert open_image(image_ref(held, where="x")).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("value", "says"), [({"bytes": "#" * 5000}, "not base64"), ("A" * 5000, "too long for a path")]
)
def test_long_text_is_not_repeated_in_messages(value: Any, says: str) -> None:
    with pytest.raises(SampleError, match=says) as caught:
        image_ref(value, where="rows.jsonl:3")
    assert "data:image/png;base64,..." in str(caught.value)
    assert "5000 characters" in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_box_of_the_stored_frame_is_told(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save(tmp_path / "x.jpg", exif=exif)
    row = {"id": "a", "prompt": "x", "images": ["x.jpg"], "answer": [1, 2, 30, 40], "width": 64, "height": 48}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    source = SourceConfig(path="rows.jsonl")
    with pytest.raises(SampleError, match=r"64x48 image, which .* before its EXIF rotation \(48x64 upright\)"):
        load_samples(DataConfig(root=str(tmp_path)), source, role="train")
    (tmp_path / "rows.jsonl").write_text(json.dumps({**row, "width": 48, "height": 64}) + "\n")
    assert load_samples(DataConfig(root=str(tmp_path)), source, role="train").samples


# Options of forms


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("slack=abc", "slack is 'abc'; write a number of 0 or more, or null"),
        ("slack=.nan", "slack is nan; write a number"),
        ("slack=none", "slack is 'none'; write a number"),
        ("slack=[1]", "slack is [1]; write a number"),
        ("slack=true", "slack is True; write a number"),
        ("slack=-1", "slack is -1; write a number of 0 or more"),
        ("keep_published=3", "keep_published is 3; write true or false"),
        ("durations=nofile.csv", "durations is for the text form"),
        ("slakc=1", "no option 'slakc'; did you mean 'slack'"),
    ],
)
def test_options_of_a_form_are_checked(option: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "sta.json"
    file.write_text(json.dumps({"v": {"duration": 9, "timestamps": [[1, 2]], "sentences": ["x"]}}))
    assert says in _refused("convert", "charades-sta", file, "--out", tmp_path / "out.jsonl", "--option", option)


def test_a_word_for_false_is_false(tmp_path: Path) -> None:
    file = tmp_path / "sta.json"
    file.write_text(json.dumps({"v": {"duration": 9, "timestamps": [[1, 2], [5, 3]], "sentences": ["x", "y"]}}))
    said = _run("convert", "charades-sta", file, "--out", tmp_path / "o.jsonl", "--option", "keep_published=n")
    assert "read 2, written 1, left out 1" in said


def test_a_list_is_not_a_text() -> None:
    with pytest.raises(DataError, match="classes is 'cat'; write a list"):
        form_options("coco")["classes"].checked("cat", "--option")
    assert form_options("charades-sta")["slack"].checked("1e9", "--option") == 1e9


@pytest.mark.parametrize("form", ["charades-sta", "auto"])
def test_a_split_that_does_nothing_is_refused(form: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "x", "images": ["a"], "answer": "y"}\n')
    assert "nosplit" in _refused("convert", form, file, "--out", tmp_path / "o.jsonl", "--split", "nosplit")


def test_a_split_names_the_pictures_of_coco(tmp_path: Path) -> None:
    content = {"images": [], "annotations": [], "categories": []}
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(content))

    def rows(split: str) -> list[Any]:
        return list(
            read_form("coco", file, split=split, images=None, quarantine=Quarantine(), options={}, what="options")
        )

    with pytest.raises(DataError, match="the form coco has no split 'val'"):
        rows("val")
    (tmp_path / "val").mkdir()
    assert rows("val") == []


def test_a_task_that_the_form_does_not_have_is_refused(tmp_path: Path) -> None:
    picture = {"id": 1, "file_name": "a.png", "width": 9, "height": 9}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 3, 3]}
    file = tmp_path / "coco.json"
    content = {"images": [picture], "annotations": [box], "categories": [{"id": 1, "name": "cat"}]}
    file.write_text(json.dumps(content))
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    said = _refused("convert", "coco", file, "--out", tmp_path / "o.jsonl", "--task", "grounding")
    assert "--task grounding: the form coco is read for the task detection" in said
    assert "format: coco, task: grounding" in said
    _run("convert", "coco", file, "--out", tmp_path / "o.jsonl", "--task", "detection")


@pytest.mark.skipif(not BCCD.is_dir(), reason=f"no BCCD in {BCCD} (set VLRFT_SHARED_DATA)")
def test_a_box_that_is_left_out_is_no_row(tmp_path: Path) -> None:
    said = _run("convert", "voc", BCCD, "--split", "val", "--out", tmp_path / "o.jsonl")
    listed = (BCCD / "ImageSets" / "Main" / "val.txt").read_text().split()
    assert f"read {len(listed)}, written {len(listed)}, left out 0" in said
    assert "left out of rows that were written: " in said


# Where they are told


def test_the_page_of_options_is_up_to_date(tmp_path: Path) -> None:
    option_pages.main(str(tmp_path / "options.md"))
    made = (tmp_path / "options.md").read_text()
    assert made == (ROOT / "docs" / "options.md").read_text(), "python -m vlrft.data.option_pages docs/options.md"
    for name in (*FORMS, *GENERATORS, "shapes"):
        assert f"### {name}\n" in made


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("charades-sta", "  slack: a number of 0 or more, or null; default null"),
        ("vqa-rad", "  takes no options"),
        ("trl", "  space: text"),
        ("native", "take no options"),
        ("events", "  container: default mp4; one of mp4, frames"),
        ("screens", "  size: default [224, 168]; Canvas (width, height) in pixels."),
    ],
)
def test_ls_shows_the_options_of_one(name: str, says: str) -> None:
    assert says in _run("ls", name)


def test_ls_names_the_generators() -> None:
    said = _run("ls")
    for name in GENERATORS:
        assert name in said
    assert "did you mean 'events'" in _refused("ls", "event")


def test_head_takes_a_form(tmp_path: Path) -> None:
    file = tmp_path / "sta.json"
    file.write_text(json.dumps({"v": {"duration": 9, "timestamps": [[1, 2], [5, 3]], "sentences": ["x", "y"]}}))
    said = _run("head", file, "--form", "charades-sta")
    assert 'prompt: "x"' in said
    assert "left out: " in said
    assert "ends before it starts" in said
    assert "slack is 'a'" in _refused("head", file, "--form", "charades-sta", "--option", "slack=a")
    assert "did you mean 'charades-sta'" in _refused("head", file, "--form", "charades")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"problem": "x", "solution": "y", "image": "a.png"}\n')
    assert "as a native row" in _run("head", rows, "--form", "r1v")


# Generators


@pytest.mark.parametrize("name", [*GENERATORS])
def test_a_canvas_that_is_too_small_is_told(name: str) -> None:
    task = build_generator(name)
    with pytest.raises(DataError, match=r"4x4|too few"):
        task.plan(np.random.default_rng(0), parse_options(task.options, {"size": [4, 4]}, "train"))


@pytest.mark.parametrize("name", [*GENERATORS])
def test_a_canvas_without_area_is_told(name: str) -> None:
    with pytest.raises(DataError, match=r"options\.size\.0: Input should be greater than 0"):
        parse_options(build_generator(name).options, {"size": [0, 4]}, "train")


def test_an_odd_one_that_cannot_differ_is_told() -> None:
    with pytest.raises(DataError, match="the odd image needs a second colour or kind"):
        parse_options(build_generator("odd_one_out").options, {"colors": ["red", "red"], "kinds": ["square"]}, "train")


# Recipes


LISTED = {**TINY, "data": {"train": [{"path": "a.jsonl"}, {"path": "b.jsonl"}]}}
MIXED = {**TINY, "data": {"train": {"mixture": [{"path": "a.jsonl"}, {"path": "b.jsonl"}]}}}


@pytest.mark.parametrize("recipe", [LISTED, MIXED])
@pytest.mark.parametrize("key", ["data.train.mixture[1].limit", "data.train[1].limit", "data.train.mixture.1.limit"])
def test_a_source_of_a_mixture_has_one_key(recipe: dict[str, Any], key: str) -> None:
    composed = compose(recipe, [f"{key}=3"])
    assert [entry.limit for entry in composed.config.data.train.mixture] == [None, 3]
    stage = {**recipe, "stages": [{"kind": "grpo", "data": recipe["data"]}]}
    staged = compose(stage, [f"stages.grpo.{key}=3"]).config.stages[0].model_extra or {}
    sources = staged["data"]["train"]
    assert (sources if isinstance(sources, list) else sources["mixture"])[1]["limit"] == 3


def test_a_mixture_can_be_replaced() -> None:
    for recipe in (LISTED, MIXED):
        config = compose(recipe, ["data.train.mixture=[{path: c.jsonl}]"]).config
        assert [entry.path for entry in config.data.train.mixture] == ["c.jsonl"]


def test_a_key_of_the_whole_names_that_of_a_source() -> None:
    with pytest.raises(ConfigError, match=r"list of 2 sources.*write data\.train\.mixture\[0\]\.limit"):
        compose(LISTED, ["data.train.limit=3"])
    with pytest.raises(ConfigError, match=r"data\.train\.mixture\[1\]\.limit: .*\(override data\.train\.mixture\[1\]"):
        compose(LISTED, ["data.train.mixture[1].limit=0"])


def test_rewards_may_be_names() -> None:
    funcs = compose(TINY, ["rewards.funcs=[box.iou, {func: format.think_answer, weight: 0.5}]"]).config.rewards.funcs
    assert [(spec.func, spec.weight) for spec in funcs] == [("box.iou", 1.0), ("format.think_answer", 0.5)]


# Layouts


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_range_that_a_layout_lacks_goes_aside(name: str) -> None:
    row = {"id": "a", "prompt": "x", "videos": [{"path": "v.mp4", "start": 1.0, "end": 3.0}], "answer": "y"}
    made = from_native(name, row, where="x")
    bare = {key: value for key, value in made.items() if key != "_vlrft"}
    assert ("'start'" in str(bare) or "video_start" in str(bare)) == (name == "verl")
    if name != "verl":
        assert made["_vlrft"]["fields"]["videos"] == row["videos"]
        assert "v.mp4" in str(bare)
    assert to_native(name, made, where="x") == row
