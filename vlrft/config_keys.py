"""What an unknown config key was meant to be: the valid keys, near misses, and the names that other trainers use."""

from __future__ import annotations

import difflib
import functools
import re
import types
import typing
from typing import Any

from pydantic import BaseModel

from vlrft.config import Config, StageConfig

PEER_KEYS: dict[str, str] = {
    "model.path": "model.model_name_or_path",
    "model_path": "model.model_name_or_path",
    "pretrain": "model.model_name_or_path",
    "torch_dtype": "model.dtype",
    "attn_implementation": "model.attention",
    "freeze_vit": "model.freeze_vision_tower",
    "freeze_vision_modules": "model.freeze_vision_tower",
    "freeze_aligner": "model.freeze_projector",
    "freeze_llm": "model.freeze_language_model",
    "use_peft": "model.adapter",
    "lora_r": "model.adapter.r",
    "lora_rank": "model.adapter.r",
    "lora_alpha": "model.adapter.alpha",
    "lora_dropout": "model.adapter.dropout",
    "lora_target_modules": "model.adapter.parts",
    "target_modules": "model.adapter.parts",
    "load_in_4bit": "model.adapter.kind",
    "trainable_parameters": "model.train_only",
    "enable_gradient_checkpointing": "model.gradient_checkpointing",
    "train_files": "data.train.path",
    "prompt_data": "data.train.path",
    "dataset_name": "data.train.path",
    "val_files": "data.eval.path",
    "image_dir": "data.train.images",
    "image_folder": "data.train.images",
    "prompt_max_len": "data.max_prompt_length",
    "rollout.name": "engine.name",
    "use_vllm": "engine.name",
    "rollout.n": "engine.num_generations",
    "n_samples_per_prompt": "engine.num_generations",
    "group_size": "engine.num_generations",
    "max_response_length": "engine.max_completion_length",
    "max_new_tokens": "engine.max_completion_length",
    "generate_max_len": "engine.max_completion_length",
    "reward_funcs": "rewards.funcs",
    "reward_weights": "rewards.funcs[].weight",
    "rewards.weights": "rewards.funcs[].weight",
    "funcs[].options": "rewards.funcs[].kwargs",
    "funcs[].args": "rewards.funcs[].kwargs",
    "funcs[].params": "rewards.funcs[].kwargs",
    "funcs[].threshold": "rewards.funcs[].kwargs",
    "funcs[].reward": "rewards.funcs[].func",
    "funcs[].timeout": "rewards.funcs[].timeout_s",
    "reward_function": "rewards.funcs",
    "custom_reward_function.path": "rewards.funcs",
    "custom_reward_function.name": "rewards.funcs",
    "external_plugins": "rewards.funcs",
    "kl_coef": "objective.beta",
    "kl_loss_coef": "objective.beta",
    "init_kl_coef": "objective.beta",
    "kl_loss_type": "objective.kl_estimator",
    "kl_penalty": "objective.kl_estimator",
    "adv_estimator": "objective.advantage",
    "advantage_estimator": "objective.advantage",
    "norm_adv_by_std_in_grpo": "objective.scale_rewards",
    "clip_ratio": "objective.epsilon",
    "clip_ratio_low": "objective.epsilon",
    "clip_ratio_high": "objective.epsilon_high",
    "clip_ratio_dual": "objective.delta",
    "clip_ratio_c": "objective.delta",
    "loss_mode": "objective.policy_loss",
    "importance_sampling_level": "objective.policy_loss",
    "loss_type": "objective.aggregation",
    "loss_avg_mode": "objective.aggregation",
    "loss_agg_mode": "objective.aggregation",
    "ppo_epochs": "objective.num_iterations",
    "ppo_mini_batch_size": "objective.minibatches",
    "steps_per_generation": "objective.minibatches",
    "mask_truncated_completions": "objective.mask_truncated",
    "train_batch_size": "train.prompts_per_step",
    "rollout_batch_size": "train.prompts_per_step",
    "per_device_train_batch_size": "train.micro_batch_tokens",
    "ppo_micro_batch_size_per_gpu": "train.micro_batch_tokens",
    "micro_train_batch_size": "train.micro_batch_tokens",
    "gradient_accumulation_steps": "train.micro_batch_tokens",
    "max_steps": "train.steps",
    "total_training_steps": "train.steps",
    "num_train_epochs": "train.steps",
    "total_epochs": "train.steps",
    "vllm_importance_sampling_correction": "objective.mismatch",
    "vllm_importance_sampling_mode": "objective.mismatch",
    "vllm_importance_sampling_cap": "objective.mismatch_max",
    "rollout_is_threshold": "objective.mismatch_max",
    "tis_imp_ratio_cap": "objective.mismatch_max",
    "lr": "train.learning_rate",
    "actor_learning_rate": "train.learning_rate",
    "optim": "train.optimizer",
    "lr_scheduler_type": "train.lr_scheduler",
    "lr_warmup_steps": "train.warmup_steps",
    "grad_clip": "train.max_grad_norm",
    "max_norm": "train.max_grad_norm",
    "save_freq": "train.save_steps",
    "save_total_limit": "train.keep_checkpoints",
    "default_local_dir": "train.output_dir",
    "save_path": "train.output_dir",
    "bf16": "parallel.mixed_precision",
    "zero_stage": "parallel.strategy",
    "fsdp": "parallel.strategy",
    "use_cpu": "parallel.cpu",
    "test_freq": "eval.every",
    "eval_steps": "eval.every",
    "trainer.logger": "log.tensorboard",
    "report_to": "log.tensorboard",
    "log_completions": "log.rollouts",
}
"""Option of TRL, verl, EasyR1, ms-swift or OpenRLHF (its leaf, or its last dotted parts) -> ours."""

NOTES: dict[str, str] = {
    "rewards.funcs[].weight": "every entry has its own",
    "rewards.funcs[].kwargs": "a mapping of the function's options",
    "train.prompts_per_step": "it counts prompts, not completions",
    "train.micro_batch_tokens": "a micro-batch is a token budget here",
    "train.steps": "a run is stated in steps",
    "objective.minibatches": "a number of optimiser steps, not a size",
}

RESUMABLE = (
    "data.on_bad_sample",
    "engine.kwargs.canary_tolerance",
    "engine.kwargs.gpu_memory_utilization",
    "engine.max_rows",
    "model.gradient_checkpointing",
    "model.logprob_cache_mb",
    "model.logprob_chunk_size",
    "parallel.deepspeed",
    "parallel.offload",
    "parallel.strategy",
    "train.micro_batch_tokens",
    "train.time_limits",
)
"""Keys, or blocks of them, that may change when a run is resumed: what stopped it must not stop it again, be it a file,
the memory or the time. Those of memory change the order of sums: then the run goes on as it would have, to rounding."""

_INDEX = re.compile(r"\[\d+\]")
_STAGE = re.compile(r"^stages\[\d+\]\.")


def is_resumable(key: str) -> bool:
    """Whether `key` is one of RESUMABLE or inside one, perhaps as a stage sets it."""
    key = _STAGE.sub("", key)
    return any(key == free or key.startswith(f"{free}.") for free in RESUMABLE)


def _block_of(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The config block behind an annotation, through `X | None` and `list[X]`; the flag says that it is a list."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return next((found for found in map(_block_of, args) if found[0]), (None, False))
    if origin is list:
        return _block_of(args[0])[0], True
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    return None, False


def _walk(model: type[BaseModel], prefix: str) -> list[str]:
    keys: list[str] = []
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        block, is_list = _block_of(field.annotation)
        keys.append(key)
        if block is not None and block is not StageConfig:
            keys += _walk(block, f"{key}[]." if is_list else f"{key}.")
    return keys


@functools.cache
def valid_keys() -> tuple[str, ...]:
    """Every dotted key of `Config`, blocks and leaves; `[]` stands for any index (`rewards.funcs[].weight`)."""
    return tuple(_walk(Config, ""))


def peer_key(key: str) -> str | None:
    """Our key for another trainer's option: its longest dotted tail that `PEER_KEYS` knows, else None."""
    parts = key.split(".")
    for start in range(len(parts)):
        ours = PEER_KEYS.get(".".join(parts[start:]).lower())
        if ours is not None:
            return ours
    return None


def suggest(key: str) -> str:
    """The end of an unknown-key message: `did you mean X?`, or the valid names of the block that the key stands in."""
    stage = match.group() if (match := _STAGE.match(key)) else ""
    indices = _INDEX.findall(key[len(stage) :])
    plain = _INDEX.sub("[]", key[len(stage) :])

    def shown(candidate: str) -> str:
        same_list = candidate.count("[]") == len(indices) and candidate.split("[]")[0] == plain.split("[]")[0]
        filled = candidate
        for index in indices if same_list else ():
            filled = filled.replace("[]", index, 1)
        return stage + filled.replace("[]", "[0]")

    ours = peer_key(plain)
    if ours is None and (above := plain.rpartition(".")[0]) not in valid_keys():
        ours = peer_key(above)  # `options: {t: 1}` is complained of as `options.t`
    near = [ours] if ours is not None else _near(plain)
    if ours is None and not _beside(plain) and (peer := _near_peer(plain)) is not None:
        ours, near = peer, [peer]
    if near:
        note = f" ({NOTES[near[0]]})" if ours is not None and near[0] in NOTES else ""
        return f"did you mean {' or '.join(shown(k) for k in near)}?{note}"
    block = plain.rpartition(".")[0]
    while block and not any(k.startswith(f"{block}.") for k in valid_keys()):
        block = block.rpartition(".")[0]
    start = f"{block}." if block else ""
    names = [k[len(start) :] for k in valid_keys() if k.startswith(start) and "." not in k[len(start) :]]
    return f"valid in {block or 'the top level'}: {', '.join(names)}"


def _near(key: str) -> list[str]:
    """Valid keys that `key` may have meant, best first: same leaf elsewhere, a typo beside it, a typo anywhere."""
    block, _, leaf = key.rpartition(".")
    same_leaf = [k for k in valid_keys() if k.rpartition(".")[2] == leaf]
    if same_leaf:
        return difflib.get_close_matches(key, same_leaf, n=1, cutoff=0.8) or same_leaf[:3]
    typo = _beside(key)
    # Beside it nothing is spelt alike: a long common block alone makes no likeness.
    elsewhere = [k for k in valid_keys() if not key.startswith(f"{k}.") and k.rpartition(".")[0] != block]
    typo = typo or difflib.get_close_matches(key, elsewhere, n=1, cutoff=0.8)
    if typo:
        return typo
    by_leaf = {k.rpartition(".")[2]: k for k in reversed(valid_keys())}
    return [by_leaf[name] for name in difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=0.75)]


def _beside(key: str) -> list[str]:
    """The key of the same block whose name is spelt most like that of `key`; [] where none is."""
    block, _, leaf = key.rpartition(".")
    names = {k.rpartition(".")[2]: k for k in valid_keys() if k.rpartition(".")[0] == block}
    return [names[name] for name in difflib.get_close_matches(leaf, names, n=1, cutoff=0.7)]


def _near_peer(key: str) -> str | None:
    """Our key for an option of a list's entries that other trainers have and that is misspelt: `funcs[].optons`."""
    tail = ".".join(key.split(".")[-2:])
    known = [name for name in PEER_KEYS if "." in name and name.partition(".")[0] == tail.partition(".")[0]]
    near = difflib.get_close_matches(tail, known, n=1, cutoff=0.85)
    return PEER_KEYS[near[0]] if near else None


def default_of(key: str) -> Any:
    """The default of a dotted key without indices, as plain data; None where there is none (or it is None)."""
    model: type[BaseModel] | None = Config
    value: Any = None
    for name in key.split("."):
        field = model.model_fields.get(name) if model is not None else None
        if field is None:
            return None
        value = None if field.is_required() else field.get_default(call_default_factory=True)
        model = _block_of(field.annotation)[0]
    if isinstance(value, list):
        return [item.model_dump(exclude_unset=True) if isinstance(item, BaseModel) else item for item in value]
    return value.model_dump() if isinstance(value, BaseModel) else value
