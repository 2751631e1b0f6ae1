"""The canary's rules: what is told from rounding, over how many syncs, and what the message advises."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vlrft.config_keys import is_resumable
from vlrft.engines.canary import STILL, TOLERANCES, Canary, StaleWeightsError

START = [-1.0 - 0.25 * i for i in range(8)]


def canary(dtype: torch.dtype, tolerance: float | None = None, *, spread: Any = None) -> Canary:
    family: Any = SimpleNamespace(spread=spread, model=SimpleNamespace(dtype=torch.float32))
    made = Canary.of(family, dtype, tolerance)
    prompt: Any = SimpleNamespace(sample_id="bird")
    made.prompt, made.token_ids = prompt, tuple(range(8))
    return made


def check(canary: Canary, trainer: list[float], *engines: list[float], version: int = 0) -> None:
    canary.check_all([lambda prompt, ids, said=said: list(said) for said in engines], version, list(trainer))


def drifted(by: float) -> list[float]:
    return [value + by for value in START]


@pytest.mark.parametrize(
    ("dtype", "per_step", "noise", "latest"),
    [(torch.bfloat16, 0.005, 0.1, 5), (torch.float16, 1e-3, 0.02, 4), (torch.float32, 5e-5, 0.0, 1)],
)
def test_small_steps_add_up_against_an_engine_that_never_loads(
    dtype: torch.dtype, per_step: float, noise: float, latest: int
) -> None:
    one = canary(dtype)
    engine = [value + random.Random(i).uniform(-noise, noise) for i, value in enumerate(START)]
    said = message(one, *[(drifted(step * per_step), engine) for step in range(latest + 1)])
    assert "did not change at all since policy version 0" in said
    assert "new weights do not reach it" in said
    assert one.largest < TOLERANCES[dtype], "long before it is far away"


def test_an_engine_that_follows_passes_however_far_it_goes() -> None:
    one, rng = canary(torch.bfloat16), random.Random(0)
    for step in range(200):
        trainer = drifted(0.01 * step)
        check(one, trainer, [round(value * 32) / 32 + rng.choice((0.0, 2**-6)) for value in trainer], version=step)


@pytest.mark.parametrize("dtype", list(STILL))
def test_the_trainers_own_rounding_is_no_movement(dtype: torch.dtype) -> None:
    one, rng = canary(dtype), random.Random(0)
    for step in range(200):
        check(one, drifted(rng.uniform(-0.4, 0.4) * STILL[dtype]), START, version=step)


def test_a_tolerance_of_ones_own_does_not_hide_an_engine_that_never_loads() -> None:
    one = canary(torch.float32, tolerance=10.0)
    check(one, START, drifted(1.0))
    with pytest.raises(StaleWeightsError, match="did not change at all"):
        check(one, drifted(1e-4), drifted(1.0), version=1)


def test_each_of_several_engines_has_to_move() -> None:
    one = canary(torch.float32)
    check(one, START, START, START)
    for step in (1, 2):
        check(one, drifted(step * 9e-6), drifted(step * 9e-6), START, version=step)
    with pytest.raises(StaleWeightsError, match="did not change at all since policy version 0"):
        check(one, drifted(4e-5), drifted(4e-5), START, version=3)


def test_a_failed_sync_is_found_again_and_forgotten_when_the_engine_has_moved() -> None:
    one = canary(torch.float32)
    check(one, START, START)
    for version in (1, 2):
        with pytest.raises(StaleWeightsError):
            check(one, drifted(1e-4), START, version=version)
    check(one, drifted(1e-4), drifted(1e-4), version=2)


def message(one: Canary, *checks: tuple[list[float], list[float]]) -> str:
    """What the first check that fails says."""
    for version, (trainer, engine) in enumerate(checks):
        try:
            check(one, trainer, engine, version=version)
        except StaleWeightsError as error:
            return str(error)
    pytest.fail("every check passed")


def test_little_more_than_the_tolerance_names_the_key_that_allows_it() -> None:
    for said in (
        message(canary(torch.bfloat16), (START, drifted(0.4))),
        message(canary(torch.bfloat16), (START, START), (START, drifted(0.4))),
    ):
        assert "engine.kwargs.canary_tolerance=0.9" in said
    assert is_resumable("engine.kwargs.canary_tolerance"), "the message says to go on with it"


def test_at_the_first_sync_resuming_would_not_help() -> None:
    said = message(canary(torch.bfloat16), (START, drifted(5.0)))
    assert "computes SimpleNamespace in bfloat16 otherwise than the trainer does in float32" in said
    assert "engine.kwargs.dtype=float32" in said
    assert "resume" not in said
    assert "dtype=float32" not in message(canary(torch.float32), (START, drifted(5.0)))


def test_hf_is_advised_only_where_it_is_not_refused() -> None:
    checks = [(START, START), (drifted(1.0), drifted(3.0))]
    assert "use engine.name=hf (engine.max_staleness=0)" in message(canary(torch.float32), *checks)
    spread = message(canary(torch.float32, spread=object()), *checks)
    assert "engine.name=hf" not in spread
    assert "resume it; if this comes again, report the versions" in spread
