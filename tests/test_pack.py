"""Counts, loss weights, and the loss's independence of how a step is cut into micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from vlrft.config import ObjectiveConfig
from vlrft.grpo import Minibatch, Objective, minibatches
from vlrft.objectives.advantage import Assigned
from vlrft.pack import Counts, count, pack, token_weight
from vlrft.testing import make_group, make_prompt, random_completions
from vlrft.types import FinishReason, Group, Prompt

AGGREGATIONS = ["token_mean_global", "seq_mean", "const", "seq_sum_mean", "token_sum"]


def bare_group(lengths: Sequence[int], rewards: Sequence[float], name: str = "g") -> Group:
    prompt = Prompt(sample_id=name, token_ids=(1, 2, 3), compact_ids=(1, 2, 3), position_ids=torch.zeros(3, 3).long())
    return make_group(prompt, [[5] * n for n in lengths], rewards)


def truncated(group: Group, index: int) -> Group:
    rollouts = list(group.rollouts)
    cut = replace(rollouts[index].completion, finish_reason=FinishReason.LENGTH)
    rollouts[index] = replace(rollouts[index], completion=cut)
    return replace(group, rollouts=tuple(rollouts))


def test_counts_tokens_and_sequences_that_carry_loss() -> None:
    groups = [truncated(bare_group([4, 2], [0, 1]), 0), bare_group([3, 1], [0, 1])]
    assert count(groups) == Counts(tokens=10, sequences=4)
    assert count(groups, mask_truncated=True) == Counts(tokens=6, sequences=3)
    assert count([]) == Counts(tokens=0, sequences=0)


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("token_mean_global", (4 * 1.0 + 2 * 3.0) / 6),
        ("seq_mean", (1.0 + 3.0) / 2),
        ("const", (4 * 1.0 + 2 * 3.0) / (2 * 8)),
        ("seq_sum_mean", (4 * 1.0 + 2 * 3.0) / 2),
        ("token_sum", 4 * 1.0 + 2 * 3.0),
    ],
)
def test_weights_of_every_aggregation(aggregation: str, expected: float) -> None:
    counts = Counts(tokens=6, sequences=2)
    loss = sum(n * value * token_weight(aggregation, counts, n, 8) for n, value in ((4, 1.0), (2, 3.0)))
    assert loss == pytest.approx(expected)


def test_minibatches_deal_kept_and_dropped_alike() -> None:
    kept = tuple(bare_group([2, 2], [0, 1], f"k{i}") for i in range(5))
    dropped = tuple(bare_group([2, 2], [1, 1], f"d{i}") for i in range(2))
    assigned = Assigned(kept=kept, dropped=dropped)
    plain = minibatches(assigned, ObjectiveConfig(minibatches=2))
    assert [len(part.groups) for part in plain] == [2, 3]
    assert [part.silent for part in plain] == [(), ()]
    counting = minibatches(assigned, ObjectiveConfig(minibatches=2, count_dropped_in_denominator=True))
    assert [len(part.silent) for part in counting] == [1, 1]
    assert tuple(g for part in counting for g in part.groups) == kept
    few = minibatches(Assigned(kept=kept[:1], dropped=()), ObjectiveConfig(minibatches=3))
    assert [len(part.groups) for part in few] == [0, 0, 1], "a step without groups is planned all the same"


@pytest.fixture
def scored(stage: Any) -> tuple[Any, tuple[Group, ...]]:
    run = stage(objective={"num_iterations": 2})
    family = run.worker.renderer.family
    groups = []
    for i, lengths in enumerate([[5, 2, 9], [3, 3], [1, 7, 4, 2]]):
        prompt = make_prompt(family, f"p{i}", [(56, 28 * (i + 1))])
        group = make_group(
            prompt, random_completions(family, lengths, seed=i), [float(j % 3) for j in range(len(lengths))]
        )
        groups.append(truncated(group, 0))
    return run, run.objective.assign(groups).kept


def loss_and_gradients(run: Any, part: Minibatch, budget: int, config: ObjectiveConfig) -> tuple[float, dict[str, Any]]:
    model = run.state.policy.model
    model.zero_grad()
    objective = Objective.build(config)
    batches = pack(
        part.groups, run.worker.renderer.family.collate_media, token_budget=budget, aggregation=config.aggregation,
        max_completion_length=9, counts=count([*part.groups, *part.silent], mask_truncated=config.mask_truncated),
        mask_truncated=config.mask_truncated,
    )  # fmt: skip
    total = 0.0
    for batch in batches:
        # Old log-probs a little off, so that ratio and clip take part.
        output = run.state.policy(**batch.inputs, layout=batch.layout)
        batch.annotations["old_logp_N"] = output["logp"].detach() + 0.3 * (batch.inputs["targets"] % 3 - 1)
        loss, _ = objective.loss(batch, output)
        loss.backward()
        total += float(loss.detach())
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("mask_truncated", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_loss_and_gradient_do_not_depend_on_the_cut(scored: Any, aggregation: str, mask_truncated: bool) -> None:
    run, groups = scored
    config = ObjectiveConfig(aggregation=aggregation, mask_truncated=mask_truncated, epsilon_high=0.1)
    part = Minibatch(groups=groups)
    loss, gradients = loss_and_gradients(run, part, 10_000, config)
    assert loss != 0.0
    for budget in (1, 45, 80):
        again, others = loss_and_gradients(run, part, budget, config)
        assert again == pytest.approx(loss, abs=1e-6, rel=1e-6)
        assert others.keys() == gradients.keys()
        for name, gradient in gradients.items():
            assert (others[name] - gradient).norm() <= 1e-6 * (1.0 + gradient.norm()), name


def test_dropped_groups_count_in_the_denominator_only_when_asked(scored: Any) -> None:
    run, groups = scored
    tokens = sum(len(r.completion.token_ids) for g in groups for r in g.rollouts)
    silent = (make_group(groups[0].prompt, [[7] * tokens], [1.0]),)
    config = ObjectiveConfig()
    loss, gradients = loss_and_gradients(run, Minibatch(groups=groups), 10_000, config)
    name = "model.language_model.embed_tokens.weight"
    halved, others = loss_and_gradients(run, Minibatch(groups=groups, silent=silent), 10_000, config)
    assert halved == pytest.approx(loss / 2, rel=1e-5)
    torch.testing.assert_close(others[name] * 2, gradients[name])


def test_masked_completions_send_no_gradient_and_stay_in_the_statistics(scored: Any) -> None:
    run, groups = scored
    config = ObjectiveConfig(mask_truncated=True)
    first = groups[0]
    assert first.rollouts[0].completion.finish_reason == FinishReason.LENGTH
    without = replace(first, rollouts=first.rollouts[1:], advantages=(first.advantages or ())[1:])
    assert first.advantages == run.objective.assign([replace(first, advantages=None)]).kept[0].advantages
    loss, gradients = loss_and_gradients(run, Minibatch(groups=(first,)), 10_000, config)
    expected, others = loss_and_gradients(run, Minibatch(groups=(without,)), 10_000, config)
    assert loss == pytest.approx(expected, abs=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, others[name], atol=1e-6, rtol=1e-4)
