"""Engines: what samples completions. Lazy table: naming one imports it."""

from __future__ import annotations

from collections.abc import Mapping

ENGINES: Mapping[str, str] = {
    "hf": "vlrft.engines.hf:HFEngine",
}
