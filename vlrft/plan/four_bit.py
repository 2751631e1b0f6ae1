"""Layers in 4 bits (QLoRA) as a plan counts them, without bitsandbytes, which packs weights on a real device only.

A stand-in keeps its weight as a shape of plain numbers, which is counted as what bitsandbytes would keep of it (NF4
with quantised scales), and computes as a 4-bit layer does: the weight is made whole for one product and kept by nobody.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vlrft.adapters import adapted_layers
from vlrft.config import ModelConfig

BYTES_PER_WEIGHT = 0.5 + 1 / 64 + 4 / (64 * 256)
"""4 bits; an 8-bit scale per 64 weights; a float32 scale per 256 of those."""


class FourBit(nn.Linear):
    """A linear layer whose weight is in 4 bits."""

    def forward(self, input: Tensor) -> Tensor:
        product: Tensor = _Product.apply(input, self.weight.detach())  # type: ignore[no-untyped-call]
        return product if self.bias is None else product + self.bias.to(product.dtype)


class _Product(torch.autograd.Function):
    """input [..., in] times weight [out, in], transposed. The weight is unpacked in both directions."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor) -> Tensor:
        ctx.weight = weight
        return input @ _unpacked(weight, input).t()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ _unpacked(ctx.weight, grad), None


def _unpacked(weight: Tensor, like: Tensor) -> Tensor:
    return torch.zeros_like(weight, dtype=like.dtype)


def plain(model: ModelConfig) -> ModelConfig:
    """The same model with its adapters on layers that are not quantised: what `stand_in` starts from."""
    if model.adapter is None or model.adapter.kind != "qlora":
        return model
    return model.model_copy(update={"adapter": model.adapter.model_copy(update={"kind": "lora"})})


def stand_in(model: nn.Module) -> None:
    """Count the adapted layers' own weights as quantised from now on."""
    for layer in adapted_layers(model).values():
        layer.get_base_layer().__class__ = FourBit


def weight_bytes(model: nn.Module) -> int:
    """Of all parameters, each once."""
    packed = {id(m.weight) for m in model.modules() if isinstance(m, FourBit)}
    return sum(int(p.numel() * BYTES_PER_WEIGHT) if id(p) in packed else p.nbytes for p in model.parameters())
