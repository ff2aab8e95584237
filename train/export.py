"""What a run knows of each training pair, for curators and for the measurement of planted noise."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from okrcell.train.data import Pairs

__all__ = ["PAIRS", "pair_table"]

PAIRS = "pairs.parquet"


def pair_table(
    pairs: Pairs, reliability: torch.Tensor | None, texts: torch.Tensor | None
) -> pa.Table:
    """Return the table ``pairs``: one row per training pair, in their order.

    ``suggested`` is the cell type of the text that fits best, ``planted`` says that noise was planted
    in this pair.

    Parameters
    ----------
    reliability, texts
        What the objective says of all pairs, null in the table where it says nothing.
    """
    n = len(pairs)
    return pa.table(
        {
            "cell_uid": pairs.cell_uids,
            "cell_type": pa.array(np.array(pairs.cell_types, dtype=object)[pairs.cell_type]),
            "planted": ~pairs.clean,
            "reliability": _floats(reliability, n),
            "suggested": _types(pairs, texts, n),
        }
    )


def _floats(values: torch.Tensor | None, n: int) -> pa.Array:
    if values is None:
        return pa.nulls(n, pa.float64())
    return pa.array(values.double().cpu().numpy())


def _types(pairs: Pairs, texts: torch.Tensor | None, n: int) -> pa.Array:
    if texts is None:
        return pa.nulls(n, pa.string())
    # The cell type that most cells with this text have: with planted noise some have another's.
    counts = np.zeros((len(pairs.texts), len(pairs.cell_types)), dtype=np.int64)
    np.add.at(counts, (pairs.text, pairs.cell_type), 1)
    names = np.array(pairs.cell_types, dtype=object)[counts.argmax(axis=1)]
    return pa.array(names[texts.cpu().numpy()].tolist())
