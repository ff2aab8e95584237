"""What a subject's own training cells express: a snippet to cite, and figures to check claims by.

Cells are compared within one tissue of one dataset, so that neither laboratory nor organ passes for
the cell type, and within one disease, development stage and sex where enough other types have cells
there. Cells of the splits ``validation`` and ``test`` are never read: what they express must not
reach the texts that a model is tested with.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from okrcell.corpus import ontology
from okrcell.corpus.gene_tables import current
from okrcell.corpus.genes import gene_symbols
from okrcell.corpus.shards import load_matrix
from okrcell.enrich.evidence import EXPRESSION, Evidence, GeneStat
from okrcell.enrich.names import find_names
from okrcell.enrich.training_cells import LEAST_KINDS, Kind, Positions, Scene, TrainingCells

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Expression", "expression_evidence"]

Shares = npt.NDArray[np.float64]

_PER_KIND, _PER_SCENE = 300, 6000  # cells; more of them make no other genes stand out
_LEAST_OWN, _LEAST_FIGURES = 20, 30  # cells of the subject for a snippet, for figures
_FIRST_GENES, _MOST_GENES = 4, 10
_ALPHA, _DETECTED, _DIFFERENCE = 0.01, 0.25, 0.2
# They tell how much RNA a cell has, and how stressed it is, more than what it is.
_RIBOSOMAL_OR_MITOCHONDRIAL = re.compile(r"RP[LS]\d+[AXYL]?\d*L?\d*|RPLP[0-2]|RPSA2?|MT-.*")
_CONSTANT_CHAIN = re.compile(r"IGKC|IGLC\d|IGH[ADEGM]\d?|TR[AD]C|TR[BG]C\d")
_NO_NAME = re.compile(r".*\.\d+|C\d+orf\d+|LOC\d+|ENSG\d+")


@dataclass(frozen=True)
class Expression:
    """What is known of a subject from its training cells.

    Attributes
    ----------
    evidence
        A snippet to cite; None where too few cells can be compared or no gene stands out.
    genes
        One per gene symbol, in order of it; empty for fewer than 30 cells. Without other cell types
        beside the subject, ``fraction_others`` is 0.
    cell_uids
        The training cells that any of this came from, sorted: the subject's, and those that they
        were compared with.
    """

    evidence: Evidence | None
    genes: tuple[GeneStat, ...]
    cell_uids: tuple[str, ...]


_NOTHING = Expression(None, (), ())


def expression_evidence(
    store: Path,
    groups: Mapping[str, Sequence[str]],
    *,
    seed: int,
    symbols: Mapping[str, Collection[str]] | None = None,
) -> dict[str, Expression]:
    """Compare the training cells of each subject with those of the other cell types beside them.

    A gene is named if it codes for a protein and has a name, a t-test with overestimated variance
    (scanpy's, Benjamini-Hochberg) puts it above the others at an adjusted p below 0.01, and it is
    detected in at least 25 % of the subject's cells and in 20 points more of them than of the
    others. The test takes cells for independent, which cells of one donor are not: it screens
    genes, and what is claimed are the shares of cells.

    Parameters
    ----------
    groups
        Subject key to the ids of the profiles that share its description.
    seed
        Decides which cells are taken where there are many: at most 300 of a cell type.
    symbols
        By subject key, the genes whose figures are wanted beside those of the snippet. None gives
        all that are measured, which takes megabytes a subject.
    """
    cells = TrainingCells(store)
    scenes: dict[Scene, list[str]] = defaultdict(list)
    for key, profile_ids in groups.items():
        scene = cells.scene(profile_ids)
        if scene:
            scenes[scene].append(key)
    found = dict.fromkeys(groups, _NOTHING)
    for scene, keys in sorted(scenes.items()):
        loaded = _Loaded(store, cells, scene, seed, [groups[key] for key in keys])
        for key in keys:
            wanted = None if symbols is None else symbols.get(key, ())
            found[key] = loaded.express(groups[key], wanted)
    return found


@dataclass(frozen=True)
class _Named:
    """Genes that set a subject apart, with the shares of cells in which they are detected."""

    genes: tuple[tuple[str, float, float], ...]
    n_kinds: int
    n_own: int
    n_others: int


class _Loaded:
    """The cells of a scene in memory: log-normalised, at most 300 of a type and of a subject."""

    def __init__(
        self,
        store: Path,
        cells: TrainingCells,
        scene: Scene,
        seed: int,
        subjects: Iterable[Sequence[str]],
    ) -> None:
        self._cells, self._scene = cells, scene
        kinds = cells.kinds(scene)
        n = min(_PER_KIND, max(_LEAST_OWN, _PER_SCENE // max(1, len(kinds))))
        of_kind = {kind: cells.sample(at, n, seed) for kind, at in kinds.items()}
        of_subject = {
            tuple(ids): cells.sample(cells.own(scene, ids), _PER_KIND, seed) for ids in subjects
        }
        self._positions = np.unique(np.concatenate([*of_kind.values(), *of_subject.values()]))
        self._kinds = {k: np.searchsorted(self._positions, at) for k, at in of_kind.items()}
        self._subjects = {k: np.searchsorted(self._positions, at) for k, at in of_subject.items()}
        self._data, self._gene_ids = _log_normalised(
            store, scene.dataset_id, cells.rows[self._positions]
        )
        self._symbols = gene_symbols(self._gene_ids)
        self._can_be_named = np.array(
            [_is_telling(s, g) for s, g in zip(self._symbols, self._gene_ids, strict=True)], bool
        )
        self._shares = {kind: self._share(at) for kind, at in self._kinds.items()}

    def _share(self, at: Positions) -> Shares:
        """Return the share of cells in which each gene is detected, [G]."""
        found: Shares = self._data.X[at].getnnz(axis=0) / max(1, len(at))
        return found

    def express(self, profile_ids: Sequence[str], wanted: Collection[str] | None) -> Expression:
        """Return what a subject's cells express."""
        own, kind = self._subjects[tuple(profile_ids)], self._cells.kind(profile_ids)
        others = self._cells.others(self._scene, kind) if kind[1] else []
        rest = np.concatenate([np.zeros(0, np.int64), *(self._kinds[other] for other in others)])
        share, share_rest = self._share(own), self._share(rest)
        best: list[int] = []
        if len(own) >= _LEAST_OWN and len(others) >= LEAST_KINDS:
            best = self._stand_out(own, rest, share, share_rest)
        used: list[Positions] = [own, rest]
        genes: tuple[GeneStat, ...] = ()
        if len(own) >= _LEAST_FIGURES:
            asked = None if wanted is None else {*wanted, *(self._symbols[g] for g in best)}
            genes = self._figures(share, share_rest, len(own), asked)
            used = [own, *self._kinds.values()]
        if not best and not genes:
            return _NOTHING
        named = _Named(
            tuple((self._symbols[g], float(share[g]), float(share_rest[g])) for g in best),
            len(others),
            len(own),
            len(rest),
        )
        uids = self._cells.uids(self._positions[np.unique(np.concatenate(used))])
        evidence = _snippet(self._scene, kind, named) if best else None
        return Expression(evidence, genes, tuple(sorted(uids)))

    def _stand_out(
        self, own: Positions, rest: Positions, share: Shares, share_rest: Shares
    ) -> list[int]:
        """Return the genes that set a subject apart, the most specific first.

        Specific is what most of the subject's cells and few others have: the share of its cells
        times the contrast of the shares, their difference over their sum. By the difference alone
        what large cells have more of would come before what only these cells have.
        """
        score, p = _ranked(self._data, own, rest)
        good = self._can_be_named & (score > 0) & (p < _ALPHA)
        good &= (share >= _DETECTED) & (np.round(share - share_rest, 6) >= _DIFFERENCE)
        total = np.maximum(share + share_rest, 1e-9)
        specific = np.round(share * (share - share_rest) / total, 6)
        best = sorted(np.flatnonzero(good).tolist(), key=lambda g: (-specific[g], self._symbols[g]))
        return best[:_MOST_GENES]

    def _figures(
        self, share: Shares, share_rest: Shares, n_cells: int, asked: Collection[str] | None
    ) -> tuple[GeneStat, ...]:
        # A type of very few cells would say "detected" by chance.
        highest = np.maximum.reduce(
            [share, *(self._shares[k] for k, at in self._kinds.items() if len(at) >= _LEAST_OWN)]
        )
        found: dict[str, GeneStat] = {}
        for g, symbol in enumerate(self._symbols):
            if asked is not None and symbol not in asked:
                continue
            # Of genes that share a symbol, a text means the one that is seen.
            if symbol not in found or highest[g] > found[symbol].highest:
                found[symbol] = GeneStat(
                    symbol,
                    self._gene_ids[g],
                    round(float(share[g]), 4),
                    round(float(share_rest[g]), 4),
                    round(float(highest[g]), 4),
                    n_cells,
                )
        return tuple(found[symbol] for symbol in sorted(found))


def _is_telling(symbol: str, gene_id: str) -> bool:
    """Whether a gene may be named: it codes for a protein, has a name, and is no housekeeper."""
    if _CONSTANT_CHAIN.fullmatch(symbol):
        return True
    is_coding = gene_id in current().coding
    return is_coding and not (
        _RIBOSOMAL_OR_MITOCHONDRIAL.fullmatch(symbol) or _NO_NAME.fullmatch(symbol)
    )


def _log_normalised(
    store: Path, dataset_id: str, rows: Positions
) -> tuple[AnnData, tuple[str, ...]]:
    """Read rows of a dataset; counts are scaled to 10,000 a cell and logged, lognorm left alone."""
    import anndata
    import scanpy as sc

    cells = load_matrix(store, dataset_id)
    matrix = cells.matrix[rows]
    matrix.eliminate_zeros()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on cells without counts
        data = anndata.AnnData(matrix)
        if cells.values == "counts":
            sc.pp.normalize_total(data, target_sum=1e4)
            sc.pp.log1p(data)
    return data, cells.gene_ids


def _ranked(data: AnnData, own: Positions, rest: Positions) -> tuple[Shares, Shares]:
    """Return scores and adjusted p, [G], of one set of cells against another."""
    import pandas as pd
    import scanpy as sc

    both = data[np.concatenate([own, rest])].copy()
    both.obs["side"] = pd.Categorical(["own"] * len(own) + ["rest"] * len(rest))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # on genes that do not vary
        sc.tl.rank_genes_groups(
            both, "side", groups=["own"], reference="rest", method="t-test_overestim_var"
        )
    table = both.uns["rank_genes_groups"]
    order = table["names"]["own"].astype(np.int64)
    score, p = np.zeros(data.n_vars), np.ones(data.n_vars)
    score[order] = np.nan_to_num(table["scores"]["own"])
    p[order] = np.nan_to_num(table["pvals_adj"]["own"], nan=1.0)
    return score, p


def _snippet(scene: Scene, kind: Kind, named: _Named) -> Evidence:
    """Say it in sentences that stand alone and do not name the cell type: masked texts use them."""
    plain_id = re.sub(r"[._-]", " ", scene.dataset_id)
    telling = find_names(plain_id, (kind[1], *ontology.names(kind[0])))
    dataset = "one dataset" if telling else f"the dataset {scene.dataset_id}"
    context = " and of the same disease, development stage and sex" if scene.context else ""
    first, more = named.genes[:_FIRST_GENES], named.genes[_FIRST_GENES:]
    shares = [f"{symbol} ({_percent(a)} against {_percent(b)})" for symbol, a, b in named.genes]
    symbol, a, b = first[0]
    shares[0] = f"{symbol} (detected in {_percent(a)} of cells against {_percent(b)} of the others)"
    noun, verb = ("genes", "are") if len(first) > 1 else ("gene", "is")
    text = (
        f"In the training cells of this profile, the {noun} most specific against {named.n_kinds} "
        f"other cell types of {scene.tissue or 'these data'} {verb} {_listed(shares[: len(first)])}. "
    )
    if more:
        text += (
            f"Also detected in more of these training cells than of the others "
            f"{'are' if len(more) > 1 else 'is'} {_listed(shares[len(first) :])}. "
        )
    text += (
        f"This compares {named.n_own} cells of the profile with {named.n_others} others of "
        f"{dataset}{context}, by a t-test with overestimated variance at an adjusted p below 0.01."
    )
    doc_id = f"EXPR:{scene.dataset_id}"
    digest = hashlib.sha256(f"{doc_id}\n{text}".encode()).hexdigest()
    return Evidence(f"expr-{digest[:24]}", doc_id, EXPRESSION, "specific genes", text)


def _percent(share: float) -> str:
    return f"{round(100 * share)} %"


def _listed(items: Sequence[str]) -> str:
    return f"{', '.join(items[:-1])} and {items[-1]}" if len(items) > 1 else items[0]
