"""Charts: a program that draws one is run in a sandbox, and what it drew is compared with the true chart.

Target: for `chart.render` the reference program (string, fenced or not), or a recorded element dump as `recorded`
returns it: `{"text", "type", "layout", "colour", "legend", "data", "roles", "ties"}`. For `chart.visual` the path of an
image, or a reference program. A reference program must draw something, else it is refused as a target; it runs in a
child of its own and its elements stay in the trusted process.

Meta: `timeout_s` (default 10), wall seconds that a program may take. `output_mode` says how the completion is read.

Answer: the first fenced Python block of the answer (of the whole completion in `direct` mode), else the first fenced
block without a name, else the answer itself. Matplotlib, Seaborn and pandas plots count; Plotly does not, since its
renderer is a browser and the sandbox starts no process. A chart is what was last saved or shown of each figure, else
what is open at the end. Saving within the working folder leaves a blank image of the figure's size, saving elsewhere
nothing; with `bbox_inches="tight"`, what lies outside of the figure is part of it. Choosing another backend does
nothing, and a `ThreadPoolExecutor` runs its tasks one by one (other threads and processes are refused).

No code, code that is not Python, and code that draws nothing that can be seen are `unparsable`; `sandbox_timeout`,
`sandbox_memory`, `sandbox_denied` (a forbidden file or call, or a forged result) and `sandbox_crash` (an exception, a
signal, an exit with a message or with a status other than 0) say how else a run failed; `over_length` is a program, or
a drawing, too large to be read (some 3,000 bars, or 8 MiB of paint commands; lines of very many points are simplified
first). All are worth 0. Programs run under the same random seed state, so unseeded noise is equal in all of them.

Guards: the sandbox is Landlock, seccomp, limits and a process per program, in bubblewrap where that works (sandbox.py).
A dump cannot be forged: elements are read off the paint commands from which the image is painted, in the trusted
process (reading.py), so that a program which reports what it wants has drawn it. What nobody can see is nothing: lines
under 0.3 pixels, letters under 4, ink that is too faint or in the colour of what lies beneath, marks that later paint
covers (visibility.py). A program cannot copy the reference either: neither the warm server nor any child ever holds
another program or result. Printing or writing the expected dump is drawing nothing. Extra marks, texts and figures cost
precision; several code blocks do not help, since one is run. What belongs together is judged together: a text counts in
its role and at its axes, a colour and a legend entry at its series (the entry's by the paint of its handle), a value at
the name of its category or slice; each such error costs its part of the mean. Tick labels are many, so they are one
half of the text. An empty chart has 0.1 for running, and half of the text for a right title and right labels, since a
chart does begin with them: axes without a series, where the true chart has one, and tick labels there count nothing.
What still pays: texts other than titles, labels and ticks are known by their axes, not by their place there, so that
the numbers written over two bars, or the cells of a heatmap, can be swapped. Series of one kind, colour, dashes and
marker are one to a legend. Points have no order beyond their place: a line that goes through them in another order may
agree. Subplots are known by row and column of those that are there, figures by their order, pie slices by name, legend
or size, cells of a mesh or image by order and colour (what a colour bar says is not read). Widths, line styles, marker
shapes, fonts, limits, grids and the sizes of scatter points are not judged. A bar may stand 0.45 categories off, so
that grouped bars may be in another order. Names count where their text is painted within its own length of the tick.

Source: element F1s in the manner of ChartMimic (Shi et al. 2024) and MSRL (arXiv 2508.13587; its weights are
unverified, so the weights here are ours); CIEDE2000; SSIM (Wang et al. 2004).
"""

from __future__ import annotations

import functools
import io
import math
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlrft.parse import Parsed
from vlrft.parse.program import read_program
from vlrft.registry import resolve
from vlrft.rewards.base import TargetError, ordered
from vlrft.rewards.chart.elements import NAMES, agreement, check_elements
from vlrft.rewards.chart.likeness import Pixels
from vlrft.rewards.chart.reading import NotADrawingError, TooLargeError, read
from vlrft.rewards.chart.sandbox import Outcome, Sandbox, SandboxUnavailable
from vlrft.types import Score

__all__ = ["SIMILARITIES", "Outcome", "Sandbox", "SandboxUnavailable", "recorded", "render", "shared_sandbox", "visual"]

TIMEOUT_S = 10.0
LONGEST_TIMEOUT_S = 600.0
LONGEST_PROGRAM = 200_000
"""Characters; a longer program is not run."""

EXECUTED = 0.1
"""What a program that draws anything is worth; the elements share the rest."""

SIMILARITIES: dict[str, str] = {"ssim": "vlrft.rewards.chart.likeness:structural"}
"""Image similarities by name."""

_shared: dict[bool, Sandbox] = {}
_shared_lock = threading.Lock()


def render(
    parsed: Parsed,
    target: Any,
    meta: Mapping[str, Any],
    *,
    rel_tol: float = 0.05,
    allow_unsandboxed: bool = False,
) -> Score:
    """How many elements of the true chart the program draws: texts, types, layout, colours, legend and data.

    Formula: 0.1 + 0.9 x mean of the F1s of {text, type, layout, colour, legend, data}; 0 when the run fails. An element
    that neither chart has is dropped from the mean. Text is the mean of two F1s, of tick labels and of all other texts,
    each text with its role and axes. Series are matched one to one (Hungarian) within a type and an axes, by data,
    colour and legend together; then data counts the share of points that agree, colour max(0, 1 - dE2000 / 100), legend
    the words of each entry at the same series. Type and layout (with whether the axes shows a series) are multisets.
    Range: [0, 1]

    rel_tol: by how much a value may differ, relative to the true one (positions on an axis: to the series' span).

    allow_unsandboxed: run model-written programs with your own rights where no sandbox can be had.

    Example: score("chart.render", "<answer>import os; os.fork()</answer>", {"text": ["Sales"]}) -> 0.0
    """
    if not 0.0 < rel_tol < 1.0:
        raise ValueError(f"chart.render: rel_tol must lie in (0, 1), got {rel_tol!r}")
    timeout = _timeout(meta)
    truth = _true_elements(target, timeout, allow_unsandboxed)
    outcome, flags = _outcome(parsed, timeout, allow_unsandboxed)
    nothing = {f"chart.render.{name}": 0.0 for name in ("exec", *NAMES)}
    if outcome is None:
        return Score(value=0.0, parts=nothing, flags=ordered(flags))
    found, failed = _drawn(outcome)
    if failed is not None:
        return Score(value=0.0, parts=nothing, flags=ordered(flags | {failed}))
    parts = agreement(found, truth, rel_tol)
    judged = [f1 for f1 in parts.values() if f1 is not None]
    value = EXECUTED + (1.0 - EXECUTED) * math.fsum(judged) / len(judged)
    named = {"chart.render.exec": 1.0, **{f"chart.render.{name}": f1 for name, f1 in parts.items()}}
    return Score(value=min(1.0, value), parts=named, flags=ordered(flags))


def visual(
    parsed: Parsed,
    target: Any,
    meta: Mapping[str, Any],
    *,
    similarity: str = "ssim",
    allow_unsandboxed: bool = False,
) -> Score:
    """How alike the painted chart and the true image look; 0 when the program fails.

    Formula: similarity(image, true image) / n, with the last of the n figures that the program draws
    Range: [0, 1]

    similarity: `ssim` (structural similarity of red, green and blue over what is not paper), or "package.module:attr",
    a function of two uint8 arrays [height, width, 3] that returns a number in [0, 1].

    allow_unsandboxed: run model-written programs with your own rights where no sandbox can be had.

    Example: score("chart.visual", "<answer>nothing</answer>", "import pylab\\npylab.plot([1, 2])") -> 0.0
    """
    alike: Callable[[Pixels, Pixels], float] = resolve(similarity, SIMILARITIES, kind="image similarity")
    timeout = _timeout(meta)
    truth = _true_image(target, timeout, allow_unsandboxed)
    outcome, flags = _outcome(parsed, timeout, allow_unsandboxed)
    if outcome is None:
        return Score(value=0.0, flags=ordered(flags))
    _, failed = _drawn(outcome)
    image = None if failed else shared_sandbox(allow_unsandboxed).paint(outcome.pages[-1], timeout_s=timeout)
    if image is None:
        return Score(value=0.0, flags=ordered(flags | {failed or "sandbox_crash"}))
    value = float(alike(_decoded(image), truth))
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"chart.visual: the similarity {similarity!r} returned {value!r}; it must lie in [0, 1]")
    flags |= {"several_answers"} if len(outcome.pages) > 1 else set()
    return Score(value=value / len(outcome.pages), flags=ordered(flags))


def recorded(program: str, *, timeout_s: float = TIMEOUT_S, allow_unsandboxed: bool = False) -> dict[str, list[Any]]:
    """The elements that `program` draws, as a target for `chart.render`. Raises TargetError when it draws none."""
    return _reference(program, timeout_s, allow_unsandboxed)[0]


def shared_sandbox(allow_unsandboxed: bool = False) -> Sandbox:
    """The sandbox that all chart rewards of this process share; started at its first use."""
    with _shared_lock:
        return _shared.setdefault(allow_unsandboxed, Sandbox(allow_unsandboxed=allow_unsandboxed))


def _timeout(meta: Mapping[str, Any]) -> float:
    given = meta.get("timeout_s")
    if given is None:
        return TIMEOUT_S
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0.0 < given <= LONGEST_TIMEOUT_S:
        raise TargetError(f"timeout_s must be seconds in (0, {LONGEST_TIMEOUT_S:g}], got {given!r}; correct the row")
    return float(given)


def _true_elements(target: Any, timeout: float, allow_unsandboxed: bool) -> Mapping[str, Any]:
    if isinstance(target, Mapping):
        return check_elements(target)
    if not isinstance(target, str):
        raise TargetError(
            f"a chart target is a reference program or a recorded element dump, got {target!r:.120}; correct the row"
        )
    return _reference(target, timeout, allow_unsandboxed)[0]


def _true_image(target: Any, timeout: float, allow_unsandboxed: bool) -> Pixels:
    if not isinstance(target, str) or not target.strip():
        raise TargetError(f"a chart.visual target is the path of an image, got {target!r:.120}; correct the row")
    if len(target) < 4096 and "\n" not in target and Path(target).is_file():
        return _file_pixels(target, Path(target).stat().st_mtime_ns)
    if "\n" not in target and "(" not in target:
        raise TargetError(f"chart.visual target: there is no image {target!r:.300}; check the path")
    return _reference_pixels(target, timeout, allow_unsandboxed)


@functools.lru_cache(maxsize=64)
def _file_pixels(path: str, _changed: int) -> Pixels:
    try:
        return _decoded(Path(path).read_bytes())
    except OSError as error:
        raise TargetError(f"chart.visual target: {path} is no image that can be read ({error})") from error


@functools.lru_cache(maxsize=64)
def _reference_pixels(program: str, timeout: float, allow_unsandboxed: bool) -> Pixels:
    page = _reference(program, timeout, allow_unsandboxed)[1]
    image = shared_sandbox(allow_unsandboxed).paint(page, timeout_s=3.0 * timeout)
    if image is None:
        raise TargetError("chart.visual target: the reference program's chart could not be painted; check the program")
    return _decoded(image)


@functools.lru_cache(maxsize=256)
def _reference(program: str, timeout: float, allow_unsandboxed: bool) -> tuple[dict[str, list[Any]], Mapping[str, Any]]:
    """(elements, last page) of a reference program. It has three times a completion's time. Raises TargetError."""
    code, _ = read_program(program)
    if code is None:
        raise TargetError("a chart target is a reference program, got a blank one; correct the row")
    outcome = shared_sandbox(allow_unsandboxed).run(code, timeout_s=3.0 * timeout)
    found, failed = _drawn(outcome)
    if failed == "unparsable" and outcome.flag is None:
        raise TargetError("the chart target's reference program draws nothing; correct the program")
    if failed is not None:
        said = f": {outcome.error}" if outcome.error else ""
        raise TargetError(f"the chart target's reference program fails ({failed}){said}; correct the program")
    return found, outcome.pages[-1]


def _outcome(parsed: Parsed, timeout: float, allow_unsandboxed: bool) -> tuple[Outcome | None, set[str]]:
    """(the run of the completion's program, or None where there is nothing to run; flags)."""
    flags = set(parsed.flags)
    if parsed.answer is None:
        return None, flags
    code, blocks = read_program(parsed.answer)
    flags |= {"several_answers"} if blocks > 1 else set()
    if code is None:
        return None, flags | {"unparsable"}
    if len(code) > LONGEST_PROGRAM:
        return None, flags | {"over_length"}
    return shared_sandbox(allow_unsandboxed).run(code, timeout_s=timeout), flags


def _drawn(outcome: Outcome) -> tuple[dict[str, list[Any]], str | None]:
    """(elements, None), or ({}, the flag of the failure)."""
    if outcome.flag is not None:
        return {}, outcome.flag
    try:
        found = read(outcome.pages)
    except TooLargeError:
        return {}, "over_length"
    except NotADrawingError:
        return {}, "sandbox_denied"
    return (found, None) if any(found.values()) else ({}, "unparsable")


def _decoded(image: bytes) -> Pixels:
    from PIL import Image

    with Image.open(io.BytesIO(image)) as opened:
        return np.asarray(opened.convert("RGB"), dtype=np.uint8)
