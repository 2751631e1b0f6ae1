"""The TRL side of the benchmark: one workload through `GRPOTrainer` in this process, one JSON line on stdout.

    python benchmarks/_trl_side.py --workload '{"model": {...}, "image_size": 448, ...}'

The line holds `step_seconds`, `generation_seconds` and `training_seconds` (lists, one entry per timed step),
`peak_memory_mib`, `parameters`, `prompt_tokens`, `completion_tokens` and `versions`. Generation is everything up to the
scored completions (image processing, sampling, reward); training is the rest of the step, optimiser and data included.
"""

from __future__ import annotations

import importlib.metadata
import time
from pathlib import Path
from typing import Any

import torch
from _workloads import Workload, noise_images, peak_memory_mib, print_result, rewards_with_spread
from datasets import Dataset  # type: ignore[import-untyped]
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from vlrft.config import TinyModelConfig
from vlrft.models.tiny import SPECIAL_TOKENS, save_tiny


class TimedTrainer(GRPOTrainer):
    """GRPOTrainer that notes how long each rollout took and how many tokens it had."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.generation_seconds: list[float] = []
        self.prompt_tokens: set[int] = set()
        self.completion_tokens: set[int] = set()

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        start = time.perf_counter()
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        self.generation_seconds.append(time.perf_counter() - start)
        self.prompt_tokens.update(output["prompt_mask"].sum(1).tolist())
        self.completion_tokens.update(output["completion_mask"].sum(1).tolist())
        if not output["advantages"].abs().sum().item() > 0:
            raise RuntimeError("every advantage is zero: the reward has no spread, so there is no training to time")
        return output


class StepClock(TrainerCallback):
    """Seconds from the end of one optimiser step to the end of the next: data loading is inside."""

    def __init__(self) -> None:
        self.step_seconds: list[float] = []
        self._last = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._last = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = time.perf_counter()
        self.step_seconds.append(now - self._last)
        self._last = now


def run(workload: Workload, folder: Path) -> dict[str, Any]:
    """Train `warmup_steps + steps` steps and return the numbers that the module docstring lists.

    Raises ValueError when the micro-batch does not divide the completions of a step, RuntimeError when TRL did not do
    the stated work (one rollout per step, the stated number of new tokens in every completion).
    """
    torch.set_num_threads(workload["threads"])
    save_tiny(TinyModelConfig(**workload["model"]), folder / "model")
    processor = AutoProcessor.from_pretrained(folder / "model")
    model = AutoModelForImageTextToText.from_pretrained(folder / "model", dtype=torch.float32)
    vocab_size = model.config.text_config.vocab_size

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return rewards_with_spread(completion_ids, vocab_size)

    question = [{"role": "user", "content": workload["question"]}]
    dataset = Dataset.from_list([{"prompt": question, "image": image} for image in noise_images(workload)])
    clock = StepClock()
    trainer = TimedTrainer(
        model=model,
        processing_class=processor,
        reward_funcs=reward,
        args=trainer_config(workload, processor, folder / "out"),
        train_dataset=dataset,
        callbacks=[clock],
    )
    trainer.train()
    return summarise(workload, trainer, clock, parameters=model.num_parameters())


def trainer_config(workload: Workload, processor: Any, output_dir: Path) -> GRPOConfig:
    """Plain GRPO on the CPU in fp32: one rollout and one fused AdamW step for all completions of a step."""
    completions = workload["prompts_per_step"] * workload["num_generations"]
    if completions % workload["micro_batch"]:
        raise ValueError(f"micro_batch {workload['micro_batch']} does not divide {completions} completions per step")
    return GRPOConfig(
        output_dir=str(output_dir),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        optim="adamw_torch_fused",
        learning_rate=workload["learning_rate"],
        lr_scheduler_type="constant",
        max_steps=workload["warmup_steps"] + workload["steps"],
        per_device_train_batch_size=workload["micro_batch"],
        gradient_accumulation_steps=completions // workload["micro_batch"],
        num_generations=workload["num_generations"],
        max_completion_length=workload["new_tokens"],
        # A random model samples end-of-sequence and vision ids: one would shorten this step, the other crash the next.
        generation_kwargs={"suppress_tokens": processor.tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))},
        temperature=1.0,
        beta=0.0,
        num_iterations=1,
        shuffle_dataset=False,
        seed=workload["seed"],
        dataloader_pin_memory=False,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def summarise(workload: Workload, trainer: TimedTrainer, clock: StepClock, *, parameters: int) -> dict[str, Any]:
    """The JSON object, after checking that the work was the work asked for."""
    warmup = workload["warmup_steps"]
    steps = clock.step_seconds
    if len(steps) != warmup + workload["steps"] or len(trainer.generation_seconds) != len(steps):
        raise RuntimeError(f"{len(steps)} steps with {len(trainer.generation_seconds)} rollouts: expected one per step")
    if trainer.completion_tokens != {workload["new_tokens"]}:
        raise RuntimeError(f"completions had {sorted(trainer.completion_tokens)} tokens, not {workload['new_tokens']}")
    generation = trainer.generation_seconds
    return {
        "side": "trl",
        "micro_batch": workload["micro_batch"],
        "step_seconds": steps[warmup:],
        "generation_seconds": generation[warmup:],
        "training_seconds": [step - rollout for step, rollout in zip(steps, generation, strict=True)][warmup:],
        "peak_memory_mib": peak_memory_mib(),
        "parameters": parameters,
        "prompt_tokens": sorted(trainer.prompt_tokens),
        "completion_tokens": sorted(trainer.completion_tokens),
        "versions": {name: importlib.metadata.version(name) for name in ("trl", "torch", "transformers")},
    }


if __name__ == "__main__":
    print_result(run, __doc__)
