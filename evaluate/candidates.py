"""What a cell can be named in the zero-shot task: the candidates, and the texts that stand for them.

Closed candidates are the types of the data. Each can be read by three wordings: its bare
``label``; ``prompts``, the mean over a fixed list of sentences around the label; its
``description``, the mean over the descriptions of its profiles; ``term``, what the Cell Ontology
says of it, for methods that were trained on such texts. Open candidates are terms of the
Cell Ontology: those expected in the tissue, or all of them. There every term gets the same kind of
text, the data's own terms too, so that no candidate is favoured.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from weakref import WeakKeyDictionary

import numpy as np

from okrcell.corpus.type_texts import type_text
from okrcell.errors import ConfigError
from okrcell.evaluate.methods import MethodOutput, TextSource, Vectors, as_float32, unit
from okrcell.evaluate.ontology_credit import live_term

if TYPE_CHECKING:
    from okrcell.evaluate.data import EvalData

__all__ = [
    "PROMPTS",
    "WORDINGS",
    "OpenSet",
    "Wording",
    "candidate_vectors",
    "merge_types",
    "open_sets",
    "open_vectors",
    "type_texts",
    "type_vectors",
]

Wording = Literal["description", "label", "prompts", "term"]
WORDINGS: tuple[Wording, ...] = ("description", "label", "prompts")

PROMPTS = (
    "{}",
    "a {}",
    "cell type: {}",
    "this cell is a {}",
    "a cell of the type {}",
    "the gene expression of a {}",
    "single-cell RNA sequencing of a {}",
)
"""Sentences around a label, fixed before anything was measured."""

_BLOOD_ROOT = "CL:0000988"
_BLOOD = re.compile(r"\b(blood|pbmc)", re.IGNORECASE)

Encode = Callable[[list[str]], Vectors]


@dataclass(frozen=True)
class OpenSet:
    """A set of Cell Ontology terms to choose from: its name in metrics, and the ids, sorted."""

    name: str
    terms: tuple[str, ...]


def merge_types(data: EvalData) -> EvalData:
    """Return the data with types of one Cell Ontology term as one type, under the term's name.

    Where two labels mean the same term, no text can tell them apart, and no answer be preferred.
    """
    from okrcell.corpus.ontology import names

    by_term: dict[str, list[str]] = {}
    for name in data.types:
        if term := live_term(data.term_ids.get(name, "")):
            by_term.setdefault(term, []).append(name)
    several = {term: some for term, some in by_term.items() if len(some) > 1}
    if not several:
        return data
    taken = set(data.types)
    new: dict[str, str] = {}
    merged: dict[str, tuple[str, ...]] = {}
    terms = dict(data.term_ids)
    for term, some in several.items():
        title = names(term)[0]
        if title in taken and title not in some:
            title = f"{title} ({term})"
        merged[title] = tuple(some)
        terms[title] = term
        new |= dict.fromkeys(some, title)
    labels = np.asarray([new.get(str(label), str(label)) for label in data.labels], dtype=np.str_)
    return dataclasses.replace(data, labels=labels, term_ids=terms, merged=merged)


def candidate_vectors(method: MethodOutput, data: EvalData) -> Vectors:
    """Return one unit row per type of ``data.types``, float32 [T, D], by the method's own texts."""
    assert method.encode_text is not None
    return type_vectors(method.encode_text, type_texts(data, method.texts))


def type_texts(data: EvalData, wording: Wording) -> list[tuple[str, ...]]:
    """Return the texts of each of ``data.types``."""
    if wording == "label":
        return [data.names_of(name) for name in data.types]
    if wording == "term":
        return [(type_text(name, data.term_ids.get(name, "")),) for name in data.types]
    if wording == "prompts":
        return [
            tuple(prompt.format(label) for label in data.names_of(name) for prompt in PROMPTS)
            for name in data.types
        ]
    return [
        tuple(sorted({data.descriptions[profile] for profile in data.profiles_of(name)}))
        for name in data.types
    ]


def type_vectors(encode: Encode, texts: Sequence[Sequence[str]]) -> Vectors:
    """Return one unit row per candidate: the mean of its texts' unit vectors, normalised again."""
    distinct = sorted({text for some in texts for text in some})
    row = {text: i for i, text in enumerate(distinct)}
    vectors = unit(as_float32(encode(distinct)))
    return unit(np.stack([vectors[[row[text] for text in some]].mean(axis=0) for some in texts]))


# --- open candidates ---------------------------------------------------------------------------


def open_sets(
    data: EvalData, wanted: Collection[str] = ("tissue", "cl")
) -> tuple[list[OpenSet], list[str]]:
    """Return the open candidate sets that the data allow, and what the reader must be told.

    ``tissue CL``: terms below ``data.candidate_roots``; without roots those below the hematopoietic
    cell for blood, else those whose label, exact synonym or definition has the tissue's name as a
    word. ``all CL``: all live terms. The data's own terms are always among them. None where no type
    of the data has a term.

    Raises
    ------
    ConfigError
        A root is no live term of the Cell Ontology.
    """
    if not wanted:
        return [], []
    own = frozenset(filter(None, map(live_term, data.term_ids.values())))
    if not own:
        return [], ["No cell type has a Cell Ontology term: no open candidates."]
    from okrcell.corpus.ontology import terms

    found: list[OpenSet] = []
    notes: list[str] = []
    if "cl" in wanted:
        found.append(OpenSet("all CL", tuple(sorted(own | {term.term_id for term in terms("cl")}))))
    if "tissue" not in wanted:
        return found, notes
    expected = _expected(data)
    if expected - own:
        found.insert(0, OpenSet("tissue CL", tuple(sorted(own | expected))))
    elif data.tissue or data.candidate_roots:
        place = data.tissue or ", ".join(data.candidate_roots)
        notes.append(f"The Cell Ontology has no further term for {place}: no tissue candidates.")
    return found, notes


def open_vectors(encode: Encode, terms: Sequence[str], texts: TextSource) -> Vectors:
    """Return one unit row per term, float32 [C, D].

    The text of a term is ``label: definition`` for a method that reads descriptions (the bare label
    where there is no definition), else the label. Texts are encoded once per ``encode``.
    """
    return unit(_remembered(encode, [_term_text(term, texts) for term in terms]))


def _term_text(term_id: str, texts: TextSource) -> str:
    from okrcell.corpus.ontology import get_term

    term = get_term(term_id)
    assert term is not None, term_id
    if texts == "term":
        return type_text(term.label, term_id)
    if texts == "label" or not term.definition:
        return term.label
    return f"{term.label}: {term.definition}"


def _expected(data: EvalData) -> frozenset[str]:
    from okrcell.corpus.ontology import ancestors, terms

    roots = {live_term(root) for root in data.candidate_roots}
    if "" in roots:
        unknown = [root for root in data.candidate_roots if not live_term(root)]
        raise ConfigError(
            f"candidate roots of '{data.dataset}'",
            found=f"{', '.join(unknown)}, no live terms of the Cell Ontology",
            expected="ids such as CL:0000988",
            fix="Correct the ids.",
        )
    if not roots and _BLOOD.search(data.tissue):
        roots = {_BLOOD_ROOT}
    if roots:
        return frozenset(
            term.term_id
            for term in terms("cl")
            if term.term_id in roots or roots & ancestors(term.term_id).keys()
        )
    if not data.tissue.strip():
        return frozenset()
    name = re.compile(rf"\b{re.escape(data.tissue.strip())}\b", re.IGNORECASE)
    return frozenset(
        term.term_id
        for term in terms("cl")
        if any(name.search(text) for text in (term.label, *term.synonyms, term.definition))
    )


_known: WeakKeyDictionary[Encode, dict[str, Vectors]] = WeakKeyDictionary()


def _remembered(encode: Encode, texts: list[str]) -> Vectors:
    """Encode what this function has not encoded before; forgotten together with the function."""
    try:
        known = _known.setdefault(encode, {})
    except TypeError:  # not hashable, or no weak references to it
        known = {}
    new = sorted(set(texts) - known.keys())
    if new:
        known.update(zip(new, as_float32(encode(new)), strict=True))
    return np.stack([known[text] for text in texts])
