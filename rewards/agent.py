"""Steps of an agent: the right kind of step, the right set of issues.

Target: `agent.step_kind`: the kind of step that is due ("answer", "search", "code", "tool_call"), or a list of kinds
that are all right. `agent.issue_set`: the list of issues, `[]` when there is none; an issue is a string or a list of
synonyms.

Meta: `agent.issue_set`: `labels`, all issues that there are.

Answer: a step is a block such as `<search>...</search>` outside the reasoning. Issues are a list in any form that
ranked.* reads, also separated by commas or "and"; "none", "no issues" or `[]` is the empty set.

Guards: a step is worth 0 when it is blank, when its tags are nested or left open, and when there is more than one (an
agent that answers and searches at once hedges). Issues are judged by F1, so that listing all of them does not pay;
what `labels` does not hold is a false positive (flag `unknown_label`), and so is an entry of several issues.

Source: Visual-ARFT: answer or search, not both; the kind of the code agent's step must be the true one. Its partial
credit of 0.5 for half of a diagnosis is the set F1 here, and code is never paid unread.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vlrft.parse import Parsed, normalise, visible_length
from vlrft.parse.calls import tagged_blocks
from vlrft.parse.lists import read_labels
from vlrft.rewards.base import TargetError, ordered
from vlrft.types import Score

STEP_KINDS: tuple[str, ...] = ("answer", "search", "code", "tool_call")

_KIND = re.compile(r"[A-Za-z_][\w-]*", re.ASCII)
_NOTHING = frozenset({"", "[]", "none", "no issue", "no issues", "no problem", "no problems", "nothing", "normal"})


def step_kind(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, kinds: Sequence[str] = STEP_KINDS) -> Score:
    """1 when the completion takes exactly one step, and of the kind that is due.

    Formula: 1[one block outside the reasoning, not blank, its kind among the target's]
    Range: {0, 1}

    kinds: the tags that are steps; blocks of other tags are not looked at.

    Example: score("agent.step_kind", "<think>look it up</think><search>red kite</search>", "search") -> 1.0
    """
    if not kinds or not all(isinstance(kind, str) and _KIND.fullmatch(kind) for kind in kinds):
        raise ValueError(f"agent.step_kind: kinds must be tag names such as {', '.join(STEP_KINDS)}, got {kinds!r}")
    due = [target] if isinstance(target, str) else target
    if not isinstance(due, list | tuple) or not due or any(kind not in kinds for kind in due):
        raise TargetError(
            f"agent.step_kind: the target must be one of {', '.join(kinds)}, or a list of them, got {target!r}; "
            "correct the row or name your tags in the option kinds"
        )
    steps = tagged_blocks(parsed.text, kinds)
    flags = set(parsed.flags) - {"no_answer", "several_answers", "lenient"}
    if not steps:
        return Score(value=0.0, flags=ordered(flags | {"no_answer" if steps is not None else "unparsable"}))
    if len(steps) > 1:
        return Score(value=0.0, flags=ordered(flags | {"several_answers"}))
    kind, content = steps[0]
    return Score(value=float(kind in due and visible_length(content) > 0), flags=ordered(flags))


def issue_set(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """F1 between the issues named and the true ones, as sets.

    Formula: 2 found / (named + true); 1 when neither side has any
    Range: [0, 1]

    Example: score("agent.issue_set", "<answer>blur, noise and rotation90</answer>", ["rotation90"]) -> 0.5
    """
    truth = _issues(target)
    labels = meta.get("labels")
    known: set[str] | None = None
    if labels is not None:
        if not isinstance(labels, list | tuple) or not all(isinstance(label, str) for label in labels):
            raise TargetError(f"agent.issue_set: meta['labels'] must be a list of texts, got {labels!r}")
        known = {normalise(label) for label in labels} | truth.keys()
    if parsed.answer is None:
        return Score(value=0.0, flags=parsed.flags)
    found = read_labels(parsed.answer) if normalise(parsed.answer) not in _NOTHING else []
    # Names that fold to nothing are entries all the same.
    named = {normalise(label) or label for label in found} - _NOTHING
    flags = {*parsed.flags, *(["unknown_label"] if known is not None and named - known else [])}
    if not named and normalise(parsed.answer) not in _NOTHING:
        return Score(value=0.0, flags=ordered(flags | {"unparsable"}))
    hits = {truth[name] for name in named if name in truth}
    others = named - truth.keys()
    total = len(hits) + len(others) + len(set(truth.values()))
    return Score(value=2.0 * len(hits) / total if total else 1.0, flags=ordered(flags))


def _issues(target: Any) -> dict[str, int]:
    """Normalised name to the index of its issue."""
    if not isinstance(target, list | tuple):
        raise TargetError(f"agent.issue_set: the target must be a list of issues, [] for none, got {target!r}")
    names: dict[str, int] = {}
    for index, issue in enumerate(target):
        synonyms = [issue] if isinstance(issue, str) else issue
        if not isinstance(synonyms, list | tuple) or not synonyms or not all(isinstance(s, str) for s in synonyms):
            raise TargetError(f"agent.issue_set: issue {issue!r} must be a string or a list of synonyms")
        for name in map(normalise, synonyms):
            if name in _NOTHING:
                raise TargetError(f"agent.issue_set: issue {issue!r} names nothing; write [] where there is no issue")
            if names.setdefault(name, index) != index:
                raise TargetError(f"agent.issue_set: two issues of {target!r} are called {name!r}; make them one")
    return names
