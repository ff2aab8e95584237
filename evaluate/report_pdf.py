"""Figures as files of their own: a standalone SVG, and the same drawing as a PDF page.

The converter knows what ``figures`` and ``charts`` draw and no more: lines, polylines, polygons,
rectangles, circles, paths of M, m, l, h, v, z and C, texts, and groups that are moved.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import escape

from okrcell.artifacts import atomic_path
from okrcell.evaluate.figures import LIGHT, Legend, Panel, clip, draw_text, text_width
from okrcell.evaluate.report_figures import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["sheet", "standalone", "write_pdf"]

_SVG = "http://www.w3.org/2000/svg"
_WIDTH, _GAP, _LINE = 740.0, 18.0, 18.0
_POINTS = 0.75  # of a unit
_FONT_SCALE = 0.92  # the font of the PDF is wider than those of the page
_PATH = re.compile(r"([MmlhvzC])([^MmlhvzC]*)")
_NUMBER = re.compile(r"-?(?:\d+\.?\d*|\.\d+)")


def sheet(figure: Figure) -> Panel:
    """Return a figure as one drawing: panels in rows, names and legend beneath."""
    parts: list[str] = []
    x = y = row_height = width = 0.0
    for panel in figure.panels:
        body, panel_width, panel_height = _whole(panel)
        if x and x + panel_width > _WIDTH:
            x, y, row_height = 0.0, y + row_height + _GAP, 0.0
        parts.append(f'<g transform="translate({x + 8:g} {y + 8:g})">{body}</g>')
        x += panel_width + _GAP
        row_height = max(row_height, panel_height)
        width = max(width, x)
    height = y + row_height
    if figure.legend is not None:
        width = max(width, 360.0)
        body, tall = _legend(figure.legend, width)
        parts.append(f'<g transform="translate(8 {height + 20:g})">{body}</g>')
        height += tall + 12
    title = figure.panels[0].title
    return Panel(width + 8, height + 20, "".join(parts), title)


def _whole(panel: Panel) -> tuple[str, float, float]:
    """Return body, width and height of a panel with the title and names that the page puts around it."""
    if not panel.wide:
        return panel.body, panel.width, panel.height
    rows = max(1, int((panel.height - 20) // 15))
    columns = [panel.names[i : i + rows] for i in range(0, len(panel.names), rows)]
    moved = f'<g transform="translate(0 24)">{panel.body}</g>'
    texts, x = [], panel.width + 10
    for column, names in enumerate(columns):
        words = [f"{column * rows + i + 1}  {name}" for i, name in enumerate(names)]
        words = [clip(word, 260, 12) for word in words]
        texts += [draw_text(x, 54 + 15 * i, word, "start") for i, word in enumerate(words)]
        x += max(text_width(word, 12) for word in words) + 22
    width = max(x, text_width(panel.title, 13) + 12)
    head = draw_text(4, 16, panel.title, "start", "h")
    return head + moved + "".join(texts), width, panel.height + 24


def _legend(legend: Legend, width: float) -> tuple[str, float]:
    parts, x, y = [], 0.0, 0.0
    for position, (_, index) in enumerate(legend.entries):
        words = clip(legend.label(position), width - 60, 12)
        need = 34 + text_width(words, 12) + 16
        if x and x + need > width:
            x, y = 0.0, y + _LINE
        mark = f'<g transform="translate({x:.1f} {y:.1f})">{legend.mark(index)}</g>'
        parts.append(mark + draw_text(x + 31, y + 11, words, "start"))
        x += need
    if legend.note:
        y += _LINE if x else 0
        parts.append(draw_text(0, y + 11, legend.note, "start", "soft"))
    return "".join(parts), y + _LINE


def standalone(panel: Panel) -> str:
    """Return a drawing as an SVG file that needs no page around it."""
    rules = "".join(
        f".{name}{{{';'.join(f'{key}:{value}' for key, value in look.items())}}}"
        for name, look in LIGHT.items()
    )
    font = 'font-family="system-ui, Helvetica, Arial, sans-serif"'
    return (
        f'<svg xmlns="{_SVG}" viewBox="0 0 {panel.width:g} {panel.height:g}" '
        f'width="{panel.width:g}" height="{panel.height:g}" {font} color="#1b1f24">'
        f"<title>{escape(panel.title)}</title><style>{rules}.lab{{paint-order:stroke;stroke-width:3px}}"
        f'</style><rect width="{panel.width:g}" height="{panel.height:g}" fill="#ffffff"/>'
        f"{panel.body}</svg>\n"
    )


def write_pdf(panel: Panel, path: Path) -> None:
    """Write a drawing as a PDF of one page, fonts embedded, no date in it."""
    import matplotlib as mpl
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.figure import Figure as Page

    root = ElementTree.fromstring(standalone(panel))  # noqa: S314  (our own drawing)
    rules = {"pdf.fonttype": 42, "font.family": "DejaVu Sans", "path.simplify": False}
    with mpl.rc_context(rules), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        page = Page(figsize=(panel.width / 96, panel.height / 96))
        FigureCanvasPdf(page)
        axes = page.add_axes((0, 0, 1, 1), frameon=False)
        axes.set(xlim=(0, panel.width), ylim=(panel.height, 0))
        axes.set_axis_off()
        _draw(root, axes, (0.0, 0.0))
        fixed = {"CreationDate": None, "Creator": "okrcell", "Producer": "okrcell", "Title": None}
        with atomic_path(path) as temporary:
            page.savefig(temporary, format="pdf", metadata=fixed)


def _draw(element: ElementTree.Element, axes: Axes, moved: tuple[float, float]) -> None:
    for child in element:
        tag = child.tag.rpartition("}")[2]
        if tag == "g":
            dx, dy = (float(part) for part in _NUMBER.findall(child.get("transform", "0 0")))
            _draw(child, axes, (moved[0] + dx, moved[1] + dy))
        elif tag == "text":
            _draw_text(child, axes, moved)
        elif tag in _OUTLINES:
            _draw_shape(tag, child, axes, moved)


def _look(element: ElementTree.Element) -> dict[str, str]:
    """Return the presentation of an element: its classes over its attributes, as CSS has it."""
    look = {"fill": "#000000", "stroke": "none", "color": "#1b1f24", **element.attrib}
    for name in element.get("class", "").split():
        look.update(LIGHT.get(name, {}))
    for key in ("fill", "stroke"):
        if look[key] == "currentColor":
            look[key] = look["color"]
    return look


def _draw_shape(
    tag: str, element: ElementTree.Element, axes: Axes, moved: tuple[float, float]
) -> None:
    from matplotlib.colors import to_rgba
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline
    from matplotlib.transforms import Affine2D

    look = _look(element)
    vertices, codes = _OUTLINES[tag](element.attrib)
    if not vertices:
        return
    shift = Affine2D().translate(*moved)
    fill: Any = "none"
    if look["fill"] != "none" and tag != "line":
        fill = to_rgba(look["fill"], float(look.get("fill-opacity", 1)))
    stroke: Any = "none"
    if look["stroke"] != "none":
        stroke = to_rgba(look["stroke"], float(look.get("stroke-opacity", 1)))
    width = float(look.get("stroke-width", "1")) * _POINTS
    dashes = [float(part) * _POINTS / width for part in look.get("stroke-dasharray", "").split()]
    patch = PathPatch(
        Outline(vertices, codes).transformed(shift),
        facecolor=fill,
        edgecolor=stroke,
        linewidth=width,
        linestyle=(0, dashes) if dashes else "solid",
        capstyle=look.get("stroke-linecap", "butt"),
        joinstyle="miter",
        antialiased=True,
    )
    patch.set_clip_on(False)
    axes.add_patch(patch)


def _draw_text(element: ElementTree.Element, axes: Axes, moved: tuple[float, float]) -> None:
    from matplotlib.patheffects import withStroke

    look = _look(element)
    turn = _NUMBER.findall(element.get("transform", ""))
    size = float(look.get("font-size", "12px").removesuffix("px")) * _POINTS * _FONT_SCALE
    anchors = {"start": "left", "middle": "center", "end": "right"}
    drawn = axes.text(
        float(element.get("x", 0)) + moved[0],
        float(element.get("y", 0)) + moved[1],
        element.text or "",
        fontsize=size,
        color=look["fill"],
        fontweight="bold" if look.get("font-weight", "") >= "600" else "normal",
        ha=anchors[element.get("text-anchor", "start")],
        va="baseline",
        rotation=-float(turn[0]) if turn else 0,
        rotation_mode="anchor",
        parse_math=False,
        clip_on=False,
    )
    if "lab" in element.get("class", "").split():
        drawn.set_path_effects([withStroke(linewidth=2, foreground="#ffffff")])


Shape = tuple[list[tuple[float, float]], list[int]]
_MOVE, _TO, _CURVE, _CLOSE = 1, 2, 4, 79  # the codes of matplotlib.path.Path


def _open(points: Sequence[tuple[float, float]]) -> Shape:
    return list(points), [_MOVE] + [_TO] * (len(points) - 1) if points else []


def _closed(points: Sequence[tuple[float, float]]) -> Shape:
    vertices, codes = _open(points)
    return ([*vertices, vertices[0]], [*codes, _CLOSE]) if vertices else ([], [])


def _pairs(text: str) -> list[tuple[float, float]]:
    numbers = [float(part) for part in _NUMBER.findall(text)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _line(a: Mapping[str, str]) -> Shape:
    x1, y1, x2, y2 = (float(a[key]) for key in ("x1", "y1", "x2", "y2"))
    return _open([(x1, y1), (x2, y2)])


def _rect(a: Mapping[str, str]) -> Shape:
    x, y, w, h = (float(a.get(key, 0)) for key in ("x", "y", "width", "height"))
    return _closed([(x, y), (x + w, y), (x + w, y + h), (x, y + h)])


def _circle(a: Mapping[str, str]) -> Shape:
    return _disc(float(a["cx"]), float(a["cy"]), float(a["r"]))


def _disc(x: float, y: float, r: float) -> Shape:
    """Return a circle of four curves."""
    c = 0.5522847498 * r
    points = [(x + r, y), (x + r, y + c), (x + c, y + r), (x, y + r)]
    points += [(x - c, y + r), (x - r, y + c), (x - r, y)]
    points += [(x - r, y - c), (x - c, y - r), (x, y - r)]
    points += [(x + c, y - r), (x + r, y - c), (x + r, y), (x + r, y)]
    return points, [_MOVE] + [_CURVE] * 12 + [_CLOSE]


def _path(a: Mapping[str, str]) -> Shape:
    vertices: list[tuple[float, float]] = []
    codes: list[int] = []
    x = y = 0.0
    start = (0.0, 0.0)
    for command, text in _PATH.findall(a["d"]):
        numbers = [float(part) for part in _NUMBER.findall(text)]
        if command == "z":
            vertices.append(start)
            codes.append(_CLOSE)
            x, y = start
            continue
        if command == "C":
            points = list(zip(numbers[::2], numbers[1::2], strict=True))
            vertices += points
            codes += [_CURVE] * len(points)
            x, y = points[-1]
            continue
        dx = 0.0 if command == "v" else numbers[0]
        dy = 0.0 if command == "h" else numbers[-1]
        x, y = (dx, dy) if command == "M" else (x + dx, y + dy)
        if command in "Mm":
            start = (x, y)
        vertices.append((x, y))
        codes.append(_MOVE if command in "Mm" else _TO)
    return vertices, codes


_OUTLINES = {
    "line": _line,
    "polyline": lambda a: _open(_pairs(a["points"])),
    "polygon": lambda a: _closed(_pairs(a["points"])),
    "rect": _rect,
    "circle": _circle,
    "path": _path,
}
