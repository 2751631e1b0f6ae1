"""Every line of the table of rewards: documented in the form, true to its example, strict with targets."""

from __future__ import annotations

import functools
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from reward_cases import FORM, NOT_PURE

from vlrft.parse import OUTPUT_MODES
from vlrft.rewards import FLAGS, REWARDS, RewardError, TargetError, names, score
from vlrft.rewards.chart.elements import BINDINGS, check_elements
from vlrft.rewards.chart.elements import NAMES as ELEMENTS
from vlrft.rewards.describe import EXTRAS, FAMILY_FIELDS, Example, as_text, describe, example_of
from vlrft.rewards.gui_action import ACTIONS
from vlrft.rewards.pages import CHART_DUMP, INDEX, page_name, pages

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


@functools.cache
def all_pages() -> dict[str, str]:
    return pages()


@pytest.mark.parametrize("name", names())
def test_every_option_is_shown_with_type_and_default(name: str) -> None:
    described = describe(name)
    text, page = as_text(described), all_pages()[page_name(described)]
    for option in described.options:
        assert f"\n  {option.name}: {option.kind}, " in text
        assert f"| `{option.name}` | {option.kind} | " in page
        assert option.kind != "any value", "an annotation that says nothing"
    assert ("Options: none" in text) == (not described.options)


def test_defaults_are_those_of_the_signature() -> None:
    text = as_text(describe("tg.recall"))
    assert "\n  t: a number, required\n  point_tol: a number, default 1\n" in text
    assert "\n  matching: a text, default 'hungarian'\n" in as_text(describe("det.f1"))


def test_what_a_reward_needs_is_marked() -> None:
    needs = {name: describe(name).needs for name in names()}
    assert needs["box.iou"] == ()
    assert needs["video.semantic"] == ("a group", "an embedder")
    assert needs["length.budget"] == ("a group", "num_tokens")
    assert needs["chart.render"] == ("the extra 'charts'",)
    assert "Needs: a group" in as_text(describe("length.budget"))
    assert "Needs a group, num\\_tokens." in pages()["length.md"]
    assert "**Target.** `count.boxes`: as for" in pages()["count.md"], "a name has no capital"
    assert "starts the sandbox" in pages()["chart.md"]
    assert "| a group, num\\_tokens |" in pages()[INDEX]


def test_rewards_that_need_an_extra_are_those_that_fail_without_it() -> None:
    code = (
        "import sys\n"
        "for name in ('rapidfuzz', 'rouge_score', 'math_verify', 'pycocotools'):\n    sys.modules[name] = None\n"
        "from vlrft.rewards import names, score\nfrom vlrft.rewards.describe import describe\nfound = set()\n"
        "for name in names():\n"
        "    if name.startswith('chart.'):\n        continue\n"
        "    e = describe(name).example\n"
        "    try:\n        score(e.name, e.completion, e.target, e.meta, **e.options)\n"
        "    except ImportError as error:\n"
        "        assert 'rewards' in str(error), (name, error)\n        found.add(name)\n"
        "print(*sorted(found))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {name for name, extra in EXTRAS.items() if extra == "rewards"}


def test_index_says_how_a_completion_is_read_and_what_flags_mean() -> None:
    index = pages()[INDEX]
    for word in (*OUTPUT_MODES, *FLAGS, "lenient_extraction"):
        assert f"`{word}`" in index
    assert 'output_mode="direct"' in index


def test_the_pages_of_gui_actions_and_charts_show_their_forms() -> None:
    actions = pages()["gui_action.md"]
    for action, (argument, synonyms) in ACTIONS.items():
        assert f"| `{action}` | {argument} | {', '.join(f'`{s}`' for s in synonyms)} |" in actions
    assert "from vlrft.rewards.chart import recorded" in pages()["chart.md"]
    assert set(check_elements(json.loads(CHART_DUMP))) == {*ELEMENTS, *BINDINGS}


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
