"""Shadow tensors: the trainer's own code runs without memory and without arithmetic, and its memory is counted.

Inside `Shadows` a float tensor is a shape (torch's meta device derives the next one), while index tensors are real,
since lengths and grids decide what runs. Every storage is counted while it lives: what autograd keeps for the backward
pass, what an operator makes besides, and gradients. So the count follows the code that trains, of any family, with
checkpointing, frozen parts and autocast; no formula has to be kept in step with it.

What it cannot see: scratch memory inside one operator, and what the allocator holds in reserve.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map_only

from vlrft.types import Prompt

aten = torch.ops.aten
_UNINITIALISED = {aten.empty.memory_format, aten.empty_strided.default}
"""Factories whose values nothing can depend on. What other factories make stays real: it may become an index."""
_INDEXED = {aten.index.Tensor, aten.index_put.default}
_READ = aten._local_scalar_dense.default


class Shadow(torch.Tensor):
    """A tensor without values. `meta` has its shape, its strides, and the storage that is counted."""

    meta: Tensor

    @staticmethod
    def __new__(cls, meta: Tensor) -> Shadow:
        made: Shadow = torch.Tensor._make_wrapper_subclass(
            cls,
            meta.size(),
            strides=meta.stride(),
            storage_offset=meta.storage_offset(),
            dtype=meta.dtype,
            device=torch.device("cpu"),
        )
        made.meta = meta
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Shadow({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise RuntimeError(f"{func} on a shadow tensor outside of Shadows")


class Shadows(TorchDispatchMode):
    """Inside, results of shadow tensors are shadow tensors. `live`: bytes of all that exist; `peak`: most so far."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._storages: dict[int, Any] = {}
        """By address: what ends the count of each storage."""

    def counted(self, tensor: Tensor) -> Shadow:
        """A shadow of `tensor` that is counted while it lives."""
        return self._shadow(_like(tensor))

    def uncounted(self, tensor: Tensor) -> Shadow:
        """A shadow of `tensor` that is not: what was there before."""
        meta = _like(tensor)
        self._watch(meta.untyped_storage(), 0)
        return Shadow(meta)

    def restart(self) -> None:
        """Let `peak` begin anew at what is live."""
        self.peak = self.live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = list(_tensors((args, kwargs)))
        if not any(isinstance(x, Shadow) for x in inputs) and not (func in _UNINITIALISED and _is_float(kwargs)):
            return func(*args, **kwargs)
        if func is _READ:
            return 1  # a check of values, such as "are all finite": yes
        target = (kwargs["out"] if "out" in kwargs else args[0]) if _writes(func) else None
        if target is not None and (target.numel() or not isinstance(target, Shadow)):
            return target  # what is written over something keeps its shape and makes nothing
        if func in _INDEXED:
            args = (args[0], _positions(args[1]), *args[2:])
        meta_args, meta_kwargs = tree_map_only(Tensor, _meta, (args, kwargs))
        if "device" in meta_kwargs or func in _UNINITIALISED:
            meta_kwargs["device"] = torch.device("meta")
        out = func(*meta_args, **meta_kwargs)
        if target is not None:
            return target
        return tree_map_only(Tensor, self._result, out)

    def _result(self, made: Tensor) -> Tensor:
        return self._shadow(made) if made.device.type == "meta" else made

    def _shadow(self, meta: Tensor) -> Shadow:
        storage = meta.untyped_storage()
        if storage._cdata not in self._storages:
            self._watch(storage, storage.nbytes())
        return Shadow(meta)

    def _watch(self, storage: torch.UntypedStorage, size: int) -> None:
        self.live += size
        self.peak = max(self.peak, self.live)
        self._storages[storage._cdata] = weakref.finalize(storage, self._gone, storage._cdata, size)

    def _gone(self, key: int, size: int) -> None:
        del self._storages[key]
        self.live -= size


def shadow_model(model: nn.Module, shadows: Shadows) -> None:
    """Replace every parameter and float buffer of `model` by an uncounted shadow; shared ones stay shared."""
    done: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
    with shadows:
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is None:
                    continue
                if id(parameter) not in done:
                    shadow = nn.Parameter(shadows.uncounted(parameter), requires_grad=parameter.requires_grad)
                    done[id(parameter)] = (parameter, shadow)  # the old one lives on, so that its id stays its own
                module._parameters[name] = done[id(parameter)][1]
            for name, buffer in module._buffers.items():
                if buffer is not None and buffer.is_floating_point():
                    module._buffers[name] = shadows.uncounted(buffer)


def shadow_prompt(prompt: Prompt, shadows: Shadows) -> Prompt:
    """`prompt` with counted shadows of its pixels; grids and positions stay real."""
    mm = {key: shadows.counted(value) if value.is_floating_point() else value for key, value in prompt.mm.items()}
    return replace(prompt, mm=mm)


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from _tensors(item)
    elif isinstance(tree, dict):
        yield from _tensors(list(tree.values()))


def _is_float(kwargs: Mapping[str, Any]) -> bool:
    dtype: torch.dtype = kwargs.get("dtype") or torch.get_default_dtype()
    return dtype.is_floating_point


def _writes(func: Any) -> bool:
    """Whether an operator changes a tensor that it is given, and returns it."""
    returned = func._schema.returns
    return bool(returned) and returned[0].alias_info is not None and returned[0].alias_info.is_write


def _positions(index: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Real masks as the positions that they mark: the meta device cannot count them."""
    found: list[Tensor | None] = []
    for one in index:
        if one is None or isinstance(one, Shadow) or one.dtype not in (torch.bool, torch.uint8):
            found.append(one)
        else:
            found.extend(one.nonzero().unbind(1))
    return found


def _meta(tensor: Tensor) -> Tensor:
    return tensor.meta if isinstance(tensor, Shadow) else _like(tensor)


def _like(tensor: Tensor) -> Tensor:
    with _disable_current_modes():
        return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta")
