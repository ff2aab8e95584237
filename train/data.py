"""Training pairs: cells of one split joined with the text of their profile.

Everything per cell is an array, so that tens of millions of cells take tens of bytes each: the
table ``cells`` is read in pieces, and of its strings only the ids are kept, in Arrow memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from okrcell.artifacts import read_manifest
from okrcell.corpus.cells import cells_fingerprint, load_profiles
from okrcell.corpus.contents import content_hashes
from okrcell.corpus.shards import CellMatrix, load_matrix
from okrcell.corpus.type_texts import type_text
from okrcell.errors import TrainingError
from okrcell.schemas import read_table
from okrcell.train.tokens import column_tokens

__all__ = ["SEEN", "Kind", "Pairs", "Texts", "load_pairs", "load_texts", "seen_cells"]

SEEN = "seen_cells.parquet"

_Ints = npt.NDArray[np.int64]
_COLUMNS = ["cell_uid", "dataset_id", "row", "profile_id", "donor", "split"]
_ROWS = 1 << 16
_NO_DONOR = frozenset({"", "unknown", "na", "nan", "none", "n/a", "pooled"})  # as in corpus/splits


class Kind(NamedTuple):
    """What cell type a text is of: its standardised label, and its Cell Ontology id or ``""``."""

    label: str
    term_id: str


@dataclass(frozen=True)
class Pairs:
    """All pairs of one split.

    Attributes
    ----------
    cell_uids
        Stable id of each of the n pairs; :meth:`uids` gives some of them as strings.
    dataset, row
        int64 [n]: index into ``matrices``, and the row there.
    text
        int64 [n]: index into ``texts``.
    texts
        Distinct texts, sorted.
    prior
        float32 [n]: reliability of each pair's text in [0, 1], 1 where nobody rated it.
    cell_type
        int64 [n]: index into ``cell_types``, the standardised labels; -1 for a type that the
        training pairs do not have.
    donor
        int64 [n]: index into ``donors`` (a name is one donor in all datasets, as in the corpus
        stage); -1 where the donor is unknown.
    clean
        bool [n]: False where the pair was made wrong on purpose.
    n_without_text
        Cells of the split that are left out, because their profile has no text (or none of the
        training texts).
    matrices, columns
        Per dataset the cells, and the token of each of their columns (int64, -1 outside the
        vocabulary). Datasets without a cell among the pairs are not there.
    vocabulary
        Sorted Ensembl ids.
    variable
        int64 [H]: genes that the tower ``mlp`` reads, as indices into the vocabulary; None until
        :func:`okrcell.train.variable.with_variable` has chosen them.
    kinds, text_kind
        The cell types that the texts are of, and int64 [n_texts], index into them: texts of one Cell
        Ontology term are of one kind. Known of the text, by its profile: planting noise does not
        change it. Without them every text is a kind of its own.
    """

    cell_uids: pa.ChunkedArray
    dataset: _Ints
    row: _Ints
    text: _Ints
    texts: tuple[str, ...]
    prior: npt.NDArray[np.float32]
    cell_type: _Ints
    cell_types: tuple[str, ...]
    donor: _Ints
    donors: tuple[str, ...]
    clean: npt.NDArray[np.bool_]
    n_without_text: int
    matrices: tuple[CellMatrix, ...]
    columns: tuple[_Ints, ...]
    vocabulary: tuple[str, ...]
    variable: _Ints | None = None
    kinds: tuple[Kind, ...] = ()
    text_kind: _Ints | None = None

    def __len__(self) -> int:
        return len(self.row)

    @property
    def variable_ids(self) -> list[str]:
        """Ensembl ids of the variable genes; empty until they are chosen."""
        return [] if self.variable is None else [self.vocabulary[at] for at in self.variable]

    def uids(self, index: _Ints) -> list[str]:
        """Return the ids of some pairs."""
        found: list[str] = self.cell_uids.take(pa.array(index)).to_pylist()
        return found


@dataclass(frozen=True)
class Texts:
    """The text of each profile that has one.

    Attributes
    ----------
    by_profile
        Profile id to text.
    reliability
        Profile id to the reliability of its text in [0, 1]; empty for texts that nobody rated.
    inputs
        Fingerprints of what was read.
    """

    by_profile: dict[str, str]
    reliability: dict[str, float]
    inputs: dict[str, str]


def load_texts(store: Path, job: Path, source: str) -> Texts:
    """Return the text per profile.

    ``description`` takes the accepted descriptions of an enrichment job, ``label`` the bare cell type,
    ``term`` what the Cell Ontology says of it (:func:`okrcell.corpus.type_texts.type_text`).
    """
    inputs = {"cells": cells_fingerprint(store)}
    if source != "description":
        rows = load_profiles(store).to_pylist()
        if source == "label":
            return Texts({row["profile_id"]: row["cell_type"] for row in rows}, {}, inputs)
        terms = {
            row["profile_id"]: type_text(row["cell_type"], row["cell_type_ontology_term_id"] or "")
            for row in rows
        }
        return Texts(terms, {}, inputs)
    manifest = read_manifest(Path(job), "job")
    inputs["descriptions"] = manifest.fingerprint
    columns = ["profile_id", "status", "text", "reliability"]
    table = read_table(Path(job) / "descriptions.parquet", "descriptions", columns)
    rows = [row for row in table.to_pylist() if row["status"] == "accepted"]
    return Texts(
        {row["profile_id"]: row["text"] for row in rows},
        {row["profile_id"]: row["reliability"] for row in rows},
        inputs,
    )


def load_pairs(
    store: Path, found: Texts, split: str = "train", *, like: Pairs | None = None
) -> Pairs:
    """Join the cells of a split with texts; cells of profiles without a text are left out.

    Parameters
    ----------
    like
        Training pairs: their vocabulary, texts, cell types and variable genes are used, cells of
        any other text are left out, and it is no error if none is left.

    Raises
    ------
    TrainingError
        No pair is left (without ``like``).
    GeneCoverageError
        A dataset has no gene of the vocabulary of ``like``.
    """
    columns_read = ["profile_id", "cell_type", "cell_type_ontology_term_id"]
    profiles = load_profiles(store).select(columns_read).to_pylist()
    labels = {row["profile_id"]: row["cell_type"] for row in profiles}
    usable = set(found.by_profile.values() if like is None else like.texts)
    ids = sorted(p for p in labels if found.by_profile.get(p) in usable)
    cells = _read_cells(Path(store), ids, split)
    if not len(cells.row) and like is None:
        raise TrainingError(
            store,
            found=f"no cell of split '{split}' with a text",
            expected="cells whose profile has an accepted description",
            fix="Check 'okrcell enrich status' for rejected descriptions and the splits of the store.",
        )
    matrices = tuple(load_matrix(store, dataset) for dataset in cells.datasets)
    if like is None:
        used = [ids[at] for at in np.unique(cells.profile)]
        texts = tuple(sorted({found.by_profile[p] for p in used}))
        cell_types = tuple(sorted({labels[p] for p in used}))
        vocabulary = tuple(sorted({gene for matrix in matrices for gene in matrix.gene_ids}))
    else:
        texts, cell_types, vocabulary = like.texts, like.cell_types, like.vocabulary
    kinds, text_kind = (
        _kinds(profiles, found, texts) if like is None else (like.kinds, like.text_kind)
    )
    index = {gene: at for at, gene in enumerate(vocabulary)}
    columns = (
        column_tokens(m.gene_ids, index, d) for d, m in zip(cells.datasets, matrices, strict=True)
    )
    text_at = {text: at for at, text in enumerate(texts)}
    type_at = {label: at for at, label in enumerate(cell_types)}
    # What a profile has, spread over its cells; ids that no kept cell has are never looked up.
    text = np.array([text_at.get(found.by_profile[p], -1) for p in ids], dtype=np.int64)
    cell_type = np.array([type_at.get(labels[p], -1) for p in ids], dtype=np.int64)
    prior = np.array([found.reliability.get(p, 1.0) for p in ids], dtype=np.float32)
    return Pairs(
        cell_uids=cells.uids,
        dataset=cells.dataset,
        row=cells.row,
        text=text[cells.profile],
        texts=texts,
        prior=prior[cells.profile],
        cell_type=cell_type[cells.profile],
        cell_types=cell_types,
        donor=cells.donor,
        donors=cells.donors,
        clean=np.ones(len(cells.row), dtype=bool),
        n_without_text=cells.n_left_out,
        matrices=matrices,
        columns=tuple(columns),
        vocabulary=vocabulary,
        variable=None if like is None else like.variable,
        kinds=kinds,
        text_kind=text_kind,
    )


def _kinds(
    profiles: list[dict[str, str | None]], found: Texts, texts: tuple[str, ...]
) -> tuple[tuple[Kind, ...], _Ints]:
    """Return the kinds of some texts, sorted, and int64 [n_texts], the kind of each."""
    by_text: dict[str, Kind] = {}
    labels: dict[str, str] = {}  # of each term, that of its first text
    for row in sorted(profiles, key=lambda row: str(row["profile_id"])):
        text = found.by_profile.get(str(row["profile_id"]))
        if text is not None and text not in by_text:
            label, term = row["cell_type"] or "", row["cell_type_ontology_term_id"] or ""
            by_text[text] = Kind(labels.setdefault(term, label) if term else label, term)
    kinds = tuple(sorted({by_text[text] for text in texts}))
    number = {kind: at for at, kind in enumerate(kinds)}
    return kinds, np.array([number[by_text[text]] for text in texts], dtype=np.int64)


@dataclass(frozen=True)
class _Cells:
    """Cells of a split whose profile is wanted, in the order of the table ``cells``."""

    uids: pa.ChunkedArray
    dataset: _Ints
    datasets: tuple[str, ...]
    row: _Ints
    profile: _Ints
    donor: _Ints
    donors: tuple[str, ...]
    n_left_out: int


def _read_cells(store: Path, profile_ids: list[str], split: str) -> _Cells:
    wanted = pa.array(profile_ids, pa.string())
    uids: list[pa.Array] = []
    parts: dict[str, list[_Ints]] = {name: [] for name in ("dataset", "row", "profile", "donor")}
    datasets: dict[str, int] = {}
    donors: dict[str, int] = {}
    n_left_out = 0
    for batch in _cell_batches(store):
        batch = batch.filter(pc.equal(batch["split"], split))
        with_text = batch.filter(pc.is_in(batch["profile_id"], value_set=wanted))
        n_left_out += batch.num_rows - with_text.num_rows
        uids.append(with_text["cell_uid"])
        parts["row"].append(with_text["row"].to_numpy().astype(np.int64))
        parts["profile"].append(
            pc.index_in(with_text["profile_id"], value_set=wanted).to_numpy().astype(np.int64)
        )
        parts["dataset"].append(_numbered(with_text["dataset_id"], datasets))
        parts["donor"].append(_numbered(with_text["donor"], donors))
    joined = {name: np.concatenate([np.zeros(0, dtype=np.int64), *p]) for name, p in parts.items()}
    return _Cells(
        uids=pa.chunked_array(uids, pa.string()),
        dataset=_ranks(datasets)[joined["dataset"]],
        datasets=tuple(sorted(datasets)),
        row=joined["row"],
        profile=joined["profile"],
        donor=_ranks(donors)[joined["donor"]],
        donors=tuple(sorted(donors)),
        n_left_out=n_left_out,
    )


def _cell_batches(store: Path) -> Iterator[pa.RecordBatch]:
    """Yield the table ``cells`` in pieces, with the columns that are needed."""
    folder = store / "cells"
    read_manifest(folder, "cells", verify=False)
    path = folder / "cells.parquet"
    read_table(path, "cells", [])  # refuses another kind or version
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(_ROWS, columns=_COLUMNS)


def _numbered(values: pa.Array, numbers: dict[str, int]) -> _Ints:
    """Return int64 [n]: the number of each value, new ones numbered as they come; -1 if unknown."""
    coded = values.dictionary_encode()
    known = [
        -1 if name.casefold() in _NO_DONOR else numbers.setdefault(name, len(numbers))
        for name in coded.dictionary.to_pylist()
    ]
    table = np.array([*known, -1], dtype=np.int64)
    found: _Ints = table[pc.fill_null(coded.indices, -1).to_numpy()]
    return found


def _ranks(numbers: dict[str, int]) -> _Ints:
    """Return int64 [n + 1]: from the number of a name to its place among the sorted; -1 stays."""
    table = np.full(len(numbers) + 1, -1, dtype=np.int64)
    table[[numbers[name] for name in sorted(numbers)]] = np.arange(len(numbers))
    return table


def seen_cells(pairs: Pairs) -> pa.Table:
    """Return the table ``seen_cells``: id, content and detected genes of every cell of the pairs.

    With it an evaluation on other data can tell whether the model has been trained on a test cell.
    """
    columns: dict[str, list[pa.Array]] = {"content": [], "pattern": []}
    for begin in range(0, len(pairs), _ROWS):
        dataset, row = (values[begin : begin + _ROWS] for values in (pairs.dataset, pairs.row))
        for name, chunks in columns.items():
            block = np.full(len(row), "", dtype=object)
            for number in np.unique(dataset):
                at = np.flatnonzero(dataset == number)
                block[at] = content_hashes(
                    pairs.matrices[number], row[at], only_pattern=name == "pattern"
                )
            chunks.append(pa.array(block, pa.string()))
    hashes = {name: pa.chunked_array(chunks, pa.string()) for name, chunks in columns.items()}
    return pa.table({"cell_uid": pairs.cell_uids, **hashes})
