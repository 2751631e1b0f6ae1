"""The files of the few-shot classification sets: which picture is of which class. See few_shot.py for the layouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vlrft.data.problems import DataError, Quarantine, SampleError
from vlrft.data.tables import load_json

SETS: dict[str, tuple[tuple[str, ...], str]] = {
    "Caltech101": (("101_ObjectCategories", "caltech-101/101_ObjectCategories"), "object"),
    "OxfordPets": (("images",), "pet breed"),
    "StanfordCars": ((".",), "car model"),
    "OxfordFlowers": (("jpg",), "flower species"),
    "Food101": (("images",), "dish"),
    "SUN397": (("SUN397",), "scene"),
    "DescribableTextures": (("images",), "texture"),
    "EuroSAT": (("2750",), "land use"),
    "UCF101": (("UCF-101-midframes",), "action"),
}
"""<Set> of split_zhou_<Set>.json -> (folders of its pictures, the first that is there; what its classes are)."""

_EUROSAT = {
    "AnnualCrop": "Annual Crop Land", "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road", "Industrial": "Industrial Buildings", "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land", "Residential": "Residential Buildings", "SeaLake": "Sea or Lake",
}  # fmt: skip
_NO_CLASSES = ("BACKGROUND_Google", "Faces_easy")
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One picture."""

    id: str
    path: str
    """Relative to the folder of the pictures."""
    label: int
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassList:
    """The pictures of one split."""

    entries: list[Entry]
    names: dict[int, str]
    """Label number -> name as published, of all splits that the file knows."""
    images: Path
    kind: str
    """What its classes are, such as "pet breed"."""

    def spoken(self, label: int) -> str:
        """The name in words."""
        name = self.names[label]
        return " ".join((_EUROSAT.get(name, name) if self.kind == "land use" else name).replace("_", " ").split())


def read_classes(path: Path, *, split: str | None, images: Path | None, quarantine: Quarantine) -> ClassList:
    """The pictures of `split` with their classes. Raises DataError for a layout that is none of the known."""
    files = [path] if path.is_file() else sorted(path.glob("split_zhou_*.json"))
    if files:
        return _zhou(files[0], split, images, quarantine)
    if any(path.glob("images_variant_*.txt")):
        return _aircraft(path, split, images)
    if (path / "classnames.txt").is_file():
        return _imagenet(path, split, images)
    return _folders(path, split, images, quarantine)


def _asked(split: str | None, offered: list[str], path: Path) -> str:
    if split is None or split not in offered:
        raise DataError(f"{path}: split is {split!r}; set it to one of {', '.join(offered) or 'none here'}")
    return split


def _zhou(file: Path, split: str | None, images: Path | None, quarantine: Quarantine) -> ClassList:
    content = load_json(file)
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in ("train", "test")):
        raise DataError(f"{file} is not a split file of CoOp: it needs the lists train, val and test")
    split = _asked(split, [name for name in _SPLITS if name in content], file)
    names: dict[int, str] = {}
    entries = []
    for part in _SPLITS:
        for number, item in enumerate(content.get(part, ()), start=1):
            where = f"{file}: {part} {number}"
            try:
                path, label, name = _item(item, where)
            except SampleError as error:
                quarantine.bad(error)
                continue
            if names.setdefault(label, name) != name:
                raise DataError(f"{where}: label {label} is {name!r} here and {names[label]!r} before; fetch it again")
            if part == split:
                entries.append(Entry(id=path, path=path, label=label, where=where))
    folders, kind = SETS.get(file.stem.removeprefix("split_zhou_"), (("images",), "class"))
    there = (file.parent / name for name in folders)
    default = next((folder for folder in there if folder.is_dir()), file.parent / folders[0])
    return ClassList(entries=entries, names=names, images=images if images is not None else default, kind=kind)


def _item(item: object, where: str) -> tuple[str, int, str]:
    if isinstance(item, list) and len(item) == 3:
        path, label, name = item
        if isinstance(path, str) and isinstance(label, int) and isinstance(name, str) and path and name:
            return path, label, name
    raise SampleError(where, f"{item!r:.120} is not [path, label number, class name]; correct the file")


def _aircraft(path: Path, split: str | None, images: Path | None) -> ClassList:
    offered = [name for name in _SPLITS if (path / f"images_variant_{name}.txt").is_file()]
    file = path / f"images_variant_{_asked(split, offered, path)}.txt"
    names = dict(enumerate(_lines(path / "variants.txt")))
    numbers = {name: label for label, name in names.items()}
    entries = []
    for number, line in enumerate(_lines(file), start=1):
        image, _, variant = line.partition(" ")
        if variant.strip() not in numbers:
            raise DataError(f"{file}:{number}: variant {variant.strip()!r} is not in variants.txt; fetch both again")
        entries.append(
            Entry(id=image, path=f"{image}.jpg", label=numbers[variant.strip()], where=f"{file}:{number}")
        )  # fmt: skip
    folder = images if images is not None else path / "images"
    return ClassList(entries=entries, names=names, images=folder, kind="aircraft model")


def _imagenet(path: Path, split: str | None, images: Path | None) -> ClassList:
    asked = _asked(split, list(_SPLITS), path)
    folder = (images if images is not None else path / "images") / ("train" if asked == "train" else "val")
    named = [line.partition(" ") for line in _lines(path / "classnames.txt")]
    names = {label: name.strip() for label, (_, _, name) in enumerate(named)}
    entries = []
    for label, (wnid, _, _) in enumerate(named):
        entries += list(_pictures(folder / wnid, label, lambda p, wnid=wnid: f"{wnid}/{p.name}"))  # type: ignore[misc]
    if not entries:
        raise DataError(
            f"{folder} has no pictures in folders such as {named[0][0] if named else 'n01440764'}; set images"
        )
    return ClassList(entries=entries, names=names, images=folder, kind="object")


def _folders(path: Path, split: str | None, images: Path | None, quarantine: Quarantine) -> ClassList:
    root = images if images is not None else path
    if split is not None:
        held = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
        root = root / _asked(split, held, root)
    names: dict[int, str] = {}
    entries: list[Entry] = []
    for folder in sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else ():
        if folder.name in _NO_CLASSES:
            quarantine.filtered(str(folder), "is no class of its own in the few-shot sets")
            continue
        found = list(_pictures(folder, len(names), lambda p, name=folder.name: f"{name}/{p.name}"))  # type: ignore[misc]
        if found:
            names[len(names)] = folder.name
            entries += found
    if not entries:
        raise DataError(f"{path} has neither a split file of CoOp nor folders of classes with pictures; check the path")
    return ClassList(entries=entries, names=names, images=root, kind="class")


def _pictures(folder: Path, label: int, relative: Callable[[Path], str]) -> Iterator[Entry]:
    if folder.is_dir():
        for picture in sorted(folder.iterdir()):
            if picture.suffix.lower() in _SUFFIXES:
                name = relative(picture)
                yield Entry(id=name, path=name, label=label, where=str(picture))


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        raise DataError(f"no file {file}, which the set publishes with its classes; fetch it")
    return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
