"""Samplers: epochs are permutations, batches hold no sample twice, state resumes exactly."""

from __future__ import annotations

import json
import random
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlrft.data.problems import DataError
from vlrft.data.samplers import SAMPLERS, SequentialSampler, ShuffleSampler
from vlrft.registry import resolve
from vlrft.types import Sample, TextPart


def _samples(n: int) -> list[Sample]:
    return [Sample(id=f"s{i}", task="grounding", parts=(TextPart(text="x"),)) for i in range(n)]


sizes = st.integers(1, 12)
batches = st.lists(st.integers(1, 15), min_size=1, max_size=20)


@given(size=sizes, seed=st.integers(0, 99), ns=batches)
def test_every_epoch_is_a_permutation(size: int, seed: int, ns: list[int]) -> None:
    sampler = ShuffleSampler(_samples(size), seed=seed)
    stream = [sample.id for step, n in enumerate(ns) for sample in sampler.propose(step, n)]
    for start in range(0, len(stream) - size + 1, size):
        assert len(set(stream[start : start + size])) == size


@given(size=sizes, seed=st.integers(0, 99), ns=batches)
def test_no_sample_twice_in_a_batch(size: int, seed: int, ns: list[int]) -> None:
    sampler = ShuffleSampler(_samples(size), seed=seed)
    for step, n in enumerate(ns):
        batch = [sample.id for sample in sampler.propose(step, n)]
        assert len(batch) == len(set(batch)) == min(n, size)


@pytest.mark.parametrize("kind", sorted(SAMPLERS))
@given(size=sizes, ns=batches, cut=st.integers(0, 20))
def test_resume_equals_going_on(kind: str, size: int, ns: list[int], cut: int) -> None:
    build = resolve(kind, SAMPLERS, kind="sampler")
    whole = build(_samples(size), seed=3)
    expected = [whole.propose(step, n) for step, n in enumerate(ns)]
    first = build(_samples(size), seed=3)
    cut = min(cut, len(ns))
    got = [first.propose(step, n) for step, n in enumerate(ns[:cut])]
    second = build(_samples(size), seed=3)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    got += [second.propose(step, n) for step, n in enumerate(ns[cut:], start=cut)]
    assert got == expected


def test_order_depends_on_seed_and_epoch_and_on_no_global_generator() -> None:
    samples = _samples(20)
    random.seed(1)
    np.random.seed(1)
    first = ShuffleSampler(samples, seed=0)
    epoch0, epoch1 = first.propose(0, 20), first.propose(1, 20)
    np.random.seed(2)
    random.seed(2)
    again = ShuffleSampler(samples, seed=0)
    assert again.propose(0, 20) == epoch0
    assert epoch0 != epoch1
    assert ShuffleSampler(samples, seed=1).propose(0, 20) != epoch0
    assert epoch0 != samples


def test_sequential_keeps_the_order_and_wraps() -> None:
    sampler = SequentialSampler(_samples(3))
    assert [[s.id for s in sampler.propose(0, 2)] for _ in range(2)] == [["s0", "s1"], ["s2", "s0"]]
    assert [s.id for s in sampler.propose(0, 5)] == ["s1", "s2", "s0"]
    assert sampler.accept([]) == []


def test_state_of_other_data_or_seed_is_refused() -> None:
    state = ShuffleSampler(_samples(4), seed=0).state_dict()
    with pytest.raises(DataError, match="other samples"):
        ShuffleSampler(_samples(5), seed=0).load_state_dict(state)
    with pytest.raises(DataError, match="another seed"):
        ShuffleSampler(_samples(4), seed=1).load_state_dict(state)


def test_no_samples_is_an_error() -> None:
    with pytest.raises(DataError, match="at least one sample"):
        ShuffleSampler([])


@pytest.mark.parametrize("kind", ["shuffle", "mixture"])
def test_large_draws_take_linear_time(kind: str) -> None:
    """8192 of 20,000: seconds where each draw looks through all before it."""
    samples = [Sample(id=f"{'ab'[i % 2]}/{i}", task="grounding", parts=()) for i in range(20_000)]
    options = {"weights": {"a": 1, "b": 3}} if kind == "mixture" else {}
    sampler = resolve(SAMPLERS[kind], SAMPLERS, kind="sampler")(samples, **options)
    began = time.process_time()
    drawn = [len({sample.id for sample in sampler.propose(step, 8192)}) for step in range(3)]
    assert time.process_time() - began < 1.0
    assert drawn == [8192] * 3
