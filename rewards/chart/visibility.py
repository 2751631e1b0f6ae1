"""What of a page's paint can be seen: not too thin, too faint, in the colour of what lies beneath, or covered later.

Commands are followed over a coarse grid (canvas.py), in order for the colour that each is painted on, and backwards for
the share of each cell that later paint lets through. Their ink is looked at in some places (sampling.py); it shows
where its strength, times its difference from what lies beneath, times what later paint lets through, is large enough.
What such a grid cannot hold: strokes thinner than a cell (some three pixels) hide nothing but the same outline or text,
and letters smaller than 64 pixels hide nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlrft.rewards.chart.canvas import Canvas, Cover, covers, is_wide
from vlrft.rewards.chart.commands import Array, Box, Op, Page
from vlrft.rewards.chart.marks import Marks, marks
from vlrft.rewards.chart.raster import Cells, Mask, Work
from vlrft.rewards.chart.sampling import Samples, samples

Shown = bool | Mask
"""Whether a command shows; of `markers` and `many`, which of their marks do (False where none does)."""

MIN_CONTRAST = {"text": 0.1}
LEAST_CONTRAST = 0.03
"""Smallest difference, in that of red, green and blue (0 to 1) that differs most."""
MIN_SHARE = {"text": 1 / 3}
LEAST_SHARE = 0.05
"""Of the places where a mark's ink is looked at, how many must show."""

_OUTLINED = ("path", "markers", "many")


def shown(page: Page, wanted: Sequence[int], work: Work) -> list[Shown]:
    """Of each command, whether it, or which of its marks, can be seen; False for all that are not in `wanted`.

    Raises TooLargeError where more area is covered than is left of `work`.
    """
    canvas = Canvas(page, work)
    regions = [canvas.region(op) for op in page.ops]
    looked, shapes = set(wanted), {}
    for i, op in enumerate(page.ops):
        if op.kind in _OUTLINED and regions[i] is not None and (i in looked or _covering(op, canvas)):
            shapes[i] = marks(op)
    found = samples(page, wanted, regions, shapes)
    made: list[Shown] = [False] * len(page.ops)
    if not len(found.op):
        return made
    # Where the places of a command begin, and those of the next one.
    borders = np.searchsorted(found.op, np.arange(len(page.ops) + 1))
    contrast, covered = _forwards(canvas, found, borders, regions, shapes)
    contrast *= _within(canvas, found, borders, regions)
    seen = contrast * _backwards(canvas, found, borders, covered)
    overdrawn: dict[object, float] = {}
    for i in sorted(wanted, reverse=True):
        if not _painted_over(page.ops[i], overdrawn) and borders[i + 1] > borders[i]:
            places = slice(borders[i], borders[i + 1])
            number = len(shapes[i].bounds) - 1 if i in shapes else 1
            made[i] = _shows(page.ops[i], seen[places], found.mark[places], number)
    return made


def _covering(op: Op, canvas: Canvas) -> bool:
    """Has a command with an outline an area? (Ticks have a colour for one.)"""
    area = op.fill is not None or op.hatch is not None or len(op.fills) > 0
    return (area and len(op.path.points) > 2) or is_wide(op, canvas.grid)


def _forwards(
    canvas: Canvas, found: Samples, borders: Cells, regions: Sequence[Box | None], shapes: dict[int, Marks]
) -> tuple[Array, dict[int, list[Cover]]]:
    """(how much each place's ink differs from what it is painted on, what each command covers)."""
    contrast, covered = np.zeros(len(found.op)), {}
    cells, colours = canvas.grid.cells(found.at), canvas.colours.reshape(-1, 3)
    begin = 0

    def compare(end: int) -> None:
        places = slice(begin, end)
        difference = np.abs(colours[cells[places]] - found.colour[places]).max(axis=1)
        contrast[places] = difference * found.strength[places]

    for i, op in enumerate(canvas.page.ops):
        region = regions[i]
        made = covers(canvas, op, shapes.get(i), region) if region is not None and _may_cover(op, i, shapes) else []
        if made:  # all that was looked at since the last one, this command included, lies on what was there before
            if borders[i + 1] > begin:
                compare(borders[i + 1])
                begin = borders[i + 1]
            for cover in made:
                canvas.paint(op, cover)
            covered[i] = made
    if begin < len(found.op):
        compare(len(found.op))
    return contrast, covered


def _may_cover(op: Op, number: int, shapes: dict[int, Marks]) -> bool:
    return op.kind not in _OUTLINED or number in shapes


def _within(canvas: Canvas, found: Samples, borders: Cells, regions: Sequence[Box | None]) -> Mask:
    """Which places lie where their command may paint."""
    nowhere = (1.0, 1.0, -1.0, -1.0)
    box = np.array([nowhere if region is None else region for region in regions])[found.op]
    x, y, reach = found.at[:, 0], found.at[:, 1], found.reach
    kept: Mask = (x >= box[:, 0] - reach) & (x <= box[:, 2] + reach)
    kept &= (y >= box[:, 1] - reach) & (y <= box[:, 3] + reach)
    for i, op in enumerate(canvas.page.ops):
        if op.clip is not None and borders[i + 1] > borders[i]:
            places = slice(borders[i], borders[i + 1])
            clipped = canvas.clipped(op, found.at[places])
            if clipped is not None:
                kept[places] &= clipped
    return kept


def _backwards(canvas: Canvas, found: Samples, borders: Cells, covered: dict[int, list[Cover]]) -> Array:
    """What later paint lets through at each place."""
    cells, through = canvas.grid.cells(found.at), np.ones(canvas.colours.shape[:2])
    left, end = np.ones(len(found.op)), len(found.op)
    for i in sorted(covered, reverse=True):
        # The places of later commands, and of this one after it was painted.
        left[borders[i + 1] : end] = through.ravel()[cells[borders[i + 1] : end]]
        end = borders[i + 1]
        left[borders[i] : end] = through.ravel()[cells[borders[i] : end]]
        end = borders[i]
        for cover in covered[i]:
            canvas.hide(canvas.page.ops[i], cover, through)
    left[:end] = through.ravel()[cells[:end]]
    return left


def _shows(op: Op, seen: Array, mark: Cells, number: int) -> Shown:
    hits = seen >= MIN_CONTRAST.get(op.kind, LEAST_CONTRAST)
    if op.kind not in ("markers", "many"):
        return bool(hits.any() and hits.mean() >= MIN_SHARE.get(op.kind, LEAST_SHARE))
    places, hit = np.bincount(mark, minlength=number), np.bincount(mark, hits, number)
    made: Mask = (hit > 0) & (hit >= LEAST_SHARE * places)
    return made if made.any() else False


def _painted_over(op: Op, overdrawn: dict[object, float]) -> bool:
    """Is the very same outline or text painted again later, at least as wide and without letting through?"""
    if op.kind not in ("path", "markers", "text"):
        return False
    codes = b"" if op.path.codes is None else op.path.codes.tobytes()
    outlines = op.path.points.tobytes(), codes, op.at.tobytes(), op.fill is None
    key = (op.kind, op.box, op.clip, *outlines, op.text, op.angle, op.size)
    again = overdrawn.get(key, -1.0)
    alphas = [colour[3] for colour in (op.edge, op.fill) if colour is not None]
    if alphas and min(alphas) >= 0.9 and not op.dashed:
        overdrawn[key] = max(again, op.width)
    return again >= op.width
