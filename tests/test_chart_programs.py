"""Honest programs in the chart sandbox: what they save, open, load and draw works, or fails under a fitting name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vlrft.rewards import chart, score
from vlrft.rewards.chart import recorded
from vlrft.rewards.chart.reading import read

pytest.importorskip("matplotlib")

PLT = "import matplotlib.pyplot as plt\nimport numpy as np\n"
LINE = PLT + "plt.plot([1, 2, 4], label='2023')\nplt.title('Sales')\n"


def run(program: str, timeout_s: float = 30.0) -> chart.Outcome:
    return chart.shared_sandbox().run(program, timeout_s=timeout_s)


@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "webp"])
def test_a_saved_figure_can_be_opened(kind: str) -> None:
    program = LINE + (
        f"from PIL import Image\nplt.savefig('a.{kind}', dpi=50)\nsize = Image.open('a.{kind}').size\n"
        "assert size == (640, 480), size\n"
    )
    assert recorded(program) == recorded(LINE)


def test_where_a_figure_is_saved_does_not_matter() -> None:
    places = ["a.pdf", "a.svg", "a.eps", "a", "a.b", "/tmp/x.png", "/mnt/data/x.png", "no/x.png", "../x.png", "~/x.png"]
    program = LINE + f"for place in {places}: plt.savefig(place)\n"
    program += "import os\nassert sorted(os.listdir('.')) == ['a.eps', 'a.pdf', 'a.png', 'a.svg'], os.listdir('.')\n"
    assert recorded(program) == recorded(LINE)
    within = LINE + "import os\nos.makedirs('out', exist_ok=True)\nplt.savefig('out/a.png')\n"
    assert recorded(within + "assert os.listdir('out') == ['a.png']\n") == recorded(LINE)
    assert run(LINE + "import os\nos.makedirs('/tmp/out', exist_ok=True)\n").flag == "sandbox_denied"


def test_a_backend_with_windows_is_no_error() -> None:
    program = "import matplotlib\nmatplotlib.use('TkAgg')\n" + LINE + "plt.switch_backend('QtAgg')\nplt.show()\n"
    assert recorded(program) == recorded(LINE)


def test_a_pool_of_threads_works_one_by_one() -> None:
    pool = (
        "from concurrent.futures import ThreadPoolExecutor, as_completed\n"
        "with ThreadPoolExecutor(max_workers=4) as pool:\n    first = list(pool.map(lambda x: x * x, [1, 2]))\n"
        "    later = pool.submit(lambda x: x, 4)\n    failed = pool.submit(lambda: 1 / 0)\n"
        "assert isinstance(failed.exception(), ZeroDivisionError)\n"
    )
    drawn = "plt.plot([*first[:1], 2, next(as_completed([later])).result()], label='2023')\nplt.title('Sales')\n"
    assert recorded(PLT + pool + drawn) == recorded(LINE)
    assert run("import threading\nthreading.Thread(target=print).start()\n").flag == "sandbox_crash"


def test_temporary_files_and_the_home_folder() -> None:
    program = LINE + (
        "import os, tempfile\nwith tempfile.TemporaryDirectory() as d: open(d + '/x', 'w').write('y')\n"
        "with tempfile.NamedTemporaryFile() as f: f.write(b'x')\nopen(os.path.expanduser('~/x'), 'w').close()\n"
    )
    assert recorded(program) == recorded(LINE)


def test_a_missing_file() -> None:
    assert run("open('data.csv')\n").flag == "sandbox_crash"
    for place in ("/data/data.csv", "../data.csv", "/etc/passwd/x"):
        assert run(f"open({place!r})\n").flag == "sandbox_denied", place


def test_text_with_effects_is_text() -> None:
    found = recorded("import matplotlib.pyplot as plt\nplt.xkcd()\n" + LINE + "plt.legend()\nplt.xticks([0, 2])\n")
    assert {"Sales", "0", "2"} <= set(found["text"])
    assert found["legend"] == ["2023"]
    assert found["type"] == ["line"]
    stroke = (
        "import matplotlib.patheffects as pe\n"
        "plt.title('Sales', color='w', path_effects=[pe.withStroke(linewidth=3, foreground='k')])\n"
    )
    assert "Sales" in recorded(LINE + "plt.gcf().set_facecolor('k')\n" + stroke)["text"]


def test_what_a_tight_box_adds() -> None:
    beside = "plt.legend(bbox_to_anchor=(1.05, 1), loc='upper left')\n"
    assert recorded(LINE + beside)["legend"] == []
    for end in (
        "plt.savefig('a.png', bbox_inches='tight')\n",
        "plt.rcParams['savefig.bbox'] = 'tight'\nplt.savefig('a')\n",
    ):
        found = recorded(LINE + beside + end + "plt.show()\n")
        assert found["legend"] == ["2023"]
        assert np.allclose(found["data"][0]["points"], [[0, 1], [1, 2], [2, 4]], atol=1e-3)
    (page,) = run(LINE + beside + "plt.savefig('a', bbox_inches='tight')\n").pages
    assert page["size"][0] > 640
    assert chart.shared_sandbox().paint(page, timeout_s=20.0) is not None
    assert recorded(LINE + "plt.savefig('a', bbox_inches='tight')\n") == recorded(LINE)
    grid = (
        PLT + "import seaborn as sns\nsns.jointplot(x=[1, 2, 3], y=[3, 1, 2])\nplt.savefig('a', bbox_inches='tight')\n"
    )
    assert run(grid).flag is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draw", "kind"),
    [
        ("plt.plot(np.random.randn(1_000_000))", "line"),
        ("plt.plot(np.random.randn(200_000), 'o')", "scatter"),
        ("plt.scatter(np.random.randn(300_000), np.random.randn(300_000), s=1, c=np.random.rand(300_000))", "scatter"),
        ("plt.fill_between(np.arange(300_000), np.random.randn(300_000))", "area"),
        ("plt.pcolormesh(np.random.rand(600, 600))", "mesh"),
        ("plt.hist(np.random.randn(10_000), bins=500)", "bar"),
        ("plt.figure(figsize=(20, 20), dpi=600); plt.plot([1, 2])", "line"),
        ("plt.figure(figsize=(20, 20), dpi=600); plt.imshow(np.random.rand(30, 30))", "image"),
    ],
)
def test_large_charts(draw: str, kind: str) -> None:
    program = f"{PLT}{draw}\nplt.title('Sales')\n"
    found = score("chart.render", program, program, {"output_mode": "direct", "timeout_s": 30.0})
    assert found.value == 1.0, found
    assert recorded(program)["type"] == [kind]
    assert "Sales" in recorded(program)["text"]
    (page,) = run(program).pages
    assert chart.shared_sandbox().paint(page, timeout_s=60.0) is not None


def test_a_long_line_keeps_its_shape() -> None:
    program = PLT + "x = np.linspace(0, 9, 100_000)\nplt.plot(x, np.sin(x))\nplt.axis([0, 9, -1, 1])\n"
    (series,) = recorded(program)["data"]
    points = np.array(series["points"])
    assert len(points) < 5_000
    assert np.allclose(points[:, 1], np.sin(points[:, 0]), atol=0.01)
    assert np.allclose(points[[0, -1], 0], [0, 9], atol=0.02)


def test_a_large_figure_is_recorded_at_fewer_dots() -> None:
    large, usual = (LINE.replace("plt.plot", f"plt.figure(dpi={dpi}); plt.plot") for dpi in (2000, 100))
    (page,) = run(large).pages
    assert page["size"][0] * page["size"][1] <= 2**22
    found, truth = recorded(large), recorded(usual)
    assert {**found, "data": []} == {**truth, "data": []}
    assert np.allclose(found["data"][0]["points"], truth["data"][0]["points"], atol=1e-4)


@pytest.mark.parametrize(
    ("program", "flag"),
    [
        ("import mmap\nheld = []\nwhile True: held.append(mmap.mmap(-1, 1 << 26))\n", "sandbox_memory"),
        (
            "import os\nheld = []\nfor i in range(50):\n    held.append(open('x', 'wb'))\n    os.unlink('x')\n"
            "    held[-1].write(bytes(3 << 20))\n    held[-1].flush()\n",
            "sandbox_denied",
        ),
        ("import os\nopen('x', 'wb').write(bytes(5 << 20))\n", "sandbox_denied"),
        (PLT + "plt.plot([1, 2])\nplt.ylim(-1e299, 1e299)\n", "sandbox_denied"),
    ],
)
def test_limits_by_name(program: str, flag: str) -> None:
    assert score("chart.render", program, LINE, {"output_mode": "direct"}).flags == (flag,)


def test_what_a_program_can_hold_on_disk_is_bounded() -> None:
    from vlrft.rewards.chart import confinement, server

    # Files removed while open, and the folder, which is looked at now and then.
    assert confinement.OPEN_FILES * confinement.FILE_BYTES + server.FOLDER_BYTES <= 256 * 2**20


def test_a_chart_with_many_faces_has_files_enough() -> None:
    faces = [(f, w, s) for f in ("DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono")
             for w in ("normal", "bold") for s in ("normal", "italic")]  # fmt: skip
    program = PLT + (
        f"for i, (face, weight, style) in enumerate({faces}):\n"
        "    plt.text(i / 12, .5, 'x', family=face, weight=weight, style=style)\n"
        "plt.rcParams['mathtext.fontset'] = 'cm'\n"
        "plt.text(.1, .9, r'$\\sum \\mathcal{A} \\mathbf{b} \\mathit{c} \\mathtt{d} \\int_0^1 \\alpha$')\n"
        "held = [open(f'{i}', 'w') for i in range(4)]\n"
    )
    assert run(program).flag is None


def test_places_of_the_trusted_process_are_out_of_sight() -> None:
    root = str(chart.__file__).rpartition("/rewards/")[0].removesuffix("/vlrft")
    program = (
        "import os, sys\nlinked = [m for n, m in sys.modules.items() if n.split('.')[0] == 'vlrft']\n"
        "seen = [*sys.path, *sys.argv, *sys.orig_argv, *sys.path_importer_cache, *os.environ.values(), __file__]\n"
        "keys = ('__file__', '__path__', '__spec__', '__cached__')\n"
        "seen += [str(getattr(m, key, '')) for m in linked for key in keys]\n"
        f"own = [s for s in seen if {root!r} in s and 'site-packages' not in s and s != sys.executable]\n"
        "assert not own, own\n"
    )
    found: Any = run(program + LINE)
    assert found.flag is None, found.error
    assert read(found.pages)["text"]
