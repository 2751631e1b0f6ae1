"""Not enough memory in the middle of a step: which sample is the largest, and what to lower."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from vlrft.config import Config
from vlrft.log import UserError
from vlrft.pack import stream_length
from vlrft.types import Group, Prompt

_REFUSALS = (
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "out of memory",
    "bad_alloc",
    "could not create a memory object",
    "could not create a primitive",
)
"""How torch's CPU allocator, oneDNN, the system and CUDA libraries say it."""


class OutOfMemoryError(UserError):
    """The machine's or the GPU's memory did not suffice; the message names the largest sample and the next step."""


@contextmanager
def enough_memory(
    config: Config, where: str, work: Callable[[], Sequence[Prompt | Group]], go_on: str
) -> Iterator[None]:
    """Raise OutOfMemoryError for what torch, numpy or the system say when they have no memory left.

    where: "step 12 of stage grpo, rollout". work: the prompts or groups at hand, asked for only then. go_on: "go on
    with: " and the command, to which changed keys are added.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_shortage(error):
            raise
        raise OutOfMemoryError(_told(config, where, work(), error, go_on)) from error


def is_shortage(error: BaseException) -> bool:
    """Whether an exception says that there is not enough memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(said in str(error).lower() for said in _REFUSALS)


def _told(config: Config, where: str, work: Sequence[Prompt | Group], error: BaseException, go_on: str) -> str:
    reason = (str(error).strip().splitlines() or ["no memory left"])[0][:200]
    parts = [f"{where}: not enough memory ({reason})"]
    if work:
        parts.append(_largest(max(work, key=_tokens)))
    parts.append(f"Lower, in this order: {'; '.join(_lighter(config, work))}; and {go_on} KEY=VALUE")
    parts.append(f"What needs a new run: {'; '.join(_smaller(config, work))}. 'vlrft plan RECIPE' counts what fits")
    return ". ".join(parts)


def _tokens(item: Prompt | Group) -> int:
    return stream_length(item) if isinstance(item, Group) else len(item.token_ids)


def _largest(item: Prompt | Group) -> str:
    prompt = item.prompt if isinstance(item, Group) else item
    seen = ", ".join(f"{width}x{height}" for width, height in prompt.input_sizes[:3])
    media = f", media shown at {seen}" if seen else ""
    if isinstance(item, Prompt):
        return f"The largest sample is {prompt.sample_id!r}: a prompt of {len(prompt.token_ids)} tokens{media}"
    longest = max(len(rollout.completion.token_ids) for rollout in item.rollouts)
    return (
        f"The largest sample is {prompt.sample_id!r}: {_tokens(item)} tokens, {len(prompt.token_ids)} of them its "
        f"prompt{media}; {len(item.rollouts)} completions of up to {longest}"
    )


def _lighter(config: Config, work: Sequence[Prompt | Group]) -> Iterator[str]:
    """Keys with their values that change memory alone, so that a run may go on with them (`config_keys.RESUMABLE`);
    those that cost least first."""
    train, engine, model = config.train, config.engine, config.model
    if not _is_training(work):
        yield f"engine.max_rows ({engine.max_rows})"
        return
    yield f"train.micro_batch_tokens ({train.micro_batch_tokens})"
    if model.logprob_cache_mb:
        yield f"model.logprob_cache_mb ({model.logprob_cache_mb}; 0 computes the logits twice)"
    if not model.gradient_checkpointing:
        yield "model.gradient_checkpointing=true"


def _smaller(config: Config, work: Sequence[Prompt | Group]) -> Iterator[str]:
    """Keys with their values that change what is trained on; those that cost least first."""
    if not _is_training(work):
        yield f"train.prompts_per_step ({config.train.prompts_per_step})"
    if any((item.prompt if isinstance(item, Group) else item).mm for item in work):
        now = config.data.max_pixels or "the model's own"
        yield f"data.max_pixels ({now}; of videos data.video.max_pixels)"
    yield f"engine.max_completion_length ({config.engine.max_completion_length})"


def _is_training(work: Sequence[Prompt | Group]) -> bool:
    """Whether groups are at hand; a rollout has prompts."""
    return any(isinstance(item, Group) for item in work)
