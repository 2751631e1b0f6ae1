"""`python -m vlrft.export.vllm_child FOLDER`: what `vllm_check` asks vLLM; job.json there in, answers.json out."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from vlrft.engines.vllm_shared import BAN, cpu_refuses, cpu_settings


def answer(job: dict[str, Any]) -> list[dict[str, Any]] | str:
    """Of every question prompt ids, greedy tokens and the log-probs of the given answer; or why there is none."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    from PIL import Image
    from vllm import LLM, SamplingParams

    on_platform = _of_platform(job)
    if isinstance(on_platform, str):
        return on_platform
    questions = job["questions"]
    images = [[Image.open(path).convert("RGB") for path in question["images"]] for question in questions]
    llm = LLM(
        model=job["folder"],
        dtype=job["dtype"],  # its own choice for float32 would be half precision
        max_model_len=job["max_model_len"],
        max_num_seqs=8,
        enforce_eager=True,
        limit_mm_per_prompt={"image": max(map(len, images))},
        seed=0,
        **on_platform,
    )
    greedy = SamplingParams(
        temperature=0.0,
        max_tokens=job["max_tokens"],
        stop_token_ids=job["stop_ids"],
        logit_bias=dict.fromkeys(job["banned_ids"], BAN),
    )
    replay = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)
    media = [{"multi_modal_data": {"image": items}} for items in images]
    asked: Any = [{"prompt": q["text"], **shown} for q, shown in zip(questions, media, strict=True)]
    given: Any = [
        {"prompt_token_ids": [*q["compact_ids"], *q["answer"]], **shown}
        for q, shown in zip(questions, media, strict=True)
    ]
    sampled, replayed = llm.generate(asked, greedy, use_tqdm=False), llm.generate(given, replay, use_tqdm=False)
    return [
        {
            "prompt_ids": list(out.prompt_token_ids or ()),
            "token_ids": list(out.outputs[0].token_ids),
            "logprobs": _of_answer(again.prompt_logprobs, question["answer"]),
        }
        for question, out, again in zip(questions, sampled, replayed, strict=True)
    ]


def _of_answer(logprobs: Any, tokens: list[int]) -> list[float]:
    last = logprobs[-len(tokens) :]
    return [float(entry[token].logprob) for entry, token in zip(last, tokens, strict=True)]


def _of_platform(job: dict[str, Any]) -> dict[str, Any] | str:
    """Settings of vLLM's CPU backend; or why it cannot run the model."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return {}
    from transformers import AutoConfig

    if reason := cpu_refuses(AutoConfig.from_pretrained(job["folder"])):
        return reason
    return {**cpu_settings(job["max_model_len"]), "kv_cache_memory_bytes": 2**28}


def main() -> None:
    place = Path(sys.argv[1])
    said = answer(json.loads((place / "job.json").read_text(encoding="utf-8")))
    (place / "answers.tmp").write_text(json.dumps(said), encoding="utf-8")
    os.replace(place / "answers.tmp", place / "answers.json")


if __name__ == "__main__":
    main()
