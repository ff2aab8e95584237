"""The text of an XML element as a person would type it: exponents, formulas, citations, line breaks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree.ElementTree import Element

from okrcell.corpus.clean import squeeze

__all__ = ["blocks", "inline_text", "local_name"]

_EXPONENT = re.compile("[-+\u2212\u2013]?[0-9]+(?:[.,][0-9]+)?$")
_TEX = re.compile(r"\\begin\{document\}(.*?)\\end\{document\}", re.DOTALL)
_BREAKS = frozenset({"break", "p", "list-item", "disp-formula", "disp-quote", "title", "td", "def"})
# Elements within a line: beside text that stands in a section without a paragraph, part of it.
_INLINE = frozenset(
    {"abbrev", "bold", "break", "email", "ext-link", "inline-formula", "italic", "monospace"}
) | {
    "named-content",
    "overline",
    "roman",
    "sans-serif",
    "sc",
    "strike",
    "styled-content",
    "sub",
    "sup",
    "underline",
    "uri",
    "xref",
}


def local_name(tag: str) -> str:
    """Return the name of an element or attribute without its prefix."""
    return tag.rpartition(":")[2]


def inline_text(element: Element, drop: frozenset[str] = frozenset()) -> str:
    """Return the text of an element on one line, without the elements whose names are in ``drop``.

    ``10<sup>6</sup>`` becomes ``10^6`` and ``CD8<sup>+</sup>`` becomes ``CD8+``; a superscript
    reference to the literature becomes ``[12]``; a formula given as MathML or TeX becomes text.
    """
    if not len(element):
        return squeeze(element.text or "")
    parts: list[str] = []
    _collect(element, parts, drop)
    return squeeze("".join(parts))


def blocks(element: Element) -> Iterator[Element]:
    """Yield the blocks of an element; text that stands between them is a paragraph of its own."""
    loose = Element("p")
    loose.text = element.text
    for child in element:
        if child.tag in _INLINE:
            loose.append(child)
            continue
        if len(loose) or (loose.text or "").strip():
            yield loose
        yield child
        loose = Element("p")
        loose.text = child.tail
    if len(loose) or (loose.text or "").strip():
        yield loose


def _collect(element: Element, parts: list[str], drop: frozenset[str]) -> None:
    if element.text:
        parts.append(element.text)
    for child in element:
        _put(child, parts, drop)
        if child.tail:
            parts.append(child.tail)


def _put(element: Element, parts: list[str], drop: frozenset[str]) -> None:
    name = element.tag
    if name in drop:
        return
    if name == "sup":
        parts.append(_superscript(element, parts, drop))
    elif name == "math":
        parts.append(_math(element))
    elif name == "tex-math":
        parts.append(_tex("".join(element.itertext())))
    elif name == "alternatives":  # several forms of one thing: the one that reads best as text
        forms = {child.tag: child for child in element}
        for wanted in ("math", "tex-math", "textual-form"):
            if wanted in forms:
                _put(forms[wanted], parts, drop)
                break
    elif name in _BREAKS:
        parts.append(" ")
        _collect(element, parts, drop)
        parts.append(" ")
    else:
        _collect(element, parts, drop)


def _superscript(element: Element, parts: list[str], drop: frozenset[str]) -> str:
    inner: list[str] = []
    _collect(element, inner, drop)
    text = "".join(inner)
    if any(e.tag == "xref" and e.get("ref-type") == "bibr" for e in element.iter("xref")):
        return f"[{text.strip()}]" if text.strip() and not text.strip().startswith("[") else text
    before = next((part for part in reversed(parts) if part), "")
    if before[-1:].isdigit() and _EXPONENT.match(text.strip()):
        return f"^{text.strip()}"
    return text


def _tex(text: str) -> str:
    inner = _TEX.search(text)
    return (inner[1] if inner else text).replace("$", "").strip()


def _math(element: Element) -> str:
    """Return MathML on one line: fractions with a slash, exponents with ^, indices with _."""
    name = element.tag
    if name in {"annotation", "annotation-xml"}:
        return ""
    parts = [_math(child) for child in element]
    if name == "mfrac" and len(parts) == 2:
        return f"{_group(parts[0])}/{_group(parts[1])}"
    if name in {"msup", "mover"} and len(parts) == 2:
        return f"{parts[0]}^{_group(parts[1])}" if name == "msup" else "".join(parts)
    if name == "msub" and len(parts) == 2:
        return f"{parts[0]}_{_group(parts[1])}"
    if name == "msubsup" and len(parts) == 3:
        return f"{parts[0]}_{_group(parts[1])}^{_group(parts[2])}"
    if name in {"msqrt", "mroot"}:
        return f"sqrt({parts[0] if name == 'mroot' and parts else ''.join(parts)})"
    own = (element.text or "").strip()
    return own + "".join(parts)


def _group(text: str) -> str:
    return text if len(text) < 2 or text.isalnum() else f"({text})"
