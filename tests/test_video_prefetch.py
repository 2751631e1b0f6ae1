"""Decoding ahead: order, bounds, and the time that it saves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path

import decoders_of_mine
import pytest
from videos import SIZE, number_of, write_video

from vlrft.config import VideoConfig
from vlrft.data.images import MediaError
from vlrft.data.video import ClipRequest, DecodingPool, Prefetcher
from vlrft.types import Clip, MediaRef

pytest.importorskip("av", reason="PyAV is not installed (it comes with the extra `video`)")


class FakePool:
    """Futures that are never answered."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def submit(self, request: ClipRequest) -> Future[Clip]:
        self.asked.append(request.times[0])
        return Future()


def request(path: Path | str, number: float) -> ClipRequest:
    return ClipRequest(ref=MediaRef(kind="video", path=str(path)), times=(number / 10,), size=SIZE)


@pytest.mark.parametrize(("ahead", "asked"), [(0, [1, 2, 3, 4]), (1, [2, 3, 4, 4]), (2, [3, 4, 4, 4]), (9, [4] * 4)])
def test_never_more_than_asked_for(ahead: int, asked: list[int]) -> None:
    pool = FakePool()
    drawn: list[int] = []

    def items() -> Iterator[int]:
        for i in range(4):
            drawn.append(i)
            yield i

    prefetcher = Prefetcher(items(), pool, lambda i: [request("/v.mp4", i)], ahead=ahead)  # type: ignore[arg-type]
    assert drawn == []
    for handed_out, (item, futures) in enumerate(prefetcher):
        assert (item, len(futures)) == (handed_out, 1)
        assert len(pool.asked) == len(drawn) == asked[handed_out]


def test_items_in_order_with_their_clips(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", 30)
    pool = DecodingPool(VideoConfig(workers=2))
    batches = [[0, 3], [], [29, 1, 7], [4]]
    got = []
    for batch, futures in Prefetcher(batches, pool, lambda batch: [request(path, n) for n in batch], ahead=2):
        got.append([number_of(future.result(timeout=60).frames[0]) for future in futures])
        assert got[-1] == batch
    pool.close()
    assert got == batches


@pytest.mark.slow
def test_decoding_goes_on_while_the_caller_works(tmp_path: Path) -> None:
    """Each clip takes 0.4 s and each step 0.5 s: the clips of later steps are there when they are needed."""
    path = write_video(tmp_path / "slow.mp4", 10)
    pool = DecodingPool(VideoConfig(decoder=f"{decoders_of_mine.__file__}:wild"))
    pool.submit(request(path, 0)).result(timeout=60)
    waited = []
    for _, (future,) in Prefetcher(range(4), pool, lambda n: [request(path, n)], ahead=1):
        began = time.monotonic()
        future.result(timeout=60)
        waited.append(time.monotonic() - began)
        time.sleep(0.5)
    pool.close()
    assert waited[0] > 0.3
    assert min(waited[1:]) < 0.1


def test_an_item_that_cannot_even_be_asked_for_fails_alone(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", 4)
    pool = DecodingPool(VideoConfig())

    def requests_of(number: int) -> list[ClipRequest]:
        if number == 1:
            raise MediaError("x.mp4", "is damaged")
        return [request(path, number)]

    futures = [futures for _, futures in Prefetcher(range(3), pool, requests_of)]
    assert [number_of(futures[i][0].result(timeout=60).frames[0]) for i in (0, 2)] == [0, 2]
    with pytest.raises(MediaError, match=r"x\.mp4: is damaged"):
        futures[1][0].result()
    pool.close()


def test_closing_takes_back_what_waits() -> None:
    pool = FakePool()
    prefetcher = Prefetcher(range(9), pool, lambda i: [request("/v.mp4", i)], ahead=3)  # type: ignore[arg-type]
    _, (first,) = next(prefetcher)
    held = [future for _, futures in prefetcher._waiting for future in futures]
    prefetcher.close()
    assert len(held) == 3
    for future in held:
        with pytest.raises(CancelledError):
            future.result(timeout=1)
    assert not first.cancelled()


def test_ahead_is_not_negative() -> None:
    with pytest.raises(ValueError, match="ahead is -1"):
        Prefetcher([], FakePool(), lambda i: [], ahead=-1)  # type: ignore[arg-type]
