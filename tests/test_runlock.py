"""One run in a folder at a time: who has it is named, nobody who is gone blocks it; Ctrl-C says how to go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vlrft
from vlrft import cli, demo
from vlrft.compose import compose
from vlrft.log import UserError
from vlrft.runfolder import RunFolder, RunFolderError, read_metrics
from vlrft.runlock import LOCK, FolderInUseError, RunLock

if os.name != "posix":
    pytest.skip("no record locks here", allow_module_level=True)

HOLD = """
import os, sys, time
from pathlib import Path
from vlrft.runlock import RunLock
lock = RunLock(Path(sys.argv[1]))
lock.acquire()
if "fork" in sys.argv and os.fork() == 0:
    os.write(1, f"child {os.getpid()}\\n".encode())  # whole: the two share the pipe
    time.sleep(60)
    os._exit(0)
os.write(1, b"locked\\n")
time.sleep(60)
"""

Holder = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Holder]:
    """`holder()`: another process that has the lock of tmp_path."""
    started: list[subprocess.Popen[str]] = []

    def start(*options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLD, str(tmp_path), *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str], word: str) -> str:
    """The rest of the next line that begins with `word`."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(word):
            return line.removeprefix(word).strip()
    raise AssertionError(f"the process ended without saying {word}")


def test_another_process_is_named(tmp_path: Path, holder: Holder) -> None:
    process = holder()
    said(process, "locked")
    names = rf"{tmp_path} is in use by process {process.pid} on \S+, whose run writes there.*train\.output_dir"
    for refused in (RunLock(tmp_path).acquire, RunLock(tmp_path).check_free):
        with pytest.raises(FolderInUseError, match=names):
            refused()
    assert (tmp_path / LOCK).exists()


def test_a_killed_process_blocks_nobody(tmp_path: Path, holder: Holder) -> None:
    process = holder()
    said(process, "locked")
    process.kill()
    process.wait()
    assert (tmp_path / LOCK).read_text().startswith(f"{process.pid} "), "the file is left"
    lock = RunLock(tmp_path)
    lock.check_free()
    lock.acquire()
    assert (tmp_path / LOCK).read_text().startswith(f"{os.getpid()} ")
    lock.release()
    assert not (tmp_path / LOCK).exists()


def test_a_child_that_outlives_the_run_blocks_nobody(tmp_path: Path, holder: Holder) -> None:
    process = holder("fork")
    child = int(said(process, "child"))
    try:
        process.kill()
        process.wait()
        os.kill(child, 0)
        RunLock(tmp_path).check_free()
    finally:
        os.kill(child, signal.SIGKILL)


def test_two_runs_of_one_process(tmp_path: Path) -> None:
    first, second = RunLock(tmp_path), RunLock(tmp_path)
    first.acquire()
    first.acquire()
    with pytest.raises(FolderInUseError, match=rf"in use by process {os.getpid()} on"):
        second.acquire()
    second.release()
    assert (tmp_path / LOCK).exists(), "not its to give back"
    first.release()
    first.release()
    second.acquire()
    second.release()


def test_a_file_that_was_removed_meanwhile_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run before removes the file between our opening and locking it."""
    import fcntl

    locked = fcntl.lockf
    removed: list[Path] = []

    def remove_first(descriptor: int, operation: int) -> None:
        if not removed:
            removed.append(tmp_path / LOCK)
            (tmp_path / LOCK).unlink()
        locked(descriptor, operation)

    monkeypatch.setattr(fcntl, "lockf", remove_first)
    lock = RunLock(tmp_path)
    lock.acquire()
    assert removed
    assert (tmp_path / LOCK).read_text().startswith(f"{os.getpid()} ")
    lock.release()


def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import fcntl

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    RunLock(tmp_path).acquire()
    assert "cannot be locked (No locks available): start no second run in it" in caplog.text
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(UserError, match="a run has to write there, and cannot: Permission denied"):
        RunLock(tmp_path).acquire()


def test_a_run_that_began_and_ended_meanwhile_is_not_overwritten(recipe: Any, tmp_path: Path) -> None:
    composed = compose(recipe())
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    for folder in (first, second):
        folder.refuse_other_run(resuming=False)
    first.open(composed, (), resuming=False)
    with pytest.raises(FolderInUseError):
        second.open(composed, (), resuming=False)
    first.close()
    with pytest.raises(RunFolderError, match="holds another run"):
        second.open(composed, (), resuming=False)
    second.close()


def test_a_failed_run_gives_the_folder_back(recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr("vlrft.stages.run_stages", broken)
        with pytest.raises(ZeroDivisionError):
            vlrft.train(recipe(train={"steps": 1}))
    assert not (tmp_path / "run" / LOCK).exists()
    vlrft.train(resume=tmp_path / "run")
    assert not (tmp_path / "run" / LOCK).exists()


def wait_for_rows(run: Path, process: subprocess.Popen[str], count: int) -> None:
    until = time.monotonic() + 120
    while not (run / "metrics.jsonl").is_file() or len((run / "metrics.jsonl").read_text().splitlines()) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)


INTERRUPTIBLE = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from vlrft.cli import main; main()"
)
"""A process that a shell has started in the background ignores Ctrl-C, and so do its children."""


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on_and_a_living_run_is_left_alone(recipe: Any, tmp_path: Path) -> None:
    run = tmp_path / "a run"
    # One step for the run here, which comes too late, and far more than it takes to interrupt the other.
    config = recipe(train={"steps": 40_000, "output_dir": str(run), "save_steps": 1}, log={"progress": True}, eval={})
    (tmp_path / "mine.yaml").write_text(json.dumps(config))
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, "train", str(tmp_path / "mine.yaml")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        wait_for_rows(run, process, 2)
        for start in (lambda: vlrft.train(resume=run), lambda: vlrft.train(config), lambda: demo.run(run)):
            with pytest.raises(FolderInUseError, match=rf"in use by process {process.pid} on"):
                start()
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert err.splitlines()[-1] == f"interrupted; go on with: vlrft train --resume '{run}'"
    assert not (run / LOCK).exists()
    assert 1 <= max(row["global_step"] for row in read_metrics(run)) < 40_000
    RunFolder(run).refuse_other_run(resuming=True)


def test_an_interrupted_run_goes_on(recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlrft import training

    step = training.STEPS["grpo"]

    def interrupted(run: Any) -> dict[str, float]:
        if run.state.step == 1:
            raise KeyboardInterrupt
        return step(run)

    with monkeypatch.context() as patched:
        patched.setitem(training.STEPS, "grpo", interrupted)
        with pytest.raises(KeyboardInterrupt, match=f"go on with: vlrft train --resume {tmp_path / 'run'}$"):
            vlrft.train(recipe(train={"steps": 2}))
    run = vlrft.train(resume=tmp_path / "run")
    assert [row["step"] for row in read_metrics(run.path) if row["kind"] == "train"] == [1, 2]


@pytest.mark.parametrize("command", [["train", "mine.yaml"], ["demo", "--out", "d"]])
def test_ctrl_c_before_the_run_begins(
    command: list[str], recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    (tmp_path / "mine.yaml").write_text(json.dumps(recipe()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vlrft.stages.prepare", interrupted)
    monkeypatch.setattr(sys, "argv", ["vlrft", *command])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted before the run began"
