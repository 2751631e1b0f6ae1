"""Measures of texts, remembered from the warm server on.

Matplotlib forgets how large a text is with every renderer, and asks the font file for its line height at every layout;
both cost a tenth of a small chart. What the server has measured while it warmed up (digits, usual tick labels), no
child measures again. The remembered numbers are the ones that Matplotlib computes; only the time differs.
"""

from __future__ import annotations

from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.font_manager import fontManager, get_font

_TABLES = (
    ("OS/2", "sTypoAscender", "sTypoDescender", "sTypoLineGap"),
    ("hhea", "ascent", "descent", "lineGap"),
)
"""Where a font says its line height, the first that it has: table, ascent, descent, gap between lines."""

_SETTINGS = (
    "font.family",
    "font.sans-serif",
    "font.serif",
    "font.monospace",
    "font.cursive",
    "font.fantasy",
    "text.hinting",
    "text.hinting_factor",
    "text.kerning_factor",
    "mathtext.fontset",
    "mathtext.default",
)
"""rcParams that change a measure; where one differs from its value in the warm server, nothing is remembered."""

_LONGEST = 64
"""Longer texts do not come twice."""


def remember_measures() -> None:
    """Make every Agg renderer of this process and of its forks remember; called once, before the first figure."""
    warm = [list(value) if isinstance(value, list) else value for value in _settings()]
    sizes: dict[tuple[Any, ...], tuple[float, float, float]] = {}
    lines: dict[tuple[Any, ...], tuple[float | None, float | None, float | None]] = {}
    agg: Any = RendererAgg
    measured = agg.get_text_width_height_descent

    def get_text_width_height_descent(self: Any, s: str, prop: Any, ismath: Any) -> tuple[float, float, float]:
        if ismath == "TeX" or len(s) > _LONGEST or _settings() != warm:
            return measured(self, s, prop, ismath)  # type: ignore[no-any-return]
        key = (s, hash(prop), ismath, self.dpi)
        if key not in sizes:
            sizes[key] = measured(self, s, prop, ismath)
        return sizes[key]

    def height_metrics(self: Any, prop: Any) -> tuple[float | None, float | None, float | None]:
        if _settings() != warm:
            return _line_height(prop, self.dpi)
        key = (hash(prop), self.dpi)
        if key not in lines:
            lines[key] = _line_height(prop, self.dpi)
        return lines[key]

    agg.get_text_width_height_descent = get_text_width_height_descent
    agg._get_font_height_metrics = height_metrics  # Matplotlib >= 3.11 asks a renderer for it first


def _settings() -> list[Any]:
    # Past RcParams' own access, which warns of deprecated names and costs more.
    held: Any = matplotlib.rcParams
    return [dict.__getitem__(held, name) for name in _SETTINGS]


def _line_height(prop: Any, dpi: float) -> tuple[float | None, float | None, float | None]:
    """(ascent, descent, gap) of a line in pixels, as matplotlib.text.Text computes them; None without a table."""
    fonts: Any = fontManager
    font: Any = get_font(fonts._find_fonts_by_props(prop))
    for table_name, *keys in _TABLES:
        table = font.get_sfnt_table(table_name)
        if table is not None:
            scale = 1 / font.get_sfnt_table("head")["unitsPerEm"] * prop.get_size_in_points() * dpi / 72
            ascent, descent, gap = (table[key] * scale for key in keys)
            return ascent, -descent, gap
    return None, None, None
