"""The benchmark of media loading: what it makes of measured seconds, that both sides do the same, and a real run."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from videos import write_video

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
pytest.importorskip("av", reason="PyAV is not installed (it comes with the extra `video`)")


@pytest.fixture
def media(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("media")


def test_ratios_are_ours_over_theirs_of_the_same_round(media: Any) -> None:
    measured = [
        {"1_worker": 2.0, "2_workers": 1.0, "cached": 0.2, "qwen_vl_utils": 4.0},
        {"1_worker": 4.0, "2_workers": 3.0, "cached": 0.3, "qwen_vl_utils": 4.0},
        {"1_worker": 3.0, "2_workers": 2.0, "cached": 0.1, "qwen_vl_utils": 12.0},
    ]
    rows = media.side_rows("all", measured, 10)
    by_metric = {row["metric"]: row for row in rows}
    assert len(by_metric) == len(rows) == 7
    ratio = by_metric["1_worker_seconds_ratio"]
    assert (ratio["value"], ratio["min"], ratio["max"]) == (0.5, 0.25, 1.0)
    assert by_metric["qwen_vl_utils_seconds"]["value"] == pytest.approx(0.4)
    assert by_metric["2_workers_seconds"]["value"] == pytest.approx(0.2)
    line = media.table(rows).splitlines()[2]
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "all", "300.0", "200.0", "20.0", "400.0", "0.50", "0.25", "0.05",
    ]  # fmt: skip


def test_different_work_is_not_compared(media: Any, tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", 20)
    with pytest.raises(SystemExit, match=r"v\.mp4: ours .*, theirs \(4, 28, 28, 3\): not the same work"):
        media.readable([path], lambda _: np.zeros((4, 3, 28, 28)))


def test_unreadable_videos_are_left_out_and_named(
    media: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"no video")
    with pytest.raises(SystemExit, match="no video that both sides can read"):
        media.readable([path], lambda _: np.zeros((4, 3, 28, 28)))
    assert "left out: broken.mp4: is damaged or no video" in capsys.readouterr().err


@pytest.mark.slow
def test_both_sides_run(tmp_path: Path) -> None:
    pytest.importorskip("qwen_vl_utils", reason="qwen-vl-utils is not installed")
    path, out = write_video(tmp_path / "v.mp4", 60), tmp_path / "media.json"
    options = ["--videos", str(path), "--repeats", "1", "--copies", "2", "--json", str(out)]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "media.py"), *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "| ms per video" in done.stdout
    content = json.loads(out.read_text())
    assert content["name"] == "media"
    assert str(tmp_path) not in out.read_text()
    assert {row["workload"] for row in content["rows"]} == {"v.mp4", "all"}
    assert all(row["value"] > 0 for row in content["rows"])
