"""Datasets in the form of the library `datasets`: folders written by `save_to_disk`, and datasets of the hub.

The library is needed for these two only (extra `hf`) and imported on use; folders of parquet shards need it not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlrft.data.problems import DataError
from vlrft.data.tables import HUB, Part


def is_saved(path: Path) -> bool:
    """Whether `path` is a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    return (path / "dataset_dict.json").is_file() or (
        (path / "dataset_info.json").is_file() and (path / "state.json").is_file()
    )


def saved_part(path: Path, split: str | None) -> Part:
    """The rows of a saved folder, memory-mapped. Raises DataError for a split that it lacks."""
    datasets = _library(str(path))
    try:
        dataset = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} is no readable dataset folder ({error}); save it again") from error
    if isinstance(dataset, datasets.DatasetDict):
        dataset = dataset[_split_of(list(dataset), split, str(path))]
    plain, names = _undecoded(dataset, datasets)

    def read(after: int) -> Iterator[tuple[int, Any]]:
        for index in range(after, len(plain)):
            yield index + 1, _columns(plain[index], names)

    return Part(name=str(path), stem=path.stem, read=read)


def hub_part(address: str, split: str | None) -> Part:
    """The rows of `hf://org/name` or `hf://org/name/config`, streamed. Raises DataError when it cannot be reached."""
    datasets = _library(address)
    pieces = address.removeprefix(HUB).split("/")
    if len(pieces) not in (2, 3) or not all(pieces):
        raise DataError(f"{address!r} is no dataset of the hub; write hf://org/name or hf://org/name/config")
    name, config = "/".join(pieces[:2]), pieces[2] if len(pieces) == 3 else None
    try:
        dataset = datasets.load_dataset(name, config, split=split, streaming=True)
    except Exception as error:
        # The library raises what its many back ends raise: whatever it is, this dataset cannot be had.
        raise DataError(
            f"{address}: cannot be opened ({type(error).__name__}: {error}); check the name and that this machine is "
            "online, or fetch it elsewhere and give the folder"
        ) from error
    if isinstance(dataset, dict):
        dataset = dataset[_split_of(list(dataset), split, address)]
    plain, names = _undecoded(dataset, datasets)

    def read(after: int) -> Iterator[tuple[int, Any]]:
        for index, row in enumerate(plain.skip(after), start=after + 1):
            yield index, _columns(row, names)

    return Part(name=address, stem=pieces[1], read=read)


def _library(what: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{what} needs the library datasets; pip install 'vlrft[hf]'") from error
    return datasets


def _split_of(known: list[str], split: str | None, what: str) -> str:
    if split in known:
        return str(split)
    if split is None and len(known) == 1:
        return known[0]
    problem = "needs the name of a split" if split is None else f"has no split {split!r}"
    raise DataError(f"{what} {problem}; set split to one of: {', '.join(known)}")


def _undecoded(dataset: Any, datasets: Any) -> tuple[Any, dict[str, Any]]:
    """The dataset with pictures and videos, also in lists and structures, as `{"bytes", "path"}`, and the names behind
    its label columns."""
    features = dataset.features or {}
    for name, feature in features.items():
        raw = _raw(feature, datasets)
        if raw is not None:
            dataset = dataset.cast_column(name, raw)
    names = {name: feature for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)}
    return dataset, names


def _raw(feature: Any, datasets: Any) -> Any:
    """The feature with its media left encoded; None where it holds none."""
    for kind in (datasets.Image, getattr(datasets, "Video", None)):
        if kind is not None and isinstance(feature, kind):
            return kind(decode=False)
    if isinstance(feature, dict):
        changed = {key: _raw(inner, datasets) for key, inner in feature.items()}
        held = any(inner is not None for inner in changed.values())
        return {key: inner if inner is not None else feature[key] for key, inner in changed.items()} if held else None
    if isinstance(feature, list):
        inner = _raw(feature[0], datasets)
        return None if inner is None else [inner]
    if hasattr(feature, "feature"):
        inner = _raw(feature.feature, datasets)
        return None if inner is None else type(feature)(inner)
    return None


def _columns(row: dict[str, Any], labels: dict[str, Any]) -> dict[str, Any]:
    """The columns that are not null; class numbers become class names."""
    made = {key: value for key, value in row.items() if value is not None}
    for name, feature in labels.items():
        # -1 stands for "no label" in the library.
        if name in made:
            made[name] = feature.int2str(made[name]) if made[name] >= 0 else None
    return {key: value for key, value in made.items() if value is not None}
