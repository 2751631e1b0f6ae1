"""Groups are judged while the engine samples others: in their order, all that are there at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

import vlrft
from vlrft.engines.base import Request, SamplingParams, StreamingEngine
from vlrft.engines.hf import HFEngine
from vlrft.engines.server_asking import at_once
from vlrft.engines.vllm_http import VLLMServer
from vlrft.records import read_records
from vlrft.scoring import Scoring
from vlrft.types import Completion, FinishReason, Group, Prompt, Sample, Segment

HERE = f"{__name__}:"
WAIT_S = 20.0


def completion(text: str) -> Completion:
    segment = Segment(token_ids=(1,), logprobs=(0.0,))
    return Completion(segments=(segment,), text=text, finish_reason=FinishReason.STOP)


def group(name: str) -> Group:
    prompt = Prompt(sample_id=name, token_ids=(), compact_ids=())
    return Group(sample=Sample(id=name, task="", parts=()), prompt=prompt, rollouts=())


def named(part: slice, done: Sequence[Sequence[Completion]]) -> list[Group]:
    assert part.stop - part.start == len(done)
    return [group(f"{index}:{rows[0].text}") for index, rows in zip(range(part.start, part.stop), done, strict=True)]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_groups_come_in_the_order_of_the_samples(order: tuple[int, ...]) -> None:
    with Scoring(named, 3) as scoring:
        for index in order:
            scoring.put(index, [completion("abc"[index])])
        assert [g.sample.id for g in scoring.groups()] == ["0:a", "1:b", "2:c"]


def test_the_first_is_scored_before_the_second_is_sampled_and_what_has_gathered_goes_together() -> None:
    parts: list[slice] = []
    has_begun, may_end = threading.Event(), threading.Event()

    def slow(part: slice, done: Sequence[Sequence[Completion]]) -> list[Group]:
        parts.append(part)
        has_begun.set()
        assert may_end.wait(WAIT_S)
        return named(part, done)

    with Scoring(slow, 4) as scoring:
        scoring.put(0, [completion("a")])
        assert has_begun.wait(WAIT_S)
        for index in (1, 3, 2):
            scoring.put(index, [completion("b")])
        may_end.set()
        assert len(scoring.groups()) == 4
    assert parts == [slice(0, 1), slice(1, 4)]


def test_no_samples_are_no_groups() -> None:
    with Scoring(named, 0) as scoring:
        assert scoring.groups() == []


def test_what_scoring_raises_is_raised_where_the_groups_are_asked_for() -> None:
    def broken(part: slice, done: Sequence[Sequence[Completion]]) -> list[Group]:
        raise ZeroDivisionError("in a reward")

    with Scoring(broken, 2) as scoring:
        scoring.put(0, [completion("a")])
        scoring.put(1, [completion("b")])
        with pytest.raises(ZeroDivisionError, match="in a reward"):
            scoring.groups()


def test_where_sampling_fails_the_thread_ends_with_the_group_at_hand() -> None:
    before = threading.active_count()
    scoring = Scoring(named, 2)
    with pytest.raises(KeyboardInterrupt), scoring:
        raise KeyboardInterrupt
    assert threading.active_count() == before


class OneByOne(HFEngine):
    """Is done with the last request first."""

    def stream(
        self, requests: Sequence[Request], params: SamplingParams
    ) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        for index in reversed(range(len(requests))):
            yield index, self.generate([requests[index]], params)[0]


def test_a_run_is_the_same_whether_its_engine_streams_or_not(recipe: Any, tmp_path: Path) -> None:
    blocks = {"train": {"steps": 2}, "parallel": {"cpu": True, "num_threads": 1}}
    plain = vlrft.train(recipe(**blocks, engine={"max_rows": 4}))
    streamed = recipe(**blocks, engine={"name": f"{HERE}OneByOne", "max_rows": 4})
    streamed["train"]["output_dir"] = str(tmp_path / "streamed")
    other = vlrft.train(streamed)
    assert issubclass(OneByOne, StreamingEngine)
    shown = [
        [
            [(r["text"], r["reward"]) for r in record["rollouts"]]
            for path in sorted((run.path / "rollouts").rglob("*.jsonl*"))
            for record in read_records(path)
        ]
        for run in (plain, other)
    ]
    assert shown[0] == shown[1] != []


def test_an_answer_of_a_server_is_passed_on_while_others_are_awaited() -> None:
    first_was_seen = threading.Event()

    def work(place: int) -> tuple[Completion, ...]:
        assert place == 0 or first_was_seen.wait(WAIT_S)
        return (completion(str(place)),)

    seen = []
    for place, completions in at_once([VLLMServer("http://127.0.0.1:9", timeout_s=1, retries=0)], work, 3):
        seen.append((place, completions[0].text))
        first_was_seen.set()
    assert seen[0] == (0, "0")
    assert sorted(seen) == [(0, "0"), (1, "1"), (2, "2")]
