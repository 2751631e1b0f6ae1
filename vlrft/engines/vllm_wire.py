"""A prompt, and the answer to it, on the way to and from a vLLM server (`/inference/v1/generate`, vLLM 0.32).

The server gets the trainer's token ids and its very tensors, serialised by vLLM's own code, once for all completions
of a prompt; it loads no media and tokenises nothing.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from vlrft.engines.base import Request
from vlrft.engines.vllm_inputs import item_kwargs
from vlrft.engines.vllm_shared import completion, refuse_other_prompt
from vlrft.models.base import Family
from vlrft.types import Completion, Prompt

GENERATE = "/inference/v1/generate"
_encoding = threading.Lock()
"""vLLM's encoder keeps what it encodes in itself."""


def request_body(family: Family, prompt: Prompt, fields: Mapping[str, Any], appended: Sequence[int] = ()) -> bytes:
    """The request's JSON. fields: of `vllm.SamplingParams`; appended: token ids of text behind the prompt."""
    body: dict[str, Any] = {
        "token_ids": [*prompt.token_ids, *appended],
        "sampling_params": dict(fields),
        "return_token_ids": True,
    }
    if features := _features(family, prompt):
        body["features"] = features
    return json.dumps(body).encode()


def _features(family: Family, prompt: Prompt) -> dict[str, Any]:
    from vllm.entrypoints.scale_out.token_in_token_out.mm_serde import encode_mm_kwargs_item

    features: dict[str, dict[str, list[Any]]] = {"mm_hashes": {}, "mm_placeholders": {}, "kwargs_data": {}}
    # A place has no mask on this route, so every item is one unbroken run of vision tokens.
    for item in family.media_runs(prompt):
        with _encoding:
            data = encode_mm_kwargs_item(item_kwargs(item))
        place = {"offset": item.start, "length": len(item.is_vision)}
        for name, value in (("mm_hashes", item.digest), ("mm_placeholders", place), ("kwargs_data", data)):
            features[name].setdefault(item.kind, []).append(value)
    return features if features["mm_hashes"] else {}


def was_aborted(answer: Mapping[str, Any]) -> bool:
    """Whether the server was told to stop before it was done."""
    return any(choice["finish_reason"] == "abort" for choice in answer["choices"])


def stamps(answer: Mapping[str, Any]) -> set[str]:
    """Labels of the weights that an answer was sampled with, as the server was told them after the last push."""
    return {span["version"] for choice in answer["choices"] for span in choice["weight_versions"] or ()}


def completions(family: Family, request: Request, answer: Mapping[str, Any], version: int) -> tuple[Completion, ...]:
    """An answer's rows in order. Raises RuntimeError where it is not an answer to this request."""
    refuse_other_prompt(request, answer["prompt_token_ids"])
    rows = sorted(answer["choices"], key=lambda choice: choice["index"])
    if len(rows) != len(request.seeds):
        raise RuntimeError(
            f"sample {request.prompt.sample_id!r}: vLLM gave {len(rows)} completions, not {len(request.seeds)}"
        )
    return tuple(
        completion(family, row["token_ids"], [entry["logprob"] for entry in row["logprobs"]["content"]], version)
        for row in rows
    )


def replayed(answer: Mapping[str, Any], token_ids: Sequence[int]) -> list[float]:
    """Log-probs of the prompt's last tokens, which are `token_ids`."""
    entries = answer["prompt_logprobs"][-len(token_ids) :]
    return [entry[str(token)]["logprob"] for entry, token in zip(entries, token_ids, strict=True)]
