"""`vlrft demo`, cut short: what it writes, and that an earlier run is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlrft import demo

SHORT = [
    "data.train.options.n=8",
    "data.eval.options.n=4",
    "train.prompts_per_step=2",
    "engine.num_generations=2",
    "stages.sft.train.steps=2",
    "stages.grpo.train.steps=3",
    "model.tiny.hidden_size=32",
    "model.tiny.num_layers=1",
]
KEYS = {"iou_start", "iou_after_sft", "iou_after_rl", "reward_first10", "reward_last10", "seconds"}


def test_the_demo_tells_what_it_reached(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    out.mkdir()
    (out / "old.txt").write_text("of an earlier run")
    demo.run(out, SHORT)
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary) >= KEYS
    assert all(0.0 <= summary[key] <= 1.0 for key in KEYS - {"seconds"})
    assert {"sft", "grpo", "eval", "total"} <= set(summary["seconds"])
    assert summary["held_out"] == 4
    assert (out / "report.html").stat().st_size > 10_000
    assert (tmp_path / "demo-1" / "old.txt").read_text() == "of an earlier run"
    said = capsys.readouterr().out
    assert str(out / "report.html") in said
    assert "vlrft recipes cp demo/shapes" in said
