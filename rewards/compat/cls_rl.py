"""CLS-RL and No-Thinking-RL: few-shot classification with and without reasoning.

Target: the label, also wrapped in answer tags.
Answer: the first answer block (thinking), or the whole completion (no-thinking).
Guards: the peer compares the whole completion with the truth by math-verify first, so a number in the reasoning could
score; that check is left out here.
Source: CLS-RL / No-Thinking-RL, "Think or Not Think".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlrft.parse import Parsed
from vlrft.rewards.compat.answers import first_or_all, truth_text, unwrap
from vlrft.types import Score


def think(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """1 when the answer is the label, letter case and outer space aside.

    Kept: first answer block; the whole completion where there is none. Mended: no symbolic check of the completion.

    Formula: 1[lower(strip(answer)) = lower(strip(label))]
    Range: [0, 1]
    Example: score("compat.cls_rl.think", "<think>a</think><answer>Rose </answer>", "rose") -> 1.0
    """
    truth = truth_text(target, "compat.cls_rl.think")
    return Score(value=float(first_or_all(parsed.text).lower() == truth.lower()))


def direct(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """1 when the completion is exactly the label: no stripping, no case folding.

    Kept: a trailing space is a miss.

    Formula: 1[completion = label]
    Range: [0, 1]
    Example: score("compat.cls_rl.direct", "rose ", "rose") -> 0.0
    """
    truth_text(target, "compat.cls_rl.direct")
    return Score(value=float(parsed.text == str(unwrap(target))))
