"""Which groups of a run's rollouts/*.jsonl the report shows, with boxes in pixels of the original image. No torch.

Files are streamed: a handful of steps per stage, a handful of groups per step, and budgets for text and pictures, so
that the page stays small whatever the run's length. Whatever is left out is counted in the notes.
"""

from __future__ import annotations

import heapq
import itertools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vlrft.coords import convert
from vlrft.parse import parse, parse_boxes
from vlrft.report_images import ImageStore
from vlrft.report_series import Notes, Row, iter_jsonl, number
from vlrft.report_text import script_json

STEPS_PER_STAGE = 6
TRAIN_GROUPS_PER_STEP = 6
EVAL_GROUPS_PER_STEP = 8
MAX_ROLLOUTS = 16
MAX_BOXES = 20
MAX_TEXT = 4000
MAX_JSON = 600
TEXT_BUDGET = 2_500_000
"""Bytes of all groups together, as JSON."""

_FILE = re.compile(r"(?P<eval>eval-)?(?P<stage>.+)-(?P<step>\d+)\.jsonl")

Item = TypeVar("Item")
ModeOf = Callable[[str], str]
"""Stage name -> output mode of its completions."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class RolloutFile:
    """One file of rollouts/, by what its name says."""

    kind: str
    stage: str
    step: int
    path: Path


def rollout_files(folder: Path) -> list[RolloutFile]:
    """Files of rollouts/, sorted by kind, stage and step; files with other names are not ours."""
    found = []
    for path in folder.glob("*.jsonl"):
        if match := _FILE.fullmatch(path.name):
            kind = "eval" if match["eval"] else "train"
            found.append(RolloutFile(kind=kind, stage=match["stage"], step=int(match["step"]), path=path))
    return sorted(found)


def spread_out(items: Sequence[Item], count: int) -> list[Item]:
    """First, last and evenly between: at most `count` items in their order."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def load_groups(run_dir: Path, images: ImageStore, mode_of: ModeOf, notes: Notes) -> list[dict[str, Any]]:
    """Groups for the viewer, in file order, within TEXT_BUDGET.

    When the budget runs out, each step loses its later groups first, so that no step vanishes.
    """
    ranked: list[tuple[int, int, Row]] = []
    for order, (file, rows) in enumerate(_chosen(run_dir / "rollouts", notes)):
        for rank, row in enumerate(rows):
            row.update(kind=file.kind, stage=file.stage, step=file.step)
            ranked.append((rank, order, row))
    ranked.sort(key=lambda entry: entry[:2])
    shown: list[tuple[int, int, dict[str, Any]]] = []
    spent = 0
    for rank, order, row in ranked:
        group = _group(row, run_dir, images, mode_of(row["stage"]), notes)
        size = len(script_json(group).encode("utf-8"))
        if spent + size > TEXT_BUDGET:
            notes["groups left out to keep this page small"] += 1
            continue
        spent += size
        shown.append((order, rank, group))
    return [group for _, _, group in sorted(shown, key=lambda entry: entry[:2])]


def _chosen(folder: Path, notes: Notes) -> Iterable[tuple[RolloutFile, list[Row]]]:
    """The chosen files with their chosen groups; evaluations show the same samples every time."""
    followed: set[str] = set()
    for (kind, _), files in itertools.groupby(rollout_files(folder), key=lambda f: (f.kind, f.stage)):
        for file in spread_out(list(files), STEPS_PER_STAGE):
            groups = (row for row in iter_jsonl(file.path, notes) if isinstance(row.get("rollouts"), list))
            if kind == "train":
                yield file, heapq.nlargest(TRAIN_GROUPS_PER_STEP, groups, key=_spread)
            else:
                rows = _same_samples(groups, followed)
                followed = followed or {str(row.get("sample_id")) for row in rows}
                yield file, rows


def _same_samples(groups: Iterable[Row], followed: set[str]) -> list[Row]:
    """The groups of the followed samples, else the first ones; stops reading once it has enough."""
    wanted = (row for row in groups if not followed or str(row.get("sample_id")) in followed)
    return list(itertools.islice(wanted, len(followed) or EVAL_GROUPS_PER_STEP))


def _spread(row: Row) -> float:
    rewards = [number(r.get("reward")) or 0.0 for r in row["rollouts"] if isinstance(r, dict)]
    return max(rewards) - min(rewards) if rewards else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """The picture that a group's boxes belong to: the first one."""

    image_size: tuple[int, int] | None
    input_size: tuple[int, int] | None
    notes: Notes

    def place(self, text: str, space: str) -> list[list[float]]:
        """Boxes written in `text`, in pixels of the original picture; those that cannot be drawn are counted."""
        placed = []
        for found in itertools.islice(parse_boxes(text), MAX_BOXES):
            try:
                box = convert(found.box, space, "abs_original", image_size=self.image_size, input_size=self.input_size)
            except ValueError as error:
                self.notes[f"boxes not drawn: {error}"] += 1
                continue
            pixels = [round(v, 2) for v in map(number, box) if v is not None]
            if len(pixels) == 4:
                placed.append(pixels)
            else:
                self.notes["boxes not drawn: a coordinate is not finite"] += 1
        return placed


def _group(row: Row, run_dir: Path, images: ImageStore, mode: str, notes: Notes) -> dict[str, Any]:
    """One group as the page's script reads it."""
    sizes, names = row.get("image_sizes") or [], row.get("images") or []
    pictures = [images.add(name, run_dir, _size(sizes, i)) for i, name in enumerate(names)]
    image_size = _size(sizes, 0) or (images.size_of(names[0], run_dir) if names else None)
    frame = _Frame(image_size=image_size, input_size=_size(row.get("input_sizes") or [], 0), notes=notes)
    target, meta = row.get("target"), row.get("meta") or {}
    target_text = json.dumps(target, ensure_ascii=False)
    space = str(row.get("coord_space", "abs_original"))
    answer_mode = str(meta.get("output_mode") or mode)
    rollouts = [r for r in row["rollouts"] if isinstance(r, dict)]
    ranked = sorted(enumerate(rollouts), key=lambda entry: -(number(entry[1].get("reward")) or 0.0))
    return {
        **{key: row[key] for key in ("kind", "stage", "step")},
        "id": str(row.get("sample_id", "")),
        "task": str(row.get("task", "")),
        "question": _cut(str(row.get("question", "")), MAX_TEXT),
        "target": _cut(target_text, MAX_JSON),
        "meta": _cut(json.dumps(meta, ensure_ascii=False), MAX_JSON) if meta else "",
        "space": space,
        "images": [{"key": k, "name": Path(str(n)).name} for k, n in zip(pictures, names, strict=True)],
        "size": image_size,
        "truth": (
            frame.place(target_text, str(row.get("target_space", "abs_original")))
            if isinstance(target, list | dict)
            else []
        ),
        "total": len(rollouts),
        "rollouts": [_rollout(i, r, answer_mode, space, frame) for i, r in spread_out(ranked, MAX_ROLLOUTS)],
    }


def _rollout(index: int, row: Row, mode: str, space: str, frame: _Frame) -> dict[str, Any]:
    text = str(row.get("text", ""))
    answer = parse(text, mode).answer
    score = row.get("score") or {}
    return {
        "i": index,
        "text": _cut(text, MAX_TEXT),
        "tokens": len(row.get("token_ids") or []),
        "truncated": row.get("finish_reason") == "length",
        "version": row.get("policy_version"),
        "reward": _short(row.get("reward")),
        "advantage": _short(row.get("advantage")),
        "parts": {str(name): _short(value) for name, value in (score.get("parts") or {}).items()},
        "flags": [str(flag) for flag in score.get("flags") or []],
        "boxes": frame.place(answer, space) if answer else [],
    }


def _size(sizes: Sequence[Sequence[int]], index: int) -> tuple[int, int] | None:
    return (int(sizes[index][0]), int(sizes[index][1])) if index < len(sizes) else None


def _short(value: object) -> float | None:
    known = number(value)
    return None if known is None else float(f"{known:.4g}")


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text) - limit} more characters)"
