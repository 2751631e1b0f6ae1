"""`vlrft export`: a run's model as a folder that anyone loads, proven equal to the run's own before it appears."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vlrft.export.adapter import load_with_adapter
from vlrft.export.answers import Answer, Question, differences, run_answers
from vlrft.export.push import check_token, push
from vlrft.export.questions import find_questions
from vlrft.export.reload import compare_weights, load_plain, plain_answers
from vlrft.export.source import ExportError, Source, open_source
from vlrft.export.vllm_check import vllm_answers

__all__ = ["Export", "ExportError", "export_run"]

logger = logging.getLogger(__name__)

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A finished export."""

    path: Path
    checks: tuple[str, ...]
    """What was compared, and what could not be, one line each."""
    url: str | None = None
    """Where it was uploaded to."""


def export_run(
    run: str | Path,
    to: str | Path,
    *,
    merge: bool = False,
    checkpoint: str | None = None,
    dtype: str | None = None,
    push_to: str | None = None,
    with_vllm: bool = True,
) -> Export:
    """Write the model of `run` to the folder `to`, which must not exist or be empty, and compare it with the run's own.

    A finished run gives its trained model, another one its newest checkpoint, or the one named `checkpoint`. The folder
    has weights under their published names, config, processor with chat template and the run's pixel limits, and
    generation config. It is loaded again by plain transformers: every name, shape, type and value must be equal, and
    greedy answers to held-out rows with images; then by vLLM from raw images and text, where it is installed. Anything
    that differs raises ExportError, and no folder appears.

    merge: of a run with adapters the whole model; without it the adapter alone, in peft's form.
    dtype: type of the weights; None = as they were trained. push_to: repository on the hub to upload to.
    with_vllm: False leaves vLLM out of the comparison.
    """
    run, to = Path(run).expanduser().resolve(), Path(to).expanduser().resolve()
    _refuse_place(to)
    if dtype is not None and dtype not in DTYPES:
        raise ExportError(f"--dtype {dtype}: choose one of {', '.join(DTYPES)}")
    token = check_token(push_to) if push_to is not None else ""
    with _quiet(), _whole_or_absent(to) as folder, torch.random.fork_rng(devices=[]):
        source = open_source(run, checkpoint=checkpoint)
        logger.info("exporting %s", source.what)
        if source.adapter is not None and not merge:
            if dtype is not None:
                raise ExportError("--dtype is of whole models: an adapter keeps its type; add --merge")
            checks = _export_adapter(source, folder)
        else:
            checks = _export_model(source, folder, dtype, with_vllm=with_vllm)
    url = push(to, push_to, token) if push_to is not None else None
    return Export(path=to, checks=tuple(checks), url=url)


def _export_model(source: Source, folder: Path, dtype: str | None, *, with_vllm: bool) -> list[str]:
    family = source.family
    if dtype is not None:
        family.model.to(getattr(torch, dtype))
    family.keep_limits()
    family.model.save_pretrained(folder)
    family.processor.save_pretrained(folder)
    checks = compare_weights(family, folder)
    questions = find_questions(source.config, family)
    own = run_answers(family, questions)
    plain = load_plain(folder)
    theirs = plain_answers(plain, family, questions, own)
    checks.append(_compared("plain transformers", questions, own, theirs, family.model.dtype))
    if not with_vllm:
        return [*checks, "vLLM: not compared, as asked"]
    del plain
    of_vllm = vllm_answers(folder, family, questions, own)
    if isinstance(of_vllm, str):
        return [*checks, f"vLLM: not compared: {of_vllm}"]
    return [*checks, _compared("vLLM", questions, own, of_vllm, family.model.dtype)]


def _export_adapter(source: Source, folder: Path) -> list[str]:
    assert source.adapter is not None
    source.adapter(folder)
    source.family.keep_limits()
    source.family.processor.save_pretrained(folder)
    questions = find_questions(source.config, source.family)
    own = run_answers(source.family, questions)
    plain = load_with_adapter(source.config, source.family, folder)
    theirs = plain_answers(plain, source.family, questions, own)
    said = _compared("peft over the base model", questions, own, theirs, source.family.model.dtype)
    return [said, "vLLM: not compared: this is an adapter; --merge exports the whole model"]


def _compared(
    who: str, questions: Sequence[Question], own: Sequence[Answer], theirs: Sequence[Answer], dtype: torch.dtype
) -> str:
    """What was found equal, in a line. Raises ExportError for what is not."""
    if found := differences(own, theirs, dtype):
        raise ExportError(
            f"{who} does not answer like the run's own model, so nothing was exported:\n  " + "\n  ".join(found)
        )
    pairs = list(zip(own, theirs, strict=True))
    equal = sum(a.token_ids == b.token_ids for a, b in pairs)
    gap = max(abs(x - y) for a, b in pairs for x, y in zip(a.logprobs, b.logprobs, strict=True))
    return (
        f"{who}: greedy answers to {len(pairs)} {questions[0].origin}: the same tokens in {equal}, log-probs apart by "
        f"at most {gap:.1e}"
    )


def _refuse_place(to: Path) -> None:
    if to.is_file() or (to.is_dir() and any(to.iterdir())):
        raise ExportError(f"--to {to}: is there already and not empty; give a new folder")
    above = next(parent for parent in to.parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ExportError(f"--to {to}: {above} is no folder that can be written to")


@contextmanager
def _whole_or_absent(to: Path) -> Iterator[Path]:
    """A folder beside `to`, which becomes it at the end, or goes."""
    beside = to.with_name(f".{to.name}.writing-{os.getpid()}")
    beside.mkdir(parents=True)
    try:
        yield beside
        os.replace(beside, to)  # over an empty folder too
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars."""
    from transformers.utils import logging as theirs

    shown: Any = theirs.is_progress_bar_enabled()
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            theirs.enable_progress_bar()
