"""A plan as text for a terminal and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vlrft.plan.parts import CUDA_CONTEXT, CUDA_SLACK, GIB
from vlrft.plan.phases import Rollout
from vlrft.plan.stage import Device, StagePlan

WHY = {
    "training": "a micro-batch of {0.training.tokens} tokens in training",
    "rollout": "the rollout",
    "evaluation": "the evaluation",
    "generation": "vLLM's generation",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Every stage of a recipe."""

    recipe: str
    device: Device
    stages: tuple[StagePlan, ...]

    @property
    def peak(self) -> int:
        """Bytes, of the stage that needs most."""
        return max(stage.peak for stage in self.stages)

    @property
    def fits(self) -> bool | None:
        """None where the memory is not known."""
        return None if self.device.usable is None else self.peak <= self.device.usable

    def as_json(self) -> dict[str, Any]:
        """Bytes throughout."""
        return {
            "recipe": self.recipe,
            "gpus": self.device.gpus,
            "memory": self.device.memory,
            "usable": self.device.usable,
            "peak": self.peak,
            "fits": self.fits,
            "stages": [_stage_json(stage) for stage in self.stages],
        }

    def as_text(self) -> str:
        lines = [f"{self.recipe}: {_device(self.device)}"]
        for stage in self.stages:
            lines += ["", *_stage_lines(stage, self.device)]
        return "\n".join([*lines, "", _verdict(self)])


def _device(device: Device) -> str:
    where = "one process on the CPU" if device.on_cpu else f"each of {device.gpus} GPUs"
    if device.memory is None:
        return where
    if device.on_cpu:
        return f"{where}, {device.memory / GIB:.0f} GiB"
    return (
        f"{where}, {device.memory / GIB:.0f} GiB, of which {(device.usable or 0) / GIB:.1f} for tensors "
        f"({CUDA_CONTEXT / GIB:.1f} GiB and {CUDA_SLACK:.0%} set aside, an assumption)"
    )


def _stage_lines(stage: StagePlan, device: Device) -> Iterator[str]:
    demand, training = stage.demand, stage.training
    yield f"stage {stage.name} ({stage.kind})"
    yield (
        f"  prompts {demand.lengths[-1]} to {demand.lengths[0]} tokens, mean {demand.mean_length:.0f}; completions "
        f"{demand.generations} x {demand.completion_tokens}"
    )
    if demand.unusable:
        yield f"  {demand.unusable} rows cannot be shown or are too long: vlrft validate says which"
    yield (
        f"  a step on one rank: {demand.prompts} prompts, {training.micro_batches} micro-batches, the largest of "
        f"{training.tokens} tokens (train.micro_batch_tokens={stage.budget})"
    )
    for name, size, note in _parts(stage):
        yield f"    {name:28} {gib(size):>10}  {note}".rstrip()
    for name, peak in stage.phases.items():
        mark = "  <- binds" if name == stage.binds else ""
        yield f"  {'peak in ' + name:30} {gib(peak):>10}{mark}"
    if device.usable is not None:
        yield from _proposals(stage)


def _parts(stage: StagePlan) -> Iterator[tuple[str, int, str]]:
    resident, training = stage.resident, stage.training
    yield "parameters", resident.parameters, ""
    yield "gradients", resident.gradients, "of what is not frozen"
    yield "optimiser", resident.optimizer, "AdamW's two states each; under zero* and DeepSpeed's copy of the weights"
    if resident.reference:
        yield "reference policy", resident.reference, "objective.beta > 0"
    if resident.gathered:
        yield "gathered", resident.gathered, "parameters or gradients on their way between ranks (estimated)"
    if resident.on_host:
        yield "offloaded", resident.on_host, "host memory, not counted"
    yield "media", stage.media, "pixels of the prompts"
    yield "vision tower", training.vision, "kept for the backward pass"
    yield "language model", training.language, "kept for the backward pass, prompts once"
    yield "output head", training.head, "logits: softmax cache or one chunk"
    if training.extra >= 0:
        yield "backward pass", training.extra, "beside that, at its largest moment"
    else:
        yield "gradients to come", training.extra, "at the peak, before most of the backward pass"
    for what, rollout in (("rollout", stage.rollout), ("evaluation", stage.evaluation)):
        if rollout is not None:
            yield from _rollout_parts(what, rollout)
    if stage.vllm is not None:
        tokens = f"room for {stage.vllm.cache_tokens:,} tokens of keys and values"
        yield "vLLM", stage.vllm.reserved, f"{gib(stage.vllm.weights)} weights, {tokens}"
        if stage.vllm.sleeps:
            yield "vLLM asleep", stage.vllm.asleep, "while the trainer learns (an assumption)"
        yield "weights in shared memory", stage.vllm.folder, "host memory, not counted"


def _rollout_parts(what: str, rollout: Rollout) -> Iterator[tuple[str, int, str]]:
    if rollout.packed_weights:
        yield f"{what}: packed weights", rollout.packed_weights, "second copy for decoding"
    yield f"{what}: prefill", rollout.prefill, "all prompts at once, no backward pass"
    yield f"{what}: KV cache", rollout.cache, "prompts once, rows at full length"
    yield f"{what}: decoding", rollout.decoding, "logits and sampling of all rows"


def _proposals(stage: StagePlan) -> Iterator[str]:
    if stage.proposed_budget is not None:
        one = " (the whole step in one micro-batch)" if _is_whole(stage) else ""
        yield f"  proposed: train.micro_batch_tokens={stage.proposed_budget}{one}"
    if stage.proposed_share is not None:
        yield f"  proposed: engine.kwargs.gpu_memory_utilization={stage.proposed_share}"
    if stage.vllm is not None and stage.vllm.share is not None and stage.beside_vllm and stage.proposed_share is None:
        yield (
            f"  the trainer leaves vLLM less than the {gib(stage.vllm.least)} of its weights and one row of "
            "engine.kwargs.max_model_len tokens: give it GPUs of its own, or lower what the trainer takes"
        )
    for change, peak in stage.lower:
        yield f"  lower: {change:40} peak then {gib(peak)}"


def _is_whole(stage: StagePlan) -> bool:
    demand = stage.demand
    one = len(demand.longest.token_ids) + demand.generations * demand.completion_tokens
    return (stage.proposed_budget or 0) >= one * demand.groups


def _verdict(plan: Plan) -> str:
    most = max(plan.stages, key=lambda stage: stage.peak)
    what = WHY[most.binds].format(most)
    if plan.device.usable is None:
        return f"needs {gib(plan.peak)}: stage {most.name}, {what}, is the largest"
    said = "fits" if plan.fits else "does not fit"
    verdict = f"{said}: {gib(plan.peak)} of {gib(plan.device.usable)}; stage {most.name}, {what}, binds"
    if plan.fits or (most.lower and most.lower[-1][1] <= plan.device.usable):
        return verdict
    return f"{verdict}. Also with all of the above it does not: take a smaller model, more memory, or adapters"


def gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB" if abs(size) >= GIB // 10 else f"{size / 2**20:.1f} MiB"


def _stage_json(stage: StagePlan) -> dict[str, Any]:
    demand = stage.demand
    parts = {
        name: None if (part := getattr(stage, name)) is None else dataclasses.asdict(part)
        for name in ("resident", "training", "rollout", "evaluation", "vllm")
    }
    return {
        "name": stage.name,
        "kind": stage.kind,
        "prompt_tokens": {"least": demand.lengths[-1], "mean": demand.mean_length, "most": demand.lengths[0]},
        "completion_tokens": demand.completion_tokens,
        "generations": demand.generations,
        "prompts": demand.prompts,
        "unusable_rows": demand.unusable,
        "micro_batch_tokens": stage.budget,
        "media": stage.media,
        **parts,
        "peaks": stage.phases,
        "binds": stage.binds,
        "proposed": {"micro_batch_tokens": stage.proposed_budget, "gpu_memory_utilization": stage.proposed_share},
        "lower": [{"change": change, "peak": peak} for change, peak in stage.lower],
    }
