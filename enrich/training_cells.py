"""Which training cells a subject has, and which others they are compared with; no values are read."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from okrcell.corpus.ontology import of_store
from okrcell.corpus.profiles import load_cells, load_profiles
from okrcell.enrich.profile_text import known_label

__all__ = ["LEAST_KINDS", "LEAST_OTHER", "Kind", "Positions", "Scene", "TrainingCells"]

LEAST_OTHER, LEAST_KINDS = 10, 2
"""Cells from which another cell type counts, and such types from which a comparison is made."""

_CONTEXT = ("disease", "development_stage", "sex")

Kind = tuple[str, str]
"""Term id ("" without one) and label of a cell type."""
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, order=True)
class Scene:
    """Cells that are compared: of one dataset and tissue, and of one context or of any, ``()``.

    The context is disease, development stage and sex; "" stands for unknown.
    """

    dataset_id: str
    tissue: str
    context: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Place:
    """What a profile says of where its cells stand."""

    kind: Kind
    tissue: str
    context: tuple[str, ...]

    @classmethod
    def of(cls, profile: dict[str, Any]) -> _Place:
        term_id = str(profile.get("cell_type_ontology_term_id") or "")
        return cls(
            (term_id, known_label(profile, "cell_type")),
            known_label(profile, "tissue"),
            tuple(known_label(profile, field) for field in _CONTEXT),
        )


class TrainingCells:
    """The cells of the split ``train`` of a store.

    Attributes
    ----------
    rows
        int64 [N]: the row of each cell in its dataset.
    """

    def __init__(self, store: Path) -> None:
        table = load_cells(store)
        table = table.filter(pc.equal(table["split"], "train"))
        self.rows: Positions = table["row"].to_numpy().astype(np.int64)
        self._uids = table["cell_uid"]
        self._place = {
            row["profile_id"]: _Place.of(row) for row in load_profiles(store).to_pylist()
        }
        self._members: dict[str, dict[str, Positions]] = defaultdict(dict)
        self._kinds: dict[Scene, dict[Kind, list[Positions]]] = defaultdict(dict)
        datasets, profiles = (
            table[name].combine_chunks().dictionary_encode()
            for name in ("dataset_id", "profile_id")
        )
        codes = np.stack(
            [part.indices.to_numpy().astype(np.int64) for part in (datasets, profiles)]
        )
        order = np.lexsort(codes[::-1])
        pairs, starts = np.unique(codes[:, order], axis=1, return_index=True)
        for (dataset, profile), at in zip(
            pairs.T.tolist(), np.split(order, starts[1:]), strict=bool(len(order))
        ):
            self._add(
                datasets.dictionary[dataset].as_py(), profiles.dictionary[profile].as_py(), at
            )
        self._ancestors = cache(of_store(store, "cl").ancestors)

    def _add(self, dataset_id: str, profile_id: str, at: Positions) -> None:
        place = self._place[profile_id]
        self._members[profile_id][dataset_id] = at
        if place.kind[1]:  # cells of an unknown type may be of any, so they stand beside none
            for context in ((), place.context):
                scene = Scene(dataset_id, place.tissue, context)
                self._kinds[scene].setdefault(place.kind, []).append(at)

    def scene(self, profile_ids: Sequence[str]) -> Scene | None:
        """Return where a subject's cells are compared.

        It is the dataset and tissue with most of them (the first by name of equal ones), and only
        cells of the same context if enough other types have some. None without cells.
        """
        counts: Counter[tuple[str, str]] = Counter()
        for profile_id in profile_ids:
            for dataset_id, at in self._members.get(profile_id, {}).items():
                counts[dataset_id, self._place[profile_id].tissue] += len(at)
        if not counts:
            return None
        dataset_id, tissue = min(counts, key=lambda key: (-counts[key], key))
        here = [self._place[p] for p in profile_ids if dataset_id in self._members.get(p, {})]
        here = [place for place in here if place.tissue == tissue]
        wide, narrow = Scene(dataset_id, tissue), Scene(dataset_id, tissue, here[0].context)
        if len({place.context for place in here}) > 1 or self._n(narrow) == self._n(wide):
            return wide
        return narrow if len(self.others(narrow, here[0].kind)) >= LEAST_KINDS else wide

    def _n(self, scene: Scene) -> int:
        return sum(len(at) for parts in self._kinds.get(scene, {}).values() for at in parts)

    def kind(self, profile_ids: Sequence[str]) -> Kind:
        """Return the cell type of a subject that has cells."""
        return next(self._place[p].kind for p in profile_ids if p in self._members)

    def kinds(self, scene: Scene) -> dict[Kind, Positions]:
        """Return the cells of each known cell type of a scene."""
        found = self._kinds.get(scene, {})
        return {kind: np.concatenate(found[kind]) for kind in sorted(found)}

    def others(self, scene: Scene, own: Kind) -> list[Kind]:
        """Return the other cell types of a scene: with enough cells, and no kind of one's own."""
        return [
            kind
            for kind, parts in sorted(self._kinds.get(scene, {}).items())
            if sum(map(len, parts)) >= LEAST_OTHER and not self._related(own, kind)
        ]

    def _related(self, one: Kind, other: Kind) -> bool:
        """Whether two cell types are the same, or one is a kind of the other."""
        if one[1].casefold() == other[1].casefold() or (one[0] and one[0] == other[0]):
            return True
        return other[0] in self._ancestors(one[0]) or one[0] in self._ancestors(other[0])

    def own(self, scene: Scene, profile_ids: Iterable[str]) -> Positions:
        """Return the cells of a subject in the dataset and tissue of a scene."""
        parts = [
            self._members[profile_id][scene.dataset_id]
            for profile_id in sorted(set(profile_ids) & self._members.keys())
            if scene.dataset_id in self._members[profile_id]
            and self._place[profile_id].tissue == scene.tissue
        ]
        return np.concatenate(parts)

    def uids(self, positions: Positions) -> list[str]:
        """Return the ids of cells."""
        found: list[str] = self._uids.take(positions).to_pylist()
        return found

    def sample(self, positions: Positions, n: int, seed: int) -> Positions:
        """Return at most ``n`` cells, ascending; which ones, their ids and the seed decide."""
        if len(positions) <= n:
            return np.sort(positions)
        drawn = sorted(
            (hashlib.sha256(f"{seed}|{uid}".encode()).digest(), uid, position)
            for uid, position in zip(self.uids(positions), positions.tolist(), strict=True)
        )
        return np.sort(np.array([position for _, _, position in drawn[:n]], dtype=np.int64))
