"""What of a model learns: adapters and the choice of parameters. Blocks of `model`; no torch."""

from __future__ import annotations

import re
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
    """Of the adapters' inputs while training. Rollouts, old and reference log-probs are computed without it."""
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
