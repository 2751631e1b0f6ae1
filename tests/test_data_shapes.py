"""Generated scenes: the same bytes every time, boxes that are true, questions that name one shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlrft.config import DataConfig, SourceConfig
from vlrft.data.problems import DataError
from vlrft.data.scene import COLORS, GROUND, KINDS
from vlrft.data.shapes import ShapesOptions, write_shapes
from vlrft.data.sources import Loaded, Role, load_samples


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _load(root: Path, options: dict[str, Any], *, role: Role = "train", train: dict[str, Any] | None = None) -> Loaded:
    data = DataConfig(root=str(root), train=SourceConfig(format="shapes", options=train or {}))
    return load_samples(data, SourceConfig(format="shapes", options=options), role=role)


def test_same_options_same_bytes(tmp_path: Path) -> None:
    options = ShapesOptions(n=4, noise=12.0, box_noise=5.0, shapes_per_scene=3, max_size=24)
    first, second = write_shapes(options, tmp_path / "a"), write_shapes(options, tmp_path / "b")
    assert first.name == second.name
    assert _files(first) == _files(second)
    other = write_shapes(options.model_copy(update={"seed": 1}), tmp_path / "a")
    assert other != first
    assert _files(other)["images/000000.png"] != _files(first)["images/000000.png"]


def test_cache_is_used_and_nothing_else_left(tmp_path: Path) -> None:
    options = ShapesOptions(n=2)
    folder = write_shapes(options, tmp_path)
    before = (folder / "rows.jsonl").stat().st_mtime_ns
    assert write_shapes(options, tmp_path) == folder
    assert (folder / "rows.jsonl").stat().st_mtime_ns == before
    assert list(tmp_path.iterdir()) == [folder]


def test_failure_leaves_no_folder(tmp_path: Path) -> None:
    crowded = ShapesOptions(n=1, shapes_per_scene=6, min_size=40, max_size=40)
    with pytest.raises(DataError, match=r"6 shapes of 40\.\.40 px do not fit a 84x84 canvas"):
        write_shapes(crowded, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_shape_touches_its_box_and_no_pixel_leaves_it(tmp_path: Path, kind: str) -> None:
    folder = write_shapes(ShapesOptions(n=12, kinds=[kind], min_size=8, grid=4, colors=list(COLORS)), tmp_path)
    for row in _rows(folder):
        pixels = np.asarray(Image.open(folder / row["images"][0]))
        ys, xs = np.nonzero((pixels != GROUND).any(axis=2))
        x1, y1, x2, y2 = row["boxes"]["box"]
        assert [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] == [x1, y1, x2, y2]
        assert not {x1 % 4, y1 % 4, x2 % 4, y2 % 4} - {0}
        color, named = row["meta"]["label"].split()
        assert named == kind
        assert tuple(pixels[(y1 + y2) // 2, (x1 + x2) // 2]) == COLORS[color]
        assert (kind in ("rectangle", "ellipse")) == (x2 - x1 != y2 - y1)


def test_question_is_unambiguous_among_several_shapes(tmp_path: Path) -> None:
    """Pixels of the asked colour and outside the box belong to another kind; the pair is unique by construction."""
    folder = write_shapes(
        ShapesOptions(n=20, shapes_per_scene=3, kinds=["square", "circle"], colors=["red", "blue"], max_size=24),
        tmp_path,
    )
    for row in _rows(folder):
        pixels = np.asarray(Image.open(folder / row["images"][0]))
        color, kind = row["meta"]["label"].split()
        x1, y1, x2, y2 = row["boxes"]["box"]
        same = (pixels == COLORS[color]).all(axis=2)
        filled = same[y1:y2, x1:x2].mean()
        assert (filled == 1.0) == (kind == "square")
        same[y1:y2, x1:x2] = False
        ys, xs = np.nonzero(same)
        if len(ys):
            rest = same[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1].mean()
            assert (rest == 1.0) == (kind == "circle")


def test_label_noise_moves_the_label_only(tmp_path: Path) -> None:
    clean = _rows(write_shapes(ShapesOptions(n=30), tmp_path))
    folder = write_shapes(ShapesOptions(n=30, box_noise=6.0), tmp_path)
    noisy = _rows(folder)
    moved = 0
    for before, after in zip(clean, noisy, strict=True):
        assert after["meta"]["true_box"] == before["boxes"]["box"]
        assert after["prompt"] == before["prompt"]
        x1, y1, x2, y2 = after["boxes"]["box"]
        assert 0 <= x1 < x2 <= 84
        assert 0 <= y1 < y2 <= 84
        assert not {v % 4 for v in (x1, y1, x2, y2)} - {0}
        moved += after["boxes"]["box"] != before["boxes"]["box"]
    assert moved > 20
    assert (
        _files(folder)["images/000003.png"] == _files(write_shapes(ShapesOptions(n=30), tmp_path))["images/000003.png"]
    )


def test_scene_does_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    assert _rows(write_shapes(ShapesOptions(n=2), tmp_path)) == _rows(write_shapes(ShapesOptions(n=5), tmp_path))[:2]


def test_loads_as_samples_and_roles_get_other_scenes(tmp_path: Path) -> None:
    train = _load(tmp_path, {"n": 6})
    held_out = _load(tmp_path, {"n": 6}, role="eval")
    assert len(train.samples) == len(held_out.samples) == 6
    assert not {s.id for s in train.samples} & {s.id for s in held_out.samples}
    assert train.samples[0].meta["answer_style"] == "plain"
    assert train.samples[0].meta["image_size"] == [84, 84]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"box_nois": 1.0}, r"data\.train\.options: unknown 'box_nois'; did you mean 'box_noise'"),
        ({"n": 0}, r"data\.train\.options\.n: "),
        ({"min_size": 15}, "multiples of grid 4"),
        ({"max_size": 96}, "need min_size <= max_size <= canvas"),
        ({"kinds": ["sqare"]}, "unknown 'sqare'; did you mean 'square'"),
        ({"colors": ["pink"]}, "colors: unknown 'pink'"),
        ({"shapes_per_scene": 13}, "add colors or kinds"),
        ({"kinds": ["ellipse"], "min_size": 16, "max_size": 16}, "need min_size < max_size"),
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        _load(tmp_path, options)


def test_held_out_labels_must_be_true(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="held-out labels must be true"):
        _load(tmp_path, {"box_noise": 2.0}, role="eval")


def test_held_out_scenes_show_nothing_that_training_shows_nor_one_thing_twice(tmp_path: Path) -> None:
    # A small world, drawn from far more often than it has scenes, and with the same seed on both sides.
    world = {"seed": 3, "size": (40, 40), "grid": 10, "min_size": 10, "max_size": 20}

    def shown(role: str, n: int) -> list[tuple[object, ...]]:
        samples = _load(tmp_path, {**world, "n": n}, role=role).samples
        return [(s.meta["label"], tuple(s.target)) for s in samples]

    train, held_out = shown("train", 1500), shown("eval", 60)
    assert len(set(train)) > 180
    assert len(set(held_out)) == 60
    assert not set(train) & set(held_out)
    with pytest.raises(DataError, match=r"data\.eval\.options: .*too few different scenes for 200 held-out ones"):
        shown("eval", 200)


def test_the_side_cannot_be_chosen(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown 'role'"):
        _load(tmp_path, {"role": "train"}, role="eval")
