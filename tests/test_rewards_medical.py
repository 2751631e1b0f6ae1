"""med.*: golden numbers worked out by hand, negation, synonyms, and the hacks that must not pay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.parse import parse
from vlrft.rewards import TargetError, check_target, score
from vlrft.rewards.medical import Open
from vlrft.rewards.polarity import negation_differs, opposite


def judge(answer: str, target: Any, meta: dict[str, Any] | None = None, **options: Any) -> float:
    found = score("med.open", f"<think>hm</think><answer>{answer}</answer>", target, meta, **options)
    assert found.value is not None
    return found.value


def constant(texts: Sequence[str]) -> list[list[float]]:
    """Cosine 0.6 between the answer and any reference."""
    return [[1.0, 0.0]] + [[0.6, 0.8]] * (len(texts) - 1)


@pytest.mark.parametrize(
    ("answer", "target", "value"),
    [
        ("Pneumonia.", "pneumonia", 1.0),
        # F1 = 2 * 2 / 5, ROUGE-L the same
        ("left lung", "left lower lung", 0.55 * 0.8 / 0.8),
        # F1 = 1, ROUGE-L = 2 * 1 / 4, no exact match
        ("lung left", "left lung", (0.35 + 0.2 * 0.5) / 0.8),
        ("kidney", "left lung", 0.0),
        # a multiset: the second "left" finds no partner, 2 * 2 / 5
        ("left left lung", "left lung", (0.35 * 0.8 + 0.2 * 0.8) / 0.8),
        ("left left lung", "left left lung", 1.0),
    ],
)
def test_golden_numbers(answer: str, target: str, value: float) -> None:
    assert judge(answer, target) == pytest.approx(value)


def test_an_embedder_adds_the_fourth_weight() -> None:
    value = judge("left lung", "left lower lung", embedder=constant)
    assert value == pytest.approx(0.55 * 0.8 + 0.2 * 0.6)
    found = score("med.open", "<answer>left lung</answer>", ["kidney", "left lower lung"], embedder=constant)
    assert found.value == pytest.approx(value)
    assert found.parts["med.open.semantic"] == pytest.approx(0.6)
    assert found.parts["med.open.f1"] == pytest.approx(0.8)
    assert score("med.open", "<answer>lung</answer>", "lung").parts["med.open.semantic"] is None


@pytest.mark.parametrize(
    ("answer", "target"),
    [
        ("MRI", "magnetic resonance imaging"),
        ("CT scan", "Computed Tomography"),
        ("chest X-ray", "CXR"),
        ("acute heart attack", "acute myocardial infarction"),
        ("COPD", "Chronic obstructive pulmonary disease"),
    ],
)
def test_abbreviations(answer: str, target: str) -> None:
    assert judge(answer, target) == 1.0
    assert judge(target, answer) == 1.0


def test_synonyms_stand_on_top_of_abbreviations() -> None:
    meta = {"synonyms": {"MI": ["coronary event"], "renal": "kidney"}}
    assert judge("coronary event", "heart attack", meta) == 1.0
    assert judge("renal stone", "kidney stone", meta) == 1.0
    assert judge("renal stone", "kidney stone") < 1.0


@pytest.mark.parametrize(
    ("answer", "reference", "differs"),
    [
        ("no pneumothorax", "pneumothorax", True),
        ("pneumothorax", "no pneumothorax", True),
        ("without effusion", "with effusion", True),
        ("effusion is absent", "effusion", True),
        ("the fracture isn't displaced", "the fracture is displaced", True),
        ("it isn\u2019t a fracture", "it is a fracture", True),
        ("no", "yes", True),
        ("no", "no fracture", False),
        ("no effusion", "effusion is absent", False),
        ("no effusion", "effusion not seen", False),
        ("no effusion, pneumonia; mass", "mass, no pneumonia or effusion", False),
        ("no effusion but pneumonia", "no pneumonia but effusion", True),
        ("no effusion. pneumonia", "no pneumonia. effusion", True),
        ("no effusion\npneumonia", "pneumonia: no effusion", False),
        ("normal notes", "normal note", False),
        ("pneumonia", "pneumonia", False),
        ("resolved pneumonia", "pneumonia", True),
        ("pneumonia has resolved", "pneumonia", True),
        ("pneumonia is unlikely", "pneumonia", True),
        ("unlikely pneumonia", "pneumonia", True),
        ("free of pneumonia", "pneumonia", True),
        ("pneumonia was excluded", "pneumonia", True),
        ("pneumonia is ruled out by CT", "pneumonia", True),
        ("hardly any pneumonia", "pneumonia", True),
        ("lungs lack pneumonia", "pneumonia", True),
        ("pneumonia excluded by CT", "no pneumonia on CT", False),
        ("pneumonia ruled out", "no pneumonia", False),
        ("resolved pneumonia", "pneumonia has resolved", False),
        ("pneumonia cannot be excluded", "pneumonia", False),
        ("pneumonia can't be ruled out", "possible pneumonia", False),
        ("free air under the diaphragm", "free air", False),
        ("unresolved pneumonia", "pneumonia", False),
        ("clear lungs", "clear lungs", False),
    ],
)
def test_negation(answer: str, reference: str, differs: bool) -> None:
    assert negation_differs(answer, reference) is differs
    assert negation_differs(reference, answer) is differs


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        ("right pneumonia", "left pneumonia", True),
        ("right lower lobe pneumonia", "left lower lobe pneumonia", True),
        ("RLL pneumonia", "left lower lobe pneumonia", True),
        ("RUL pneumonia", "right lower lobe pneumonia", True),
        ("benign tumour", "malignant tumour", True),
        ("chronic infarct", "acute infarct", True),
        ("decreased density", "increased density", True),
        ("unilateral effusion", "bilateral effusion", True),
        ("left effusion", "bilateral effusions", True),
        ("bilateral effusions", "left effusion", True),
        ("left or right pneumonia", "left pneumonia", True),
        ("benign/malignant tumour", "malignant tumour", True),
        ("left pneumonia", "left pneumonia", False),
        ("left and right effusion", "bilateral effusion", False),
        ("acute on chronic hematoma", "chronic and acute hematoma", False),
        ("left pneumonia, and the right lung is clear", "left pneumonia", False),
        ("left-sided unilateral effusion", "left effusion", False),
        ("pneumonia", "left pneumonia", False),
        ("left pneumonia", "pneumonia", False),
        ("LLL pneumonia", "left lower lobe pneumonia", False),
        ("pneumonia in the left lower lobe", "left lower lobe pneumonia", False),
    ],
)
def test_opposites(answer: str, reference: str, value: bool) -> None:
    assert opposite(answer, reference) is value
    if value:
        assert judge(answer, reference) <= 0.2


def test_paraphrases_rank_above_the_wrong_side() -> None:
    reference = "left lower lobe pneumonia"
    wrong = [judge(text, reference) for text in ("right lower lobe pneumonia", "no left lower lobe pneumonia")]
    right = [
        judge(text, reference)
        for text in ("pneumonia in the left lower lobe", "lower lobe pneumonia on the left", "pneumonia of the LLL")
    ]
    assert max(wrong) == 0.2
    assert min(right) == pytest.approx(0.5)
    assert judge("LLL pneumonia", reference) == judge(reference, "LLL pneumonia") == 1.0


def test_a_wrong_negation_is_capped() -> None:
    answer = "there is no acute fracture of the left distal radius"
    assert judge(answer, answer) == 1.0
    assert judge(answer.replace("no ", "an "), answer) == 0.2
    assert judge("kidney", "no fracture") == 0.0


def test_best_of_several_references_after_the_cap() -> None:
    assert judge("no fracture", ["fracture", "no fracture"]) == 1.0


@given(st.lists(st.sampled_from(["no", "left", "right", "lung", "CT", "scan", ",", ".", "absent"]), max_size=12))
@settings(max_examples=100, deadline=None)
def test_range(found: list[str]) -> None:
    value = judge(" ".join(found), "no mass in the left lung on CT scan")
    assert 0.0 <= value <= 1.0


# ------------------------------------------------------------------------------------------- hacks


def test_no_answer() -> None:
    for completion in ("", "pneumonia", "<answer></answer>", "<think><answer>pneumonia</answer></think>"):
        found = score("med.open", completion, "pneumonia")
        assert (found.value, found.flags) == (0.0, ("no_answer",))


def test_stuffing_and_listing_do_not_pay() -> None:
    diagnoses = " ".join(f"diagnosis{i}" for i in range(200))
    for answer in (f"pneumonia {diagnoses}", "pneumonia " * 200, "left lung pneumonia " * 100):
        assert judge(answer, "pneumonia") < 0.02
    assert judge("pneumonia, asthma, COPD, tuberculosis, cancer", "pneumonia") < 0.4
    assert judge("pneumonia " * 100_000, "pneumonia") == 0.0


@pytest.mark.parametrize("target", [None, 3, "", [], ["a", " "], {"answer": "a"}])
def test_bad_targets(target: Any) -> None:
    with pytest.raises(TargetError, match=r"med\.open"):
        check_target("med.open", target)


@pytest.mark.parametrize("weights", [(1, 1, 1), (0, 0, 0, 1), (1, 1, 1, -1), (1, 1, 1, float("nan"))])
def test_bad_weights(weights: Any) -> None:
    with pytest.raises(ValueError, match="weights must be four numbers"):
        Open(weights=weights)


def test_it_keeps_no_state() -> None:
    reward = Open()
    reward.load_state_dict(reward.state_dict())
    assert reward(parse("<answer>a</answer>"), "a", {}).value == 1.0


# ------------------------------------------------------------------------------------------ closed


@pytest.mark.parametrize(
    ("answer", "target", "meta", "value"),
    [
        ("B", {"type": "mcq", "answer": "B"}, {"num_options": 4}, 1.0),
        ("A", {"type": "mcq", "answer": "B"}, {"options": ["lung", "heart"]}, 0.0),
        ("heart", {"type": "mcq", "answer": "B"}, {"options": ["lung", "heart"]}, 1.0),
        ("Yes", {"type": "yesno", "answer": "yes"}, {}, 1.0),
        ("no", {"type": "yesno", "answer": "yes"}, {}, 0.0),
        ("Axial", {"type": "label", "answer": "axial"}, {"labels": ["axial", "coronal"]}, 1.0),
        ("coronal", {"type": "label", "answer": "axial"}, {}, 0.0),
    ],
)
def test_closed(answer: str, target: Any, meta: dict[str, Any], value: float) -> None:
    assert score("med.closed", f"<answer>{answer}</answer>", target, meta).value == value


@pytest.mark.parametrize(
    "target",
    [
        None,
        "yes",
        {},
        {"type": "open", "answer": "x"},
        {"type": "yesno"},
        {"type": "mcq", "answer": 3},
        {"type": [], "answer": "x"},
    ],
)
def test_closed_refuses_bad_targets(target: Any) -> None:
    with pytest.raises(TargetError):
        check_target("med.closed", target, {"num_options": 4})
