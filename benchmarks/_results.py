"""What every benchmark writes: rows of median, min and max, and the machine that they were measured on."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict


class Row(TypedDict):
    """One measured number of one workload."""

    workload: str
    metric: str
    """Seconds end in `_seconds`, memory in `_mib`, ratios (ours over theirs) in `_ratio`."""
    value: float
    """Median of the measurements."""
    min: float
    max: float


def row(workload: str, metric: str, measured: Sequence[float]) -> Row:
    """Median, min and max of `measured`. Raises ValueError when there is nothing to take them of."""
    if not measured:
        raise ValueError(f"{workload}: nothing was measured for {metric}")
    return {
        "workload": workload,
        "metric": metric,
        "value": statistics.median(measured),
        "min": min(measured),
        "max": max(measured),
    }


def machine() -> dict[str, Any]:
    """CPU model, usable cores, memory and versions; nothing that names the machine or a folder on it."""
    versions = {"python": platform.python_version()}
    for name in ("vlrft", "torch", "transformers", "trl", "av", "torchcodec", "qwen-vl-utils"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
    }


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_results(path: Path, name: str, rows: Sequence[Row]) -> None:
    """Write `{"name", "machine", "rows"}` to `path`; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"name": name, "machine": machine(), "rows": list(rows)}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table with its columns aligned: the first to the left, numbers to the right."""
    widths = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]

    def text(cells: Sequence[str]) -> str:
        first, *others = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        return f"| {' | '.join([first.strip().ljust(widths[0]), *others])} |"

    rule = ["-" * (width - 1) + ":" if i else "-" * width for i, width in enumerate(widths)]
    return "\n".join([text(header), text(rule), *(text(line) for line in lines)])
