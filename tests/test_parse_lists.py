"""Lists in answers: every syntax, and texts that are none."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.parse.lists import read_labels, read_list


@pytest.mark.parametrize(
    ("text", "items", "form", "clean"),
    [
        ('["asthma", "COPD"]', ("asthma", "COPD"), "json", True),
        ("['asthma', 'COPD']", ("asthma", "COPD"), "json", True),
        ('```json\n["asthma", "COPD"]\n```', ("asthma", "COPD"), "json", True),
        ('Ranked: ["asthma", "COPD"]', ("asthma", "COPD"), "json", False),
        ("[3, 2.5, true, null]", ("3", "2.5", "", ""), "json", False),
        ('[{"item": "asthma"}, {"Name": "COPD"}, {"x": 1}]', ("asthma", "COPD", ""), "json", False),
        ("[{'item': 'asthma'}, {'item': 'a', 'Item': 'b'}]", ("asthma", ""), "json", False),
        ('["a", ["b", "c"]]', ("a", ""), "json", False),
        ("1. asthma\n2. COPD", ("asthma", "COPD"), "numbered", True),
        ("1) asthma\n(2) COPD\n 3: flu", ("asthma", "COPD", "flu"), "numbered", True),
        ("Most likely:\n1. asthma\n   as it wheezes\n2. **COPD**", ("asthma", "COPD"), "numbered", False),
        ("1.asthma\n2.", ("asthma",), "numbered", False),
        ("- asthma\n* COPD\n\u2022 flu", ("asthma", "COPD", "flu"), "bullets", True),
        ("asthma; COPD; flu.", ("asthma", "COPD", "flu."), "semicolons", True),
        ("asthma;COPD;", ("asthma", "COPD"), "semicolons", True),
        ("asthma;;COPD", ("asthma", "COPD"), "semicolons", False),
        ("asthma\n\nCOPD", ("asthma", "COPD"), "lines", False),
        ("asthma, COPD", ("asthma, COPD",), "single", False),
        ("**asthma**", ("asthma",), "single", False),
        ("1.5 mm stone", ("1.5 mm stone",), "single", False),
        ('["a"] or ["b"]', ('["a"] or ["b"]',), "single", False),
        ("[]", (), "json", False),
        ("", (), "none", False),
    ],
)
def test_every_syntax(text: str, items: tuple[str, ...], form: str, clean: bool) -> None:
    found = read_list(text)
    assert (found.items, found.form, found.clean) == (items, form, clean)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("blur, noise and rotation", ["blur", "noise", "rotation"]),
        ("- blur\n- noise & dust", ["blur", "noise", "dust"]),
        ("{blur, noise}", ["blur", "noise"]),
        ('["sand and dust", "blur"]', ["sand and dust", "blur"]),
        ("a brand", ["a brand"]),
        (", ;\n", []),
    ],
)
def test_labels(text: str, labels: list[str]) -> None:
    assert read_labels(text) == labels


@given(st.lists(st.text(st.characters(whitelist_categories=("Lu", "Ll")), min_size=1), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_the_syntaxes_agree(items: list[str]) -> None:
    wanted = tuple(items)
    assert read_list("\n".join(f"{i}. {item}" for i, item in enumerate(items, 1))).items == wanted
    assert read_list("\n".join(f"- {item}" for item in items)).items == wanted
    assert read_list(str(items)).items == wanted
    assert read_list("; ".join(items)).items == wanted


@given(st.text(alphabet="[]{}()\"'`,;:-*1.\n aand\u2022\\", max_size=60))
@settings(max_examples=200, deadline=None)
def test_nothing_raises(text: str) -> None:
    assert all(isinstance(item, str) for item in read_list(text).items)
    assert all(read_labels(text))


@pytest.mark.parametrize("piece", ["[", "1. a\n", "a;", "- ", "`", "*", " ", "[1,", "9", "a and ", '["'])
def test_hostile_lengths(piece: str) -> None:
    text = piece * (100_000 // len(piece))
    start = time.perf_counter()
    read_labels(text)
    assert time.perf_counter() - start < 2.0
    assert all(read_list("[" + "9" * 10_000 + "]").items) is True


@pytest.mark.parametrize(
    "text",
    [
        '{"ranking": ["asthma", "COPD"]}',
        "1. asthma 2. COPD",
        "1) asthma, 2) COPD",
        "a. asthma\nb. COPD",
        "(A) asthma\n(B) COPD",
        "1\u3001asthma\n2\u3001COPD",
    ],
)
def test_further_ways_to_list(text: str) -> None:
    found = read_list(text)
    assert found.items == ("asthma", "COPD")
    assert found.clean


@pytest.mark.parametrize("text", ["A. fumigatus", "version 1. 2 and 2. 3", '{"a": ["x"], "b": ["y"]}'])
def test_what_looks_like_a_list_and_is_none(text: str) -> None:
    assert read_list(text).items == (text,)
