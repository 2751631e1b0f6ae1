"""The one module that training calls: a packed stream in, log-probs of its completion tokens out."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from vlrft.config import Config
from vlrft.layout import PackedLayout
from vlrft.logprob import HeadOptions, LogprobHead
from vlrft.models.base import Family


def head_options(family: Family, config: Config, *, samples: bool, in_place: bool) -> HeadOptions:
    """Of a stage's output head. samples: it learns from what an engine has sampled. in_place: see `HeadOptions`."""
    never_ends = config.engine.ignore_eos and samples
    return HeadOptions(
        temperature=config.engine.temperature if samples else 1.0,
        banned_ids=family.banned_ids + (family.stop_ids if never_ends else ()),
        chunk_size=config.model.logprob_chunk_size,
        cache_bytes=config.model.logprob_cache_mb * 2**20,
        accumulate_in_place=in_place,
    )


class Policy(nn.Module):
    """A family's model under the packed forward: media once, prompt once, completions behind it."""

    def __init__(self, family: Family, head: HeadOptions, attention: str = "auto") -> None:
        super().__init__()
        self.family = family
        self.model = family.model
        self.head = LogprobHead(family.lm_head)
        self.head_options = head
        self.attention = attention

    def forward(
        self,
        *,
        input_ids: Tensor,
        position_ids: Tensor,
        predict_at: Tensor,
        targets: Tensor,
        layout: PackedLayout,
        entropy_grad: bool = False,
        touch_vision: bool = False,
        **mm: Tensor,
    ) -> dict[str, Tensor]:
        """input_ids [1, T], position_ids [3, 1, T], predict_at and targets [N] -> `logp` and `entropy`, float32 [N].

        `mm` holds the media tensors of the stream's prompts, in order, for the family's vision tower. touch_vision: run
        the tower even where there are none (see Family.hidden_states).
        """
        in_place = self.head_options.accumulate_in_place
        hidden = self.family.hidden_states(
            input_ids,
            position_ids,
            mm,
            accumulate_in_place=in_place,
            touch_vision=touch_vision,
            packed=layout,
            kind=self.attention,
        )
        if torch.is_autocast_enabled(hidden.device.type):
            # The residual stream stays fp32 under autocast; the head's products should not.
            hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
        options = replace(self.head_options, entropy_grad=entropy_grad)
        logp_N, entropy_N = self.head(hidden[0][predict_at], targets, options)
        return {"logp": logp_N, "entropy": entropy_N}
