"""A trained cell-text model: cells and texts to vectors of one space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from okrcell.corpus.embedder import load_embedder
from okrcell.corpus.expression import check_values
from okrcell.corpus.genes import resolve_genes
from okrcell.corpus.shards import CellMatrix
from okrcell.errors import EmbedderError, GeneCoverageError
from okrcell.train.config import TrainConfig
from okrcell.train.encoder import CellEncoder
from okrcell.train.tokens import column_tokens, tokenise

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["CellTextModel"]


class CellTextModel:
    """Get one from :func:`okrcell.load`.

    Attributes
    ----------
    config
        The configuration it was trained with.
    gene_ids
        Vocabulary: unversioned Ensembl ids.
    fingerprint
        Identity of the run's files.
    """

    def __init__(
        self,
        config: TrainConfig,
        encoder: CellEncoder,
        card: dict[str, Any],
        fingerprint: str,
        device: str,
    ) -> None:
        self.config, self.fingerprint = config, fingerprint
        self.gene_ids: tuple[str, ...] = tuple(card["gene_ids"])
        self._embedder_id: str = card["embedder"]
        self._encoder, self._device = encoder, device
        self._vocabulary = {gene: at for at, gene in enumerate(self.gene_ids)}

    def encode_cells(
        self, cells: CellMatrix | AnnData, *, batch_size: int = 64
    ) -> npt.NDArray[np.float32]:
        """Encode cells.

        Parameters
        ----------
        cells
            A store's matrix, or an AnnData whose ``X`` holds counts or log-normalised values and
            whose ``var_names`` (or column ``ensembl_id`` or ``feature_id``) hold Ensembl ids or symbols.

        Returns
        -------
        ndarray
            float32 [n_obs, E], rows of unit length, in the order of the cells.

        Raises
        ------
        GeneCoverageError
            No gene is known to the model.
        ExpressionValueError
            Negative or non-finite values.
        """
        matrix = cells if isinstance(cells, CellMatrix) else _from_anndata(cells)
        columns = column_tokens(matrix.gene_ids, self._vocabulary, "cells")
        n_cells = matrix.matrix.shape[0]
        # Cells of similar length share a batch: less padding, same result.
        order = np.argsort(np.diff(matrix.matrix.indptr), kind="stable")
        vectors = np.zeros((n_cells, self._encoder.projector.out_features), dtype=np.float32)
        with torch.inference_mode():
            for begin in range(0, n_cells, batch_size):
                rows = order[begin : begin + batch_size]
                tokens = tokenise(
                    matrix,
                    rows,
                    columns,
                    n_bins=self.config.n_bins,
                    max_genes=self.config.max_genes,
                    rng=None,
                )
                on_device = type(tokens)(*(field.to(self._device) for field in tokens))
                vectors[rows] = self._encoder(on_device).cell.cpu().numpy()
        return vectors

    def encode_text(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return float32 [n, E], rows of unit length, by the frozen text tower.

        Raises
        ------
        EmbedderError
            The text model here is not the one of training.
        """
        embedder = load_embedder(self.config.embedder)
        # The arithmetic (last part of the id) may differ between machines, the weights may not.
        if embedder.id.rsplit(":", 1)[0] != self._embedder_id.rsplit(":", 1)[0]:
            raise EmbedderError(
                "text tower",
                found=embedder.id,
                expected=self._embedder_id,
                fix="Use the embedder the model was trained with.",
            )
        return embedder.encode(texts)


def _from_anndata(adata: AnnData) -> CellMatrix:
    from pathlib import Path

    from scipy import sparse

    matrix = sparse.csr_matrix(adata.X, dtype=np.float32)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    values = check_values(matrix, Path("AnnData.X"), 0) if matrix.nnz else "counts"
    totals = np.asarray(matrix.sum(axis=0, dtype=np.float64)).ravel()
    names = [adata.var_names] + [
        adata.var[c] for c in ("ensembl_id", "feature_id") if c in adata.var
    ]
    report = max(
        (resolve_genes([str(n) for n in source], totals) for source in names),
        key=lambda found: len(found.gene_ids),
    )
    if not report.gene_ids:
        raise GeneCoverageError(
            "AnnData.var_names",
            found=f"no Ensembl id or gene symbol among {len(totals)} names"
            + (f"; {report.hint}" if report.hint else ""),
            expected="human genes",
            fix="Put Ensembl ids or symbols into var_names.",
        )
    return CellMatrix(sparse.csr_matrix(matrix[:, report.columns]), report.gene_ids, values)
