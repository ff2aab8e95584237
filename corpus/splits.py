"""Train, validation and test split, decided once, by donor where there are donors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from okrcell.corpus.config import CorpusConfig
from okrcell.schemas import SPLITS

__all__ = ["assign_splits"]


def assign_splits(
    obs: Mapping[str, Sequence[str]],
    obs_names: Sequence[str],
    dataset_id: str,
    config: CorpusConfig,
) -> tuple[list[str], str]:
    """Assign every cell to a split by a hash of its donor, or of the cell where there is none.

    The order of cells in the file does not matter. Held-out cell types go to ``test`` whole.

    Returns
    -------
    splits
        One of ``train``, ``validation``, ``test`` per cell.
    rule
        One sentence on how it was done, for the manifest and the report.
    """
    donors = obs["donor"]
    by_donor = all(donors) and len(set(donors)) >= len(SPLITS)
    if by_donor:
        split_of = _share_out(sorted(set(donors)), dataset_id, config)
        splits = [split_of[donor] for donor in donors]
        rule = f"by donor ({len(set(donors))} donors)"
    else:
        splits = [""] * len(obs_names)
        for label in sorted(set(obs["cell_type"])):
            names = [n for n, t in zip(obs_names, obs["cell_type"], strict=True) if t == label]
            split_of = _share_out(names, dataset_id, config)
            for row, name in enumerate(obs_names):
                if obs["cell_type"][row] == label:
                    splits[row] = split_of[name]
        rule = "by cell within cell type, because the file names fewer than three donors"
    for row, label in enumerate(obs["cell_type"]):
        if label in config.hold_out:
            splits[row] = "test"
    if config.hold_out:
        rule += f"; held out whole: {', '.join(config.hold_out)}"
    return splits, rule


def _share_out(names: Sequence[str], dataset_id: str, config: CorpusConfig) -> dict[str, str]:
    """Deal names out in the order of their hashes, in the shares asked for."""
    order = sorted(
        names, key=lambda n: hashlib.sha256(f"{config.seed}|{dataset_id}|{n}".encode()).digest()
    )
    train, validation, _ = config.split_fractions
    first = max(1, round(train * len(order)))
    second = max(first, round((train + validation) * len(order)))
    return {
        name: SPLITS[0] if rank < first else SPLITS[1] if rank < second else SPLITS[2]
        for rank, name in enumerate(order)
    }
