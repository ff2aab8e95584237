"""What is evaluated: labelled cells with splits, their texts, and the guards against leakage."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from okrcell.artifacts import read_manifest
from okrcell.errors import DataError, LabelError, LabelLeakError
from okrcell.schemas import read_table

if TYPE_CHECKING:
    from okrcell.corpus.shards import CellMatrix

__all__ = ["EvalData", "Strings", "check_embedding", "check_leakage", "load_eval_data"]

Strings = NDArray[np.str_]

_MIN_DETECTED = 10
_NAMED = 3
_UNLABELLED = frozenset({"", "unknown", "na", "nan"})


@dataclass(frozen=True)
class EvalData:
    """Labelled cells of the train and test splits; rows of all arrays correspond.

    Attributes
    ----------
    dataset
        Name or names of the dataset.
    matrix
        Expression, float32 [N, G].
    cell_uids, labels, batches, donors, splits, profile_ids
        Strings [N]; ``labels`` are cell type names; ``splits`` holds ``train`` and ``test``.
    term_ids
        Cell type label to Cell Ontology id, empty where it has none.
    descriptions
        Profile id to the text that stands for it.
    validation_types
        Types with cells in the validation split, which itself is left out.
    notes
        What a reader must know about these data, one sentence each.
    sha256
        Identity of cells and texts.
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
    validation_types: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    sha256: str = ""

    @property
    def types(self) -> tuple[str, ...]:
        """All cell types, sorted."""
        return tuple(sorted({str(label) for label in self.labels}))

    @property
    def train(self) -> NDArray[np.intp]:
        """Row numbers of the train split."""
        return np.flatnonzero(self.splits == "train")

    @property
    def test(self) -> NDArray[np.intp]:
        """Row numbers of the test split."""
        return np.flatnonzero(self.splits == "test")

    @property
    def seen(self) -> frozenset[str]:
        """Types with cells in the train split."""
        return frozenset(str(label) for label in self.labels[self.train])

    @property
    def unseen(self) -> frozenset[str]:
        """Types with cells in the test split only: neither trained nor validated on."""
        return frozenset(self.types) - self.seen - self.validation_types

    def profiles_of(self, cell_type: str) -> tuple[str, ...]:
        """Return the profile ids of a type's cells, sorted."""
        return tuple(sorted({str(p) for p in self.profile_ids[self.labels == cell_type]}))


def load_eval_data(store: Path, job: Path) -> EvalData:
    """Read the labelled train and test cells of a store and the descriptions of a job.

    Raises
    ------
    LabelError
        Fewer than two cell types, or no cells in a split.
    DataError
        A profile has no text, datasets hold different kinds of values, or cells of the test split
        also stand in the train split.
    """
    from okrcell.corpus.cells import cells_fingerprint, load_cells, load_profiles

    profiles = {row["profile_id"]: row for row in load_profiles(store).to_pylist()}
    rows = load_cells(store).to_pylist()
    check_uids([row["cell_uid"] for row in rows], [row["split"] for row in rows], store)
    names = list(dict.fromkeys(row["dataset_id"] for row in rows))
    matrix = _stack(store, names, rows)

    def label_of(row: Mapping[str, Any]) -> str:
        return str(profiles[row["profile_id"]]["cell_type"] or "")

    labelled = [label_of(row).lower() not in _UNLABELLED for row in rows]
    keep = np.flatnonzero(
        [named and row["split"] != "validation" for named, row in zip(labelled, rows, strict=True)]
    )
    kept = [rows[i] for i in keep]
    descriptions, notes = _descriptions(job, {row["profile_id"] for row in kept})
    lost = len(rows) - sum(labelled)
    if lost:
        notes.append(f"{lost} cells without a cell type label were left out.")
    data = EvalData(
        dataset="+".join(names),
        matrix=type(matrix)(
            matrix=matrix.matrix[keep], gene_ids=matrix.gene_ids, values=matrix.values
        ),
        cell_uids=_strings(row["cell_uid"] for row in kept),
        labels=_strings(label_of(row) for row in kept),
        batches=_strings(row["batch"] or "" for row in kept),
        donors=_strings(row["donor"] or "" for row in kept),
        splits=_strings(row["split"] for row in kept),
        profile_ids=_strings(row["profile_id"] for row in kept),
        term_ids={
            str(p["cell_type"]): str(p["cell_type_ontology_term_id"] or "")
            for p in profiles.values()
        },
        descriptions=descriptions,
        validation_types=frozenset(label_of(row) for row in rows if row["split"] == "validation"),
        notes=tuple(notes),
        sha256=hashlib.sha256(
            f"{cells_fingerprint(store)}:{read_manifest(job, 'job').fingerprint}".encode()
        ).hexdigest(),
    )
    check_types(data, store)
    check_leakage(data, store)
    check_expression(job, [row["cell_uid"] for row in rows if row["split"] == "test"])
    return data


def _strings(values: Any) -> Strings:
    return np.asarray([str(value) for value in values], dtype=np.str_)


def _stack(store: Path, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> CellMatrix:
    """Put the datasets under each other, in the order of ``rows``, on the union of their genes."""
    from scipy import sparse

    from okrcell.corpus.shards import load_matrix

    parts = {name: load_matrix(store, name) for name in names}
    kinds = sorted({str(part.values) for part in parts.values()})
    if len(kinds) > 1:
        raise DataError(
            store,
            found=f"datasets with different values ({', '.join(kinds)})",
            expected="one kind of values",
            fix="Import all datasets as counts, or evaluate them from separate stores.",
        )
    genes = tuple(sorted({gene for part in parts.values() for gene in part.gene_ids}))
    if len(parts) == 1:
        genes = next(iter(parts.values())).gene_ids
    column = {gene: i for i, gene in enumerate(genes)}
    blocks, where = [], {}
    for name, part in parts.items():
        coo = part.matrix.tocoo()
        moved = np.asarray([column[gene] for gene in part.gene_ids])[coo.col]
        blocks.append(
            sparse.csr_matrix((coo.data, (coo.row, moved)), (part.matrix.shape[0], len(genes)))
        )
        where[name] = sum(block.shape[0] for block in blocks[:-1])
    seen: dict[str, int] = dict.fromkeys(names, 0)
    order = []
    for row in rows:  # rows of one dataset come in the order of its matrix
        name = row["dataset_id"]
        order.append(where[name] + seen[name])
        seen[name] += 1
    stacked = sparse.vstack(blocks, format="csr", dtype=np.float32)[order]
    stacked.sort_indices()
    first = next(iter(parts.values()))
    return type(first)(matrix=stacked, gene_ids=genes, values=first.values)


def _descriptions(job: Path, wanted: set[str]) -> tuple[dict[str, str], list[str]]:
    columns = ["profile_id", "status", "text", "original_text", "leaked_names"]
    table = read_table(job / "descriptions.parquet", "descriptions", columns).to_pylist()
    texts: dict[str, str] = {}
    rejected, leaking = 0, 0
    for row in table:
        if row["profile_id"] not in wanted:
            continue
        good = row["status"] == "accepted" and bool(row["text"])
        rejected += not good
        leaking += good and bool(row["leaked_names"])
        texts[row["profile_id"]] = str(row["text"] if good else row["original_text"] or "")
    missing = sorted(profile for profile in wanted if not texts.get(profile))
    if missing:
        raise DataError(
            job,
            found=f"{len(missing)} profiles without a text ({', '.join(missing[:_NAMED])})",
            expected="a description for every profile of the store",
            fix="Run `okrcell enrich plan` and `okrcell enrich run` on this store.",
        )
    notes = []
    if rejected:
        notes.append(
            f"{rejected} of {len(texts)} profiles have no accepted description; "
            "their plain metadata sentence stands in for it."
        )
    if leaking:
        notes.append(
            f"{leaking} of {len(texts)} descriptions contain a name of the cell type they describe, "
            "so zero-shot annotation here is matching to texts that name the answer."
        )
    if read_table(job / "expression_cells.parquet", "expression_cells").num_rows:
        notes.append(
            "Descriptions tell what training cells express, so zero-shot annotation of types that were "
            "trained on is not label-free here; write the texts with --no-expression for that."
        )
    return texts, notes


def check_expression(job: Path, test_uids: Sequence[str]) -> None:
    """Refuse descriptions whose expression evidence comes from cells that are tested on.

    Raises
    ------
    LabelLeakError
        Some test cells fed a description.
    """
    path = job / "expression_cells.parquet"
    seen = set(read_table(path, "expression_cells")["cell_uid"].to_pylist())
    told = sorted(seen.intersection(test_uids))
    if told:
        raise LabelLeakError(
            job,
            found=f"descriptions written from the expression of {len(told)} test cells "
            f"({', '.join(told[:_NAMED])})",
            expected="descriptions that saw training cells only, or no cells",
            fix="The splits have changed since: plan and run the job again, with --no-expression for "
            "texts of zero-shot tests.",
        )


def check_types(data: EvalData, where: Path | str) -> None:
    """Refuse data in which nothing can be told apart."""
    for split in ("train", "test"):
        if not (data.splits == split).any():
            raise LabelError(
                where,
                found=f"no labelled cells in the {split} split",
                expected="labelled cells in train and test",
                fix="Import more cells, or set other split fractions.",
            )
    if len(data.types) < 2:
        raise LabelError(
            where,
            found=f"{len(data.types)} cell type ({', '.join(data.types)})",
            expected="at least two",
            fix="Import cells of more types: with one, every method is right.",
        )


def check_uids(uids: Sequence[str], splits: Sequence[str], where: Path | str) -> None:
    """Refuse a cell that is listed twice."""
    first: dict[str, str] = {}
    for uid, split in zip(uids, splits, strict=True):
        if uid in first:
            raise DataError(
                where,
                found=f"the cell {uid} twice, in splits {first[uid]} and {split}",
                expected="every cell in one split",
                fix="Import the dataset again; a cell may belong to one split only.",
            )
        first[uid] = split


def check_leakage(data: EvalData, where: Path | str) -> None:
    """Refuse a test cell whose identity or whole expression profile also stands in train.

    Cells with fewer than 10 detected genes are not compared: two of them may agree by chance.
    """
    check_uids(data.cell_uids.tolist(), data.splits.tolist(), where)
    rows = data.matrix.matrix.tocsr()
    rows.sort_indices()

    def hashes(index: NDArray[np.intp]) -> dict[bytes, str]:
        found = {}
        for i in index:
            span = slice(rows.indptr[i], rows.indptr[i + 1])
            if span.stop - span.start >= _MIN_DETECTED:
                content = rows.indices[span].tobytes() + rows.data[span].tobytes()
                digest = hashlib.blake2b(content, digest_size=16).digest()
                found[digest] = str(data.cell_uids[i])
        return found

    train, test = hashes(data.train), hashes(data.test)
    shared = sorted((test[key], train[key]) for key in test.keys() & train.keys())
    if shared:
        pairs = "; ".join(f"test {a} = train {b}" for a, b in shared[:_NAMED])
        raise DataError(
            where,
            found=f"{len(shared)} test cells with the expression of a train cell ({pairs})",
            expected="test cells that were not trained on",
            fix="Remove the duplicates, or split by donor or dataset.",
        )


def check_embedding(cells: NDArray[np.floating], uids: Strings, method: str) -> None:
    """Refuse an embedding [N, D] with values that are not finite, or in which all cells are equal."""
    broken = np.flatnonzero(~np.isfinite(cells).all(axis=1))
    if len(broken):
        named = ", ".join(str(uid) for uid in uids[broken[:_NAMED]])
        raise DataError(
            f"embedding of '{method}'",
            found=f"values that are not finite in {len(broken)} cells ({named})",
            expected="finite values",
            fix="Train the model again: its weights or these cells are damaged.",
        )
    if len(cells) > 1 and float(np.ptp(cells, axis=0).max()) < 1e-7:
        named = ", ".join(str(uid) for uid in uids[:_NAMED])
        raise DataError(
            f"embedding of '{method}'",
            found=f"the same vector for all {len(cells)} cells ({named}, ...)",
            expected="cells that differ",
            fix="The model has collapsed: train it longer, or with a lower learning rate.",
        )
