"""What is evaluated: labelled cells with splits, and the texts that stand for their types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from okrcell.corpus.marker_table import Marker
    from okrcell.corpus.shards import CellMatrix

__all__ = ["UNLABELLED", "EvalData", "Strings", "TextKind"]

Strings = NDArray[np.str_]
TextKind = Literal["description", "definition", "label"]

UNLABELLED = frozenset({"", "unknown", "na", "nan", "none"})
"""Labels, in lower case, that say nothing; their cells are left out."""


@dataclass(frozen=True)
class EvalData:
    """Labelled cells of one dataset under one split; rows of all arrays correspond.

    Attributes
    ----------
    dataset
        Name or names of the dataset.
    matrix
        Expression, float32 [N, G].
    cell_uids, labels, batches, donors, splits, profile_ids
        Strings [N]; ``labels`` are cell type names; ``splits`` holds ``train``, ``validation`` and
        ``test``. Batches and donors are empty where the data name none.
    term_ids
        Cell type label to Cell Ontology id, empty where it has none.
    descriptions
        Profile id to the text that stands for it.
    text_kind
        What these texts are: enriched descriptions, definitions of the Cell Ontology, bare labels.
    split
        How test cells were set apart: ``donor``, ``batch``, ``random``, ``column NAME``, or ``store``.
    tissue, candidate_roots
        Where the cells are from (a name), and Cell Ontology ids under which all terms are candidates
        of the open zero-shot question of this tissue. May be empty.
    integration
        Which cells clustering and batch correction look at: the ``test`` cells, or ``all``: right
        where no method has learnt from any of them, and needed where test cells come from one batch.
    vectors
        Embeddings that came with the cells: ``obsm`` key to float32 [N, D].
    cited
        Profile id to the marker genes that its description names, with what it cites for them, where
        the description comes with its sentences.
    notes
        What a reader must know about these data, one sentence each.
    merged
        Name of a type that stands for several to their names; see ``merge_types``.
    sha256
        Identity of cells, splits and texts.
    cells_sha256
        Fingerprint of the store's cells, which a run trained on them has too; empty for files.
    """

    dataset: str
    matrix: CellMatrix
    cell_uids: Strings
    labels: Strings
    batches: Strings
    donors: Strings
    splits: Strings
    profile_ids: Strings
    term_ids: Mapping[str, str]
    descriptions: Mapping[str, str]
    text_kind: TextKind = "description"
    split: str = "store"
    tissue: str = ""
    candidate_roots: tuple[str, ...] = ()
    integration: Literal["test", "all"] = "test"
    vectors: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    cited: Mapping[str, tuple[Marker, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    merged: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sha256: str = ""
    cells_sha256: str = ""

    @cached_property
    def types(self) -> tuple[str, ...]:
        """All cell types, sorted."""
        return tuple(sorted({str(label) for label in self.labels}))

    @cached_property
    def train(self) -> NDArray[np.intp]:
        """Row numbers of the train split."""
        return np.flatnonzero(self.splits == "train")

    @cached_property
    def validation(self) -> NDArray[np.intp]:
        """Row numbers of the validation split: the only cells on which anything may be tuned."""
        return np.flatnonzero(self.splits == "validation")

    @cached_property
    def test(self) -> NDArray[np.intp]:
        """Row numbers of the test split."""
        return np.flatnonzero(self.splits == "test")

    @cached_property
    def integrated(self) -> NDArray[np.intp]:
        """Row numbers of the cells that clustering and batch correction look at."""
        return np.arange(len(self.labels)) if self.integration == "all" else self.test

    @cached_property
    def seen(self) -> frozenset[str]:
        """Types with cells in the train split."""
        return frozenset(str(label) for label in self.labels[self.train])

    @cached_property
    def unseen(self) -> frozenset[str]:
        """Types with cells in the test split only: neither trained nor validated on."""
        tuned = frozenset(str(label) for label in self.labels[self.validation])
        return frozenset(self.types) - self.seen - tuned

    def names_of(self, cell_type: str) -> tuple[str, ...]:
        """Return the labels of the data that a type stands for: itself, but for merged ones."""
        return self.merged.get(cell_type, (cell_type,))

    def profiles_of(self, cell_type: str) -> tuple[str, ...]:
        """Return the profile ids of a type's cells, sorted."""
        return tuple(sorted({str(p) for p in self.profile_ids[self.labels == cell_type]}))
