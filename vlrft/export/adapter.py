"""A run's adapter by itself, in peft's form, and the base model that it belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vlrft.adapters import linear_names, round_to_four_bits
from vlrft.config import Config
from vlrft.export.source import ExportError
from vlrft.log import UserError
from vlrft.models.base import Family
from vlrft.models.tiny import build_tiny


def load_with_adapter(config: Config, family: Family, folder: Path) -> tuple[Any, Any]:
    """The base model as the run trained on it, under peft with the exported adapter, and the exported processor.

    family: the merged model, which says what layer belongs to what part. Of a run with `kind: qlora` the base has the
    values of its 4 bits, since the adapter has learned what belongs to those.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ExportError(
            "an adapter is compared through peft: pip install 'vlrft[peft]', or export the whole model with --merge"
        ) from error
    from transformers import AutoModelForImageTextToText, AutoProcessor

    dtype = getattr(torch, config.model.dtype)
    if config.model.tiny is not None:
        model, _ = build_tiny(config.model.tiny)
    else:
        name = config.model.model_name_or_path
        assert name is not None, "the config has exactly one of tiny and model_name_or_path"
        model = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype)
    model = model.to(dtype)
    adapter = config.model.adapter
    if adapter is not None and adapter.kind == "qlora":
        try:
            round_to_four_bits(model, linear_names(model, family.part_of, adapter.parts))
        except UserError as error:
            raise ExportError(f"{error}, or export the whole model with --merge") from error
    return PeftModel.from_pretrained(model, str(folder)).eval(), AutoProcessor.from_pretrained(folder)
