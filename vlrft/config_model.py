"""The `model` block: which model, and what of it learns. No torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from vlrft.config_data import Block

ModelPart = Literal["language_model", "projector", "vision_tower"]


class AdapterConfig(Block):
    """Low-rank adapters (peft) on the linear layers of some parts; everything else of the model stays as it is."""

    kind: Literal["lora", "qlora"] = "lora"
    """`qlora` keeps the adapted layers' own weights in 4 bits (NF4, bitsandbytes)."""
    r: int = Field(16, gt=0)
    """Rank."""
    alpha: int = Field(32, gt=0)
    """The update counts alpha / r times, alpha / sqrt(r) times with `use_rslora`."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Of the adapters' inputs while training. Rollouts, reference log-probs and what is compared with the engine's are
    computed without it, and old log-probs with several optimiser steps per rollout."""
    parts: list[ModelPart] = Field(["language_model"], min_length=1)
    """Parts whose linear layers are adapted, all of them but the output head."""
    use_rslora: bool = False
    use_dora: bool = False
    init_seed: int = 0
    """Of the A matrices (Kaiming uniform); B starts at zero, so that the model starts as its base."""


class HalfConfig(Block):
    """Half fine-tuning (HFT): of every layer half of the attention and feed-forward matrices and half of the norms."""

    seed: int = 0
    """With the stage's name it says which half: every stage draws its own."""
    outside_layers: bool = False
    """Let what belongs to no layer (embeddings, output head, last norm, projector) learn too."""


class Selection(Block):
    """Parameters that fulfil everything that is said here."""

    parts: list[ModelPart] | None = None
    """None = all."""
    layers: list[int | str] | None = None
    """Numbers and ranges (`0-3`, both ends count) of layers, counted from 0 in the language model and in the tower;
    what belongs to no layer is out. None = all."""
    names: list[str] | None = None
    """Patterns over parameter names, as the plain entries of `model.train_only`; one of them has to fit. None = all."""
    half: HalfConfig | None = None

    @field_validator("layers")
    @classmethod
    def _ranges(cls, value: list[int | str] | None) -> list[int | str] | None:
        for entry in value or []:
            span(entry)
        return value

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.parts is None and self.layers is None and self.names is None and self.half is None:
            raise ValueError("an entry of train_only needs one of parts, layers, names and half")
        return self


def span(entry: int | str) -> tuple[int, int]:
    """(first, last) layer of an entry of `layers`. Raises ValueError."""
    found = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", str(entry))
    if found is None:
        raise ValueError(f"{entry!r} is neither a layer number nor a range such as 0-3")
    first, last = int(found[1]), int(found[2] or found[1])
    if last < first:
        raise ValueError(f"layers {entry!r}: the range ends before it starts")
    return first, last


class TinyModelConfig(Block):
    """A randomly initialised model built offline (`models/tiny.py`)."""

    family: str = "qwen2_5_vl"
    """One of the FAMILIES."""
    hidden_size: int = 128
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2
    intermediate_size: int = 384
    vision_hidden_size: int = 96
    vision_layers: int = 3
    vision_heads: int = 4
    vision_intermediate_size: int = 192
    patch_size: int = 14
    """Edge of a vision patch in pixels."""
    spatial_merge_size: int = 2
    """Edge of the square of patches that becomes one token."""
    vocab_size: int | None = None
    """Pad the vocabulary to this size; None = just the tokenizer's."""
    number_tokens: int = 0
    """Integers 0..n-1 become single tokens."""
    init_seed: int = 0


class ModelConfig(Block):
    """Which model, and which of its parts learn."""

    model_name_or_path: str | None = None
    """Hub id or local folder; exclusive with `tiny`."""
    tiny: TinyModelConfig | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the master weights. bfloat16 compute comes from `parallel.mixed_precision`."""
    attention: Literal["auto", "two_part", "flex", "flash_varlen", "dense"] = "auto"
    """Shared-prefix attention kernel of the language model; `dense` is the reference."""
    freeze_vision_tower: bool = False
    freeze_projector: bool = False
    freeze_language_model: bool = False
    train_only: list[str | Selection] | None = None
    """Which parameters learn: a list of part names, of patterns over parameter names (`*` for anything; a name without
    one also stands for all below it) and of entries with `parts`, `layers`, `names` and `half`. One entry has to fit;
    `freeze_*` holds besides. None = all. With `adapter` an adapter counts under the name of the weight it adapts."""
    adapter: AdapterConfig | None = None
    """Train low-rank adapters instead of the weights themselves; None = the weights."""
    gradient_checkpointing: bool = False
    logprob_chunk_size: int = Field(256, gt=0)
    """Completion tokens whose logits exist at once."""
    logprob_cache_mb: int = Field(512, ge=0)
    """Keep the softmax of a micro-batch for the backward pass when it fits in this many MiB; recompute otherwise."""

    def trained_at(self, folder: Path) -> ModelConfig:
        """The block of the model that a run with this one has saved in `folder`, with adapters merged."""
        return self.model_copy(update={"tiny": None, "model_name_or_path": str(folder), "adapter": None})

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.model_name_or_path is None) == (self.tiny is None):
            raise ValueError("give exactly one of model.model_name_or_path and model.tiny")
        if self.train_only == []:
            raise ValueError(
                "model.train_only is empty: nothing would learn; name what learns, or leave it out for all"
            )
        return self
