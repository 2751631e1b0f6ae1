"""Completions scored per second on one core, reading included, for every pure canonical reward and for each family.

    python benchmarks/rewards.py --json runs/rewards.json

Every completion is text of a typical size (some sixty words of reasoning and an answer; detection has 20 boxes on both
sides, lists of diagnoses 10 entries), read and judged anew. A figure is the median of `--repeats` rounds. A family's is
that of its slowest member with a bar. The bar is 5,000; maths, average precision, JSON trees, ROUGE and what embeds
texts are shown without one, and charts have a benchmark of their own (chart_sandbox.py). Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from _results import Row, markdown_table, row, write_results
from _reward_work import workloads

from vlrft.rewards.call import names, scorer

BAR = 5_000.0
NO_BAR = (
    *("math.verify", "det.map", "det.map_length", "struct.json", "text.rouge", "med.open"),
    *("video.semantic", "semantic.rescaled"),
)
"""`med.open` holds ROUGE-L; the last two embed texts."""
LEFT_OUT = ("chart.render", "chart.visual")


def per_second(call: Callable[[], object], seconds: float, clock: Callable[[], float]) -> float:
    """How often `call` can be made in a second of `clock`, by as many calls as fit into `seconds`."""
    call()
    calls, start = 0, clock()
    while (spent := clock() - start) < seconds:
        for _ in range(10):
            call()
        calls += 10
    return calls / spent


def measure(only: Sequence[str], repeats: int, seconds: float) -> list[Row]:
    """One row per reward, then one per family: the slowest of its members that have a bar.

    In rounds over all rewards, so that a while in which the machine is slow meets all of them alike.
    """
    chosen: dict[str, tuple[Callable[[], object], list[float]]] = {
        base: (functools.partial(scorer(name, work.options), work.completion, work.target, work.meta), [])
        for name, work in workloads().items()
        if (base := name.partition("@")[0]) in only or base.partition(".")[0] in only or not only
    }
    for _ in range(repeats):
        for base, (call, rates) in chosen.items():
            # Maths compares in a process of its own, whose time counts as well: the wall clock does for it.
            clock = time.perf_counter if base == "math.verify" else time.process_time
            rates.append(per_second(call, seconds, clock))
    rows = [row(base, "per_second", rates) for base, (_, rates) in chosen.items()]
    families: dict[str, list[Row]] = {}
    for item in rows:
        if item["workload"] not in NO_BAR:
            families.setdefault(f"family {item['workload'].partition('.')[0]}", []).append(item)
    slowest = [(family, min(members, key=lambda r: r["value"])) for family, members in families.items()]
    return [*rows, *({**item, "workload": family} for family, item in slowest)]


def below_bar(rows: Sequence[Row]) -> list[str]:
    """Rewards that have a bar and do not reach it."""
    mine = [r for r in rows if r["workload"] not in NO_BAR and not r["workload"].startswith("family ")]
    return [r["workload"] for r in mine if r["value"] < BAR]


def table(rows: Sequence[Row]) -> str:
    lines = [
        [
            r["workload"],
            *(f"{r[key]:,.0f}" for key in ("value", "min", "max")),
            "none" if r["workload"] in NO_BAR else "5,000",
        ]
        for r in rows
    ]
    return markdown_table(["reward", "per second", "min", "max", "bar"], lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="write the rows and the machine here")
    parser.add_argument("--only", nargs="*", default=[], help="names of rewards or families; all by default")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2, help="of each measurement")
    options = parser.parse_args(arguments)
    missing = {n for n in names() if not n.startswith("compat.")} - {n.partition("@")[0] for n in workloads()}
    if missing != set(LEFT_OUT):
        sys.exit(f"no workload for {', '.join(sorted(missing - set(LEFT_OUT)))}; add one to workloads()")
    rows = measure(options.only, options.repeats, options.seconds)
    if not rows:
        sys.exit(f"--only {' '.join(options.only)} names no reward; vlrft rewards ls lists them")
    print(table(rows))
    if options.json is not None:
        write_results(options.json, "rewards", rows)
    slow = below_bar(rows)
    if slow:
        print(f"below {BAR:,.0f} per second: {', '.join(slow)}", file=sys.stderr)
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
