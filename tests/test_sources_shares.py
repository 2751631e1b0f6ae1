"""Rows dealt to ranks: over all of them every row once, whatever the format, and what is left out once too."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlrft.config import DataConfig, SourceConfig
from vlrft.data.problems import DataError, SampleError
from vlrft.data.samplers import ShuffleSampler
from vlrft.data.sources import Loaded, load_samples
from vlrft.data.tables import shard

Row = dict[str, Any]
BOX = {"box": [1, 2, 30, 20], "space": "abs_original"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 30), "gray").save(tmp_path / "a.png")
    return tmp_path


def write(root: Path, name: str, rows: list[Row | str]) -> None:
    text = "".join((item if isinstance(item, str) else json.dumps(item)) + "\n" for item in rows)
    (root / name).write_text(text)


def native(i: int, **changes: Any) -> Row:
    return {"id": f"r{i}", "prompt": f"square {i}", "images": ["a.png"], "boxes": BOX, **changes}


def shares(root: Path, world: int, **source: Any) -> tuple[Loaded, list[Loaded]]:
    """(the whole, the share of each rank)."""
    data = DataConfig(root=str(root), on_bad_sample="skip")
    config = SourceConfig.model_validate({"path": "rows.jsonl", **source} if "mixture" not in source else source)
    dealt = [load_samples(data, config, role="train", rank=rank, world=world) for rank in range(world)]
    return load_samples(data, config, role="train"), dealt


def ids(loaded: Loaded) -> list[str]:
    return [sample.id for sample in loaded.samples]


def assert_once(whole: Loaded, dealt: list[Loaded]) -> None:
    assert Counter(name for share in dealt for name in ids(share)) == Counter(ids(whole))
    assert Counter(item for share in dealt for item in share.skipped) == Counter(whole.skipped)
    assert sum(share.rows for share in dealt) == whole.rows


MIXED: list[Row | str] = [
    native(0), "{", native(2), native(3, prompt=""), native(4), "[1]", native(6), native(7, images=["none.png"]),
    native(8), native(9, boxes={"box": [5, 5, 5, 20]}, meta={"flags": ["no area"]}), native(10),
]  # fmt: skip


@pytest.mark.parametrize("world", [1, 2, 3, 20])
def test_every_row_goes_to_one_rank(root: Path, world: int) -> None:
    write(root, "rows.jsonl", MIXED)
    whole, dealt = shares(root, world)
    assert ids(whole) == ["r0", "r2", "r4", "r6", "r8", "r10"]
    assert len(whole.skipped) == 5
    assert_once(whole, dealt)
    if world == 2:
        assert [ids(share) for share in dealt] == [["r0", "r6", "r8", "r10"], ["r2", "r4"]], "in turn, bad rows too"


def test_layouts_with_repeated_ids(root: Path) -> None:
    rows: list[Row | str] = [
        {"id": i // 3, "image": "a.png", "problem": "x", "solution": json.dumps(BOX["box"])} for i in range(9)
    ]
    write(root, "rows.jsonl", rows)
    assert_once(*shares(root, 2, options={"space": "abs_original"}))


def test_forms_and_mixtures(root: Path) -> None:
    content = {
        "images": [{"id": i, "file_name": "a.png", "width": 40, "height": 30} for i in range(7)],
        "annotations": [
            {"id": i, "image_id": i % 7, "category_id": 1, "bbox": [i, 2, 9, 9 * (i != 3)]} for i in range(9)
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (root / "cats.json").write_text(json.dumps(content))
    write(root, "rows.jsonl", MIXED)
    whole, dealt = shares(root, 3, mixture=[{"path": "cats.json"}, {"path": "rows.jsonl"}])
    assert len(whole.samples) == 10
    assert len(whole.skipped) == 9, "two cats on each of two images, a box without area, and its image"
    assert_once(whole, dealt)


def test_a_limit_is_one_of_the_whole_source(root: Path) -> None:
    write(root, "rows.jsonl", [*MIXED, "{"])
    whole, dealt = shares(root, 2, limit=5)
    assert ids(whole) == ["r0", "r2", "r4", "r6"]
    assert_once(whole, dealt)


def test_every_rank_stops_at_what_any_would(root: Path) -> None:
    write(root, "rows.jsonl", [native(0), native(1), native(1)])
    for rank in range(2):
        with pytest.raises(DataError, match=r"rows\.jsonl:3: id 'r1' is taken already by .*rows\.jsonl:2"):
            load_samples(DataConfig(root=str(root)), SourceConfig(path="rows.jsonl"), role="train", rank=rank, world=2)
    write(root, "rows.jsonl", [native(0), native(1), "{"])
    for rank in range(2):
        with pytest.raises(SampleError, match=r"rows\.jsonl:3"):
            load_samples(DataConfig(root=str(root)), SourceConfig(path="rows.jsonl"), role="train", rank=rank, world=2)
    write(root, "rows.jsonl", [])
    with pytest.raises(DataError, match="no usable sample"):
        load_samples(DataConfig(root=str(root)), SourceConfig(path="rows.jsonl"), role="train", rank=1, world=2)
    with pytest.raises(DataError, match="rank 2 of 2: a rank is a number from 0 to 1"):
        load_samples(DataConfig(root=str(root)), SourceConfig(path="rows.jsonl"), role="train", rank=2, world=2)


def test_only_the_media_of_a_share_are_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import vlrft.data.tasks.media_fields as media_fields

    opened: list[Any] = []
    measure = media_fields.image_size
    monkeypatch.setattr(media_fields, "image_size", lambda ref: opened.append(ref) or measure(ref))
    write(root, "rows.jsonl", [native(i) for i in range(6)])
    data = DataConfig(root=str(root))
    load_samples(data, SourceConfig(path="rows.jsonl"), role="train", rank=0, world=3)
    assert len(opened) == 2


def test_a_batch_is_dealt_after_it_is_drawn(root: Path) -> None:
    """Ranks that draw with equal samplers get every sample of every step once, however many they are."""
    write(root, "rows.jsonl", [native(i) for i in range(10)])
    samples = load_samples(DataConfig(root=str(root)), SourceConfig(path="rows.jsonl"), role="train").samples
    alone = ShuffleSampler(samples, seed=3)
    ranks = [ShuffleSampler(samples, seed=3) for _ in range(4)]
    for step in range(7):
        drawn = [sample.id for sample in alone.propose(step, 6)]
        dealt = [[s.id for s in shard(own.propose(step, 6), rank, 4)] for rank, own in enumerate(ranks)]
        assert Counter(name for share in dealt for name in share) == Counter(drawn)
        assert len(set(drawn)) == 6
