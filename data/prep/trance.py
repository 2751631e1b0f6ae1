"""TRANCE: which changes lead from the first view of a scene to the last (Hong et al., 2021).

Read in the form of Reason-RFT (from documentation and its code): a JSON list of `id`, `image` (first view, last view;
paths or `{"path"}`), `problem` (the attributes of the first view's objects, as tuples of number, shape, size, colour
and material), `solution` (`<answer>change_size(1, 'large') change_color(0, 'red')</answer>`) or `answer`, and `cot` in
the files for SFT. The sets of other viewpoints, TRANCE-L and TRANCE-R, have the same form.

Not read: the authors' own release in HDF5.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlrft.data.layouts.columns import unwrap
from vlrft.data.prep.source_rows import Made, Rows, converted, media_folder, picture_of, row_stream, text_of, truth_of
from vlrft.data.problems import Quarantine, SampleError
from vlrft.parse.calls import parse_triples

FUNCTIONS = {
    "change_size": ("small", "medium", "large"),
    "change_color": ("yellow", "gray", "cyan", "blue", "brown", "green", "red", "purple"),
    "change_material": ("glass", "metal", "rubber"),
    "change_shape": ("cube", "sphere", "cylinder"),
    "change_position": (
        "front", "behind", "left", "right", "front_left", "front_right", "behind_left", "behind_right",
    ),
}  # fmt: skip
"""Functions and their values, as Reason-RFT's prompt lists them; the file itself does not."""


def rows(
    path: Path,
    *,
    split: str | None,
    images: Path | None,
    quarantine: Quarantine,
    explain: bool = True,
    keep_published: bool = False,
) -> Rows:
    """(where, row of spatial_transformation) with both views and the calls as `[function, object, value]`.

    explain: put the functions and their values before the problem, without which it cannot be answered. Left out:
    solutions with a function or value that is not among them (with `keep_published` kept and flagged), and rows without
    two views, problem or calls.
    """
    folder = media_folder(path, images)

    def convert(columns: dict[str, Any], where: str) -> Made:
        answer, _ = truth_of(columns, ("solution", "answer"), where)
        calls = [list(call) for call in parse_triples(answer) or ()]
        if not calls:
            raise SampleError(where, f"the solution {answer!r:.200} holds no call func(object, value); correct the row")
        views = picture_of(columns, ("image", "images"), folder, where)
        if len(views) != 2:
            raise SampleError(where, f"has {len(views)} views, not the first and the last; correct the row")
        problem = text_of(columns, ("problem",), where)
        think = unwrap(columns.get("cot"))[1]
        row = {
            "prompt": f"{_rules()}\n\n{problem}" if explain else problem,
            "images": views,
            "answer": calls,
            "task": "spatial_transformation",
            "meta": {"think": think.strip()} if think and think.strip() else {},
        }
        return {"id": str(columns["id"]), **row} if "id" in columns else row, [
            f"{function}({thing}, {value!r}) is not among the functions and values"
            for function, thing, value in calls
            if value not in FUNCTIONS.get(function, ())
        ]

    names = ("{split}.json", "trance_{split}.json", "trance.json")
    return converted(row_stream(path, split, names), convert, quarantine=quarantine, keep_published=keep_published)


def _rules() -> str:
    listed = "\n".join(f"{name}(object, value), value one of {', '.join(FUNCTIONS[name])}" for name in FUNCTIONS)
    return (
        "The first image shows a scene before, the second after some of its objects were changed. Each object of the "
        "first image is given as (number, shape, size, color, material). Which changes lead from the first image to "
        f"the second? There are these functions:\n{listed}"
    )
