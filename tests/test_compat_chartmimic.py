"""compat.chartmimic.*: numbers worked out by hand from the peer's formulas, quirks kept and bugs mended."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vlrft.rewards import TargetError, score


def value(name: str, completion: str, target: Any, meta: dict[str, Any] | None = None) -> float | None:
    return score(f"compat.chartmimic.{name}", completion, target, meta).value


def answer(text: str) -> str:
    return f"<think>t</think><answer>{text}</answer>"


NAMES = ["text", "legend", "layout", "type", "color"]
DUMP: dict[str, Any] = {
    "text": ["Sales", "0", "0"],
    "legend": ["2023"],
    "layout": [{"nrows": 1, "ncols": 2}],
    "type": [{"type": "bar", "count": 3}, {"type": "line", "count": 1}],
    "color": {"bar": ["#ff0000", "#0000ff"], "line": ["#000000"]},
}


@pytest.mark.parametrize("name", NAMES)
def test_the_same_dump_is_worth_1_in_every_form(name: str) -> None:
    text = json.dumps(DUMP)
    assert value(name, answer(text), DUMP) == value(name, f"```json\n{text}\n```", text) == pytest.approx(1.0)
    assert value(name, "", DUMP, {"elements": DUMP}) == value(name, "", DUMP[name], {"elements": DUMP[name]})
    plural = {f"{key}s": item for key, item in DUMP.items()}
    assert value(name, "", plural, {"elements": DUMP}) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "found", "expected"),
    [
        ("text", ["Sales", "0"], 0.8),  # P 1, R 2/3
        ("text", ["Sales"] * 3, 1 / 3),  # a repeated text counts once
        ("legend", ["2023", "2024"], 2 / 3),
        ("layout", [{"ncols": 2, "nrows": 1}, {"nrows": 1, "ncols": 1}], 2 / 3),
        ("type", {"bar": 1, "line": 1}, 2 / 3),  # 2 shared of 2 and 4
        ("type", ["bar", "pie"], 1 / 3),
        ("color", {"bar": ["#0000ff", "#ff0000"]}, 0.8),  # 2 of 2 and 3, in any order
        ("color", {"line": ["#ff0000", "#0000ff"], "bar": ["red"]}, None),
        ("color", {}, 0.0),
    ],
)
def test_golden(name: str, found: Any, expected: float | None) -> None:
    given = value(name, json.dumps({name: found}), DUMP)
    if expected is None:  # a near black for the line, nothing for a name that is no hex colour
        assert given is not None
        assert 0.0 < given < 2 * 1 / 6
    else:
        assert given == pytest.approx(expected)


def test_colours_by_ciede2000() -> None:
    # black and white differ by 100
    assert value("color", '{"color": {"bar": ["#ffffff"]}}', {"color": {"bar": ["#000000"]}}) == pytest.approx(
        0, abs=1e-3
    )
    assert value("color", "", {"color": [["bar", "#ff0000"]]}, {"elements": {"colour": {"bar": "#FF0000"}}}) == 1.0


def test_positions() -> None:
    truth = {"text": [{"text": "a", "x": 100, "y": 50}]}
    for x, right in ((109, 1.0), (111, 0.0)):
        found = {"elements": {"text": [{"text": "a", "x": x, "y": 50}]}, "position_tolerance": 0.1}
        assert value("text", "", truth, found) == right
        assert value("text", "", truth, {"elements": found["elements"]}) == 1.0


@pytest.mark.parametrize("name", NAMES)
def test_empty_and_broken(name: str) -> None:
    other = next(n for n in NAMES if n != name)
    assert value(name, "", {other: DUMP[other]}, {"elements": {other: DUMP[other]}}) == 1.0  # both have none of it
    for text in ("", "no", "3", "null", '{"' + name + '": 3}', "[" * 5000):
        assert value(name, text, DUMP) == 0.0
    assert value(name, "", DUMP, {"elements": {}}) == 0.0


@pytest.mark.parametrize("target", [None, 3, "no json", {"text": 3, "legend": 3, "layout": 3, "type": 3, "color": 3}])
@pytest.mark.parametrize("name", NAMES)
def test_bad_targets(name: str, target: Any) -> None:
    with pytest.raises(TargetError, match=f"compat.chartmimic.{name}"):
        value(name, "", target)


def test_programs_are_drawn_in_the_sandbox() -> None:
    pytest.importorskip("matplotlib")
    program = "import matplotlib.pyplot as plt\nplt.bar(['a', 'b'], [1, 2], color='red')\nplt.title('Sales')\n"
    for name in ("text", "type", "color", "layout"):
        assert score(f"compat.chartmimic.{name}", f"```python\n{program}```", program).value == 1.0
    other = program.replace("red", "blue").replace("Sales", "Costs")
    for name in ("text", "color"):
        found = score(f"compat.chartmimic.{name}", f"<answer>{other}</answer>", program).value
        assert found is not None
        assert 0.0 < found < 1.0
    broken = score("compat.chartmimic.text", "<answer>import matplotlib\nraise ValueError\n</answer>", program)
    assert (broken.value, broken.flags) == (0.0, ("unparsable",))


def test_grids_compare_by_value_and_positions_may_be_pairs() -> None:
    assert score("compat.chartmimic.layout", '{"layout": [{"nrows": 1.0}]}', {"layout": [{"nrows": 1}]}).value == 1.0
    meta = {"position_tolerance": 0.1}
    placed = '{"text": [{"text": "a", "pos": [1, 1]}]}'
    assert score("compat.chartmimic.text", placed, {"text": [{"text": "a", "pos": [9, 9]}]}, meta).value == 0.0
    assert score("compat.chartmimic.text", placed, {"text": [{"text": "a", "x": 1, "y": 1}]}, meta).value == 1.0
    assert score("compat.chartmimic.layout", '{"data": []}', {"data": [], "text": ["a"]}).value == 1.0
