"""Multiple choice and yes or no.

Target: `mcq.letter` - the letter of the right option, "B"; `mcq.multi` - a list of such letters, ["A", "C"];
`yesno` - "yes" or "no".

Meta: `options`, the texts in order, with or without "B. " before each; or `num_options`. They say which letters exist.
Where neither is known, A to Z are allowed. `yesno` uses none.

Answer: one letter, alone or as "B.", "(B)", "B)", "B: text", "B. text", bold, quoted, in LaTeX's boxed braces, after
"the answer is" or "option"; or the full text of exactly one option, compared after NFKC, case folding and unifying
spaces and dashes. Several letters for `mcq.multi`: "A, C", "A and C", "AC", JSON, one a line. Full-width and circled
letters are what NFKC makes of them; a Cyrillic or Greek look-alike is no letter. Unparsable: none of this, "A dog"
(the article, unless option A is "dog"), more than 10,000 characters. A letter beyond the last option: `out_of_range`.
For `yesno` the first word after a phrase like "The answer is" must be yes or no, as a whole word.

Guards: two different letters, or a letter with another option's text right behind it ("B, a bird", "B, i.e. a bird"),
are worth 0 (`several_answers`), also when one of them is denied; a lone letter that is denied ("B is wrong") is
`unparsable`. What an explanation further on says of other options is not looked at. Naming every option of a
multiple-answer question is worth 0 unless all are right; "yes and no" is worth 0; letters inside words, and yes and no
inside "cannot" or "know", are never read.

Source: the letter rules of VLM-R1, VideoChat-R1, Video-R1 and CodeVision, without what defeats them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlrft.parse import Parsed
from vlrft.parse.choices import LETTERS, read_choice, read_choices, read_yes_no
from vlrft.rewards.base import TargetError, ordered
from vlrft.types import Score


def letter(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """1 when the answer chooses the right option and no other.

    Formula: 1[the one letter chosen == target]
    Range: [0, 1]

    Example: score("mcq.letter", "<think>it barks</think><answer>(B) dog</answer>", "B", {"num_options": 4}) -> 1.0
    """
    count, options = _known(meta)
    gold = _gold(target, count)
    flags = set(parsed.flags)
    if parsed.answer is None:
        return Score(value=0.0, flags=ordered(flags))
    reading = read_choice(parsed.answer, count=count, options=options)
    flags |= {reading.flag} if reading.flag else set()
    return Score(value=float(reading.letters == (gold,)), flags=ordered(flags))


def multi(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, exact: bool = False) -> Score:
    """F1 between the set of letters chosen and the set of right ones.

    Formula: 2 * |P & G| / (|P| + |G|); 0 when P is every option there is and G is not
    Range: [0, 1]

    exact: 1[P == G] instead.

    Example: score("mcq.multi", "<think>two</think><answer>A, B</answer>", ["A", "C"], {"num_options": 4}) -> 0.5
    """
    count, options = _known(meta)
    if not isinstance(target, list | tuple) or not target:
        raise TargetError(f"an mcq.multi target is a non-empty list of letters such as ['A', 'C'], got {target!r}")
    gold = {_gold(item, count) for item in target}
    flags = set(parsed.flags)
    if parsed.answer is None:
        return Score(value=0.0, flags=ordered(flags))
    reading = read_choices(parsed.answer, count=count, options=options)
    flags |= {reading.flag} if reading.flag else set()
    said = set(reading.letters)
    if exact:
        value = float(said == gold)
    elif said >= set(LETTERS[:count]) and said != gold:
        value = 0.0
    else:
        value = 2 * len(said & gold) / (len(said) + len(gold))
    return Score(value=value, flags=ordered(flags))


def yesno(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """1 when the answer begins with the right one of yes and no, and does not give both.

    Formula: 1[said == target]
    Range: [0, 1]

    Example: score("yesno", "<think>no tail</think><answer>No, there is none.</answer>", "no") -> 1.0
    """
    gold = target.strip().lower() if isinstance(target, str) else None
    if gold not in ("yes", "no"):
        raise TargetError(f"a yesno target is 'yes' or 'no', got {target!r}; correct the row or use cls.label")
    flags = set(parsed.flags)
    if parsed.answer is None:
        return Score(value=0.0, flags=ordered(flags))
    said, flag = read_yes_no(parsed.answer)
    return Score(value=float(said == gold), flags=ordered(flags | ({flag} if flag else set())))


def _known(meta: Mapping[str, Any]) -> tuple[int, Sequence[str]]:
    """(how many options there are, their texts or none). Raises TargetError."""
    options, number = meta.get("options"), meta.get("num_options")
    if options is not None:
        texts = isinstance(options, list | tuple) and all(isinstance(text, str) for text in options)
        if not texts or not 2 <= len(options) <= len(LETTERS):
            raise TargetError(f"meta 'options' is a list of 2 to 26 option texts, got {options!r}; correct the row")
        if number is not None and number != len(options):
            raise TargetError(f"meta 'num_options' is {number!r}, but there are {len(options)} 'options'; give one")
        return len(options), options
    if number is None:
        return len(LETTERS), ()
    if isinstance(number, bool) or not isinstance(number, int) or not 2 <= number <= len(LETTERS):
        raise TargetError(f"meta 'num_options' is a whole number from 2 to 26, got {number!r}; correct the row")
    return number, ()


def _gold(target: Any, count: int) -> str:
    """The target as an upper-case letter. Raises TargetError."""
    gold = target.strip().strip("().").upper() if isinstance(target, str) else ""
    if len(gold) != 1 or gold not in LETTERS:
        raise TargetError(f"a choice target is one letter such as 'B', got {target!r}; use cls.label for option texts")
    if gold not in LETTERS[:count]:
        raise TargetError(f"choice target {target!r} is beyond the last of {count} options; check 'options'")
    return gold
