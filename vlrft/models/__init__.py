"""Model families: one file each, keyed by the config's `model_type`, never by a substring of a path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vlrft.registry import resolve

if TYPE_CHECKING:
    from vlrft.config import DataConfig, ModelConfig
    from vlrft.models.base import Family

FAMILIES: Mapping[str, str] = {
    "qwen2_vl": "vlrft.models.qwen2_vl:Qwen2VL",
    "qwen2_5_vl": "vlrft.models.qwen2_5_vl:Qwen25VL",
    "qwen3_vl": "vlrft.models.qwen3_vl:Qwen3VL",
    "internvl": "vlrft.models.internvl:InternVL",
}


def load_family(model: ModelConfig, data: DataConfig, *, weights: bool = True) -> Family:
    """Load (or build) the model and processor of `model` and wrap them in their family, shared-prefix attention on.

    weights: without them only config and processor are read, and the parameters are on the meta device: enough to
    render prompts and to measure them.

    Raises UnknownNameError for a `model_type` without a family, OSError when a hub id or folder cannot be loaded,
    UserError where adapters need a library that is missing.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    from vlrft.adapters import inject
    from vlrft.attention import install
    from vlrft.models.tiny import build_tiny

    dtype = getattr(torch, model.dtype)
    if model.tiny is not None:
        loaded, processor = build_tiny(model.tiny)
        loaded = loaded.to(dtype)
    else:
        path = model.model_name_or_path
        assert path is not None, "the config has exactly one of tiny and model_name_or_path"
        if weights:
            loaded = AutoModelForImageTextToText.from_pretrained(path, dtype=dtype)
        else:
            with torch.device("meta"):
                loaded = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(path), dtype=dtype)
        processor = AutoProcessor.from_pretrained(path)
    family_class = resolve(loaded.config.model_type, FAMILIES, kind="model family")
    family: Family = family_class(
        loaded, processor, min_pixels=data.min_pixels, max_pixels=data.max_pixels, video=data.video
    )
    family.freeze(
        vision_tower=model.freeze_vision_tower,
        projector=model.freeze_projector,
        language_model=model.freeze_language_model,
    )
    if model.adapter is not None:
        family.adapter = model.adapter
        inject(loaded, family.part_of, model.adapter, base_name=model.model_name_or_path)
    if model.gradient_checkpointing:
        loaded.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    install(loaded)
    return family
