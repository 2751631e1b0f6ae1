"""Many requests to vLLM servers side by side, and which answers count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from vlrft.engines.base import Sampled
from vlrft.engines.canary import Replay
from vlrft.engines.vllm_http import PassingError, VLLMServer
from vlrft.engines.vllm_wire import GENERATE, replayed, request_body, stamps, was_aborted
from vlrft.models.base import Family
from vlrft.types import Completion, Prompt

_AT_ONCE = 128
"""Requests under way per server: vLLM queues what it cannot take yet."""


def at_once(
    servers: Sequence[VLLMServer], work: Callable[[int], tuple[Completion, ...]], count: int
) -> Iterator[Sampled]:
    """What `work` gives for 0 to count - 1, side by side, each with its number when it is there; when one fails, the
    others are not waited for."""
    try:
        with ThreadPoolExecutor(min(count, _AT_ONCE * len(servers))) as pool:
            try:
                places = {pool.submit(work, place): place for place in range(count)}
                for done in as_completed(places):
                    yield places[done], done.result()
            except BaseException:  # Ctrl-C as well
                pool.shutdown(wait=False, cancel_futures=True)
                for server in servers:
                    server.abandon()
                raise
    finally:
        for server in servers:
            server.renew()


def replay_in(family: Family, server: VLLMServer, shard: int | None = None) -> Replay:
    """Asks `server` for the log-probs of given tokens. shard: the engine behind it; None = any."""

    def replay(prompt: Prompt, token_ids: Sequence[int]) -> list[float]:
        fields = {"max_tokens": 1, "prompt_logprobs": 0, "detokenize": False}
        headers = {} if shard is None else {"X-data-parallel-rank": str(shard)}
        body = request_body(family, prompt, fields, token_ids)
        return replayed(server.ask("POST", GENERATE, body=body, headers=headers), token_ids)

    return replay


def refuse_other(answer: Any, stamp: str) -> None:
    """An answer that other weights gave is asked for again: a server that is back gets the right ones in a moment."""
    if was_aborted(answer):
        raise PassingError("it was told to abort its requests")
    found = stamps(answer)
    if found != {stamp}:
        raise PassingError(
            f"it sampled with weights labelled {', '.join(sorted(found)) or 'not at all'}, this run pushed {stamp}: "
            "it was started anew, or another run pushes weights to it"
        )
