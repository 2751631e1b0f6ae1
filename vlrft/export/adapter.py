"""A run's adapter by itself, in peft's form, and the base model that it belongs to."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from vlrft.config import Config
from vlrft.export.source import ExportError
from vlrft.models.base import Family
from vlrft.models.tiny import build_tiny


def copy_adapter(adapter: Path, family: Family, folder: Path) -> None:
    """adapter_config.json, which names the base model, adapter_model.safetensors, and the run's processor."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (adapter / name).is_file():
            raise ExportError(f"{adapter / name} is missing: export the whole model with --merge")
        shutil.copy2(adapter / name, folder / name)
    family.keep_limits()
    family.processor.save_pretrained(folder)


def load_with_adapter(config: Config, folder: Path) -> tuple[Any, Any]:
    """The base model as the run began with it, under peft with the exported adapter, and the exported processor."""
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
    return PeftModel.from_pretrained(model.to(dtype), str(folder)).eval(), AutoProcessor.from_pretrained(folder)
