"""Option letters, and yes or no, as answers give them."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from vlrft.parse.qualifiers import denied_after
from vlrft.parse.text import normalise

LETTERS = string.ascii_uppercase
"""Options are lettered A to Z."""
_MAX_LENGTH = 10_000
"""Characters; a longer text is not an answer to a multiple-choice question."""

_LONGEST_TEXT = 1_000
"""Characters behind a letter in which an option's text is looked for."""

_LATEX_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s?\{([^{}]*)\}")
_BOXED_LETTER = re.compile(r"\\f?boxed\s?\{\s?\(?([A-Za-z])\)?\.?\s?\}")
_BOXED_OPENING = re.compile(r"\\f?boxed\s?\{")
_MARKED_LETTER = re.compile(r"(?<!\w)(\*{1,3}|_{1,2}|[`$\"'])\s?\(?([A-Za-z])\)?\s?\1(?!\w)")
_MARKS = re.compile(r"\*+|__+|[`$]")
_QUOTES = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")

_LONE = re.compile(r"[\W_]*([A-Za-z])(?:[\W_]+\1)*[\W_]*")
_LETTER = re.compile(r"(?<![\w'])([A-Za-z])(?![\w']|-\w)")
_LINE_START = re.compile(r"(?:\A|\n)[^\w\n]*\Z")
_LABEL_END = re.compile(r"[ \t]?[.):]+(?=\s|[^\w.]|\Z)")
_ANSWER_END = re.compile(r"[ \t]?[,;]|[ \t]+-(?=\s)|[ \t]+\(|[ \t]*\n|[ \t]+(?:because|since|is)\b")
_CONCLUDED = re.compile(
    r"(?:\bi(?:'d| would)? (?:think|believe|guess|say|go with|go for)(?: it(?:'s| is))?"
    r"|\b(?:it|this|that) (?:is|must be|should be|would be)|\b(?:so|thus|therefore|hence))[,:]? \Z",
    re.I,
)
_TEXT_END = re.compile(r"[\s.!]*\Z")
_ARTICLE = re.compile(r"\s+(?!(?:or|and|nor|vs|versus|is|are|because|since|but|not|then)\b)(?:[a-z]|\w{2})")
_ANNOUNCED = re.compile(
    r"\b(?:answers?|options?|choices?|letters?|choose|chose|pick|select)"
    r"(?:\s+(?:is|are|was|be|would be|should be|must be))?\s*[:=]?\s*[\"']?\Z",
    re.I,
)
_JOINED = re.compile(r"(?:\b(?:or|and|nor)\s|[/,&]\s?)\Z", re.I)
# A bare letter after any other word is part of a name, as in "Vitamin C".
_NAME = re.compile(r"([^\W\d_]{2,})[ ]\Z")
_LEADS = re.compile(
    "or|and|nor|not|neither|either|maybe|perhaps|possibly|probably|be|is|are|also|then|but|vs|versus|plus|both|to|with"
    "|answers?|options?|choices?|letters?|choose|chose|pick|select",
    re.I,
)
_PREFIX = re.compile(r"\s*[(\[]?([A-Za-z])\s?[.):\]]+\s*")
_SAYS = re.compile(r"\A\W*(?:(?:so|thus|therefore)\W+)?(?:the\s+)?(?:\w+\s+)?answer(?:\s+is\b|\s*:)[\s:]*", re.I)
_ONLY_LETTERS = re.compile(r"[\W_]*[A-Za-z](?:(?:[\W_]+(?:and[\W_]+)?)[A-Za-z])*[\W_]*", re.I)
_RUN = re.compile(r"[\W_]*([A-Z]{2,26})[\W_]*")
_UNDECIDED = re.compile(r"\b(?:or|either|nor|not|except|(?:is|are)\s+(?:wrong|incorrect))\b", re.I)
_THAT_IS = re.compile(
    r"(?:(?:i\.?\s?e\b\.?|that\s+is(?:\s+to\s+say)?|that's|namely|viz\b\.?|meaning|aka|which\s+(?:is|means|says|shows)"
    r"|it\s+is|it's|or)[\s,:]*)?(?:(?:an?|the)\s+)?",
    re.I,
)
_LEADING_ARTICLE = re.compile(r"\A(?:an?|the) (?=\S)")
_PART_END = re.compile(r"[.,;:)\]\n]|\s(?:because|since|as)\b", re.I)
_ITEM_GAP = re.compile(r"[,;\n]|\band\b")

_TOKEN = re.compile(r"[^\W_]+|[^\w\s]")
_FILLERS = re.compile(
    "the|my|a|final|correct|right|answer|response|result|is|it|i|think|believe|would|say|so|therefore|thus|hence|well"
    "|oh|okay|ok|definitely|certainly|clearly|to|this|that|question|boxed|text|textbf"
)


_STOPS = (".", ",", "!", ";", ":")
_SUBJECTS = ("it", "there", "he", "she", "they", "i", "we", "you", "this", "that", "the", "not")
"""What follows a "no" that is an answer of its own: "Yes, no it is not"."""


@dataclass(frozen=True, slots=True)
class ChoiceReading:
    """Which options an answer chooses.

    Example: read_choice("B. a cat") == ChoiceReading(("B",)); read_choice("A or B").flag == "several_answers"
    """

    letters: tuple[str, ...] = ()
    """Upper-case, sorted, each once; empty where nothing is chosen."""
    flag: str | None = None
    """`unparsable`, `several_answers` or `out_of_range` (a letter beyond the last option)."""


def read_choice(answer: str, *, count: int = 26, options: Sequence[str] = ()) -> ChoiceReading:
    """The one option that `answer` chooses. Never raises for a text.

    Read: a lone letter of either case, also said twice or on a line of its own before an explanation; "B.", "(B)",
    "B)", "B: text", "B. text", "B (text)", "B, because"; bold, quoted or in boxed braces; "the answer is B",
    "option B", "I think B", "it must be B." at the end; a letter before its own option's text ("B cat"); the text of
    exactly one option. A bare "A" or "I" before a word is an article or a pronoun, and a letter after a name-like word
    belongs to it ("Vitamin C"); any other second letter makes the answer ambiguous, and so does the text of another
    option.
    Letters are read after NFKC: full-width and circled ones count, look-alikes of other scripts do not.
    count: how many options there are. options: their texts, with or without "B. "; they override `count`.
    """
    if len(answer) > _MAX_LENGTH:
        return ChoiceReading(flag="unparsable")
    texts = _texts(tuple(options))
    clean = _prepared(answer)
    named = _named(clean, texts)
    if named:
        return ChoiceReading((named,))
    plain = _without_texts(clean, tuple(options))
    known = LETTERS[: len(texts) or count]
    every, strong = _mentions(plain, known)
    if len(every) > 1:
        return ChoiceReading(tuple(sorted(every)), "several_answers")
    if not strong:
        return ChoiceReading(flag="unparsable")
    letter, end = strong[0]
    if letter not in known:
        return ChoiceReading(flag="out_of_range")
    said = _said_beside(letter, clean[end:].lstrip(" \t.):,;-([=/\"'"), texts)
    return ChoiceReading(tuple(sorted({letter, said})), None if said == letter else "several_answers")


def read_choices(answer: str, *, count: int = 26, options: Sequence[str] = ()) -> ChoiceReading:
    """All options that `answer` chooses. Never raises for a text.

    Read: letters of either case with commas, semicolons, slashes, spaces, lines or "and" between, brackets, JSON;
    capitals run together ("ACD"); everything that `read_choice` reads; option texts as items of a list. A text with
    "or", "not" or "except" outside the options' texts chooses nothing. Letters beyond the last option are kept, with
    the flag `out_of_range`.
    """
    if len(answer) > _MAX_LENGTH:
        return ChoiceReading(flag="unparsable")
    texts = _texts(tuple(options))
    clean = _prepared(answer)
    named = _named(clean, texts)
    run = _RUN.fullmatch(clean)
    known = LETTERS[: len(texts) or count]
    if named:
        letters = {named}
    elif _ONLY_LETTERS.fullmatch(clean):
        letters = {letter.upper() for letter in _LETTER.findall(clean)}
    elif run and len(set(run[1])) == len(run[1]):
        letters = set(run[1])
    else:
        letters = {found for item in _ITEM_GAP.split(clean) if (found := _named(item, texts))}
        plain = _without_texts(clean, tuple(options))
        if _UNDECIDED.search(plain):
            return ChoiceReading(flag="unparsable")
        letters |= _mentions(plain, known)[0]
    if not letters:
        return ChoiceReading(flag="unparsable")
    return ChoiceReading(tuple(sorted(letters)), None if letters <= set(known) else "out_of_range")


def read_yes_no(answer: str) -> tuple[str | None, str | None]:
    """("yes", None), ("no", None), or (None, the flag `unparsable` or `several_answers`). Never raises.

    The first word after phrases like "The answer is" decides. The opposite word as an answer of its own anywhere
    later ("yes or no", "Yes. No.") makes both; "Yes, there is no dog" and "Yes, no doubt" say yes.
    Example: read_yes_no("No, it cannot.") == ("no", None)
    """
    if len(answer) > _MAX_LENGTH:
        return None, "unparsable"
    tokens = _TOKEN.findall(unicodedata.normalize("NFKC", answer).casefold())
    first = next((i for i, t in enumerate(tokens) if t[0].isalnum() and not _FILLERS.fullmatch(t)), None)
    if first is None or tokens[first] not in ("yes", "no"):
        return None, "unparsable"
    said = tokens[first]
    opposite = "no" if said == "yes" else "yes"
    for before, token, after in zip(tokens[first:], tokens[first + 1 :], [*tokens[first + 2 :], "."], strict=False):
        stops = before in _STOPS and after not in _SUBJECTS
        determiner = token == "no" and (stops or _plain_word(before)) and _plain_word(after)
        if token == opposite and not determiner:
            return None, "several_answers"
    return said, None


def _plain_word(token: str) -> bool:
    return token[0].isalnum() and token not in ("yes", "no", "or", "and", "but", "maybe", "perhaps")


def _prepared(answer: str) -> str:
    """NFKC, straight quotes, no Markdown or LaTeX around letters: a bold or boxed letter becomes "(B)"."""
    text = unicodedata.normalize("NFKC", answer).translate(_QUOTES).strip()
    if "\\" in text:
        text = _BOXED_LETTER.sub(r" (\1) ", _LATEX_TEXT.sub(r"\1", text))
        text = _BOXED_OPENING.sub("\n", text)
    return _MARKS.sub("", _MARKED_LETTER.sub(r"(\2)", text)).strip()


def _mentions(text: str, known: str) -> tuple[set[str], list[tuple[str, int]]]:
    """(every letter that stands as a choice, those that are clearly the answer with where they end).

    A letter that no option has counts only where it is clearly an answer; one that is denied ("B is wrong") is none.
    """
    every: set[str] = set()
    strong: list[tuple[str, int]] = []
    alone = len(text) < 24 and _LONE.fullmatch(text) is not None
    for match in _LETTER.finditer(text):
        weight = 2 if alone else _weight(text, match.start(), match.end())
        if weight == 2 or (weight and match[1].upper() in known):
            every.add(match[1].upper())
        if weight == 2 and not denied_after(text, match.end()):
            strong.append((match[1].upper(), match.end()))
    return every, strong


def _weight(text: str, start: int, end: int) -> int:
    """2: the letter is announced, bracketed or labels a line; 1: it may be a choice; 0: it is part of the sentence."""
    letter, before, after = text[start], text[max(0, start - 40) : start], text[end : end + 16]
    if before[-1:] in ("(", "[") and after[:1] in (")", "]") and not before[-2:-1].isalnum():
        return 2
    opens = _LINE_START.search(before) is not None
    if opens and _LABEL_END.match(after):
        return 2
    if _ARTICLE.match(after) and (letter in "AI" or letter.islower()):
        return 0
    if _ANNOUNCED.search(before) or (opens and letter.isupper() and _ANSWER_END.match(after)):
        return 2
    if letter.isupper() and _CONCLUDED.search(before) and _TEXT_END.match(after):
        return 2
    if letter.islower():
        return 1 if _JOINED.search(before) else 0
    name = _NAME.search(before)
    return 0 if name and not _LEADS.fullmatch(name[1]) else 1


def _said_beside(letter: str, rest: str, texts: tuple[str, ...]) -> str:
    """The letter of the option whose text stands beside a chosen `letter`: "B, i.e. a cat"; `letter` where none does.

    The text is what follows, or its first part, with or without "i.e." and an article.
    """
    if not rest or not texts:
        return letter
    own = texts[LETTERS.index(letter)]
    rest = rest[:_LONGEST_TEXT]
    plain = _THAT_IS.sub("", rest, count=1)
    if own and any(normalise(said).startswith((own, _LEADING_ARTICLE.sub("", own))) for said in (rest, plain)):
        return letter
    parts = dict.fromkeys((rest, plain, *(_PART_END.split(said, maxsplit=1)[0] for said in (rest, plain))))
    bare = tuple(_LEADING_ARTICLE.sub("", text) for text in texts)
    return next((named for said in parts for known in (texts, bare) if (named := _named(said, known))), letter)


def _named(text: str, texts: tuple[str, ...]) -> str | None:
    """The letter of the one option whose text this is, alone, after "The answer is" or after its own letter."""
    if not texts or _LETTER.fullmatch(text.strip(" .()[]")):
        return None
    for said in dict.fromkeys((text, _SAYS.sub("", text))):
        same = [i for i, option in enumerate(texts) if option and option == normalise(said)]
        if len(same) == 1:
            return LETTERS[same[0]]
        prefix = re.match(r"\W*([A-Za-z])(?:[\s.):]+)(?=\S)", said)
        index = LETTERS.index(prefix[1].upper()) if prefix else len(texts)
        if prefix and index < len(texts) and texts[index] and texts[index] == normalise(said[prefix.end() :]):
            return LETTERS[index]
    return None


@lru_cache(maxsize=1024)
def _texts(options: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(normalise(text) for text in _bare_options(options))


def _bare_options(options: tuple[str, ...]) -> list[str]:
    """The options without the letters in front of them, where every one has its own."""
    found = [_PREFIX.match(option) for option in options]
    own = all(m and m[1].upper() == letter for m, letter in zip(found, LETTERS, strict=False))
    return [option[m.end() :] if own and m else option for option, m in zip(options, found, strict=True)]


@lru_cache(maxsize=1024)
def _lettered(options: tuple[str, ...]) -> re.Pattern[str] | None:
    """The option texts that hold a letter of their own, "Vitamin C"."""
    bare = [unicodedata.normalize("NFKC", text).strip(" .") for text in _bare_options(options)]
    risky = sorted({t for t in bare if len(t) > 2 and _LETTER.search(t)}, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, risky))})(?!\w)", re.I) if risky else None


def _without_texts(text: str, options: tuple[str, ...]) -> str:
    """`text` with such option texts replaced by a word of the same length: their letters choose nothing."""
    pattern = _lettered(options) if options else None
    return pattern.sub(lambda m: "x" * len(m.group()), text) if pattern else text
