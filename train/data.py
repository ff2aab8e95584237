"""Training pairs: cells of the train split joined with the text of their profile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from okrcell.artifacts import read_manifest
from okrcell.corpus.cells import cells_fingerprint, load_cells, load_profiles
from okrcell.corpus.contents import content_hashes
from okrcell.corpus.shards import CellMatrix, load_matrix
from okrcell.errors import TrainingError
from okrcell.schemas import read_table
from okrcell.train.config import TrainConfig
from okrcell.train.tokens import Tokens, column_tokens, tokenise

__all__ = [
    "SEEN",
    "Batch",
    "Pairs",
    "Texts",
    "batch_order",
    "load_pairs",
    "load_texts",
    "read_batch",
    "seen_cells",
]

SEEN = "seen_cells.parquet"


@dataclass(frozen=True)
class Pairs:
    """All pairs of one split.

    Attributes
    ----------
    cell_uids
        Stable id of each of the n pairs.
    dataset, row
        int64 [n]: index into ``matrices``, and the row there.
    text
        int64 [n]: index into ``texts``.
    texts
        Distinct texts, sorted.
    prior
        float32 [n]: reliability of each pair's text in [0, 1], 1 where nobody rated it.
    n_without_text
        Cells of the split that are left out, because their profile has no text.
    matrices, columns
        Per dataset the cells, and the token of each of their columns.
    vocabulary
        Sorted Ensembl ids.
    """

    cell_uids: tuple[str, ...]
    dataset: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    text: npt.NDArray[np.int64]
    texts: tuple[str, ...]
    prior: npt.NDArray[np.float32]
    n_without_text: int
    matrices: tuple[CellMatrix, ...]
    columns: tuple[npt.NDArray[np.int64], ...]
    vocabulary: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.cell_uids)


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


@dataclass(frozen=True)
class Batch:
    """One step's pairs: tokens, and int64 [B] indices of the pairs and of their texts."""

    tokens: Tokens
    pairs: npt.NDArray[np.int64]
    text: npt.NDArray[np.int64]


def load_texts(store: Path, job: Path, source: str) -> Texts:
    """Return the text per profile.

    ``description`` takes the accepted descriptions of an enrichment job, ``label`` the bare cell type.
    """
    inputs = {"cells": cells_fingerprint(store)}
    if source == "label":
        labels = {row["profile_id"]: row["cell_type"] for row in load_profiles(store).to_pylist()}
        return Texts(labels, {}, inputs)
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


def load_pairs(store: Path, found: Texts, split: str = "train") -> Pairs:
    """Join the cells of a split with texts; cells of profiles without a text are left out.

    Raises
    ------
    TrainingError
        No pair is left.
    """
    texts, cells = found.by_profile, load_cells(store)
    datasets = sorted(set(cells["dataset_id"].to_pylist()))
    matrices = tuple(load_matrix(store, dataset) for dataset in datasets)
    vocabulary = tuple(sorted({gene for matrix in matrices for gene in matrix.gene_ids}))
    index = {gene: at for at, gene in enumerate(vocabulary)}
    columns = tuple(
        column_tokens(matrix.gene_ids, index, name)
        for name, matrix in zip(datasets, matrices, strict=True)
    )
    wanted = pa.array([p in texts for p in cells["profile_id"].to_pylist()])
    in_split = pa.array([s == split for s in cells["split"].to_pylist()])
    kept = cells.filter(wanted).filter(in_split.filter(wanted))
    if not kept.num_rows:
        raise TrainingError(
            store,
            found=f"no cell of split '{split}' with a text",
            expected="cells whose profile has an accepted description",
            fix="Check 'okrcell enrich status' for rejected descriptions and the splits of the store.",
        )
    profile_ids = kept["profile_id"].to_pylist()
    distinct = tuple(sorted({texts[p] for p in profile_ids}))
    text_index = {text: at for at, text in enumerate(distinct)}
    return Pairs(
        cell_uids=tuple(kept["cell_uid"].to_pylist()),
        dataset=np.array(
            [datasets.index(d) for d in kept["dataset_id"].to_pylist()], dtype=np.int64
        ),
        row=kept["row"].to_numpy().astype(np.int64),
        text=np.array([text_index[texts[p]] for p in profile_ids], dtype=np.int64),
        texts=distinct,
        prior=np.array([found.reliability.get(p, 1.0) for p in profile_ids], dtype=np.float32),
        n_without_text=sum(in_split.to_pylist()) - kept.num_rows,
        matrices=matrices,
        columns=columns,
        vocabulary=vocabulary,
    )


def seen_cells(pairs: Pairs) -> pa.Table:
    """Return the table ``seen_cells``: id, content and detected genes of every cell of the pairs.

    With it an evaluation on other data can tell whether the model has been trained on a test cell.
    """
    columns = {"content": [""] * len(pairs), "pattern": [""] * len(pairs)}
    for number, matrix in enumerate(pairs.matrices):
        at = np.flatnonzero(pairs.dataset == number)
        for name, into in columns.items():
            found = content_hashes(matrix, pairs.row[at], only_pattern=name == "pattern")
            for place, one in zip(at, found, strict=True):
                into[place] = one
    return pa.table({"cell_uid": list(pairs.cell_uids), **columns})


def batch_order(n_pairs: int, batch_size: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return int64 [steps, batch]: a permutation cut into whole batches, a function of its arguments.

    The remainder of an epoch is left out; the next epoch shuffles anew.
    """
    size = min(batch_size, n_pairs)
    order = np.random.default_rng([seed, epoch]).permutation(n_pairs)
    return order[: len(order) // size * size].reshape(-1, size)


def read_batch(
    pairs: Pairs, index: npt.NDArray[np.int64], config: TrainConfig, rng: np.random.Generator
) -> Batch:
    """Tokenise some pairs; those of one dataset are read together, the order is kept."""
    if len(pairs.matrices) == 1:
        tokens = _tokens(pairs, 0, pairs.row[index], config, rng)
        return Batch(tokens, index, pairs.text[index])
    order, parts = [], []
    for dataset, members in _by_dataset(pairs.dataset[index]):
        order.append(members)
        parts.append(_tokens(pairs, dataset, pairs.row[index[members]], config, rng))
    sorted_index = index[np.concatenate(order)]
    return Batch(_stack(parts), sorted_index, pairs.text[sorted_index])


def _tokens(
    pairs: Pairs,
    dataset: int,
    rows: npt.NDArray[np.int64],
    config: TrainConfig,
    rng: np.random.Generator,
) -> Tokens:
    return tokenise(
        pairs.matrices[dataset],
        rows,
        pairs.columns[dataset],
        n_bins=config.n_bins,
        max_genes=config.max_genes,
        rng=rng,
    )


def _by_dataset(dataset: npt.NDArray[np.int64]) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    for number in np.unique(dataset):
        yield int(number), np.flatnonzero(dataset == number)


def _stack(parts: list[Tokens]) -> Tokens:
    width = max(part.genes.shape[1] for part in parts)
    widen = [
        [torch.nn.functional.pad(field, (0, width - field.shape[1])) for field in part]
        for part in parts
    ]
    return Tokens(*(torch.cat(fields) for fields in zip(*widen, strict=True)))
