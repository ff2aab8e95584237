"""Train, validation and test split, decided once, by donor where there are donors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
import numpy.typing as npt

from okrcell.corpus.config import CorpusConfig
from okrcell.corpus.metadata import Labels
from okrcell.schemas import SPLITS

__all__ = ["assign_splits", "split_codes"]

_NO_DONOR = frozenset({"", "unknown", "na", "nan", "none", "n/a", "pooled"})
_TRAIN, _TEST = SPLITS.index("train"), SPLITS.index("test")


def assign_splits(
    obs: Mapping[str, Sequence[str]],
    obs_names: Sequence[str],
    dataset_id: str,
    config: CorpusConfig,
    *,
    held: Set[str] = frozenset(),
    donors: Mapping[str, str] | None = None,
) -> tuple[list[str], str]:
    """Assign every cell to a split; see :func:`split_codes`, which does the same on codes."""
    donor, cell_type = (_labels(obs[field]) for field in ("donor", "cell_type"))
    codes, rule = split_codes(
        donor, cell_type, obs_names, dataset_id, config, held=held, donors=donors
    )
    return [SPLITS[code] for code in codes.tolist()], rule


def split_codes(
    donor: Labels,
    cell_type: Labels,
    obs_names: Any,
    dataset_id: str,
    config: CorpusConfig,
    *,
    held: Set[str] = frozenset(),
    donors: Mapping[str, str] | None = None,
) -> tuple[npt.NDArray[np.int8], str]:
    """Assign every cell to a split by a hash of its donor, or of the cell where there is none.

    The order of cells in the file does not matter. A donor that another dataset of the store has
    keeps its split. Cells without a donor, in a file that names donors, are trained on: they may be
    anybody's. Held-out cell types go to ``test`` whole.

    Parameters
    ----------
    held
        Labels of cell types that are held out.
    donors
        Splits of donors that are known already.

    Returns
    -------
    codes
        int8 [N]: index into ``schemas.SPLITS``.
    rule
        One sentence on how it was done, for the manifest and the report.
    """
    known = donors or {}
    named = {name for name in donor.names if name.casefold() not in _NO_DONOR}
    seen = named & set(known)
    if len(named) >= len(SPLITS) or seen:
        fresh = sorted(named - seen)
        split_of = dict(zip(fresh, _share_out(fresh, "", config).tolist(), strict=True))
        split_of |= {name: SPLITS.index(known[name]) for name in seen}
        by_label = [split_of.get(name, _TRAIN) for name in donor.names]
        codes = np.array(by_label, dtype=np.int8)[donor.codes]
        rule = f"by donor ({len(named)} donors)"
        if seen:
            rule += f"; {len(seen)} keep the split they have in other datasets"
        nameless = sum(n for name, n in donor.counts.items() if name not in named)
        if nameless:
            rule += f"; {nameless} cells name no donor and are trained on"
    else:
        codes = np.zeros(len(cell_type), dtype=np.int8)
        order = np.argsort(cell_type.codes, kind="stable")
        bounds = np.searchsorted(cell_type.codes[order], np.arange(len(cell_type.names) + 1))
        names = np.asarray(obs_names, dtype=object)
        for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
            rows = order[begin:end]
            codes[rows] = _share_out(names[rows].tolist(), f"{dataset_id}|", config)
        rule = "by cell within cell type, because the file names fewer than three donors"
    is_held = np.array([name in held for name in cell_type.names])
    codes[is_held[cell_type.codes]] = _TEST
    if held:
        rule += f"; held out whole: {', '.join(sorted(held))}"
    return codes, rule


def _labels(values: Sequence[str]) -> Labels:
    names, codes = np.unique(np.asarray(values, dtype=object).astype(str), return_inverse=True)
    return Labels(codes.astype(np.int32), tuple(str(name) for name in names))


def _share_out(names: Sequence[str], salt: str, config: CorpusConfig) -> npt.NDArray[np.int8]:
    """Deal names out in the order of their hashes, in the shares asked for; return codes [N].

    The first 64 bits of a hash stand for it: names that agree in them are too rare to meet.
    """
    salted = f"{config.seed}|{salt}"
    hashes = np.fromiter(
        (_first_bits(f"{salted}{name}") for name in names), dtype=np.uint64, count=len(names)
    )
    train, validation, _ = config.split_fractions
    first = max(1, round(train * len(names)))
    second = max(first, round((train + validation) * len(names)))
    dealt = np.full(len(names), _TEST, dtype=np.int8)
    order = np.argsort(hashes, kind="stable")
    dealt[order[:second]] = SPLITS.index("validation")
    dealt[order[:first]] = _TRAIN
    return dealt


def _first_bits(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
