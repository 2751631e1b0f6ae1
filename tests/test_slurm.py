"""Tasks of an srun are ranks, by what SLURM puts into their environment; anything else is a process of its own."""

from __future__ import annotations

import pytest

from vlrft.launch import Nodes, nodes_of
from vlrft.log import UserError
from vlrft.slurm import first_host, take_rank, task_of

TASK = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_JOB_NAME": "vlrft",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_STEP_NODELIST": "gpu[07-09]",
    "SLURM_JOB_NODELIST": "gpu[01-20]",
    "SLURM_PROCID": "4",
    "SLURM_NODEID": "2",
    "SLURM_LOCALID": "0",
}
"""The last of five tasks on three nodes."""
PER_NODE = {**TASK, "SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_TASKS_PER_NODE": "1(x3)", "SLURM_PROCID": "2"}


def test_a_task_becomes_a_rank() -> None:
    environ = dict(TASK)
    take_rank(environ)
    added = {name: value for name, value in environ.items() if name not in TASK}
    port = added.pop("MASTER_PORT")
    assert added == {
        "RANK": "4", "WORLD_SIZE": "5", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "gpu07"
    }  # fmt: skip
    for other in ({"SLURM_PROCID": "0", "SLURM_NODEID": "0"}, {"SLURM_STEP_ID": "1"}, {"SLURM_JOB_ID": "4712"}):
        changed = {**TASK, **other}
        take_rank(changed)
        assert (changed["MASTER_PORT"] == port) == ("SLURM_PROCID" in other), "one port per job and step"
        assert changed["LOCAL_WORLD_SIZE"] == ("2" if "SLURM_NODEID" in other else "1")


def test_what_the_user_has_set_stays() -> None:
    given = {**TASK, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"}
    take_rank(given)
    assert (given["MASTER_ADDR"], given["MASTER_PORT"]) == ("10.0.0.1", "1234")
    of_torchrun = {**TASK, "RANK": "0"}
    take_rank(of_torchrun)
    assert of_torchrun == {**TASK, "RANK": "0"}


@pytest.mark.parametrize(
    "changes",
    [
        {"SLURM_STEP_ID": ""},
        {"SLURM_STEP_ID": "4294967291"},
        {"SLURM_STEP_NUM_TASKS": "1"},
        {"SLURM_JOB_NAME": "bash"},
    ],
    ids=["no srun", "the job's script", "one task", "a shell"],
)
def test_a_process_that_is_no_task(changes: dict[str, str]) -> None:
    environ = {**TASK, **changes}
    assert task_of(environ) is None
    take_rank(environ)
    assert "RANK" not in environ


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("login1", "login1"),
        ("gpu[03-07,12],login1", "gpu03"),
        ("a-1.cluster,a-2.cluster", "a-1.cluster"),
        ("rack[1-2]n[5,7-8]", "rack1n5"),
        ("n[5]x,m", "n5x"),
    ],
)
def test_the_first_host_of_a_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_a_launcher_per_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """`srun --ntasks-per-node=1 vlrft train RECIPE --nproc 8`: SLURM knows the nodes, and which one this is."""
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in PER_NODE.items():
        monkeypatch.setenv(name, value)
    assert nodes_of(None, None, None, nproc=8) == Nodes(count=3, rank=2, master=("gpu07", 15_000 + 4711))
    assert nodes_of(None, None, "10.0.0.1:99", nproc=8).master == ("10.0.0.1", 99)
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "2")
    with pytest.raises(UserError, match=r"has started 2 tasks on this node, .*srun --ntasks-per-node=1"):
        nodes_of(None, None, None, nproc=8)
