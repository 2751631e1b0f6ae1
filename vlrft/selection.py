"""Which parameters learn: parts that are frozen, `model.train_only`, half fine-tuning, adapters instead of weights.

Everything is said about the plain model's parameter names. With adapters the weights themselves never learn, and an
adapter stands under the name of the weight that it adapts.
"""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple, get_args

from torch import nn

from vlrft.adapters import has_adapters, is_adapter, owner
from vlrft.config import HalfConfig, ModelConfig, Selection
from vlrft.config_model import ModelPart, span
from vlrft.log import UserError
from vlrft.models.base import Family

PARTS: tuple[str, ...] = get_args(ModelPart)
FREEZE = tuple(f"freeze_{part}" for part in ("vision_tower", "projector", "language_model"))
_LAYER = re.compile(r"\.(\d+)\.")


class Place(NamedTuple):
    """Where a parameter of the plain model stands."""

    name: str
    part: str
    layer: int | None
    """None outside the layers of language model and tower, and in the projector."""
    module: str
    """Its layer's module that it belongs to, below the layer (`self_attn.q_proj`); outside layers its own."""
    is_matrix: bool


def select(family: Family, model: ModelConfig, stage: str) -> None:
    """Let exactly those parameters learn that the block says in this stage. Raises UserError where that is none."""
    names = learning(family, model, stage)
    for name, parameter in family.model.named_parameters():
        parameter.requires_grad_(name in names)


def trainable_names(family: Family, stages: Iterable[tuple[str, ModelConfig]]) -> set[str]:
    """Parameters that some of these stages, (name, its model block), can change: what a checkpoint has to hold."""
    return {name for stage, model in stages for name in learning(family, model, stage)}


def learning(family: Family, model: ModelConfig, stage: str) -> set[str]:
    """Names of the model's parameters that learn in a stage. Raises UserError, naming the entry that fits nothing."""
    places = _places(family)
    candidates = _candidates(family.model)
    plain = {candidates[name] for name in candidates}
    known = [places[name] for name in plain]
    chosen = plain
    if model.train_only is not None:
        chosen = {name for entry in model.train_only for name in _chosen(entry, known, stage)}
    chosen = {name for name in chosen if not getattr(model, f"freeze_{places[name].part}")}
    if not chosen:
        raise UserError(
            f"every part of the model is frozen: set one of model.{', model.'.join(FREEZE)} to false"
            if model.train_only is None
            else "model.train_only and model.freeze_* leave no parameter that learns: change one of them"
        )
    shared = {
        id(p) for name, p in family.model.named_parameters(remove_duplicate=False) if candidates.get(name) in chosen
    }
    return {name for name, parameter in family.model.named_parameters() if id(parameter) in shared}


def describe(model: nn.Module) -> str:
    """`1,234 of 56,789 parameters learn (2.2 %)`; those of adapters count as parameters of the model."""
    # Two 4-bit weights share a byte.
    sizes = [(p.numel() * (1 if p.is_floating_point() else 2), p.requires_grad) for p in model.parameters()]
    total, learn = sum(n for n, _ in sizes), sum(n for n, learns in sizes if learns)
    return f"{learn:,} of {total:,} parameters learn ({100.0 * learn / total:.1f} %)"


def _candidates(model: nn.Module) -> dict[str, str]:
    """Name of every parameter that may learn -> its plain name; a shared one under each of its names."""
    only_adapters = has_adapters(model)
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    return {name: owner(name) for name in names if not only_adapters or is_adapter(name)}


def _places(family: Family) -> dict[str, Place]:
    places = {}
    for full, parameter in family.model.named_parameters(remove_duplicate=False):
        if is_adapter(full):
            continue
        name, part = owner(full), family.part_of(full)
        found = _LAYER.search(name) if part != "projector" else None
        rest = name[found.end() :] if found is not None else name
        module = rest.rpartition(".")[0] or rest
        places[name] = Place(name, part, int(found[1]) if found else None, module, parameter.dim() > 1)
    return places


def _chosen(entry: str | Selection, known: Sequence[Place], stage: str) -> set[str]:
    """Plain names that an entry of train_only stands for."""
    if isinstance(entry, str):
        entry = Selection(parts=[entry]) if entry in PARTS else Selection(names=[entry])
    found = [place for place in known if entry.parts is None or place.part in entry.parts]
    for pattern in entry.names or []:
        if not any(_fits(pattern, place.name) for place in known):
            raise UserError(_unknown(pattern, known))
    if entry.names is not None:
        found = [place for place in found if any(_fits(pattern, place.name) for pattern in entry.names)]
    if entry.layers is not None:
        found = _in_layers(entry.layers, found)
    if entry.half is not None:
        found = _half(found, entry.half, stage)
    if not found:
        raise UserError(f"model.train_only: no parameter fulfils all of {entry.model_dump(exclude_none=True)}")
    return {place.name for place in found}


def _fits(pattern: str, name: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def _unknown(pattern: str, known: Sequence[Place]) -> str:
    pieces = [place.name.split(".") for place in known]
    names = {".".join(piece[:end]) for piece in pieces for end in range(1, len(piece) + 1)}
    near = difflib.get_close_matches(pattern, sorted(names), n=3, cutoff=0.5)
    hint = f"nearest: {', '.join(near)}" if near else f"parts: {', '.join(PARTS)}"
    return (
        f"model.train_only: {pattern!r} fits none of the {len(known)} parameters that can learn; {hint}. "
        "Give a part, a parameter's name, the beginning of one, or a pattern with *"
    )


def _in_layers(entries: Sequence[int | str], found: Sequence[Place]) -> list[Place]:
    having = [place for place in found if place.layer is not None]
    count = 1 + max((place.layer for place in having if place.layer is not None), default=-1)
    wanted: set[int] = set()
    for entry in entries:
        first, last = span(entry)
        if first >= count:
            raise UserError(f"model.train_only: layers {entry!r}, but there are {count} layers, counted from 0")
        wanted.update(range(first, last + 1))
    return [place for place in having if place.layer in wanted]


def _half(found: Sequence[Place], half: HalfConfig, stage: str) -> list[Place]:
    """Half of the matrices of each kind in every layer (2 of 4 in attention) and half of its norms (HFT, 2404.18466).

    Of an odd number, half of the layers take one more than the others.
    """
    rng = random.Random(f"{half.seed}/{stage}")
    matrices = {(p.part, p.layer, p.module) for p in found if p.is_matrix}
    kinds: dict[tuple[str, str], dict[int, list[str]]] = {}
    for place in found:
        if place.layer is not None:
            is_matrix = (place.part, place.layer, place.module) in matrices
            kind = place.module.split(".")[0] if is_matrix else "norms"
            modules = kinds.setdefault((place.part, kind), {}).setdefault(place.layer, [])
            if place.module not in modules:
                modules.append(place.module)
    drawn: set[tuple[str, int, str]] = set()
    for (part, _), layers in sorted(kinds.items()):
        order = sorted(layers)
        rng.shuffle(order)
        for rank, layer in enumerate(order):
            modules = sorted(layers[layer])
            count = (len(modules) + (rank < (len(order) + 1) // 2)) // 2
            drawn.update((part, layer, module) for module in rng.sample(modules, count))
    return [
        place
        for place in found
        if (half.outside_layers if place.layer is None else (place.part, place.layer, place.module) in drawn)
    ]
