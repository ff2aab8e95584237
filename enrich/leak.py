"""How well a description's cell type can be guessed from its text alone.

Two ways: the names that stand in it, and a guess by the store's embedder, which ranks every Cell
Ontology term by how close its names come to the text. A masked text should be empty of the former; the
latter says what its content still gives away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from okrcell.corpus import ontology
from okrcell.enrich.masking import given_away
from okrcell.enrich.profile_text import Subject

if TYPE_CHECKING:
    from okrcell.corpus.embedder import Embedder

__all__ = ["TEMPERATURE", "LeakReport", "leak_reports"]

TEMPERATURE = 0.05
"""Of the softmax over cosines: a name that is closer by 0.05 than another is e times as likely.

It orders nothing and only makes probabilities comparable between runs. The paper has no such measure."""

_ROWS = 256  # texts that are compared at a time with all names
_DIGITS = 5

Floats = npt.NDArray[np.float32]

_NAMES: dict[str, dict[str, Floats]] = {}
# Embedder id to vectors of the ontology's names: 6,000 strings take several seconds on two cores.


@dataclass(frozen=True)
class LeakReport:
    """What a text gives away.

    Attributes
    ----------
    names
        Names of the cell type (label, synonyms, telling abbreviations) that stand in the text.
    rank
        Place of the right type among all candidates, 1 where it is the best guess; the better of its
        places by label and by the closest of label and synonyms. 0 means that there is no text, or no
        label to guess.
    candidates
        Number of types to choose from: all live terms of the bundled Cell Ontology, and labels of the
        subjects that no term stands for.
    probability
        That of the right type, by a softmax over the candidates' cosines at ``TEMPERATURE``.
    guess
        Label of the best candidate.
    """

    names: tuple[str, ...]
    rank: int
    candidates: int
    probability: float
    guess: str


@dataclass(frozen=True)
class _Candidates:
    """Types to guess from, by row; ``names`` holds the names of row r at ``starts[r]``, label first."""

    labels: tuple[str, ...]
    names: tuple[str, ...]
    starts: npt.NDArray[np.int64]
    row_of: Mapping[str, int]


def leak_reports(
    texts: Sequence[str], subjects: Sequence[Subject], embedder: Embedder
) -> list[LeakReport]:
    """Return a report for each text and its subject."""
    if len(texts) != len(subjects):
        raise ValueError(f"{len(texts)} texts and {len(subjects)} subjects")
    candidates = _candidates(subjects)
    n = len(candidates.labels)
    spoken = [row for row, text in enumerate(texts) if text.strip()]
    if not spoken:
        return [LeakReport((), 0, n, 0.0, "") for _ in texts]
    vectors = _vectors(candidates.names, embedder)
    reports = {}
    for begin in range(0, len(spoken), _ROWS):
        rows = spoken[begin : begin + _ROWS]
        cosines = embedder.encode([texts[row] for row in rows]) @ vectors.T
        # Rounded, so that the last bits of a matrix product decide no rank.
        cosines = np.round(cosines, _DIGITS)
        by_label = cosines[:, candidates.starts]
        by_name: Floats = np.maximum.reduceat(cosines, candidates.starts, axis=1)
        for at, row in enumerate(rows):
            right = candidates.row_of.get(_key(subjects[row]), -1)
            reports[row] = _report(
                texts[row], subjects[row], candidates, right, by_label[at], by_name[at]
            )
    return [reports.get(row, LeakReport((), 0, n, 0.0, "")) for row in range(len(texts))]


def _vectors(names: Sequence[str], embedder: Embedder) -> Floats:
    """Return the names' vectors, float32 [n, D]; those of the ontology are kept by embedder id."""
    kept = _NAMES.get(embedder.id)
    if kept is None:
        own = sorted(
            {name for term in ontology.terms("cl") for name in ontology.names(term.term_id)}
        )
        kept = _NAMES[embedder.id] = dict(zip(own, embedder.encode(own), strict=True))
    more = sorted(set(names) - kept.keys())
    known = {**kept, **dict(zip(more, embedder.encode(more), strict=True))} if more else kept
    return np.stack([known[name] for name in names])


def _report(
    text: str,
    subject: Subject,
    candidates: _Candidates,
    right: int,
    by_label: Floats,
    by_name: Floats,
) -> LeakReport:
    names = given_away(text, subject)
    guess = candidates.labels[int(np.argmax(by_name))]
    if right < 0:
        return LeakReport(names, 0, len(by_name), 0.0, guess)
    rank = 1 + min(int((scores > scores[right]).sum()) for scores in (by_label, by_name))
    # The scores are cosines: the exponents stay small without a shift.
    weights = np.exp(by_name.astype(np.float64) / TEMPERATURE)
    probability = round(float(weights[right] / weights.sum()), 6)
    return LeakReport(names, rank, len(by_name), probability, guess)


def _key(subject: Subject) -> str:
    """Return what names a subject's type: the id of its live term, or its label."""
    term = ontology.bundled("cl").get(subject.term_id("identity"))
    return term.term_id if term else subject.label("identity")


def _candidates(subjects: Sequence[Subject]) -> _Candidates:
    names = {t.term_id: list(ontology.names(t.term_id)) for t in ontology.terms("cl")}
    labels = {term_id: listed[0] for term_id, listed in names.items()}
    for subject in sorted(subjects, key=lambda s: s.label("identity")):
        key, label = _key(subject), subject.label("identity")
        if not label:
            continue
        # A file's own label of a term is one more of its names.
        listed = names.setdefault(key, [label])
        labels.setdefault(key, label)
        if label not in listed:
            listed.append(label)
    starts = np.cumsum([0, *map(len, names.values())])[:-1]
    return _Candidates(
        tuple(labels[key] for key in names),
        tuple(name for listed in names.values() for name in listed),
        starts.astype(np.int64),
        {key: row for row, key in enumerate(names)},
    )
