"""Figures as inline SVG: no script, no font, no network, and colours that follow light and dark.

Panels are at most 360 units wide and are laid out by the page, so that text keeps its size on a
phone; wide ones keep their size and scroll. Series differ by colour (Okabe-Ito) and by marker or
dash, never by colour alone. The page's style sheet defines the classes ``g`` (grid), ``t`` (text)
and those of ``LIGHT``. (Over 300 lines: marks, axes and the five plain charts share them.)
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import escape

__all__ = [
    "LIGHT",
    "PALETTE",
    "Legend",
    "Panel",
    "dots",
    "heatmap",
    "lines",
    "scatter",
    "style_of",
]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#B8A800", "#7F7F7F")
_DASHES = ("", "7 3", "2 3", "8 3 2 3", "4 2", "1 2", "10 4", "3 5")
_PLUS = (
    *((-0.4, -1.2), (0.4, -1.2), (0.4, -0.4), (1.2, -0.4), (1.2, 0.4), (0.4, 0.4)),
    *((0.4, 1.2), (-0.4, 1.2), (-0.4, 0.4), (-1.2, 0.4), (-1.2, -0.4), (-0.4, -0.4)),
)
_SHAPES: dict[str, tuple[tuple[float, float], ...]] = {
    "circle": (),
    "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "triangle": ((0, -1.2), (1.1, 0.8), (-1.1, 0.8)),
    "diamond": ((0, -1.3), (1.2, 0), (0, 1.3), (-1.2, 0)),
    "down": ((0, 1.2), (1.1, -0.8), (-1.1, -0.8)),
    "plus": _PLUS,
    "cross": tuple(((x - y) * 0.7, (x + y) * 0.7) for x, y in _PLUS),
    "left": ((-1.2, 0), (0.8, -1.1), (0.8, 1.1)),
    "bar": ((-1.4, -0.5), (1.4, -0.5), (1.4, 0.5), (-1.4, 0.5)),
    "pole": ((-0.5, -1.4), (0.5, -1.4), (0.5, 1.4), (-0.5, 1.4)),
}
_MARKS = tuple(_SHAPES)
_NUMBERED = 10
"""Beyond this many groups a map carries their numbers: that many styles cannot be looked up."""

LIGHT: dict[str, dict[str, str]] = {
    "t": {"fill": "#1b1f24", "font-size": "12px"},
    "h": {"font-weight": "600", "font-size": "13px"},
    "s": {"font-size": "10px"},
    "soft": {"fill": "#59636e"},
    "inv": {"fill": "#ffffff"},
    "lab": {"font-weight": "700", "font-size": "11px", "stroke": "#ffffff"},
    "g": {"stroke": "#d5dae0", "stroke-width": "1"},
    "frame": {"fill": "none", "stroke": "#d5dae0"},
    "ref": {"color": "#59636e"},
    "node": {"fill": "#59636e"},
}
"""The classes of a figure as they look in the light: for files that leave the page."""


@dataclass(frozen=True)
class Panel:
    """One drawing.

    Attributes
    ----------
    body
        SVG elements; every text in it is escaped.
    names
        What the numbers in the drawing stand for, from 1.
    wide
        Keeps its size (the page scrolls it) and has its title outside of the drawing.
    """

    width: float
    height: float
    body: str
    title: str
    names: tuple[str, ...] = ()
    wide: bool = False

    def __html__(self) -> str:
        """Return the panel as the page shows it."""
        fit = f' style="width:{self.width:g}px"' if self.wide else ""
        drawn = (
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img"{fit}>'
            f"<title>{escape(self.title)}</title>{self.body}</svg>"
        )
        if not self.wide:
            return drawn
        names = "".join(f"<li>{escape(name)}</li>" for name in self.names)
        many = " many" if len(self.names) > 20 else ""
        listed = f'<ol class="names{many}">{names}</ol>' if names else ""
        return (
            f'<div class="matrix"><h4>{escape(self.title)}</h4>'
            f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(self.title)}">{drawn}'
            f"</div>{listed}</div>"
        )


@dataclass(frozen=True)
class Legend:
    """Names and their marks; entries are (name, index for ``style_of``)."""

    entries: tuple[tuple[str, int], ...]
    is_line: bool = False
    note: str = ""

    @property
    def is_numbered(self) -> bool:
        """Whether the drawing carries numbers."""
        return not self.is_line and len(self.entries) > _NUMBERED

    def mark(self, index: int) -> str:
        """Return one entry's mark, 26 x 14."""
        colour, mark, dash = style_of(index)
        drawn = draw_mark(mark, 13, 7, 4.5, colour)
        if not self.is_line:
            return drawn
        stroke = f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'
        return f'<line x1="1" x2="25" y1="7" y2="7" {stroke}/>{drawn}'

    def label(self, position: int) -> str:
        """Return the words of an entry."""
        name = self.entries[position][0] or "(none)"
        return f"{position + 1} {name}" if self.is_numbered else name

    def __html__(self) -> str:
        """Return a list for the page."""
        items = [
            f'<li><svg width="26" height="14" aria-hidden="true">{self.mark(index)}</svg>'
            f"{escape(self.label(position))}</li>"
            for position, (_, index) in enumerate(self.entries)
        ]
        if self.note:
            items.append(f'<li class="note">{escape(self.note)}</li>')
        return f'<ul class="legend{" many" if self.is_numbered else ""}">{"".join(items)}</ul>'


def style_of(index: int) -> tuple[str, str, str]:
    """Return colour, marker and dash of the ``index``-th series; distinct for the first 80."""
    shift = index // len(PALETTE)
    return (
        PALETTE[index % len(PALETTE)],
        _MARKS[(index + shift) % len(_MARKS)],
        _DASHES[index % len(_DASHES)],
    )


def scatter(
    points: Sequence[Sequence[float]], groups: Sequence[str], names: Sequence[str], title: str
) -> Panel:
    """Return a square scatter plot of points [n, 2], one style per group, one path per group."""
    size, top = 340.0, 26.0
    at = np.asarray(points, dtype=float).reshape(-1, 2)
    least, most = (at.min(axis=0), at.max(axis=0)) if len(at) else (np.zeros(2), np.zeros(2))
    span = float((most - least).max()) if len(at) else 0.0
    scale = (size - 24) / (span or 1.0)
    centre = (least + most) / 2
    middle = 12 + (size - 24) / 2
    placed = np.column_stack(
        [
            middle + scale * (at[:, 0] - centre[0]),
            top - 2 + middle - scale * (at[:, 1] - centre[1]),
        ]
    )
    body = [
        f'<rect x="1" y="{top:g}" width="{size - 2:g}" height="{size - 2:g}" class="frame" rx="4"/>',
        draw_text(4, 17, clip(title, size - 8, 13), "start", "h"),
    ]
    radius = 3.4 if len(at) < 800 else 2.2
    rows: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    labels = []
    for index, name in enumerate(names):
        if name not in rows:
            continue
        colour, mark, _ = style_of(index)
        mine = placed[rows[name]]
        body.append(_cloud(mark, mine, radius, colour))
        if len(names) > _NUMBERED:
            typical = mine[np.abs(mine - np.median(mine, axis=0)).sum(axis=1).argmin()]
            labels.append(draw_text(typical[0], typical[1] + 4, str(index + 1), "middle", "lab"))
    return Panel(size, size + top, "".join(body + labels), title)


def lines(
    series: Mapping[str, Sequence[tuple[float, float, float | None, float | None]]],
    styles: Mapping[str, int],
    title: str,
    x_label: str,
    *,
    log_x: bool = False,
    ticks: Sequence[float] = (),
    as_percent: bool = False,
    marked: Mapping[str, tuple[float, float]] | None = None,
) -> Panel:
    """Return curves of (x, y, low, high) with y in [0, 1]; the intervals are drawn as bars.

    Series that are not in ``styles`` are references: thin, grey, dashed. With ``marked`` only these
    points carry a marker; else every point does.
    """
    width, height, left, top, bottom = 350.0, 264.0, 36.0, 28.0, 40.0
    every = [point[0] for points in series.values() for point in points] or [0.0, 1.0]
    scale: Callable[[float], float] = math.log if log_x else float
    low, high = scale(min(every)), scale(max(every))

    def at_x(x: float) -> float:
        return left + 12 + (width - left - 32) * (scale(x) - low) / ((high - low) or 1.0)

    def at_y(y: float) -> float:
        return top + (height - top - bottom) * (1 - min(max(y, 0.0), 1.0))

    body = [draw_text(4, 16, clip(title, width - 8, 13), "start", "h"), *y_grid(at_y, left, width)]
    for tick in ticks or sorted(set(every)):
        if min(every) <= tick <= max(every):
            words = f"{100 * tick:g} %" if as_percent else f"{tick:g}"
            body.append(draw_text(at_x(tick), height - bottom + 17, words, "middle"))
    body.append(draw_text((left + width) / 2, height - 6, x_label, "middle"))
    shown = [name for name in series if name in styles]
    step = 2.2 if len(shown) < 9 else 1.2
    for name, points in series.items():
        index = styles.get(name)
        colour, mark, dash = ("currentColor", "", "3 3") if index is None else style_of(index)
        thick = 1.2 if index is None else 2.0
        shift = 0.0
        if index is not None and not log_x and marked is None:
            shift = step * (shown.index(name) - (len(shown) - 1) / 2)
        path = " ".join(f"{at_x(x) + shift:.1f},{at_y(y):.1f}" for x, y, _, _ in points)
        css = ' class="ref"' if index is None else ""
        body.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{thick}" '
            f'stroke-dasharray="{dash}"{css}/>'
        )
        for x, y, least, most in points:
            here = at_x(x) + shift
            if least is not None and most is not None and most > least:
                body.append(_bar(here, at_y(least), here, at_y(most), colour))
            if mark and marked is None:
                body.append(draw_mark(mark, here, at_y(y), 3.6, colour))
        if mark and marked and name in marked:
            x, y = marked[name]
            body.append(draw_mark(mark, at_x(x), at_y(y), 5.5, colour))
    return Panel(width, height, "".join(body), title)


def dots(
    values: Mapping[str, tuple[float, float | None, float | None]],
    styles: Mapping[str, int],
    title: str,
) -> Panel:
    """Return one row per method: its value in [0, 1] as a mark, its interval as a bar."""
    width, left, top, step = 350.0, 116.0, 30.0, 24.0
    foot = top + step * len(values)

    def at_x(value: float) -> float:
        return left + (width - left - 44) * min(max(value, 0.0), 1.0)

    body = [draw_text(4, 16, clip(title, width - 8, 13), "start", "h")]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        body.append(draw_grid(at_x(tick), top, at_x(tick), foot))
        body.append(draw_text(at_x(tick), foot + 15, f"{tick:g}", "middle"))
    for row, (name, (value, low, high)) in enumerate(values.items()):
        colour, mark, _ = style_of(styles.get(name, len(PALETTE) - 1))
        y = top + step * (row + 0.5)
        body.append(draw_text(left - 12, y + 4, clip(name, left - 14, 12), "end"))
        if low is not None and high is not None:
            body.append(_bar(at_x(low), y, at_x(high), y, colour))
        body.append(draw_mark(mark, at_x(value), y, 4.6, colour))
        body.append(draw_text(width - 2, y + 4, f"{value:z.2f}", "end"))
    return Panel(width, foot + 26, "".join(body), title)


def heatmap(labels: Sequence[str], matrix: Sequence[Sequence[int]], title: str) -> Panel:
    """Return a confusion matrix [T, T], rows true; shade is the share of the row, text the count.

    Rows and columns are numbered; the names stand in a list beside it, in full. Many types make the
    cells smaller; then shade alone is left.
    """
    n = len(labels)
    cell = 30.0 if n <= 12 else 22.0 if n <= 24 else 15.0 if n <= 40 else 10.0
    every = 1 if cell > 20 else 5
    left, top, side = 28.0, 24.0, cell * n
    body = [f'<rect x="{left:g}" y="{top:g}" width="{side:g}" height="{side:g}" class="frame"/>']
    small = "h" if cell > 20 else "s"
    for position in range(n):
        if position == 0 or (position + 1) % every == 0:
            middle = cell * (position + 0.5)
            body.append(draw_text(left - 6, top + middle + 4, str(position + 1), "end", small))
            body.append(draw_text(left + middle, top - 7, str(position + 1), "middle", small))
    for row, counts in enumerate(matrix):
        total = sum(counts)
        y = top + cell * row
        for column, count in enumerate(counts):
            if not count:
                continue
            share, x = count / total, left + cell * column
            body.append(
                f'<rect x="{x + 0.5:g}" y="{y + 0.5:g}" width="{cell - 1:g}" height="{cell - 1:g}" '
                f'fill="{PALETTE[0]}" fill-opacity="{0.1 + 0.85 * share:.2f}"/>'
            )
            size = 12 if cell > 25 else 10
            if cell > 20 and text_width(str(count), size) < cell:
                tone = ("s" if size == 10 else "") + (" inv" if share > 0.5 else "")
                body.append(draw_text(x + cell / 2, y + cell / 2 + 4, str(count), "middle", tone))
    return Panel(left + side + 4, top + side + 6, "".join(body), title, tuple(labels), wide=True)


def clip(text: str, room: float, size: float) -> str:
    """Cut a text that needs more than ``room`` units; the cut is shown."""
    if text_width(text, size) <= room:
        return text
    while text and text_width(text + "…", size) > room:
        text = text[:-1]
    return text.rstrip() + "…"


def text_width(text: str, size: float) -> float:
    """Return about how wide a text is, at most, in a sans-serif font of this size."""
    total = 0.0
    for sign in text:
        if unicodedata.east_asian_width(sign) in "WF":
            total += 1.0
        elif sign.isupper() or sign in "mwMW@%<>+=&":
            total += 0.74
        else:
            total += 0.36 if sign in "iljtfIr.,:;'|!()[] " else 0.6
    return total * size * (1.1 if size > 12 else 1.0)  # titles are bold


def y_grid(at_y: Callable[[float], float], left: float, width: float) -> list[str]:
    """Return grid lines and numbers for values in [0, 1]."""
    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(draw_grid(left, at_y(tick), width - 6, at_y(tick)))
        parts.append(draw_text(left - 5, at_y(tick) + 4, f"{tick:g}", "end"))
    return parts


def draw_grid(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="g" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _bar(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        'stroke-width="3" stroke-opacity=".4"/>'
    )


def draw_text(
    x: float, y: float, content: str, anchor: str, extra: str = "", turn: float | None = None
) -> str:
    css = f"t {extra}".strip()
    turned = f' transform="rotate({turn:g} {x:.1f} {y:.1f})"' if turn is not None else ""
    return (
        f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turned}>'
        f"{escape(content)}</text>"
    )


def draw_mark(kind: str, x: float, y: float, r: float, colour: str, opacity: float = 1.0) -> str:
    look = f'fill="{colour}"' + (f' fill-opacity="{opacity:g}"' if opacity < 1 else "")
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:g}" {look}/>'
    path = " ".join(f"{x + r * dx:.1f},{y + r * dy:.1f}" for dx, dy in _SHAPES[kind])
    return f'<polygon points="{path}" {look}/>'


def _cloud(kind: str, points: np.ndarray, r: float, colour: str) -> str:
    """Return one mark per point [n, 2] as a single path: a tenth of the size of single elements.

    Marks that a thick line can draw are strokes, the others are filled.
    """
    arm, half = 2.4 * r, 1.7 * r
    strokes: dict[
        str, tuple[float, float, float, str]
    ] = {  # width, where it starts, how it goes on
        "circle": (2 * r, 0.0, 0.0, "h0"),
        "square": (1.8 * r, -0.9 * r, 0.0, f"h{_short(1.8 * r)}"),
        "bar": (r, -1.4 * r, 0.0, f"h{_short(2.8 * r)}"),
        "pole": (r, 0.0, -1.4 * r, f"v{_short(2.8 * r)}"),
        "plus": (
            *(0.8 * r, -arm / 2, 0.0),
            f"h{_short(arm)}m{_short(-arm / 2)} {_short(-arm / 2)}v{_short(arm)}",
        ),
        "cross": (
            *(0.8 * r, -half / 2, -half / 2),
            f"l{_short(half)} {_short(half)}m0 {_short(-half)}l{_short(-half)} {_short(half)}",
        ),
    }
    if kind in strokes:
        width, x0, y0, steps = strokes[kind]
        cap = ' stroke-linecap="round"' if kind == "circle" else ""
        look = f'fill="none" stroke="{colour}" stroke-width="{width:.2g}" stroke-opacity=".8"{cap}'
    else:
        corners = [(r * dx, r * dy) for dx, dy in _SHAPES[kind]]
        x0, y0 = corners[0]
        pairs = zip(corners, corners[1:], strict=False)
        steps = "".join(f"l{_short(b[0] - a[0])} {_short(b[1] - a[1])}" for a, b in pairs) + "z"
        look = f'fill="{colour}" fill-opacity=".8"'
    path = "".join(f"M{_short(x + x0)} {_short(y + y0)}{steps}" for x, y in points)
    return f'<path d="{path}" {look}/>'


def _short(value: float) -> str:
    """Return a number with one decimal and no zero that can be spared."""
    text = f"{value:z.1f}".removesuffix(".0")
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text
