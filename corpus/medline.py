"""MEDLINE and PubMed XML: citations with abstracts, books, deletions, and notices about other works."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO
from xml.etree.ElementTree import Element

from okrcell.corpus.clean import clean_text
from okrcell.corpus.documents import Document, Rejected, compose, iso_day, work_id, year_in
from okrcell.corpus.licence import licence_name
from okrcell.corpus.markup import inline_text
from okrcell.corpus.xml_stream import Skip, always, stream_records

__all__ = ["ROOTS", "read_medline"]

ROOTS = frozenset(
    {
        "MedlineCitationSet",
        "PubmedArticleSet",
        "PubmedBookArticleSet",
        "PubmedArticle",
        "PubmedBookArticle",
        "MedlineCitation",
        "DeleteCitation",
    }
)
_RECORDS = frozenset(
    {"PubmedArticle", "PubmedBookArticle", "MedlineCitation", "DeleteCitation", "DeleteDocument"}
)
# What a note of another citation makes of this record: its own flag, or the prefix of a flag that
# names the other work. "!" retracts: this record, or the other.
_LINKS = {
    "RetractionIn": "!",
    "RetractedandRepublishedIn": "!",
    "RetractionOf": "retracts:",
    "RetractedandRepublishedFrom": "retracts:",
    "PartialRetractionIn": "concern",
    "PartialRetractionOf": "doubts:",
    "ExpressionOfConcernIn": "concern",
    "ExpressionOfConcernFor": "doubts:",
    "ErratumIn": "corrected",
    "CorrectedandRepublishedIn": "corrected",
    "ErratumFor": "corrects:",
    "CorrectedandRepublishedFrom": "corrects:",
}
_TYPES = {
    "Retracted Publication": "retracted-publication",
    "Retraction of Publication": "retraction-notice",
    "Retraction Notice": "retraction-notice",
    "Published Erratum": "erratum-notice",
    "Expression of Concern": "concern-notice",
}
_SKIP: Skip = {
    "CommentsCorrections": lambda attributes: attributes.get("RefType") not in _LINKS,
    **dict.fromkeys(
        (
            "ArticleDate",  # the date is always given
            "AuthorList",
            "ChemicalList",
            "CitationSubset",
            "DataBankList",
            "GrantList",
            "InvestigatorList",
            "KeywordList",
            "MedlineJournalInfo",
            "MeshHeadingList",
            "PersonalNameSubjectList",
            "ReferenceList",
            "SupplMeshList",
            "History",
            "Sections",
            # Of the journal; its issue has the year.
            "ISSN",
            "ISOAbbreviation",
            "Issue",
            "Pagination",
            "Title",
            "Volume",
        ),
        always,
    ),
}
_FLAT = frozenset(_SKIP) - {"ReferenceList"}  # the one that PubMed's DTD lets hold another
_RETRACTED_TITLE = re.compile(r"\W*(?:RETRACTED|WITHDRAWN)(?:\s+ARTICLE)?\s*[:\]]", re.IGNORECASE)
_NO_ABSTRACT = re.compile(r"Abstract available from the publisher\.?", re.IGNORECASE)
_NO_TITLE = re.compile(r"\[?Not available\.?\]?\.?", re.IGNORECASE)


def read_medline(handle: BinaryIO, where: str, source: str) -> Iterator[Document | Rejected]:
    """Yield the documents of a MEDLINE or PubMed file, and a deletion for each id it withdraws.

    A record without an abstract is kept with its title as the text and the flag ``title-only``.

    Raises
    ------
    FileFormatError
        The file is damaged or unsafe; see ``stream_records``.
    """
    for record in stream_records(handle, where, records=_RECORDS, skip=_SKIP, flat=_FLAT):
        element = record.element
        if element.tag in {"DeleteCitation", "DeleteDocument"}:
            for pmid in element.iter("PMID"):
                doc_id = work_id("PMID", pmid.text)
                if doc_id:
                    yield Document.deletion(doc_id, source)
            continue
        yield _document(element, f"{where} byte {record.byte}", source)


def _document(record: Element, where: str, source: str) -> Document | Rejected:
    if record.tag == "MedlineCitation":
        citation: Element | None = record
    else:
        citation = record.find("MedlineCitation")
        citation = record.find("BookDocument") if citation is None else citation
    article = citation if citation is None else citation.find("Article")
    article = citation if article is None else article
    if citation is None or article is None:
        return Rejected(where, "no citation in the record")
    doc_id = work_id("PMID", citation.findtext("PMID"))
    if doc_id is None:
        return Rejected(where, "no PMID")
    title = _title(article)
    parts = [("Title", "", title), *_abstract(citation, article)]
    text, sections, flags = compose(parts)
    if not text:
        return Rejected(doc_id, "no title and no abstract")
    if len(sections) == 1 and title:
        flags.add("title-only")
    retracts, is_retracted = _notices(citation, flags)
    for kind in _all(article, "PublicationTypeList", "PublicationType"):
        flag = _TYPES.get((kind.text or "").strip())
        if flag:
            flags.add(flag)
    return Document(
        doc_id=doc_id,
        title=clean_text(title),
        text=text,
        source=source,
        sections=sections,
        year=_year(article),
        licence=_licence(article),
        revision=_revision(citation),
        ids=(doc_id, *_other_ids(record, citation, article)),
        retracts=retracts,
        is_retracted=is_retracted
        or "retracted-publication" in flags
        or bool(_RETRACTED_TITLE.match(title)),
        flags=tuple(sorted(flags)),
    )


def _at(element: Element | None, *names: str) -> Element | None:
    """Return the first element on a path; ten times as fast as a path in one string."""
    for name in names:
        if element is None:
            return None
        element = element.find(name)
    return element


def _all(element: Element, *names: str) -> list[Element]:
    parent = _at(element, *names[:-1])
    return [] if parent is None else parent.findall(names[-1])


def _title(article: Element) -> str:
    for path in (("ArticleTitle",), ("Book", "BookTitle"), ("VernacularTitle",)):
        found = _at(article, *path)
        if found is not None:
            title = inline_text(found)
            if title and not _NO_TITLE.fullmatch(title):
                return title
    return ""


def _abstract(citation: Element, article: Element) -> Iterator[tuple[str, str, str]]:
    for piece in _all(article, "Abstract", "AbstractText"):
        label = squeezed(piece.get("Label"))
        labelled = label and label not in {"UNASSIGNED", "UNLABELLED"}
        yield label if labelled else "Abstract", "", inline_text(piece)
    for other in _all(citation, "OtherAbstract"):
        if other.get("Language", "eng") == "eng":
            name = f"Other abstract ({other.get('Type', 'unnamed')})"
            for piece in _all(other, "AbstractText"):
                text = inline_text(piece)
                if not _NO_ABSTRACT.fullmatch(text):
                    yield name, "", text


def squeezed(value: str | None) -> str:
    """Return an attribute's value without the spaces around it."""
    return " ".join((value or "").split())


def _notices(citation: Element, flags: set[str]) -> tuple[tuple[str, ...], bool]:
    """Add what comments and corrections say to the flags; return ids retracted, and whether this is."""
    retracts, is_retracted = [], False
    for link in _all(citation, "CommentsCorrectionsList", "CommentsCorrections"):
        effect = _LINKS.get(link.get("RefType", ""), "")
        if effect == "!":
            is_retracted = True
        elif effect and not effect.endswith(":"):
            flags.add(effect)
        elif effect:
            target = work_id("PMID", link.findtext("PMID"))
            if target and effect == "retracts:":
                retracts.append(target)
            elif target:
                flags.add(effect + target)
    return tuple(dict.fromkeys(retracts)), is_retracted


def _other_ids(record: Element, citation: Element, article: Element) -> list[str]:
    named = [
        ("DOI", place.text)
        for place in _all(article, "ELocationID")
        if place.get("EIdType") == "doi" and place.get("ValidYN", "Y") == "Y"
    ]
    # An NLM id may carry a note: "PMC4380289 [Available on 05/01/16]".
    named += [("PMC", (o.text or "").split(" ")[0]) for o in _all(citation, "OtherID")]
    kinds = {"pubmed": "PMID", "doi": "DOI", "pmc": "PMC"}
    for data in ("PubmedData", "PubmedBookData"):
        for entry in _all(record, data, "ArticleIdList", "ArticleId"):
            if entry.get("IdType") in kinds:
                named.append((kinds[entry.get("IdType", "")], entry.text))
    found = [work_id(kind, value) for kind, value in named if kind != "PMC" or _is_pmc(value)]
    own = work_id("PMID", citation.findtext("PMID"))
    return [name for name in dict.fromkeys(found) if name and name != own]


def _is_pmc(value: str | None) -> bool:
    return (value or "").strip().upper().startswith("PMC")


def _year(article: Element) -> int | None:
    for path in (
        ("Journal", "JournalIssue", "PubDate"),
        ("Book", "PubDate"),
        ("ContributionDate",),
    ):
        date = _at(article, *path)
        if date is not None:
            stated = date.findtext("Year") or date.findtext("MedlineDate") or ""
            year = year_in(stated)
            if year:
                return year
    return None


def _revision(citation: Element) -> str:
    for name in ("DateRevised", "DateCompleted", "DateCreated"):
        date = citation.find(name)
        if date is not None:
            day = iso_day(*(date.findtext(part) for part in ("Year", "Month", "Day")))
            if day:
                return day
    return ""


def _licence(article: Element) -> str:
    stated = _at(article, "Abstract", "CopyrightInformation")
    return "" if stated is None else licence_name((), clean_text(inline_text(stated)))
