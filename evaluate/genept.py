"""Cells as expression-weighted means of text embeddings of gene symbols, after GenePT.

GenePT embeds what is written about a gene; here the text is the bare symbol, which is all that the
bundled gene table knows, and the embedder is frozen. Nothing is fitted: no cell is learnt from.
Since cells and texts live in the embedder's space, it can also be asked zero-shot.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from okrcell.corpus.genes import gene_symbols
from okrcell.evaluate.baselines import log_normalised
from okrcell.evaluate.data import EvalData
from okrcell.evaluate.guards import check_embedding
from okrcell.evaluate.methods import MethodOutput, Vectors, as_float32, unit

if TYPE_CHECKING:
    from okrcell.corpus.shards import CellMatrix

__all__ = ["genept"]


def genept(data: EvalData, seed: int, embedder: str = "minilm") -> MethodOutput:
    """Return unit vectors: log-normalised expression times the unit vectors of the gene symbols.

    Genes that no cell of the data expresses are left out.
    """
    totals = np.asarray(data.matrix.matrix.sum(axis=0)).ravel()
    columns = np.flatnonzero(totals > 0)
    ids = tuple(data.matrix.gene_ids[column] for column in columns)

    def encode(cells: CellMatrix) -> Vectors:
        weights = log_normalised(cells)[:, columns].astype(np.float32)
        return unit(as_float32(weights @ _gene_vectors(ids, embedder)))

    vectors = encode(data.matrix)
    check_embedding(vectors, data.cell_uids, "genept")
    return MethodOutput(
        "genept",
        vectors,
        f"mean of frozen text embeddings of {len(ids)} gene symbols, weighted by log-normalised "
        "expression; nothing is fitted",
        lambda texts: _text_vectors(texts, embedder),
        encode_cells=encode,
    )


_kept: dict[tuple[str, str], Vectors] = {}


def _text_vectors(texts: list[str], embedder: str) -> Vectors:
    """Return rows [n, D]; a text is encoded once per process, since all data share candidates."""
    from okrcell.corpus.embedder import load_embedder

    new = list(dict.fromkeys(text for text in texts if (embedder, text) not in _kept))
    if new:
        rows = as_float32(load_embedder(embedder).encode(new))
        _kept.update(((embedder, text), row) for text, row in zip(new, rows, strict=True))
    return np.stack([_kept[embedder, text] for text in texts])


@lru_cache(maxsize=4)
def _gene_vectors(gene_ids: tuple[str, ...], embedder: str) -> Vectors:
    """Return unit rows [G, D]; about 25 MB for 17,000 genes."""
    from okrcell.corpus.embedder import load_embedder

    return as_float32(load_embedder(embedder).encode(gene_symbols(gene_ids)))
