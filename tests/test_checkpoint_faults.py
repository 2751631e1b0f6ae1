"""A checkpoint that one rank cannot write fails on all ranks, with an OSError, and none waits for it."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from vlrft import checkpoint
from vlrft.dist import World


class Both:
    """Two ranks of one process, which meet in `gather`."""

    def __init__(self) -> None:
        self.given: dict[int, Any] = {}
        self.meet = threading.Barrier(2, timeout=10.0)

    def save(self, folder: Path, state: dict[str, Any], numels: tuple[int, int]) -> list[Exception | None]:
        """What `checkpoint.save` raised on each rank; the first parameter is rank 0's to write, the second rank 1's."""
        raised: list[Exception | None] = [None, None]

        def run(rank: int) -> None:
            entries = ((f"p{i}", {"weight": torch.zeros(count)}) for i, count in enumerate(numels))
            try:
                checkpoint.save(folder, "00000001-00", state, entries, keep=1, world=_Rank(self, rank))
            except Exception as error:
                raised[rank] = error

        ranks = [threading.Thread(target=run, args=(rank,)) for rank in (0, 1)]
        for thread in ranks:
            thread.start()
        for thread in ranks:
            thread.join()
        return raised


class _Rank(World):
    def __init__(self, both: Both, rank: int) -> None:
        super().__init__(rank, 2)
        self.both = both

    def gather(self, value: Any) -> list[Any]:
        self.both.given[self.rank] = value
        self.both.meet.wait()
        everyones = [self.both.given[rank] for rank in (0, 1)]
        self.both.meet.wait()
        return everyones

    def barrier(self) -> None:
        self.both.meet.wait()


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """As on a disk that is full: what would make a file larger is refused (EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


LARGE = 100_000


@pytest.mark.parametrize(
    ("state", "numels"),
    [({}, (LARGE, 1)), ({}, (1, LARGE)), ({"large": bytes(4 * LARGE)}, (1, 1))],
    ids=["tensors of rank 0", "tensors of rank 1", "the state"],
)
def test_all_ranks_raise(state: dict[str, Any], numels: tuple[int, int], tmp_path: Path) -> None:
    assert Both().save(tmp_path / "good", state, numels) == [None, None]
    with files_up_to(LARGE):
        raised = Both().save(tmp_path, state, numels)
    assert all(isinstance(error, OSError) for error in raised), raised
    assert "too large" in str(raised[0])
    assert str(raised[0]) == str(raised[1])
    assert not checkpoint.complete(tmp_path)
    assert Both().save(tmp_path, state, numels) == [None, None], "when there is room again"


def _three(folder: Path) -> list[Path]:
    return [
        checkpoint.save(folder, f"{n:08d}-00", {"n": n}, iter([("p", {"weight": torch.full((64,), float(n))})]), keep=3)
        for n in (1, 2, 3)
    ]


@pytest.mark.parametrize("victim", ["tensors-00001-of-00001.safetensors", "state.pt"])
@pytest.mark.parametrize("size", [0, 100])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    victim: str, size: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    *_, newest = _three(tmp_path)
    os.truncate(newest / victim, size)
    saved = checkpoint.load_latest(tmp_path)
    assert saved is not None
    assert saved.state["n"] == 2
    assert saved.tensor("p")[0] == 2.0
    assert f"{newest / victim} is damaged" in caplog.text
    # The step is made again, and saved in its place.
    checkpoint.save(tmp_path, newest.name, {"n": 3}, iter([("p", {"weight": torch.full((64,), 3.0)})]), keep=3)
    again = checkpoint.load_latest(tmp_path)
    assert again is not None
    assert again.state["n"] == 3
    assert len(checkpoint.complete(tmp_path)) == 3


def test_a_checkpoint_that_lacks_a_file_is_passed_over(tmp_path: Path) -> None:
    *_, before, newest = _three(tmp_path)
    (newest / "tensors-00001-of-00001.safetensors").unlink()
    saved = checkpoint.load_latest(tmp_path)
    assert saved is not None
    assert saved.path == before


def test_where_all_are_damaged_the_message_says_how_to_start_anew(tmp_path: Path) -> None:
    for path in _three(tmp_path):
        os.truncate(path / "state.pt", 10)
    with pytest.raises(checkpoint.CheckpointError, match=r"00000003-00/state\.pt is damaged .* start this run anew"):
        checkpoint.load_latest(tmp_path)
