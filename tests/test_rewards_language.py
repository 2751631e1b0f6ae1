"""Language: the share of letters in the expected script, from what is known of the question."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.rewards import TargetError, check_target, score
from vlrft.rewards.language import SCRIPTS

RUSSIAN = "\u0441\u043b\u0435\u0432\u0430"
CHINESE = "\u732b\u5728\u5de6\u8fb9"
JAPANESE = "\u732b\u306f\u5de6"


def share(think: str, allow: Any = (), **meta: Any) -> float | None:
    return score("language.consistency", f"<think>{think}</think><answer>B</answer>", None, meta, allow=allow).value


def test_share_of_letters() -> None:
    assert share("left of it", language="en") == 1.0
    assert share(f"abc {CHINESE[:1]}", language="en") == pytest.approx(3 / 4)
    assert share(f"abcde {RUSSIAN}", language="ru") == 0.5
    assert share(CHINESE, language="en") == 0.0
    assert share(CHINESE, language="zh") == 1.0
    assert share(JAPANESE, language="ja") == 1.0
    assert share(JAPANESE, language="zh") == pytest.approx(2 / 3)


@pytest.mark.parametrize("name", ["en", "EN", "en-US", "en_GB", "English", "latin", "de"])
def test_names_of_a_language(name: str) -> None:
    assert share("Stra\u00dfe \uff21", language=name) == 1.0


def test_look_alikes_cost() -> None:
    assert share("\u0441\u0430t", language="en") == pytest.approx(1 / 3)


def test_the_question_says_which_script() -> None:
    assert share(CHINESE, prompt="\u732b\u5728\u54ea\u91cc\uff1f") == 1.0
    assert share("on the left", prompt="\u732b\u5728\u54ea\u91cc\uff1f") == 0.0
    assert share(JAPANESE, prompt="\u732b\u306f\u3069\u3053\u3067\u3059\u304b") == 1.0
    assert share(JAPANESE, question="\u4eca\u65e5\u6771\u4eac\u306f") == 1.0, "mostly Han, but with kana"
    assert share(RUSSIAN, prompt="2 + 2 = ?") == 1.0, "a question without letters says nothing"
    assert share(f"abc {RUSSIAN}") == pytest.approx(5 / 8), "only mixing is judged"


def test_exempt_scripts() -> None:
    assert share(f"{CHINESE} x y", language="zh") == pytest.approx(4 / 6)
    assert share(f"{CHINESE} x y", allow=["latin"], language="zh") == 1.0
    assert share(f"{CHINESE} x y {RUSSIAN[:1]}", allow=["en"], language="zh") == pytest.approx(4 / 5)


def test_what_is_read() -> None:
    text = f"<think>{CHINESE}</think><answer>left cell</answer>"
    assert score("language.consistency", text, None, {"language": "zh"}).value == 1.0, "labels of the answer are free"
    direct = {"output_mode": "direct", "language": "zh"}
    assert score("language.consistency", f"{CHINESE}ab", None, direct).value == pytest.approx(4 / 6)
    assert score("language.consistency", f"<answer>{CHINESE}</answer>", None, {"language": "zh"}).value == 1.0


def test_no_letters() -> None:
    assert share("1 + 1 = 2", language="en") is None
    for text in ("", " ", "<think>\u200b</think>"):
        assert score("language.consistency", text, None, {"language": "en"}).value == 0.0


@pytest.mark.parametrize("meta", [{"language": "klingon"}, {"language": 3}, {"language": ""}, {"prompt": ["a"]}])
def test_bad_meta(meta: dict[str, Any]) -> None:
    with pytest.raises(TargetError, match=r"meta\['(language|prompt)'\]"):
        check_target("language.consistency", None, meta)


def test_every_script_is_one_of_unicode() -> None:
    import unicodedata

    starts = {"CJK": "CJK UNIFIED IDEOGRAPH-4E00", "DEVANAGARI": "DEVANAGARI LETTER KA", "HANGUL": "HANGUL SYLLABLE GA"}
    for script in {script for scripts in SCRIPTS.values() for script in scripts} & set(starts):
        assert share(unicodedata.lookup(starts[script]), language=script.lower()) == 1.0
    assert share("\u05d0", language="he") == share("\u0e01", language="th") == share("\u0627", language="fa") == 1.0


@settings(max_examples=100, deadline=None)
@given(think=st.text(max_size=100), language=st.sampled_from([None, *sorted(SCRIPTS)]))
def test_values_are_in_range(think: str, language: str | None) -> None:
    found = share(think, language=language)
    assert found is None or 0.0 <= found <= 1.0
