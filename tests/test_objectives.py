"""Golden numbers of methods.md F.1, computed there from the formulas, and invariances."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.objectives.advantage import assign, group, rloo
from vlrft.objectives.kl import KL_ESTIMATORS, k3
from vlrft.objectives.loss import ClipOptions, LossInputs, clip, total_loss
from vlrft.objectives.mismatch import MismatchOptions, mismatch
from vlrft.pack import Counts, token_weight
from vlrft.types import Completion, FinishReason, Group, Prompt, Rollout, Sample, Score

REWARDS = [1.0, 0.0, 0.25, 0.75]
LENGTHS = [2, 3, 1, 2]
LOG_RATIO = torch.tensor([0.35, -0.5, 1.3, 0.1, -0.3, -0.6, 0.22, 0.45])
LOGP = torch.tensor([-1, -0.5, -0.2, -2, -0.7, -1.5, -0.3, -0.9])
REF = torch.tensor([-1.2, -0.4, -0.5, -1.5, -0.7, -1, -0.3, -1.3])
SEQUENCE = torch.repeat_interleave(torch.arange(4), torch.tensor(LENGTHS))
COUNTS = Counts(tokens=8, sequences=4)
L_MAX = 8


def inputs(advantages: list[float], logp: torch.Tensor = LOGP) -> LossInputs:
    return LossInputs(logp_N=logp, old_logp_N=LOGP - LOG_RATIO, advantage_N=torch.tensor(advantages)[SEQUENCE],
                      sequence_N=SEQUENCE, mask_N=torch.ones(8))  # fmt: skip


def weights(aggregation: str) -> torch.Tensor:
    return torch.tensor([token_weight(aggregation, COUNTS, n, L_MAX) for n in LENGTHS])[SEQUENCE]


def test_advantages() -> None:
    assert group(REWARDS) == pytest.approx([1.095205, -1.095205, -0.547603, 0.547603], abs=1e-6)
    assert group(REWARDS, scale=False) == pytest.approx([0.5, -0.5, -0.25, 0.25])
    assert rloo(REWARDS) == pytest.approx([0.666667, -0.666667, -0.333333, 0.333333], abs=1e-6)


@pytest.mark.parametrize(
    ("options", "scaled", "expected"),
    [
        (ClipOptions(), True, [0.206690, 0.406312, 0.101578, 0.812625]),
        (ClipOptions(epsilon_high=0.28), True, [0.187108, 0.386730, 0.096683, 0.773461]),
        (ClipOptions(delta=2.0), True, [0.054338, 0.177785, 0.044446, 0.355569]),
        (ClipOptions(), False, [0.094361, 0.185496, 0.046374, 0.370992]),
    ],
    ids=["GRPO", "DAPO clip-higher", "delta", "Dr.GRPO"],
)
def test_clipped_loss(options: ClipOptions, scaled: bool, expected: list[float]) -> None:
    for aggregation, value in zip(["seq_mean", "token_mean_global", "const", "seq_sum_mean"], expected, strict=True):
        loss = total_loss(inputs(group(REWARDS, scaled)), weights(aggregation), clip, options)
        assert float(loss.value) == pytest.approx(value, abs=2e-6), aggregation
    summed = total_loss(inputs(group(REWARDS, scaled)), weights("token_sum"), clip, options)
    assert float(summed.value) == pytest.approx(expected[3] * 4, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "ratio", "expected"),
    [
        ("none", "product", 0.406312),
        ("token_truncate", "product", 0.312133),
        ("token_mask", "product", 0.188922),
        ("sequence_truncate", "product", 0.496911),
        ("sequence_mask", "product", 0.661191),
        ("sequence_truncate", "geometric_mean", 0.403929),
    ],
)
def test_mismatch_weights(name: str, ratio: str, expected: float) -> None:
    behaviour = torch.tensor([-1.65, -0.1, -1.4, -2, -0.9, -1.4, -0.6, -1.85])
    of_step, options = inputs(group(REWARDS)), MismatchOptions(upper=1.5, sequence_ratio=ratio)
    found = mismatch(of_step.old_logp_N, behaviour, of_step.mask_N, SEQUENCE, name, options)
    loss = total_loss(of_step, weights("token_mean_global"), clip, ClipOptions(), mismatch_N=found.weight_N)
    assert float(loss.value) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(("name", "expected"), [("k1", -0.025), ("k2", 0.05), ("k3", 0.054060)])
def test_kl_token_mean(name: str, expected: float) -> None:
    assert float(KL_ESTIMATORS[name](LOGP, REF).mean()) == pytest.approx(expected, abs=1e-6)
    zero_advantage = inputs([0.0] * 4)
    loss = total_loss(zero_advantage, weights("token_mean_global"), clip, ClipOptions(), ref_logp_N=REF, beta=0.1,
                      kl_estimator=name)  # fmt: skip
    assert float(loss.value) == pytest.approx(0.1 * expected, abs=1e-7)
    assert loss.sums["kl"] == pytest.approx(8 * expected, abs=1e-5)


def expected_gradient(name: str) -> torch.Tensor:
    """E_pi[grad of the estimator] for a 3-token policy, exactly: sum over tokens of pi(a) d k(a)/d logits."""
    logits = torch.tensor([0.3, -0.2, 0.9], requires_grad=True)
    ref = torch.tensor([0.1, 0.5, -0.4]).log_softmax(0)
    logp = logits.log_softmax(0)
    (logp.detach().exp() * KL_ESTIMATORS[name](logp, ref)).sum().backward()
    assert logits.grad is not None
    return logits.grad


def test_kl_gradients_are_those_of_the_stated_divergences() -> None:
    logits = torch.tensor([0.3, -0.2, 0.9], requires_grad=True)
    ref = torch.tensor([0.1, 0.5, -0.4]).log_softmax(0)
    logp = logits.log_softmax(0)
    [reverse] = torch.autograd.grad((logp.exp() * (logp - ref)).sum(), logits, retain_graph=True)
    [forward] = torch.autograd.grad((ref.exp() * (ref - logp)).sum(), logits)
    torch.testing.assert_close(expected_gradient("k1"), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(expected_gradient("k2"), reverse, atol=1e-6, rtol=0)
    torch.testing.assert_close(expected_gradient("k3"), forward, atol=1e-6, rtol=0)


def test_exploding_ratios_stay_finite() -> None:
    far = torch.tensor([-500.0], requires_grad=True)
    assert torch.isfinite(k3(far, torch.zeros(1))).all()
    one = LossInputs(logp_N=far, old_logp_N=torch.full((1,), -2000.0), advantage_N=torch.ones(1),
                     sequence_N=torch.zeros(1, dtype=torch.long), mask_N=torch.ones(1))  # fmt: skip
    loss = total_loss(one, torch.ones(1), clip, ClipOptions())
    loss.value.backward()
    assert torch.isfinite(loss.value)
    assert torch.isfinite(far.grad).all()  # type: ignore[arg-type]


def test_clipped_tokens_get_no_gradient_and_are_counted() -> None:
    logp = LOGP.clone().requires_grad_()
    loss = total_loss(inputs(group(REWARDS), logp), weights("token_sum"), clip, ClipOptions())
    loss.value.backward()
    assert logp.grad is not None
    # d > log 1.2 with A > 0: tokens 0, 6, 7; d < log 0.8 with A < 0: tokens 4 and 5.
    assert (logp.grad == 0).nonzero()[:, 0].tolist() == [0, 4, 5, 6, 7]
    assert loss.sums["clipped"] == 5


def fake_group(rewards: list[float]) -> Group:
    done = Completion(segments=(), text="", finish_reason=FinishReason.STOP)
    rollouts = tuple(Rollout(completion=done, score=Score(value=r), reward=r) for r in rewards)
    prompt = Prompt(sample_id="s", token_ids=(1,), compact_ids=(1,))
    return Group(sample=Sample(id="s", task="t", parts=()), prompt=prompt, rollouts=rollouts)


def test_zero_spread_groups_are_set_aside_only_when_they_carry_nothing() -> None:
    groups = [fake_group([0.3, 0.3]), fake_group([0.0, 1.0]), fake_group([1.0, 1.0])]
    dropped = assign(groups, group, scale=True, drop_flat=True)
    assert [g.rewards for g in dropped.dropped] == [(0.3, 0.3), (1.0, 1.0)]
    assert len(dropped.kept) == 1
    kept = assign(groups, group, scale=True, drop_flat=False)
    assert [g.advantages for g in kept.kept][::2] == [(0.0, 0.0), (0.0, 0.0)]
    assert kept.dropped == ()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=2, max_size=9), st.floats(-5, 5))
def test_group_advantages_are_centred_and_ignore_a_constant(rewards: list[float], shift: float) -> None:
    advantages = group(rewards)
    assert sum(advantages) == pytest.approx(0.0, abs=1e-6)
    shifted = group([r + shift for r in rewards])
    assert shifted == pytest.approx(advantages, abs=1e-4 + 1e-6 * max(map(abs, advantages)))
