"""`vlrft validate` on whole files, on places in the model's input, and on a thousand rows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlrft.compose import compose
from vlrft.validate import Report, validate

Row = dict[str, Any]
Check = Callable[..., Report]
REWARDS = {"funcs": [{"func": "box.iou", "weight": 0.9}, {"func": "format.think_answer", "weight": 0.1}]}


def row_of(i: int, **changes: Any) -> Row:
    box = {"box": [2 + i % 20, 4, 20 + i % 30, 30], "space": "abs_original"}
    return {"id": f"r{i}", "prompt": f"square {i}", "images": [f"{i}.png"], "boxes": box, **changes}


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    (tmp_path / "images").mkdir()
    for i in range(12):
        Image.new("RGB", (64, 48), (20 * i, 90, 200)).save(tmp_path / "images" / f"{i}.png")
    return [row_of(i) for i in range(12)]


@pytest.fixture
def check(recipe: Any, tmp_path: Path) -> Check:
    def run(rows: list[Row], held_out: list[Row] | None = None, **data: Any) -> Report:
        for name, listed in (("train", rows), ("eval", held_out)):
            if listed is None:
                data[name] = None
                continue
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))
            data[name] = {"format": "native", "path": f"{name}.jsonl", "images": "images"}
        block = {"root": str(tmp_path), "output_mode": "think", **data}
        return validate(compose(dict(recipe(data=block, rewards=REWARDS, eval={"metrics": ["box.iou"]}))))

    return run


def test_a_thousand_rows_take_seconds(check: Check, rows: list[Row]) -> None:
    many = [row_of(i % 12, id=f"r{i}", prompt=f"square {i}") for i in range(1000)]
    began = time.process_time()
    report = check(many)
    assert time.process_time() - began < 5.0, "of one core, whatever else runs"
    assert report.ok, report.as_text()
    assert report.scores[0].lines[0].count == 1000


def test_files_that_differ_behind_their_start_are_not_the_same(check: Check, rows: list[Row], tmp_path: Path) -> None:
    for name, band in (("a", (255, 0, 0)), ("b", (0, 255, 0)), ("c", (0, 255, 0))):
        # The rows of a BMP file stand upside down: the band is at its end, beyond the first MiB.
        picture = Image.new("RGB", (1024, 1024), (90, 140, 220))
        picture.paste(band, (0, 0, 1024, 200))
        picture.save(tmp_path / "images" / f"{name}.bmp")
    train, same, other = (
        {**rows[0], "id": name, "prompt": "the band", "images": [f"{name}.bmp"]} for name in ("b", "c", "a")
    )
    report = check([train], [same, other])
    [found] = [f for f in report.findings if "the media and the question of a training row" in f.what]
    assert (found.count, found.examples) == (1, ("c (in train: b)",))


@pytest.mark.parametrize("least", [None, 12544])
def test_places_in_an_enlarged_input_are_not_called_wrong(
    least: int | None, check: Check, rows: list[Row], tmp_path: Path
) -> None:
    for i, row in enumerate(rows):
        row["boxes"] = {"box": [5, 5, 70 + i, 52], "space": "abs_input"}
    report = check(rows, **({"min_pixels": least} if least else {}))
    assert report.ok, report.as_text()
    assert not report.of("warning"), report.as_text()
    [note] = [f for f in report.of("note") if "places in abs_input are not compared with the size" in f.what]
    assert (note.count, "--render" in note.next) == (12, True)
    resized = check(rows, resize=[64, 48])
    assert "in space 'abs_input' reaches outside" in resized.of("problem")[0].what, "here the size is known"
