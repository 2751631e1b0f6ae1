"""SIGTERM: the run saves itself at the next stop point, ends with 143, and goes on as if nobody had stopped it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_resume import assert_same_run, blocks, files, rows

import vlrft
from vlrft import checkpoint
from vlrft.dist import World
from vlrft.launch import run_ranks
from vlrft.preempt import StopAsked, StopSignals
from vlrft.runfolder import RunPreempted
from vlrft.testing import tiny_recipe

if os.name != "posix":
    pytest.skip("no such signals here", allow_module_level=True)


@pytest.fixture(scope="module")
def untouched(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untouched") / "run"
    return vlrft.train(tiny_recipe(scenes, folder, **blocks())).path


def signal_at(
    monkeypatch: pytest.MonkeyPatch, target: str, call: int, number: int = signal.SIGTERM
) -> Callable[[], int]:
    """Send this process a signal at the n-th call of `target`, a function; returns how many calls there were."""
    module, _, name = target.rpartition(".")
    original = getattr(sys.modules[module], name)
    calls = 0

    def signalling(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), number)
        return original(*arguments, **options)

    monkeypatch.setattr(target, signalling)
    return lambda: calls


# Optimiser steps: 1-3 in SFT, then two per rollout. Rollouts are stored in GRPO steps 1-3.
MOMENTS = {
    "in the first evaluation": ("vlrft.stages.write_groups", 1, 0),
    "in an SFT step": ("vlrft.training.optimizer_step", 1, 1),
    "in an SFT step that an evaluation follows": ("vlrft.training.optimizer_step", 2, 2),
    "while the first rollout is stored": ("vlrft.pipeline.write_groups", 1, 3),
    "while the second rollout is stored": ("vlrft.pipeline.write_groups", 2, 4),
    "between optimiser steps of a rollout": ("vlrft.training.optimizer_step", 4, 4),
}
"""What is called when the signal comes, for which time, and how many steps the run has made when it ends."""


ALWAYS = ("while the second rollout is stored",)
"""The moments of every test run; the others are slow."""


@pytest.mark.parametrize(
    "moment", [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.slow) for name in MOMENTS]
)
def test_a_preempted_run_ends_like_the_untouched_one(
    moment: str, untouched: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, call, steps = MOMENTS[moment]
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched:
        signal_at(patched, target, call)
        with pytest.raises(RunPreempted, match=f"ended by SIGTERM.*go on with: vlrft train --resume {tmp_path}"):
            vlrft.train(tiny_recipe(scenes, tmp_path / "run", **blocks()))
    assert signal.getsignal(signal.SIGTERM) is before
    assert max(row["global_step"] for row in rows(tmp_path / "run")) == steps
    saved = checkpoint.complete(tmp_path / "run")
    assert int(saved[-1].name[:8]) == steps if steps else not saved
    rolled_out = len(list((tmp_path / "run" / "rollouts").glob("grpo-*.jsonl")))
    again = counted_rollouts(monkeypatch)
    assert_same_run(vlrft.train(resume=tmp_path / "run").path, untouched)
    assert len(again) == 3 - rolled_out, "what was stored is used"


def counted_rollouts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The steps whose completions are sampled from here on."""
    from vlrft.rollout import RolloutWorker

    sampled: list[Any] = []
    original = RolloutWorker.rollout

    def rollout(self: RolloutWorker, rendered: Any, config: Any, seed_key: tuple[Any, ...]) -> Any:
        sampled.append(seed_key[-1])
        return original(self, rendered, config, seed_key)

    monkeypatch.setattr(RolloutWorker, "rollout", rollout)
    return sampled


@pytest.mark.slow
def test_the_last_evaluation_is_made_up_for(
    untouched: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal in the last step of the last stage: saved before the evaluation, which a resumed run makes, once."""
    with monkeypatch.context() as patched:
        signal_at(patched, "vlrft.training.optimizer_step", 9)
        with pytest.raises(RunPreempted):
            vlrft.train(tiny_recipe(scenes, tmp_path / "run", **blocks()))
    assert rows(tmp_path / "run") == rows(untouched)[:-1]
    with monkeypatch.context() as patched:
        signal_at(patched, "vlrft.stages.start_stage", 1, signal.SIGUSR1)
        with pytest.raises(RunPreempted, match="SIGUSR1"):
            vlrft.train(resume=tmp_path / "run")
    with monkeypatch.context() as patched:
        signal_at(patched, "vlrft.stages.write_groups", 1)
        assert vlrft.train(resume=tmp_path / "run").summary["steps"] == 6, "nothing is left to stop"
    assert rows(tmp_path / "run") == rows(untouched)
    assert files(tmp_path / "run" / "model") == files(untouched / "model")


@pytest.mark.slow
def test_rewards_that_learn_are_not_taught_twice(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judges' state is saved as of before the step: without stored rollouts the step is scored again."""
    (tmp_path / "mine.py").write_text(
        "def raising(completions, **columns):\n"
        "    if sum(map(ord, completions[0])) % 2:\n        raise ValueError('odd')\n"
        "    return [len(c) / 50 for c in completions]\n"
    )
    rewards = {"funcs": [{"func": f"{tmp_path}/mine.py:raising"}], "max_errors": 10_000}
    changes = blocks() | {"rewards": rewards, "log": {"rollouts": False}}
    expected = vlrft.train(tiny_recipe(scenes, tmp_path / "expected", **changes)).path
    with monkeypatch.context() as patched:
        signal_at(patched, "vlrft.training.watch_scores", 2)
        with pytest.raises(RunPreempted):
            vlrft.train(tiny_recipe(scenes, tmp_path / "run", **changes))
    assert rows(vlrft.train(resume=tmp_path / "run").path) == rows(expected)
    assert any(row.get("reward_errors") for row in rows(expected))


def test_a_second_sigterm_ends_at_once(tmp_path: Path) -> None:
    program = (
        "import time\nfrom vlrft.preempt import StopSignals\n"
        "with StopSignals() as stops:\n    print('ready', flush=True)\n"
        "    while True:\n        time.sleep(0.05)\n        print(stops.received, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        process.terminate()
        assert any(line == "SIGTERM\n" for line in process.stdout)
        time.sleep(1.2)
        assert process.poll() is None, "two at the same time are one: a group and its launcher were signalled"
        process.terminate()
        assert process.wait(timeout=10) == -signal.SIGTERM
    finally:
        process.kill()
        process.communicate()


def test_a_sigusr1_after_a_sigterm_is_one_more_warning() -> None:
    with StopSignals() as stops:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1.1)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stops.received == "SIGUSR1"


def test_ranks_get_the_signal_that_came_while_they_were_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Sent to the launcher between the first rank and the second."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*_: Any) -> subprocess.Popen[bytes]:
        if started:
            os.kill(os.getpid(), signal.SIGTERM)
        started.append(subprocess.Popen(["sleep", "30"]))
        return started[-1]

    monkeypatch.setattr("vlrft.launch._start", start)
    assert run_ranks(["train"], 2, grace=5.0) == 143
    assert [rank.returncode for rank in started] == [-signal.SIGTERM] * 2


def test_a_forked_child_dies_of_its_sigterm() -> None:
    ready, say = os.pipe()
    with StopSignals() as stops:
        child = os.fork()
        if child == 0:
            os.write(say, b"1")
            time.sleep(30)
            os._exit(0)
        os.read(ready, 1)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM
    assert stops.received is None


def test_handlers_of_others_are_left_alone_or_put_back() -> None:
    def mine(number: int, frame: Any) -> None: ...

    before = signal.signal(signal.SIGUSR1, mine)
    try:
        with StopSignals():
            assert signal.getsignal(signal.SIGUSR1) is mine
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGUSR1, before)
    seen: list[Any] = []

    def elsewhere() -> None:
        with StopSignals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]


def test_one_ranks_signal_stops_all() -> None:
    class Two(World):
        def gather(self, value: Any) -> list[Any]:
            return [value, "SIGTERM"]

    with pytest.raises(StopAsked, match="SIGTERM"):
        StopSignals().check(Two())
    StopSignals().check(World())


def start(recipe: dict[str, Any], place: Path, *arguments: str) -> subprocess.Popen[str]:
    file = place / "recipe.json"
    file.write_text(json.dumps(recipe), encoding="utf-8")
    command = [sys.executable, "-m", "vlrft", "train", str(file), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_rows(run: Path, process: subprocess.Popen[str], count: int) -> None:
    until = time.monotonic() + 200
    while not (run / "metrics.jsonl").is_file() or len((run / "metrics.jsonl").read_text().splitlines()) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_command_ends_with_143_and_goes_on_to_the_same_weights(ranks: int, scenes: Path, tmp_path: Path) -> None:
    some: dict[str, Any] = {"train": {"steps": 30, "save_steps": 7}, "parallel": {"cpu": True, "num_threads": 1}}
    many = ["--nproc", str(ranks)] if ranks > 1 else []
    done = start(tiny_recipe(scenes, tmp_path / "expected", **some), tmp_path, *many)
    done.communicate(timeout=250)
    assert done.returncode == 0
    process = start(tiny_recipe(scenes, tmp_path / "run", **some), tmp_path, *many)
    try:
        wait_for_rows(tmp_path / "run", process, 4)
        process.terminate()
        _, err = process.communicate(timeout=100)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 143, err
    assert err.splitlines()[-1] == (
        f"ended by SIGTERM, nothing is lost; go on with: vlrft train --resume {tmp_path / 'run'}"
    )
    assert "Traceback" not in err
    steps = max(row["global_step"] for row in rows(tmp_path / "run"))
    assert 3 <= steps < 30
    assert int(checkpoint.complete(tmp_path / "run")[-1].name[:8]) == steps
    again = subprocess.run(
        [sys.executable, "-m", "vlrft", "train", "--resume", str(tmp_path / "run"), *many],
        capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert rows(tmp_path / "run") == rows(tmp_path / "expected")
    assert files(tmp_path / "run" / "model") == files(tmp_path / "expected" / "model")


SLEEPS = "import time\n\ndef sleeps(completions, **columns):\n    time.sleep(3600)\n"


@pytest.mark.slow
def test_ranks_that_do_not_end_are_killed_after_the_grace(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SLEEPS)
    recipe = tiny_recipe(scenes, tmp_path / "run", rewards={"funcs": [{"func": f"{tmp_path}/mine.py:sleeps"}]})
    process = start(recipe, tmp_path, "--nproc", "2", "--grace", "2", "--max-restarts", "3")
    try:
        wait_for_rows(tmp_path / "run", process, 1)
        time.sleep(1.0)
        process.terminate()
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 1
    assert "did not end in time and was killed" in err
    assert "restart" not in err
