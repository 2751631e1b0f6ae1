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

PackedLinears = list[tuple[nn.Linear, Callable[[Tensor], Tensor]]]

_TYPICAL_ROWS = 16
"""Row count that the layout is chosen for; others work, a little slower."""


def available() -> bool:
    """Whether this torch has oneDNN and its packed linear operators."""
    ops = torch.ops.mkldnn
    return torch.backends.mkldnn.is_available() and hasattr(ops, "_reorder_linear_weight")


def pack_linears(roots: list[nn.Module]) -> PackedLinears:
    """A packed forward for every fp32 CPU nn.Linear under `roots`; empty where it does not apply."""
    linears = {id(m): m for root in roots for m in root.modules() if type(m) is nn.Linear}
    usable = [m for m in linears.values() if m.weight.device.type == "cpu" and m.weight.dtype == torch.float32]
    return [(m, _packed(m)) for m in usable] if available() else []


@contextmanager
def enabled(packed: PackedLinears) -> Iterator[None]:
    """Inside, the packed forwards stand in for the modules' own (hooks on the modules still run)."""
    for module, forward in packed:
        module.forward = forward  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        for module, _ in packed:
            del module.forward


def _packed(module: nn.Linear) -> Callable[[Tensor], Tensor]:
    weight = torch.ops.mkldnn._reorder_linear_weight(module.weight.detach(), _TYPICAL_ROWS)
    bias = None if module.bias is None else module.bias.detach()
    return partial(_apply, weight=weight, bias=bias)


def _apply(x: Tensor, *, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out
