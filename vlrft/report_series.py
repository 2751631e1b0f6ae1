"""What a run's metrics.jsonl says, as milestones, curves and a timing table. Standard library only.

A row is one flat JSON object with `stage`, `kind` ("train" | "eval"), `step` and numbers. Curves are plain dicts that
the page's script draws; nothing here knows about colours or plotly.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Notes = Counter[str]
"""Things left out of the page, by reason: shown at its end."""

MAX_POINTS = 1000
"""Points per curve; longer ones become means of equal stretches."""

CHARTS: tuple[tuple[str, str, str], ...] = (
    ("Loss", "loss", ""),
    ("Gradient norm", "grad_norm", "before clipping"),
    ("Policy entropy", "policy/entropy", "nats per token"),
    ("Completion length", "completions/mean_length", "tokens"),
    ("Truncated completions", "completions/truncated_share", "share"),
    ("Groups", "groups/", "groups without spread carry no gradient"),
    ("Clipped ratios", "policy/clipped", "share of tokens"),
    ("KL to the reference", "policy/kl", "nats per token"),
    ("Flags", "flags/", "completions per step"),
    ("Learning rate", "learning_rate", ""),
    ("Repeated prompts", "pack/repeated_prompts", "groups over the token budget pass their prompt again"),
    ("Skipped steps", "skipped_steps", "non-finite loss or gradient"),
)
"""Title, metric key (or prefix, when it ends in a slash), unit or remark."""

SIZES = ("eval/n", "eval/of")
"""Of an evaluation: its samples, and how many there would be if no row had been lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Milestone:
    """An evaluation that the header shows: the first of the run, then the last of each stage."""

    label: str
    detail: str
    values: dict[str, float | None]
    """Metric name without the `eval/` prefix -> value."""


def iter_jsonl(path: Path, notes: Notes) -> Iterator[Row]:
    """The JSON objects of a file, line by line; lines that are none (a killed run's last one) are counted."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                yield row
            else:
                notes[f"unreadable lines in {path.name}"] += 1


def load_metrics(path: Path, notes: Notes) -> list[Row]:
    """Rows in file order; of several with the same stage, kind and step (a resumed run) the last one counts."""
    rows: dict[tuple[str, str, int], Row] = {}
    if not path.is_file():
        return []
    for row in iter_jsonl(path, notes):
        stage, kind, step = row.get("stage"), row.get("kind"), row.get("step")
        if isinstance(stage, str) and kind in ("train", "eval") and isinstance(step, int):
            rows[stage, kind, step] = row
        else:
            notes[f"lines without stage, kind or step in {path.name}"] += 1
    return list(rows.values())


def number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        real = float(value)
    except OverflowError:
        return None
    return real if math.isfinite(real) else None


def column(rows: Sequence[Row], key: str) -> list[float | None]:
    return [number(row.get(key)) for row in rows]


def select(rows: Sequence[Row], kind: str, stage: str | None = None) -> list[Row]:
    return [r for r in rows if r["kind"] == kind and stage in (None, r["stage"])]


def stage_names(rows: Sequence[Row]) -> list[str]:
    """Stages in the order in which the run met them."""
    return list(dict.fromkeys(r["stage"] for r in rows))


def keys_with(rows: Sequence[Row], prefix: str) -> list[str]:
    """Metric keys under a prefix that hold at least one number, in order of appearance."""
    return list(dict.fromkeys(k for r in rows for k in r if k.startswith(prefix) and number(r[k]) is not None))


def milestones(rows: Sequence[Row]) -> list[Milestone]:
    """The run's first evaluation and the last of each stage; empty without evaluations."""
    evals = select(rows, "eval")
    keys = keys_with(evals, "eval/")
    found: list[Milestone] = []

    def add(label: str, row: Row) -> None:
        n, of = number(row.get("eval/n")), number(row.get("eval/of"))
        size = f"{n:.0f} of {of:.0f}" if n and of and of > n else f"{n:.0f}" if n else ""
        detail = f"step {row['step']}" + (f", {size} held-out samples" if size else "")
        values = {k.removeprefix("eval/"): number(row.get(k)) for k in keys if k not in SIZES}
        found.append(Milestone(label=label, detail=detail, values=values))

    for stage in stage_names(evals):
        of_stage = select(evals, "eval", stage)
        if not found:
            first = of_stage[0]
            add("start" if first["step"] == 0 else "first evaluation", first)
            of_stage = of_stage[1:]
        if of_stage and of_stage[-1]["step"] > 0:
            add(f"after {stage}", of_stage[-1])
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def reward_edges(rows: Sequence[Row]) -> tuple[float, float, int] | None:
    """Mean training reward over the first and the last n steps of the last stage that has rewards, and n.

    n is 10, or less in a short stage, so that the two stretches never overlap.
    """
    for stage in reversed(stage_names(rows)):
        known = [v for v in column(select(rows, "train", stage), "reward/mean") if v is not None]
        if len(known) >= 2:
            n = min(10, len(known) // 2)
            return sum(known[:n]) / n, sum(known[-n:]) / n, n
    return None


def thin(values: Sequence[float | None], limit: int = MAX_POINTS) -> list[float | None]:
    """Means of equal stretches, so that at most `limit` points remain."""
    stretch = max(1, math.ceil(len(values) / limit))
    means = [_mean(values[i : i + stretch]) for i in range(0, len(values), stretch)]
    return [None if v is None else float(f"{v:.6g}") for v in means]


def moving_average(values: Sequence[float | None], window: int) -> list[float | None]:
    """Mean of the last `window` known values up to each point."""
    smooth = [_mean(values[max(0, i + 1 - window) : i + 1]) for i in range(len(values))]
    return [None if v is None else float(f"{v:.6g}") for v in smooth]


def curve(rows: Sequence[Row], key: str, name: str, *, x: str = "step", smooth: bool = True) -> dict[str, Any]:
    """One line: `x`, `y`, and `smooth` (moving average over a twentieth of the run) where that smooths."""
    y = thin(column(rows, key))
    window = len(y) // 20
    return {
        "name": name,
        "x": thin([number(r.get(x, r["step"])) for r in rows]),
        "y": y,
        "smooth": moving_average(y, window) if smooth and window >= 2 else None,
    }


def eval_chart(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Held-out metrics over the whole run, with a mark where each stage begins; None without evaluations."""
    evals = select(rows, "eval")
    keys = [k for k in keys_with(evals, "eval/") if k not in SIZES]
    if not keys:
        return None
    marks = [{"x": number(select(rows, "eval", s)[0].get("global_step")), "label": s} for s in stage_names(evals)]
    series = [
        curve(evals, k, k.removeprefix("eval/"), x="global_step", smooth=False) | {"off": not _is_score(evals, k)}
        for k in keys
    ]
    if all(s["off"] for s in series):
        series[0]["off"] = False
    return {"title": "Held-out evaluation", "note": "", "x": "step of the run", "series": series, "marks": marks}


def _is_score(rows: Sequence[Row], key: str) -> bool:
    """Whether a metric stays in [0, 1]: lengths and counts on the same axis would flatten the others."""
    return all(v is None or 0.0 <= v <= 1.0 for v in column(rows, key))


def reward_chart(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Mean reward with its parts; None for a stage without rewards."""
    if not keys_with(rows, "reward/mean"):
        return None
    parts = [k for k in keys_with(rows, "reward/") if k not in ("reward/mean", "reward/std")]
    names = {"reward/mean": "mean", **{k: k.removeprefix("reward/") for k in parts}}
    if keys_with(rows, "reward/std"):
        names["reward/std"] = "std in the batch"
    series = [curve(rows, k, name) for k, name in names.items()]
    return {"title": "Reward", "note": "mean per step; bold: moving average", "x": "step", "series": series}


def small_charts(rows: Sequence[Row]) -> tuple[list[dict[str, Any]], list[str]]:
    """The other curves of a stage, and the titles of those that are zero throughout (named, not drawn)."""
    charts: list[dict[str, Any]] = []
    quiet: list[str] = []
    for title, key, note in CHARTS:
        keys = keys_with(rows, key) if key.endswith("/") else [k for k in keys_with(rows, key) if k == key]
        alive = [k for k in keys if any(column(rows, k))]
        if alive:
            series = [curve(rows, k, k.rpartition("/")[2].replace("_", " ")) for k in alive]
            charts.append({"title": title, "note": note, "x": "step", "series": series})
        elif keys:
            quiet.append(title.lower())
    return charts, quiet


def timing(rows: Sequence[Row]) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """Stacked seconds per step, and the table `{name, total, mean, share}` of them; None without timings."""
    phases = [k for k in keys_with(rows, "time/") if k != "time/step"]
    if not phases:
        return None
    columns = {k.removeprefix("time/"): [v or 0.0 for v in column(rows, k)] for k in phases}
    spent = [sum(parts) for parts in zip(*columns.values(), strict=True)]
    steps = [t or s for t, s in zip(column(rows, "time/step"), spent, strict=True)]
    rest = [max(0.0, t - s) for t, s in zip(steps, spent, strict=True)]
    whole = sum(spent) + sum(rest)
    if sum(rest) > 0.005 * whole:
        columns["other"] = rest
    x = thin([number(r["step"]) for r in rows])
    series = [{"name": n, "x": x, "y": thin(values), "smooth": None} for n, values in columns.items()]
    table = [
        {"name": n, "total": sum(v), "mean": sum(v) / len(v), "share": sum(v) / whole if whole else 0.0}
        for n, v in columns.items()
    ]
    chart = {"title": "Seconds per step", "note": "", "x": "step", "series": series, "stack": True}
    return chart, sorted(table, key=lambda row: -row["total"])
