"""What a run knows of each training pair, for curators and for the measurement of planted noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from okrcell.train.data import Pairs
from okrcell.train.objectives.base import Objective

__all__ = ["PAIRS", "pair_table"]

PAIRS = "pairs.parquet"


def pair_table(pairs: Pairs, objective: Objective) -> pa.Table:
    """Return the table ``pairs``: one row per training pair, in their order.

    Every process calls it, since the state of pairs is spread over them. ``reliability`` and
    ``suggested`` are null where the objective keeps none; ``suggested`` is the cell type of the text
    that fits best, ``planted`` says that noise was planted in this pair.
    """
    reliability, texts = objective.reliability(), objective.suggestions()
    own = [pairs.cell_types[at] for at in pairs.cell_type]
    n = len(pairs)
    return pa.table(
        {
            "cell_uid": pairs.uids(np.arange(n)),
            "cell_type": own,
            "planted": ~pairs.clean,
            "reliability": _floats(reliability, n),
            "suggested": _types(pairs, texts, n),
        }
    )


def _floats(values: Any, n: int) -> pa.Array:
    if values is None:
        return pa.nulls(n, pa.float64())
    return pa.array(values.double().cpu().numpy())


def _types(pairs: Pairs, texts: Any, n: int) -> pa.Array:
    if texts is None:
        return pa.nulls(n, pa.string())
    # The cell type that most cells with this text have: with planted noise some have another's.
    counts = np.zeros((len(pairs.texts), len(pairs.cell_types)), dtype=np.int64)
    np.add.at(counts, (pairs.text, pairs.cell_type), 1)
    names = np.array(pairs.cell_types, dtype=object)[counts.argmax(axis=1)]
    return pa.array(names[texts.cpu().numpy()].tolist())
