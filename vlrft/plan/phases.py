"""The peak of a training micro-batch and of a rollout, counted by running both with shadow tensors.

All figures are bytes above what stays between steps (parameters, optimiser); gradients are told apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vlrft import attention
from vlrft.adapters import is_adapter
from vlrft.config import Config
from vlrft.engines.base import SamplingParams
from vlrft.engines.cache import _GROW as GROWTH
from vlrft.engines.cache import GroupKVCache
from vlrft.engines.hf import HFEngine
from vlrft.engines.packed_linear import available
from vlrft.engines.sampling import draw
from vlrft.kernels import Kernel, PaddedKernel, VarlenKernel
from vlrft.models.base import Family
from vlrft.pack import Batch
from vlrft.plan.demand import Demand, micro_batches, requests_of
from vlrft.plan.four_bit import FourBit
from vlrft.plan.shadow import Shadows, shadow_prompt
from vlrft.policy import Policy, head_options
from vlrft.registry import resolve
from vlrft.shard import STRATEGIES
from vlrft.types import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """The largest micro-batch of a step."""

    micro_batches: int
    tokens: int
    """Stream tokens of the largest."""
    media: int
    """Media tensors of all micro-batches, those that they share once."""
    vision: int
    """Kept by the vision tower for the backward pass."""
    language: int
    """Kept by the language model."""
    head: int
    """Kept by the output head: the softmax cache, or one chunk of logits."""
    extra: int
    """What the peak holds beyond that and all gradients: a layer's backward pass, or a layer computed anew. Below 0
    where a step is one micro-batch, whose peak comes before most gradients."""
    room: int
    """Logits that stay allocated until the next step."""

    @property
    def total(self) -> int:
        """Without media, and without gradients (all of them, see `extra`)."""
        return self.vision + self.language + self.head + self.extra


def training_phase(family: Family, demand: Demand, prompt: Prompt, config: Config, *, on_cpu: bool) -> Training:
    """One optimiser step on prompts like `prompt`; `family.model` is a shadow (`shadow_model`)."""
    clear(family.model)
    shadows, budget = Shadows(), config.train.micro_batch_tokens
    with shadows, _autocast(config), _kernel_of(config, on_cpu):
        batches = micro_batches(demand, shadow_prompt(prompt, shadows), family, budget)
        media, count = shadows.live, len(batches)
        largest = max(batches, key=lambda batch: batch.layout.num_tokens)
        del batches
        strategy = resolve(config.parallel.strategy, STRATEGIES, kind="strategy")
        options = head_options(family, config, samples=demand.generations > 1, in_place=strategy.in_place)
        policy = Policy(family, options, config.model.attention).train()
        if policy.head.lm_head.weight.requires_grad:
            # Stays from step to step (state.clear_gradients).
            policy.head.lm_head.weight.grad = torch.zeros_like(policy.head.lm_head.weight)
        # The second finds gradients and room for logits of the first; those after it find no more.
        for _ in range(min(count, 2)):
            marks = _forward_backward(policy, largest, shadows)
        gradients = sum(p.grad.nbytes for p in family.model.parameters() if p.grad is not None)
        spare = policy.head.room._spare
        room = 0 if spare is None else spare.nbytes
    vision, language = marks["vision"] - marks["start"], marks["language"] - marks["vision"]
    head = max(0, marks["head"] - marks["language"]) + (room if count > 1 else 0)
    peak = marks["peak"] - media - gradients
    clear(family.model)
    return Training(
        micro_batches=count,
        tokens=largest.layout.num_tokens,
        media=media,
        vision=vision,
        language=language,
        head=head,
        extra=peak - vision - language - head,
        room=room,
    )


def _forward_backward(policy: Policy, batch: Batch, shadows: Shadows) -> dict[str, int]:
    """Bytes live at the start, after the vision tower, after the language model, after the head; and the peak."""
    shadows.restart()
    marks = {"start": shadows.live, "vision": shadows.live}
    with _marked(policy, marks, shadows):
        out = policy(**batch.inputs, layout=batch.layout)
    marks["head"] = shadows.live
    (out["logp"] * batch.weight_N).sum().backward()
    marks["peak"] = shadows.peak
    return marks


@contextmanager
def _marked(policy: Policy, marks: dict[str, int], shadows: Shadows) -> Iterator[None]:
    """Note what is live where the vision tower has ended and where the language model has."""
    inner: Any = policy.model.model
    language: nn.Module = inner.language_model

    def before(*_: Any) -> None:
        marks["vision"] = shadows.live

    def after(*_: Any) -> None:
        marks["language"] = shadows.live

    hooks = [language.register_forward_pre_hook(before), language.register_forward_hook(after)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """Sampling with the training model, at its largest moment."""

    packed_weights: int
    """Second copy of the linear layers for decoding (fp32 on the CPU)."""
    cache: int
    """Keys and values: every prompt's once, and each row's own at full length."""
    prefill: int
    """The most that the prompts' pass holds: vision tower and one layer, no backward pass."""
    decoding: int
    """Logits and sampling of all rows beside the cache."""

    @property
    def total(self) -> int:
        return self.packed_weights + max(self.prefill, self.cache + self.decoding)


def rollout_phase(
    family: Family, prompt: Prompt, config: Config, *, prompts: int, rows: int, tokens: int, on_cpu: bool
) -> Rollout:
    """`prompts` prompts like `prompt` with `rows` completions each of `tokens` tokens, `engine.max_rows` at once."""
    engine = HFEngine(family, max_rows=config.engine.max_rows, attention=config.model.attention)
    family.model.eval()
    shadows = Shadows()
    with shadows, torch.no_grad(), _autocast(config), _kernel_of(config, on_cpu):
        batch = engine._batches(requests_of(shadow_prompt(prompt, shadows), prompts, rows))[0]
        media = shadows.live
        shadows.restart()
        cache, _ = engine._prefill(batch, [len(request.seeds) for request in batch])
        prefill = shadows.peak - media
        _fill(cache, tokens)
        kept = shadows.live - media
        shadows.restart()
        total = len(cache.prompt_of_row)
        logits = engine._step(torch.zeros(total, dtype=torch.long), torch.full((total,), prompt.next_position), cache)
        params = SamplingParams(temperature=config.engine.temperature or 1.0, max_tokens=tokens)
        draw(logits, torch.zeros(total), params, family.banned_ids)
        decoding = shadows.peak - media - kept
    packs = on_cpu and config.parallel.mixed_precision == "no" and config.model.dtype == "float32" and available()
    return Rollout(packed_weights=_linear_bytes(family) if packs else 0, cache=kept, prefill=prefill, decoding=decoding)


def _fill(cache: GroupKVCache, tokens: int) -> None:
    """Leave room for one token behind `tokens - 1` in every row, grown as the cache grows."""
    like = cache.prompt_kv[0][0]
    _, heads, _, size = like.shape
    shape = (len(cache.prompt_of_row), heads, -(-tokens // GROWTH) * GROWTH, size)
    cache.own_kv = [(like.new_empty(shape), like.new_empty(shape)) for _ in cache.prompt_kv]
    cache.length = tokens - 1


def clear(model: nn.Module) -> None:
    """Drop the shadows of gradients."""
    for parameter in model.parameters():
        parameter.grad = None


def _linear_bytes(family: Family) -> int:
    inner: Any = family.model.model
    roots = (inner.language_model, family.lm_head)
    # Adapters are merged into what they adapt (`packed_linear`).
    found = {id(m): m for root in roots for name, m in root.named_modules() if not is_adapter(name)}
    return sum(m.weight.nbytes for m in found.values() if type(m) in (nn.Linear, FourBit))


@contextmanager
def _kernel_of(config: Config, on_cpu: bool) -> Iterator[None]:
    """Have the language model attend as it does on the planned device, where shadows say that they are on the CPU.

    On a GPU that is the variable-length kernel in half precision and plain matrix products in float32
    (`kernels.kernel_for`); FlexAttention keeps what the former does.
    """
    if on_cpu:
        yield
        return
    half = config.parallel.mixed_precision == "bf16" or config.model.dtype == "bfloat16"
    kernel: Kernel = VarlenKernel() if half else PaddedKernel(plain=True)
    module: Any = attention
    chosen_here = module.kernel_for
    module.kernel_for = lambda *_: kernel
    try:
        yield
    finally:
        module.kernel_for = chosen_here


def _autocast(config: Config) -> Any:
    return torch.autocast("cpu", torch.bfloat16, enabled=config.parallel.mixed_precision == "bf16")
