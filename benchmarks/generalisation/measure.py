"""From answers to numbers: per study accuracy and macro-F1, seen and unseen types apart, paired intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from questions import open_terms
from studies import candidates, files_of, test_cells

from okrcell.evaluate.intervals import Bootstrap, f1_of_counts, type_counts, weighted_mean
from okrcell.evaluate.ontology_credit import credit_between, live_term

__all__ = ["DRAWS", "Asked", "asked", "auroc_of_unseen", "difference", "numbers", "right"]

DRAWS = 2_000


@dataclass(frozen=True)
class Asked:
    """All test cells of a study, file after file.

    Attributes
    ----------
    terms
        Candidates, sorted.
    truth
        int64 [n], index into ``terms``.
    files
        Names of the files, and int64 [n], index into them.
    boot
        What is resampled: donors where five or more are known of all cells, else cells.
    """

    terms: tuple[str, ...]
    truth: np.ndarray
    files: tuple[str, ...]
    file_of: np.ndarray
    boot: Bootstrap


@cache
def asked(data: Path, study: str) -> Asked:
    """Return what is asked about a study."""
    terms, files = candidates(data, study), files_of(study)
    cells = [test_cells(data, name) for name in files]
    truth = np.searchsorted(terms, np.concatenate([some.terms for some in cells]))
    file_of = np.repeat(np.arange(len(files)), [len(some.terms) for some in cells])
    boot = Bootstrap.over(np.concatenate([some.donors for some in cells]), DRAWS, 0)
    return Asked(tuple(terms), truth, tuple(files), file_of, boot)


def joined(found: Mapping[str, np.ndarray], study: Asked, kind: str, inference: str) -> np.ndarray:
    """Return int64 [n]: the answers of a study's files, one after the other."""
    return np.concatenate([found[f"{kind}/{name}/{inference}"] for name in study.files])


def right(found: Mapping[str, np.ndarray], study: Asked, inference: str) -> np.ndarray:
    """Return float64 [n]: 1 where the closed question was answered rightly."""
    return (joined(found, study, "closed", inference) == study.truth).astype(np.float64)


def numbers(
    data: Path, found: Mapping[str, np.ndarray], name: str, inference: str, seen: Sequence[str]
) -> dict[str, float]:
    """Return the numbers of one study; what cannot be asked is left out.

    Parameters
    ----------
    seen
        Terms of the real training cells.
    """
    study = asked(data, name)
    said = joined(found, study, "closed", inference)
    credit = credit_between(study.terms, study.terms)
    is_right = said == study.truth
    is_seen = np.isin(np.array(study.terms)[study.truth], list(seen))
    one = np.ones((1, len(said)))
    counts = type_counts(study.truth, said, len(study.terms))(one)
    out = {
        "accuracy": float(is_right.mean()),
        "macro_f1": float(f1_of_counts(counts)[0]),
        "credit": float(credit[study.truth, said].mean()),
        "kin": float(_kin(study.terms)[study.truth, said].mean()),
        "n": len(said),
    }
    for scope, rows in (("seen", is_seen), ("unseen", ~is_seen)):
        if rows.any():
            out[f"accuracy ({scope})"] = float(is_right[rows].mean())
            out[f"n ({scope})"] = int(rows.sum())
    if f"open/{study.files[0]}/{inference}" in found:
        hits, worth = zip(
            *(_open(data, found, file, inference) for file in study.files), strict=True
        )
        out["accuracy (open)"] = float(np.concatenate(hits).mean())
        out["credit (open)"] = float(np.concatenate(worth).mean())
    return out


def auroc_of_unseen(
    data: Path, found: Mapping[str, np.ndarray], name: str, seen: Sequence[str]
) -> float | None:
    """Return how well a low greatest similarity tells cells of unseen types; None without both kinds."""
    from sklearn.metrics import roc_auc_score

    study = asked(data, name)
    if f"confidence/{study.files[0]}" not in found:
        return None
    sure = np.concatenate([found[f"confidence/{file}"] for file in study.files])
    unseen = ~np.isin(np.array(study.terms)[study.truth], list(seen))
    return float(roc_auc_score(unseen, -sure)) if 0 < unseen.sum() < len(unseen) else None


def difference(a: np.ndarray, b: np.ndarray, boot: Bootstrap) -> tuple[float, float, float]:
    """Return the mean of a - b over the same cells, and its 95 % interval."""
    values = a - b
    mean = float(values.mean())
    low, high = boot.interval(mean, boot.apply(weighted_mean(values)), (-1.0, 1.0))
    return mean, low, high


def _open(
    data: Path, found: Mapping[str, np.ndarray], file: str, inference: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return of a file's cells whether the open answer is right, and its ontology credit."""
    terms, truth = open_terms(data, file), test_cells(data, file).terms
    said = found[f"open/{file}/{inference}"]
    kinds, number = np.unique(truth, return_inverse=True)
    credit = credit_between([str(kind) for kind in kinds], terms)[number, said]
    return np.array(terms)[said] == truth, credit


def _kin(terms: Sequence[str]) -> np.ndarray:
    """Return bool [T, T]: the answer is the truth, an ancestor or a descendant of it."""
    from okrcell.corpus.ontology import ancestors

    above = [{*ancestors(term), live_term(term)} for term in terms]
    pairs = list(zip(terms, above, strict=True))
    return np.array([[s in b or t in a for t, b in pairs] for s, a in pairs])
