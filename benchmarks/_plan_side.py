"""One training run in this process; prints its memory as a JSON line: before the run and at its peak.

    python benchmarks/_plan_side.py RECIPE.yaml

"Before" is the resident memory once everything that a run imports is imported: torch, transformers with the classes of
the model, accelerate, vlrft.
"""

from __future__ import annotations

import contextlib
import json
import sys

from _workloads import peak_memory_mib

from vlrft.memory import prefer_large_pages, resident_mb


def main(recipe: str) -> dict[str, float]:
    """MiB: `before` the run, and its `peak` above that."""
    prefer_large_pages()  # as the `vlrft` command does
    import vlrft
    from vlrft.compose import compose
    from vlrft.config import DataConfig, ModelConfig, TinyModelConfig
    from vlrft.models import load_family

    family = compose(recipe).config.model.tiny
    assert family is not None, "the workloads have tiny models"
    load_family(ModelConfig(tiny=TinyModelConfig(family=family.family)), DataConfig())
    before = resident_mb()
    assert before is not None, "memory is read from /proc"
    vlrft.train(recipe)
    return {"before": before, "peak": peak_memory_mib() - before}


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        measured = main(sys.argv[1])
    print(json.dumps(measured))
