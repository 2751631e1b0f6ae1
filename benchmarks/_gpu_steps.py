"""The two training steps that `gpu.py` compares, on the same weights and the same completions."""

from __future__ import annotations

import gc
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vlrft.attention import NAME
from vlrft.logprob import HeadOptions
from vlrft.models.base import Family
from vlrft.pack import Batch, count, on_device, pack
from vlrft.policy import Policy
from vlrft.types import Group

Backward = Callable[[], Tensor]
"""Forward and backward of all groups; the loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One way to compute a step."""

    name: str
    shared: bool
    """The prompt once for all its completions; else a padded batch of G copies."""
    attention: str
    """`model.attention` of vlrft, or the name of a kernel in transformers."""


SIDES = (
    Side(name="shared prefix, two_part", shared=True, attention="two_part"),
    Side(name="shared prefix, flex", shared=True, attention="flex"),
    Side(name="per sequence, sdpa", shared=False, attention="sdpa"),
    Side(name="per sequence, flash_attention_2", shared=False, attention="flash_attention_2"),
)


def runnable(side: Side, device: torch.device, precision: str) -> str | None:
    """Why a side cannot run here; None when it can."""
    if side.attention in ("flex", "flash_attention_2") and device.type != "cuda":
        return "needs a GPU"
    if side.attention == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        return "flash-attn is not installed"
    if side.attention == "flash_attention_2" and precision == "fp32":
        return "needs half precision"
    return None


@contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-autocast"):
        yield


def step_of(side: Side, family: Family, groups: Sequence[Group], precision: str) -> Backward:
    """The step of a side; its inputs are made and moved here, once."""
    family.model.config.get_text_config()._attn_implementation = NAME if side.shared else side.attention
    family.model.config.vision_config._attn_implementation = "sdpa" if side.shared else side.attention
    family.model.train()
    return (_shared if side.shared else _per_sequence)(side, family, groups, precision)


def _shared(side: Side, family: Family, groups: Sequence[Group], precision: str) -> Backward:
    device = family.model.device
    # A group per micro-batch, as the other side has one.
    batches = on_device([batch for group in groups for batch in _packed([group], groups, family)], device)
    policy = Policy(family, HeadOptions(banned_ids=(), accumulate_in_place=True), side.attention)

    def backward() -> Tensor:
        total = torch.zeros((), device=device)
        for batch in batches:
            with autocast(device, precision):
                logp_N = policy(**batch.inputs, layout=batch.layout)["logp"]
            loss = -(batch.weight_N * batch.advantage_N * logp_N).sum()
            loss.backward()
            total += loss.detach()
        return total

    return backward


def _packed(part: Sequence[Group], groups: Sequence[Group], family: Family) -> list[Batch]:
    return pack(
        part, family.collate_media, token_budget=2**40, aggregation="token_mean_global",
        max_completion_length=1, counts=count(groups),
    )  # fmt: skip


def _per_sequence(side: Side, family: Family, groups: Sequence[Group], precision: str) -> Backward:
    device = family.model.device
    batches = [_padded(group, family, device) for group in groups]
    tokens = count(groups).tokens
    model: Any = family.model

    def backward() -> Tensor:
        total = torch.zeros((), device=device)
        for inputs, targets_GC, mask_GC, advantage_G in batches:
            longest = targets_GC.shape[1]
            with autocast(device, precision):
                logits = model(**inputs, use_cache=False, logits_to_keep=longest + 1).logits[:, :-1]
            logp_GC = _log_prob(logits, targets_GC)
            loss = -(logp_GC * mask_GC * advantage_G[:, None]).sum() / tokens
            loss.backward()
            total += loss.detach()
        return total

    return backward


def _log_prob(logits_GCV: Tensor, targets_GC: Tensor) -> Tensor:
    """Row by row in float32, so that no second copy of all logits is made (as TRL does)."""
    rows = [
        logits.float().log_softmax(-1).gather(1, targets[:, None])[:, 0]
        for logits, targets in zip(logits_GCV, targets_GC, strict=True)
    ]
    return torch.stack(rows)


def _padded(group: Group, family: Family, device: torch.device) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
    """G copies of the prompt and its media with a completion each, padded on the right."""
    prompt = torch.tensor(group.prompt.token_ids)
    completions = [torch.tensor(rollout.completion.token_ids) for rollout in group.rollouts]
    targets = nn.utils.rnn.pad_sequence(completions, batch_first=True)
    lengths = torch.tensor([len(completion) for completion in completions])
    mask = torch.arange(targets.shape[1]) < lengths[:, None]
    rows = [torch.cat([prompt, target])[None] for target in targets]
    about = [family.library_inputs(group.prompt, row) for row in rows]
    inputs = {key: torch.cat([one[key] for one in about], int(key == "position_ids")) for key in about[0]}
    inputs["input_ids"] = torch.cat(rows)
    inputs["attention_mask"] = torch.cat([torch.ones(len(rows), len(prompt), dtype=torch.bool), mask], 1).long()
    advantages = torch.tensor(group.advantages)
    moved = {key: value.to(device) for key, value in inputs.items()}
    return moved, targets.to(device), mask.to(device), advantages.to(device)


def gradients(family: Family, backward: Backward) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of one step, those of the parameters themselves."""
    family.model.zero_grad(set_to_none=True)
    loss = float(backward())
    return loss, {name: p.grad for name, p in family.model.named_parameters() if p.grad is not None}


def kept(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A copy on the host: a card has no room for a second set of a large model's gradients."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def disagreement(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Norm of the difference of all gradients over the norm of theirs, one by one on the device of ours."""
    if ours.keys() != theirs.keys():
        raise RuntimeError(f"the sides have gradients of other parameters: {sorted(ours.keys() ^ theirs.keys())[:5]}")
    apart = whole = 0.0
    for name, mine in ours.items():
        expected = theirs[name].to(mine.device).float()
        whole += float(expected.square().sum())
        apart += float((mine.detach().float() - expected).square().sum())
    return float((apart / whole) ** 0.5)


Outcome = TypeVar("Outcome")


def in_memory(family: Family, work: Callable[[], Outcome]) -> Outcome | None:
    """What `work` returns; None where the card's memory runs out in it. Nothing of it stays on the card then."""
    try:
        return work()
    except torch.OutOfMemoryError as error:
        print(f"out of memory: {str(error).splitlines()[0]}", file=sys.stderr)
    # Not in the handler: until it is left, the error holds the frames with their tensors.
    family.model.zero_grad(set_to_none=True)
    _empty(family.model.device)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What a side took."""

    seconds: list[float]
    """Of each step: forward, backward, AdamW."""
    peak_mib: float | None
    """torch's own peak on the GPU: weights, gradients and optimiser included; None on the CPU."""


def timed(family: Family, backward: Backward, steps: int) -> Timing:
    """`steps` optimiser steps after one that warms up."""
    device = family.model.device
    family.model.zero_grad(set_to_none=True)
    optimizer = torch.optim.AdamW(family.model.parameters(), lr=0.0, weight_decay=0.0, fused=True)
    seconds = []
    for number in range(steps + 1):
        if number == 1 and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        started = _now(device)
        backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(_now(device) - started)
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    del optimizer
    _empty(device)
    return Timing(seconds=seconds[1:], peak_mib=peak)


def _empty(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
