"""Which cell types to look for in a tissue: types that single-cell studies name, where they belong.

The Cell Ontology has more than three thousand terms, most of which no dataset has ever been labelled
with; asked among all of them a model answers with rare relatives of the right type. The pool here is
some 150 types that studies name most, and the types that the run was trained on. A tissue keeps of them the
types that name the organ, those that name none, and immune cells; blood keeps blood cells.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from okrcell.corpus.label_readings import organs_of
from okrcell.corpus.label_text import read_columns, words_of
from okrcell.corpus.ontology import ancestors, bundled, get_term

__all__ = ["general_types", "organs_of_tissue", "tissue_of", "types_of_tissue"]

_HEMATOPOIETIC = "CL:0000988"
_RESIDENT = frozenset(
    {
        "CL:0000235",  # macrophage
        "CL:0000092",  # osteoclast
        "CL:0000097",  # mast cell
        "CL:0000453",  # Langerhans cell
        "CL:0000893",  # thymocyte
        "CL:0000442",  # follicular dendritic cell
        "CL:0000844",  # germinal centre B cell
    }
)
"""Types of the blood's lineage that do not circulate, with all below them."""

_PRECURSORS = frozenset({"CL:0008001", "CL:0000092"})
"""Precursors of blood cells, and osteoclasts: at home in the marrow, and not in other organs."""

_CIRCULATING = frozenset({"blood", "bone_marrow", "lymph"})
_MARROW = frozenset({"CL:0000556", "CL:0000764"})
"""Megakaryocytes and cells of the erythroid lineage at large; platelets and erythrocytes are met anywhere."""

_STEM = frozenset({"CL:0008001", "CL:0000037"})
_MAKES_BLOOD = frozenset({"blood", "bone_marrow", "bone", "lymph", "embryo", "placenta"})
_UNKNOWN = frozenset({"", "unknown", "na", "nan", "none", "other", "mixed"})
_TERM = re.compile(r"(UBERON|CL):\d{7}")


def tissue_of(obs: Any, given: str | None) -> tuple[str, ...]:
    """Return the tissues of a file as texts: the one that was given, else those that ``obs`` names.

    Term ids are read before labels; what says "unknown" counts as nothing.
    """
    if given is not None:
        return tuple(part.strip() for part in given.split(",") if part.strip())
    for column in ("tissue_ontology_term_id", "tissue"):
        if column in obs.columns:
            texts = {str(value).strip() for value in obs[column].dropna().unique()}
            known = sorted(text for text in texts if text.casefold() not in _UNKNOWN)
            if known:
                return tuple(known)
    return ()


@cache
def organs_of_tissue(tissue: str) -> frozenset[str]:
    """Return the organs that a tissue's name, or Uberon id, speaks of; empty where it names none.

    Of an Uberon term that names no organ itself, the nearest ancestors that do are read.
    """
    term_id = tissue if _TERM.fullmatch(tissue) else _uberon_of(tissue)
    if not term_id:
        return organs_of(words_of(tissue))
    found = organs_of(words_of(tissue)) | _organs_named(term_id)
    for ancestor, _ in sorted(ancestors(term_id).items(), key=lambda item: (item[1], item[0])):
        if found:
            break
        found = _organs_named(ancestor)
    return found


@cache
def general_types() -> tuple[str, ...]:
    """Return the terms that single-cell studies name most, about 150, sorted: those of ``label_markers.tsv``."""
    return tuple(
        sorted(term for term, *_ in read_columns("label_markers.tsv") if bundled("cl").get(term))
    )


def types_of_tissue(terms: Iterable[str], tissues: Sequence[str]) -> tuple[str, ...]:
    """Return the terms that may be met in any of the tissues, in their order.

    Parameters
    ----------
    tissues
        Texts whose organs are known to :func:`organs_of_tissue`.
    """
    organs = frozenset().union(*map(organs_of_tissue, tissues))
    return tuple(term for term in terms if _belongs(term, organs))


def _belongs(term_id: str, organs: frozenset[str]) -> bool:
    above = {term_id, *ancestors(term_id)}
    named = _organs_named(term_id)
    if _HEMATOPOIETIC in above:
        if organs <= {"blood"}:
            if above & _PRECURSORS and term_id not in _STEM:
                return False
            return named <= _CIRCULATING and not above & _RESIDENT
        if (above & _PRECURSORS or term_id in _MARROW) and not organs & _MAKES_BLOOD:
            return False
        return not named - _CIRCULATING or bool(named & organs)
    if organs <= {"blood"}:
        return False
    if named:
        return bool(named & organs)
    term = get_term(term_id)
    told = organs_of(words_of(term.definition)) - _CIRCULATING if term else frozenset()
    return not told or bool(told & organs)


@cache
def _organs_named(term_id: str) -> frozenset[str]:
    term = get_term(term_id)
    if term is None:
        return frozenset()
    return organs_of(word for name in (term.label, *term.synonyms) for word in words_of(name))


@cache
def _uberon_of(name: str) -> str:
    """Return the Uberon id of a label or exact synonym, else an empty string."""
    folded = name.strip().casefold()
    for term in bundled("uberon").terms():
        if folded in {term.label.casefold(), *(synonym.casefold() for synonym in term.synonyms)}:
            return term.term_id
    return ""
