"""Figures as inline SVG: no script, no font, no network, and colours that follow light and dark.

Panels are at most 360 units wide and are laid out by the page, so that text keeps its size on a
phone. Series differ by colour (Okabe-Ito) and by marker or dash, never by colour alone. The page's
style sheet defines the classes ``g`` (grid), ``a`` (axis) and ``t`` (text).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

__all__ = ["PALETTE", "dots", "heatmap", "legend", "lines", "scatter", "style_of"]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#B8A800", "#7F7F7F")
_MARKS = ("circle", "square", "triangle", "diamond", "down", "plus")
_DASHES = ("", "7 3", "2 3", "8 3 2 3", "4 2", "1 2", "10 4", "3 5")


def style_of(index: int) -> tuple[str, str, str]:
    """Return colour, marker and dash of the ``index``-th series; distinct for the first 48."""
    shift = index // len(PALETTE)
    return (
        PALETTE[index % len(PALETTE)],
        _MARKS[(index + shift) % len(_MARKS)],
        _DASHES[index % len(_DASHES)],
    )


def legend(entries: Sequence[tuple[str, int]], *, is_line: bool = False, note: str = "") -> Markup:
    """Return an HTML list of names and their marks; entries are (name, index for ``style_of``)."""
    items = []
    for name, index in entries:
        colour, mark, dash = style_of(index)
        drawn = _mark(mark, 13, 7, 4.5, colour)
        if is_line:
            stroke = f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'
            drawn = f'<line x1="1" x2="25" y1="7" y2="7" {stroke}/>{drawn}'
        mark_svg = f'<svg width="26" height="14" aria-hidden="true">{drawn}</svg>'
        items.append(f"<li>{mark_svg}{escape(name)}</li>")
    if note:
        items.append(f"<li>{escape(note)}</li>")
    return Markup(f'<ul class="legend">{"".join(items)}</ul>')  # noqa: S704  (names are escaped)


def scatter(
    points: Sequence[Sequence[float]], groups: Sequence[str], names: Sequence[str], title: str
) -> Markup:
    """Return a square scatter plot of points [n, 2], one style per group."""
    size, top = 340.0, 26.0
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    low_x, low_y = min(xs), min(ys)
    span = max(max(xs) - low_x, max(ys) - low_y) or 1.0
    room = size - 24
    place = {name: index for index, name in enumerate(names)}
    body = [
        f'<rect x="1" y="{top}" width="{size - 2:g}" height="{size - 2:g}" class="frame" rx="4"/>',
        _text(4, 17, title, "start", "h"),
    ]
    radius = 3.4 if len(points) < 800 else 2.2
    for x, y, group in zip(xs, ys, groups, strict=True):
        colour, mark, _ = style_of(place[group])
        at_x = 12 + room * (x - low_x + (span - (max(xs) - low_x)) / 2) / span
        at_y = top + 10 + room * (1 - (y - low_y + (span - (max(ys) - low_y)) / 2) / span)
        body.append(_mark(mark, at_x, at_y, radius, colour, opacity=0.8))
    return _svg(size, size + top, body, title)


def lines(
    series: Mapping[str, Sequence[tuple[float, float, float | None, float | None]]],
    styles: Mapping[str, int],
    title: str,
    x_label: str,
    *,
    log_x: bool = False,
    ticks: Sequence[float] = (),
) -> Markup:
    """Return curves of (x, y, low, high) with y in [0, 1]; the intervals are drawn as bars.

    Series that are not in ``styles`` are references: thin, grey, dashed.
    """
    width, height, left, top, bottom = 350.0, 264.0, 36.0, 28.0, 40.0
    every = [point[0] for points in series.values() for point in points]
    scale = (lambda x: math.log(x)) if log_x else (lambda x: x)
    low, high = scale(min(every)), scale(max(every))

    def at_x(x: float) -> float:
        return left + 12 + (width - left - 32) * (scale(x) - low) / ((high - low) or 1.0)

    def at_y(y: float) -> float:
        return top + (height - top - bottom) * (1 - y)

    body = [_text(4, 16, title, "start", "h"), *_y_grid(at_y, left, width)]
    for tick in ticks or sorted(set(every)):
        body.append(_text(at_x(tick), height - bottom + 17, f"{tick:g}", "middle"))
    body.append(_text((left + width) / 2, height - 6, x_label, "middle"))
    n = max(len(styles), 1)
    for name, points in series.items():
        index = styles.get(name)
        colour, mark, dash = ("currentColor", "", "3 3") if index is None else style_of(index)
        thick = 1.2 if index is None else 2.0
        shift = 0.0 if index is None or log_x else 2.2 * (index - (n - 1) / 2)
        path = " ".join(f"{at_x(x) + shift:.1f},{at_y(y):.1f}" for x, y, _, _ in points)
        body.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{thick}" '
            f'stroke-dasharray="{dash}" class="{"ref" if index is None else ""}"/>'
        )
        for x, y, least, most in points:
            here = at_x(x) + shift
            if least is not None and most is not None and most > least:
                body.append(_bar(here, at_y(least), here, at_y(most), colour))
            if mark:
                body.append(_mark(mark, here, at_y(y), 3.6, colour))
    return _svg(width, height, body, title)


def dots(
    values: Mapping[str, tuple[float, float | None, float | None]],
    styles: Mapping[str, int],
    title: str,
) -> Markup:
    """Return one row per method: its value in [0, 1] as a mark, its interval as a bar."""
    width, left, top, step = 350.0, 116.0, 30.0, 24.0
    height = top + step * len(values) + 26

    def at_x(value: float) -> float:
        return left + (width - left - 44) * min(max(value, 0.0), 1.0)

    foot = top + step * len(values)
    body = [_text(4, 16, title, "start", "h")]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        body.append(_grid(at_x(tick), top, at_x(tick), foot))
        body.append(_text(at_x(tick), foot + 15, f"{tick:g}", "middle"))
    for row, (name, (value, low, high)) in enumerate(values.items()):
        colour, mark, _ = style_of(styles.get(name, len(PALETTE) - 1))
        y = top + step * (row + 0.5)
        body.append(_text(left - 12, y + 4, name, "end"))
        if low is not None and high is not None:
            body.append(_bar(at_x(low), y, at_x(high), y, colour))
        body.append(_mark(mark, at_x(value), y, 4.6, colour))
        body.append(_text(width - 2, y + 4, f"{value:.2f}", "end"))
    return _svg(width, height, body, title)


def heatmap(labels: Sequence[str], matrix: Sequence[Sequence[int]], title: str) -> Markup:
    """Return a confusion matrix [T, T], rows true; shade is the share of the row, text the count.

    Rows and columns are numbered; the names stand in a list beside it, in full.
    """
    cell, left, top = 30.0, 26.0, 24.0
    n = len(labels)
    body = []
    for row, counts in enumerate(matrix):
        total = sum(counts)
        y = top + cell * row
        body.append(_text(left - 8, y + cell / 2 + 4, str(row + 1), "end", "h"))
        body.append(_text(left + cell * (row + 0.5), top - 7, str(row + 1), "middle", "h"))
        for column, count in enumerate(counts):
            share = count / total if total else 0.0
            x = left + cell * column
            body.append(
                f'<rect x="{x:g}" y="{y:g}" width="{cell - 1:g}" height="{cell - 1:g}" '
                f'fill="{PALETTE[0]}" fill-opacity="{0.04 + 0.9 * share:.2f}"/>'
            )
            if count:
                tone = "inv" if share > 0.5 else ""
                body.append(_text(x + cell / 2 - 0.5, y + cell / 2 + 4, str(count), "middle", tone))
    drawn = _svg(left + cell * n + 4, top + cell * n + 6, body, title, scroll=True)
    names = "".join(f"<li>{escape(label)}</li>" for label in labels)
    return Markup(  # noqa: S704  (title and names are escaped)
        f'<div class="matrix"><h4>{escape(title)}</h4><div class="scroll">{drawn}</div><ol>{names}</ol></div>'
    )


def _y_grid(at_y: object, left: float, width: float) -> list[str]:
    assert callable(at_y)
    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(_grid(left, at_y(tick), width - 6, at_y(tick)))
        parts.append(_text(left - 5, at_y(tick) + 4, f"{tick:g}", "end"))
    return parts


def _grid(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="g" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _bar(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        'stroke-width="3" stroke-opacity=".4"/>'
    )


def _text(x: float, y: float, content: str, anchor: str, extra: str = "") -> str:
    css = f"t {extra}".strip()
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'


def _mark(kind: str, x: float, y: float, r: float, colour: str, opacity: float = 1.0) -> str:
    look = f'fill="{colour}" fill-opacity="{opacity:g}"'
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:g}" {look}/>'
    shapes = {
        "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        "triangle": ((0, -1.2), (1.1, 0.8), (-1.1, 0.8)),
        "down": ((0, 1.2), (1.1, -0.8), (-1.1, -0.8)),
        "diamond": ((0, -1.3), (1.2, 0), (0, 1.3), (-1.2, 0)),
        "plus": (
            *((-0.4, -1.2), (0.4, -1.2), (0.4, -0.4), (1.2, -0.4), (1.2, 0.4), (0.4, 0.4)),
            *((0.4, 1.2), (-0.4, 1.2), (-0.4, 0.4), (-1.2, 0.4), (-1.2, -0.4), (-0.4, -0.4)),
        ),
    }
    path = " ".join(f"{x + r * dx:.1f},{y + r * dy:.1f}" for dx, dy in shapes[kind])
    return f'<polygon points="{path}" {look}/>'


def _svg(
    width: float, height: float, body: Sequence[str], title: str, *, scroll: bool = False
) -> Markup:
    fit = f'style="min-width:{width:g}px;max-width:{width:g}px"' if scroll else ""
    return Markup(  # noqa: S704  (every text in it went through escape)
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" {fit}>'
        f"<title>{escape(title)}</title>{''.join(body)}</svg>"
    )
