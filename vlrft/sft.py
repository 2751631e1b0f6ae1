"""Supervised fine-tuning on the same Samples: the warm start that a from-scratch or base model needs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vlrft.pack import Batch
from vlrft.renderer import Rendered, Renderer
from vlrft.types import Group, Rollout, Score


def reference_groups(rendered: Sequence[Rendered], renderer: Renderer) -> list[Group]:
    """Each sample as a group of one: its prompt and the reference answer."""
    groups = []
    for sample, prompt in rendered:
        answer = Rollout(completion=renderer.reference(sample, prompt), score=Score(value=None), reward=0.0)
        groups.append(Group(sample=sample, prompt=prompt, rollouts=(answer,)))
    return groups


def sft_loss(batch: Batch, output: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Mean negative log-likelihood of the reference tokens over the whole step."""
    return -(batch.weight_N * output["logp"]).sum(), {}
