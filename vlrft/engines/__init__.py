"""Engines: what samples completions. Lazy table: naming one imports it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vlrft.registry import resolve

if TYPE_CHECKING:
    from vlrft.config import EngineConfig
    from vlrft.engines.base import Engine
    from vlrft.models.base import Family

ENGINES: Mapping[str, str] = {
    "hf": "vlrft.engines.hf:HFEngine",
    "vllm": "vlrft.engines.vllm:VLLMEngine",
    "vllm_server": "vlrft.engines.server:VLLMServerEngine",
}


def build_engine(config: EngineConfig, family: Family, *, attention: str, precision: str) -> Engine:
    """The engine that the config names, over `family`'s model. `precision` is `parallel.mixed_precision`."""
    engine_class = resolve(config.name, ENGINES, kind="engine")
    engine: Engine = engine_class(
        family, max_rows=config.max_rows, attention=attention, precision=precision, **config.kwargs
    )
    return engine
