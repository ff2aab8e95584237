"""Train, validation and test split, decided once, by donor where there are donors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence, Set

from okrcell.corpus.config import CorpusConfig
from okrcell.schemas import SPLITS

__all__ = ["assign_splits"]


def assign_splits(
    obs: Mapping[str, Sequence[str]],
    obs_names: Sequence[str],
    dataset_id: str,
    config: CorpusConfig,
    *,
    held: Set[str] = frozenset(),
    donors: Mapping[str, str] | None = None,
) -> tuple[list[str], str]:
    """Assign every cell to a split by a hash of its donor, or of the cell where there is none.

    The order of cells in the file does not matter. A donor that another dataset of the store has
    keeps its split. Held-out cell types go to ``test`` whole.

    Parameters
    ----------
    held
        Labels that are held out.
    donors
        Splits of donors that are known already.

    Returns
    -------
    splits
        One of ``train``, ``validation``, ``test`` per cell.
    rule
        One sentence on how it was done, for the manifest and the report.
    """
    known = donors or {}
    found = set(obs["donor"])
    if all(obs["donor"]) and (len(found) >= len(SPLITS) or found & set(known)):
        split_of = {**_share_out(sorted(found - set(known)), "", config), **known}
        splits = [split_of[donor] for donor in obs["donor"]]
        rule = f"by donor ({len(found)} donors)"
    else:
        splits = [""] * len(obs_names)
        for label in sorted(set(obs["cell_type"])):
            rows = [row for row, name in enumerate(obs["cell_type"]) if name == label]
            split_of = _share_out([obs_names[row] for row in rows], f"{dataset_id}|", config)
            for row in rows:
                splits[row] = split_of[obs_names[row]]
        rule = "by cell within cell type, because the file names fewer than three donors"
    for row, label in enumerate(obs["cell_type"]):
        if label in held:
            splits[row] = "test"
    if held:
        rule += f"; held out whole: {', '.join(sorted(held))}"
    return splits, rule


def _share_out(names: Sequence[str], salt: str, config: CorpusConfig) -> dict[str, str]:
    """Deal names out in the order of their hashes, in the shares asked for."""
    order = sorted(
        names, key=lambda n: hashlib.sha256(f"{config.seed}|{salt}{n}".encode()).digest()
    )
    train, validation, _ = config.split_fractions
    first = max(1, round(train * len(order)))
    second = max(first, round((train + validation) * len(order)))
    return {
        name: SPLITS[0] if rank < first else SPLITS[1] if rank < second else SPLITS[2]
        for rank, name in enumerate(order)
    }
