"""Several runs one after another in the same ranks, since to start a rank takes longer than a tiny run.

`python tests/ranks_of_mine.py RUNS.json`: each {"recipe": ...}, or {"resume": folder, "overrides": [...]}, is a
`vlrft.train`.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve()


def scripted(family: Any, **settings: Any) -> Any:
    """An engine that answers the same whatever the weights: text by prompt and seed. Samples named "flat..." get the
    same answer in all rows, so that their group is dropped."""
    from vlrft.engines.fake import FakeEngine

    def script(request: Any, row: int) -> str:
        flat = request.prompt.sample_id.startswith("flat")
        rng = random.Random(f"{request.prompt.sample_id}/{request.seeds[0 if flat else row]}")
        return "".join(rng.choice("abcdefgh") for _ in range(4 if flat else rng.randrange(2, 7)))

    return FakeEngine(family, script)


def loading(family: Any, **settings: Any) -> Any:
    """`scripted`, and at every sync of spread weights rank 0 loads what `WeightFolder` writes into a plain model of
    transformers: its log-probs must be the canary's."""
    from vlrft.engines.canary import Canary, accompany
    from vlrft.engines.weights import WeightFolder, attend_write
    from vlrft.testing import make_group, make_prompt, plain_logps

    engine = scripted(family)
    canary = Canary(family, 1e-5)
    canary.choose([make_prompt(family, "bird", [(56, 56)])])

    def replay(prompt: Any, token_ids: Sequence[int]) -> list[float]:
        from transformers import AutoModelForImageTextToText

        plain = AutoModelForImageTextToText.from_pretrained(folder.path, dtype=torch.float32)
        banned, family.banned_ids = family.banned_ids, ()
        try:
            logps: list[float] = plain_logps(plain, family, make_group(prompt, [token_ids]))[0].tolist()
        finally:
            family.banned_ids = banned
        return logps

    folder = WeightFolder(family) if os.environ["RANK"] == "0" else None
    checks = []

    def sync(policy_version: int) -> None:
        engine.policy_version = policy_version
        if folder is None:
            attend_write(family)
            accompany(family)
            return
        folder.write()
        canary.check(replay, policy_version)
        checks.append(canary.largest)
        Path(os.environ["VLRFT_CHECKS"]).write_text(json.dumps(checks), encoding="utf-8")

    engine.sync = sync
    return engine


_real_calls: dict[str, int] = {}
"""By run: the module is loaded once for all of them."""


def sick(inputs: Any, options: Any) -> Any:
    """The usual loss; on rank 1 the second micro-batch that has tokens is not finite."""
    from dataclasses import replace

    from vlrft.objectives.loss import clip

    loss = clip(inputs, options)
    if os.environ["RANK"] != "1" or not bool(inputs.mask_N.any()):
        return loss
    run = os.environ["VLRFT_RUN"]
    _real_calls[run] = _real_calls.get(run, 0) + 1
    return replace(loss, loss_N=loss.loss_N * float("inf")) if _real_calls[run] == 2 else loss


def start(count: int, command: Sequence[str], log: Any) -> list[subprocess.Popen[bytes]]:
    """`command` as each of `count` ranks; one alone is no rank at all."""
    from vlrft.ports import free_ports

    about = {
        "WORLD_SIZE": count,
        "LOCAL_WORLD_SIZE": count,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_ports(1)[0],
    }
    ranks = []
    for rank in range(count):
        own = {**about, "RANK": rank, "LOCAL_RANK": rank} if count > 1 else {}
        env = {**os.environ, "OMP_NUM_THREADS": "1", **{key: str(value) for key, value in own.items()}}
        ranks.append(subprocess.Popen([sys.executable, *command], env=env, stdout=log, stderr=log))
    return ranks


def run_on(count: int, runs: Sequence[dict[str, Any]], place: Path, timeout: float = 400.0) -> None:
    """Run `runs` on `count` ranks; raises AssertionError with what the ranks said where one fails or hangs."""
    file = place / f"runs-{time.monotonic_ns()}.json"
    file.write_text(json.dumps(list(runs)), encoding="utf-8")
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        ranks = start(count, [str(HERE), str(file)], log)
        deadline = time.monotonic() + timeout
        while any(rank.poll() is None for rank in ranks) and not any(rank.poll() for rank in ranks):
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        end(ranks)
        log.seek(0)
        said = log.read().decode(errors="replace")[-8000:]
    assert [rank.returncode for rank in ranks] == [0] * count, said


def end(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """By SIGKILL, those that still run."""
    for rank in ranks:
        if rank.poll() is None:
            rank.kill()
        rank.wait()


def main() -> None:
    import vlrft

    for i, run in enumerate(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))):
        os.environ["VLRFT_RUN"] = str(i)
        if "resume" in run:
            vlrft.train(None, *run.get("overrides", ()), resume=run["resume"])
        else:
            vlrft.train(run["recipe"])


if __name__ == "__main__":
    main()
