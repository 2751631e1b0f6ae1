"""Open-ended text against one or several references: word error rate, ROUGE, BLEU-1, edit similarity.

Target: a string, or a list of strings of which the best counts. None may be blank.

Meta: `synonyms`, phrases that mean the same: `{"myocardial infarction": ["MI", "heart attack"]}`, `{"MI": "heart
attack"}` or `[["MI", "heart attack"], ...]`. They are replaced as whole words on both sides.

Answer: the whole answer as text. Words are runs of letters and digits, NFKC and case folded, without punctuation;
characters of Chinese and Japanese count one by one; a reference without any word is compared by what white space
separates. No answer is worth 0. An answer of more than 200,000 characters is not read (0, flag `over_length`).

Guards: every value is multiplied by min(1, (3 len_ref + 5) / len_pred), lengths in words, so that stuffing keywords or
repeating the reference does not pay; the flag `over_length` says that this factor is below 1. Counts are multisets: a
word said ten times matches once. ROUGE-2 is left out for references shorter than two tokens, where it is always 0.

Source: WER, BLEU (Papineni et al. 2002) and ROUGE (Lin 2004); Video-R1 trains on WER and on the mean of ROUGE-1, -2
and -L, ARMed on BLEU-1 and ROUGE-1.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from vlrft.parse import Parsed, normalise, visible_length, words
from vlrft.rewards.base import TargetError, ordered
from vlrft.types import Score

MAX_CHARS = 200_000
"""A longer answer is worth 0: the length guard leaves nothing of it, and reading it would take seconds."""
ROUGE_KINDS: tuple[str, ...] = ("rouge1", "rouge2", "rougeL")

_BY_CHARACTER = re.compile(
    "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+"
)
_ROUGE_WORD = re.compile(r"[a-z0-9]+")

Phrase = tuple[str, ...]
Synonyms = dict[str, list[tuple[Phrase, Phrase]]]
"""First word of a phrase to (phrase, what stands for it), longest phrase first."""
Comparison = Callable[[str, str], tuple[float | None, int, int]]
"""(answer, reference) -> (value or None where it does not apply, length of the answer, length of the reference)."""


def wer(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """One minus the word error rate.

    Formula: max(0, 1 - (substitutions + insertions + deletions) / len_ref) * min(1, (3 len_ref + 5) / len_pred)
    Range: [0, 1]

    Example: score("text.wer", "<answer>the cat sat</answer>", "the cat sat down") -> 0.75
    """
    distance = _rapidfuzz().distance.Levenshtein.distance

    def compare(answer: str, reference: str) -> tuple[float, int, int]:
        got, wanted = tokens(answer, reference), tokens(reference, reference)
        return max(0.0, 1.0 - distance(got, wanted) / len(wanted)), len(got), len(wanted)

    return _best("text.wer", parsed, target, meta, compare)


def rouge(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, kinds: Sequence[str] = ROUGE_KINDS) -> Score:
    """Mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L, with Porter stemming; equal to the rouge-score library for ASCII.

    Formula: mean over kinds of 2 p r / (p + r) * min(1, (3 len_ref + 5) / len_pred)
    Range: [0, 1]; None when `rouge2` alone is asked for and no reference has two tokens

    kinds: which of rouge1, rouge2 and rougeL are averaged. rouge2 is left out for references of one token.

    Example: score("text.rouge", "<answer>the cats sat</answer>", "the cat sat") -> 1.0
    """
    wanted = [kinds] if isinstance(kinds, str) else list(kinds)
    if not wanted or any(kind not in ROUGE_KINDS for kind in wanted):
        raise ValueError(f"text.rouge: kinds must be some of {', '.join(ROUGE_KINDS)}, got {kinds!r}")

    def compare(answer: str, reference: str) -> tuple[float | None, int, int]:
        got, ref = rouge_tokens(answer, reference), rouge_tokens(reference, reference)
        values = [rouge_f(kind, got, ref) for kind in wanted if kind != "rouge2" or len(ref) > 1]
        return (math.fsum(values) / len(values) if values else None), len(got), len(ref)

    return _best("text.rouge", parsed, target, meta, compare)


def bleu1(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """BLEU-1: clipped unigram precision with the brevity penalty, against each reference by itself.

    Formula: matches / len_pred * min(1, exp(1 - len_ref / len_pred)) * min(1, (3 len_ref + 5) / len_pred)
    Range: [0, 1]

    Example: score("text.bleu1", "<answer>a big black cat</answer>", "a big white cat") -> 0.75
    """

    def compare(answer: str, reference: str) -> tuple[float, int, int]:
        got, wanted = tokens(answer, reference), tokens(reference, reference)
        if not got:
            return 0.0, 0, len(wanted)
        brevity = min(1.0, math.exp(1.0 - len(wanted) / len(got)))
        return shared(got, wanted) / len(got) * brevity, len(got), len(wanted)

    return _best("text.bleu1", parsed, target, meta, compare)


def edit(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """Similarity of the characters after normalisation (NFKC, case, spaces, dashes, outer quotes, final period).

    Formula: 2 LCS / (chars_pred + chars_ref) * min(1, (3 len_ref + 5) / len_pred), LCS = longest common subsequence
    Range: [0, 1]

    Example: score("text.edit", "<answer>Grey</answer>", "gray") -> 0.75
    """
    similarity = _rapidfuzz().distance.Indel.normalized_similarity

    def compare(answer: str, reference: str) -> tuple[float, int, int]:
        got, wanted = normalise(answer) or answer, normalise(reference) or reference
        return float(similarity(got, wanted)), len(tokens(answer, reference)), len(tokens(reference, reference))

    return _best("text.edit", parsed, target, meta, compare)


def _best(name: str, parsed: Parsed, target: Any, meta: Mapping[str, Any], compare: Comparison) -> Score:
    """The best value over the references, length guard included."""
    known = references(name, target)
    table = synonyms(name, meta.get("synonyms"))
    answer = readable(parsed)
    if answer is None:
        return Score(value=0.0, flags=unread_flags(parsed))
    answer = replace(answer, table)
    found = [(value, guard) for value, guard in (_guarded(compare(answer, replace(r, table))) for r in known)]
    applying = [(value, guard) for value, guard in found if value is not None]
    if not applying:
        return Score(value=None, flags=parsed.flags)
    value, guard = max(applying)
    return Score(value=value, flags=ordered({*parsed.flags, *(["over_length"] if guard < 1.0 else [])}))


def _guarded(compared: tuple[float | None, int, int]) -> tuple[float | None, float]:
    value, got, wanted = compared
    guard = length_guard(got, wanted)
    return (None if value is None else min(1.0, value) * guard), guard


def length_guard(got: int, wanted: int) -> float:
    """min(1, (3 wanted + 5) / got): what is left of a value when the answer is far longer than the reference."""
    return min(1.0, (3 * wanted + 5) / got) if got else 1.0


def references(name: str, target: Any) -> list[str]:
    """The references of a target. Raises TargetError unless it is a text, or a list of texts, none of them blank."""
    texts = [target] if isinstance(target, str) else target
    if not isinstance(texts, list | tuple) or not texts:
        raise TargetError(f"{name}: the target must be a text or a list of texts, got {target!r}; correct the row")
    for text in texts:
        if not isinstance(text, str) or not visible_length(text):
            raise TargetError(f"{name}: reference {text!r} of target {target!r} is not a text with content; drop it")
    return list(texts)


def readable(parsed: Parsed) -> str | None:
    """The answer, None where there is none or it is too long to be read."""
    return parsed.answer if parsed.answer is not None and len(parsed.answer) <= MAX_CHARS else None


def unread_flags(parsed: Parsed) -> tuple[str, ...]:
    """Flags of an answer that `readable` refuses."""
    return ordered({*parsed.flags, *(["over_length"] if parsed.answer is not None else [])})


def tokens(text: str, reference: str) -> list[str]:
    """Words of `text` as compared with `reference`: without punctuation, unless the reference is nothing else."""
    if not words(reference):
        return text.casefold().split()
    found = words(text)
    if text.isascii():
        return found
    return [token for word in found for token in ([word] if word.isascii() else _BY_CHARACTER.findall(word))]


def shared(got: Sequence[str], wanted: Sequence[str]) -> int:
    """How many tokens two texts share, each as often as both have it."""
    return (Counter(got) & Counter(wanted)).total()


def rouge_tokens(text: str, reference: str) -> list[str]:
    """Stemmed tokens as the rouge-score library makes them; words of any script where the reference has such."""
    ascii_only = reference.isascii() or all(word.isascii() for word in words(reference))
    found = _ROUGE_WORD.findall(text.lower()) if ascii_only else tokens(text, reference)
    if ascii_only and not _ROUGE_WORD.search(reference.lower()):
        found = tokens(text, reference)
    return [_stem(token) if len(token) > 3 and token.isascii() else token for token in found]


@functools.lru_cache(maxsize=65_536)
def _stem(token: str) -> str:
    return str(_tokenizer().tokenize(token)[0])


@functools.cache
def _tokenizer() -> Any:
    try:
        from rouge_score.tokenizers import DefaultTokenizer
    except ImportError as error:
        raise ImportError(
            "text.rouge and med.open need rouge-score: pip install 'vlrft[rewards]' (README, Install)"
        ) from error
    return DefaultTokenizer(use_stemmer=True)


@functools.cache
def _rapidfuzz() -> Any:
    try:
        import rapidfuzz
    except ImportError as error:
        raise ImportError(
            "text.* and med.open need rapidfuzz: pip install 'vlrft[rewards]' (README, Install)"
        ) from error
    return rapidfuzz


def rouge_f(kind: str, got: Sequence[str], wanted: Sequence[str]) -> float:
    """F1 of one kind of ROUGE between two lists of tokens."""
    if kind == "rougeL":
        matches, n_got, n_wanted = _rapidfuzz().distance.LCSseq.similarity(got, wanted), len(got), len(wanted)
    else:
        n = int(kind[-1])
        ours, theirs = (Counter(zip(*(side[i:] for i in range(n)), strict=False)) for side in (got, wanted))
        matches, n_got, n_wanted = (ours & theirs).total(), ours.total(), theirs.total()
    return 2.0 * matches / (n_got + n_wanted) if matches else 0.0


def synonyms(name: str, given: Any, base: Synonyms | None = None) -> Synonyms:
    """A table for `replace` from `meta["synonyms"]`; phrases are first rewritten by `base`. Raises TargetError."""
    if not given:
        return {}
    standing: dict[Phrase, Phrase] = {}
    for group in _groups(name, given):
        phrases = [replace_words(words(phrase), base or {}) for phrase in group]
        if any(not phrase for phrase in phrases):
            raise TargetError(f"{name}: synonyms {group!r} hold a phrase without a word; drop it")
        keys = [tuple(phrase) for phrase in phrases]
        stand_in = next((standing[key] for key in keys if key in standing), keys[0])
        standing |= dict.fromkeys(keys, stand_in)
    return synonym_table(standing.items())


def _groups(name: str, given: Any) -> list[list[str]]:
    pairs: list[list[Any]] = [[None]]
    if isinstance(given, Mapping):
        pairs = [[key, *(value if isinstance(value, list | tuple) else [value])] for key, value in given.items()]
    elif isinstance(given, list | tuple):
        pairs = [list(group) if isinstance(group, list | tuple) else [None] for group in given]
    if not all(isinstance(phrase, str) for group in pairs for phrase in group):
        raise TargetError(
            f"{name}: synonyms must map a phrase to a phrase or a list of them, or list groups, got {given!r}"
        )
    return pairs


def synonym_table(pairs: Iterable[tuple[Phrase, Phrase]]) -> Synonyms:
    """(phrase, what stands for it) pairs by the phrase's first word, longest first."""
    table: Synonyms = {}
    for phrase, stand_in in sorted(pairs, key=lambda pair: -len(pair[0])):
        table.setdefault(phrase[0], []).append((phrase, stand_in))
    return table


def replace(text: str, table: Synonyms) -> str:
    """`text` itself where the table is empty, else its words with every known phrase replaced."""
    return " ".join(replace_words(words(text), table)) or text if table else text


def replace_words(found: Sequence[str], table: Synonyms) -> list[str]:
    """`found` with every phrase of the table replaced, longest match first, in one pass."""
    kept: list[str] = []
    position = 0
    while position < len(found):
        for phrase, stand_in in table.get(found[position], ()):
            if tuple(found[position : position + len(phrase)]) == phrase:
                kept += stand_in
                position += len(phrase)
                break
        else:
            kept.append(found[position])
            position += 1
    return kept
