"""Several runs one after another in the same ranks, since to start a rank takes longer than a tiny run.

`python tests/ranks_of_mine.py RUNS.json`: a list of {"recipe": ...} or {"resume": folder}, each a `vlrft.train`.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()


def scripted(family: Any, **settings: Any) -> Any:
    """An engine that answers the same whatever the weights: text by prompt and row. Samples named "flat..." get one and
    the same answer in all rows, so that their group is dropped."""
    from vlrft.engines.fake import FakeEngine

    def script(request: Any, row: int) -> str:
        flat = request.prompt.sample_id.startswith("flat")
        rng = random.Random(f"{request.prompt.sample_id}/{request.seeds[0 if flat else row]}")
        return "".join(rng.choice("abcdefgh") for _ in range(4 if flat else rng.randrange(2, 7)))

    return FakeEngine(family, script)


def run_on(count: int, runs: Sequence[dict[str, Any]], place: Path, timeout: float = 280.0) -> None:
    """Run `runs` on `count` ranks; raises AssertionError with what the ranks said where one fails."""
    file = place / "runs.json"
    file.write_text(json.dumps(list(runs)), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    about = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if count == 1:
        about = {}
    ranks = []
    for rank in range(count):
        own = {**about, "RANK": rank, "LOCAL_RANK": rank} if count > 1 else {}
        env = {**os.environ, "OMP_NUM_THREADS": "1", **{key: str(value) for key, value in own.items()}}
        log = tempfile.TemporaryFile()
        ranks.append((subprocess.Popen([sys.executable, str(HERE), str(file)], env=env, stdout=log, stderr=log), log))
    deadline = time.monotonic() + timeout
    while any(rank.poll() is None for rank, _ in ranks):
        if time.monotonic() > deadline or any(rank.poll() for rank, _ in ranks):
            time.sleep(1.0)
            break
        time.sleep(0.1)
    said = []
    for rank, log in ranks:
        rank.kill()
        rank.wait()
        log.seek(0)
        said.append(f"status {rank.returncode}:\n{log.read().decode(errors='replace')[-6000:]}")
        log.close()
    assert all(rank.returncode == 0 for rank, _ in ranks), "\n".join(said)


def main() -> None:
    import vlrft

    for run in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        if "resume" in run:
            vlrft.train(resume=run["resume"])
        else:
            vlrft.train(run["recipe"])


if __name__ == "__main__":
    main()
