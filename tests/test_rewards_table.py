"""Every line of the table of rewards: documented in the form, true to its example, strict with targets."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from reward_cases import FORM, NOT_PURE

from vlrft.rewards import REWARDS, RewardError, TargetError, names, score
from vlrft.rewards.describe import FAMILY_FIELDS, Example, as_text, describe, example_of
from vlrft.rewards.pages import INDEX, pages

SANDBOXED = ("chart.render", "chart.visual", *NOT_PURE)
NULL_TARGET = (*FORM, "video.semantic")
CANONICAL = [name for name in names() if not name.startswith("compat.")]


def example_for(name: str) -> Example:
    example = describe(name).example
    assert example is not None
    return example


@pytest.mark.parametrize("name", names())
def test_documented_in_the_form(name: str) -> None:
    described = describe(name)
    assert described.summary.endswith("."), "the first line is a sentence"
    assert described.formula
    assert described.range.startswith(("[", "{", "-", "(")) or name.startswith("compat.")
    assert set(described.family) >= {"Target", "Answer", "Guards", "Source"}, described.module
    assert described.title.endswith((".", "?"))
    assert example_for(name).name.partition("@")[0] == name


@pytest.mark.parametrize("name", [name for name in names() if name not in SANDBOXED])
def test_example_is_true(name: str) -> None:
    example = example_for(name)
    result = score(example.name, example.completion, example.target, example.meta, **example.options)
    assert result.value == pytest.approx(example.value, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", SANDBOXED)
def test_example_of_a_reward_with_processes_is_true(name: str) -> None:
    test_example_is_true(name)


@pytest.mark.parametrize("name", [name for name in CANONICAL if name not in SANDBOXED])
def test_empty_completion_is_a_value_in_range(name: str) -> None:
    example = example_for(name)
    for completion in ("", " ", "<answer></answer>"):
        result = score(example.name, completion, example.target, example.meta, **example.options)
        assert result.value is None or 0.0 <= result.value <= 1.0


@pytest.mark.parametrize("name", [n for n in names() if n.startswith("compat.")])
def test_empty_completion_is_finite_in_compat(name: str) -> None:
    example = example_for(name)
    result = score(example.name, "", example.target, example.meta, **example.options)
    assert result.value is None or math.isfinite(result.value)


@pytest.mark.parametrize("name", [n for n in CANONICAL if not n.startswith(NULL_TARGET)])
def test_targets_that_are_none_or_absurd_are_refused(name: str) -> None:
    example = example_for(name)
    any_json = name in ("struct.json", "tool.result")
    for target in (None, object(), 1 + 2j, *([] if any_json else [{"nonsense": 1}])):
        with pytest.raises(TargetError):
            score(example.name, "", target, example.meta, **example.options)


@pytest.mark.parametrize("name", [n for n in CANONICAL if n.startswith(FORM)])
def test_rewards_of_the_form_want_no_target(name: str) -> None:
    assert example_for(name).target is None


def test_names_are_listed_sorted_and_resolve() -> None:
    assert names() == sorted(REWARDS)
    assert all(re.fullmatch(r"[a-z_0-9]+(\.[a-z_0-9]+)*", name) for name in names())


def test_an_example_that_is_none_is_an_error_with_the_name() -> None:
    with pytest.raises(ValueError, match=r"reward 'x': the example .*open\(\)"):
        example_of("x", 'Example: score("x", open(), None) -> 1')
    assert example_of("x", "no example") is None


def test_shown_text_has_all_the_issue_asks_for() -> None:
    text = as_text(describe("det.f1@0.75"))
    assert text.startswith("det.f1@0.75\n\n")
    for word in ("Formula:", "Range:", "Example:", *(f"{key}:" for key in FAMILY_FIELDS)):
        assert word in text


def test_pages_are_those_in_the_repository() -> None:
    folder = Path(__file__).resolve().parent.parent / "docs" / "rewards"
    made = pages()
    assert {path.name for path in folder.glob("*.md")} == set(made)
    stale = [name for name, text in made.items() if (folder / name).read_text(encoding="utf-8") != text]
    assert not stale, "write them anew: vlrft rewards docs --out docs/rewards"
    assert all(f"`{name}`" in made[INDEX] for name in names())


def test_keywords_of_score_are_options_or_keys_of_meta() -> None:
    answer = "<answer>[0, 0, 500, 1000]</answer>"
    sizes: dict[str, Any] = {"image_size": [20, 20], "coord_space": "norm_1000"}
    assert score("box.iou", answer, [0, 0, 10, 20], **sizes).value == 1.0
    assert score("box.acc", answer, [0, 0, 10, 20], t=0.5, **sizes).value == 1.0
    assert score("box.iou", answer, [0, 0, 10, 20], {"image_size": [20, 20]}, coord_space="norm_1000").value == 1.0
    assert score("box.iou", answer, [0, 0, 10, 20], {"coord_space": "abs_original"}, **sizes).value == 1.0
    assert score("ranked.rr", "<answer>a\nb</answer>", ["b"], k=1).value == 0.0
    assert score("num.exact", "<answer>41</answer>", 42, abs_tol=1).value == 1.0
    assert score("mcq.letter", "<answer>cat</answer>", "A", options=["cat", "dog"]).value == 1.0
    thought = "<think>A. b</think>"
    assert score("video.semantic", thought, None, media=["b"], accuracy=1, embedder="words").value == 1.0
    with pytest.raises(ValueError, match="unexpected keyword argument 'flor'"):
        score("box.giou", answer, [0, 0, 10, 20], flor=0.5)


def test_a_reward_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def endless(parsed, target, meta):\n    return float('inf')\n")
    with pytest.raises(RewardError, match="must be finite"):
        score(f"{path}:endless", "", None)
