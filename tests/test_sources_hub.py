"""Datasets of the library `datasets`: saved folders and streams, read like any other rows; a clear word without it."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from videos import write_video

from vlrft.config import DataConfig, SourceConfig
from vlrft.data.detect import detect_format
from vlrft.data.media import open_image
from vlrft.data.problems import DataError
from vlrft.data.sources import load_samples
from vlrft.data.tables import RowStream

try:
    import datasets
except ImportError:
    datasets = None  # type: ignore[assignment]
needs_datasets = pytest.mark.skipif(datasets is None, reason="the library datasets is not installed (extra hf)")


def _picture(color: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), color).save(buffer, format="PNG")
    return buffer.getvalue()


def _dataset() -> Any:
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "images": datasets.Sequence(datasets.Image()),
            "problem": datasets.Value("string"),
            "solution": datasets.ClassLabel(names=["cat", "dog"]),
            "note": datasets.Value("string"),
        }
    )
    rows = {
        "image": [{"bytes": _picture(color), "path": None} for color in ("red", "green", "blue")],
        "images": [[], [{"bytes": _picture("black"), "path": None}], []],
        "problem": ["Which?", "What?", "Who?"],
        "solution": [1, 0, -1],
        "note": ["x", None, None],
    }
    return datasets.Dataset.from_dict(rows, features=features)


@needs_datasets
def test_a_saved_dataset_keeps_encoded_pictures_and_label_names(tmp_path: Path) -> None:
    _dataset().save_to_disk(str(tmp_path / "saved"))
    assert detect_format(tmp_path / "saved") == ("r1v", "saved dataset, problem and solution")
    rows = [row.columns for row in RowStream(tmp_path / "saved")]
    assert rows[0] == {
        "image": {"bytes": _picture("red"), "path": None},
        "images": [],
        "problem": "Which?",
        "solution": "dog",
        "note": "x",
    }
    assert rows[1]["images"] == [{"bytes": _picture("black"), "path": None}]  # type: ignore[index]
    assert "solution" not in rows[2]  # type: ignore[operator]
    stream = RowStream(tmp_path / "saved")
    next(iter(stream))
    again = RowStream(tmp_path / "saved")
    again.load_state_dict(stream.state_dict())
    assert [row.columns for row in again] == rows[1:]


@needs_datasets
def test_a_saved_dataset_is_trained_on(tmp_path: Path) -> None:
    small = _dataset().select([0, 1]).remove_columns(["images", "note"])
    splits = datasets.DatasetDict({"train": small, "test": small.select([0])})
    splits.save_to_disk(str(tmp_path / "saved"))
    data = DataConfig(root=str(tmp_path), task="open_qa")
    samples = load_samples(data, SourceConfig(path="saved", split="train"), role="train").samples
    assert [sample.target for sample in samples] == ["dog", "cat"]
    assert open_image(samples[0].media[0]).getpixel((0, 0)) == (255, 0, 0)
    with pytest.raises(DataError, match=r"saved needs the name of a split; set split to one of: train, test"):
        load_samples(data, SourceConfig(path="saved"), role="train")
    with pytest.raises(DataError, match="has no split 'val'"):
        load_samples(data, SourceConfig(path="saved", split="val"), role="train")


@needs_datasets
def test_a_dataset_of_the_hub_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(name: str, config: str | None, *, split: str | None, streaming: bool) -> Any:
        asked.append((name, config, split, streaming))
        return datasets.IterableDatasetDict({"train": _dataset().to_iterable_dataset()})

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert detect_format("hf://org/name/part")[0] == "r1v"
    assert asked == [("org/name", "part", None, True)]
    stream = RowStream("hf://org/name")
    rows = iter(stream)
    first = next(rows)
    assert (first.where, first.stem) == ("hf://org/name:1", "name")
    assert first.columns["solution"] == "dog"  # type: ignore[index]
    again = RowStream("hf://org/name")
    again.load_state_dict(stream.state_dict())
    assert [row.columns["problem"] for row in again] == ["What?", "Who?"]  # type: ignore[index]
    with pytest.raises(DataError, match="write hf://org/name or hf://org/name/config"):
        RowStream("hf://name")


@needs_datasets
def test_a_dataset_that_cannot_be_reached_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match=r"hf://org/name: cannot be opened \(ConnectionError: no route\).*online"):
        RowStream("hf://org/name")


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "state.json").write_text("{}")
    for path in (tmp_path, "hf://org/name"):
        with pytest.raises(DataError, match=r"needs the library datasets; pip install 'vlrft\[hf\]'"):
            RowStream(path)


def test_a_path_that_is_missing_names_the_hub_spelling(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file or folder .*; a dataset of the hub is given as hf://org/name"):
        detect_format(tmp_path / "org" / "name")


@needs_datasets
@pytest.mark.parametrize("shape", ["one", "list", "struct"])
def test_videos_of_a_saved_dataset_stay_encoded(tmp_path: Path, shape: str) -> None:
    """Also as the trainer reads them: with their name beside the bytes."""
    pytest.importorskip("av", reason="PyAV is not installed (it comes with the extra `video`)")
    if not hasattr(datasets, "Video"):
        pytest.skip("this version of datasets has no videos")
    path = write_video(tmp_path / "v.mp4", 8)
    held = {"bytes": path.read_bytes(), "path": "v.mp4"}
    feature = datasets.Video()
    column, value = {
        "one": (feature, held),
        "list": (datasets.List(feature), [held]),
        "struct": ({"a": feature, "b": datasets.List({"c": datasets.Image()})}, {"a": held, "b": []}),
    }[shape]
    features = datasets.Features(
        {"problem": datasets.Value("string"), "solution": datasets.Value("string"), "videos": column}
    )
    made = datasets.Dataset.from_dict({"problem": ["q"], "solution": ["x"], "videos": [value]}, features=features)
    made.save_to_disk(str(tmp_path / "saved"))
    (row,) = (row.columns for row in RowStream(tmp_path / "saved"))
    assert row["videos"] == value  # type: ignore[index]
    if shape != "struct":
        data = DataConfig(root=str(tmp_path), task="open_qa")
        (sample,) = load_samples(data, SourceConfig(path="saved", format="r1v"), role="train").samples
        assert (sample.media[0].data, sample.meta["duration"]) == (held["bytes"], pytest.approx(0.8))
