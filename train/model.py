"""A trained cell-text model: cells and texts to vectors of one space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from okrcell.corpus.embedder import load_embedder, same_weights
from okrcell.corpus.expression import check_values
from okrcell.corpus.genes import resolve_genes
from okrcell.corpus.shards import CellMatrix
from okrcell.errors import EmbedderError, GeneCoverageError
from okrcell.train.batch import CellInput, DenseCells
from okrcell.train.config import TrainConfig
from okrcell.train.text import TextTower
from okrcell.train.tokens import column_tokens, tokenise
from okrcell.train.towers import Tower
from okrcell.train.variable import dense

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
    card
        Content of ``model.json``.
    """

    def __init__(
        self,
        config: TrainConfig,
        tower: Tower,
        card: dict[str, Any],
        fingerprint: str,
        device: str,
        *,
        text: TextTower | None = None,
    ) -> None:
        self.config, self.card, self.fingerprint = config, card, fingerprint
        self.gene_ids: tuple[str, ...] = tuple(card["gene_ids"])
        self._tower, self._text, self._device = tower, text, device
        self._vocabulary = {gene: at for at, gene in enumerate(self.gene_ids)}
        self._variable = np.array(
            [self._vocabulary[gene] for gene in card.get("variable") or []], dtype=np.int64
        )

    @property
    def tower(self) -> Tower:
        """The cell tower, as ``okrcell.train.towers`` builds it."""
        return self._tower

    def read(
        self,
        cells: CellMatrix,
        rows: npt.NDArray[np.int64],
        columns: npt.NDArray[np.int64],
        *,
        max_genes: int | None = None,
    ) -> CellInput:
        """Return some cells as the tower reads them, nothing hidden, on the model's device.

        Parameters
        ----------
        columns
            Result of :meth:`columns` for these cells.
        max_genes
            Fewer genes per cell than the configuration's, for speed.
        """
        config = self.config
        made: CellInput
        if config.preset == "mlp":
            made = DenseCells(
                torch.from_numpy(
                    dense(cells, rows, columns, self._variable, missing=config.missing_value)
                )
            )
        else:
            made = tokenise(
                cells,
                rows,
                columns,
                n_bins=config.n_bins,
                max_genes=min(config.max_genes, max_genes or config.max_genes),
                key=None,
                ids=None,
            )
        return made.to(self._device)

    def columns(self, cells: CellMatrix, where: str = "cells") -> npt.NDArray[np.int64]:
        """Return int64 [G]: the vocabulary's index of each column, or -1.

        Raises
        ------
        GeneCoverageError
            No gene is known to the model.
        """
        return column_tokens(cells.gene_ids, self._vocabulary, where)

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
        columns = self.columns(matrix)
        n_cells = matrix.matrix.shape[0]
        vectors = np.zeros((n_cells, self._tower.projector.out_features), dtype=np.float32)
        with torch.inference_mode():
            for begin in range(0, n_cells, batch_size):
                rows = np.arange(begin, min(begin + batch_size, n_cells))
                made = self._tower(self.read(matrix, rows, columns), genes=False).cell
                vectors[rows] = made.float().cpu().numpy()
        return vectors

    def encode_text(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return float32 [n, E], rows of unit length, by the text tower as it was trained.

        Raises
        ------
        EmbedderError
            The text model here is not the one of training.
        """
        encoder = self._text if self._text is not None else load_embedder(self.config.embedder)
        if not same_weights(encoder.id, self.card["embedder"]):
            raise EmbedderError(
                "text tower",
                found=encoder.id,
                expected=self.card["embedder"],
                fix="Use the embedder the model was trained with.",
            )
        return encoder.encode(texts)


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
