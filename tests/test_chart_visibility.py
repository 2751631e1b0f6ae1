"""What nobody can see is nothing, what anybody can see counts; what is judged can be painted, and is read in time."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import random
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.rewards import chart, score
from vlrft.rewards.chart import frame, recorded
from vlrft.rewards.chart.elements import agreement
from vlrft.rewards.chart.reading import NotADrawingError, TooLargeError, read

pytest.importorskip("matplotlib")

PLT = "import matplotlib.pyplot as plt\nimport numpy as np\n"
START = (
    PLT
    + "from matplotlib.patches import Polygon, Rectangle\nfrom matplotlib.lines import Line2D\n"
    + "fig, ax = plt.subplots()\n"
)
DRAWN = "ax.plot([1, 2, 4], label='2023'); ax.set_title('Sales'); ax.legend()\n"
BARE = "ax.axis('off')\n"
WHOLE = "Rectangle((0, 0), 1, 1, transform=fig.transFigure, zorder=99, "

INVISIBLE: dict[str, str] = {
    "thin_and_tiny": (
        "ax.plot([1, 2, 4], lw=.001, label='2023'); ax.set_title('Sales', alpha=.02, fontsize=1)\n"
        "ax.legend(prop={'size': 1}, frameon=False); ax.tick_params(labelsize=1, length=0)\n"
        "[s.set_visible(False) for s in ax.spines.values()]\n"
    ),
    "faint": BARE + "ax.plot([1, 2, 4], alpha=.02); ax.text(0, 1, 'Sales', alpha=.02)\n",
    "small_letters": BARE + "ax.text(0, 1, 'Sales', fontsize=1)\n",
    "white_on_white": BARE + "ax.plot([1, 2, 4], 'w'); ax.text(0, 1, 'Sales', color='w')\n",
    "nearly_white": BARE + "ax.bar([0, 1], [1, 2], color='#fdfdfd'); ax.text(0, 1, 'Sales', color='#f4f4f4')\n",
    "under_a_patch": DRAWN + f"fig.add_artist({WHOLE}color='w'))\n",
    "white_on_a_patch": BARE + f"fig.add_artist({WHOLE}color='k'))\nax.set_zorder(100); ax.plot([1, 2], 'k')\n",
    "under_an_image": DRAWN + "fig.figimage(np.ones((480, 640, 4)), zorder=99)\n",
    "under_tiles": DRAWN
    + (
        "for i in range(20):\n    for j in range(20):\n        fig.add_artist(Rectangle((i / 20, j / 20), .05, .05, "
        "transform=fig.transFigure, fc='w', ec='w', zorder=99))\n"
    ),
    "under_slivers": DRAWN
    + (
        "for i in range(700):\n    fig.add_artist(Rectangle((i / 700, 0), 1 / 700, 1, transform=fig.transFigure, "
        "fc='w', lw=0, zorder=99))\n"
    ),
    "under_a_marker": DRAWN + "fig.add_artist(Line2D([.5], [.5], marker='s', ms=2000, color='w', zorder=99))\n",
    "under_a_thick_line": DRAWN + "fig.add_artist(Line2D([0, 1], [.5, .5], lw=2000, color='w', zorder=99))\n",
    "under_a_scatter": DRAWN + "ax.scatter([1], [2], s=1e7, color='w', zorder=99, clip_on=False)\n",
    "drawn_over_in_white": BARE
    + "ax.plot([1, 2, 4]); ax.plot([1, 2, 4], 'w', lw=3); ax.text(0, 1, 'Sales'); ax.text(0, 1, 'Sales', color='w')\n",
    "beside_the_canvas": "ax.set_position([2, 2, 1, 1]); ax.plot([1, 2])\n"
    "fig.text(1.01, .5, 'Sales'); fig.text(-.3, .5, 'Sales')\n",
    "clipped_away": BARE
    + (
        "spot = Rectangle((0, 0), .001, .001, transform=fig.transFigure)\nax.plot([1, 2, 4])[0].set_clip_path(spot)\n"
        "ax.text(1, 2, 'Sales', clip_on=True).set_clip_path(spot)\n"
    ),
    "clipped_by_a_line": BARE
    + (
        "thin = Polygon([[0, 0], [1, 1], [1, 1.0001]], transform=fig.transFigure)\n"
        "ax.bar([0, .4], [0, 1]); [p.set_clip_path(thin) for p in ax.patches]\n"
    ),
    "tiny_marks": BARE + "ax.plot([1, 2], 'o', ms=.05, mew=.01); ax.scatter([1, 2], [1, 2], s=1e-4, linewidths=0)\n",
    "thin_bars": BARE + "ax.bar([1, 2], [3, 4], width=1e-6); ax.set_xlim(0, 3)\n",
    "white_pie": "ax.pie([1, 2], colors=['w', 'w'], wedgeprops={'lw': .01, 'ec': 'k'})\n",
}


@pytest.mark.parametrize("name", INVISIBLE)
def test_an_invisible_chart_is_none(name: str) -> None:
    found = score("chart.render", START + INVISIBLE[name], START + DRAWN, {"output_mode": "direct"})
    assert found.value == 0.0
    assert found.flags == ("unparsable",)


@pytest.mark.parametrize(
    ("draw", "kinds", "words"),
    [
        ("ax.plot([1, 2], lw=.5); ax.text(0, 1, 'a', fontsize=6)", ["line"], ["a"]),
        ("ax.fill_between([0, 1], [1, 2], alpha=.1)", ["area"], []),
        ("ax.scatter(np.arange(50), np.arange(50), s=1, alpha=.05)", ["scatter"], []),
        ("ax.bar(['a'], [2], color='navy'); ax.text(0, 1, 'in', color='w', ha='center')", ["bar"], ["in"]),
        ("ax.bar([0], [2], color='w', edgecolor='k', hatch='//')", ["bar"], []),
        ("ax.bar([0], [2], color='#f7fbff')", ["bar"], []),
        ("ax.set_facecolor('k'); ax.plot([1, 2], 'w'); fig.set_facecolor('k'); fig.text(.5, .95, 'a', color='w')",
         ["line"], ["a"]),
        ("ax.imshow(np.eye(3), cmap='gray'); ax.text(0, 0, 'a', color='k'); ax.text(1, 0, 'b', color='w')",
         ["image"], ["a", "b"]),
        ("ax.pcolormesh(np.eye(3), cmap='gray'); ax.text(.3, .4, 'a', color='k'); ax.text(1.3, .4, 'b', color='w')",
         ["mesh"], ["a", "b"]),
        ("ax.plot([0, 1]); ax.legend(['a'], loc='center', framealpha=1)", ["line"], []),
        ("ax.bar([0, 1], [1, 100]); ax.set_yscale('log')", ["bar"], []),
        ("ax.plot([0, 1], [0, 1e9]); ax.set_ylim(0, 1)", ["line"], []),
        ("ax.pie([1, 2], wedgeprops={'width': .4}); ax.text(0, 0, 'a')", ["pie"], ["a"]),
        ("ax.plot([1, 2], 'w'); ax.set_facecolor('#eaeaf2')", ["line"], []),
        ("ax.text(.5, .5, 'a', bbox={'facecolor': 'k'}, color='w')", [], ["a"]),
        ("ax.text(.2, .5, r'$\\frac{a}{b}$'); ax.text(.8, .5, 'up', rotation=90)", [], ["$\\frac{a}{b}$", "up"]),
        ("ax.plot([1, 2, 3], lw=8, color='k'); ax.plot([1, 2, 3], lw=3, color='y')", ["line", "line"], []),
    ],
)  # fmt: skip
def test_a_chart_that_can_be_seen_keeps_its_value(draw: str, kinds: list[str], words: list[str]) -> None:
    program = f"{START}{draw}\nax.set_xticks([]); ax.set_yticks([])\n"
    found = recorded(program)
    assert found["type"] == kinds
    assert found["text"] == words
    assert score("chart.render", program, program, {"output_mode": "direct"}).value == 1.0


def test_hidden_marks_of_a_collection_are_no_data() -> None:
    found = recorded(START + "ax.scatter([0, 1, 2], [0, 1, 2], c=['r', 'w', 'b'], s=90)\nax.set_xlim(-1, 1.5)\n")
    (series,) = found["data"]
    assert np.allclose(series["points"], [[0, 0]], atol=1e-3)
    assert found["colour"] == [["scatter", "#ff0000"]]


def test_a_bar_is_hidden_by_one_in_front() -> None:
    hidden = "ax.bar([0], [1], color='r')\nax.bar([0], [2], color='b')\n"
    assert recorded(START + hidden)["colour"] == [["bar", "#0000ff"]]
    through = "ax.bar([0], [1], color='r')\nax.bar([0], [2], color='b', alpha=.5)\n"
    assert [c for _, c in recorded(START + through)["colour"]] == ["#ff0000", "#8080ff"]


def test_hexagons_lie_where_they_are() -> None:
    points = recorded(START + "ax.hexbin([0, 0.5, 1], [0, 0, 1], gridsize=4, mincnt=1)\n")["data"][0]["points"]
    assert np.allclose(sorted(points), [[0, 0], [0.5, 0], [1, 1]], atol=0.13)


# ---- pages by hand


AXES = {"frame": [10, 10, 630, 470], "slot": [10, 10, 630, 470], "x": ["linear", 0.0, 1.0], "y": ["linear", 0.0, 1.0]}
BLACK, BLUE = [0, 0, 0, 1], [0.1, 0.2, 0.7, 1]
ROLES = ("line", "bar", "scatter", "area", "wedge", "mesh", "image")
FONT = {"family": ["sans-serif"], "size": 10.0, "style": "normal", "weight": "normal"}
FONT |= {"stretch": "normal", "variant": "normal"}


def page(ops: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    owners = [["figure", -1, -1], *([role, 0, number] for number, role in enumerate(ROLES))]
    made = {"size": [640, 480], "dpi": 100.0, "axes": [AXES], "owners": owners, "clips": [], "ops": ops}
    return made | changes


def path(points: Any, codes: Any = None, owner: int = 1, **fields: Any) -> dict[str, Any]:
    return {"op": "path", "owner": owner, "path": [points, codes], "edge": BLACK, "width": 1.5} | fields


def text(words: str, x: float, y: float, **fields: Any) -> dict[str, Any]:
    font = FONT | fields.pop("font", {})
    made = {"op": "text", "owner": 0, "edge": BLACK, "at": [[x, y]], "text": words, "angle": 0.0, "math": False}
    return made | {"font": font} | fields


def image(rows: int, columns: int, pixels: bytes | None = None, shape: Any = None) -> dict[str, Any]:
    packed = base64.b64encode(zlib.compress(bytes(4 * rows * columns) if pixels is None else pixels, 9)).decode()
    return {
        "op": "image",
        "owner": 7,
        "at": [[0, 0]],
        "shape": shape or [rows, columns],
        "pixels": packed,
        "edge": BLACK,
    }


def many(places: list[list[float]], outlines: list[Any] | None = None, **fields: Any) -> dict[str, Any]:
    made = {"op": "many", "owner": 3, "paths": outlines or [[[[-4, -4], [4, -4], [0, 4]], None]], "at": places}
    made |= {"matrices": [[1, 0, 0, 1, 0, 0]], "fills": [BLUE], "edges": [BLACK], "widths": [1.0], "dashes": [None]}
    return made | {"hatch_colours": []} | fields


def rectangle(x: float, y: float, wide: float, high: float, **fields: Any) -> dict[str, Any]:
    corners = [[x, y], [x + wide, y], [x + wide, y + high], [x, y + high], [x, y]]
    return path(corners, [1, 2, 2, 2, 79], **({"owner": 2, "fill": BLUE} | fields))


MESH = {"op": "mesh", "owner": 6, "shape": [1, 2], "fills": [BLACK, BLUE]}
MESH["at"] = [[400, 100], [450, 100], [500, 100], [400, 150], [450, 150], [500, 150]]
SAMPLE = page(
    [
        rectangle(0, 0, 640, 480, owner=0, fill=[1, 1, 1, 1], edge=[1, 1, 1, 1]),
        path([[100, 100], [200, 300], [300, 200]], dash=[0.0, [3.0, 2.0]], box=[10, 10, 630, 470], clip=0, snap=None),
        rectangle(50, 20, 30, 90, hatch="//", hatch_colour=BLACK, cap="round", join="bevel", smooth=True),
        path([[300, 300], [340, 300], [340, 340], [300, 340]], [1, 4, 4, 4], owner=5, fill=BLUE),
        {"op": "markers", "owner": 1, "path": [[[-3, -3], [3, -3], [0, 3]], None], "at": [[200, 200], [220, 210]],
         "fill": BLUE, "edge": BLACK, "width": 1.0},
        many([[400, 300], [420, 310]], dashes=[[0.0, [2.0, 2.0]]]),
        MESH,
        image(20, 30, bytes([9, 99, 200, 255]) * 600),
        text("Sales", 300, 40),
        text("$a^2$", 320, 440, math=True),
    ],
    clips=[[[[10, 10], [630, 10], [630, 470], [10, 470]], None]],
)  # fmt: skip


def test_the_sample_page_is_seen_and_painted() -> None:
    found = read([SAMPLE])
    assert found["text"] == ["Sales", "$a^2$"]
    assert sorted(found["type"]) == ["bar", "image", "line", "mesh", "pie", "scatter"]
    assert chart.shared_sandbox().paint(SAMPLE, timeout_s=20.0) is not None


WRONG = st.sampled_from(
    [None, True, "x", "1", -1, 0, 0.5, 2, 10**7, 1e9, 1e12, 1e300, 10**400, [], {}, [[]], [0], [[1, 2]], [[1, 2, 3]],
     "$\\frac$", "\ud800", "\x00", [["a", "b"]], [None, None], [1, 4, 4], {"size": 1e9}, [[[0, 0]], [4]]]
)  # fmt: skip


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_what_is_judged_can_be_painted(data: st.DataObject) -> None:
    """The sample page with one place replaced by anything."""
    made = copy.deepcopy(SAMPLE)
    holder: Any = data.draw(st.sampled_from([made, *made["ops"], *made["ops"]]))
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(holder[key], dict | list) and holder[key] and data.draw(st.booleans()):
            holder = holder[key]
            continue
        holder[key] = data.draw(WRONG)
        break
    try:
        found = read([made])
    except NotADrawingError:
        return
    for value in agreement(found, found, 0.05).values():
        assert value is None or value == pytest.approx(1.0)
    assert chart.shared_sandbox().paint(made, timeout_s=20.0) is not None


@pytest.mark.parametrize(
    "ops",
    [
        [path([[100, 100], [200, 300]], width=0.001), text("Sales", 300, 40, edge=[0, 0, 0, 0.02], font={"size": 1.0})],
        [path([[100, 100], [200, 300]], edge=[0, 0, 0, 0.02])],
        [path([[1e6, 1e6], [2e6, 2e6]]), text("Sales", 1e6, 40), text("Sales", 300, -1e6)],
        [rectangle(100, 100, 50, 80, fill=[1, 1, 1, 1], edge=[1, 1, 1, 1])],
        [many([[100, 100]], widths=[0.01], fills=[[0, 0, 0, 0.01]])],
        [path([[100, 100], [200, 300]]), rectangle(0, 0, 640, 480, owner=0, fill=[1, 1, 1, 1])],
        [text("Sales", 300, 40), image(480, 640, bytes([255]) * (4 * 480 * 640))],
        [path([[100, 100], [200, 300]], box=[0, 0, 50, 50])],
        [path([[1e9, 1e9], [1e9, 1e9]])],
    ],
)
def test_a_forged_page_of_invisible_paint_is_nothing(ops: list[dict[str, Any]]) -> None:
    found = read([page(ops)])
    assert not found["text"]
    assert "line" not in found["type"]
    assert "scatter" not in found["type"]


@pytest.mark.parametrize(
    "change",
    [
        {"size": [0, 480]},
        {"size": [640.5, 480]},
        {"size": [1_000_000, 1_000_000]},
        {"dpi": 0},
        {"dpi": None},
        {"axes": [AXES | {"x": ["linear", -1e299, 1e299]}]},
        {"axes": [AXES | {"frame": [0, 0, 1]}]},
        {"owners": [["line", 5, 0]]},
        {"clips": [[[[0, 0]], [2]]]},
        {"ops": [path([[0, 0], [1, float("1e10")]])]},
        {"ops": [path([[0, 0], [1, 1]], [1])]},
        {"ops": [path([[0, 0], [1, 1]], [2, 2])]},
        {"ops": [path([[0, 0], [1, 1]], dash=[0, [1e-9, 1e-9]])]},
        {"ops": [path([[0, 0], [1, 1]], hatch="/" * 99, hatch_colour=BLACK)]},
        {"ops": [path([[0, 0], [1, 1]], hatch="/")]},
        {"ops": [path([[0, 0], [1, 1]], clip=0)]},
        {"ops": [path([[0, 0], [1, 1]], edge=[0, 0, 0])]},
        {"ops": [path([[0, 0], [1, 1]], cap="no")]},
        {"ops": [path([[0, 0], [1, 1]], owner=99)]},
        {"ops": [many([[1, 1]], matrices=[])]},
        {"ops": [many([[1, 1]], widths=[-1])]},
        {"ops": [many([[1, 1]], fills=[[0, 0, 0, 2]])]},
        {"ops": [MESH | {"fills": [BLUE]}]},
        {"ops": [image(20, 30, b"short")]},
        {"ops": [image(20, 30, shape=[20, 31])]},
        {"ops": [image(20, 30) | {"pixels": image(20, 30)["pixels"][:-12]}]},
        {"ops": [text("Sales", 1, 1, font={"weight": "no"})]},
        {"ops": [text("Sales", 1, 1, font={"size": 1e6})]},
        {"ops": [text("Sales", 1, 1, edge=None)]},
        {"ops": [{"op": "spell", "owner": 0}]},
    ],
)
def test_what_cannot_be_painted_is_no_drawing(change: dict[str, Any]) -> None:
    with pytest.raises(NotADrawingError):
        read([page([]) | change])


# ---- results that would keep the trusted process busy

DICE = random.Random(0)


def _scattered(number: int) -> list[list[float]]:
    return [[DICE.random() * 640, DICE.random() * 480] for _ in range(number)]


SLOW: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "15 pages of 8,000 collections": lambda: [page([many([[9, 9]])] * 8000)] * 15,
    "50,000 collections": lambda: [page([many([[9, 9]])] * 49_999)],
    "as many collections as are read": lambda: [page([many(_scattered(3), fills=[BLUE, BLACK]) for _ in range(1240)])],
    "16 pages with a large image": lambda: [page([image(4096, 4096)])] * 16,
    "as many images as are read": lambda: [page([image(58, 58) for _ in range(1240)])],
    "as many rectangles": lambda: [page([rectangle(*xy, 9, 9, edge=BLUE) for xy in _scattered(3300)])],
    "as many triangles": lambda: [page([path(_scattered(3), fill=BLUE) for _ in range(3300)])],
    "full covers": lambda: [page([rectangle(0, 0, 640, 480, fill=[i % 2, 0, 0, 0.5]) for i in range(3300)])],
    "as many lines": lambda: [page([path(_scattered(20)) for _ in range(4990)])],
    "as many points": lambda: [page([path([[i / 1e3, i % 3] for i in range(240_000)])])],
    "as many places": lambda: [page([many(_scattered(150_000))])],
    "outlines times places": lambda: [page([many(_scattered(60_000), [[_scattered(9_000), None]] * 2)])],
    "dashes without end": lambda: [page([path([[0, 0], [1e9, 1e9]], dash=[0, [0.03, 0.03]], fill=BLUE)] * 50)],
    "clips": lambda: [
        page([rectangle(0, 0, 640, 480, clip=i) for i in range(500)], clips=[[_scattered(9), None]] * 500)
    ],
    "nested lists": lambda: [page([path([[[]] * 9] * 120_000)])],
    "axes": lambda: [page([path(_scattered(3), owner=1) for _ in range(300)], axes=[AXES] * 256)] * 16,
    "texts": lambda: [page([text("abc" * 9, *xy) for xy in _scattered(9_990)])],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_no_result_keeps_the_reader_busy(name: str) -> None:
    body = json.dumps({"pages": SLOW[name]()}).encode()
    written = frame.MAGIC + len(body).to_bytes(8, "big") + body
    began = time.process_time()
    result = frame.unpack(written[: frame.RESULT_BYTES + 1])
    if result is not None and "pages" in result:
        with contextlib.suppress(TooLargeError):
            found = read(result["pages"])
            agreement(found, found, 0.05)
    # Of processor time; about half of that on an idle machine.
    assert time.process_time() - began < 1.5


@pytest.mark.slow
def test_a_large_result_is_named() -> None:
    program = PLT + "for i in range(4000):\n    plt.bar([i], [i + 1])\n"
    found = score("chart.render", program, START + DRAWN, {"output_mode": "direct", "timeout_s": 60})
    assert (found.value, found.flags) == (0.0, ("over_length",))
    noise = PLT + "plt.plot(np.random.randn(100_000), np.random.randn(100_000))\n"
    assert score("chart.render", noise, START + DRAWN, {"output_mode": "direct"}).flags == ("over_length",)


def test_a_forged_page_does_not_pay() -> None:
    """A program that hands over a page of its own making, well-formed, is judged by what that page shows."""
    target = recorded(PLT + "plt.plot([0, 1, 2], [0, 1, 2])\nplt.title('Sales')\n")
    place = PLT + (
        "import json, sys\nplt.plot([1])\nforged = json.loads('''@PAGE@''')\n"
        "sys.modules['vlrft.rewards.chart.program_run'].page = lambda figure, **more: forged\n"
    )
    line = path([[10, 10], [320, 240], [630, 470]], width=0.001)
    hidden = page([line, text("Sales", 300, 40, edge=[0, 0, 0, 0.02], font={"size": 1.0})])
    for forged in (hidden, page([]), page([line | {"width": 2.0, "edge": [1, 1, 1, 1]}])):
        program = place.replace("@PAGE@", json.dumps(forged))
        for name, truth in (("chart.render", target), ("chart.visual", PLT + "plt.plot([0, 1, 2])\n")):
            found = score(name, program, truth, {"output_mode": "direct"})
            assert (found.value, found.flags) == (0.0, ("unparsable",)), name
    # Paint that can be seen is a chart, whoever wrote it down; and it is painted.
    program = place.replace("@PAGE@", json.dumps(page([line | {"width": 2.0}, text("Sales", 300, 40)])))
    run = chart.shared_sandbox().run(program, timeout_s=20.0)
    assert read(run.pages)["text"] == ["Sales"]
    assert chart.shared_sandbox().paint(run.pages[0], timeout_s=20.0) is not None
