"""What the side-by-side benchmark runs, in one place for both sides.

The default model has 136 M parameters, most of them in the 151,936-row embedding that the output head shares. Its
vision tower costs about as much per image token as its language layers do, as in Qwen2.5-VL-3B (4 patches per token
in a tower a quarter of the size), so that neither side's treatment of images weighs more than it does in practice.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from PIL import Image

from vlrft.memory import peak_resident_mb


class Workload(TypedDict):
    """One step: `prompts_per_step` x `num_generations` completions of exactly `new_tokens` tokens, then one update."""

    model: dict[str, Any]
    """Fields of `vlrft.config.TinyModelConfig`."""
    image_size: int
    """Edge of the square image in pixels."""
    question: str
    """Text after the image."""
    prompts_per_step: int
    num_generations: int
    new_tokens: int
    micro_batch: int
    """Completions per forward and backward of the TRL side."""
    steps: int
    """Timed steps."""
    warmup_steps: int
    """Steps before the timed ones."""
    learning_rate: float
    seed: int
    threads: int


MODEL_136M: dict[str, Any] = {
    "family": "qwen2_5_vl",
    "hidden_size": 512,
    "num_layers": 8,
    "num_heads": 8,
    "num_kv_heads": 4,
    "intermediate_size": 3136,
    "vision_hidden_size": 320,
    "vision_layers": 8,
    "vision_heads": 5,
    "vision_intermediate_size": 960,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "vocab_size": 151_936,
}

WORKLOADS: Mapping[str, Workload] = {
    "default": {
        "model": MODEL_136M,
        "image_size": 448,
        "question": "Go",
        "prompts_per_step": 2,
        "num_generations": 8,
        "new_tokens": 64,
        "micro_batch": 4,
        "steps": 2,
        "warmup_steps": 1,
        "learning_rate": 1e-6,
        "seed": 0,
        "threads": 2,
    },
    "short-image": {
        "model": MODEL_136M,
        "image_size": 224,
        "question": "Go",
        "prompts_per_step": 4,
        "num_generations": 4,
        "new_tokens": 128,
        "micro_batch": 4,
        "steps": 2,
        "warmup_steps": 1,
        "learning_rate": 1e-6,
        "seed": 0,
        "threads": 2,
    },
}


def shrunken(workload: Workload) -> Workload:
    """The same kind of work in a second or two: a tiny model, a small image, few tokens, one thread.

    One thread, because two on a busy machine wait for each other at every small operation (100 times slower).
    """
    model = {
        **workload["model"],
        "hidden_size": 64,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "intermediate_size": 128,
        "vision_hidden_size": 32,
        "vision_layers": 2,
        "vision_heads": 2,
        "vision_intermediate_size": 64,
        "vocab_size": 2048,
    }
    return {**workload, "model": model, "image_size": 56, "new_tokens": 8, "threads": 1}


def one_group_budget(workload: Workload) -> int:
    """Stream tokens of a group, the chat template's some 25 tokens rounded up: a second group does not fit."""
    model = workload["model"]
    token_edge: int = model["patch_size"] * model["spatial_merge_size"]
    image_tokens = math.ceil(workload["image_size"] / token_edge) ** 2
    text_tokens = 32 + len(workload["question"].encode())
    return image_tokens + text_tokens + workload["num_generations"] * workload["new_tokens"]


def noise_images(workload: Workload) -> list[Image.Image]:
    """One RGB noise image per prompt of every step, warm-up included; the same on both sides."""
    count = workload["prompts_per_step"] * (workload["warmup_steps"] + workload["steps"])
    edge = workload["image_size"]
    rng = np.random.default_rng(workload["seed"])
    return [Image.fromarray(rng.integers(0, 256, (edge, edge, 3), dtype=np.uint8)) for _ in range(count)]


def rewards_with_spread(completion_ids: list[list[int]], vocab_size: int) -> list[float]:
    """A reward in [0, 1) that differs within every group: the mean token id over the vocabulary size."""
    return [sum(ids) / len(ids) / vocab_size for ids in completion_ids]


def reward_by_turns(completions: list[str], **_: Any) -> list[float]:
    """The same purpose for a reward that sees text: another number in [0, 1) at each call.

    Most of the vocabulary has no text, so that texts of a random model are mostly empty and equal. The golden ratio
    spreads the numbers evenly, and any few calls in a row differ.
    """
    return [next(_TURNS) * 0.618033988749895 % 1.0 for _ in completions]


_TURNS = itertools.count(1)


def peak_memory_mib() -> float:
    """Peak resident memory of this process since its start, in MiB, from /proc/self/status (Linux)."""
    peak = peak_resident_mb()
    if peak is None:
        raise OSError("there is no /proc/self/status: this benchmark needs Linux")
    return peak


def print_result(run: Callable[[Workload, Path], dict[str, Any]], description: str | None) -> None:
    """The command line of one side: run the workload it names in a temporary folder, print one JSON line on stdout."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", required=True, help="a Workload as JSON, or the name of one in _workloads.py")
    text = parser.parse_args().workload
    workload: Workload = WORKLOADS[text] if text in WORKLOADS else json.loads(text)
    with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:
        result = run(workload, Path(folder))
    print(json.dumps(result))
