"""Published annotation files for the tests of the forms: read one, and take its rows through their task."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlrft.data.forms import read_form
from vlrft.data.native import with_media
from vlrft.data.problems import Quarantine
from vlrft.data.tasks import build_task
from vlrft.types import Sample

Row = dict[str, Any]
SHARED = Path(os.environ.get("VLRFT_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def excerpt(name: str) -> Path:
    """The first rows of a published file; skips the test where they are not at hand."""
    path = SHARED / "formats" / name
    if not path.is_file():
        pytest.skip(f"no {name} in {path.parent} (VLRFT_SHARED_DATA names the folder of real data)")
    return path


def read(
    form: str,
    path: Path,
    *,
    split: str | None = None,
    images: Path | None = None,
    policy: Any = "error",
    **options: Any,
) -> tuple[list[Row], list[str]]:
    """(rows, what was left out as `<end of where>: <reason>`)."""
    quarantine = Quarantine(policy=policy)
    found = read_form(
        form, path, split=split, images=images, quarantine=quarantine, options=options, what="options"
    )  # fmt: skip
    rows = []
    for where, row in found:
        assert str(path) in where
        rows.append(row)
    ids = [row["id"] for row in rows]
    assert len(set(ids)) == len(ids)
    return rows, [f"{item.where.removeprefix(str(path)).lstrip(':/ ')}: {item.reason}" for item in quarantine.skipped]


def sample_of(row: Row, folder: Path) -> Sample:
    """The row through its task, with its media found from `folder`."""
    return build_task(row["task"]).to_sample(with_media(row, folder, where="row"), where="row")


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def pictures(folder: Path, *names: str) -> list[Path]:
    """Grey pictures of 40x30 pixels."""
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), "gray").save(path)
    return paths


def encoded(folder: Path) -> bytes:
    """A picture as parquet files hold it."""
    return pictures(folder, "encoded.png")[0].read_bytes()


def clips(folder: Path, *names: str) -> None:
    """Videos of one second; how long the annotation says they are is what counts for its rows."""
    from videos import write_video

    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(folder / name, 10, fps=10)
