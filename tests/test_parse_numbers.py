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


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("minus 12", -12),
        ("Negative 12.", -12),
        ("The answer is minus 12", -12),
        ("-(12)", -12),
        ("\u2212(12.5)", Fraction(-25, 2)),
        ("minus $12$", -12),
        ("x = - 12", -12),
        ("- 12", 12),
        ("12 negative reviews", 12),
        ("negative reviews: 12", 12),
        ("12 hundred", 1200),
        ("2 thousands", 2000),
        ("5 hundred thousand", 500_000),
        ("12 lakh", 1_200_000),
        ("3 crore", 30_000_000),
        ("12 \u2030", Fraction(12, 1000)),
        ("12 per mille", Fraction(12, 1000)),
        ("50 pct", Fraction(1, 2)),
    ],
)
def test_words_for_signs_and_scales(text: str, value: int | Fraction) -> None:
    assert parse_number(text) == value


QUALIFIED = [
    *("half of 12", "one third of 12", "twice 12", "sqrt(12)", r"\sqrt{12}", "\u221a12", "the square root of 12"),
    *("12 squared", "12 cubed", "12 and a half", "12 tenths", "ln 12", r"\ln(12)", r"\frac{12}{x}", r"3\pi", r"3 \pi"),
    *("3 \u03c0", "3 pi", "<12", "< 12", "\u2264 12", r"\le 12", ">12", "more than 12", "at least 12", "minus -12"),
    *("12 hundred million billion", "12 million million", "5 million km", "12 CM", "12 Mm", "12 square meters"),
    *("not 12", "not exactly 12", "it isn't 12", "it isn\u2019t 12", "anything but 12", "12 is wrong", "12 (wrong)"),
    *("12 is not right", "12 is not the answer", "Result: - 12", "It is - 12"),
]
UNQUALIFIED = [
    *("There are 12 squares", "12 square tiles", "the square has 12 sides", "the square root is 12", "the root is 12"),
    *("half of them: 12", "twice as many, so 12", "12 apples and a half-eaten pear", "the third is 12", "12 times"),
    *("12!", "12, not counting the dog", "not sure, maybe 12", "not cats but 12", "It is 12, not less", "12 pieces"),
    *("12 people are not visible", "12 are wrong", "12 are not wearing hats", "<b>12</b>", "=> 12", "-> 12", "<12>"),
    *("12 bar charts", "12 TV sets", "12 in total", r"\approx 12", r"$x = 12$", r"12 \text{ apples}", "about 12"),
    *("In fact 12", "In the third quarter 12", "At least I see 12", "the cube, 12", "Not many, just 12"),
    *("There are 12 mice", "It's 12, which is correct", "12 negative and positive words"),
]


@pytest.mark.parametrize("text", QUALIFIED)
def test_words_that_make_it_another_number(text: str) -> None:
    reading = read_number(text)
    assert (reading.value, reading.flag) == (None, "unparsable")


@pytest.mark.parametrize("text", UNQUALIFIED)
def test_words_that_leave_the_number_alone(text: str) -> None:
    assert parse_number(text) == 12


def test_a_difference_is_no_negative_number() -> None:
    assert parse_number("10 minus 3", take="last") == 3
    assert parse_number("12, not 13", take="last") is None
    assert not read_number("minus 12").whole


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
        # the case counts where another unit differs by it only
        ("12 CM", "cm", 12),
        ("12 Cm", "cm", 12),
        ("12 KG", "kg", 12),
        ("12 kPA", "kPa", 12),
        ("12 KM/H", "km/h", 12),
        ("12 mg/dL", "mg/dl", 12),
        ("12 kwh", "kWh", 12),
        ("12 Mm", "mm", None),
        ("12 mm", "Mm", None),
        ("12 M", "m", None),
        ("12 MB", "Mb", None),
        ("12 Mb", "MB", None),
        ("12 MWh", "mWh", None),
        ("12 MPa", "mPa", None),
        ("12 ML", "ml", None),
        ("12 mL", "ml", 12),
        ("12 KB", "kB", 12),
        ("12 \u03bcm", "\u00b5m", 12),
        ("12 \u00b5m", "\u03bcm", 12),
        ("12 um", "\u00b5m", 12),
        ("12 inches", "inch", 12),
        ("12 million", "million", 12),
        ("12 million dollars", "million dollars", 12),
        ("12 million dollars", "dollars", 12_000_000),
        ("not 12 cm", "cm", None),
        ("minus 12 cm", "cm", -12),
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
