"""What is asked of the vectors of a run, and what of the markers alone: answers of every test cell.

Candidates are all types of the study (closed), or the Cell Ontology's terms of the tissue (open). Scores are
the learnt similarity, the markers' vote, or both; each as it is, or smoothed over the graph of the
file's cells. Votes and graphs know no run, and are kept per file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from models import text_vectors
from studies import FILES, Cells, candidates, test_cells

from okrcell.artifacts import atomic_path
from okrcell.corpus.marker_table import markers_of_term
from okrcell.corpus.marker_vote import combined, vote
from okrcell.corpus.type_texts import TypeForm
from okrcell.evaluate.candidates import open_sets
from okrcell.evaluate.data import EvalData
from okrcell.evaluate.refine import graph_basis, smoother

__all__ = ["INFERENCES", "Answers", "answers", "as_data", "open_terms", "votes"]

INFERENCES = ("learned", "learned + graph", "with vote", "with vote + graph")
"""How scores are made of a run's vectors; a run without vectors is the vote alone."""

Answers = dict[str, np.ndarray]
"""``closed/FILE/INFERENCE``, and ``open/FILE/INFERENCE``: int64 [n], the candidate that is said;
``confidence/FILE``: float32 [n], the greatest cosine with a type that was trained on."""

Smooth = Callable[[np.ndarray], np.ndarray]


def answers(
    data: Path,
    work: Path,
    vectors: Path | None,
    tests: Sequence[str],
    form: TypeForm,
    *,
    plain: bool = False,
) -> Answers:
    """Answer all questions about some files; smoothed scores answer the closed one alone.

    Parameters
    ----------
    vectors
        From :func:`models.vectors_of`; None for the markers alone.
    plain
        Ask the closed question by the learnt similarity, and nothing else.
    """
    found: Answers = {}
    stored = None
    if vectors is not None:
        with np.load(vectors) as file:
            stored = {name: file[name] for name in file.files}
    for name in tests:
        closed = candidates(data, FILES[name].study)
        cells = None if stored is None else stored[name].astype(np.float32)
        if plain:
            assert cells is not None
            scores = cells @ text_vectors(work, closed, form).T
            found[f"closed/{name}/learned"] = scores.argmax(axis=1)
            continue
        smooth = _smoother(data, work, name)
        for kind, terms in (("closed", closed), ("open", open_terms(data, name))):
            said = votes(data, work, name, kind)
            scored = {"with vote": said}
            if cells is not None:
                similar = cells @ text_vectors(work, terms, form).T
                scored = {"learned": similar, "with vote": combined(similar, said)}
            for inference, values in scored.items():
                found[f"{kind}/{name}/{inference}"] = values.argmax(axis=1)
                if kind == "closed":
                    found[f"closed/{name}/{inference} + graph"] = smooth(values).argmax(axis=1)
        if stored is not None and cells is not None:
            known = text_vectors(work, [str(term) for term in stored["terms"]], form)
            found[f"confidence/{name}"] = (cells @ known.T).max(axis=1)
    return found


def votes(data: Path, work: Path, name: str, kind: str) -> np.ndarray:
    """Return float32 [n, C]: the markers' vote on a file's cells for closed or open candidates."""
    terms = candidates(data, FILES[name].study) if kind == "closed" else open_terms(data, name)
    markers = [markers_of_term(term) for term in terms]
    code = files("okrcell.corpus").joinpath("marker_vote.py").read_bytes()
    digest = hashlib.sha256(repr(markers).encode() + code).hexdigest()[:8]
    path = work / "votes" / f"{name}-{kind}-{digest}.npy"
    return _kept(path, lambda: vote(test_cells(data, name).matrix, markers))


@cache
def open_terms(data: Path, name: str) -> tuple[str, ...]:
    """Return the terms of a file's tissue, the study's own among them, sorted."""
    (found,), _ = open_sets(as_data(data, name), ("tissue",))
    return tuple(sorted({*found.terms, *candidates(data, FILES[name].study)}))


@lru_cache(maxsize=2)
def as_data(data: Path, name: str) -> EvalData:
    """Return a file's test cells as the evaluation's own functions read them."""
    cells: Cells = test_cells(data, name)
    n = len(cells.terms)
    uids, empty = np.array([f"{name}:{i}" for i in range(n)]), np.full(n, "")
    terms = {term: term for term in candidates(data, FILES[name].study)}
    return EvalData(
        name, cells.matrix, uids, cells.terms, empty, cells.donors, np.full(n, "test"), empty,
        terms, {}, tissue=FILES[name].tissue,
    )  # fmt: skip


def _smoother(data: Path, work: Path, name: str) -> Smooth:
    basis = _kept(work / "graphs" / f"{name}.npy", lambda: graph_basis(as_data(data, name)))
    return smoother(basis)


def _kept(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as handle:
            np.save(handle, make())
    return np.load(path)
