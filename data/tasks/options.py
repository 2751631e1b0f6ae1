"""Multiple choice: the options of a row, how a prompt lists them, and the letter that is right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from vlrft.data.tasks.row_task import Fields
from vlrft.data.tasks.targets import check_text
from vlrft.parse.choices import LETTERS
from vlrft.parse.text import normalise
from vlrft.types import Sample, TextPart

_OWN_LETTER = re.compile(r"\s*[(\[]?([A-Za-z])\s?[.):\]]+\s*")


def check_choice(answer: Any, fields: Fields, what: str = "`answer`") -> str:
    """The right option's letter, upper case, among `meta.options` or `meta.num_options`. Raises SampleError."""
    options = fields.meta.get("options")
    count = check_options(fields)
    letter = answer.strip().strip("().").upper() if isinstance(answer, str) else ""
    if len(letter) == 1 and letter in LETTERS[:count]:
        return letter
    if isinstance(answer, str) and options is not None:
        same = [LETTERS[i] for i, text in enumerate(bare_options(options)) if normalise(text) == normalise(answer)]
        if same:
            raise fields.error(f"{what} is the text of option {same[0]}, {answer!r:.100}; write its letter")
    raise fields.error(f"{what} is {answer!r:.200}; write one letter from A to {LETTERS[count - 1]}")


def check_options(fields: Fields) -> int:
    """How many options there are; 26 where the row does not say. Raises SampleError."""
    options, number = fields.meta.get("options"), fields.meta.get("num_options")
    if options is None:
        whole = isinstance(number, int) and not isinstance(number, bool)
        if number is not None and not (whole and 2 <= number <= len(LETTERS)):
            raise fields.error(f"meta.num_options is {number!r}; write a whole number from 2 to {len(LETTERS)}")
        return number or len(LETTERS)
    if not isinstance(options, list | tuple) or not 2 <= len(options) <= len(LETTERS):
        raise fields.error(f"meta.options is {options!r:.200}; list the texts of 2 to {len(LETTERS)} options")
    for i, text in enumerate(options):
        check_text(text, where=fields.where, what=f"option {i} of meta.options")
    return len(options)


def bare_options(options: Sequence[str]) -> list[str]:
    """The texts without the letters in front of them, where every one has its own."""
    found = [_OWN_LETTER.match(text) for text in options]
    own = all(m and m[1].upper() == letter for m, letter in zip(found, LETTERS, strict=False))
    return [text[m.end() :] if own and m else text for text, m in zip(options, found, strict=True)]


def shown_options(sample: Sample) -> list[str]:
    """The lines `A. text` that a prompt adds to the question: none where the question names all options already."""
    options: Sequence[str] = sample.meta.get("options") or ()
    question = "".join(part.text for part in sample.parts if isinstance(part, TextPart))
    bare = bare_options(options)
    if all(text in question for text in bare):
        return []
    return [f"{letter}. {text}" for letter, text in zip(LETTERS, bare, strict=False)]
