"""The benchmark of the rewards: what it scores is honest work, and what it writes."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from vlrft.rewards import names
from vlrft.rewards.call import scorer

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a benchmark's module the way its script does: with benchmarks/ on the path."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_every_workload_is_read_in_full(load: Any) -> None:
    work = load("_reward_work").workloads()
    assert {name.partition("@")[0] for name in work} == {
        name for name in names() if not name.startswith(("compat.", "chart."))
    }
    for name, item in work.items():
        if name == "math.verify":
            continue
        result = scorer(name, item.options)(item.completion, item.target, item.meta)
        assert result.value is not None
        assert result.flags == (), name


def test_rows_are_written_and_the_bar_is_kept(load: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewards = load("rewards")
    path = tmp_path / "rewards.json"
    rewards.main(["--only", "yesno", "mcq", "--repeats", "1", "--seconds", "0.01", "--json", str(path)])
    content = json.loads(path.read_text())
    assert content["name"] == "rewards"
    workloads = ["mcq.letter", "mcq.multi", "yesno", "family mcq", "family yesno"]
    assert [row["workload"] for row in content["rows"]] == workloads
    assert "| mcq.letter" in capsys.readouterr().out
    rows = [
        {"workload": n, "metric": "per_second", "value": 10.0, "min": 1.0, "max": 20.0} for n in ("yesno", "det.map")
    ]
    assert rewards.below_bar(rows) == ["yesno"]
    with pytest.raises(SystemExit, match="names no reward"):
        rewards.main(["--only", "nothing"])
