"""A checkpoint that one rank cannot write fails on all ranks, with an OSError, and none waits for it."""

from __future__ import annotations

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
