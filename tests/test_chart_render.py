"""chart.*: what is read off a drawing, element F1s worked out by hand, and drawings that nobody can see."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlrft.rewards import TargetError, chart, check_target, score
from vlrft.rewards.chart import recorded
from vlrft.rewards.chart.reading import layout, read
from vlrft.types import Score

pytest.importorskip("matplotlib")

PLT = "import matplotlib.pyplot as plt\nimport numpy as np\n"
BARS = PLT + (
    "fig, ax = plt.subplots()\nax.bar(['a', 'b', 'c'], [1, 2, 4], color='#ff0000', label='2023')\n"
    "ax.set_title('Sales')\nax.legend()\n"
)
BARE = "ax.set_xticks([]); ax.set_yticks([])\n"


def judge(program: str, target: Any, name: str = "chart.render", **meta: Any) -> Score:
    return score(name, f"<think>t</think><answer>```python\n{program}\n```</answer>", target, meta)


def part(found: Score, element: str) -> float | None:
    return found.parts[f"chart.render.{element}"]


def test_the_reference_is_worth_one() -> None:
    found = judge(BARS, BARS)
    assert found.value == 1.0
    assert found.flags == ()
    assert {name.rpartition(".")[2] for name in found.parts} >= {"exec", "text", "type", "layout", "colour", "legend"}


def test_what_is_read_off_bars() -> None:
    found = recorded(BARS + "ax.set_yticks([0, 4])\nax.set_ylim(0, 5)\n")
    assert sorted(found["text"]) == ["0", "4", "Sales", "a", "b", "c"]
    assert found["legend"] == ["2023"]
    assert found["type"] == ["bar"]
    assert found["colour"] == [["bar", "#ff0000"]]
    assert found["layout"] == [[1, 1, 0, 0, 0, 0]]
    (series,) = found["data"]
    assert np.allclose(series["points"], [[0, 0, 1], [1, 0, 2], [2, 0, 4]], atol=1e-4)


@pytest.mark.parametrize(
    ("draw", "kind", "points"),
    [
        ("ax.plot([1, 2, 3], [1, 4, 9])", "line", [[1, 1], [2, 4], [3, 9]]),
        ("ax.plot([1, 2, 3], [1, 100, 10]); ax.set_yscale('log')", "line", [[1, 1], [2, 100], [3, 10]]),
        ("ax.plot([1, 2], [3, 4], 'o')", "scatter", [[1, 3], [2, 4]]),
        ("ax.scatter([1, 2], [3, 4], s=[10, 90], c=['r', 'g'])", "scatter", [[1, 3], [2, 4]]),
        ("ax.scatter([1], [3])", "scatter", [[1, 3]]),
        ("ax.barh([0, 1], [5, 7])", "barh", [[0, 0, 5], [1, 0, 7]]),
        ("ax.bar([0], [5], bottom=[2])", "bar", [[0, 2, 7]]),
        ("ax.hist([1, 1, 2], bins=[0.5, 1.5, 2.5])", "bar", [[1, 0, 2], [2, 0, 1]]),
        ("ax.pie([1, 3])", "pie", [[0.25], [0.75]]),
        ("ax.pie([1, 3], wedgeprops={'width': 0.4})", "pie", [[0.25], [0.75]]),
    ],
)
def test_values_are_read_off_the_marks(draw: str, kind: str, points: list[list[float]]) -> None:
    found = recorded(f"{PLT}fig, ax = plt.subplots()\n{draw}\n")
    assert found["type"] == [kind]
    assert found["data"][0]["type"] == kind
    assert np.allclose(found["data"][0]["points"], points, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("draw", "kinds"),
    [
        ("ax.imshow(np.eye(4))", {"image"}),
        ("ax.pcolormesh(np.eye(4))", {"mesh"}),
        ("ax.contourf(np.arange(16).reshape(4, 4))", {"contour"}),
        ("ax.fill_between([0, 1], [1, 2])", {"area"}),
        ("ax.errorbar([0, 1], [1, 2], yerr=0.1)", {"line", "lines"}),
        ("ax.boxplot([[1, 2, 3]])", {"line"}),
        ("ax.quiver([0, 1], [0, 1], [1, 1], [1, 0])", {"area"}),
        ("fig.clf(); ax = fig.add_subplot(projection='3d'); ax.plot([1, 2], [1, 2], [1, 2])", {"line"}),
        ("fig.clf(); ax = fig.add_subplot(projection='polar'); ax.plot([1, 2], [1, 2])", {"line"}),
        ("import pandas as pd; pd.DataFrame({'u': [1, 2]}).plot.bar(ax=ax)", {"bar"}),
        ("import seaborn as sns; sns.barplot(x=['a', 'b'], y=[1, 2], ax=ax)", {"bar", "line"}),
        ("import seaborn as sns; sns.heatmap(np.eye(3), ax=ax, cbar=False)", {"mesh"}),
        ("import seaborn as sns; sns.violinplot(y=[1, 2, 3, 4.0], ax=ax)", {"area", "line", "scatter"}),
    ],
)
def test_other_kinds_and_libraries(draw: str, kinds: set[str]) -> None:
    program = f"{PLT}fig, ax = plt.subplots()\n{draw}\n"
    found = recorded(program)
    assert found["type"]
    assert kinds >= set(found["type"])
    assert judge(program, program).value == 1.0
    assert judge(program, program, "chart.visual").value == pytest.approx(1.0)


def test_the_outline_of_an_area() -> None:
    (series,) = recorded(PLT + "plt.fill_between([0, 1, 2], [1, 3, 1])\n")["data"]
    points = np.array(series["points"])
    assert np.allclose(points.min(axis=0), [0, 0], atol=1e-4)
    assert np.allclose(points.max(axis=0), [2, 3], atol=1e-4)
    assert any(np.allclose(p, [1, 3], atol=1e-4) for p in points)


def test_grid_of_axes() -> None:
    found = recorded(PLT + "fig, axs = plt.subplots(2, 2)\nfor a in axs.flat: a.plot([1, 2])\n")
    assert sorted(found["layout"]) == [[2, 2, r, r, c, c] for r in (0, 1) for c in (0, 1)]
    spanning = recorded(PLT + "plt.subplot(2, 1, 1); plt.plot([1])\nplt.subplot(2, 2, 3)\nplt.subplot(2, 2, 4)\n")
    assert sorted(spanning["layout"]) == [[2, 2, 0, 0, 0, 1], [2, 2, 1, 1, 0, 0], [2, 2, 1, 1, 1, 1]]
    assert layout([], 100, 100) == []


def test_elements_that_differ_lower_their_own_part_only() -> None:
    found = judge(BARS.replace("'Sales'", "'Costs'"), BARS)
    assert part(found, "text") == 0.5  # all tick labels, and none of one title
    assert all(part(found, name) == 1.0 for name in ("type", "layout", "colour", "legend", "data"))
    assert found.value == pytest.approx(0.1 + 0.9 * (5 + part(found, "text")) / 6)
    other = judge(BARS.replace("[1, 2, 4]", "[1, 2, 3]"), BARS)
    assert part(other, "data") == pytest.approx(2 / 3)
    line = judge(BARS.replace("ax.bar", "ax.plot"), BARS)
    assert part(line, "type") == part(line, "data") == part(line, "colour") == 0.0


def test_a_target_may_be_a_recorded_dump() -> None:
    assert judge(BARS, json.loads(json.dumps(recorded(BARS)))).value == 1.0
    only_text = judge(BARS, {"text": ["Sales"]})
    assert part(only_text, "data") is None
    assert only_text.value == pytest.approx(0.1 + 0.9 * part(only_text, "text"))


def test_legend_that_neither_has_is_dropped() -> None:
    program = PLT + "plt.plot([1, 2])\n"
    found = judge(program, program)
    assert part(found, "legend") is None
    assert found.value == 1.0


@pytest.mark.parametrize(
    "hidden",
    [
        "ax.text(0.5, 0.5, 'Profit', alpha=0)",
        "ax.text(0.5, 0.5, 'Profit', visible=False)",
        "fig.text(9, 9, 'Profit')",
        "ax.text(0.5, 0.5, '   ')",
        "ax.plot([0, 1], [1, 2], alpha=0)",
        "ax.plot([0, 1], [1, 2], lw=0)",
        "ax.bar([0], [1], alpha=0)",
        "ax.scatter([0], [1], alpha=0)",
        "ax.scatter([0], [1], s=0)",
        "ax.plot([0, 1], [1, 2], 'o', ms=0, mew=0)",
        "ax.bar([0], [0])",
        "ax.plot([50, 60], [50, 60])",
        "ax.bar([50], [1])",
        "ax.fill_between([50, 60], [50, 60])",
    ],
)
def test_what_nobody_can_see_is_nothing(hidden: str) -> None:
    program = PLT + "fig, ax = plt.subplots()\nax.plot([0, 1])\nax.set_title('Sales')\n"
    frozen = "ax.set_xlim(-1, 3); ax.set_ylim(-1, 3)\n"
    assert recorded(f"{program}{hidden}\n{frozen}") == recorded(program + frozen)


def test_saved_and_closed_figures_count_once() -> None:
    saved = BARS + "plt.savefig('out.png', dpi=300, bbox_inches='tight')\nplt.show()\nplt.close('all')\n"
    assert recorded(saved) == recorded(BARS)
    assert recorded(BARS + "plt.close()\nplt.figure(); plt.plot([1, 2])")["type"] == ["line"]
    assert recorded(BARS + "import io\nfig.savefig(io.BytesIO())\n") == recorded(BARS)
    assert recorded(BARS + "import sys\nsys.exit(0)\n") == recorded(BARS)


def test_extra_figures_do_not_pay() -> None:
    twice = judge(BARS + BARS, BARS)
    assert twice.value == pytest.approx(
        0.1 + 0.9 * math.fsum(twice.parts[f"chart.render.{n}"] or 0 for n in chart.NAMES) / 6
    )
    assert twice.value < 0.75
    assert part(twice, "type") == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("answer", "flag"),
    [
        ("The chart shows sales rising.", "unparsable"),
        ("```python\n```", "unparsable"),
        ("print('hello')", "unparsable"),
        ("```python\nimport matplotlib.pyplot as plt\nplt.plot([1, 2\n```", "unparsable"),
        ("raise RuntimeError('no')", "sandbox_crash"),
        ("import plotly.express as px\npx.line([1]).write_image('a.png')", "sandbox_crash"),
        ("x = 1\n" * 200_000, "over_length"),
        ("\x00", "unparsable"),
        ("plt.plot(1)", "sandbox_crash"),
    ],
)
def test_bad_answers(answer: str, flag: str) -> None:
    found = score("chart.render", f"<answer>{answer}</answer>", BARS)
    assert found.value == 0.0
    assert flag in found.flags, found
    assert score("chart.visual", f"<answer>{answer}</answer>", BARS).value == 0.0


def test_no_answer() -> None:
    assert score("chart.render", BARS, BARS) == Score(
        value=0.0,
        parts={"chart.render": 0.0, **{f"chart.render.{n}": 0.0 for n in ("exec", *chart.NAMES)}},
        flags=("no_answer",),
    )


def test_direct_mode_reads_the_whole_completion() -> None:
    said = f"Here it is:\n```python\n{BARS}```\nand another\n```python\nraise SystemExit\n```"
    found = score("chart.render", said, BARS, {"output_mode": "direct"})
    assert found.value == 1.0
    assert found.flags == ("several_answers",)


@pytest.mark.parametrize(
    ("target", "meta", "word"),
    [
        (None, {}, "reference program"),
        (7, {}, "reference program"),
        ("", {}, "blank"),
        ("print(1)", {}, "reference program draws nothing; correct the program"),
        ("1/0", {}, "ZeroDivisionError"),
        ({}, {}, "text"),
        ({"texts": []}, {}, "texts"),
        ({"text": "Sales"}, {}, "text"),
        ({"text": []}, {}, "empty"),
        ({"colour": [["bar", "red"]]}, {}, "colour"),
        ({"layout": [[1, 1]]}, {}, "layout"),
        ({"data": [{"type": "bar", "points": [[float("nan")]]}]}, {}, "data"),
        ({"data": [{"type": "bar", "points": [[1], [1, 2]]}]}, {}, "data"),
        ({"text": ["a"]}, {"timeout_s": 0}, "timeout_s"),
        ({"text": ["a"]}, {"timeout_s": "soon"}, "timeout_s"),
        ({"text": ["a"]}, {"timeout_s": float("nan")}, "timeout_s"),
    ],
)
def test_bad_targets_stop_before_anything_runs(target: Any, meta: dict[str, Any], word: str) -> None:
    with pytest.raises(TargetError, match=word):
        check_target("chart.render", target, meta)


def test_visual_compares_images(tmp_path: Path) -> None:
    held = chart.shared_sandbox()
    page = held.run(BARS, timeout_s=20.0).pages[0]
    image = held.paint(page, timeout_s=20.0)
    assert image is not None
    path = tmp_path / "true.png"
    path.write_bytes(image)
    assert judge(BARS, str(path), "chart.visual").value == pytest.approx(1.0)
    other = judge(PLT + "plt.scatter([1, 2, 3], [3, 1, 2])\n", str(path), "chart.visual").value
    assert other is not None
    assert 0.0 <= other < 0.6
    twice = judge(BARS + BARS, str(path), "chart.visual")
    assert twice.value == pytest.approx(0.5)
    assert twice.flags == ("several_answers",)
    for bad in (str(tmp_path / "none.png"), None, 3, ""):
        with pytest.raises(TargetError, match="image"):
            check_target("chart.visual", bad)


def test_own_similarity(tmp_path: Path) -> None:
    path = tmp_path / "true.png"
    Image.new("RGB", (40, 30), "white").save(path)
    file = tmp_path / "mine.py"
    file.write_text("def size(a, b):\n    return b.shape[0] / a.shape[0]\n\ndef bad(a, b):\n    return 2.0\n")
    assert judge_with(BARS, path, f"{file}:size") == pytest.approx(30 / 480)
    with pytest.raises(ValueError, match="must lie in"):
        judge_with(BARS, path, f"{file}:bad")


def judge_with(program: str, path: Path, similarity_name: str) -> float | None:
    return score("chart.visual", f"<answer>{program}</answer>", str(path), similarity=similarity_name).value


def test_a_forged_page_is_painted() -> None:
    """Paint that the recorder never saw is paint in the image too: forging is drawing."""
    forged = PLT + (
        "import sys\nr = sys.modules['vlrft.rewards.chart.program_run']\nreal = r.page\n"
        "def page(figure):\n    made = real(figure)\n    text = [o for o in made['ops'] if o['op'] == 'text'][0]\n"
        "    made['ops'].append({**text, 'text': 'Profit', 'at': [[300, 200]]})\n    return made\n"
        "r.page = page\nplt.plot([1, 2])\n"
    )
    honest = chart.shared_sandbox().run(PLT + "plt.plot([1, 2])\n", timeout_s=20.0)
    lying = chart.shared_sandbox().run(forged, timeout_s=20.0)
    assert read(lying.pages)["text"] == [*read(honest.pages)["text"], "Profit"]
    images = [chart.shared_sandbox().paint(run.pages[0], timeout_s=20.0) for run in (honest, lying)]
    assert images[0] is not None
    assert images[1] is not None
    assert images[0] != images[1]


def test_without_a_sandbox_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(chart.SandboxUnavailable, match="darwin"):
        chart.Sandbox().run("x = 1", timeout_s=1.0)


def test_what_the_system_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from vlrft.rewards.chart import confinement

    assert confinement.missing_means() is None
    monkeypatch.setattr(confinement.landlock, "version", lambda: 0)
    assert "Landlock" in str(confinement.missing_means())
    monkeypatch.setattr(confinement.seccomp, "supported", lambda: False)
    assert "x86_64" in str(confinement.missing_means())


@pytest.mark.slow
def test_a_server_that_died_is_started_afresh() -> None:
    held = chart.shared_sandbox()
    assert held.run(BARS, timeout_s=20.0).flag is None
    assert held._process is not None
    held._process.kill()
    held._process.wait()
    assert held.run(BARS, timeout_s=20.0).flag is None


@pytest.mark.slow
def test_threads_share_one_server() -> None:
    from concurrent.futures import ThreadPoolExecutor

    programs = [BARS, "while True: pass", BARS.replace("Sales", "Costs"), "import os; os.fork()"] * 2
    with ThreadPoolExecutor(4) as pool:
        flags = [o.flag for o in pool.map(lambda p: chart.shared_sandbox().run(p, timeout_s=4.0), programs)]
    assert flags == [None, "sandbox_timeout", None, "sandbox_denied"] * 2
