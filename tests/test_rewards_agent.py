"""agent.step_kind and agent.issue_set: golden values, what does not pay, bad targets."""

from __future__ import annotations

from typing import Any

import pytest

from vlrft.rewards import TargetError, check_target, score


def judge(name: str, text: str, target: Any, meta: dict[str, Any] | None = None, **options: Any) -> float:
    value = score(name, text, target, meta, **options).value
    assert value is not None
    return value


@pytest.mark.parametrize(
    ("text", "target", "value", "flags"),
    [
        ("<think>x</think><search>kite</search>", "search", 1.0, ()),
        ("<think>x</think><search>kite</search>", ["answer", "search"], 1.0, ()),
        ("<think>x</think><answer>kite</answer>", "search", 0.0, ()),
        ("<think><search>kite</search></think><answer>x</answer>", "search", 0.0, ()),
        ("<search>kite</search><answer>x</answer>", "search", 0.0, ("several_answers",)),
        ("<search>kite</search><search>kite</search>", "search", 0.0, ("several_answers",)),
        ("<search> </search>", "search", 0.0, ()),
        ("<search>kite", "search", 0.0, ("unparsable",)),
        ("<answer><search>kite</search></answer>", "search", 0.0, ("unparsable",)),
        ("\uff1csearch\uff1ekite\uff1c/search\uff1e", "search", 0.0, ("no_answer",)),
        ("", "search", 0.0, ("no_answer",)),
        ("<plan>x</plan><code>y</code>", "code", 1.0, ()),
    ],
)
def test_step_kind(text: str, target: Any, value: float, flags: tuple[str, ...]) -> None:
    found = score("agent.step_kind", text, target)
    assert (found.value, found.flags) == (value, flags)


def test_step_kinds_of_your_own() -> None:
    assert judge("agent.step_kind", "<plan>x</plan>", "plan", kinds=["plan", "act"]) == 1.0
    for kinds in ([], ["a b"], [""]):
        with pytest.raises(ValueError, match="kinds must be tag names"):
            judge("agent.step_kind", "", "plan", kinds=kinds)


@pytest.mark.parametrize(
    ("answer", "target", "value"),
    [
        ("blur, rotation90", ["rotation90", "blur"], 1.0),
        ("['rotation90', 'blur']", ["rotation90", "blur"], 1.0),
        ("- blur\n- noise", ["rotation90", "blur"], 0.5),
        ("blur", ["rotation90", "blur"], 2 / 3),
        ("blur, blur, BLUR.", ["blur"], 1.0),
        ("out of focus", [["blur", "out of focus"]], 1.0),
        ("blur, out of focus", [["blur", "out of focus"]], 1.0),
        ("none", [], 1.0),
        ("[]", [], 1.0),
        ("No issues.", [], 1.0),
        ("blur", [], 0.0),
        ("none", ["blur"], 0.0),
        ("???", [], 0.0),
        (",;", [], 0.0),
    ],
)
def test_issue_set(answer: str, target: Any, value: float) -> None:
    assert judge("agent.issue_set", f"<answer>{answer}</answer>", target) == pytest.approx(value)


def test_naming_all_issues_does_not_pay() -> None:
    labels = [f"issue {i}" for i in range(20)]
    found = score("agent.issue_set", f"<answer>{', '.join(labels)}</answer>", ["issue 3"], {"labels": labels})
    assert found.value == pytest.approx(2 / 21)
    unknown = score("agent.issue_set", "<answer>issue 3, dust</answer>", ["issue 3"], {"labels": labels})
    assert (unknown.value, unknown.flags) == (pytest.approx(2 / 3), ("unknown_label",))
    assert judge("agent.issue_set", "", []) == 0.0


@pytest.mark.parametrize(
    ("name", "target", "meta"),
    [
        ("agent.step_kind", None, {}),
        ("agent.step_kind", "dance", {}),
        ("agent.step_kind", [], {}),
        ("agent.step_kind", [["answer"]], {}),
        ("agent.issue_set", None, {}),
        ("agent.issue_set", "blur", {}),
        ("agent.issue_set", [3], {}),
        ("agent.issue_set", [[]], {}),
        ("agent.issue_set", ["none"], {}),
        ("agent.issue_set", ["blur", "Blur."], {}),
        ("agent.issue_set", ["blur"], {"labels": "blur"}),
    ],
)
def test_bad_agent_targets(name: str, target: Any, meta: dict[str, Any]) -> None:
    with pytest.raises(TargetError, match=name):
        check_target(name, target, meta)
