"""Published annotation files for the tests of the forms: made or found, read, and their rows taken through the task."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlrft.data.forms import read_form
from vlrft.data.native import with_media
from vlrft.data.problems import Quarantine, Skipped
from vlrft.data.tasks import build_task
from vlrft.rewards import Judge
from vlrft.types import Sample

Row = dict[str, Any]
SHARED = Path(os.environ.get("VLRFT_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def excerpt(name: str) -> Path:
    """The first rows of a published file; skips the test where they are not at hand."""
    path = SHARED / "formats" / name
    if not path.is_file():
        pytest.skip(f"no {name} in {path.parent} (VLRFT_SHARED_DATA names the folder of real data)")
    return path


def read(form: str, path: Path, **how: Any) -> tuple[list[Row], list[str]]:
    """(rows as the reader makes them, what was left out as `<end of where>: <reason>`). how: as for `_read`."""
    rows, skipped = _read(form, path, **how)
    return rows, [f"{item.where.removeprefix(str(path)).lstrip(':/ ')}: {item.reason}" for item in skipped]


def read_located(form: str, path: Path, **how: Any) -> tuple[list[Row], list[str]]:
    """(rows with their media found, as sources read them, reasons for what was left out). how: as for `_read`."""
    rows, skipped = _read(form, path, **how)
    folder = how.get("images") or (path if path.is_dir() else path.parent)
    return [with_media(row, folder, where="row") for row in rows], [item.reason for item in skipped]


def _read(
    form: str,
    path: Path,
    *,
    split: str | None = None,
    images: Path | None = None,
    policy: Any = "error",
    **options: Any,
) -> tuple[list[Row], list[Skipped]]:
    quarantine = Quarantine(policy=policy)
    found = list(read_form(
        form, path, split=split, images=images, quarantine=quarantine, options=options, what="options"
    ))  # fmt: skip
    assert all(str(path) in where for where, _ in found)
    rows = [row for _, row in found]
    ids = [row["id"] for row in rows if "id" in row]
    assert len(set(ids)) == len(ids)
    return rows, quarantine.skipped


def sample_of(row: Row, folder: Path) -> Sample:
    """The row through its task, with its media found from `folder`."""
    return build_task(row["task"]).to_sample(with_media(row, folder, where="row"), where="row")


def judged(row: Row) -> Sample:
    """The row through its task, with its files opened, its prompt rendered and its right answer judged."""
    task = build_task(row["task"])
    made = task.to_sample(row, where="row")
    size, space = made.meta["image_size"], "abs_original"
    assert task.user_parts(made, space=space, output_mode="think", template=None, input_size=None)
    right = task.reference(made, space=space, image_size=tuple(size), input_size=None, output_mode="think")
    judge = Judge(task.reward_specs(), "think")
    meta = {"coord_space": space, "image_size": size, "num_tokens": 9}
    judge.check(made, meta)
    value = judge.score(right, made, meta).value
    assert value is not None
    # Tiny pictures: the whole pixels of the answer are up to half a pixel off.
    assert value > 0.85, right
    assert (judge.score("<think>so</think><answer></answer>", made, meta).value or 0.0) < 0.2
    return made


def all_judged(rows: list[Row]) -> list[Sample]:
    made = [judged(row) for row in rows]
    assert len({one.id for one in made}) == len(made)
    return made


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def picture(path: Path, size: tuple[int, int] = (40, 30)) -> Path:
    """A grey picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "gray").save(path)
    return path


def pictures(folder: Path, *names: str) -> list[Path]:
    return [picture(folder / name) for name in names]


def encoded(folder: Path) -> bytes:
    """A picture as parquet files hold it."""
    return picture(folder / "encoded.png").read_bytes()


def clips(folder: Path, *names: str) -> None:
    """Videos of one second; how long the annotation says they are is what counts for its rows."""
    from videos import write_video

    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(folder / name, 10, fps=10)
