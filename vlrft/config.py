"""The typed config tree: what a recipe may say. No torch; a recipe validates in milliseconds.

A knob lives in its component's block or does not exist. Names are TRL's where TRL has one. `vlrft/compose.py` reads
recipes and overrides into this tree.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from vlrft.config_data import Block, DataConfig, MixtureEntry, OutputMode, RowsConfig, SourceConfig, VideoConfig
from vlrft.config_model import AdapterConfig, HalfConfig, ModelConfig, Selection, TinyModelConfig

__all__ = [
    "AdapterConfig",
    "Block",
    "Config",
    "DataConfig",
    "EngineConfig",
    "EvalConfig",
    "HalfConfig",
    "LogConfig",
    "MixtureEntry",
    "ModelConfig",
    "ObjectiveConfig",
    "OutputMode",
    "ParallelConfig",
    "RewardSpec",
    "RewardsConfig",
    "RowsConfig",
    "SamplerConfig",
    "Selection",
    "SourceConfig",
    "StageConfig",
    "TimeLimitsConfig",
    "TinyModelConfig",
    "TrainConfig",
    "VideoConfig",
    "Weight",
]


class SamplerConfig(Block):
    """Which samples come next."""

    name: str = "shuffle"
    """Name in the SAMPLERS table, or `module:attr`."""
    kwargs: dict[str, Any] = Field(default_factory=dict)


class EngineConfig(Block):
    """How completions are sampled."""

    name: str = "hf"
    """Name in the ENGINES table, or `module:attr`."""
    num_generations: int = 8
    """G, completions per prompt."""
    max_completion_length: int = Field(256, gt=0)
    temperature: float = Field(1.0, ge=0.0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    top_k: int = Field(0, ge=0)
    """0 = off."""
    ignore_eos: bool = False
    """Ban the end-of-sequence tokens: every completion has exactly `max_completion_length` tokens."""
    max_rows: int = Field(512, gt=0)
    """Completions decoded at once; more prompts than fit are decoded in turns."""
    max_staleness: int = Field(0, ge=0)
    """Steps that rollouts are made ahead of training, on the engine's own weights: they overlap, and each step learns
    from samples of a policy so many steps old. 0 = strictly on-policy."""
    allow_truncated_sampling: bool = False
    """Permit top_p < 1 or top_k > 0 in training rollouts, whose log-probs the trainer then does not match."""
    kwargs: dict[str, Any] = Field(default_factory=dict)


def _number_or_schedule(value: Any, inner: Any) -> Any:
    """One message for the union, where pydantic would complain about each of its members."""
    try:
        return inner(value)
    except ValidationError:
        raise PydanticCustomError("weight", "Should be a number, or a schedule [[step, weight], ...]") from None


Weight = Annotated[float | list[tuple[int, float]], WrapValidator(_number_or_schedule)]


class RewardSpec(Block):
    """One reward of the weighted sum."""

    func: str
    """Name in the REWARDS table, `module:attr` or `file.py:attr`; of a user's own also an `async def`."""
    name: str | None = None
    """What its part is called in logs and gates; None = `func`."""
    weight: Weight = 1.0
    """A number, or a schedule [[step, weight], ...] over the stage's steps, linear between its points. 0 = log only."""
    gate: str | None = None
    """`"box.iou > 0"`: while the named part's value does not satisfy this, the reward counts as 0, its weight kept."""
    when: dict[str, Any] = Field(default_factory=dict)
    """Which samples it applies to: key of the sample's meta (or `task`) -> value, or list of values; {} = all."""
    target: str | None = None
    """Compare with what the sample's meta holds under this key, in the sample's `target_space`; None = its target."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Options of the function; `{schedule: [[step, value], ...]}` is one that jumps at these steps of the stage."""
    timeout_s: float | None = Field(None, gt=0.0)
    """Kill a call that takes longer, which counts as an error; a plain function then runs in processes of its own."""
    workers: int | None = Field(None, gt=0)
    """Run it in this many processes of its own; None = in this process, or 1 with `timeout_s`."""


def _named_reward(value: Any) -> Any:
    return {"func": value} if isinstance(value, str) else value


class RewardsConfig(Block):
    """What a completion is worth."""

    funcs: list[RewardSpec] = Field(
        default_factory=lambda: [
            RewardSpec(func="box.iou", weight=0.9),
            RewardSpec(func="format.think_answer", weight=0.1),
        ]
    )
    """Entries, or names alone for those of weight 1."""
    combine: Literal["mean", "sum"] = "mean"
    """Weighted mean, or weighted sum, of the rewards that apply."""
    correct: str | None = None
    """`"box.iou >= 0.5"`: which answers are right, for rewards that pay right ones only (`length.*`); None = those
    whose first task reward that applies is at least 0.5."""
    lenient_extraction: bool = False
    """Where a completion has no answer tags, judge what stands after its reasoning (training only; flag `lenient`)."""
    max_errors: int = Field(10, ge=0)
    """A reward that raises is logged with function and sample; after this many completions without its part the run
    stops."""

    @field_validator("funcs", mode="before")
    @classmethod
    def _names_are_entries(cls, value: Any) -> Any:
        return [_named_reward(entry) for entry in value] if isinstance(value, list) else value


class ObjectiveConfig(Block):
    """Advantage, policy loss, KL. The defaults: plain GRPO, global token mean, beta 0, one step per rollout."""

    advantage: str = "group"
    """Name in ADVANTAGES."""
    scale_rewards: Literal["group", "none"] = "group"
    """Divide by the group's std (n-1, + 1e-4), or not (Dr.GRPO)."""
    policy_loss: str = "clip"
    """Name in LOSSES."""
    aggregation: Literal["token_mean_global", "seq_mean", "const", "seq_sum_mean", "token_sum"] = "token_mean_global"
    epsilon: float = Field(0.2, ge=0.0)
    epsilon_high: float | None = Field(None, ge=0.0)
    """Upper clip range; None = epsilon."""
    delta: float | None = Field(None, gt=0.0)
    """Cap of the ratio in the unclipped branch; None = off."""
    beta: float = Field(0.0, ge=0.0)
    """KL coefficient; 0 = no reference model."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    sync_ref_model: bool = False
    """Let the reference follow the policy: ref = alpha * policy + (1 - alpha) * ref every `ref_model_sync_steps` steps.
    False = the policy as the stage found it."""
    ref_model_sync_steps: int = Field(512, gt=0)
    """Steps of the stage, a rollout each (TRL counts optimiser steps)."""
    ref_model_mixup_alpha: float = Field(0.6, gt=0.0, le=1.0)
    """Share of the policy; 1 = the reference becomes the policy."""
    mismatch: Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"] = "token_truncate"
    """Weigh by pi_old / pi_behaviour where the engine's log-probs differ from the trainer's: capped at `mismatch_max`
    (truncate), or 0 outside the bounds (mask); by token or by sequence (methods E.5)."""
    mismatch_max: float = Field(2.0, gt=0.0)
    mismatch_min: float | None = Field(None, ge=0.0)
    """Lower bound of the masks; None = none."""
    mismatch_sequence_ratio: Literal["product", "geometric_mean"] = "product"
    """Ratio of a sequence, from its tokens' ratios."""
    num_iterations: int = Field(1, gt=0)
    """Passes over one rollout."""
    minibatches: int = Field(1, gt=0)
    """Optimiser steps per pass: the rollout's groups are split into this many."""
    mask_truncated: bool = False
    """Leave completions that hit the length limit out of the loss (they stay in the group statistics)."""
    count_dropped_in_denominator: bool = False
    """Peers' behaviour: zero-spread groups keep counting in the loss denominator."""

    @model_validator(mode="after")
    def _reference_is_used(self) -> Self:
        if self.sync_ref_model and self.beta == 0.0:
            raise ValueError(
                "objective.sync_ref_model needs a reference model, and objective.beta=0 has none: set beta, or leave "
                "sync_ref_model out"
            )
        return self


class TimeLimitsConfig(Block):
    """Seconds that a phase of a step may take before the run counts as hanging and ends itself (`vlrft/watchdog.py`).
    0 = no limit."""

    media: float = Field(3600.0, ge=0.0)
    """Reading media and rendering prompts of one step."""
    gen: float = Field(7200.0, ge=0.0)
    """Sampling the completions of one step; new weights for vLLM are part of it."""
    score: float = Field(3600.0, ge=0.0)
    pack: float = Field(1800.0, ge=0.0)
    train: float = Field(14400.0, ge=0.0)
    """Old and reference log-probs and all optimiser steps of one rollout."""
    save: float = Field(3600.0, ge=0.0)
    """Writing the rollouts of a step, or a checkpoint."""
    sync: float = Field(3600.0, ge=0.0)
    eval: float = Field(7200.0, ge=0.0)
    """For each `eval.prompts_per_batch` held-out prompts."""
    collective: float = Field(21600.0, ge=0.0)
    """Waiting for the other ranks in one collective call; torch's own limit is set to ten minutes more."""
    start: float = Field(3600.0, ge=0.0)
    """Added where a phase runs for the first time in a stage: engines start and kernels compile then."""


class TrainConfig(Block):
    """Optimisation and run life."""

    output_dir: str = "runs/run"
    seed: int = 0
    steps: int = Field(100, ge=0)
    """Rollouts (GRPO) or batches (SFT)."""
    prompts_per_step: int = Field(8, gt=0)
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"] = "adamw"
    """8-bit states, and states that move to the host's memory when the GPU's runs out (paged; CUDA only), come from
    bitsandbytes."""
    learning_rate: float = Field(1e-6, gt=0.0)
    weight_decay: float = Field(0.0, ge=0.0)
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = Field(1.0, gt=0.0)
    warmup_steps: int = Field(0, ge=0)
    lr_scheduler: Literal["constant", "linear", "cosine"] = "constant"
    micro_batch_tokens: int = Field(4096, gt=0)
    """Token budget of one forward: prompts + completions, each prompt counted once."""
    save_steps: int = Field(0, ge=0)
    """Checkpoint every n steps; 0 = at the end of each stage only."""
    keep_checkpoints: int = Field(2, gt=0)
    max_skipped_steps: int = Field(5, gt=0)
    """Stop after this many non-finite steps in a row."""
    time_limits: TimeLimitsConfig = Field(default_factory=TimeLimitsConfig)


class ParallelConfig(Block):
    """Devices, precision, and how a model in training lies over the ranks."""

    strategy: Literal["ddp", "zero1", "zero2", "zero3", "fsdp2"] = "ddp"
    """What each rank holds: everything (`ddp`); the weights, and its part of the optimiser states (`zero1`), of the
    gradients too (`zero2`); or a part of everything (`zero3`, `fsdp2`). zero* needs DeepSpeed."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """`optimizer`: optimiser states on the host, where zero* also updates them; under ddp and fsdp2 they are there
    during rollouts only. `all`: the weights too (zero3, fsdp2)."""
    deepspeed: Annotated[dict[str, Any], BeforeValidator(lambda given: {} if given is None else given)] = Field(
        default_factory=dict
    )
    """Laid over the DeepSpeed configuration that zero* makes: `{zero_optimization: {overlap_comm: true}}`; null = none.
    What other keys of a recipe say (ZeRO's stage, batch sizes, clipping, precision, optimiser) is refused in it."""
    mixed_precision: Literal["no", "bf16"] = "no"
    cpu: bool = False
    """Stay on the CPU where a GPU is at hand."""
    num_threads: int | None = Field(None, gt=0)


class EvalConfig(Block):
    """Evaluation on held-out rows."""

    every: int = Field(0, ge=0)
    """Evaluate every n steps; 0 = at the start of the run and the end of each stage only."""
    limit: int | None = Field(None, gt=0)
    temperature: float = Field(0.0, ge=0.0)
    prompts_per_batch: int = Field(64, gt=0)
    metrics: list[Annotated[RewardSpec, BeforeValidator(_named_reward)]] = Field(
        default_factory=lambda: [RewardSpec(func=name) for name in ("box.iou", "box.acc@0.5", "format.think_answer")]
    )
    """Rewards whose mean over the held-out rows is reported: names, or entries as in `rewards.funcs`."""


class LogConfig(Block):
    """What a run writes."""

    tensorboard: bool = True
    rollouts: bool = True
    """Keep every rollout in rollouts/*.jsonl (needed to resume in the middle of a step)."""
    report: bool = True
    progress: bool = True


class StageConfig(BaseModel):
    """One stage: its kind, and whatever it says differently from the top-level blocks."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    kind: Literal["sft", "grpo"]
    name: str | None = None
    """Unique in the run; None = the kind."""


class Config(Block):
    """The whole tree."""

    model: ModelConfig
    data: DataConfig = Field(default_factory=DataConfig)
    sampler: SamplerConfig = Field(default_factory=SamplerConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)
    rewards: RewardsConfig = Field(default_factory=RewardsConfig)
    objective: ObjectiveConfig = Field(default_factory=ObjectiveConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    parallel: ParallelConfig = Field(default_factory=ParallelConfig)
    eval: EvalConfig = Field(default_factory=EvalConfig)
    log: LogConfig = Field(default_factory=LogConfig)
    stages: list[StageConfig] = Field(default_factory=lambda: [StageConfig(kind="grpo")])

    @model_validator(mode="after")
    def _sane(self) -> Self:
        if any(s.kind == "grpo" for s in self.stages) and self.engine.num_generations < 2:
            raise ValueError(
                f"engine.num_generations is {self.engine.num_generations}: a group needs at least 2 completions "
                "to compare; set it to 2 or more (8 is usual)"
            )
        if any(s.kind == "grpo" for s in self.stages) and self.engine.temperature == 0.0:
            raise ValueError(
                "engine.temperature is 0: all completions of a group would be equal; 1.0 is usual (eval.temperature "
                "is the one for evaluation)"
            )
        truncated = self.engine.top_p < 1.0 or self.engine.top_k > 0
        if truncated and not self.engine.allow_truncated_sampling:
            raise ValueError(
                "engine.top_p < 1 or engine.top_k > 0 biases training rollouts; "
                "set engine.allow_truncated_sampling=true to do it all the same"
            )
        return self
