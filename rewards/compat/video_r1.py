"""Video-R1: answers by type of problem, and its group terms.

Target: the true answer as text or number; for `group` the accuracies of the ordered rollouts.
Meta: `group` alone: `control` (accuracies on shuffled frames), `formats`, `group_lengths` (tokens), `index`.
Answer: the first answer block; the spec does not say what a completion without one is worth, 0 here.
Guards: for training use mcq.letter, num.*, text.*, video.temporal_contrast.
Source: Video-R1 (arXiv 2503.21776), released rewards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vlrft.parse import Parsed
from vlrft.rewards.base import Judged, TargetError
from vlrft.rewards.compat.answers import first, has_shape, truth_text
from vlrft.types import Score

_GOOD = 0.1
_LONGEST_ANSWER = 20_000
_TEMPORAL, _TEMPORAL_SHARE = 0.3, 0.8
_LENGTH, _SHORTEST, _LONGEST = 0.2, 320, 512


def multiple_choice(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """1 when the answer is exactly the truth: "B." or "b" for "B" are misses.

    Formula: 1[strip(answer) = strip(truth)]
    Range: [0, 1]
    Example: score("compat.video_r1.multiple_choice", "<answer>B</answer>", "B") -> 1.0
    """
    truth = truth_text(target, "compat.video_r1.multiple_choice")
    return Score(value=float(first(parsed.text) == truth))


def numerical(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """1 when both are written with or both without a dot or comma, and agree at two decimals.

    Kept: "5.0" is no "5" and "1,000" no "1000"; 0.004 equals 0.001.

    Formula: 1[decimal(answer) = decimal(truth)] * 1[round(answer, 2) = round(truth, 2)]
    Range: [0, 1]
    Example: score("compat.video_r1.numerical", "<answer>3.14</answer>", "3.142") -> 1.0
    """
    truth = truth_text(target, "compat.video_r1.numerical")
    gold = _number(truth)
    if gold is None:
        raise TargetError(f"compat.video_r1.numerical needs a number as its target, got {target!r}")
    answer = first(parsed.text) or ""
    found = _number(answer)
    if found is None:
        return Score(value=0.0, flags=("unparsable",))
    same_form = any(mark in answer for mark in ".,") == any(mark in truth for mark in ".,")
    return Score(value=float(same_form and round(found, 2) == round(gold, 2)))


def regression(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """1 less the relative error. Mended: "nan" is worth 0 (the peer gives 1).

    Formula: 1 - min(1, |p - g| / (|g| + 1e-9))
    Range: [0, 1]
    Example: score("compat.video_r1.regression", "<answer>75</answer>", 100) -> 0.7500000000025
    """
    gold = _number(truth_text(target, "compat.video_r1.regression"))
    if gold is None:
        raise TargetError(f"compat.video_r1.regression needs a number as its target, got {target!r}")
    found = _number(first(parsed.text) or "")
    if found is None:
        return Score(value=0.0, flags=("unparsable",))
    return Score(value=1.0 - min(1.0, abs(found - gold) / (abs(gold) + 1e-9)))


def ocr(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """1 less the word error rate, not below 0.

    Words are what white space separates. The spec does not say whether letter case counts; it does here.

    Formula: max(0, 1 - edits / #words of the truth)
    Range: [0, 1]
    Example: score("compat.video_r1.ocr", "<answer>the red hat</answer>", "the red cat") -> 0.6666666666666667
    """
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError as error:
        raise ImportError(
            "compat.video_r1.ocr needs rapidfuzz: pip install 'vlrft[rewards]' (README, Install)"
        ) from error
    truth = truth_text(target, "compat.video_r1.ocr").split()
    found = (first(parsed.text) or "").split()
    return Score(value=max(0.0, 1.0 - Levenshtein.distance(found, truth) / len(truth)))


def free_form(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """Mean F of ROUGE-1, ROUGE-2 and ROUGE-L with stemming.

    Kept: a truth of one word has no ROUGE-2, so that its exact answer is worth 2/3.

    Formula: mean(F(ROUGE-1), F(ROUGE-2), F(ROUGE-L))
    Range: [0, 1]
    Example: score("compat.video_r1.free_form", "<answer>running</answer>", "runs") -> 0.6666666666666666
    """
    truth = truth_text(target, "compat.video_r1.free_form")
    kinds = ("rouge1", "rouge2", "rougeL")
    answer = first(parsed.text) or ""
    if len(answer) > _LONGEST_ANSWER:
        return Score(value=0.0, flags=("over_length",))
    found = _scorer(kinds).score(truth, answer)
    return Score(value=sum(found[kind].fmeasure for kind in kinds) / len(kinds))


def group(group: Judged, *, accuracy: str = "accuracy", format: str = "format") -> list[Score]:
    """Accuracy + format + temporal bonus + length bonus of every completion of a group.

    Temporal: +0.3 for accuracy > 0.1 when the mean accuracy on ordered frames is at least 0.8 of that on shuffled ones
    (the author says 1.0 was meant). Length: +0.2 for accuracy > 0.1 and 320 to 512 tokens, when at least two
    completions have accuracy > 0.1. Neither is normalised. Without `control` there is no temporal term.

    accuracy, format: names of the parts of the run that hold them; a run without that format part uses the shape.

    Formula: accuracy + format + 0.3 [temporal] + 0.2 [length]
    Range: [0, 2.5]
    Example: score("compat.video_r1.group", "", [1.0, 0.0], {"control": [0.5], "index": 0}) -> 1.3
    """
    meta = group.meta[0]
    alone = isinstance(group.target, list) and len(group.parsed) == 1 and accuracy not in group.parts[0]
    if alone:
        accuracies = _numbers(group.target, "the target")
        formats = _numbers(meta.get("formats", [0.0] * len(accuracies)), "meta['formats']")
        lengths = _numbers(meta.get("group_lengths", [0.0] * len(accuracies)), "meta['group_lengths']")
    else:
        accuracies = [_part(parts, accuracy) for parts in group.parts]
        formats = [
            _part(parts, format) if format in parts else float(has_shape(parsed.text))
            for parts, parsed in zip(group.parts, group.parsed, strict=True)
        ]
        lengths = [float(row.get("num_tokens") or 0) for row in group.meta]
    if not len(accuracies) == len(formats) == len(lengths):
        raise TargetError("compat.video_r1.group: accuracies, formats and group_lengths must be equally long")
    control = meta.get("control")
    totals = _totals(accuracies, formats, lengths, None if control is None else _numbers(control, "meta['control']"))
    if not alone:
        return [Score(value=total) for total in totals]
    index = meta.get("index")
    if index is not None and not (isinstance(index, int) and 0 <= index < len(totals)):
        raise TargetError(f"compat.video_r1.group: meta['index'] must name one of {len(totals)} rollouts: {index!r}")
    return [Score(value=sum(totals) / len(totals) if index is None else totals[index])]


def _totals(
    accuracies: Sequence[float], formats: Sequence[float], lengths: Sequence[float], control: Sequence[float] | None
) -> list[float]:
    good = [value > _GOOD for value in accuracies]
    temporal = control is not None and _mean(accuracies) >= _TEMPORAL_SHARE * _mean(control)
    paid = sum(good) >= 2
    return [
        value
        + shape
        + (_TEMPORAL if temporal and fine else 0.0)
        + (_LENGTH if paid and fine and _SHORTEST <= tokens <= _LONGEST else 0.0)
        for value, shape, tokens, fine in zip(accuracies, formats, lengths, good, strict=True)
    ]


def _part(parts: Mapping[str, float | None], name: str) -> float:
    if name not in parts:
        known = ", ".join(parts) or "none"
        raise TargetError(
            f"compat.video_r1.group: no part {name!r} among the other rewards' ({known}); name the right one by the "
            "option accuracy or format"
        )
    return parts[name] or 0.0


def _numbers(value: Any, what: str) -> list[float]:
    if not isinstance(value, list | tuple) or not value:
        raise TargetError(f"compat.video_r1.group: {what} must be a list of numbers, got {value!r}")
    if not all(isinstance(v, int | float) and math.isfinite(v) for v in value):
        raise TargetError(f"compat.video_r1.group: {what} must hold finite numbers, got {value!r}")
    return [float(v) for v in value]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _number(text: str) -> float | None:
    try:
        value = float(text.replace(",", ""))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


_SCORERS: dict[tuple[str, ...], Any] = {}


def _scorer(kinds: tuple[str, ...]) -> Any:
    if kinds not in _SCORERS:
        try:
            from rouge_score import rouge_scorer
        except ImportError as error:
            raise ImportError(
                "compat.video_r1.free_form needs rouge-score: pip install 'vlrft[rewards]' (README, Install)"
            ) from error
        _SCORERS[kinds] = rouge_scorer.RougeScorer(list(kinds), use_stemmer=True)
    return _SCORERS[kinds]
