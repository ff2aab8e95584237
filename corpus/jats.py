"""PMC articles in JATS XML: title, abstracts, sections at all levels, captions, licence, notices."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO
from xml.etree.ElementTree import Element

from okrcell.corpus.clean import clean_text
from okrcell.corpus.documents import Document, Rejected, compose, iso_day, work_id, year_in
from okrcell.corpus.licence import licence_name
from okrcell.corpus.markup import blocks, inline_text, local_name
from okrcell.corpus.xml_stream import Skip, always, stream_records

__all__ = ["ROOTS", "read_jats"]

ROOTS = frozenset({"article", "articles", "pmc-articleset", "pmc-articles", "OAI-PMH"})
_SKIP: Skip = {"ref": always}
# Floats interrupt a paragraph: they become sections of their own after it.
_FLOATS = frozenset({"fig", "table-wrap", "boxed-text", "supplementary-material", "media"})
_CAPTIONED = frozenset({"fig", "table-wrap", "supplementary-material"})
_GROUPS = frozenset({"fig-group", "table-wrap-group", "floats-group", "app-group"})
_NESTED = frozenset({"sec", "app", "boxed-text", "abstract", "trans-abstract"})
_NOT_TEXT = frozenset(
    {"ref-list", "sub-article", "response", "graphic", "inline-graphic", "table", "object-id"}
) | {
    "permissions",
    "processing-meta",
    "sec-meta",
    "label",
    "attrib",
    "tex-graphic",
    "fn",
    "contrib",
}
_TYPES = {
    "retraction": "retraction-notice",
    "correction": "erratum-notice",
    "corrected-article": "corrected",
    "expression-of-concern": "concern-notice",
    "partial-retraction": "concern-notice",
    "retracted-article": "retracted-publication",
}
# What a link to another article makes of this one; as in the MEDLINE reader.
_LINKS = {
    "retracted-article": "retracts:",
    "retraction-forward": "!",
    "corrected-article": "corrects:",
    "correction-forward": "corrected",
    "object-of-concern": "doubts:",
    "concern-forward": "concern",
    "partial-retraction": "doubts:",
}
_ID_KINDS = {
    "pmid": "PMID",
    "pubmed": "PMID",
    "pmc": "PMC",
    "pmcid": "PMC",
    "doi": "DOI",
}
_RETRACTED_TITLE = re.compile(r"\W*(?:RETRACTED|WITHDRAWN)(?:\s+ARTICLE)?\s*[:\]]", re.IGNORECASE)
_PMC_NAME = re.compile(r"PMC[1-9]\d*")
_NO_DATE = frozenset({"pmc-release", "nihms-submitted", "epreprint", "preprint", "received"})


def read_jats(
    handle: BinaryIO, where: str, source: str, stem: str = ""
) -> Iterator[Document | Rejected]:
    """Yield the articles of a JATS file or set.

    References, author lists and the cells of tables are left out; formulas are text where the file
    gives MathML or TeX.

    Parameters
    ----------
    stem
        The file's name without endings. Files of PMC are named by their id; it is used where the
        article itself does not give one.

    Raises
    ------
    FileFormatError
        The file is damaged or unsafe; see ``stream_records``.
    """
    for record in stream_records(handle, where, records=frozenset({"article"}), skip=_SKIP):
        yield _document(record.element, f"{where} byte {record.byte}", source, stem)


def _document(article: Element, where: str, source: str, stem: str) -> Document | Rejected:
    meta = article.find("front/article-meta")
    if meta is None:
        return Rejected(where, "no article-meta in the article")
    ids = _ids(meta, stem)
    if not ids:
        return Rejected(where, "no PMC id, PMID or DOI")
    titles = meta.find("title-group/article-title")
    title = "" if titles is None else inline_text(titles, frozenset({"fn", "xref"}))
    text, sections, flags = compose([("Title", "", title), *_parts(article, meta)])
    if not text:
        return Rejected(ids[0], "no title and no text")
    if len(sections) == 1 and title:
        flags.add("title-only")
    kind = _TYPES.get(article.get("article-type", ""))
    if kind:
        flags.add(kind)
    retracts, is_retracted = _notices(meta, flags)
    return Document(
        doc_id=ids[0],
        title=clean_text(title),
        text=text,
        source=source,
        sections=sections,
        year=_year(meta),
        licence=_licence(meta),
        revision=_revision(meta),
        ids=ids,
        retracts=retracts,
        is_retracted=is_retracted
        or "retracted-publication" in flags
        or bool(_RETRACTED_TITLE.match(title)),
        flags=tuple(sorted(flags)),
    )


def _ids(meta: Element, stem: str) -> tuple[str, ...]:
    found: dict[str, str] = {}
    for entry in meta.iterfind("article-id"):
        kind = _ID_KINDS.get(entry.get("pub-id-type", ""))
        name = work_id(kind, entry.text) if kind else None
        if kind and name:
            found.setdefault(kind, name)
    if "PMC" not in found and _PMC_NAME.fullmatch(stem):
        found["PMC"] = f"PMC:{stem[3:]}"
    return tuple(found[kind] for kind in ("PMC", "PMID", "DOI") if kind in found)


def _parts(article: Element, meta: Element) -> Iterator[tuple[str, str, str]]:
    """Yield name of section, heading and text in the order of reading."""
    for tag in ("abstract", "trans-abstract"):
        for abstract in meta.iterfind(tag):
            if tag == "abstract" or abstract.get("xml:lang") == "en":
                kind = abstract.get("abstract-type", "")
                yield from _section(abstract, f"Abstract ({kind})" if kind else "Abstract", "")
    body = article.find("body")
    if body is not None:
        yield from _content(body, "Body")
    for place in ("floats-group", "floats-wrap", "back"):
        part = article.find(place)
        if part is not None:
            wanted = {"sec", "app", "app-group"} if place == "back" else _FLOATS | _GROUPS
            for child in part:
                if child.tag in wanted:
                    yield from _block(child, "")


def _section(element: Element, fallback: str, above: str) -> Iterator[tuple[str, str, str]]:
    label, title = _child_text(element, "label"), _child_text(element, "title")
    heading = " ".join(part for part in (label, title) if part)
    name = fallback or title or label
    name = f"{above} > {name}" if above and name else name or above
    if heading:
        yield name, heading, ""
    yield from _content(element, name)


def _child_text(element: Element, name: str) -> str:
    child = element.find(name)
    return "" if child is None else inline_text(child, _NOT_TEXT)


def _content(element: Element, name: str) -> Iterator[tuple[str, str, str]]:
    for block in blocks(element):
        yield from _block(block, name)


def _block(element: Element, name: str) -> Iterator[tuple[str, str, str]]:
    """Yield a block of text, then what floats in it."""
    tag = element.tag
    if tag in _NESTED:
        yield from _section(element, "", "" if name == "Body" else name)
    elif tag in _CAPTIONED:
        yield from _caption(element, name)
    elif tag in _GROUPS:
        yield from _content(element, name)
    elif tag in {"list", "def-list", "list-item", "def-item", "disp-quote", "statement", "speech"}:
        yield from _content(element, name)
    elif tag not in _NOT_TEXT and tag not in {"title", "media"}:
        text = inline_text(element, _NOT_TEXT | _FLOATS)
        if text:
            yield name, "", text
        for child in _floats(element):
            yield from _block(child, name)


def _floats(element: Element) -> Iterator[Element]:
    """Yield what floats in a paragraph, outermost first, not what floats in that."""
    for child in element:
        if child.tag in _FLOATS:
            yield child
        else:
            yield from _floats(child)


def _caption(element: Element, above: str) -> Iterator[tuple[str, str, str]]:
    label = _child_text(element, "label").rstrip(" .:")
    name = " > ".join(part for part in (above, label or "Caption") if part and part != "Body")
    lines = []
    for part in chain.from_iterable(map(blocks, element.iterfind("caption"))):
        text = inline_text(part, _NOT_TEXT)
        if text:
            lines.append(text if text[-1:] in ".!?:" or part.tag != "title" else f"{text}.")
    if lines:
        yield name, label, "\n".join(lines)


def _notices(meta: Element, flags: set[str]) -> tuple[tuple[str, ...], bool]:
    retracts, is_retracted = [], False
    for link in meta.iterfind("related-article"):
        effect = _LINKS.get(link.get("related-article-type", ""), "")
        if effect == "!":
            is_retracted = True
        elif effect.endswith(":"):
            target = _target(link)
            if target and effect == "retracts:":
                retracts.append(target)
            elif target:
                flags.add(effect + target)
        elif effect:
            flags.add(effect)
    return tuple(dict.fromkeys(retracts)), is_retracted


def _target(link: Element) -> str | None:
    href = _href(link) or link.text
    kind = _ID_KINDS.get(link.get("ext-link-type", ""))
    if kind:
        return work_id(kind, href)
    return work_id("DOI", href)  # an address of doi.org, or no id that we know


def _href(element: Element) -> str:
    """Return the address of a link, whatever prefix the file gives to XLink."""
    return next((value for key, value in element.items() if local_name(key) == "href"), "")


def _year(meta: Element) -> int | None:
    years = [
        year
        for date in meta.iterfind("pub-date")
        if (date.get("pub-type") or date.get("date-type") or "") not in _NO_DATE
        and (year := year_in(date.findtext("year") or ""))
    ]
    return min(years, default=None)


def _revision(meta: Element) -> str:
    """Return the day on which the published article was last corrected, where it says so."""
    days = []
    for date in [*meta.iterfind("history/date"), *meta.iterfind("pub-history/event/date")]:
        if date.get("date-type") in {"corrected", "updated", "retracted"}:
            days.append(iso_day(*(date.findtext(part) for part in ("year", "month", "day"))))
    return max(days, default="")


def _licence(meta: Element) -> str:
    links, words, kind = [], [], ""
    for licence in [*meta.iterfind("permissions/license"), *meta.iterfind("license")]:
        kind = kind or licence.get("license-type", "")
        for part in licence.iter():
            links.append(_href(part))
            if part.tag == "license_ref":
                links.append(part.text or "")
        words.append(inline_text(licence))
    if not words or not any(words + links):
        for tag in ("copyright-statement", "license_ref"):
            for part in meta.iter():
                if part.tag == tag:
                    words.append(inline_text(part))
    return licence_name(links, clean_text(" ".join(filter(None, words))), kind)
