"""What a cell type is called and said to be, in one wording for training and for every question.

A model matches cells with the words it was trained on: whoever asks it later should ask in the same
form. What is known of a type without any literature is in the Cell Ontology: its name, its exact
synonyms, its definition. Without a term there is the label alone.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

__all__ = ["DEFAULT_FORM", "FORMS", "TypeForm", "type_text"]

TypeForm = Literal["label", "definition", "named", "full", "markers"]
FORMS: tuple[TypeForm, ...] = ("label", "definition", "named", "full", "markers")

DEFAULT_FORM: TypeForm = "named"
"""Chosen in ``benchmarks/generalisation`` on studies that take no part in its verdict."""

_SYNONYMS = 8
_MARKERS = 12


@cache
def type_text(label: str, term_id: str = "", form: TypeForm = DEFAULT_FORM) -> str:
    """Return the text that stands for a cell type.

    Parameters
    ----------
    label
        The type's name in the data; used where there is no live term.
    term_id
        Cell Ontology id, of a live term or of one that it replaces; may be empty or unknown.
    form
        ``label``: the term's name. ``definition``: its definition alone. ``named``: name and
        definition. ``full``: name, exact synonyms, definition. ``markers``: the same, and the genes
        that :func:`~okrcell.corpus.marker_table.markers_of_term` names as expressed. What a term
        lacks is left out.

    Returns
    -------
    str
        Never empty, unless the label is and there is no term.
    """
    from okrcell.corpus.ontology import bundled

    term = bundled("cl").get(term_id) if term_id else None
    if term is None:
        return label
    if form == "label" or (form == "definition" and not term.definition):
        return term.label
    if form == "definition":
        return term.definition
    if form == "named":
        return f"{term.label}: {term.definition}" if term.definition else term.label
    parts = [term.label]
    if synonyms := list(dict.fromkeys(term.synonyms))[:_SYNONYMS]:
        parts.append(f"Also called {', '.join(synonyms)}")
    if term.definition:
        parts.append(term.definition.rstrip(". "))
    if form == "markers" and (genes := _expressed(term.term_id)):
        parts.append(f"It expresses {', '.join(genes)}")
    return ". ".join(parts) + "."


def _expressed(term_id: str) -> list[str]:
    from okrcell.corpus.marker_table import markers_of_term

    return [marker.symbol for marker in markers_of_term(term_id) if marker.sign > 0][:_MARKERS]
