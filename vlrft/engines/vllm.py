"""vLLM in the trainer's process: the trainer's own tensors go in, tokens with their log-probs come out.

A prompt is one request for its G completions. New weights arrive through a folder in shared memory before the next
rollout that needs them, all caches that outlive weights are dropped, and the canary compares log-probs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from vlrft.engines.base import Request, SamplingParams
from vlrft.engines.canary import TOLERANCES, Canary
from vlrft.engines.vllm_inputs import engine_input
from vlrft.engines.vllm_shared import (
    SETTINGS,
    completion,
    of_platform,
    refuse_other_prompt,
    refuse_too_long,
    require_vllm,
    sampling_fields,
    weight_dtype,
)
from vlrft.engines.vllm_worker import repack_embeddings
from vlrft.engines.weights import WeightFolder
from vlrft.models.base import Family
from vlrft.types import Completion, Prompt

if TYPE_CHECKING:
    from vllm import LLM

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
}


class VLLMEngine:
    """Engine over vLLM. It starts at the first rollout, with the weights of that moment."""

    def __init__(
        self,
        family: Family,
        *,
        max_rows: int = 512,
        attention: str = "auto",
        precision: str = "no",
        max_model_len: int = 8192,
        dtype: str | None = None,
        canary_tolerance: float | None = None,
        **settings: Any,
    ) -> None:
        """max_rows: completions decoded at once (`max_num_seqs`). max_model_len: prompt and completion, in tokens.
        dtype: of vLLM's weights; None = bfloat16 under `precision` bf16, else the model's own. canary_tolerance:
        largest difference of a token's log-prob from the trainer's; None = by dtype. settings: any other argument of
        `vllm.LLM`, such as `gpu_memory_utilization`, `kv_cache_memory_bytes`, `tensor_parallel_size`.

        Raises ImportError, naming the extra, where vLLM is not installed.
        """
        require_vllm("vllm")
        self.dtype = weight_dtype(family, precision, dtype)
        limits = {"max_model_len": max_model_len, "max_num_seqs": max_rows}
        self.settings = {**SETTINGS, **limits, **of_platform(family, max_model_len), **settings}
        self.family = family
        tolerance = TOLERANCES[self.dtype] if canary_tolerance is None else canary_tolerance
        self.canary = Canary(family, tolerance, kind=attention)
        self.policy_version = 0
        self._llm: LLM | None = None
        self._folder: WeightFolder | None = None
        self._is_stale = True
        """Whether the trainer's weights have moved since they were last pushed."""
        self._requests = 0

    def sync(self, policy_version: int) -> None:
        """The weights are pushed when the next rollout needs them: many steps may pass without one."""
        self._is_stale = self._is_stale or policy_version != self.policy_version
        self.policy_version = policy_version

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> list[tuple[Completion, ...]]:
        """Row i of a request samples with the seed `seeds[0] + i`."""
        if not requests:
            return []
        refuse_too_long(requests, params, self.settings["max_model_len"])
        self._push(requests)
        answers = self._run([(r.prompt, self._params(r, params)) for r in requests])
        return [self._completions(r, a) for r, a in zip(requests, answers, strict=True)]

    def replay(self, prompt: Prompt, token_ids: Sequence[int]) -> list[float]:
        """Log-probs of a given completion's tokens, at temperature 1 and without bans."""
        from vllm import SamplingParams as Params

        params = Params(max_tokens=1, prompt_logprobs=0, detokenize=False)
        (answer,) = self._run([(prompt, params)], appended=token_ids)
        return [
            entry[token].logprob
            for entry, token in zip(answer.prompt_logprobs[-len(token_ids) :], token_ids, strict=True)
        ]

    def close(self) -> None:
        """Stop vLLM and remove the folder of weights."""
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
        if self._folder is not None:
            self._folder.close()
            self._folder = None

    def _push(self, requests: Sequence[Request]) -> None:
        self.canary.choose([request.prompt for request in requests])
        if not self._is_stale:
            return
        if self._llm is None:
            self._folder = WeightFolder(self.family)
            self._llm = self._start(self._folder)
        else:
            assert self._folder is not None
            self._load(self._folder)
        self.canary.check(self.replay, self.policy_version)
        self._is_stale = False

    def _start(self, folder: WeightFolder) -> LLM:
        path = folder.write()
        with _as_it_was():
            from vllm import LLM

            dtype: Any = str(self.dtype).removeprefix("torch.")
            return LLM(model=str(path), dtype=dtype, **self.settings)

    def _load(self, folder: WeightFolder) -> None:
        """New weights, and none of what was computed from the old ones."""
        assert self._llm is not None
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder.write())})
        self._llm.apply_model(repack_embeddings)
        self._llm.reset_prefix_cache()
        self._llm.reset_mm_cache()
        self._llm.llm_engine.reset_encoder_cache()

    def _params(self, request: Request, params: SamplingParams) -> Any:
        from vllm import SamplingParams as Params
        from vllm.sampling_params import RequestOutputKind

        fields = sampling_fields(request, params, self.family)
        return Params(**fields, output_kind=RequestOutputKind.FINAL_ONLY)

    def _run(self, work: Sequence[tuple[Prompt, Any]], appended: Sequence[int] = ()) -> list[Any]:
        """vLLM's answer to every (prompt, sampling parameters), in order."""
        assert self._llm is not None
        engine = self._llm.llm_engine
        names = [str(self._requests + i) for i in range(len(work))]
        self._requests += len(work)
        for name, (prompt, params) in zip(names, work, strict=True):
            engine.add_request(name, engine_input(self.family, prompt, appended), params)
        done: dict[str, Any] = {}
        with torch.random.fork_rng():  # vLLM draws from torch's own generator, even for rows that have a seed
            while engine.has_unfinished_requests():
                done |= {answer.request_id: answer for answer in engine.step() if answer.finished}
        return [done[name] for name in names]

    def _completions(self, request: Request, answer: Any) -> tuple[Completion, ...]:
        refuse_other_prompt(request, answer.prompt_token_ids)
        rows = sorted(answer.outputs, key=lambda output: output.index)
        return tuple(self._completion(row) for row in rows)

    def _completion(self, output: Any) -> Completion:
        logprobs = [entry[token].logprob for entry, token in zip(output.logprobs, output.token_ids, strict=True)]
        return completion(self.family, output.token_ids, logprobs, self.policy_version)


@contextmanager
def _as_it_was() -> Iterator[None]:
    """vLLM's start reseeds torch, and on the CPU takes `torch.set_num_threads` away: both are put back."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    threads, setter, state = torch.get_num_threads(), torch.set_num_threads, torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_num_threads = setter
        torch.set_num_threads(threads)
        torch.set_rng_state(state)
