"""The eleven few-shot classification sets of CoOp, and class folders. Written from the documentation of CoOp.

Forms, told by what the folder holds:
- `split_zhou_<Set>.json` (Caltech101, OxfordPets, StanfordCars, OxfordFlowers, Food101, SUN397, DescribableTextures,
  EuroSAT, UCF101): `{"train" | "val" | "test": [[path, label number, class name], ...]}`, paths relative to the set's
  folder of pictures;
- `images_variant_<split>.txt` (FGVC Aircraft): lines `image number, variant`, pictures in `images`; the classes in
  `variants.txt`;
- `classnames.txt` with `images/train` and `images/val` (ImageNet): lines `folder name`; split test is the folder val;
- otherwise a folder of pictures for each class, in `<split>/` where there is such a folder.

Underscores in names become spaces, and EuroSAT's get the words that CoOp gives them. The draw of n shots is seeded
here: it is not CoOp's own, whose lists are pickles of its classes and are not read. Left out: Caltech's
BACKGROUND_Google and Faces_easy; classes that share their name with another, which `keep_published` keeps and flags.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlrft.data.prep.few_shot_files import ClassList, Entry, read_classes
from vlrft.data.prep.published import admitted
from vlrft.data.problems import DataError, Quarantine

SUBSETS = ("all", "base", "new")


def rows(
    path: Path, *, split: str | None, images: Path | None, quarantine: Quarantine, shots: int | None = None,
    seed: int = 0, subset: str = "all", question: str | None = None, names: Mapping[str, str] | None = None,
    keep_published: bool = False,
) -> Iterator[tuple[str, dict[str, Any]]]:  # fmt: skip
    """(where, classification row), with the class names of the set in `meta.labels`.

    `path`: the set's folder or its split file. `images`: the folder of its pictures, by default that of CoOp's layout.
    `shots`: pictures for each class, drawn by `seed`; None = all. `subset`: `base`, the first half of the classes, or
    `new`, the rest, with labels of that half only. `question`: the prompt. `names`: class name as published -> the name
    that is used.
    """
    if shots is not None and shots < 1:
        raise DataError(f"shots is {shots}; write how many pictures of each class, or leave it out for all")
    if subset not in SUBSETS:
        raise DataError(f"subset is {subset!r}; use one of {', '.join(SUBSETS)}")
    found = read_classes(path, split=split, images=images, quarantine=quarantine)
    for name in names or {}:
        if name not in found.names.values():
            raise DataError(
                f"names: {path} has no class {name!r}; classes: {', '.join(list(found.names.values())[:40])}"
            )
    chosen = _half(found, subset)
    spoken = {label: (names or {}).get(found.names[label]) or found.spoken(label) for label in chosen}
    shared = Counter(spoken.values())
    labels = list(dict.fromkeys(spoken.values()))
    for entry in _drawn(found, set(chosen), shots, seed):
        name = spoken[entry.label]
        row = {
            "id": entry.id,
            "task": "classification",
            "prompt": question or f"Which {found.kind} does this image show?",
            "images": [str(found.images / entry.path)],
            "answer": name,
            "meta": {"labels": labels, "label": entry.label},
        }
        flags = [f"{shared[name]} classes have the name {name!r}"] if shared[name] > 1 else []
        made = admitted(row, flags, where=entry.where, keep_published=keep_published, quarantine=quarantine)
        if made is not None:
            yield entry.where, made


def _half(found: ClassList, subset: str) -> list[int]:
    """CoOp's halves: the larger one is the base."""
    labels = sorted(found.names)
    middle = (len(labels) + 1) // 2
    return {"all": labels, "base": labels[:middle], "new": labels[middle:]}[subset]


def _drawn(found: ClassList, chosen: set[int], shots: int | None, seed: int) -> Iterator[Entry]:
    """The entries of the chosen classes in their order, at most `shots` of each; a class with fewer has them all."""
    if shots is None:
        yield from (entry for entry in found.entries if entry.label in chosen)
        return
    by_class: dict[int, list[Entry]] = {}
    for entry in found.entries:
        by_class.setdefault(entry.label, []).append(entry)
    for label in sorted(chosen & by_class.keys()):
        held = by_class[label]
        # Each class has its own generator, so that a subset draws what the whole set draws.
        picked = random.Random(f"{seed}-{label}").sample(range(len(held)), min(shots, len(held)))
        yield from (held[i] for i in sorted(picked))
