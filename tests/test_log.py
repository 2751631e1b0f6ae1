"""Metrics file, timers, progress line."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from vlrft.log import MetricsWriter, Progress, Timers, headline


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_rows_append_over_several_lives(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as metrics:
        metrics.write({"global_step": 1, "loss": 0.5, "stage": "sft"})
        assert rows(tmp_path) == [{"global_step": 1, "loss": 0.5, "stage": "sft"}], "visible before close"
    with MetricsWriter(tmp_path) as metrics:
        metrics.write({"global_step": 2, "loss": None})
    assert [row["global_step"] for row in rows(tmp_path)] == [1, 2]


def test_non_finite_numbers_become_null_and_are_counted(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as metrics:
        metrics.write({"loss": math.nan, "grad_norm": math.inf, "ok": 1.0})
    assert rows(tmp_path) == [
        {"loss": None, "nonfinite/loss": 1, "grad_norm": None, "nonfinite/grad_norm": 1, "ok": 1.0}
    ]


def test_values_that_are_no_plain_numbers_are_refused(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as metrics, pytest.raises(TypeError, match="metric 'loss' is a list"):
        metrics.write({"loss": [1.0]})
    assert rows(tmp_path) == []


def test_torn_last_line_is_cut_on_opening(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"global_step": 1}\n{"global_st')
    with MetricsWriter(tmp_path) as metrics:
        metrics.write({"global_step": 2})
    assert rows(tmp_path) == [{"global_step": 1}, {"global_step": 2}]


def test_truncate_after_keeps_rows_up_to_the_step(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as metrics:
        for step in (0, 1, 1, 2, 3):
            metrics.write({"global_step": step})
        assert metrics.truncate_after(1) == 2
        metrics.write({"global_step": 2, "again": True})
    assert rows(tmp_path) == [
        {"global_step": 0},
        {"global_step": 1},
        {"global_step": 1},
        {"global_step": 2, "again": True},
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl"]


def test_tensorboard_mirrors_numbers_and_is_rewritten_on_truncation(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with MetricsWriter(tmp_path, tensorboard=True) as metrics:
        for step in (1, 2, 3):
            metrics.write({"stage": "grpo", "global_step": step, "loss": float(step), "note": "text"})
        metrics.truncate_after(2)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (tag,) = events.Tags()["tensors"] or events.Tags()["scalars"]
    assert tag == "grpo/loss"
    found = events.Tensors(tag) if events.Tags()["tensors"] else events.Scalars(tag)
    assert [event.step for event in found] == [1, 2]


def test_missing_tensorboard_is_said_and_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.summary", None)
    with caplog.at_level(logging.WARNING), MetricsWriter(tmp_path, tensorboard=True) as metrics:
        metrics.write({"global_step": 1, "loss": 1.0})
    assert "pip install 'vlrft[trackers]'" in caplog.text
    assert len(rows(tmp_path)) == 1


def test_timers_add_up_and_start_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 10.0, 12.0, 20.0, 20.5])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    timers = Timers()
    with timers("gen"):
        pass
    with pytest.raises(RuntimeError), timers("gen"):
        raise RuntimeError
    with timers("score"):
        pass
    assert timers.collect() == {"time/gen": 3.0, "time/score": 0.5}
    assert timers.collect() == {}


def test_headline_is_short_and_skips_what_is_missing() -> None:
    row = {"reward/mean": 0.41234, "loss": None, "time/gen": 1.26, "time/step": 2.0, "time/pack": 0.001, "x": 3}
    assert headline(row) == "reward 0.4123  gen 1.3s"
    assert headline({}) == ""


def test_progress_without_a_terminal_prints_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 4.0, 11.0, 12.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with Progress("grpo", total=4) as bar:
        for step in (1, 2, 3, 4):
            bar.update(step, {"loss": step / 2})
    assert capsys.readouterr().err.splitlines() == ["grpo 1/4  loss 0.5", "grpo 3/4  loss 1.5", "grpo 4/4  loss 2"]


def test_progress_can_be_off(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("grpo", total=1, enabled=False) as bar:
        bar.update(1, {"loss": 1.0})
    assert capsys.readouterr().err == ""
