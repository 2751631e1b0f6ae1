"""Remembered measures of texts are those that Matplotlib computes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("matplotlib")

_DRAW = """
import json, sys
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
from vlrft.rewards.chart import measuring, recorder

PROGRAMS = (
    "plt.plot([1, 2, 3], 'o-', label='a $x^2$'); plt.legend(); plt.title('two\\\\nlines')",
    "f, a = plt.subplots(2, 2); [x.plot([1, 5]) for x in a.flat]; f.tight_layout()",
    "plt.rcParams['font.sans-serif'] = ['DejaVu Serif', 'DejaVu Sans']; plt.plot([1, 2]); plt.title('other font')",
    "plt.rcParams['text.hinting'] = 'none'; plt.pie([1, 2], labels=['x', 'y'])",
    "plt.figure(dpi=150); plt.bar(['a', 'b'], [1, 2]); plt.ylabel('up', fontsize=20, weight='bold')",
    "plt.rcdefaults(); plt.plot([1, 2]); plt.title('two\\\\nlines'); plt.tight_layout()",
)
if sys.argv[1] == "remembered":
    measuring.remember_measures()
pages = []
for program in PROGRAMS * 2:
    exec(program)
    pages += [recorder.page(plt.figure(number)) for number in plt.get_fignums()]
    plt.close("all")
print(json.dumps(pages))
"""


def _pages(mode: str) -> list[object]:
    done = subprocess.run([sys.executable, "-c", _DRAW, mode], capture_output=True, text=True, timeout=120, check=True)
    pages: list[object] = json.loads(done.stdout)
    return pages


@pytest.mark.slow
def test_pages_are_the_same_with_and_without_memory() -> None:
    plain, remembered = _pages("plain"), _pages("remembered")
    assert len(plain) == 12
    assert remembered == plain
