"""Numbers in text: exact values, what is refused and why, and hostile text in linear time."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.parse.numbers import NumberReading, parse_number, read_number

MEGABYTE = 1_000_000


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", "42"),
        (" -5 ", "-5"),
        ("+3.50", "7/2"),
        (".5", "1/2"),
        ("-.5", "-1/2"),
        ("007", "7"),
        ("0.1", "1/10"),
        ("1,000", "1000"),
        ("1,234,567.5", "2469135/2"),
        ("3/4", "3/4"),
        ("3 / 4", "3/4"),
        ("1 3/4", "7/4"),
        ("-1 3/4", "-7/4"),
        ("½", "1/2"),
        ("3½", "7/2"),
        ("50%", "1/2"),
        ("12.5 percent", "1/8"),
        ("1e3", "1000"),
        ("1.5E-3", "3/2000"),
        ("1.5 × 10^3", "1500"),
        (r"1.5 \times 10^{-1}", "3/20"),
        ("10^3", "1000"),
        ("10³", "1000"),
        ("5 million", "5000000"),
        ("0e999999999", "0"),
        ("The answer is 5.", "5"),
        ("There are 5 cats", "5"),
        ("answer: -5", "-5"),
        ("x=5", "5"),
        ("5 in total", "5"),
        ("the 3D count is 5", "5"),
        ("B52 has 8 engines", "8"),
        (r"\boxed{42}", "42"),
        ("$-42$", "-42"),
        ("**7**", "7"),
        (r"\frac{3}{4}", "3/4"),
        (r"-\dfrac{3}{4}", "-3/4"),
        (r"1\frac{3}{4}", "7/4"),
        (r"1{,}000", "1000"),
        (r"50\%", "1/2"),
        ("−5", "-5"),
        ("４２", "42"),
        ("٤٢", "42"),
    ],
)
def test_exact_values(text: str, value: str) -> None:
    assert parse_number(text) == Fraction(value)


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("", "unparsable"),
        ("five", "unparsable"),
        ("B52", "unparsable"),
        ("12cm", "unparsable"),
        ("12 cm", "unparsable"),
        ("5 km/h", "unparsable"),
        ("5k", "unparsable"),
        ("2^10", "unparsable"),
        ("12:30", "unparsable"),
        ("3/4/2020", "unparsable"),
        ("1.2.3", "unparsable"),
        ("±5", "unparsable"),
        ("+-5", "unparsable"),
        ("+/- 5", "unparsable"),
        (r"\pm 5", "unparsable"),
        ("5-year", "unparsable"),
        ("3 or 4", "several_answers"),
        ("3-4", "several_answers"),
        ("3–4", "several_answers"),
        ("1, 2, 3", "several_answers"),
        ("1,2,3", "several_answers"),
        ("1,00", "several_answers"),
        ("x^{2} = 4", "several_answers"),
        ("nan", "non_finite"),
        ("NaN", "non_finite"),
        ("-inf", "non_finite"),
        ("Infinity", "non_finite"),
        ("∞", "non_finite"),
        (r"\infty", "non_finite"),
        ("1/0", "non_finite"),
        ("1e999", "non_finite"),
        ("1e999999999", "non_finite"),
        ("10^999999999", "non_finite"),
        ("9" * 5000, "non_finite"),
        ("1e-999999999", "out_of_range"),
        ("0." + "3" * 5000, "out_of_range"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_refused(text: str, flag: str) -> None:
    reading = read_number(text)
    assert (reading.value, reading.flag) == (None, flag)


def test_ten_squared_is_not_102() -> None:
    assert parse_number("10²") == 100


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("12 cm", "cm", 12),
        ("12cm.", "cm", 12),
        (r"12\,\text{cm}", "cm", 12),
        (r"12 \text{ cm}", "cm", 12),
        ("12", "cm", 12),
        ("12 km", "cm", None),
        ("12 cm^2", "cm", None),
        ("12 cm²", "cm^2", 12),
        ("5 MW", "mW", None),
        ("12 Meters", "meter", 12),
        ("12 square  meters", "square meters", 12),
        ("50%", "%", 50),
        (r"90^\circ", "°", 90),
        ("3 m/s", "m/s", 3),
        ("3 m/s", "m", None),
        ("a (b", "(", None),
    ],
)
def test_units(text: str, unit: str, value: int | None) -> None:
    assert parse_number(text, unit=unit) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("3 plus 4 is 7", 7), ("1,2,3", 3), ("7 or nan", None), ("about 7 (B52)", 7), ("7 of 1.2.3", None)],
)
def test_take_last(text: str, value: int | None) -> None:
    assert parse_number(text, take="last") == value


def test_take_is_checked() -> None:
    with pytest.raises(ValueError, match="take must be 'only' or 'last', got 'first'"):
        read_number("1", take="first")  # type: ignore[arg-type]


def test_whole_says_that_nothing_else_stands_there() -> None:
    assert read_number("$1,000$.") == NumberReading(Fraction(1000), whole=True)
    assert read_number("12 cm", unit="cm").whole
    assert not read_number("about 12").whole


@settings(max_examples=200, deadline=None)
@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**12), max_value=10**12))
def test_every_decimal_comes_back(number: object) -> None:
    assert parse_number(f"{number}") == Fraction(str(number))
    assert parse_number(f"It is {number:,}!") == Fraction(str(number))


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="0123456789.,-+/%eE^×x() ncm∞±²½\\{}frac", max_size=40) | st.text(max_size=40))
def test_never_raises_and_stays_finite(text: str) -> None:
    for take in ("only", "last"):
        reading = read_number(text, unit="cm", take=take)
        assert (reading.value is None) == (reading.flag is not None)
        assert reading.value is None or abs(float(reading.value)) < float("inf")


@pytest.mark.parametrize(
    "piece",
    [
        "1",
        " ",
        "1,",
        "1/",
        "1,000",
        ",000",
        "1 ",
        "{",
        "\\text{",
        "\\frac{1}{",
        ".",
        "1.",
        "+-",
        "1e",
        "1^",
        "a-",
        "1:",
        "1 x 10^",
        "5 per ",
        "∞",
        "1/1 ",
        "５",
        "1\n",
        "½",
        "1 1/",
    ],
)
def test_a_hostile_megabyte_is_read_in_linear_time(piece: str) -> None:
    text = piece * (MEGABYTE // 8 // len(piece))
    started = time.process_time()
    read_number(text, take="last")
    assert time.process_time() - started < 3.0
