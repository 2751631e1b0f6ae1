"""Weights between the engine's and the trainer's log-probs (methods E.5): golden numbers, bounds, gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.objectives.loss import ClipOptions, LossInputs, clip, total_loss
from vlrft.objectives.mismatch import CORRECTIONS, MismatchOptions, effective_sample_size, mismatch

OLD = torch.tensor([-1.0, -0.5, -0.2, -2.0, -0.7, -1.5])
BEHAVIOUR = torch.tensor([-1.0, -1.5, -0.1, -2.0, -0.2, -1.4])
SEQUENCE = torch.tensor([0, 0, 0, 1, 1, 1])
MASK = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
LOG_W = [0.0, 1.0, -0.1, 0.0, -0.5, 0.0]
PRODUCT = [math.exp(0.9), math.exp(-0.5)]
MEAN = [math.exp(0.3), math.exp(-0.25)]


def weights(name: str, **options: Any) -> list[float]:
    return mismatch(OLD, BEHAVIOUR, MASK, SEQUENCE, name, MismatchOptions(**options)).weight_N.tolist()


def test_token_corrections() -> None:
    ratio = [math.exp(x) for x in LOG_W]
    assert weights("none") == [1.0] * 6
    assert weights("token_truncate") == pytest.approx([min(w, 2.0) for w in ratio])
    assert weights("token_mask") == pytest.approx([w if w <= 2.0 else 0.0 for w in ratio])
    assert weights("token_mask", lower=0.7) == pytest.approx([w if 0.7 <= w <= 2.0 else 0.0 for w in ratio])


def test_sequence_corrections() -> None:
    assert weights("sequence_truncate") == pytest.approx([2.0] * 3 + [PRODUCT[1]] * 3)
    assert weights("sequence_mask") == pytest.approx([0.0] * 3 + [PRODUCT[1]] * 3)
    assert weights("sequence_mask", upper=3.0, lower=0.7) == pytest.approx([PRODUCT[0]] * 3 + [0.0] * 3)
    mean = weights("sequence_truncate", sequence_ratio="geometric_mean")
    assert mean == pytest.approx([MEAN[0]] * 3 + [MEAN[1]] * 3)


def test_sums_and_effective_sample_size() -> None:
    found = mismatch(OLD, BEHAVIOUR, MASK, SEQUENCE, "token_mask", MismatchOptions())
    used = [w for w, keep in zip(weights("token_mask"), MASK.tolist(), strict=True) if keep]
    assert found.sums["engine_gap"] == pytest.approx(1.6)
    assert found.sums["mismatch_kept"] == 4
    row = {f"policy/{name}": value / 5 for name, value in found.sums.items()}
    expected = sum(used) ** 2 / (5 * sum(w * w for w in used))
    assert effective_sample_size(row) == {"policy/mismatch_ess": pytest.approx(expected)}
    assert effective_sample_size({}) == {}


def test_it_weighs_the_policy_term_and_not_kl() -> None:
    logp = OLD.clone().requires_grad_()
    inputs = LossInputs(logp_N=logp, old_logp_N=OLD, advantage_N=torch.ones(6), sequence_N=SEQUENCE, mask_N=MASK)
    weight = torch.tensor([0.0, 2.0, 1.0, 1.0, 0.5, 1.0])
    args = (inputs, MASK / 5, clip, ClipOptions())
    loss = total_loss(*args, mismatch_N=weight, ref_logp_N=OLD - 1.0, beta=0.1)
    policy = -float((MASK * weight).sum()) / 5
    kl = 0.1 * (math.exp(-1.0) + 1.0 - 1.0)
    assert float(loss.value.detach()) == pytest.approx(policy + kl)
    (gradient,) = torch.autograd.grad(loss.value, logp)
    plain = total_loss(*args, ref_logp_N=OLD - 1.0, beta=0.1)
    (without,) = torch.autograd.grad(plain.value, logp)
    from_policy = -MASK / 5
    assert torch.allclose(gradient, without - from_policy + from_policy * weight)


@settings(deadline=None)
@given(
    st.sampled_from(sorted(CORRECTIONS)),
    st.lists(st.tuples(st.floats(-40, 0), st.floats(-40, 0), st.booleans()), min_size=1, max_size=12),
    st.sampled_from(["product", "geometric_mean"]),
)
def test_weights_stay_within_bounds(name: str, tokens: list[tuple[float, float, bool]], ratio: str) -> None:
    old, behaviour, kept = (torch.tensor(column, dtype=torch.float32) for column in zip(*tokens, strict=True))
    sequence = torch.arange(len(tokens)) // 3
    found = mismatch(old, behaviour, kept, sequence, name, MismatchOptions(upper=2.0, lower=0.5, sequence_ratio=ratio))
    assert torch.isfinite(found.weight_N).all()
    assert float(found.weight_N.max()) <= 2.0
    if name.endswith("mask"):
        assert all(w == 0.0 or w >= 0.5 for w in found.weight_N.tolist())
    assert 0 <= found.sums["mismatch_kept"] <= float(kept.sum())


def test_an_off_policy_rollout_is_damped_and_reported(stage: Any) -> None:
    """A step on rollouts whose log-probs the engine misreports: twice the probability halves the loss."""
    from vlrft import training

    rows = {}
    for name in ("none", "token_truncate"):
        run = stage(objective={"mismatch": name})
        generate = run.worker.engine.generate

        def doubled(*args: Any, generate: Any = generate) -> Any:
            return [tuple(shifted(c, math.log(2.0)) for c in rows) for rows in generate(*args)]

        run.worker.engine.generate = doubled
        rows[name] = training.grpo_step(run)
    assert rows["token_truncate"]["policy/engine_gap"] == pytest.approx(math.log(2.0), abs=1e-4)
    assert rows["token_truncate"]["policy/mismatch_ess"] == pytest.approx(1.0, abs=1e-4)
    assert rows["token_truncate"]["policy/mismatch_weight"] == pytest.approx(0.5, abs=1e-4)
    assert rows["token_truncate"]["policy/mismatch_kept"] == 1.0
    assert rows["none"]["policy/mismatch_weight"] == 1.0
    halved = rows["none"]["grad_norm"] / 2
    assert rows["token_truncate"]["grad_norm"] == pytest.approx(halved, rel=1e-3)
    assert halved > 0


def shifted(completion: Any, by: float) -> Any:
    from dataclasses import replace

    segments = tuple(replace(s, logprobs=tuple(x + by for x in s.logprobs)) for s in completion.segments)
    return replace(completion, segments=segments)
