"""Rollouts made ahead of training: the same tokens whoever is faster, bounded age, exact resume."""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import vlrft
from vlrft import pipeline, training
from vlrft.engines.base import Request, SamplingParams
from vlrft.engines.hf import HFEngine
from vlrft.models.base import Family
from vlrft.setup import ConfigError
from vlrft.types import Completion

HERE = f"{Path(__file__)}:"


class CopyEngine(HFEngine):
    """Samples from a copy of the model, as an engine in another process does."""

    pause = 0.0
    threads: set[str]

    def __init__(self, family: Family, *, pause: float = 0.0, **settings: Any) -> None:
        twin = copy.copy(family)
        twin.model = copy.deepcopy(family.model)
        twin.lm_head = twin.model.lm_head
        super().__init__(twin, **settings)
        self.trained, self.pause, self.threads = family, pause, set()
        self.is_sampling = threading.Lock()

    def sync(self, policy_version: int) -> None:
        self.load(self.snapshot(policy_version))

    def snapshot(self, policy_version: int) -> Any:
        return policy_version, copy.deepcopy(self.trained.model.state_dict())

    def load(self, snapshot: Any) -> None:
        version, weights = snapshot
        assert not self.is_sampling.locked(), "weights must not move while the engine samples"
        self.family.model.load_state_dict(weights)
        super().sync(version)

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> list[tuple[Completion, ...]]:
        self.threads.add(threading.current_thread().name)
        with self.is_sampling:
            time.sleep(self.pause)
            return super().generate(requests, params)


def ahead(steps: int, pause: float = 0.0) -> dict[str, Any]:
    return {"name": f"{HERE}CopyEngine", "max_staleness": steps, "kwargs": {"pause": pause}}


def rows_of(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def versions(run: Path) -> list[set[int]]:
    found = []
    for path in sorted((run / "rollouts").glob("grpo-*.jsonl")):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        found.append({r["policy_version"] for record in records for r in record["rollouts"]})
    return found


@pytest.mark.parametrize("steps", [0, pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_step_learns_from_weights_of_just_so_many_steps_ago(recipe: Any, steps: int) -> None:
    run = vlrft.train(recipe(engine=ahead(steps), train={"steps": 5}, eval={"every": 2}))
    assert versions(run.path) == [{max(0, step - steps)} for step in range(5)]
    trained = [row for row in rows_of(run.path) if row["kind"] == "train"]
    assert [row["rollout/staleness"] for row in trained] == [min(step, steps) for step in range(5)]


def test_on_policy_with_weights_of_its_own_equals_the_engine_over_the_trainers(recipe: Any, tmp_path: Path) -> None:
    own = vlrft.train(recipe(engine=ahead(0), train={"output_dir": str(tmp_path / "own")}))
    shared = vlrft.train(recipe(train={"output_dir": str(tmp_path / "shared")}))
    assert rows_of(own.path) == rows_of(shared.path)


@pytest.mark.slow
def test_the_run_does_not_depend_on_who_is_faster(recipe: Any, tmp_path: Path) -> None:
    runs = [
        vlrft.train(recipe(engine=ahead(2, pause), train={"steps": 4, "output_dir": str(tmp_path / str(i))}))
        for i, pause in enumerate((0.0, 0.15))
    ]
    assert rows_of(runs[0].path) == rows_of(runs[1].path)


def test_rollouts_overlap_training(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stage(engine=ahead(1, 0.2), train={"steps": 4})
    engine = run.worker.engine
    sampling: list[bool] = []
    update = training.update

    def slow(*args: Any) -> None:
        time.sleep(0.1)
        sampling.append(engine.is_sampling.locked())
        update(*args)

    monkeypatch.setattr(training, "update", slow)
    for step in range(3):
        run.state.step = step
        training.grpo_step(run)
    run.close()
    spent = run.timers.collect()
    assert any(sampling)
    assert all(name.startswith("rollouts") for name in engine.threads)
    assert spent["time/gen"] >= 0.6
    assert spent["time/wait"] > 0


def killed_at(recipe: dict[str, Any], call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run stops with an exception at its n-th optimiser step, as a crash would stop it."""
    calls = iter(range(1, 100))
    step = training.optimizer_step

    def dies(*args: Any, **kwargs: Any) -> None:
        if next(calls) == call:
            raise ZeroDivisionError
        step(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(training, "optimizer_step", dies)
        with pytest.raises(ZeroDivisionError):
            vlrft.train(recipe)


@pytest.mark.parametrize("call", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_resume_is_exact(recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    def config(name: str) -> dict[str, Any]:
        train = {"steps": 5, "save_steps": 2, "output_dir": str(tmp_path / name)}
        made: dict[str, Any] = recipe(engine=ahead(2), train=train)
        return made

    whole = vlrft.train(config("whole"))
    killed_at(config("killed"), call, monkeypatch)
    again = vlrft.train(resume=tmp_path / "killed")
    assert rows_of(again.path) == rows_of(whole.path)
    models = [(run.path / "model" / "model.safetensors").read_bytes() for run in (whole, again)]
    assert models[0] == models[1]


def test_batches_drawn_ahead_are_in_the_checkpoint(stage: Any) -> None:
    run = stage(engine=ahead(2), train={"steps": 6})
    training.grpo_step(run)
    run.rollouts.drain(run)
    saved = run.waiting_state()
    assert [entry["policy_version"] for entry in saved] == [0, 0]
    again = stage(engine=ahead(2), train={"steps": 6})
    again.state.step = 1
    again.load_waiting(saved)
    assert [d.samples for d in again.waiting] == [d.samples for d in run.waiting]
    assert [d.step for d in again.waiting] == [1, 2]
    run.close()
    again.close()


def test_an_error_on_the_thread_reaches_the_run(recipe: Any) -> None:
    with pytest.raises(ZeroDivisionError, match="from the thread"):
        vlrft.train(recipe(engine={**ahead(1), "name": f"{HERE}Broken"}))


class Broken(CopyEngine):
    def generate(self, requests: Sequence[Request], params: SamplingParams) -> list[tuple[Completion, ...]]:
        if threading.current_thread().name.startswith("rollouts"):
            raise ZeroDivisionError("from the thread")
        return super().generate(requests, params)


class Endless(CopyEngine):
    """Its rollouts after the first one take for ever, until it is told that nobody waits."""

    def __init__(self, family: Family, **settings: Any) -> None:
        super().__init__(family, **settings)
        self.asked, self.abandoned = 0, threading.Event()

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> list[tuple[Completion, ...]]:
        self.asked += 1
        if self.asked > 1:
            assert self.abandoned.wait(60)
            raise TimeoutError("nobody waits")
        return super().generate(requests, params)

    def abandon(self) -> None:
        self.abandoned.set()


class Deaf(Endless):
    abandon = None  # type: ignore[assignment]


def test_an_error_gives_up_the_rollout_that_is_in_work(stage: Any) -> None:
    run = stage(engine={**ahead(1), "name": f"{HERE}Endless"}, train={"steps": 4})
    training.grpo_step(run)
    began = time.monotonic()
    run.close()
    assert run.worker.engine.abandoned.is_set()
    assert time.monotonic() - began < 10
    assert not any(thread.name.startswith("rollouts") and thread.is_alive() for thread in threading.enumerate())


def test_a_rollout_that_does_not_let_go_is_left_behind(
    stage: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pipeline, "_LET_GO_S", 0.2)
    run = stage(engine={**ahead(1), "name": f"{HERE}Deaf"}, train={"steps": 4})
    training.grpo_step(run)
    run.close()
    assert "left behind" in caplog.text
    run.worker.engine.abandoned.set()


def test_rollouts_that_a_resumed_run_could_not_read_back_are_refused(recipe: Any) -> None:
    with pytest.raises(ConfigError, match=r"engine\.max_staleness=1 needs log\.rollouts=true"):
        vlrft.train(recipe(engine=ahead(1), log={"rollouts": False}))


def test_an_engine_over_the_trainers_weights_is_refused(recipe: Any) -> None:
    with pytest.raises(ConfigError, match=r"engine\.max_staleness=1 needs an engine .* engine\.name=hf does not"):
        vlrft.train(recipe(engine={"max_staleness": 1}))


def test_without_correction_it_is_warned(recipe: Any, caplog: pytest.LogCaptureFixture) -> None:
    vlrft.train(recipe(engine=ahead(1), objective={"mismatch": "none"}, train={"steps": 1}))
    assert "samples of an older policy are taken for the current one's" in caplog.text


def test_one_batch_is_drawn_when_on_policy(stage: Any) -> None:
    run = stage()
    first = pipeline.first_draw(run)
    assert pipeline.first_draw(run) is first
    training.grpo_step(run)
    assert not run.waiting
