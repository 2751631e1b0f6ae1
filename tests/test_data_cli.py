"""`vlrft data`: convert there and back, list, look into files; what it prints is what it did."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from vlrft.cli import app, is_user_error
from vlrft.data import prep
from vlrft.data.layouts import LAYOUTS
from vlrft.data.prep import FORMS, Form
from vlrft.data.problems import Quarantine, SampleError

SHARED = Path(os.environ.get("VLRFT_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
FORMATS = SHARED / "formats"
needs_formats = pytest.mark.skipif(
    not FORMATS.is_dir(), reason=f"no published rows in {FORMATS} (set VLRFT_SHARED_DATA)"
)

Row = dict[str, Any]


def _run(*args: Any) -> str:
    result = CliRunner().invoke(app, ["data", *map(str, args)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def _refused(*args: Any) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        CliRunner().invoke(app, ["data", *map(str, args)], catch_exceptions=False)
    assert is_user_error(caught.value), f"{type(caught.value)} would be shown with a traceback"
    return str(caught.value)


def _rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def swift(tmp_path: Path) -> Path:
    """A file of ms-swift rows: two good ones, three bad ones of two kinds."""
    (tmp_path / "in").mkdir()
    good = {
        "messages": [{"role": "user", "content": "<image>Where?"}],
        "images": ["p/a.png"],
        "solution": "<answer>x</answer>",
    }
    bad = {**good, "images": ["p/a.png", "p/b.png"]}
    lines = [good, bad, {**good, "images": ["/elsewhere/c.png"]}, {**good, "images": ["p"] * 3}]
    path = tmp_path / "in" / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in lines) + "[1]\n")
    return path


def test_convert_says_what_it_did_and_lists_what_it_left_out(swift: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "native.jsonl"
    said = _run("convert", "auto", swift, "--out", out, "--task", "open_qa").splitlines()
    assert said == [
        f"{swift}: ms-swift, told by suffix .jsonl, messages and solution",
        f"read 5, written 2, left out 3: {out}",
        f"       2 x the text has 1 <image> markers, but the row has 2 images; make them agree  (first: {swift}:2)",
        f"       1 x is JSON, but a list and not an object with columns  (first: {swift}:5)",
        f"all that was left out, with reasons: {out}.left_out",
        f"media paths are relative to {swift.parent}; a recipe says so with the source's images",
    ]
    assert _rows(out) == [
        {"id": "rows-1", "prompt": "Where?", "images": ["p/a.png"], "answer": "x", "task": "open_qa"},
        {"id": "rows-3", "prompt": "Where?", "images": ["/elsewhere/c.png"], "answer": "x", "task": "open_qa"},
    ]
    assert [row["where"] for row in _rows(Path(f"{out}.left_out"))] == [f"{swift}:{n}" for n in (2, 4, 5)]


def test_nothing_is_overwritten_without_force(swift: Path, tmp_path: Path) -> None:
    out = tmp_path / "native.jsonl"
    _run("convert", "ms-swift", swift, "--out", out)
    before = out.read_bytes()
    assert "native.jsonl exists already" in _refused("convert", "ms-swift", swift, "--out", out)
    out.unlink()
    assert ".left_out exists already" in _refused("convert", "ms-swift", swift, "--out", out)
    assert not out.exists()
    good = tmp_path / "good.jsonl"
    good.write_text(swift.read_text().splitlines()[0] + "\n")
    _run("convert", "ms-swift", good, "--out", out, "--force")
    assert out.read_bytes() != before
    assert not Path(f"{out}.left_out").exists(), "the list of an earlier conversion"


def test_a_conversion_that_writes_no_row_leaves_no_file(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text('{"problem": "<image>x", "answer": "1"}\n')
    said = _refused("convert", "easyr1", source, "--out", tmp_path / "out.parquet")
    assert "no row could be used, nothing is written; the first of 1: " in said
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("easyr2", "rows.jsonl", "--out", "o.jsonl"), "FORM: unknown format 'easyr2'; did you mean 'easyr1'"),
        (("auto", "rows.jsonl", "--out", "o.jsonl", "--to", "trll"), "--to: unknown layout 'trll'; did you mean 'trl'"),
        (("auto", "none.jsonl", "--out", "o.jsonl"), "no file or folder"),
        (("auto", "rows.jsonl", "--out", "o.csv"), "rows are written as .jsonl or .parquet"),
        (("auto", "rows.jsonl", "--out", "o.jsonl", "--images", "none"), "--images: no folder none"),
        (("shapes", "rows.jsonl", "--out", "o.jsonl"), "shapes has no annotation files to convert"),
        (("auto", "rows.jsonl", "--out", "o.jsonl", "--option", "space"), "--option 'space' is not KEY=VALUE"),
        (("auto", "rows.jsonl", "--out", "o.jsonl", "--option", "space=norm"), "--option: space is 'norm'"),
        (
            ("auto", "rows.jsonl", "--out", "o.jsonl", "--option", "spice=norm"),
            "rows have no option 'spice'; they take: space",
        ),
        (("auto", "rows.jsonl", "--out", "o.jsonl", "--task", "maths"), "unknown task 'maths'; did you mean 'math'"),
        (("auto", "rows.jsonl", "--out", "o.jsonl", "--task", "grounding"), "does not state the coordinate space"),
    ],
)
def test_a_bad_request_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"problem": "x", "solution": "[1, 2, 3, 4]", "image": "a.png"}\n')
    assert says in _refused("convert", *args)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_answers_take_the_form_of_the_task(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text('{"problem": "x", "solution": "<answer>[1, 2, 3, 4]</answer>", "image": "a.png"}\n')
    out = tmp_path / "out.jsonl"
    _run("convert", "auto", source, "--out", out, "--task", "grounding", "--option", "space=norm_1000")
    (row,) = _rows(out)
    assert (row["answer"], row["boxes"], row["task"]) == ([1, 2, 3, 4], {"space": "norm_1000"}, "grounding")
    _run("convert", "auto", source, "--out", out, "--force")
    (row,) = _rows(out)
    assert (row["answer"], "boxes" in row, "task" in row) == ("[1, 2, 3, 4]", False, False)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_native_to_a_layout_says_what_it_keeps_aside(layout: str, tmp_path: Path) -> None:
    native = {
        "id": "a",
        "prompt": "x",
        "images": ["a.png"],
        "answer": [1, 2],
        "meta": {"duration": 3.5},
        "task": "math",
    }
    source = tmp_path / "native.jsonl"
    source.write_text(json.dumps(native) + "\n")
    there, back = tmp_path / "there.parquet", tmp_path / "back.jsonl"
    said = _run("convert", "native", source, "--out", there, "--to", layout)
    assert f"kept under _vlrft, for {layout} has no place for it: answer (1 rows), meta (1 rows), task (1 rows)" in said
    said = _run("convert", "auto", there, "--out", back)
    assert f"{there}: {layout}, told by suffix .parquet" in said
    assert _rows(back) == [native]


def test_embedded_pictures_stay_bytes_become_text_or_files(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    picture = (tmp_path / "a.png").read_bytes()
    pq.write_table(
        __import__("pyarrow").Table.from_pylist(
            [{"problem": "x", "solution": "1", "image": {"bytes": picture, "path": "a.png"}}] * 2
        ),
        tmp_path / "in.parquet",
    )
    _run("convert", "auto", tmp_path / "in.parquet", "--out", tmp_path / "bytes.parquet")
    assert pq.read_table(tmp_path / "bytes.parquet").to_pylist()[0]["images"] == [{"bytes": picture, "path": "a.png"}]
    _run("convert", "auto", tmp_path / "in.parquet", "--out", tmp_path / "text.jsonl")
    assert _rows(tmp_path / "text.jsonl")[0]["images"][0].startswith("data:image/png;base64,")
    _run("convert", "native", tmp_path / "text.jsonl", "--out", tmp_path / "again.parquet")
    assert pq.read_table(tmp_path / "again.parquet").to_pylist()[0]["images"] == [{"bytes": picture}]
    _run("convert", "auto", tmp_path / "in.parquet", "--out", tmp_path / "files.jsonl", "--extract", tmp_path / "media")
    (file,) = (tmp_path / "media").iterdir()
    assert file.read_bytes() == picture
    assert [row["images"] for row in _rows(tmp_path / "files.jsonl")] == [[f"media/{file.name}"]] * 2


def form_of_tests(
    path: Path, *, split: str | None, images: Path | None, quarantine: Quarantine, keep: bool = False
) -> Iterator[tuple[str, Row]]:
    """A reader as data/prep holds them."""
    folder = images or path.parent / "pictures"
    for number, name in enumerate(path.read_text().split(), start=1):
        if name.startswith("odd") and not keep:
            quarantine.filtered(f"{path}:{number}", f"{name!r} is odd, like number {number}")
            continue
        yield f"{path}:{number}", {"id": name, "prompt": f"{split}", "images": [str(folder / name)], "answer": "x"}


def test_a_form_with_its_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(prep.FORMS, "ours", Form(reader=f"{__name__}:form_of_tests", seen=True, about="for tests"))
    source = tmp_path / "list.txt"
    source.write_text("a.png odd1.png odd2.png")
    said = _run("convert", "ours", source, "--out", tmp_path / "o.jsonl", "--split", "val")
    assert "read 3, written 1, left out 2" in said
    assert f"       2 x 'odd1.png' is odd, like number 2  (first: {source}:2)" in said
    assert _rows(tmp_path / "o.jsonl")[0]["images"] == ["pictures/a.png"]
    (tmp_path / "pictures").mkdir()
    said = _run("convert", "ours", source, "--out", tmp_path / "p.jsonl", "--images", tmp_path / "pictures",
                "--option", "keep=true", "--task", "open_qa")  # fmt: skip
    assert "read 3, written 3, left out 0" in said
    assert _rows(tmp_path / "p.jsonl")[1] == {
        "id": "odd1.png",
        "prompt": "None",
        "images": ["odd1.png"],
        "answer": "x",
        "task": "open_qa",
    }
    said = _refused("convert", "ours", source, "--out", tmp_path / "q.jsonl", "--option", "kep=true")
    assert "the form ours has no option 'kep'; did you mean 'keep'?; it takes: keep" in said


def test_a_form_that_cannot_read_the_file_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path, **_: Any) -> Iterator[tuple[str, Row]]:
        raise SampleError(str(path), "is not what the form says")
        yield

    monkeypatch.setattr("test_data_cli.broken_form", broken, raising=False)
    monkeypatch.setitem(prep.FORMS, "ours", Form(reader=f"{__name__}:broken_form", seen=False, about="for tests"))
    (tmp_path / "x").write_text("x")
    said = _refused("convert", "ours", tmp_path / "x", "--out", tmp_path / "o.jsonl")
    assert "is not what the form says" in said


def test_ls_names_every_form_and_layout() -> None:
    said = _run("ls")
    for name, form in FORMS.items():
        line = next(line for line in said.splitlines() if line.strip().startswith(f"{name} "))
        assert ("seen" if form.seen else "documented") in line
        assert line.endswith(form.about)
    for name, layout in LAYOUTS.items():
        assert f"{name} " in said
        assert layout.ABOUT in said


def test_head_shows_layout_columns_and_rows(swift: Path) -> None:
    said = _run("head", swift, "-n", "2").splitlines()
    assert said[0] == f"{swift}: ms-swift, by suffix .jsonl, messages and solution"
    assert said[1] == "columns: messages (list), images (list), solution (str)"
    assert said[2] == f"{swift}:1"
    assert '    answer: "x"' in said
    assert "    cannot be read: the text has 1 <image> markers, but the row has 2 images; make them agree" in said


def test_head_of_other_things(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "x", "images": ["a"], "answer": "' + "y" * 200 + '"}\n[1]\n')
    said = _run("head", rows)
    assert "native, by suffix .jsonl, columns prompt, answer" in said
    assert "y" * 96 + "..." in said
    assert "is JSON, but a list" in said
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val.json").write_text("{}")
    assert "see its rows with: vlrft data convert coco" in _run("head", tmp_path)


@needs_formats
def test_published_rows_there_and_back(tmp_path: Path) -> None:
    source = FORMATS / "vlm_r1_gui_multi_image.jsonl"
    native, there, back = (tmp_path / name for name in ("native.jsonl", "there.parquet", "back.jsonl"))
    assert "read 10, written 10, left out 0" in _run(
        "convert", "auto", source, "--out", native, "--task", "classification"
    )
    _run("convert", "native", native, "--out", there, "--to", "verl")
    _run("convert", "auto", there, "--out", back)
    assert _rows(back) == _rows(native)
    assert _rows(native)[0]["images"][1] == "GOOGLE_APPS-13827913961707074815_14.png"


@needs_formats
def test_the_docs_show_what_the_commands_print(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = (Path(__file__).resolve().parents[1] / "docs" / "data.md").read_text()
    for name in LAYOUTS:
        assert f"| `{name}` |" in docs
    monkeypatch.chdir(tmp_path)
    name = "r1v_superclevr_counting.jsonl"
    Path(name).write_bytes((FORMATS / name).read_bytes())
    assert f"$ vlrft data head {name} -n 1\n{_run('head', name, '-n', '1')}" in docs
    _run("convert", "auto", name, "--out", "counting.jsonl", "--task", "counting")
    said = _run("convert", "native", "counting.jsonl", "--out", "counting.parquet", "--to", "verl")
    assert said.replace(str(tmp_path), "/data") in docs
    rows = [json.loads(line) for line in (FORMATS / "vlm_r1_gui_multi_image.jsonl").read_text().splitlines()]
    rows[3]["image"] = rows[3]["image"][:1]
    rows[3]["conversations"][0]["value"] = "<image><image>" + rows[3]["conversations"][0]["value"]
    rows[7]["conversations"].append({"from": "human", "value": "Sure?"})
    Path("gui.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = _run("convert", "auto", "gui.jsonl", "--out", "gui_native.jsonl", "--task", "classification")
    assert said.replace(str(tmp_path), "/data") in docs
