"""Decoding ahead: while a batch is being worked on, the media of the next ones are decoded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from vlrft.data.images import MediaError
from vlrft.data.video.clips import ClipRequest
from vlrft.data.video.pool import DecodingPool
from vlrft.types import Clip

Item = TypeVar("Item")


class Prefetcher(Generic[Item]):
    """Items in, the same items with the futures of their clips out, in order.

    The clips of the item that was handed out last and of `ahead` more are decoded or in the pool's queue, never more:
    this bounds the memory. An item is drawn from `items` no earlier than that.

        batches = Prefetcher(batches, pool, lambda batch: [request_of(sample) for sample in batch], ahead=1)
        for batch, futures in batches:
            clips = [future.result() for future in futures]
            generate(batch, clips)          # meanwhile the next batch is decoded
    """

    def __init__(
        self,
        items: Iterable[Item],
        pool: DecodingPool,
        requests_of: Callable[[Item], Sequence[ClipRequest]],
        *,
        ahead: int = 1,
    ) -> None:
        """requests_of: the clips that an item needs; a MediaError that it raises comes out as one failed future."""
        if ahead < 0:
            raise ValueError(f"ahead is {ahead}; give 0 (nothing is decoded ahead) or more")
        self._items = iter(items)
        self._pool = pool
        self._requests_of = requests_of
        self._ahead = ahead
        self._waiting: deque[tuple[Item, list[Future[Clip]]]] = deque()

    def __iter__(self) -> Iterator[tuple[Item, list[Future[Clip]]]]:
        return self

    def __next__(self) -> tuple[Item, list[Future[Clip]]]:
        # One more than `ahead`: the first of them is handed out.
        while len(self._waiting) <= self._ahead:
            try:
                item = next(self._items)
            except StopIteration:
                break
            self._waiting.append((item, self._futures(item)))
        if not self._waiting:
            raise StopIteration
        return self._waiting.popleft()

    def close(self) -> None:
        """Take back what is still in the queue of the pool."""
        while self._waiting:
            for future in self._waiting.popleft()[1]:
                future.cancel()

    def _futures(self, item: Item) -> list[Future[Clip]]:
        try:
            return [self._pool.submit(request) for request in self._requests_of(item)]
        except MediaError as error:
            failed: Future[Clip] = Future()
            failed.set_exception(error)
            return [failed]
