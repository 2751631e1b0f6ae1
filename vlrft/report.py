"""`write_report`: one self-contained HTML page from what a run leaves on disk. No torch; jinja2 and plotly on use.

The page loads nothing: scripts, styles, pictures and plotly.js stand inside it, and its content security policy
allows exactly these scripts, so that no text of a model can run or fetch anything.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from vlrft import report_series as series
from vlrft.report_images import ImageStore
from vlrft.report_rollouts import load_groups
from vlrft.report_series import Notes, Row
from vlrft.report_text import duration, script_json, security_policy, short

TEMPLATES = Path(__file__).parent / "templates"
MAX_SKIPPED = 200
"""Skipped samples listed by name; the page counts the rest."""


class ReportError(ValueError):
    """A folder that holds no run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """A run folder as read from disk."""

    folder: Path
    config_text: str
    config: Mapping[str, Any]
    rows: Sequence[Row]
    summary: Mapping[str, Any]
    skipped: Sequence[Row]
    notes: Notes


def write_report(run_dir: Path) -> Path:
    """Write `<run_dir>/report.html` and return its path. Missing pieces leave their section out.

    Raises ReportError where `run_dir` is no folder or holds neither config.yaml nor metrics.jsonl.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    run = _read_run(run_dir)
    scripts = [get_plotlyjs(), *((TEMPLATES / f).read_text("utf-8") for f in ("charts.js", "viewer.js"))]
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"short": short, "seconds": duration}
    page = environment.get_template("report.html.j2").render(
        **_context(run),
        style=(TEMPLATES / "report.css").read_text("utf-8"),
        scripts=scripts,
        policy=security_policy(scripts),
    )
    target = run_dir / "report.html"
    partial = target.with_suffix(".html.partial")
    partial.write_text(page, encoding="utf-8", errors="replace", newline="\n")
    os.replace(partial, target)
    return target


def _read_run(folder: Path) -> _Run:
    if not folder.is_dir():
        raise ReportError(f"no run folder {folder}; give the train.output_dir of a run")
    config_path, metrics_path = folder / "config.yaml", folder / "metrics.jsonl"
    if not config_path.is_file() and not metrics_path.is_file():
        raise ReportError(f"{folder} holds neither config.yaml nor metrics.jsonl; give the train.output_dir of a run")
    notes: Notes = Counter()
    config_text = config_path.read_text("utf-8") if config_path.is_file() else ""
    skipped_path, summary_path = folder / "skipped.jsonl", folder / "summary.json"
    return _Run(
        folder=folder,
        config_text=config_text,
        config=_load(yaml.safe_load, config_text, config_path),
        rows=series.load_metrics(metrics_path, notes),
        summary=_load(json.loads, summary_path.read_text("utf-8"), summary_path) if summary_path.is_file() else {},
        skipped=list(series.iter_jsonl(skipped_path, notes)) if skipped_path.is_file() else [],
        notes=notes,
    )


def _load(parser: Callable[[str], Any], text: str, path: Path) -> Mapping[str, Any]:
    """The mapping that a file holds; raises ReportError that names the file."""
    try:
        tree = parser(text) or {}
    except (yaml.YAMLError, ValueError) as error:
        raise ReportError(f"{path} is not readable: {error}") from error
    if not isinstance(tree, dict):
        raise ReportError(f"{path} should hold keys and values, but holds a {type(tree).__name__}")
    return tree


def _context(run: _Run) -> dict[str, Any]:
    images = ImageStore(notes=run.notes)
    groups = load_groups(run.folder, images, lambda stage: _output_mode(run.config, stage), run.notes)
    stages, tables = _stages(run.rows)
    data = {"eval": series.eval_chart(run.rows), "stages": stages, "groups": groups, "images": images.uris}
    found = series.milestones(run.rows)
    return {
        "name": run.folder.resolve().name,
        "facts": _facts(run),
        "milestones": found,
        "metrics": _metric_order(run.config, list(found[0].values) if found else []),
        "tiles": _tiles(run.rows),
        "stages": stages,
        "tables": tables,
        "has_eval": data["eval"] is not None,
        "has_groups": bool(groups),
        "data": script_json(data),
        "summary": dict(_flat(run.summary)),
        "config_text": run.config_text,
        "skipped": list(islice(run.skipped, MAX_SKIPPED)),
        "skipped_total": len(run.skipped),
        "notes": sorted(run.notes.items()),
    }


def _facts(run: _Run) -> list[tuple[str, str]]:
    """Label and value of the header's line; what the run does not say is left out."""
    model, data = run.config.get("model") or {}, run.config.get("data") or {}
    tiny = model.get("tiny")
    name = model.get("model_name_or_path")
    if tiny:
        name = f"tiny {tiny.get('family')}, {tiny.get('num_layers')} layers x {tiny.get('hidden_size')}, random start"
    dates = [p.stat().st_mtime for p in (run.folder / "metrics.jsonl", run.folder / "config.yaml") if p.is_file()]
    facts = {
        "model": name,
        "task": data.get("task"),
        "recipe": _recipe(run),
        "stages": " → ".join(series.stage_names(run.rows)),
        "date": time.strftime("%d %B %Y, %H:%M", time.localtime(dates[0])),
    }
    return [(label, str(value)) for label, value in facts.items() if value]


def _recipe(run: _Run) -> str | None:
    """The `recipe` of summary.json, or of a `# recipe: NAME` comment at the top of config.yaml."""
    comments = [line for line in run.config_text.splitlines()[:20] if line.startswith("# recipe:")]
    name = run.summary.get("recipe") or (comments[0].partition(":")[2].strip() if comments else None)
    return str(name) if name else None


def _output_mode(config: Mapping[str, Any], stage: str) -> str:
    """Output mode of a stage: what the stage says itself, else the data block."""
    blocks = [config]
    blocks += [s for s in config.get("stages") or [] if stage == (s.get("name") or s.get("kind"))]
    modes = [(block.get("data") or {}).get("output_mode") for block in blocks]
    return str(next((mode for mode in reversed(modes) if mode), "think"))


def _metric_order(config: Mapping[str, Any], found: Sequence[str]) -> list[str]:
    """Metrics as the config lists them (its first is the headline), then any others."""
    asked = [m for m in (config.get("eval") or {}).get("metrics") or [] if m in found]
    return [*asked, *(m for m in found if m not in asked)]


def _stages(rows: Sequence[Row]) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """Charts per stage, and the timing tables by stage name."""
    stages, tables = [], {}
    for name in series.stage_names(series.select(rows, "train")):
        own = series.select(rows, "train", name)
        small, quiet = series.small_charts(own)
        timing = series.timing(own)
        chart = timing[0] if timing else None
        stages.append(
            {
                "name": name,
                "steps": max(r["step"] for r in own),
                "reward": series.reward_chart(own),
                "small": small,
                "quiet": quiet,
                "timing": chart,
            }
        )
        tables[name] = timing[1] if timing else []
    return stages, tables


def _tiles(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """Label, value and remark of the small numbers below the headline."""
    train = series.select(rows, "train")
    tiles = []
    if edges := series.reward_edges(rows):
        first, last, width = edges
        tiles.append(
            (
                "training reward",
                f"{short(first)} → {short(last)}",
                "first and last step" if width == 1 else f"first and last {width} steps",
            )
        )
    if train:
        names = series.stage_names(train)
        steps = [f"{max(r['step'] for r in series.select(train, 'train', s))} {s}" for s in names]
        tiles.append(("steps", str(len(train)), " + ".join(steps)))
    if total := sum(v or 0.0 for v in series.column(train, "time/step")):
        tiles.append(("time in steps", duration(total), f"{duration(total / len(train))} per step"))
    return tiles


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in tree.items():
        pairs += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return pairs
