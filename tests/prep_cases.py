"""What the tests of the converters share: pictures, files in a published layout, rows checked by the task."""

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
from vlrft.rewards import Judge
from vlrft.types import Sample

Row = dict[str, Any]
FORMATS = Path(os.environ.get("VLRFT_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "formats"
needs_formats = pytest.mark.skipif(
    not FORMATS.is_dir(), reason=f"no published rows in {FORMATS} (set VLRFT_SHARED_DATA)"
)


def picture(path: Path, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "gray").save(path)
    return path


def save(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
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
    """(rows as sources read them, reasons for what was left out)."""
    quarantine = Quarantine(policy=policy)
    rows = read_form(
        form, path, split=split, images=images, quarantine=quarantine, options=options, what="options"
    )  # fmt: skip
    folder = images or (path if path.is_dir() else path.parent)
    made = [with_media(row, folder, where=where) for where, row in rows]
    return made, [skipped.reason for skipped in quarantine.skipped]


def sample(row: Row) -> Sample:
    """The row as its task reads it, with its files opened, its prompt rendered and its right answer judged."""
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


def samples(rows: list[Row]) -> list[Sample]:
    made = [sample(row) for row in rows]
    assert len({one.id for one in made}) == len(made)
    return made
