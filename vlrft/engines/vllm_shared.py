"""What every way of running vLLM has in common: its settings, how tokens are drawn, completions from its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from importlib.util import find_spec
from typing import Any

import torch

from vlrft.engines.base import Request, SamplingParams
from vlrft.log import UserError
from vlrft.models.base import Family, head_size
from vlrft.types import Completion, FinishReason, Segment

BAN = -100.0
"""The strongest bias that vLLM takes; a logit would have to be near 100 to come through."""
SETTINGS: dict[str, Any] = {
    "logprobs_mode": "processed_logprobs",  # those of what is sampled: after temperature and bans
    "mm_device_do_normalize": False,  # pixels come normalised, as the trainer's tower takes them
    "enable_prefix_caching": True,  # the G completions of a prompt share its keys and values
    "disable_log_stats": True,
    "use_tqdm_on_load": False,
    "seed": 0,
}


def require_vllm(name: str) -> None:
    """Raises ImportError, naming the extra, where vLLM is not installed. name: the engine's."""
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        raise ImportError(f"engine.name={name} needs vLLM: pip install 'vlrft[vllm]' (README, Install)") from error


def weight_dtype(family: Family, precision: str, dtype: str | None) -> torch.dtype:
    """Of vLLM's weights. dtype: its name; None = bfloat16 under `precision` bf16, else the model's own."""
    if dtype is not None:
        named = getattr(torch, dtype, None)
        if not isinstance(named, torch.dtype):
            raise ValueError(f"engine.kwargs.dtype: {dtype!r} is no type of torch; use float32, bfloat16 or float16")
        return named
    return torch.bfloat16 if precision == "bf16" else family.model.dtype


def of_platform(family: Family, max_model_len: int) -> dict[str, Any]:
    """Settings that vLLM's CPU backend needs. Raises ValueError for a model that it cannot run."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return {}
    if reason := cpu_refuses(family.model.config):
        raise ValueError(f"engine: {reason}: use engine.name=hf, or change model.tiny")
    return cpu_settings(max_model_len)


def known_settings() -> set[str] | None:
    """Names of vLLM's own arguments; None where it is not installed, as where a run elsewhere is planned."""
    if find_spec("vllm") is None:
        return None
    from vllm.engine.arg_utils import AsyncEngineArgs

    return {field.name for field in fields(AsyncEngineArgs)}


def cpu_refuses(config: Any) -> str | None:
    """Why vLLM's CPU kernels cannot run a model of this configuration; None where they can."""
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    size, supported = head_size(config), CPUAttentionBackend.get_supported_head_sizes()
    if size in supported:
        return None
    return (
        f"on the CPU vLLM runs attention heads of {', '.join(map(str, supported))} dimensions, "
        f"this model has {size} (hidden_size / num_heads)"
    )


def cpu_settings(max_model_len: int) -> dict[str, Any]:
    """Settings of `vllm.LLM`. With a part of a prompt per step, a row's own seed fails on the CPU ("CPU Generator does
    not use offset")."""
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": max(max_model_len, 16_384)}


def sampling_fields(request: Request, params: SamplingParams, family: Family) -> dict[str, Any]:
    """Fields of `vllm.SamplingParams`. Row i of a request samples with the seed `seeds[0] + i`."""
    return {
        "n": len(request.seeds),
        "seed": request.seeds[0] % 2**62,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k or -1,
        "max_tokens": params.max_tokens,
        "min_tokens": params.max_tokens if params.ignore_eos else 0,  # bans what would end it
        "stop_token_ids": list(family.stop_ids),
        "logit_bias": dict.fromkeys(family.banned_ids, BAN),
        "logprobs": 0,
        "detokenize": False,
    }


def refuse_too_long(requests: Sequence[Request], params: SamplingParams, max_model_len: int) -> None:
    """Raises UserError, naming the sample, where prompt and completion are longer than vLLM was set up for.

    It would cut such completions short without a word.
    """
    if not requests:
        return
    longest = max(requests, key=lambda request: len(request.prompt.token_ids))
    count = len(longest.prompt.token_ids)
    if count + params.max_tokens > max_model_len:
        raise UserError(
            f"sample {longest.prompt.sample_id!r} has a prompt of {count} tokens; with "
            f"engine.max_completion_length={params.max_tokens} vLLM needs a max_model_len of at least "
            f"{count + params.max_tokens}, it has {max_model_len}: raise engine.kwargs.max_model_len (--max-model-len "
            "of a server of your own), or lower data.max_prompt_length or data.max_pixels"
        )


def refuse_other_prompt(request: Request, returned: Sequence[int]) -> None:
    """Raises RuntimeError where vLLM has not sampled after the trainer's own prompt tokens."""
    if list(returned) != list(request.prompt.token_ids):
        raise RuntimeError(
            f"sample {request.prompt.sample_id!r}: vLLM answered to other prompt tokens than it was given"
        )


def completion(family: Family, tokens: Sequence[int], logprobs: Sequence[float], version: int) -> Completion:
    """One row of an answer; `version`: of the policy that sampled it."""
    tokens = tuple(tokens)
    stopped = bool(tokens) and tokens[-1] in family.stop_ids
    return Completion(
        segments=(Segment(token_ids=tokens, logprobs=tuple(logprobs)),),
        text=family.decode(tokens[:-1] if stopped else tokens),
        finish_reason=FinishReason.STOP if stopped else FinishReason.LENGTH,
        policy_version=version,
    )
