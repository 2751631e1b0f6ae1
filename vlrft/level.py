"""The same number of passes on all ranks, and the vision tower in the same ones, for strategies that need it.

Under ZeRO and FSDP2 every forward and backward pass gathers weights and reduces gradients. A rank that makes one more,
or runs the tower in one where the others do not, waits for them for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from vlrft.dist import World
from vlrft.layout import layout_of
from vlrft.models.base import Family
from vlrft.pack import Batch


def level(batches: Sequence[Batch], family: Family, world: World) -> list[Batch]:
    """This rank's micro-batches, filled up to the largest number that any rank has, and told where to run the tower.

    Collective. The first one of a step always runs it: DeepSpeed's ZeRO-3 lets go of a gradient of the step before only
    by writing over it there. With a frozen language model all do: else a text would have no gradient at all.
    """
    everyones = world.gather([batch.has_media for batch in batches])
    always = not any(p.requires_grad for p in family.lm_head.parameters()) and _learns(family)
    media = [
        i == 0 or always or any(has[i] for has in everyones if i < len(has))
        for i in range(max(len(has) for has in everyones))
    ]
    filled = [*batches, *(filler(family) for _ in range(len(media) - len(batches)))]
    return [replace(batch, touch_vision=touch) for batch, touch in zip(filled, media, strict=True)]


def filler(family: Family) -> Batch:
    """A micro-batch of one token that predicts one token, both of weight zero: it changes no sum and no gradient."""
    token = family.encode("a")[:1]
    nothing = torch.zeros(1)
    inputs = {
        "input_ids": torch.tensor([token]),
        "position_ids": torch.zeros(3, 1, 1, dtype=torch.int64),
        "predict_at": torch.zeros(1, dtype=torch.int64),
        "targets": torch.tensor(token),
    }
    return Batch(
        inputs=inputs,
        layout=layout_of([(1, [0])]),
        groups=(),
        sequence_N=torch.zeros(1, dtype=torch.int64),
        loss_mask_N=nothing,
        weight_N=nothing,
        advantage_N=nothing,
        behaviour_logp_N=nothing,
    )


def _learns(family: Family) -> bool:
    return any(p.requires_grad for p in family.model.parameters())
