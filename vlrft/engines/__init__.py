"""Engines: what samples completions. Lazy table: naming one imports it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING

from vlrft.registry import nearest, resolve

if TYPE_CHECKING:
    from vlrft.config import EngineConfig
    from vlrft.engines.base import Engine
    from vlrft.models.base import Family

ENGINES: Mapping[str, str] = {
    "hf": "vlrft.engines.hf:HFEngine",
    "vllm": "vlrft.engines.vllm:VLLMEngine",
    "vllm_server": "vlrft.engines.server:VLLMServerEngine",
}


_OURS = ("self", "family", "max_rows", "attention", "precision")
"""Arguments of an engine that other keys of a recipe set."""


def check_kwargs(config: EngineConfig) -> None:
    """Raise ValueError for a key of `engine.kwargs` that the engine does not take.

    One with `**settings` may say which it knows by `known_settings`, a static method; None = it cannot tell here.
    """
    engine_class = resolve(config.name, ENGINES, kind="engine")
    parameters = inspect.signature(engine_class.__init__).parameters.values()
    named = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD} - set(_OURS)
    unknown = sorted(config.kwargs.keys() - named)
    if unknown and any(p.kind is p.VAR_KEYWORD for p in parameters):
        further = getattr(engine_class, "known_settings", lambda: None)()
        further = set(unknown) if further is None else further
        named, unknown = named | further, sorted(set(unknown) - further)
    if unknown:
        hint = nearest(unknown[0], sorted(named))
        raise ValueError(f"engine.kwargs.{unknown[0]}: engine.name={config.name} has no such setting{hint}")


def build_engine(config: EngineConfig, family: Family, *, attention: str, precision: str) -> Engine:
    """The engine that the config names, over `family`'s model. `precision` is `parallel.mixed_precision`."""
    engine_class = resolve(config.name, ENGINES, kind="engine")
    engine: Engine = engine_class(
        family, max_rows=config.max_rows, attention=attention, precision=precision, **config.kwargs
    )
    return engine
