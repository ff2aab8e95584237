"""Charts of the field: scIB-style table, radar, alluvial of labels, reliability.

Built from the primitives of ``figures``; the same classes, colours and sizes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from okrcell.evaluate.figures import (
    PALETTE,
    Panel,
    clip,
    draw_grid,
    draw_mark,
    draw_text,
    style_of,
    y_grid,
)

__all__ = ["radar", "reliability", "sankey", "scib_table"]

_NODES = 14
"""An alluvial shows this many types; the others are one."""


def scib_table(
    values: Mapping[str, Mapping[str, float]],
    groups: Sequence[tuple[str, int, Sequence[tuple[str, str]]]],
    bars: Sequence[tuple[str, str, int]],
    title: str,
) -> Panel:
    """Return methods by indicators: size and shade of a circle are its value in [0, 1].

    Parameters
    ----------
    values
        Method to metric to value, in the order of the rows.
    groups
        Columns of circles: (group name, index in the palette, (metric, name) ...).
    bars
        Columns of bars: (metric, name, index in the palette).
    """
    left, top, step, row_height = 136.0, 128.0, 33.0, 28.0
    height = top + row_height * len(values) + 8
    body = []
    for row, name in enumerate(values):
        y = top + row_height * (row + 0.5)
        body.append(draw_text(4, y + 4, clip(name, left - 12, 12), "start"))
        body.append(draw_grid(0, y + row_height / 2, left, y + row_height / 2))
    x = left
    for group, colour, columns in groups:
        start = x
        for metric, words in columns:
            middle = x + step / 2
            body.append(draw_text(middle + 3, top - 8, words, "start", turn=-50))
            for row, found in enumerate(values.values()):
                y = top + row_height * (row + 0.5)
                body.append(draw_grid(x, y + row_height / 2, x + step, y + row_height / 2))
                value = found.get(metric)
                if value is None:
                    body.append(draw_text(middle, y + 4, "–", "middle", "soft"))
                    continue
                held = min(max(value, 0.0), 1.0)
                body.append(
                    f'<circle cx="{middle:.1f}" cy="{y:.1f}" r="{3 + 9.5 * held:.1f}" '
                    f'fill="{PALETTE[colour]}" fill-opacity="{0.25 + 0.75 * held:.2f}">'
                    f"<title>{value:z.3f}</title></circle>"
                )
            x += step
        body.append(draw_text((start + x) / 2, 14, group, "middle", "h"))
        body.append(draw_grid(start + 4, 20, x - 4, 20))
        x += 14
    start = x
    for metric, words, colour in bars:
        body.append(draw_text(x + 10, top - 8, words, "start", turn=-50))
        for row, found in enumerate(values.values()):
            y = top + row_height * (row + 0.5)
            body.append(draw_grid(x, y + row_height / 2, x + 74, y + row_height / 2))
            value = found.get(metric)
            if value is None:
                body.append(draw_text(x + 4, y + 4, "–", "start", "soft"))
                continue
            long = 40 * min(max(value, 0.0), 1.0)
            body.append(
                f'<rect x="{x:.1f}" y="{y - 8:.1f}" width="{long:.1f}" height="16" rx="2" '
                f'fill="{PALETTE[colour]}" fill-opacity=".75"/>'
            )
            body.append(draw_text(x + long + 4, y + 4, f"{value:z.2f}", "start"))
        x += 76
    body.append(draw_text((start + x) / 2, 14, "Means", "middle", "h"))
    body.append(draw_grid(start, 20, x - 4, 20))
    return Panel(x + 56, height, "".join(body), title, wide=True)


def radar(
    series: Mapping[str, Sequence[float | None]],
    styles: Mapping[str, int],
    axes: Sequence[str],
    title: str,
) -> Panel:
    """Return one polygon per series over axes from 0 (centre) to 1 (rim)."""
    width, height, reach = 350.0, 312.0, 92.0
    centre = width / 2, 170.0

    def at(axis: int, value: float) -> tuple[float, float]:
        angle = 2 * math.pi * axis / len(axes) - math.pi / 2
        return (
            centre[0] + reach * value * math.cos(angle),
            centre[1] + reach * value * math.sin(angle),
        )

    def ring(values: Sequence[float]) -> str:
        places = (at(axis, value) for axis, value in enumerate(values))
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)

    body = [draw_text(4, 16, clip(title, width - 8, 13), "start", "h")]
    for tick in (0.25, 0.5, 0.75, 1.0):
        body.append(f'<polygon points="{ring([tick] * len(axes))}" class="frame"/>')
    for axis, words in enumerate(axes):
        rim, out = at(axis, 1.0), at(axis, 1.1)
        body.append(draw_grid(centre[0], centre[1], rim[0], rim[1]))
        side = out[0] - centre[0]
        anchor = "middle" if abs(side) < 8 else "start" if side > 0 else "end"
        drop = 4 + 6 * (out[1] - centre[1]) / reach
        first, _, rest = words.partition(" ")
        high = 8 if rest else 0  # two lines
        if anchor == "middle":
            body.append(draw_text(out[0], out[1] + drop, words, anchor))
            continue
        body.append(draw_text(out[0], out[1] + drop - high, first, anchor))
        if rest:
            body.append(draw_text(out[0], out[1] + drop + 5, rest, anchor))
    for name, values in series.items():
        colour, mark, dash = style_of(styles[name])
        known = [value if value is not None else 0.0 for value in values]
        held = [min(max(value, 0.0), 1.0) for value in known]
        body.append(
            f'<polygon points="{ring(held)}" fill="{colour}" fill-opacity=".06" stroke="{colour}" '
            f'stroke-width="2" stroke-dasharray="{dash}"/>'
        )
        body.extend(draw_mark(mark, *at(axis, v), 3.4, colour) for axis, v in enumerate(held))
    return Panel(width, height, "".join(body), title)


def sankey(labels: Sequence[str], matrix: Sequence[Sequence[int]], title: str) -> Panel:
    """Return an alluvial from true (left) to predicted types (right), coloured by the true type.

    The types with most cells, true or predicted, are shown; the others are folded into one.
    """
    order, flows = _folded(labels, matrix)
    total = sum(flows.values()) or 1
    width, side, top = 720.0, 205.0, 40.0
    gap, room = 9.0, max(200.0, 26.0 * len(order))
    left, right = side, width - side
    true = {name: sum(n for (a, _), n in flows.items() if a == name) for name in order}
    said = {name: sum(n for (_, b), n in flows.items() if b == name) for name in order}
    body = [
        draw_text(left + 10, 22, "true type", "end", "h"),
        draw_text(right - 10, 22, "predicted type", "start", "h"),
    ]
    at_left, nodes_left = _stack(order, true, room / total, top, gap)
    at_right, nodes_right = _stack(order, said, room / total, top, gap)
    for first, name in enumerate(order):
        for other in order:
            n = flows.get((name, other), 0)
            if not n:
                continue
            thick = n * room / total
            y1, y2 = at_left[name] + thick / 2, at_right[other] + thick / 2
            at_left[name] += thick
            at_right[other] += thick
            middle = (left + right) / 2
            body.append(
                f'<path d="M{left + 10:g} {y1:.1f}C{middle:g} {y1:.1f} {middle:g} {y2:.1f} '
                f'{right - 10:g} {y2:.1f}" fill="none" stroke="{style_of(first)[0]}" '
                f'stroke-width="{max(thick, 0.6):.1f}" stroke-opacity="{0.6 if name == other else 0.4}">'
                "</path>"
            )
    foot = top
    for x, nodes, counts, anchor in (
        (left, nodes_left, true, "end"),
        (right - 10, nodes_right, said, "start"),
    ):
        last = -1e9
        for name, (start, long) in nodes.items():
            body.append(
                f'<rect class="node" x="{x:g}" y="{start:.1f}" width="10" height="{max(long, 1):.1f}"/>'
            )
            at_text = x - 6 if anchor == "end" else x + 16
            y = max(start + long / 2 + 4, last + 13)
            last = y
            tail = f"  {counts[name]}"
            words = clip(name, side - 52, 12) + tail
            body.append(draw_text(at_text, y, words, anchor))
            foot = max(foot, start + long, y)
    return Panel(width, foot + 14, "".join(body), title, wide=True)


def _folded(
    labels: Sequence[str], matrix: Sequence[Sequence[int]]
) -> tuple[list[str], dict[tuple[str, str], int]]:
    """Return the types to show, by size, and the flows between them; the small ones are one."""
    n = len(labels)
    sizes = [max(sum(matrix[i]), sum(row[i] for row in matrix)) for i in range(n)]
    by_size = sorted((i for i in range(n) if sizes[i]), key=lambda i: (-sizes[i], i))
    kept = by_size if len(by_size) <= _NODES + 1 else by_size[:_NODES]
    rest = f"{len(by_size) - len(kept)} other types"
    names = {i: labels[i] if i in kept else rest for i in range(n)}
    flows: dict[tuple[str, str], int] = {}
    for i, row in enumerate(matrix):
        for j, count in enumerate(row):
            if count:
                key = names[i], names[j]
                flows[key] = flows.get(key, 0) + count
    return [labels[i] for i in kept] + ([rest] if len(by_size) > len(kept) else []), flows


def _stack(
    order: Sequence[str], sizes: Mapping[str, int], scale: float, top: float, gap: float
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Return where each node's next flow starts, and its start and length."""
    starts, nodes, y = {}, {}, top
    for name in order:
        starts[name] = y
        if sizes[name]:
            nodes[name] = y, sizes[name] * scale
            y += sizes[name] * scale + gap
    return starts, nodes


def reliability(bins: Sequence[Mapping[str, Any]], title: str, note: str) -> Panel:
    """Return accuracy against confidence; bars lead to the diagonal, discs grow with the cells."""
    width, height, left, top, bottom = 350.0, 282.0, 36.0, 28.0, 56.0

    def at_x(x: float) -> float:
        return left + 12 + (width - left - 32) * min(max(x, 0.0), 1.0)

    def at_y(y: float) -> float:
        return top + (height - top - bottom) * (1 - min(max(y, 0.0), 1.0))

    body = [draw_text(4, 16, clip(title, width - 8, 13), "start", "h"), *y_grid(at_y, left, width)]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        body.append(draw_text(at_x(tick), height - bottom + 17, f"{tick:g}", "middle"))
    body.append(draw_text((left + width) / 2, height - 22, "mean confidence", "middle"))
    body.append(
        draw_text((left + width) / 2, height - 5, clip(note, width, 10), "middle", "s soft")
    )
    body.append(
        f'<line x1="{at_x(0):.1f}" y1="{at_y(0):.1f}" x2="{at_x(1):.1f}" y2="{at_y(1):.1f}" '
        'stroke="currentColor" stroke-width="1.2" stroke-dasharray="3 3" class="ref"/>'
    )
    filled = [entry for entry in bins if entry["n"] and entry["accuracy"] is not None]
    most = max((entry["n"] for entry in filled), default=1)
    for entry in filled:
        x, y = at_x(entry["confidence"]), at_y(entry["accuracy"])
        body.append(
            f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{x:.1f}" y2="{at_y(entry["confidence"]):.1f}" '
            f'stroke="{PALETTE[1]}" stroke-width="3" stroke-opacity=".45"/>'
        )
        body.append(
            draw_mark("circle", x, y, round(2.5 + 6 * math.sqrt(entry["n"] / most), 1), PALETTE[0])
        )
    places = " ".join(
        f"{at_x(entry['confidence']):.1f},{at_y(entry['accuracy']):.1f}" for entry in filled
    )
    body.append(
        f'<polyline points="{places}" fill="none" stroke="{PALETTE[0]}" stroke-width="1.5"/>'
    )
    return Panel(width, height, "".join(body), title)
