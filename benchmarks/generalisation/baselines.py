"""What needs no cell-text model: chance, the commonest type, text of gene names, and supervised transfer.

Supervised transfer learns the types of the training files from their cells, and can say no other: on types
that no training file has it is always wrong. Of its types only those of the study may be said.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from arms import VERSION
from models import text_vectors
from questions import Answers, as_data
from scipy import sparse
from studies import candidates, files_of, test_cells, training_file

from okrcell.artifacts import atomic_path
from okrcell.corpus.shards import CellMatrix

__all__ = ["BASELINES", "baseline"]

BASELINES = ("random", "majority", "gene names", "logistic transfer", "PCA + ridge to texts")
_GENES, _COMPONENTS = 2_000, 50


def baseline(kind: str, data: Path, work: Path, study: str, train: Sequence[str]) -> Answers:
    """Return the answers ``closed/FILE/learned`` of a baseline about a study; they are kept.

    Parameters
    ----------
    kind
        Of :data:`BASELINES`.
    train
        Training files; the first two kinds and ``gene names`` read at most their labels.
    """
    path = work / "baselines" / f"{kind}-{study}-{VERSION}.npz".replace(" ", "-")
    if not path.exists():
        found = _ask(kind, data, work, study, train)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as handle:
            np.savez(handle, **found)
    with np.load(path) as stored:
        return dict(stored)


def _ask(kind: str, data: Path, work: Path, study: str, train: Sequence[str]) -> Answers:
    found: Answers = {}
    terms = candidates(data, study)
    known = None if kind in ("random", "gene names") else _training(data, work, train)
    for name in files_of(study):
        cells = test_cells(data, name)
        n = len(cells.terms)
        if kind == "random":
            said = np.random.default_rng(2).integers(len(terms), size=n)
        elif kind == "gene names":
            said = _gene_names(data, work, name, terms)
        elif kind == "majority":
            assert known is not None
            # The first candidate where no training file has any of them.
            commonest = np.argmax([(known[1] == term).sum() for term in terms])
            said = np.full(n, commonest)
        else:
            assert known is not None
            said = _transfer(kind, work, known, cells.matrix, terms)
        found[f"closed/{name}/learned"] = said
    return found


def _gene_names(data: Path, work: Path, name: str, terms: Sequence[str]) -> np.ndarray:
    from okrcell.evaluate.genept import genept

    cells = genept(as_data(data, name), 0).cells
    assert cells is not None
    return (cells @ text_vectors(work, terms, "named").T).argmax(axis=1)


def _training(data: Path, work: Path, train: Sequence[str]) -> tuple[list[CellMatrix], np.ndarray]:
    import anndata

    matrices, labels = [], []
    for name in train:
        adata = anndata.read_h5ad(training_file(data, name, work / "cells"))
        matrices.append(CellMatrix(adata.X, tuple(adata.var_names), "counts"))
        labels.append(adata.obs["cell_type_ontology_term_id"].astype(str).to_numpy())
    return matrices, np.concatenate(labels)


def _transfer(
    kind: str,
    work: Path,
    known: tuple[list[CellMatrix], np.ndarray],
    test: CellMatrix,
    terms: Sequence[str],
) -> np.ndarray:
    """Fit on the variable genes that the test file has, values scaled to the spread of training."""
    matrices, labels = known
    genes = _variable(matrices, test.gene_ids)
    x = np.concatenate([_log_values(cells, genes) for cells in matrices])
    spread = x.std(axis=0) + 1e-3
    x, asked = x / spread, _log_values(test, genes) / spread
    if kind == "logistic transfer":
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=0.01, class_weight="balanced", max_iter=100)
        scores = model.fit(x, labels).decision_function(asked)
        place = {term: at for at, term in enumerate(model.classes_)}
        columns = [place.get(term, -1) for term in terms]
        padded = np.c_[scores, np.full(len(scores), -np.inf)]
        return padded[:, columns].argmax(axis=1)
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge

    pca = PCA(_COMPONENTS, random_state=0).fit(x)
    ridge = Ridge(1.0).fit(pca.transform(x), text_vectors(work, list(labels), "named"))
    return (ridge.predict(pca.transform(asked)) @ text_vectors(work, terms, "named").T).argmax(
        axis=1
    )


def _variable(matrices: Sequence[CellMatrix], measured: Sequence[str]) -> list[str]:
    """Return the genes of the test file of the largest variance in most training files."""
    wanted = set(measured)
    score: dict[str, float] = {}
    for cells in matrices:
        values = _normalised(cells)
        mean = np.asarray(values.mean(axis=0)).ravel()
        square = np.asarray(values.multiply(values).mean(axis=0)).ravel()
        for gene, variance in zip(cells.gene_ids, square - mean**2, strict=True):
            if gene in wanted:
                score[gene] = score.get(gene, 0.0) + float(variance)
    return sorted(sorted(score, key=lambda gene: -score[gene])[:_GENES])


def _normalised(cells: CellMatrix) -> sparse.csr_matrix:
    counts = sparse.csr_matrix(cells.matrix, dtype=np.float32, copy=True)
    totals = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
    counts.data = np.log1p(counts.data * np.repeat(1e4 / totals, np.diff(counts.indptr)))
    return counts


def _log_values(cells: CellMatrix, genes: Sequence[str]) -> np.ndarray:
    """Return float32 [n, G]: log1p of counts per 10,000, 0 for genes that the file lacks."""
    place = {gene: at for at, gene in enumerate(cells.gene_ids)}
    columns = [place.get(gene, -1) for gene in genes]
    has = np.array([column >= 0 for column in columns])
    out = np.zeros((cells.matrix.shape[0], len(genes)), dtype=np.float32)
    out[:, has] = _normalised(cells)[:, [c for c in columns if c >= 0]].toarray()
    return out
