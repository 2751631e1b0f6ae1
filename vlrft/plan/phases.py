"""The peak of a training micro-batch and of a rollout, counted by running both with shadow tensors.

All figures are bytes above what stays between steps (parameters, optimiser); gradients are told apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from vlrft.config import Config
from vlrft.engines.base import SamplingParams
from vlrft.engines.hf import HFEngine
from vlrft.engines.packed_linear import available
from vlrft.engines.sampling import draw
from vlrft.logprob import HeadOptions
from vlrft.models.base import Family
from vlrft.pack import Batch
from vlrft.plan.demand import Demand, micro_batches, requests_of
from vlrft.plan.shadow import Shadows, shadow_prompt
from vlrft.policy import Policy
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
    """What the peak holds beyond that: where checkpointing computes a layer anew, or a layer's backward pass."""
    room: int
    """Logits that stay allocated until the next step."""

    @property
    def total(self) -> int:
        """Without gradients and media."""
        return self.vision + self.language + self.head + self.extra


def training_phase(family: Family, demand: Demand, prompt: Prompt, config: Config, budget: int) -> Training:
    """One optimiser step on prompts like `prompt`; `family.model` is a shadow (`shadow_model`)."""
    model = family.model
    clear(model)
    shadows = Shadows()
    with shadows, _autocast(config):
        batches = micro_batches(demand, shadow_prompt(prompt, shadows), family, budget)
        media = shadows.live
        policy = Policy(family, _head_options(family, config), config.model.attention).train()
        weight = policy.head.lm_head.weight
        if weight.requires_grad:
            weight.grad = torch.zeros_like(weight)  # stays from step to step (state.clear_gradients)
        largest = max(batches, key=lambda batch: batch.layout.num_tokens)
        count = len(batches)
        del batches
        # A second one finds the gradients of the first; nothing is larger after that.
        for _ in range(min(count, 2)):
            marks = _forward_backward(policy, largest, shadows)
        gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
        room = policy.head.room._spare
        held = 0 if room is None else room.nbytes
    before = marks["start"]
    kept = {"vision": marks["vision"] - before, "language": marks["language"] - marks["vision"]}
    peak_head = marks["head"] - marks["language"]
    # The room for logits is there from the second micro-batch on.
    head = max(peak_head, 0) + (held if count > 1 else 0)
    total = marks["peak"] - media - gradients
    training = Training(
        micro_batches=count, tokens=largest.layout.num_tokens, media=media, head=head, room=held,
        extra=max(0, total - sum(kept.values()) - head), **kept,
    )  # fmt: skip
    del policy, largest
    clear(model)
    return training


def _forward_backward(policy: Policy, batch: Batch, shadows: Shadows) -> dict[str, int]:
    """Bytes live before, after the vision tower, after the language model, after the head; and the peak."""
    shadows.restart()
    marks = {"start": shadows.live}
    with _marked(policy, marks, shadows):
        out = policy(**batch.inputs, layout=batch.layout)
    marks["head"] = shadows.live
    marks.setdefault("vision", marks["start"])
    (out["logp"] * batch.weight_N).sum().backward()
    marks["peak"] = shadows.peak
    return marks


@contextmanager
def _marked(policy: Policy, marks: dict[str, int], shadows: Shadows) -> Iterator[None]:
    """Note what is live when the language model begins and when it ends."""
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
    """`prompts` prompts like `prompt`, `rows` completions of `tokens` tokens for each, in turns of `engine.max_rows`."""
    engine = HFEngine(family, max_rows=config.engine.max_rows, attention=config.model.attention)
    packs = on_cpu and config.parallel.mixed_precision == "no" and config.model.dtype == "float32" and available()
    packed = _linear_bytes(family) if packs else 0
    family.model.eval()
    shadows = Shadows()
    with shadows, torch.no_grad(), _autocast(config):
        batch = engine._batches(requests_of(shadow_prompt(prompt, shadows), prompts, rows))[0]
        media = shadows.live
        shadows.restart()
        cache, hidden_BD = engine._prefill(batch, [len(request.seeds) for request in batch])
        prefill = shadows.peak - media
        del hidden_BD
        total = len(cache.prompt_of_row)
        text = family.model.config.get_text_config()
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        room = -(-tokens // 64) * 64  # GroupKVCache grows by so many positions
        like = cache.prompt_kv[0][0]
        for _ in range(text.num_hidden_layers):
            shape = (total, text.num_key_value_heads, room, size)
            cache.own_kv.append((like.new_empty(shape), like.new_empty(shape)))
        cache.length = tokens - 1
        kept = shadows.live - media
        shadows.restart()
        position_R = torch.full((total,), prompt.next_position)
        logits = engine._step(torch.zeros(total, dtype=torch.long), position_R, cache)
        params = SamplingParams(temperature=config.engine.temperature, max_tokens=tokens)
        draw(logits, torch.zeros(total), replace(params, temperature=params.temperature or 1.0), family.banned_ids)
        decoding = shadows.peak - media - kept
    return Rollout(packed_weights=packed, cache=kept, prefill=prefill, decoding=decoding)


def clear(model: nn.Module) -> None:
    """Drop the shadows of gradients."""
    for parameter in model.parameters():
        parameter.grad = None


def _linear_bytes(family: Family) -> int:
    inner: Any = family.model.model
    linears = {id(m): m for root in (inner.language_model, family.lm_head) for m in root.modules()}
    return sum(m.weight.nbytes for m in linears.values() if type(m) is nn.Linear)


def _head_options(family: Family, config: Config) -> HeadOptions:
    """As `setup.start_stage` makes them, as far as memory depends on them."""
    return HeadOptions(
        temperature=config.engine.temperature or 1.0,
        banned_ids=family.banned_ids,
        chunk_size=config.model.logprob_chunk_size,
        cache_bytes=config.model.logprob_cache_mb * 2**20,
        accumulate_in_place=True,
    )


def _autocast(config: Config) -> Any:
    return torch.autocast("cpu", torch.bfloat16, enabled=config.parallel.mixed_precision == "bf16")
