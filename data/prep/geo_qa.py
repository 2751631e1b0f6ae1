r"""GeoQA: plane geometry (Chen et al., 2021) in the forms in which it is trained on.

R1-V's test file (seen): `image_path`, `question`, `ground_truth` with its unit, such as `140°` or `3cm`. R1-V's
training table GEOQA_R1V_Train_8K (from documentation): `image`, `problem`, `solution` (`<answer> 145° </answer>`).
Geo170K, the set with worded solutions of G-LLaVA (from documentation): a JSON list of `image` and `conversations`
(`from` human and gpt, `value`), the question with `Choices:` and lines `A. ...`, the solution ending in `Answer:B`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlrft.data.prep.source_rows import (
    Made,
    Rows,
    converted,
    media_folder,
    picture_of,
    prompt_of,
    row_stream,
    text_of,
    truth_of,
)
from vlrft.data.problems import Quarantine, SampleError
from vlrft.parse.choices import LETTERS

_PICTURES = ("image_path", "image", "images")
_FINAL = re.compile(r"(.*?)\s*Answer\s*:\s*\(?([A-D])\)?\.?\s*", re.DOTALL)
_CHOICE = re.compile(r"^\s*([A-D])\s*[.:)]\s*(.*\S)\s*$", re.MULTILINE)


def rows(path: Path, *, split: str | None, images: Path | None, quarantine: Quarantine) -> Rows:
    """(where, row of math, or of choice where the form is Geo170K's).

    The answer is text with the unit as published. Of Geo170K the wording before `Answer:` is `meta.think`, and the
    choices stay in the question and are `meta.options`. Left out: rows without question, picture or answer, and
    dialogues of Geo170K that do not end in the letter of a choice, such as captions.
    """
    folder = media_folder(path, images)

    def convert(columns: dict[str, Any], where: str) -> Made:
        pictures = picture_of(columns, _PICTURES, folder, where)
        if "conversations" in columns:
            return _dialogue(columns["conversations"], pictures, where)
        answer, think = truth_of(columns, ("ground_truth", "solution", "answer"), where)
        row = {
            "prompt": prompt_of(text_of(columns, ("question", "problem"), where), "image", where),
            "images": pictures,
            "answer": answer,
            "task": "math",
            "meta": think,
        }
        return row, []

    names = ("{split}.json", "{split}.jsonl", "qa_tuning.json", "geoqa_test_prompts.jsonl")
    return converted(row_stream(path, split, names), convert, quarantine=quarantine)


def _dialogue(turns: Any, pictures: list[Any], where: str) -> Made:
    """A question and its worded solution, as Geo170K has them."""
    if not isinstance(turns, list) or len(turns) != 2 or not all(isinstance(turn, Mapping) for turn in turns):
        raise SampleError(where, f"conversations are {turns!r:.100}, not one question and one answer; correct the row")
    question, solution = (text_of(turn, ("value",), where) for turn in turns)
    final = _FINAL.fullmatch(solution)
    if final is None:
        return None, ["the solution does not end in 'Answer:' and a letter"]
    _, _, listed = question.partition("Choices")
    found = _CHOICE.findall(listed)
    options = [text for _, text in found]
    if len(options) < 2 or [letter for letter, _ in found] != list(LETTERS[: len(options)]):
        return None, ["the question lists no choices A, B, ..."]
    if final.group(2) not in LETTERS[: len(options)]:
        return None, [f"the answer {final.group(2)} is none of its {len(options)} choices"]
    row = {
        "prompt": prompt_of(question, "image", where),
        "images": pictures,
        "answer": final.group(2),
        "task": "choice",
        "meta": {"options": options, **({"think": final.group(1).strip()} if final.group(1).strip() else {})},
    }
    return row, []
