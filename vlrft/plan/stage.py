"""One stage planned: its parts, the phase that needs most, the micro-batch budget that fits, and what to lower."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from vlrft.compose import Stage
from vlrft.config import Config
from vlrft.models.base import Family
from vlrft.plan.demand import Demand, as_many_of_the_longest, media_bytes
from vlrft.plan.lower import lowered
from vlrft.plan.parts import CUDA_CONTEXT, CUDA_SLACK, Resident, resident
from vlrft.plan.phases import Rollout, Training, rollout_phase, training_phase
from vlrft.plan.vllm import VLLM, vllm_memory
from vlrft.renderer import PROMPT_CACHE_BYTES
from vlrft.selection import select

_TRIES = 5
"""Micro-batch budgets that are counted in search of the largest that fits."""

_ALIKE = 0.8
"""Prompts whose lengths differ by less than this share make like micro-batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What a plan is for."""

    gpus: int
    """0: one process on the CPU."""
    memory: int | None
    """Bytes of one GPU, or of the machine."""

    @property
    def ranks(self) -> int:
        return max(1, self.gpus)

    @property
    def on_cpu(self) -> bool:
        return self.gpus == 0

    @property
    def usable(self) -> int | None:
        """For tensors."""
        if self.memory is None or self.on_cpu:
            return self.memory
        return int(self.memory * (1 - CUDA_SLACK)) - CUDA_CONTEXT


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """Bytes of one stage on each device."""

    name: str
    kind: str
    demand: Demand
    budget: int
    """`train.micro_batch_tokens`."""
    resident: Resident
    training: Training
    media: int
    """Prompts' pixels: on the CPU those kept rendered, and the copies of micro-batches with several prompts."""
    rollout: Rollout | None
    """None where another engine samples, or nothing does."""
    evaluation: Rollout | None
    vllm: VLLM | None
    proposed_budget: int | None
    """Largest `train.micro_batch_tokens` that fits; None: not looked for, or none does."""
    proposed_share: float | None
    """Largest `gpu_memory_utilization` that the trainer leaves to vLLM."""
    lower: tuple[tuple[str, int], ...]
    """Where it does not fit: changes, one after the other, and the peak after each."""

    @property
    def phases(self) -> dict[str, int]:
        """Peak of each phase. vLLM samples in `generation`; in the others it has what it does not give back."""
        held = self.resident.total + self.media
        asleep = self.vllm.asleep if self.vllm is not None else 0
        # A shard of the gradients is less than what is not there yet at the peak.
        late = min(0, self.training.extra) if self.resident.shards_gradients else 0
        peaks = {"training": held + asleep + self.resident.gathered + max(0, self.training.total - late)}
        resting = held - self.resident.away_in_rollouts + self.training.room
        for name, rollout in (("rollout", self.rollout), ("evaluation", self.evaluation)):
            if rollout is not None:
                peaks[name] = resting + rollout.total
        if self.vllm is not None and (self.kind == "grpo" or self.demand.eval_lengths):
            peaks["generation"] = resting + self.vllm.reserved
        return peaks

    @property
    def beside_vllm(self) -> dict[str, int]:
        """Peaks of the phases in which vLLM holds all that it takes."""
        awake = self.vllm is not None and not self.vllm.sleeps
        return {name: peak for name, peak in self.phases.items() if awake or name == "generation"}

    @property
    def peak(self) -> int:
        return max(self.phases.values())

    @property
    def binds(self) -> str:
        """The phase with the highest peak."""
        phases = self.phases
        return max(phases, key=lambda name: phases[name])


class Planner:
    """Counts one stage under changes of its config. `family.model` is a shadow."""

    def __init__(self, family: Family, stage: Stage, demand: Demand, device: Device) -> None:
        self.family, self.stage, self.demand, self.device = family, stage, demand, device
        self.config = stage.config
        select(family, self.config.model, stage.name)

    def plan(self) -> StagePlan:
        made = self.counted(self.config)
        usable = self.device.usable
        if usable is None:
            return made
        fits = made.peak <= usable
        return StagePlan(
            **{name: getattr(made, name) for name in _COUNTED},
            proposed_budget=self._largest_budget(usable, made),
            proposed_share=self.vllm_share(usable, made),
            lower=() if fits else tuple(lowered(self, usable, made)),
        )

    def counted(self, config: Config) -> StagePlan:
        """The stage under `config`, without proposals."""
        demand = self.demand
        training = self.training(config)
        grpo = self.stage.kind == "grpo"
        own = config.engine.name == "hf"
        rollout = self._rollout(config, demand.lengths, demand.prompts, demand.generations) if own and grpo else None
        of_eval = len(demand.eval_lengths)
        prompts = min(config.eval.prompts_per_batch, config.eval.limit or of_eval, of_eval)
        evaluation = self._rollout(config, demand.eval_lengths, prompts, 1) if own and prompts else None
        beta = config.objective.beta if grpo else 0.0
        return StagePlan(
            name=self.stage.name,
            kind=self.stage.kind,
            demand=demand,
            budget=config.train.micro_batch_tokens,
            resident=resident(self.family.model, config, ranks=self.device.ranks, beta=beta),
            training=training,
            media=self._media(training, max(demand.prompts, prompts)),
            rollout=rollout,
            evaluation=evaluation,
            vllm=vllm_memory(self.family, config, self.device.memory, on_cpu=self.device.on_cpu),
            proposed_budget=None,
            proposed_share=None,
            lower=(),
        )  # fmt: skip

    def training(self, config: Config) -> Training:
        """Of micro-batches full of the longest or of the shortest prompts, whichever takes more."""
        prompts = [self.demand.longest]
        if len(self.demand.shortest.token_ids) < _ALIKE * len(prompts[0].token_ids):
            prompts.append(self.demand.shortest)
        on_cpu = self.device.on_cpu
        found = [training_phase(self.family, self.demand, prompt, config, on_cpu=on_cpu) for prompt in prompts]
        return max(found, key=lambda training: training.total + training.media)

    def _rollout(self, config: Config, lengths: tuple[int, ...], prompts: int, rows: int) -> Rollout:
        return rollout_phase(
            self.family,
            self.demand.longest,
            config,
            prompts=max(1, as_many_of_the_longest(lengths, prompts)),
            rows=rows,
            tokens=config.engine.max_completion_length,
            on_cpu=self.device.on_cpu,
        )

    def _media(self, training: Training, prompts: int) -> int:
        """On a GPU: all micro-batches of a step. On the CPU also the rendered prompts."""
        if not self.device.on_cpu:
            return training.media
        per_prompt = self.demand.media_bytes_per_token * self.demand.mean_length
        rows = self.demand.rows + len(self.demand.eval_lengths)
        seen = min(rows, prompts * max(1, self.config.train.steps) + len(self.demand.eval_lengths))
        kept = min(PROMPT_CACHE_BYTES, int(seen * per_prompt))
        of_step = media_bytes(self.demand.longest) * prompts
        return max(kept, of_step) + training.media

    def _largest_budget(self, usable: int, made: StagePlan) -> int | None:
        """By interpolation: a peak grows nearly evenly with the tokens of a micro-batch."""
        least = len(self.demand.longest.token_ids) + self.demand.completion_tokens
        most = (len(self.demand.longest.token_ids) + self.demand.generations * self.demand.completion_tokens) * (
            self.demand.groups
        )
        room = usable - (made.phases["training"] - made.training.total)
        low, high = least, max(least, most)
        if self._need(high) <= room:
            return high
        if (need_low := self._need(low)) > room:
            return None
        need_high = self._need(high)
        for _ in range(_TRIES):
            middle = low + int((high - low) * min(0.95, max(0.05, (room - need_low) / (need_high - need_low))))
            if middle in (low, high):
                break
            need = self._need(middle)
            if need <= room:
                low, need_low = middle, need
            else:
                high, need_high = middle, need
        return low

    def _need(self, budget: int) -> int:
        """Bytes of a training step under another budget, beside what stays."""
        if budget not in self._known:
            train = self.config.train.model_copy(update={"micro_batch_tokens": budget})
            self._known[budget] = self.training(self.config.model_copy(update={"train": train})).total
        return self._known[budget]

    @cached_property
    def _known(self) -> dict[int, int]:
        return {}

    def vllm_share(self, usable: int, made: StagePlan) -> float | None:
        """Of the device: what the trainer leaves vLLM where both are at work. None where vLLM has no share or
        nothing to do, or too little would be left for it."""
        if made.vllm is None or made.vllm.share is None or self.device.memory is None or not made.beside_vllm:
            return None
        left = usable - (max(made.beside_vllm.values()) - made.vllm.reserved)
        # Down: what is rounded up does not fit.
        return math.floor(100 * left / self.device.memory) / 100 if left >= made.vllm.least else None

    def apply(self, config: Config) -> None:
        """What the model itself must know of a changed config."""
        select(self.family, config.model, self.stage.name)
        model = self.family.model
        if config.model.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        elif self.stage.config.model.gradient_checkpointing != model.is_gradient_checkpointing:
            model.gradient_checkpointing_disable()


_COUNTED = ("name", "kind", "demand", "budget", "resident", "training", "media", "rollout", "evaluation", "vllm")
