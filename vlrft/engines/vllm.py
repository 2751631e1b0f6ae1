"""vLLM in the trainer's process: the trainer's own tensors go in, tokens with their log-probs come out.

A prompt is one request for its G completions. New weights are handed over before the next rollout that needs them, all
caches that outlive weights are dropped, and the canary compares log-probs. Of several ranks each has an engine of its
own. While the trainer learns, vLLM may give its memory back (`rest`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from vlrft.dist import World
from vlrft.engines.base import Request, Sampled, SamplingParams, in_order
from vlrft.engines.canary import Canary, StaleWeightsError
from vlrft.engines.vllm_adapter import hot_adapter
from vlrft.engines.vllm_inputs import engine_input
from vlrft.engines.vllm_ranks import ONE_PER_RANK, first_on_this_machine, keeping_process_group, refuse_splits
from vlrft.engines.vllm_shared import (
    SETTINGS,
    completion,
    known_settings,
    of_platform,
    refuse_other_prompt,
    refuse_too_long,
    require_vllm,
    sampling_fields,
    weight_dtype,
)
from vlrft.engines.vllm_sleep import Sleep
from vlrft.engines.vllm_sleep import sleep_level as of_this_machine
from vlrft.engines.vllm_worker import repack_embeddings
from vlrft.engines.weights import WeightFolder, attend_write, published_tensors
from vlrft.generators import rng_state, set_rng_state
from vlrft.log import UserError
from vlrft.models.base import Family
from vlrft.types import Completion, Prompt

if TYPE_CHECKING:
    from vllm import LLM

logger = logging.getLogger(__name__)

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
}
SYNCS = ("auto", "direct", "folder")


class VLLMEngine:
    """Engine over vLLM. It starts at the first rollout, with the weights of that moment."""

    known_settings = staticmethod(known_settings)

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
        sync: str = "auto",
        adapter_sync: str = "auto",
        sleep_level: int | None = None,
        **settings: Any,
    ) -> None:
        """max_rows: completions decoded at once (`max_num_seqs`). max_model_len: prompt and completion, in tokens.
        dtype: of vLLM's weights; None = bfloat16 under `precision` bf16, else the model's own. canary_tolerance:
        largest difference of a token's log-prob from the trainer's; None = by dtype. sync: how new weights get into
        vLLM: `direct` from the trainer's own tensors, `folder` through shared memory; `auto` = direct, or folder where
        vLLM has workers of its own. adapter_sync: how an adapter comes into vLLM: `merged` into the weights, `hot` by
        itself, `auto` = hot where vLLM can and runs on a GPU. sleep_level: what vLLM gives back while the trainer
        learns: 0 nothing, 1 the KV cache and, moved to the host, its weights, 2 both; None = 1; on a CPU always 0.
        settings: any other argument of `vllm.LLM`, such as `gpu_memory_utilization`, `kv_cache_memory_bytes`,
        `tensor_parallel_size`.

        Raises ImportError, naming the extra, where vLLM is not installed.
        """
        require_vllm("vllm")
        self.dtype = weight_dtype(family, precision, dtype)
        limits = {"max_model_len": max_model_len, "max_num_seqs": max_rows}
        self._sleep = Sleep(of_this_machine(sleep_level))
        sleeps = {"enable_sleep_mode": True} if self._sleep.level else {}
        self.settings = {**SETTINGS, **limits, **of_platform(family, max_model_len), **sleeps, **settings}
        self._is_direct = _is_direct(sync, self.settings)
        self.family = family
        self.hot = hot_adapter(family, adapter_sync)
        if self.hot is not None:
            self.settings = {**self.settings, **self.hot.settings()}
        self.canary = Canary.of(family, self.dtype, canary_tolerance, kind=attention)
        self.policy_version = 0
        self.world = World()
        self._writer = 0
        """The rank that writes the folder of weights for this machine."""
        self._shares_group = False
        """Whether torch.distributed was there before vLLM."""
        self._llm: LLM | None = None
        self._folder: WeightFolder | None = None
        self._is_stale = True
        """Whether the trainer's weights have moved since they were last pushed."""
        self._requests = 0

    def sync(self, policy_version: int) -> None:
        """The weights are pushed when the next rollout needs them: many steps may pass without one."""
        self._is_stale = self._is_stale or policy_version != self.policy_version
        self.policy_version = policy_version

    def join(self, world: World) -> None:
        """Work as one of several ranks, each with an engine of its own: all must call `sync`, `rest` and `generate`
        equally often, if need be with nothing to ask. Called once, before any of them.

        Raises UserError for an engine that is to be spread over several GPUs.
        """
        if world.size > 1:
            refuse_splits(self.settings)
            self.settings |= ONE_PER_RANK
            self.world = world.apart()
            self._writer = first_on_this_machine(self.world)

    def rest(self) -> None:
        """Give the memory back that `sleep_level` says."""
        if self._llm is not None:
            with _told_if_dead(self._llm):
                self._sleep.begin(self._llm)

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> list[tuple[Completion, ...]]:
        """Row i of a request samples with the seed `seeds[0] + i`."""
        return in_order(self.stream(requests, params))

    def stream(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Sampled]:
        """As `generate`, each request's completions when all of them are there."""
        limit = self.settings["max_model_len"]
        self.world.together(lambda: refuse_too_long(requests, params, limit), (UserError,))
        self._bring_up_to_date(requests)
        if requests:
            for place, answer in self._answers([(r.prompt, self._params(r, params)) for r in requests]):
                yield place, self._completions(requests[place], answer)

    def replay(self, prompt: Prompt, token_ids: Sequence[int]) -> list[float]:
        """Log-probs of a given completion's tokens, at temperature 1 and without bans."""
        from vllm import SamplingParams as Params

        params = Params(max_tokens=1, prompt_logprobs=0, detokenize=False)
        ((_, answer),) = self._answers([(prompt, params)], appended=token_ids)
        return [
            entry[token].logprob
            for entry, token in zip(answer.prompt_logprobs[-len(token_ids) :], token_ids, strict=True)
        ]

    def close(self) -> None:
        """Stop vLLM and remove the folder of weights."""
        if self._llm is not None:
            with keeping_process_group() if self._shares_group else nullcontext():
                self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
        if self._folder is not None:
            self._folder.close()
            self._folder = None
        if self.hot is not None:
            self.hot.close()

    def _bring_up_to_date(self, requests: Sequence[Request]) -> None:
        """Wake vLLM, push and check the weights, if any rank has something to ask for. All ranks take part.

        What fails before the check ends its process, and with it the run: the other ranks may be in the middle of
        vLLM's own talk, where nobody can tell them.
        """
        self.canary.choose([request.prompt for request in requests])
        if not (self._is_stale or self._sleep.is_on) or not any(self.world.gather(bool(requests))):
            return
        if self._llm is None:
            self._llm = self._start()
            if self.hot is not None:
                self.hot.load(self._llm)
        else:
            with _told_if_dead(self._llm):
                self._renew(self._llm)
        if not all(self.world.gather(self.canary.prompt is not None)):
            self.canary.choose([prompt for prompt in self.world.gather(self.canary.prompt) if prompt is not None])
        check = (StaleWeightsError, RuntimeError)
        self.world.together(lambda: self.canary.check(self.replay, self.policy_version), check, (StaleWeightsError,))
        self._is_stale = False

    def _renew(self, llm: LLM) -> None:
        """Wake vLLM, and push weights that have moved, or that it has lost."""
        if self._is_stale or self._sleep.has_lost_weights:
            self._sleep.end(llm, self._load)
            self._forget()
        else:
            self._sleep.end(llm, lambda: None)

    def _written(self) -> str:
        """The folder with the current weights, written by one rank per machine."""
        if self.world.rank == self._writer:
            if self._folder is None:
                self._folder = WeightFolder(self.family)
            self._folder.write(merged=self.hot is None)
        else:
            attend_write(self.family)
        return self.world.gather("" if self._folder is None else str(self._folder.path))[self._writer]

    def _start(self) -> LLM:
        self._shares_group = torch.distributed.is_initialized()
        path = self._written()
        logger.info("vLLM starts in this process; that may take minutes")
        with _as_it_was():
            from vllm import LLM

            dtype: Any = str(self.dtype).removeprefix("torch.")
            llm = LLM(model=path, dtype=dtype, **self.settings)
        self.world.barrier()
        if self._is_direct and self._folder is not None:
            self._folder.drop()
        return llm

    def _load(self) -> None:
        assert self._llm is not None
        if self.hot is None or self._sleep.has_lost_weights:
            self._llm.collective_rpc("reload_weights", kwargs=self._weights())
            self._llm.apply_model(repack_embeddings)
        if self.hot is not None:
            self.hot.load(self._llm)

    def _weights(self) -> dict[str, Any]:
        """The current weights, as arguments of vLLM's `reload_weights`."""
        if self._is_direct:
            return {"weights_iterator": published_tensors(self.family, merged=self.hot is None)}
        return {"weights_path": self._written()}

    def _forget(self) -> None:
        """Drop what was computed from the old weights."""
        assert self._llm is not None
        self._llm.reset_prefix_cache()
        self._llm.reset_mm_cache()
        self._llm.llm_engine.reset_encoder_cache()

    def _params(self, request: Request, params: SamplingParams) -> Any:
        from vllm import SamplingParams as Params
        from vllm.sampling_params import RequestOutputKind

        fields = sampling_fields(request, params, self.family)
        return Params(**fields, output_kind=RequestOutputKind.FINAL_ONLY)

    def _answers(self, work: Sequence[tuple[Prompt, Any]], appended: Sequence[int] = ()) -> Iterator[tuple[int, Any]]:
        """vLLM's answer to every (prompt, sampling parameters) with its place, when it is there."""
        assert self._llm is not None
        engine = self._llm.llm_engine
        first = self._requests
        self._requests += len(work)
        for name, (prompt, params) in enumerate(work, first):
            adapter = None if self.hot is None else self.hot.request
            engine.add_request(str(name), engine_input(self.family, prompt, appended), params, lora_request=adapter)
        # vLLM draws from torch's own generator, even for rows that have a seed.
        with torch.random.fork_rng(), _told_if_dead(self._llm):
            while engine.has_unfinished_requests():
                for answer in engine.step():
                    if answer.finished:
                        yield int(answer.request_id) - first, answer

    def _completions(self, request: Request, answer: Any) -> tuple[Completion, ...]:
        refuse_other_prompt(request, answer.prompt_token_ids)
        rows = sorted(answer.outputs, key=lambda output: output.index)
        return tuple(self._completion(row) for row in rows)

    def _completion(self, output: Any) -> Completion:
        logprobs = [entry[token].logprob for entry, token in zip(output.logprobs, output.token_ids, strict=True)]
        return completion(self.family, output.token_ids, logprobs, self.policy_version)


def _is_direct(sync: str, settings: Mapping[str, Any]) -> bool:
    """Whether vLLM reads the trainer's own tensors, which only a worker in this process can."""
    if sync not in SYNCS:
        raise ValueError(f"engine.kwargs.sync={sync!r} is none of engine.name=vllm: use {', '.join(SYNCS)}")
    is_alone = settings.get("tensor_parallel_size", 1) == settings.get("pipeline_parallel_size", 1) == 1
    if sync == "direct" and not is_alone:
        raise ValueError(
            "engine.kwargs.sync=direct needs vLLM in this process alone: use sync=folder with several GPUs"
        )
    return is_alone and sync != "folder"


@contextmanager
def _told_if_dead(llm: LLM) -> Iterator[None]:
    """What fails because a worker process of vLLM's has ended becomes vLLM's own EngineDeadError, which the engine in
    this process (no VLLM_ENABLE_V1_MULTIPROCESSING) never raises by itself: there it is a RuntimeError like others."""
    try:
        yield
    except Exception as error:
        # Executors with processes of their own note it before they end what waits; others have no such mark.
        if not getattr(llm.llm_engine.model_executor, "is_failed", False):
            raise
        from vllm.v1.engine.exceptions import EngineDeadError

        raise EngineDeadError from error


@contextmanager
def _as_it_was() -> Iterator[None]:
    """vLLM's start reseeds every global generator, and on the CPU takes `torch.set_num_threads` away: all put back."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    threads, setter, state = torch.get_num_threads(), torch.set_num_threads, rng_state()
    try:
        yield
    finally:
        torch.set_num_threads = setter
        torch.set_num_threads(threads)
        set_rng_state(state)
