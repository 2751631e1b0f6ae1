"""What a chart program costs in the sandbox's warm server, against a fresh `python` process each.

    python benchmarks/chart_sandbox.py --json runs/chart_sandbox.json

Both sides run the same programs (a line, grouped bars, a pie, a 2 x 2 grid, pandas, Seaborn) and wait for each: the
fresh one imports Matplotlib, runs, saves a PNG at the default resolution and ends, without any sandbox; ours forks,
locks the child in, runs the program, records what it drew and reads the elements; painting the image, which only
`chart.visual` needs, is measured as well. The ratio is ours over theirs, over the whole set; the server's start (once
per process) is reported on its own. Both sides have one thread.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from _results import Row, machine, markdown_table, row, write_results

from vlrft.rewards.chart.reading import read
from vlrft.rewards.chart.sandbox import Sandbox

_START = "import matplotlib\nmatplotlib.use('Agg')\nimport matplotlib.pyplot as plt\nimport numpy as np\n"

PROGRAMS: dict[str, str] = {
    "line": "plt.plot([1, 2, 3, 4], [1, 4, 2, 3], 'o-', label='a')\nplt.title('Line')\nplt.legend()\n",
    "bars": (
        "x = np.arange(4)\nfig, ax = plt.subplots()\nax.bar(x - 0.2, [1, 2, 3, 4], 0.4, label='A')\n"
        "ax.bar(x + 0.2, [2, 3, 4, 5], 0.4, label='B')\nax.set_xticks(x, list('abcd'))\nax.legend()\n"
    ),
    "pie": "plt.pie([3, 2, 1], labels=['x', 'y', 'z'], autopct='%1.1f%%')\nplt.title('Pie')\n",
    "grid": (
        "fig, axs = plt.subplots(2, 2)\nfor i, ax in enumerate(axs.flat):\n    ax.plot([1, 2 + i])\n"
        "fig.tight_layout()\n"
    ),
    "pandas": "import pandas as pd\npd.DataFrame({'u': [1, 2, 3], 'v': [3, 1, 2]}).plot.bar(title='Frame')\n",
    "seaborn": "import seaborn as sns\nsns.barplot(x=['a', 'b', 'c'], y=[1, 3, 2])\n",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: --json FILE, --repeats N."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each program on each side")
    given = parser.parse_args(argv)
    rows, header = measure(given.repeats), ["program", "fresh s", "warm s", "painted s", "ratio"]
    found = {(r["workload"], r["metric"]): r["value"] for r in rows}
    metrics = ("fresh_seconds", "warm_seconds", "paint_seconds", "cost_ratio")
    lines = [[name, *(f"{found[name, metric]:.3f}" for metric in metrics)] for name in (*PROGRAMS, "all")]
    print(markdown_table(header, lines))
    print(
        f"\nserver start {found['all', 'start_seconds']:.1f} s; ratio at most 1/12 = {1 / 12:.3f} wanted; {machine()}"
    )
    if given.json:
        write_results(given.json, "chart_sandbox", rows)


def measure(repeats: int) -> list[Row]:
    """Rows per program and of all together; the ratio is that of sums of medians."""
    sandbox, rows = Sandbox(), []
    totals = {"fresh_seconds": 0.0, "warm_seconds": 0.0, "paint_seconds": 0.0}
    start = _timed(lambda: _render(sandbox, PROGRAMS["line"]))
    try:
        for name, body in PROGRAMS.items():
            page = sandbox.run(_START + body, timeout_s=60.0).pages[0]
            sides: dict[str, Callable[[], object]] = {
                "fresh_seconds": lambda body=body: _fresh(body),  # type: ignore[misc]
                "warm_seconds": lambda body=body: _render(sandbox, body),  # type: ignore[misc]
                "paint_seconds": lambda page=page: sandbox.paint(page, timeout_s=60.0),  # type: ignore[misc]
            }
            _fresh(body)  # the first one may have to compile what it imports
            timed: dict[str, list[float]] = {metric: [] for metric in sides}
            for _ in range(repeats):  # in turns, so that a busy moment meets all
                for metric, run in sides.items():
                    timed[metric].append(_timed(run))
            made = {metric: row(name, metric, seconds) for metric, seconds in timed.items()}
            totals = {metric: totals[metric] + made[metric]["value"] for metric in totals}
            rows += [*made.values(), _ratio(name, made["warm_seconds"]["value"], made["fresh_seconds"]["value"])]
    finally:
        sandbox.close()
    rows += [row("all", metric, [value]) for metric, value in totals.items()]
    return [*rows, _ratio("all", totals["warm_seconds"], totals["fresh_seconds"]), row("all", "start_seconds", [start])]


def _ratio(name: str, ours: float, theirs: float) -> Row:
    return row(name, "cost_ratio", [ours / theirs])


def _timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _render(sandbox: Sandbox, body: str) -> None:
    outcome = sandbox.run(_START + body, timeout_s=60.0)
    if outcome.flag is not None:
        raise RuntimeError(f"a benchmark program failed ({outcome.flag}): {outcome.error}")
    read(outcome.pages)


def _fresh(body: str) -> None:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    # Byte code may be kept, as it usually is: else every fresh process would compile Matplotlib anew.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-c", _START + body + "plt.savefig('chart.png')\n"],
            cwd=folder,
            env={**kept, **threads, "MPLBACKEND": "agg"},
            check=True,
        )


if __name__ == "__main__":
    main()
