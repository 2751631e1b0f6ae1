"""Rewards, samples and completions for the tests of the judge, which loads this file as a module of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from vlrft.config import RewardSpec
from vlrft.parse import Parsed
from vlrft.registry import load_reference
from vlrft.rewards import Judge
from vlrft.rewards.base import Judged
from vlrft.types import Sample, Score, TextPart

SAMPLE = Sample(
    id="row-7", task="grounding", parts=(TextPart(text="Where is it?"),), target=[0, 0, 10, 10], meta={"kind": "cell"}
)
RIGHT = "<think>a</think><answer>[0, 0, 10, 10]</answer>"
HALF = "<think>a</think><answer>[0, 0, 10, 5]</answer>"
WRONG = "<think>a</think><answer>[50, 50, 60, 60]</answer>"
BARE = "<answer>[0, 0, 10, 10]</answer>"
GROUP = [RIGHT, HALF, WRONG, BARE]
HERE = f"{Path(__file__)}:"
"""Prefix of a reference to a reward of this file."""

seen: list[Any] = []
"""What rewards of this file, which the judge loads as a module of its own, were called with."""


@pytest.fixture
def calls() -> list[Any]:
    found: list[Any] = load_reference(f"{HERE}seen")
    found.clear()
    return found


def shares(completions: list[str], prompts: list[str], kind: list[str], **columns: Any) -> list[float | None]:
    seen.append((completions, prompts, kind, columns))
    return [None if i == 1 else i / len(completions) for i in range(len(completions))]


def picky(parsed: Parsed, target: Any, meta: Any) -> float:
    if "[0, 0, 10, 5]" in parsed.text:
        raise KeyError("colour")
    return 1.0


def ranks(group: Judged, *, of: str = "box.iou") -> list[Score]:
    seen.append(group)
    values = [parts[of] or 0.0 for parts in group.parts]
    return [Score(value=sum(v <= value for v in values) / len(values), parts={"best": max(values)}) for value in values]


def short_of_one(group: Judged) -> list[Score]:
    return [Score(value=1.0)] * (len(group.parsed) - 1)


def step_of(parsed: Parsed, target: Any, meta: Any) -> float:
    return meta["step"] / 100


def threshold(parsed: Parsed, target: Any, meta: Any, *, t: float) -> float:
    return t


def tokens_given(completions: list[str], completion_ids: list[list[int]], num_tokens: list[int]) -> list[float]:
    return [float(len(ids) == count > 0) for ids, count in zip(completion_ids, num_tokens, strict=True)]


def nothing(parsed: Parsed, target: Any, meta: Any) -> None:
    return None


class Counting:
    """Learns how many completions it has seen."""

    def __init__(self, *, start: int = 0) -> None:
        self.seen = start

    def __call__(self, parsed: Parsed, target: Any, meta: Any) -> float:
        self.seen += 1
        return 1.0 / self.seen

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: Any) -> None:
        self.seen = state["seen"]


async def waits(completions: list[str], **columns: Any) -> list[float]:
    seen.append(asyncio.get_running_loop())
    await asyncio.sleep(0.15)
    return [0.5 for _ in completions]


async def waits_for_each(parsed: Parsed, target: Any, meta: Any) -> float:
    await asyncio.sleep(10.0 if "[50" in parsed.text else 0.15)
    return 0.25


async def fails(parsed: Parsed, target: Any, meta: Any) -> float:
    raise OSError("no network")


SLOW = """
import os, time

def slow(parsed, target, meta):
    if "[50" in parsed.text:
        while True:
            time.sleep(0.01)
    if "[0, 0, 10, 5]" in parsed.text:
        os._exit(3)
    print("chatter on standard output")
    return float(os.getpid())

def columns(completions, **columns):
    return [float(os.getpid()) for _ in completions]

async def later(completions, **columns):
    return [0.125 for _ in completions]
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "slow.py").write_text(SLOW)
    return f"{tmp_path / 'slow.py'}:"


def judge_of(*funcs: str | dict[str, Any], **options: Any) -> Judge:
    return Judge([RewardSpec(**({"func": f} if isinstance(f, str) else f)) for f in funcs], **options)


def values(judge: Judge, *completions: str, sample: Sample = SAMPLE, **meta: Any) -> list[float | None]:
    texts = completions or GROUP
    return [s.value for s in judge.score_group(list(texts), sample, [meta] * len(texts))]
