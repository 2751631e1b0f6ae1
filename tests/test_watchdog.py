"""A run that hangs ends itself with the stacks of every rank, and goes on to the result of one that never hung."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from test_resume import rows

import vlrft
from vlrft.cli import is_user_error
from vlrft.config import TimeLimitsConfig
from vlrft.dist import World, collectives
from vlrft.engines.base import EngineLostError
from vlrft.engines.vllm_http import EngineUnreachableError
from vlrft.log import Timers
from vlrft.stages import EngineDiedError, is_dead_engine
from vlrft.testing import tiny_recipe
from vlrft.watchdog import EXIT_STATUS, Watchdog, clear

if os.name != "posix":
    pytest.skip("no os._exit with the meaning wanted here", allow_module_level=True)


def dog(timers: Timers, folder: Path, **limits: float) -> Watchdog:
    off = dict.fromkeys(TimeLimitsConfig.model_fields, 0.0)
    return Watchdog(
        timers, TimeLimitsConfig(**{**off, **limits}), folder, World(), where=lambda: "step 3", hint="go on with: it"
    )


def test_a_phase_is_held_against_its_limit(tmp_path: Path) -> None:
    timers = Timers()
    watchdog = dog(timers, tmp_path, score=0.1)
    with timers("gen"), timers("score"):
        assert watchdog.overrun() is None
        time.sleep(0.15)
        assert watchdog.overrun() is not None
        assert "phase score has taken 0." in str(watchdog.overrun())
    assert watchdog.overrun() is None, "it has ended"
    assert timers.collect().keys() == {"time/gen", "time/score"}


def test_the_first_of_a_phase_may_take_longer_and_an_evaluation_as_long_as_it_has_parts(tmp_path: Path) -> None:
    timers = Timers()
    watchdog = dog(timers, tmp_path, score=0.05, eval=0.05, start=0.2)
    with timers("score"):
        time.sleep(0.1)
        assert watchdog.overrun() is None
    with timers("score"):
        time.sleep(0.1)
        assert watchdog.overrun() is not None
    with timers.watched("eval"):
        pass
    with timers.watched("eval", parts=4):
        time.sleep(0.1)
        assert watchdog.overrun() is None
    assert "time/eval" not in timers.collect()


def test_waiting_for_another_rank_has_a_limit_of_its_own(tmp_path: Path) -> None:
    watchdog = dog(Timers(), tmp_path, collective=0.05)
    before = collectives.count
    with collectives("gather"):
        time.sleep(0.1)
        assert "phase collective has taken" in str(watchdog.overrun())
    assert watchdog.overrun() is None
    assert (collectives.count, collectives.name) == (before + 1, "gather")


def test_a_call_that_ends_on_one_thread_does_not_hide_one_that_waits_on_another(tmp_path: Path) -> None:
    watchdog = dog(Timers(), tmp_path, collective=0.05)
    end = threading.Event()

    def waits() -> None:
        with collectives("gather of rollouts"):
            end.wait(10.0)

    thread = threading.Thread(target=waits)
    thread.start()
    with collectives("gather of scores"):
        time.sleep(0.1)
    assert "phase collective has taken" in str(watchdog.overrun())
    assert [call.name for call in collectives.open_calls()] == ["gather of rollouts"]
    assert "last collective call: gather of rollouts (call " in watchdog._report("found")
    end.set()
    thread.join()
    assert watchdog.overrun() is None


def test_torch_waits_longer_than_the_watchdog(tmp_path: Path) -> None:
    """In all groups that there are when the stage begins; with no limit of ours, torch's is out of sight."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        groups = [torch.distributed.group.WORLD, torch.distributed.new_group(backend="gloo")]
        for limit, expected in ((9000.0, 9600.0), (0.0, 30 * 86400.0)):
            with dog(Timers(), tmp_path, collective=limit):
                for group in groups:
                    options = group._get_backend(torch.device("cpu")).options
                    assert options._timeout.total_seconds() == expected
    finally:
        torch.distributed.destroy_process_group()


def test_without_limits_nobody_watches(tmp_path: Path) -> None:
    timers = Timers()
    with dog(timers, tmp_path, start=5.0) as watchdog, timers("score"):
        time.sleep(0.05)
        assert watchdog.overrun() is None
    assert not list(tmp_path.iterdir())


def test_what_an_earlier_hang_left_is_removed(tmp_path: Path) -> None:
    for name in ("hang.json", "hang-rank0.txt", "hang-rank1.txt", "metrics.jsonl"):
        (tmp_path / name).write_text("")
    clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


HANGS = """
import ctypes, os, subprocess, sys, time
from pathlib import Path
from vlrft.config import TimeLimitsConfig
from vlrft.dist import World
from vlrft.log import Timers
from vlrft.watchdog import Watchdog

timers = Timers()
off = {name: 0.0 for name in TimeLimitsConfig.model_fields if name != "score"}
limits = TimeLimitsConfig(score=float(sys.argv[3]), **off)
child = subprocess.Popen(["sleep", "20"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(child.pid, flush=True)

def hangs_here():
    if sys.argv[2] == "python":
        time.sleep(300)
    ctypes.PyDLL(None).sleep(300)  # keeps the interpreter's lock

with Watchdog(timers, limits, Path(sys.argv[1]), World(), where=lambda: "step 3", hint="go on with: it"):
    with timers("score"):
        hangs_here()
"""


@pytest.mark.parametrize("kind", ["python", "native"])
def test_the_process_ends_with_its_stacks(kind: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", HANGS, str(tmp_path), kind, "0.3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if kind == "native":
        assert done.returncode == 1
        assert "Timeout" in done.stderr
        assert "in hangs_here" in done.stderr
        return
    assert done.returncode == EXIT_STATUS
    assert "rank 0 of 1, step 3: phase score has taken" in done.stderr
    assert "go on with: it" in done.stderr
    stacks = (tmp_path / "hang-rank0.txt").read_text()
    assert "in hangs_here" in stacks
    assert "last collective call: none (call 0)" in stacks
    assert json.loads((tmp_path / "hang.json").read_text())["rank"] == 0
    time.sleep(0.1)
    state = Path(f"/proc/{done.stdout.strip()}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z", "its children are ended too"


def test_a_run_folder_that_cannot_be_written_is_no_reason_to_hang_on(tmp_path: Path) -> None:
    """A file in the folder's place: every look and every word into it is an OSError, as on a disk that is gone."""
    folder = tmp_path / "run"
    folder.write_text("")
    done = subprocess.run(
        [sys.executable, "-c", HANGS, str(folder), "python", "0.3"], capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == EXIT_STATUS, done.stderr
    assert "rank 0 of 1, step 3: phase score has taken" in done.stderr
    assert "hang.json cannot be looked for: " in done.stderr
    assert "the other ranks could not be told: " in done.stderr
    assert "the stacks could not be kept: " in done.stderr
    assert "in hangs_here" in done.stderr


def test_children_of_children_are_ended() -> None:
    # In a process of its own: the test's other children are none of its business.
    program = (
        "import subprocess\nfrom vlrft.watchdog import end_children\n"
        "p = subprocess.Popen(['sh', '-c', 'sleep 300 & echo $!; wait'], stdout=subprocess.PIPE, text=True)\n"
        "print(p.stdout.readline(), end='', flush=True)\nend_children()\nprint(p.wait())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    grandchild, status = done.stdout.split()
    assert status == "-9"
    state = Path(f"/proc/{grandchild}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_guards_of_servers_outlive_the_trainer_to_clear_up_behind_it(tmp_path: Path) -> None:
    """What a server has in shared memory, nobody else removes."""
    shared = Path("/dev/shm") / f"psm_test{os.getpid()}"
    shared.write_bytes(b"x" * 4096)
    weights = tmp_path / "weights"
    weights.mkdir()
    maps = f"import mmap, time; f = open({str(shared)!r}, 'r+b'); m = mmap.mmap(f.fileno(), 0); print('up', flush=True)"
    program = (
        "import os, subprocess, sys\nfrom vlrft.watchdog import end_children\n"
        f"guard = [sys.executable, '-m', 'vlrft.engines.vllm_guard', str(os.getpid()), {str(weights)!r}]\n"
        f"server = [sys.executable, '-c', {maps + '; time.sleep(99)'!r}]\n"
        "p = subprocess.Popen([*guard, *server], stdout=subprocess.PIPE, text=True, start_new_session=True)\n"
        "assert p.stdout.readline() == 'up\\n'\nend_children()\nprint(p.pid, flush=True)\nos._exit(75)"
    )
    try:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 75, done.stderr
        until = time.monotonic() + 20
        while shared.exists() or weights.exists():
            assert time.monotonic() < until, "it is still there"
            time.sleep(0.05)
    finally:
        shared.unlink(missing_ok=True)


@pytest.mark.parametrize("error", [EngineLostError("gone six times"), EngineUnreachableError("no answer")])
def test_servers_that_stay_away_in_a_run_are_told_with_the_next_step(
    error: Exception, recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No user's error: `--max-restarts` starts the run again."""

    def dies(*_: Any) -> Any:
        raise error

    monkeypatch.setattr("vlrft.engines.hf.HFEngine.generate", dies)
    said = rf"engine has died \({error}\).*vlrft train --resume {tmp_path / 'run'}"
    with pytest.raises(EngineDiedError, match=said) as met:
        vlrft.train(recipe(train={"steps": 1}, eval={}))
    assert not is_user_error(met.value)


def test_a_dead_engine_is_told_with_the_next_step(recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exceptions = pytest.importorskip("vllm.v1.engine.exceptions")
    assert is_dead_engine(exceptions.EngineDeadError())
    assert not is_dead_engine(RuntimeError("EngineDeadError"))

    def dies(*_: Any) -> Any:
        raise exceptions.EngineDeadError

    monkeypatch.setattr("vlrft.engines.hf.HFEngine.generate", dies)
    with pytest.raises(EngineDiedError, match=rf"engine has died.*vlrft train --resume {tmp_path / 'run'}"):
        vlrft.train(recipe(train={"steps": 1}, eval={}))


HANGING = """
import os, time
from pathlib import Path

calls = 0

def hangs(completions, **columns):
    global calls
    calls += 1
    if os.environ.get("RANK", "0") == "{rank}" and calls == {call} and not Path("{done}").exists():
        Path("{done}").touch()
        stuck_in_my_reward()
    return [sum(ord(c) % 2 == 0 for c in text) / max(1, len(text)) for text in completions]

def stuck_in_my_reward():
    time.sleep(3600)
"""


def hanging_recipe(scenes: Path, place: Path, *, rank: int, call: int, limits: dict[str, float]) -> dict[str, Any]:
    """The reward hangs once, in that call of that rank."""
    (place / "mine.py").write_text(HANGING.format(rank=rank, call=call, done=place / "done"))
    train = {"steps": 4, "save_steps": 1, "prompts_per_step": 4, "time_limits": {"start": 60.0, **limits}}
    rewards = {"funcs": [{"func": f"{place}/mine.py:hangs"}]}
    parallel = {"cpu": True, "num_threads": 1}
    return tiny_recipe(scenes, place / "run", train=train, rewards=rewards, parallel=parallel)


def train(recipe: dict[str, Any], place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    file = place / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    command = [sys.executable, "-m", "vlrft", "train", str(file), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.slow
def test_a_reward_that_sleeps_for_ever(scenes: Path, tmp_path: Path) -> None:
    # A step asks 4 times, once per prompt: this is the second step.
    recipe = hanging_recipe(scenes, tmp_path, rank=0, call=6, limits={"score": 2.0})
    done = train(recipe, tmp_path)
    assert done.returncode == EXIT_STATUS, done.stderr
    assert "stage grpo, step 2: phase score has taken 2." in done.stderr
    assert f"go on with: vlrft train --resume {tmp_path / 'run'}" in done.stderr
    assert "in stuck_in_my_reward" in (tmp_path / "run" / "hang-rank0.txt").read_text()
    resumed = vlrft.train(resume=tmp_path / "run", train__time_limits={"score": 100.0}).path
    assert not list(resumed.glob("hang*"))
    recipe["train"]["output_dir"] = str(tmp_path / "expected")
    assert rows(resumed) == rows(vlrft.train(recipe).path)


@pytest.mark.slow
@pytest.mark.parametrize("limits", [{"score": 4.0}, {"collective": 4.0}], ids=["by the rank", "by its neighbour"])
def test_a_rank_that_never_arrives(limits: dict[str, float], scenes: Path, tmp_path: Path) -> None:
    """Found by the limit of what it is stuck in, or by that of the rank that waits for it."""
    recipe = hanging_recipe(scenes, tmp_path, rank=1, call=4, limits=limits)
    done = train(recipe, tmp_path, "--nproc", "2")
    assert done.returncode == EXIT_STATUS, done.stderr
    stacks = [(tmp_path / "run" / f"hang-rank{rank}.txt").read_text() for rank in (0, 1)]
    assert "in gather" in stacks[0]
    assert "in stuck_in_my_reward" in stacks[1]
    told = json.loads((tmp_path / "run" / "hang.json").read_text())
    assert told["rank"] == (1 if "score" in limits else 0)
    assert "last collective call: gather (call " in stacks[0]
    assert ", waiting for " in stacks[0]
    found = stacks[1] if "score" in limits else stacks[0]
    other = stacks[0] if "score" in limits else stacks[1]
    assert "step 2: phase" in found
    assert f"told by rank {told['rank']}" in other
    again = train(recipe, tmp_path, "--nproc", "2", "--auto-resume")
    assert again.returncode == 0, again.stderr
    recipe["train"]["output_dir"] = str(tmp_path / "expected")
    assert train(recipe, tmp_path, "--nproc", "2").returncode == 0
    assert rows(tmp_path / "run") == rows(tmp_path / "expected")


@pytest.mark.slow
def test_a_hang_is_restarted(scenes: Path, tmp_path: Path) -> None:
    recipe = hanging_recipe(scenes, tmp_path, rank=0, call=6, limits={"score": 2.0})
    done = train(recipe, tmp_path, "--max-restarts", "2")
    assert done.returncode == 0, done.stderr
    assert "rank 0 ended with status 75: restart 1 of 2" in done.stderr
    assert "restart 2" not in done.stderr
    assert [row["step"] for row in rows(tmp_path / "run") if row["kind"] == "train"] == [1, 2, 3, 4]
