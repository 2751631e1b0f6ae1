"""The machine: Python, processors, memory, shared memory, disk, GPUs with driver and NCCL."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlrft.doctor.finding import Finding

GIB = 2**30
SHARED_MEMORY = Path("/dev/shm")
LEAST_SHARED = 2 * GIB
"""Below this the weights of the smallest published models do not fit in bfloat16."""
LEAST_DISK = 20 * GIB
LEAST_MEMORY = 8 * GIB
_CGROUPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup/cpu"))


def examine_machine() -> Iterator[Finding]:
    yield _python()
    yield _processors()
    yield _memory()
    yield _shared_memory()
    yield _disk(Path.cwd())


def _python() -> Finding:
    version = platform.python_version()
    tested = sys.version_info[:2] == (3, 11) and sys.platform == "linux" and platform.machine() == "x86_64"
    return Finding(
        group="machine",
        name="python",
        state="ok" if tested else "differs",
        found=f"{version}, {platform.system()} {platform.machine()}",
        costs="nothing known; tests run on Python 3.11, Linux x86_64",
    )


def _processors() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = cpu_limit()
    if limit is not None and limit < usable - 0.5:
        return Finding(
            group="machine", name="processors", state="differs", found=f"{usable}, limited to {limit:g} by cgroup",
            costs="more threads than that wait for each other", mend=f"set parallel.num_threads={max(1, int(limit))}",
        )  # fmt: skip
    return Finding(group="machine", name="processors", state="ok", found=str(usable))


def _memory() -> Finding:
    limit, total = memory_limit(), _total_memory()
    size = min(limit, total) if limit is not None else total
    said = f"{total / GIB:.0f} GiB"
    if limit is not None and limit < total:
        said += f", limited to {limit / GIB:.0f} GiB by cgroup"
    return Finding(
        group="machine", name="memory", state="ok" if size >= LEAST_MEMORY else "differs", found=said,
        costs="models of more than some 300 M parameters on the CPU",
        mend="'vlrft plan RECIPE --gpus 0' tells the need",
    )  # fmt: skip


def _total_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def memory_limit(folders: tuple[Path, ...] = _CGROUPS) -> int | None:
    """Bytes that the control group allows; None without a limit."""
    for folder in folders:
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name)
            if text.isdigit() and int(text) < 2**60:
                return int(text)
    return None


def cpu_limit(folders: tuple[Path, ...] = _CGROUPS) -> float | None:
    """Processors' worth of time that the control group allows; None without a limit."""
    for folder in folders:
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if not quota:
            quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit():
            return int(quota) / int(period)
    return None


def _read(path: Path) -> str:
    return path.read_text(encoding="ascii").strip() if path.is_file() and os.access(path, os.R_OK) else ""


def _shared_memory() -> Finding:
    if not SHARED_MEMORY.is_dir() or not os.access(SHARED_MEMORY, os.W_OK):
        return Finding(
            group="machine", name="shared memory", state="missing", found=f"no writable {SHARED_MEMORY}",
            costs="weights go to vLLM through the folder of temporary files, slower",
            mend="mount a tmpfs there (docker run --shm-size=16g)",
        )  # fmt: skip
    usage = shutil.disk_usage(SHARED_MEMORY)
    return Finding(
        group="machine", name="shared memory", state="ok" if usage.free >= LEAST_SHARED else "differs",
        found=f"{usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free in {SHARED_MEMORY}",
        costs="weights that do not fit go to vLLM through the folder of temporary files, slower; NCCL and data loaders "
        "use it too",
        mend="docker run --shm-size=16g, or mount -o remount,size=16G /dev/shm",
    )  # fmt: skip


def _disk(folder: Path) -> Finding:
    usage = shutil.disk_usage(folder)
    return Finding(
        group="machine", name="disk", state="ok" if usage.free >= LEAST_DISK else "differs",
        found=f"{usage.free / GIB:.0f} of {usage.total / GIB:.0f} GiB free in this folder",
        costs="a checkpoint takes 12 bytes per trained parameter, train.keep_checkpoints of them are kept",
        mend="point train.output_dir at a larger disk",
    )  # fmt: skip


def examine_accelerator() -> Iterator[Finding]:
    """Needs torch; a torch that does not load is one finding."""
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding(
            group="accelerator", name="torch", state="broken", found=str(error).splitlines()[0],
            costs="everything but rewards and validation", mend="uv pip install 'torch>=2.13' 'torchvision>=0.28'",
        )  # fmt: skip
        return
    yield from _cuda(torch)


def _cuda(torch: Any) -> Iterator[Finding]:
    built = torch.version.cuda
    if not torch.cuda.is_available():
        has_card = _has_card()
        yield Finding(
            group="accelerator", name="GPU", state="broken" if has_card and built else "missing",
            found=_why_no_cuda(built, has_card), costs="speed; everything runs on the CPU, tiny models in minutes",
            mend=_mend_no_cuda(built, has_card),
        )  # fmt: skip
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        half = torch.cuda.is_bf16_supported()
        yield Finding(
            group="accelerator", name=f"GPU {index}", state="ok" if half else "differs",
            found=f"{properties.name}, {properties.total_memory / GIB:.0f} GiB, CUDA {built}",
            costs="" if half else "parallel.mixed_precision=bf16 and the flash kernels",
        )  # fmt: skip
    yield _nccl(torch)


def _has_card() -> bool:
    return Path("/dev/nvidiactl").exists() or Path("/proc/driver/nvidia/version").exists()


def _why_no_cuda(built: str | None, has_card: bool) -> str:
    if built is None:
        return "a GPU is there, but this torch is built for the CPU" if has_card else "none; torch is built for the CPU"
    return f"a GPU is there, but torch (CUDA {built}) cannot use it" if has_card else f"none; torch has CUDA {built}"


def _mend_no_cuda(built: str | None, has_card: bool) -> str:
    if has_card and built is not None:
        return "install a driver that is new enough for this torch"
    needed = [] if has_card else ["a machine with an NVIDIA GPU and its driver"]
    needed += [] if built is not None else ["uv pip install -c constraints/cuda.txt torch torchvision"]
    return ", and ".join(needed)


def _nccl(torch: Any) -> Finding:
    if not torch.distributed.is_available() or not torch.distributed.is_nccl_available():
        return Finding(
            group="accelerator", name="NCCL", state="missing", found="not in this torch",
            costs="more than one GPU", mend="uv pip install -c constraints/cuda.txt torch",
        )  # fmt: skip
    version = torch.cuda.nccl.version()
    return Finding(group="accelerator", name="NCCL", state="ok", found=".".join(map(str, version)))
