"""Too little memory: recognised however it is said, and told with the largest sample and what to lower."""

from __future__ import annotations

import errno
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vlrft
from vlrft.compose import compose
from vlrft.config import Config
from vlrft.config_keys import is_resumable
from vlrft.runfolder import read_metrics
from vlrft.shortage import OutOfMemoryError, _told, enough_memory, is_shortage
from vlrft.testing import make_group
from vlrft.types import Prompt

GO_ON = "go on with: vlrft train --resume runs/mine"


def prompt(name: str, tokens: int, *, media: bool = False) -> Prompt:
    seen = {"mm": {"pixel_values": torch.zeros(1)}, "input_sizes": ((672, 448),)} if media else {}
    return Prompt(sample_id=name, token_ids=(1,) * tokens, compact_ids=(1,), **seen)  # type: ignore[arg-type]


@pytest.fixture
def config(recipe: Callable[..., dict[str, Any]]) -> Config:
    return compose(recipe()).config


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        RuntimeError("std::bad_alloc"),
        np._core._exceptions._ArrayMemoryError((2**40,), np.dtype("float32")),  # type: ignore[attr-defined]
    ],
)
def test_what_libraries_say_is_recognised(error: Exception) -> None:
    assert is_shortage(error)


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes"), OSError(errno.ENOENT, "x"), ValueError("x")])
def test_other_errors_stay_what_they_are(error: Exception, config: Config) -> None:
    assert not is_shortage(error)
    with pytest.raises(type(error)) as raised, enough_memory(config, "step 1", list, GO_ON):
        raise error
    assert raised.value is error


def test_an_allocation_that_fails_names_the_largest_group(config: Config) -> None:
    groups = [
        make_group(prompt("short", 20), [[1] * 30, [1] * 5]),
        make_group(prompt("long", 15, media=True), [[1] * 30, [1] * 26]),
    ]
    with (
        pytest.raises(OutOfMemoryError) as raised,
        enough_memory(config, "stage rl, step 3, training", lambda: groups, GO_ON),
    ):
        torch.empty(2**60)
    message = str(raised.value)
    assert message.startswith("stage rl, step 3, training: not enough memory (")
    assert "'long': 69 tokens, 15 of them its prompt, media shown at 672x448; 2 completions of up to 30" in message
    keys = ["train.micro_batch_tokens (4096)", "model.gradient_checkpointing=true", f"and {GO_ON} KEY=VALUE"]
    keys += ["new run: ", "data.max_pixels", "engine.max_completion_length"]
    assert sorted(keys, key=message.index) == keys
    assert "engine.max_rows" not in message


def test_a_rollout_names_the_largest_prompt_and_the_rows(config: Config) -> None:
    with (
        pytest.raises(OutOfMemoryError) as raised,
        enough_memory(config, "x", lambda: [prompt("a", 5), prompt("b", 9)], GO_ON),
    ):
        torch.empty(2**60)
    message = str(raised.value)
    assert "'b': a prompt of 9 tokens" in message
    assert "engine.max_rows (512)" in message
    assert "train.micro_batch_tokens" not in message
    assert "data.max_pixels" not in message


_LIMITED = """
import json, resource, sys
import torch
import vlrft.shortage
from vlrft import training
from vlrft.cli import is_user_error
from pathlib import Path

def limited(*args, **kwargs):
    held = int(next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmSize")).split()[1])
    resource.setrlimit(resource.RLIMIT_AS, (held * 1024 + 96 * 2**20, resource.RLIM_INFINITY))
    return update(*args, **kwargs)

update, training.update = training.update, limited
try:
    import vlrft
    vlrft.train(json.loads(sys.argv[1]))
except Exception as error:
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(type(error).__name__, is_user_error(error), error)
"""


@pytest.mark.slow
def test_a_real_step_without_memory_ends_in_that_message(recipe: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    import json

    long = recipe(
        train={"steps": 1, "micro_batch_tokens": 100_000},
        engine={"max_completion_length": 64, "ignore_eos": True, "num_generations": 12},
        model={"logprob_cache_mb": 4096},
    )
    # Logits of some 200 MiB: one piece that does not fit, while all small ones do.
    long["model"]["tiny"]["vocab_size"] = 65_536
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, json.dumps(long)], capture_output=True, text=True, check=False, timeout=300
    )
    said = done.stdout.strip()
    assert said.startswith("OutOfMemoryError True stage grpo, step 1, training: not enough memory ("), done.stderr[
        -2000:
    ]
    assert "12 completions of up to 64" in said
    assert "train.micro_batch_tokens (100000)" in said
    assert f"go on with: vlrft train --resume {tmp_path / 'run'} KEY=VALUE. What needs a new run: " in said


def test_a_run_goes_on_with_every_key_that_the_message_puts_before_the_command(config: Config) -> None:
    groups = [make_group(prompt("long", 15, media=True), [[1] * 30])]
    for work in (groups, [groups[0].prompt]):
        told = _told(config, "x", work, MemoryError(), GO_ON)
        lighter, _, smaller = told.partition("Lower, in this order: ")[2].partition(GO_ON)
        keys = re.findall(r"(?:train|model|engine|data)\.\w+", lighter)
        assert keys
        assert all(is_resumable(key) for key in keys)
        assert not any(is_resumable(key) for key in re.findall(r"(?:train|engine|data)\.\w+", smaller))


@pytest.mark.slow
def test_a_resumed_run_takes_less_memory(recipe: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """To rounding the run that had it from the start."""
    lighter = {"train.micro_batch_tokens": 60, "model.logprob_cache_mb": 0, "model.gradient_checkpointing": True}
    steps = {"steps": 2, "save_steps": 1, "learning_rate": 1.0, "adam_epsilon": 1.0}
    run = vlrft.train(recipe(train=steps, objective={"beta": 0.04}, eval={}))
    expected = [row["grad_norm"] for row in read_metrics(run.path) if row["kind"] == "train"]
    shutil.rmtree(max((run.path / "checkpoints").iterdir()))
    (run.path / "summary.json").unlink()
    vlrft.train(resume=run.path, overrides=lighter)
    norms = [row["grad_norm"] for row in read_metrics(run.path) if row["kind"] == "train"]
    assert norms == pytest.approx(expected, rel=1e-4)
    assert is_resumable("stages[1].train.micro_batch_tokens")
    assert not is_resumable("engine.kwargs.seed")
