"""The optimiser over what learns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from vlrft.config import TrainConfig
from vlrft.log import UserError

BITSANDBYTES = {"adamw_8bit": "AdamW8bit", "paged_adamw": "PagedAdamW", "paged_adamw_8bit": "PagedAdamW8bit"}
"""`train.optimizer` -> class of bitsandbytes.optim."""


def make_optimizer(parameters: Iterable[nn.Parameter], train: TrainConfig) -> torch.optim.Optimizer:
    """AdamW over those of `parameters` that have gradients. Raises UserError as `check_optimizer`."""
    learning = [p for p in parameters if p.requires_grad]
    options: dict[str, Any] = {
        "lr": train.learning_rate,
        "betas": (train.adam_beta1, train.adam_beta2),
        "eps": train.adam_epsilon,
        "weight_decay": train.weight_decay,
    }
    if train.optimizer == "adamw":
        return torch.optim.AdamW(learning, fused=True, **options)
    check_optimizer(train, on_cuda=any(p.is_cuda for p in learning))
    from bitsandbytes import optim

    optimizer: torch.optim.Optimizer = getattr(optim, BITSANDBYTES[train.optimizer])(learning, **options)
    return optimizer


def check_optimizer(train: TrainConfig, *, on_cuda: bool) -> None:
    """Raise UserError for an optimiser that this machine cannot run."""
    if train.optimizer == "adamw":
        return
    if train.optimizer.startswith("paged") and not on_cuda:
        raise UserError(
            f"train.optimizer={train.optimizer} needs a CUDA device, whose memory it pages to the host's; "
            f"use {train.optimizer.removeprefix('paged_')}"
        )
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"train.optimizer={train.optimizer} needs bitsandbytes: pip install bitsandbytes; or use adamw"
        ) from error
