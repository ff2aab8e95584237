"""Sentences of notes, literature and expression that can stand in a description by themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from okrcell.corpus import ontology
from okrcell.enrich.draft import Citation, Facet, Sentence
from okrcell.enrich.evidence import EXPRESSION, Evidence
from okrcell.enrich.names import is_about, says
from okrcell.enrich.sentences import is_whole, n_words, split_sentences
from okrcell.enrich.wording import capital, closed, joined, tidy

__all__ = ["expression_sentence", "is_plain", "leans", "passage_sentences"]

_LONGEST = 50  # words
_LINKING = re.compile(
    r"(?:However|Moreover|Furthermore|Additionally|In addition|Thus|Therefore|Hence|Consequently|"
    r"Nevertheless|Notably|Importantly|Interestingly|Indeed|Also|Accordingly|Finally|Similarly|"
    r"Overall|Taken together|Specifically|As a result), "
)
_LEANS = re.compile(
    r"(?:It|Its|They|Their|These|This|Those|That|Such|He|She|Both|Either|Neither|Another|Others?|"
    r"The (?:former|latter|same|other|cells?|nucleus|cytoplasm|axons?|soma)|Cells?(?! of this type)|Markers?|Here|Then|But|"
    r"And|Or|So|Yet|Instead|Conversely|Rather|Functionally|By contrast|In contrast|For example|"
    r"For instance|Unlike|Like|Compared|While|Whereas)\b"
    r"|.{0,60}\b(?:it|they|these|them|their|its)\b"
)
# Told after what is said of the type alone.
_COMPARES = re.compile(
    r"\b(?:shares?|resembles?|than|whereas|unlike|compared|only|lacks?|differs?|distinguish\w*)\b"
)
_COMMENT = re.compile(
    r"(?:This (?:term|class|definition|entry)|Note\b|Editor|Comments?\b|See\b|Examples?\b|Reference\b|"
    r"The (?:term|standard transcriptomic|name)\b|Exact\b|Modified\b|Adapted\b|Cell type\b|Also\b|May\b|"
    r"Can\b|Characterized\b|Located\b|Derived\b|Known\b|Obsolete\b|Source\b|Synonyms?\b|Definition\b)"
    r"|.*(?:https?:|www\.|\b(?:this|the present|our) (?:study|paper|work|review|article|report|ontology)\b|"
    r"\b(?:[Ww]e|[Oo]ur|us)\b|\bFig(?:ure|\.)|\bTable \d|\bn ?= ?\d|\bp ?[<=] ?0|\.\.\.|\bet al\b)"
    r"|[A-Z][\w-]+(?:,? (?:and|et al\.?,?) ?\w*)?,? \(?(?:19|20)\d\d\)?\.$",
)
_GENE = re.compile(r"(?<![\w(])([A-Z][A-Za-z0-9.-]*[A-Za-z0-9]) \([^()]*%[^()]*\)")


def leans(sentence: str) -> bool:
    """Whether a sentence refers to the one before it, so that it cannot be read alone."""
    return _LEANS.match(sentence) is not None


def is_plain(sentence: str) -> bool:
    """Whether a tidied sentence states something, whole and balanced, and is no editor's remark."""
    return (
        is_whole(sentence)
        and sentence.endswith(".")
        and not sentence.endswith("..")
        and n_words(sentence) <= _LONGEST
        and not _COMMENT.match(sentence)
        and all(sentence.count(a) == sentence.count(b) for a, b in ("()", "[]", "{}"))
        and sentence.count('"') % 2 == 0
        and ":" not in sentence.partition(" ")[0]
    )


def passage_sentences(
    items: Sequence[Evidence],
    facet: Facet,
    name: str,
    term_id: str,
    *,
    topic: Sequence[str] = (),
    near: bool = False,
) -> Iterator[Sentence]:
    """Yield sentences about the cell type, in turn from each passage.

    Parameters
    ----------
    name
        The cell type's label, as the passages have it.
    topic
        Names of which a sentence must say one.
    near
        Also sentences on near ancestors, after those on the type itself.
    """
    columns = [
        [(item, quote) for quote in split_sentences(item.text)]
        for item in items
        if item.source not in ontology.ONTOLOGIES and item.source != EXPRESSION
    ]
    rows = sorted(_in_turn(columns), key=lambda row: _COMPARES.search(row[1]) is not None)
    for wide in (False, True) if near else (False,):
        for item, whole in rows:
            quote = whole[match.end() :] if (match := _LINKING.match(whole)) else whole
            text = capital(tidy(quote))
            if not text or not is_plain(text) or leans(text):
                continue
            own = is_about(text, name, term_id, near=False)
            about = not own and is_about(text, name, term_id, near=True) if wide else own
            if about and (not topic or says(text, topic)):
                cited = (Citation(snippet_id=item.snippet_id, quote=quote),)
                yield Sentence(text=text, facet=facet, citations=cited)


def _in_turn(columns: Sequence[Sequence[tuple[Evidence, str]]]) -> Iterator[tuple[Evidence, str]]:
    for row in range(max((len(column) for column in columns), default=0)):
        yield from (column[row] for column in columns if row < len(column))


def expression_sentence(items: Sequence[Evidence], n_genes: int | None = None) -> Sentence | None:
    """Return the first sentence that says what the cells express.

    Parameters
    ----------
    n_genes
        Name this many genes without their numbers; by default the sentence is left whole.
    """
    for item in items:
        if item.source != EXPRESSION:
            continue
        for whole in split_sentences(item.text):
            genes = list(_GENE.finditer(whole))
            if not genes:
                continue
            text, quote = tidy(whole), whole
            if n_genes is not None:
                named = genes[:n_genes]
                text = whole[: genes[0].start()] + joined([gene[1] for gene in named])
                quote = whole if len(named) == len(genes) else whole[: named[-1].end()]
            cited = (Citation(snippet_id=item.snippet_id, quote=quote),)
            text = closed(" ".join(text.split()))
            return Sentence(text=text, facet="markers_function", citations=cited)
    return None
