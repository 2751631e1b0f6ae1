"""TRL's own generation behind our engines' interface: `GRPOTrainer._generate_single_turn` without vLLM.

It pads the prompts, gives the model every prompt and its images G times, and calls `model.generate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset  # type: ignore[import-untyped]
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from vlrft.models.base import Family
from vlrft.types import Prompt


class TRLGeneration:
    """Generation of a GRPOTrainer over a copy of `family`'s model, which is written to `folder`."""

    def __init__(self, family: Family, folder: Path, tokens: int) -> None:
        family.model.save_pretrained(folder / "model")
        family.processor.save_pretrained(folder / "model")
        processor = AutoProcessor.from_pretrained(folder / "model")
        config = GRPOConfig(
            output_dir=str(folder / "out"),
            use_cpu=not torch.cuda.is_available(),
            bf16=False,
            per_device_train_batch_size=2,
            num_generations=2,
            max_completion_length=tokens,
            generation_kwargs={"suppress_tokens": list(family.banned_ids + family.stop_ids)},
            report_to="none",
            disable_tqdm=True,
        )
        self.trainer = GRPOTrainer(
            model=AutoModelForImageTextToText.from_pretrained(folder / "model", dtype=torch.float32),
            processing_class=processor,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=config,
            train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": "Go"}]}]),
        )

    def generate(self, prompts: Sequence[Prompt], generations: int) -> list[list[int]]:
        """Token ids of `generations` completions of every prompt, each of `tokens` tokens."""
        copied = [prompt for prompt in prompts for _ in range(generations)]
        fields: dict[str, Any] = {
            key: torch.cat([prompt.mm[key] for prompt in copied]) for key in ("pixel_values", "image_grid_thw")
        }
        ids = [list(prompt.token_ids) for prompt in copied]
        fields["mm_token_type_ids"] = [_types(prompt) for prompt in copied]
        completions: list[list[int]] = self.trainer._generate_single_turn(ids, None, fields, generations)[0]
        return completions


def _types(prompt: Prompt) -> list[int]:
    """1 where a token stands for a part of an image, as the processor says it."""
    types = [0] * len(prompt.token_ids)
    for start, end in prompt.media_spans:
        types[start:end] = [1] * (end - start)
    return types
