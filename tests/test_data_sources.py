"""Rows of every layout, and every kind of bad row: a clear error, or a counted and listed skip."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vlrft.config import DataConfig, SourceConfig
from vlrft.data.media import open_image
from vlrft.data.problems import DataError, SampleError
from vlrft.data.sources import Loaded, Role, load_samples
from vlrft.registry import UnknownNameError
from vlrft.types import MediaPart, TextPart

GOOD: dict[str, Any] = {
    "id": "a",
    "prompt": "the dog",
    "images": ["pics/a.png"],
    "boxes": {"box": [1, 2, 30, 20], "space": "abs_original"},
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "pics").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (40, 30), "gray").save(tmp_path / "pics" / f"{name}.png")
    return tmp_path


def _write(root: Path, *rows: dict[str, Any] | str) -> Path:
    path = root / "rows.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def _load(
    root: Path,
    *,
    on_bad: Literal["error", "skip"] = "error",
    role: Role = "train",
    task: str = "grounding",
    **source: Any,
) -> Loaded:
    config = SourceConfig(**{"path": "rows.jsonl", **source})
    return load_samples(DataConfig(root=str(root), on_bad_sample=on_bad, task=task), config, role=role)


def test_native_jsonl(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    second = {
        **GOOD,
        "id": 7,
        "images": [str(root / "pics/b.png")],
        "boxes": None,
        "answer": "[0, 0, 5, 5]",
        "hard": True,
    }
    _write(root, GOOD, "", {**second, "meta": {"source": "x", "empty": None}})
    with caplog.at_level(logging.INFO, logger="vlrft"):
        loaded = _load(root)
    assert "read as native, by suffix .jsonl" in caplog.text
    first, second_sample = loaded.samples
    assert (first.id, first.target, first.target_space) == ("a", [1.0, 2.0, 30.0, 20.0], "abs_original")
    assert first.parts == (MediaPart(index=0), TextPart(text="the dog"))
    assert first.media[0].path == str(root / "pics/a.png")
    assert (second_sample.id, second_sample.target) == ("7", [0.0, 0.0, 5.0, 5.0])
    assert second_sample.meta == {"hard": True, "source": "x", "image_size": [40, 30]}
    assert loaded.skipped == []


def test_ids_come_from_the_line_where_the_row_has_none(root: Path) -> None:
    row = {key: value for key, value in GOOD.items() if key != "id"}
    _write(root, row, "", row)
    assert [s.id for s in _load(root).samples] == ["rows-1", "rows-3"]


def test_parquet_with_bytes(root: Path) -> None:
    encoded = (root / "pics/a.png").read_bytes()
    rows = [
        {**GOOD, "images": [{"bytes": encoded, "path": None}], "answer": None},
        {**GOOD, "id": "b", "images": [{"bytes": None, "path": "pics/b.png"}], "answer": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), root / "train-00000.parquet")
    first, second = _load(root, path=None, split="train").samples
    assert open_image(first.media[0]).size == (40, 30)
    assert second.media[0].path == str(root / "pics/b.png")


def test_typed_parts_keep_their_places(root: Path) -> None:
    content = [{"type": "text", "text": "In "}, {"type": "image"}, {"type": "text", "text": " find <image>"}]
    _write(root, {**GOOD, "prompt": [{"role": "user", "content": content}]})
    (sample,) = _load(root).samples
    assert sample.parts == (TextPart(text="In "), MediaPart(index=0), TextPart(text=" find <image>"))


def test_images_folder_limit_and_answer_style(root: Path) -> None:
    _write(root, {**GOOD, "images": ["a.png"]}, {**GOOD, "id": "b", "images": ["nowhere.png"]})
    (sample,) = _load(root, images="pics", limit=1, options={"answer_style": "plain"}).samples
    assert sample.meta["answer_style"] == "plain"


def _with(**changes: Any) -> dict[str, Any]:
    return {**GOOD, **changes}


def _box(*box: float, space: str = "abs_original") -> dict[str, Any]:
    return _with(boxes={"box": list(box), "space": space})


BAD_ROWS: list[tuple[str, dict[str, Any] | str, str]] = [
    ("bad json", '{"id": "a", "prompt"', "not valid JSON"),
    ("not an object", "[1, 2]", "a list and not an object"),
    ("no target", {k: v for k, v in GOOD.items() if k != "boxes"}, r"no `boxes` \(columns: id, prompt, images\)"),
    (
        "target elsewhere",
        {**{k: v for k, v in GOOD.items() if k != "boxes"}, "solution": "x"},
        "but `solution`.*rename",
    ),
    (
        "prompt elsewhere",
        {**{k: v for k, v in GOOD.items() if k != "prompt"}, "problem": "x"},
        "no `prompt`, but `problem`",
    ),
    ("prompt misspelt", {**{k: v for k, v in GOOD.items() if k != "prompt"}, "promt": "x"}, "did you mean 'promt'"),
    ("image elsewhere", {**{k: v for k, v in GOOD.items() if k != "images"}, "image": "x"}, "no `images`, but `image`"),
    ("empty prompt", _with(prompt=" "), "`prompt` is empty"),
    ("marker in text", _with(prompt="<image> the dog"), "holds the text <image>"),
    ("two messages", _with(prompt=[{"role": "user", "content": "x"}] * 2), "exactly one user message"),
    ("slots differ", _with(prompt=[{"role": "user", "content": "the dog"}]), "0 image parts, but `images` has 1"),
    ("unknown part", _with(prompt=[{"role": "user", "content": [{"type": "audio"}]}]), "not a text or image part"),
    ("images not a list", _with(images="pics/a.png"), "write a list"),
    ("two images", _with(images=["pics/a.png", "pics/b.png"]), "has 2 images"),
    ("address", _with(images=["https://x.org/a.png"]), "download it"),
    ("no such image", _with(images=["pics/c.png"]), r"pics/c\.png: no such file"),
    ("not an image", _with(images=["rows.jsonl"]), "not an image"),
    ("videos", _with(videos=["x.mp4"]), "does not take"),
    ("other size", _with(width=30, height=40), "for a 30x40 image, but .* is 40x30"),
    ("unknown space", _box(1, 2, 3, 4, space="norm_100"), "did you mean 'norm_1000'"),
    ("space misplaced", _with(coord_space="norm_1"), "`coord_space` is not read"),
    ("boxes key", _with(boxes={"boxs": [[1, 2, 3, 4]]}), "unknown key 'boxs'; did you mean 'boxes'"),
    ("several boxes", _with(boxes={"boxes": [[1, 2, 3, 4], [1, 2, 3, 4]]}), "lists 2 boxes"),
    ("boxes type", _with(boxes=[1, 2, 3, 4]), "`boxes` is"),
    ("outside", _box(1, 2, 41, 20), "outside the 40x30 image.*norm_1000"),
    ("negative", _box(-3, 2, 20, 20), "outside the 40x30 image"),
    ("over norm_1", _box(1, 2, 30, 20, space="norm_1"), r"outside 0\.\.1.*it would fit abs_original or norm_1000"),
    ("over norm_1000", _box(1, 2, 1001, 20, space="norm_1000"), r"outside 0\.\.1000"),
    ("fractions as pixels", _box(0.1, 0.2, 0.5, 0.9), "say space 'norm_1'"),
    ("xywh", _box(20, 15, 10, 10), r"not \[x, y, width, height\]"),
    ("no area", _box(5, 5, 5, 20), "has no area"),
    ("no area once cut", _box(40, 5, 40.4, 20), "has no area"),
    ("three numbers", _box(1, 2, 3), "not four numbers"),
    ("text box", _with(boxes=None, answer="on the left"), "is not a box"),
    ("meta", _with(meta=[1]), "`meta` is"),
    ("style", _with(meta={"answer_style": "xml"}), "use one of json, plain"),
    ("nan", json.dumps(_box(1, 2, 3, 4)).replace("1,", "NaN,", 1), "NaN"),
]


@pytest.mark.parametrize(("row", "says"), [pytest.param(row, says, id=name) for name, row, says in BAD_ROWS])
def test_bad_row_is_an_error_or_a_listed_skip(root: Path, row: dict[str, Any] | str, says: str) -> None:
    _write(root, {**GOOD, "id": "good"}, row)
    with pytest.raises(SampleError, match=f"rows.jsonl:2: .*{says}"):
        _load(root)
    loaded = _load(root, on_bad="skip")
    assert [s.id for s in loaded.samples] == ["good"]
    (skipped,) = loaded.skipped
    assert skipped.where.startswith(f"{root / 'rows.jsonl'}:2")


def test_box_a_rounding_over_the_edge_is_cut(root: Path) -> None:
    _write(root, _box(0, 0, 40.01, 30.3))
    assert _load(root).samples[0].target == [0.0, 0.0, 40.0, 30.0]


def test_duplicate_ids_name_both_rows(root: Path) -> None:
    _write(root, GOOD, GOOD)
    with pytest.raises(DataError, match=r"rows\.jsonl:2: id 'a' is taken already by .*rows\.jsonl:1"):
        _load(root, on_bad="skip")


def test_nothing_left_says_what_was_skipped(root: Path) -> None:
    _write(root, _box(1, 2, 41, 20))
    with pytest.raises(DataError, match=r"data\.train holds no usable sample; first of 1 skipped.*outside"):
        _load(root, on_bad="skip")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({"path": "none.jsonl"}, r"no file or folder .*none\.jsonl"),
        ({"path": "none", "format": "voc"}, "no file or folder"),
        ({"path": "pics"}, r"none of the known layouts \(it holds: a\.png, b\.png\)"),
        ({"path": "pics/a.png"}, r"unknown suffix '\.png'"),
        ({"path": "rows.json"}, "no COCO detection file"),
        ({"path": "broken.json"}, "not valid JSON"),
        ({"path": "broken.parquet"}, "not a readable parquet file"),
        ({"path": None, "split": "test", "format": "native"}, "whose name starts with 'test'"),
        ({"images": "nowhere"}, r"data\.train\.images: no folder"),
        ({"options": {"answer_stile": "plain"}}, "did you mean 'answer_style'"),
        ({"options": {"answer_style": "xml"}}, r"data\.train\.options"),
        ({"classes": ["dog"]}, "native rows state prompts"),
    ],
)
def test_bad_source_is_an_error_whatever_the_policy(root: Path, source: dict[str, Any], says: str) -> None:
    _write(root, GOOD)
    (root / "rows.json").write_text("[]")
    (root / "broken.json").write_text("{")
    (root / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=says):
        _load(root, on_bad="skip", **source)


def test_unknown_task_lists_the_known(root: Path) -> None:
    _write(root, GOOD)
    with pytest.raises(UnknownNameError, match=r"unknown task 'groundin'; did you mean 'grounding'"):
        _load(root, task="groundin")


def test_import_loads_no_heavy_library() -> None:
    code = "import sys, vlrft.data.sources, vlrft.data.samplers, vlrft.data.media; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "PIL", "numpy", "pyarrow"} & set(loaded)
