"""`vlrft doctor`: what is missing or broken is a finding, never a crash."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

import vlrft.doctor
from vlrft.cli import app
from vlrft.doctor import Diagnosis, Finding, examine_sandbox, libraries, machine
from vlrft.doctor.libraries import Probe, load, pinned_versions, run_code

CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints"


def probe(code: str, package: str = "numpy") -> Probe:
    return Probe(name="x", package=package, code=code, costs="the feature", mend="the command")


@pytest.mark.parametrize(
    ("built", "has_card", "state", "mend"),
    [
        ("13.0", True, "broken", "install a driver that is new enough for this torch"),
        ("13.0", False, "missing", "a machine with an NVIDIA GPU and its driver"),
        (None, True, "missing", "uv pip install -c constraints/cuda.txt torch torchvision"),
        (None, False, "missing", "a machine with an NVIDIA GPU and its driver, and uv pip install"),
    ],
)
def test_what_helps_where_no_gpu_can_be_used(
    built: str | None, has_card: bool, state: str, mend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_has_card", lambda: has_card)
    torch = SimpleNamespace(version=SimpleNamespace(cuda=built), cuda=SimpleNamespace(is_available=lambda: False))
    (found,) = machine._cuda(torch)
    assert found.state == state
    assert found.mend.startswith(mend)


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_the_package_carries_the_pinned_versions(name: str) -> None:
    carried = (Path(vlrft.doctor.__file__).parent / f"tested_{name}.txt").read_text(encoding="utf-8")
    assert carried == (CONSTRAINTS / f"{name}.txt").read_text(encoding="utf-8")
    assert pinned_versions(name)["transformers"].startswith("5.")


def test_pins_with_markers_and_odd_names_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tested_cpu.txt").write_text("# torch==1\nRouge_Score==0.1.2 ; python_version > '3'\nfree>=2\n")
    monkeypatch.setattr(libraries.importlib.resources, "files", lambda package: tmp_path)
    assert pinned_versions("cpu") == {"rouge-score": "0.1.2"}


def test_a_library_that_is_not_there_costs_its_feature() -> None:
    found = load(probe("import numpy", package="no-such-thing|nor-this"))
    assert (found.state, found.costs, found.mend) == ("missing", "the feature", "the command")


def test_a_library_that_loads_says_what_it_is() -> None:
    found = load(probe("print('noise'); print('said: platform cpu'); print('more noise')", "no-such-thing|numpy"))
    assert found.state == "ok"
    assert found.found.endswith(" platform cpu")
    assert "noise" not in found.found


def test_shared_libraries_that_are_missing_are_told_in_one_line(tmp_path: Path) -> None:
    found = load(probe("import ctypes\nctypes.CDLL('libnothing.so.9')"))
    assert found.state == "broken"
    assert "OSError: libnothing.so.9: cannot open shared object file" in found.found
    assert "\n" not in found.found


def test_a_message_of_many_lines_gives_its_first() -> None:
    assert run_code("raise RuntimeError('Could not load libtorchcodec.\\n\\nLikely causes:\\n  1. FFmpeg')") == (
        "",
        "RuntimeError: Could not load libtorchcodec.",
    )


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os.kill(os.getpid(), 11)", "its process was ended by signal 11"),
        ("import sys; sys.exit(3)", "its process ended with status 3"),
    ],
)
def test_a_library_that_takes_the_process_down_is_a_finding(code: str, said: str) -> None:
    found = load(probe(code))
    assert found.state == "broken"
    assert said in found.found


def test_one_that_hangs_is_given_up_and_not_called_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    said, wrong = run_code("import time; time.sleep(60)", seconds=0.5)
    assert (said, wrong) == ("", "not within 0 s; the machine may be busy")
    monkeypatch.setattr(libraries, "run_code", lambda code: (said, wrong))
    assert load(probe("")).state == "differs"


@pytest.mark.parametrize(
    ("asked", "found", "tested", "state"),
    [
        ("numpy>=2.0", "2.3.5", "2.3.5", "ok"),
        ("torch>=2.13", "2.13.0+cpu", "2.13.0", "ok"),
        ("numpy>=2.0", "2.4.0", "2.3.5", "differs"),
        ("numpy>=2.0", "1.26.0", "2.3.5", "broken"),
        ("transformers<5.21,>=5.18", "5.21.0", "5.19.0", "broken"),
        ("scipy", "1.0", None, "ok"),
    ],
)
def test_versions_against_what_is_asked_and_what_is_tested(
    asked: str, found: str, tested: str | None, state: str
) -> None:
    finding = libraries._version(Requirement(asked), found, tested)
    assert finding.state == state
    assert bool(finding.mend) == (state != "ok")


def test_a_library_that_vlrft_needs_and_that_is_gone_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "installed", lambda package: None if package == "safetensors" else "999")
    (gone,) = [finding for finding in libraries.versions("cpu") if finding.found == "not installed"]
    assert (gone.name, gone.state) == ("safetensors", "broken")


def test_limits_of_the_control_group(tmp_path: Path) -> None:
    assert machine.memory_limit((tmp_path,)) is None
    assert machine.cpu_limit((tmp_path,)) is None
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.memory_limit((tmp_path,)) is None
    assert machine.cpu_limit((tmp_path,)) is None
    (tmp_path / "memory.max").write_text("1073741824\n")
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert machine.memory_limit((tmp_path,)) == 2**30
    assert machine.cpu_limit((tmp_path,)) == 1.5


def test_the_first_group_of_limits_is_cgroup_1(tmp_path: Path) -> None:
    (tmp_path / "cpu.cfs_quota_us").write_text("-1")
    (tmp_path / "cpu.cfs_period_us").write_text("100000")
    (tmp_path / "memory.limit_in_bytes").write_text(str(2**63 - 4096))
    assert machine.memory_limit((tmp_path,)) is None
    assert machine.cpu_limit((tmp_path,)) is None
    (tmp_path / "cpu.cfs_quota_us").write_text("200000")
    assert machine.cpu_limit((tmp_path,)) == 2.0


def test_no_shared_memory_names_what_it_costs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "SHARED_MEMORY", tmp_path / "none")
    found = machine._shared_memory()
    assert found.state == "missing"
    assert "--shm-size" in found.mend


def test_the_machine_is_examined_without_complaint() -> None:
    found = [*machine.examine_machine(), *machine.examine_accelerator()]
    assert {"python", "processors", "memory", "shared memory", "disk"} <= {finding.name for finding in found}
    assert not [finding for finding in found if finding.state == "broken"]


def test_the_sandbox_proves_itself_or_says_what_is_missing() -> None:
    found = examine_sandbox()
    assert found.state in ("ok", "missing"), found
    assert found.found


@pytest.mark.parametrize(("state", "code"), [("missing", 0), ("differs", 0), ("broken", 1)])
def test_only_what_is_broken_fails(
    state: vlrft.doctor.finding.State, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fine = Finding(group="machine", name="python", state="ok", found="3.11", costs="never shown")
    bad = Finding(group="features", name="decoder", state=state, found="1.0", costs="videos", mend="install it")
    monkeypatch.setattr(vlrft.doctor, "examine", lambda: Diagnosis(findings=(fine, bad)))
    done = CliRunner().invoke(app, ["doctor", "--json", str(tmp_path / "found.json")])
    assert done.exit_code == code
    assert "never shown" not in done.output
    assert "costs: videos" in done.output
    assert "mend:  install it" in done.output
    assert done.output.splitlines()[-1] == f"1 {state}"
    content = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert content["ok"] is (code == 0)
    assert content["findings"][1]["state"] == state


@pytest.mark.slow
def test_the_whole_examination_here() -> None:
    diagnosis = vlrft.doctor.examine()
    assert {finding.group for finding in diagnosis.findings} == set(vlrft.doctor.finding.GROUPS)
    names = {finding.name for finding in diagnosis.findings}
    assert {"torch", "pyav", "decord", "torchcodec", "vllm", "deepspeed", "peft", "bitsandbytes"} <= names
    assert {"flash-attn", "FlexAttention", "chart sandbox"} <= names
    assert not diagnosis.broken
