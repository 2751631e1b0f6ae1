"""Linear layers with pre-packed weights, for decoding on the CPU.

A decoding step multiplies a handful of rows with every weight matrix. The general matrix product reads fp32 weights at
a fraction of the memory's speed there; oneDNN's kernel on weights laid out for it is two to four times faster. Packing
costs one pass over the weights and a second copy of them while it lasts, so it is done once per `generate`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from vlrft.adapters import adapted_layers, merged_weight

PackedLinears = list[tuple[nn.Module, Callable[[Tensor], Tensor]]]

_TYPICAL_ROWS = 16
"""Row count that the layout is chosen for; others work, a little slower."""


def available() -> bool:
    """Whether this torch has oneDNN and its packed linear operators."""
    ops = torch.ops.mkldnn
    return torch.backends.mkldnn.is_available() and hasattr(ops, "_reorder_linear_weight")


def pack_linears(roots: list[nn.Module]) -> PackedLinears:
    """A packed forward for every fp32 CPU nn.Linear under `roots`; empty where it does not apply.

    An adapted layer is packed with its adapter merged: one product instead of three.
    """
    if not available():
        return []
    adapted = {id(m): m for root in roots for m in adapted_layers(root).values()}
    inside = {id(m) for layer in adapted.values() for m in layer.modules()}
    linears = {id(m): m for root in roots for m in root.modules() if type(m) is nn.Linear and id(m) not in inside}
    plain = [(m, _packed(m.weight.detach(), m.bias)) for m in linears.values() if _usable(m.weight)]
    weights = [(m, merged_weight(m), m.get_base_layer().bias) for m in adapted.values()]
    return [*plain, *((m, _packed(weight, bias)) for m, weight, bias in weights if _usable(weight))]


def _usable(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32


@contextmanager
def enabled(packed: PackedLinears) -> Iterator[None]:
    """Inside, the packed forwards stand in for the modules' own (hooks on the modules still run)."""
    for module, forward in packed:
        module.forward = forward
    try:
        yield
    finally:
        for module, _ in packed:
            del module.forward


def _packed(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, _TYPICAL_ROWS)
    return partial(_apply, weight=packed, bias=None if bias is None else bias.detach())


def _apply(x: Tensor, *, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out
