"""chart.render: what belongs together is judged together, and a right chart is right however it is written."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from vlrft.rewards import TargetError, check_target, score
from vlrft.rewards.chart import recorded
from vlrft.rewards.chart.elements import agreement
from vlrft.types import Score

pytest.importorskip("matplotlib")

PLT = "import matplotlib.pyplot as plt\nimport numpy as np\nfrom matplotlib.patches import Patch\n"
FEW = settings(
    max_examples=12, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck), derandomize=True
)
"""Each example runs two programs."""


def judge(program: str, target: Any) -> Score:
    given_target = PLT + target if isinstance(target, str) else target
    return score("chart.render", f"<answer>{PLT}{program}\n</answer>", given_target)


def part(found: Score, element: str) -> float | None:
    return found.parts[f"chart.render.{element}"]


BARS = (
    "plt.bar(['cats', 'dogs', 'birds'], [30, 5, 12], color=['r', 'g', 'b']); plt.xlabel('kind'); plt.ylabel('number')"
)
PIE = "plt.pie([30, 20, 50], labels=['cats', 'dogs', 'birds'], autopct='%d%%')"
LINES = "plt.plot([1, 2, 3], label='A'); plt.plot([3, 1, 2], label='B'); plt.legend()"
BLACK = "plt.plot([1, 2, 3], 'k-', label='A'); plt.plot([3, 1, 2], 'k--', label='B'); plt.legend()"
MARKERS = "plt.plot([1, 2, 3], 'ko', label='A'); plt.plot([3, 1, 2], 'ks', label='B'); plt.legend()"
GRID = (
    "f, (a, b) = plt.subplots(1, 2); a.plot([1, 2]); a.set_title('L'); a.set_xlabel('u'); b.bar([1, 2], [3, 4]); "
    "b.set_title('R'); b.set_xlabel('v')"
)
GROUPS = (
    "x = np.arange(3); plt.bar(x - .2, [1, 2, 3], .4, label='A', color='C0'); "
    "plt.bar(x + .2, [4, 9, 6], .4, label='B', color='C1'); plt.xticks(x, ['u', 'v', 'w']); plt.legend()"
)
TWIN = (
    "plt.bar(['u', 'v', 'w'], [1, 2, 3], label='number'); plt.ylabel('number'); t = plt.twinx(); "
    "t.plot([30, 10, 20], 'r', label='share'); t.set_ylabel('share'); plt.gcf().legend()"
)
PATCHES = (
    "plt.bar(['u', 'v'], [1, 2], color=['r', 'b']); "
    "plt.legend(handles=[Patch(color='r', label='R'), Patch(color='b', label='B')])"
)
HEAT = "plt.imshow([[1, 2], [3, 4]]); plt.xticks([0, 1], ['p', 'q']); plt.yticks([0, 1], ['r', 's'])"
BOXES = "plt.boxplot([[1, 2, 3], [2, 5, 9], [40, 50, 60]], tick_labels=['u', 'v', 'w'])"


def swapped(program: str, *pair: str) -> str:
    one, other = pair
    return program.replace(one, "\0").replace(other, one).replace("\0", other)


WRONG: dict[str, tuple[str, str, str]] = {
    "categories": (BARS, BARS.replace("'cats', 'dogs', 'birds'", "'dogs', 'birds', 'cats'"), "data"),
    "two categories": ("plt.bar(['b', 'a'], [3, 4], label='n')", "plt.bar(['a', 'b'], [3, 4], label='n')", "data"),
    "categories along y": ("plt.barh(['b', 'a'], [3, 4])", "plt.barh(['a', 'b'], [3, 4])", "data"),
    "categories of a line": ("plt.plot(['b', 'a', 'c'], [3, 4, 9])", "plt.plot(['a', 'b', 'c'], [3, 4, 9])", "data"),
    "categories of dots": ("plt.plot([3, 4], ['a', 'b'], 'o')", "plt.plot([3, 4], ['b', 'a'], 'o')", "data"),
    "years": ("plt.bar(['2019', '2020'], [3, 4])", "plt.bar(['2020', '2019'], [3, 4])", "data"),
    "a year late": (
        "plt.bar(range(1990, 2020), range(1, 31))", "plt.bar(range(1991, 2021), range(1, 31))", "data"
    ),
    "categories of groups": (GROUPS, swapped(GROUPS, "'u'", "'v'"), "data"),
    "no names": (BARS, BARS + "; plt.xticks([0, 1, 2], ['', '', ''])", "data"),
    "names of boxes": (BOXES, swapped(BOXES, "'u'", "'w'"), "data"),
    "names of a heatmap": (HEAT, swapped(HEAT, "'p'", "'q'"), "data"),
    "colours": (BARS, BARS.replace("'r', 'g', 'b'", "'g', 'b', 'r'"), "colour"),
    "labels": (BARS, swapped(BARS, "xlabel", "ylabel"), "text"),
    "slices": (PIE, PIE.replace("30, 20, 50", "20, 50, 30"), "data"),
    "slice labels": (PIE, PIE.replace("'cats', 'dogs', 'birds'", "'dogs', 'birds', 'cats'"), "data"),
    "slices in a legend": (
        "plt.pie([1, 2, 5]); plt.legend(['a', 'b', 'c'])", "plt.pie([1, 2, 5]); plt.legend(['b', 'c', 'a'])", "data"
    ),
    "legend": (LINES, swapped(LINES, "'A'", "'B'"), "legend"),
    "legend of dashes": (BLACK, swapped(BLACK, "'A'", "'B'"), "legend"),
    "legend of markers": (MARKERS, swapped(MARKERS, "'A'", "'B'"), "legend"),
    "legend of groups": (GROUPS, swapped(GROUPS, "'A'", "'B'"), "legend"),
    "legend of points": (PATCHES, swapped(PATCHES, "'R'", "'B'"), "legend"),
    "handles by hand": (LINES, LINES.replace("plt.legend()", "plt.legend(plt.gca().lines[::-1], 'AB')"), "legend"),
    "colours of lines": (LINES, LINES.replace("3],", "3], 'C1',").replace("2],", "2], 'C0',"), "colour"),
    "titles of subplots": (GRID, swapped(GRID, "'L'", "'R'"), "text"),
    "labels of subplots": (GRID, swapped(GRID, "'u'", "'v'"), "text"),
    "a series in the other subplot": (
        "f, (a, b) = plt.subplots(1, 2); a.plot([1, 9]); b.plot([5, 2])",
        "f, (a, b) = plt.subplots(1, 2); b.plot([1, 9], 'C0'); a.plot([5, 2])", "data",
    ),
    "sides of twin axes": (TWIN, swapped(TWIN, "'number')", "'share')"), "text"),
    "categories of twin axes": (TWIN, TWIN.replace("[30, 10, 20]", "[10, 20, 30]"), "data"),
    "titles of figures": (
        "for t in 'AB': plt.figure(); plt.plot([1, 2]); plt.title(t)",
        "for t in 'BA': plt.figure(); plt.plot([1, 2]); plt.title(t)", "text",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_stands_at_the_wrong_place_is_wrong(name: str) -> None:
    truth, wrong, element = WRONG[name]
    assert judge(truth, truth).value == 1.0
    found = judge(wrong, truth)
    assert found.value is not None
    assert found.value < 0.97, found
    value = part(found, element)
    assert value is not None
    assert value <= 0.75, found


RIGHT: dict[str, tuple[str, str]] = {
    "bars in another order": (
        BARS, "plt.bar([2, 0, 1], [12, 30, 5], color=['b', 'r', '#008000'], tick_label=['birds', 'cats', 'dogs']); "
        "plt.xlabel('kind'); plt.ylabel('number')",
    ),
    "categories in another order": (
        BARS, "plt.bar(['birds', 'cats', 'dogs'], [12, 30, 5], color=['blue', (1, 0, 0), 'g']); "
        "plt.gca().set(xlabel='kind', ylabel='number')",
    ),
    "slices in another order": (
        PIE, "plt.pie([20, 50, 30], labels=['dogs', 'birds', 'cats'], colors=['C1', 'C2', 'C0'], autopct='%d%%')"
    ),
    "a turned pie": (PIE, PIE.replace("autopct", "startangle=77, counterclock=False, autopct")),
    "slice labels within": (PIE, PIE.replace("autopct", "labeldistance=.6, pctdistance=.9, autopct")),
    "lines in another order": (
        LINES, "plt.plot([3, 1, 2], 'C1', label='B'); plt.plot([1, 2, 3], c='tab:blue', label='A'); plt.legend()"
    ),
    "a legend elsewhere": (LINES, LINES.replace("legend()", "legend(loc='lower left', ncol=2, markerfirst=False)")),
    "a legend by hand": (LINES, "plt.plot([1, 2, 3]); plt.plot([3, 1, 2]); plt.legend(['A', 'B'])"),
    "a legend without a frame": (BLACK, BLACK.replace("legend()", "legend(frameon=False, title='')")),
    "subplots in another order": (
        GRID, "f, (a, b) = plt.subplots(1, 2); b.bar([1, 2], [3, 4]); b.set_title('R'); b.set_xlabel('v'); "
        "a.plot([1, 2]); a.set_title('L'); a.set_xlabel('u')",
    ),
    "subplots one by one": (
        GRID, "plt.subplot(122); plt.bar([1, 2], [3, 4]); plt.title('R'); plt.xlabel('v'); plt.subplot(121); "
        "plt.plot([1, 2]); plt.title('L'); plt.xlabel('u')",
    ),
    "groups in another order": (
        GROUPS, "x = np.arange(3); plt.bar(x - .2, [4, 9, 6], .4, label='B', color='C1'); "
        "plt.bar(x + .2, [1, 2, 3], .4, label='A', color='C0'); plt.xticks(x, ['u', 'v', 'w']); plt.legend()",
    ),
    "groups by pandas": (
        GROUPS, "import pandas as pd; "
        "pd.DataFrame({'A': [1, 2, 3], 'B': [4, 9, 6]}, index=list('uvw')).plot.bar(rot=0)",
    ),
    "positions from one on": ("plt.bar(['u', 'v'], [1, 2])", "plt.bar([1, 2], [1, 2]); plt.xticks([1, 2], ['u', 'v'])"),
    "labels at an angle": ("plt.bar(['long name', 'other one'], [1, 2])",
                           "plt.bar(['long name', 'other one'], [1, 2]); plt.xticks(rotation=45, ha='right')"),
    "names on two lines": ("plt.bar(['one\\ntwo', 'three'], [1, 2])", "plt.bar(['three', 'one\\ntwo'], [2, 1])"),
    "years as names": ("plt.bar(['2019', '2020'], [3, 4])",
                       "plt.bar([2019, 2020], [3, 4]); plt.xticks([2019, 2020], ['2019', '2020'])"),
    "a year alone": ("plt.bar(['2019'], [3])", "plt.bar([2019], [3]); plt.xticks([2019], ['2019'])"),
    "one bar": ("plt.bar(['u'], [3])", "plt.figure(dpi=77); plt.bar([0], [3]); plt.xticks([0], ['u'])"),
    "twins the other way round": (
        TWIN, "f, n = plt.subplots(); t = n.twinx(); t.plot(['u', 'v', 'w'], [30, 10, 20], c='#f00', label='share'); "
        "t.set_ylabel('share'); n.bar(['u', 'v', 'w'], [1, 2, 3], label='number'); n.set_ylabel('number'); "
        "h = n.get_legend_handles_labels(), t.get_legend_handles_labels(); f.legend(h[0][0] + h[1][0], "
        "h[0][1] + h[1][1])",
    ),
    "title of the figure": ("plt.plot([1, 2]); plt.title('T')", "plt.plot([1, 2]); plt.suptitle('T')"),
    "labels of the figure": (
        "plt.plot([1, 2]); plt.xlabel('u'); plt.ylabel('v')",
        "f, a = plt.subplots(); a.plot([1, 2]); f.supxlabel('u'); f.supylabel('v')",
    ),
    "another size": (BARS, "plt.figure(figsize=(9, 5), dpi=80); " + BARS + "; plt.tight_layout()"),
    "an empty figure first": (GRID, "plt.figure(); " + GRID),
    "a grid and a look": (BOXES, "plt.gcf().set_facecolor('#eee'); " + BOXES),
    "exit": (LINES, LINES + "; exit()"),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_chart_is_right_however_it_is_written(name: str) -> None:
    truth, other = RIGHT[name]
    found = judge(other, truth)
    assert found.value == pytest.approx(1.0), found
    assert judge(truth, other).value == pytest.approx(1.0)


NAMES = st.lists(st.sampled_from(["cats", "dogs", "birds", "Q1", "Q2", "10-20", "x y", "2019", "2020"]), min_size=2,
                 max_size=5, unique=True)  # fmt: skip
COLOURS = {"red": "#ff0000", "green": "#008000", "blue": "#0000ff", "orange": "#ffa500", "black": "#000000"}


@pytest.mark.slow
@FEW
@given(NAMES, st.sampled_from(["bar", "barh", "pie"]), st.randoms(use_true_random=False))
def test_any_order_of_the_code_and_no_other_order_of_the_names(
    names: list[str], kind: str, dice: random.Random
) -> None:
    values = dice.sample([3, 7, 12, 20, 31, 45], len(names))
    colours = dice.sample(list(COLOURS), len(names))

    def drawn(order: list[int], labels: list[str], shades: list[str]) -> str:
        at, sizes = [names.index(labels[i]) for i in order], [values[i] for i in order]
        words, inks = [labels[i] for i in order], [shades[i] for i in order]
        if kind == "pie":
            return f"plt.pie({sizes}, labels={words}, colors={inks})"
        side = "x" if kind == "bar" else "y"
        return f"plt.{kind}({at}, {sizes}, color={inks}); plt.{side}ticks({at}, {words})"

    straight = list(range(len(names)))
    truth = drawn(straight, names, colours)
    order = dice.sample(straight, len(straight))
    assert judge(drawn(order, names, [COLOURS[c] for c in colours]), truth).value == pytest.approx(1.0)
    turned = [*straight[1:], 0]
    moved = judge(drawn(straight, [names[i] for i in turned], colours), truth)
    assert part(moved, "data") == 0.0
    painted = judge(drawn(straight, names, [colours[i] for i in turned]), truth)
    assert part(painted, "data") == 1.0
    assert part(painted, "colour") < 0.9


@FEW
@given(st.integers(2, 4), st.sampled_from(["plot", "scatter", "bar"]), st.randoms(use_true_random=False))
def test_any_order_of_the_series_and_no_other_labels(number: int, kind: str, dice: random.Random) -> None:
    values = dice.sample(range(2, 60, 4), 3 * number)  # no point upon another, which would hide it
    rows = [values[3 * i : 3 * i + 3] for i in range(number)]
    labels, colours = list("ABCD")[:number], dice.sample(list(COLOURS), number)
    labels = dice.sample(labels, number)

    def drawn(order: list[int], words: list[str], shades: list[str]) -> str:
        one = "plt.{}(np.arange(3) + {}, {}, color={!r}, label={!r}{})"
        wide = ", width=.2" if kind == "bar" else ""
        offset = 0.2 if kind == "bar" else 0.0
        made = [one.format(kind, i * offset, rows[i], shades[i], words[i], wide) for i in order]
        return "; ".join([*made, "plt.xlabel('time')", "plt.legend()"])

    straight = list(range(number))
    truth = drawn(straight, labels, colours)
    order = dice.sample(straight, number)
    assert judge(drawn(order, labels, [COLOURS[c] for c in colours]), truth).value == pytest.approx(1.0)
    turned = [*straight[1:], 0]
    said = judge(drawn(straight, [labels[i] for i in turned], colours), truth)
    assert part(said, "legend") == 0.0
    assert part(said, "data") == part(said, "colour") == 1.0


# ---- text by role, empty charts, exits


def test_a_title_is_not_drowned_by_ticks() -> None:
    truth = "plt.plot([1, 2, 3]); plt.title('Sales')"
    found = judge(truth.replace("Sales", "Deaths in 2020"), truth)
    assert part(found, "text") == 0.5
    assert found.value == pytest.approx(0.1 + 0.9 * 4.5 / 5)
    ticks = judge(truth + "; plt.xticks([]); plt.yticks([])", truth)
    assert part(ticks, "text") == 0.5
    bare = "plt.plot([1, 2, 3]); plt.xticks([]); plt.yticks([])"
    assert part(judge(bare, bare), "text") is None


@pytest.mark.parametrize(
    ("program", "value"),
    [
        ("plt.subplots()", 0.1),
        ("plt.bar(['cats', 'dogs', 'birds'], [0, 0, 0]); plt.ylim(0, 31.5)", 0.1),
        ("plt.xlim(-.5, 2.5); plt.xticks([0, 1, 2], ['cats', 'dogs', 'birds']); plt.ylim(0, 31.5)", 0.1),
        # Title and labels are half of one part of five.
        ("plt.subplots(); plt.xlabel('kind'); plt.ylabel('number')", 0.1 + 0.9 * 0.5 / 5),
    ],
)
def test_an_empty_chart_earns_little(program: str, value: float) -> None:
    assert judge(program, BARS).value == pytest.approx(value)


def test_axes_that_hold_texts_alone_count_where_the_true_chart_has_them() -> None:
    truth = "f, (a, b) = plt.subplots(1, 2); a.plot([1, 2]); b.text(.5, .5, 'note')"
    assert judge(truth, truth).value == 1.0
    assert part(judge(truth + "; b.plot([1, 2])", truth), "layout") == 0.5
    only = "plt.text(.5, .5, 'note')"
    assert judge(only, only).value == 1.0
    assert judge("plt.text(.5, .5, 'other')", only).value < 0.8


@pytest.mark.parametrize("code", ["1", "2", "True", "-1", "'it failed'", "''", "3.5", "[0]"])
def test_a_failed_exit_is_a_failed_run(code: str) -> None:
    for end in (f"import sys; sys.exit({code})", f"raise SystemExit({code})", f"exit({code})"):
        found = judge(f"{LINES}\n{end}", LINES)
        assert found.value == 0.0
        assert found.flags == ("sandbox_crash",)


@pytest.mark.parametrize("end", ["import sys; sys.exit(0)", "import sys; sys.exit()", "raise SystemExit", "quit(0)"])
def test_an_exit_without_failure_is_an_end(end: str) -> None:
    assert judge(f"{LINES}\n{end}\n1 / 0", LINES).value == 1.0


# ---- dumps


OLD = {
    "text": ["Sales", "a", "b"],
    "type": ["bar", "bar"],
    "layout": [[1, 1, 0, 0, 0, 0]],
    "colour": [["bar", "#ff0000"], ["bar", "#0000ff"]],
    "legend": ["2024", "2025"],
    "data": [
        {"type": "bar", "points": [[-0.2, 0, 3], [0.8, 0, 4]]},
        {"type": "bar", "points": [[0.2, 0, 5], [1.2, 0, 1]]},
    ],
}
DRAWN = (
    "x = np.arange(2); plt.bar(x - .2, [3, 4], .4, color='r', label='2024'); plt.bar(x + .2, [5, 1], .4, color='b', "
    "label='2025'); plt.xticks(x, ['a', 'b']); plt.yticks([]); plt.title('Sales'); plt.legend()"
)


def test_a_dump_of_before_is_judged_by_what_it_says() -> None:
    assert judge(DRAWN, OLD).value == pytest.approx(1.0)
    assert part(judge(swapped(DRAWN, "'2024'", "'2025'"), OLD), "legend") == 1.0
    assert part(judge(DRAWN.replace("title", "xlabel"), OLD), "text") == 1.0
    assert part(judge(DRAWN.replace("'b', label", "'k', label"), OLD), "colour") < 0.9
    assert part(judge(DRAWN.replace("[5, 1]", "[5, 2]"), OLD), "data") == 0.75
    assert all(value in (None, 1.0) for value in agreement(OLD, OLD, 0.05).values())


def test_a_dump_says_what_belongs_together() -> None:
    found = recorded(PLT + DRAWN)
    assert dict(zip(found["text"], found["roles"], strict=True)) == {
        "Sales": ["title", 0, 0, 0], "a": ["xtick", 0, 0, 0], "b": ["xtick", 0, 0, 0]
    }  # fmt: skip
    assert found["ties"] == [[[0, -1]], [[1, -1]]]
    one, other = found["data"]
    assert one["colours"] == ["#ff0000"]
    assert one["axes"] == [0, 0, 0]
    assert one["x"] == [["a", 0.0], ["b", 1.0]]
    assert other["colours"] == ["#0000ff"]
    assert json.loads(json.dumps(found)) == found
    points = recorded(PLT + PATCHES)
    assert points["ties"] == [[[0, 0]], [[0, 1]]]
    assert points["data"][0]["colours"] == ["#ff0000", "#0000ff"]
    assert recorded(PLT + PIE)["data"][0]["names"] == ["cats", "dogs", "birds"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"roles": [["title", 0, 0, 0]]}, "roles"),
        ({"roles": [["title"]] * 3}, "roles"),
        ({"ties": [[[0, -1]]]}, "ties"),
        ({"ties": [[[2, -1]], []]}, "ties"),
        ({"ties": [[[0, 2]], []]}, "ties"),
        ({"ties": [[0], []]}, "ties"),
        ({"data": [{**OLD["data"][0], "colours": ["red"]}]}, "data"),
        ({"data": [{**OLD["data"][0], "x": [["a"]]}]}, "data"),
        ({"data": [{**OLD["data"][0], "names": ["a"]}]}, "data"),
        ({"data": [{**OLD["data"][0], "axes": [0, 0]}]}, "data"),
    ],
)  # fmt: skip
def test_a_wrong_dump_is_refused_by_name(change: dict[str, Any], word: str) -> None:
    with pytest.raises(TargetError, match=word):
        check_target("chart.render", {**OLD, **change})
