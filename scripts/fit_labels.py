"""Fit the ranker of cell type labels and write ``corpus/data/label_weights.json``.

Run as ``python scripts/fit_labels.py --data FOLDER``, where FOLDER holds ``groundtruth/`` with the
mapping tables that ``benchmarks/corpus/labels.py`` names. Only the trees and the calibration are
learned; the tables' labels and terms are not stored. The calibration comes from folds that leave out
a whole family of tables and every label string in it. (Over 300 lines: tables, splits, fit and
calibration are one experiment.)
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from okrcell.corpus.label_features import FEATURES, Evidence, evidence
from okrcell.corpus.label_index import LabelIndex, build_index
from okrcell.corpus.label_priors import term_priors
from okrcell.corpus.label_rank import WEIGHTS, from_json, probabilities
from okrcell.corpus.label_readings import KINDS
from okrcell.corpus.label_text import folded
from okrcell.corpus.ontology import bundled

# Table: file, columns of label, tissue, markers, term, study.
TABLES = {
    "sfaira": ("sfaira_label_maps.tsv.gz", "source", "", "", "target_id", "study"),
    "Azimuth labels": (
        "azimuth_reference_labels.tsv.gz", "label", "reference", "markers", "ontology_id", "reference",
    ),
    "Azimuth expanded": (
        "azimuth_reference_labels.tsv.gz", "expanded_label", "reference", "markers", "ontology_id",
        "reference",
    ),
    "HRA Azimuth": (
        "hra_crosswalk_azimuth.tsv", "Annotation_Label", "Organ_Level", "", "CL_ID", "Organ_Level",
    ),
    "HRA CellTypist": (
        "hra_crosswalk_celltypist.tsv", "Annotation_Label", "Organ_Level", "", "CL_ID",
        "Organ_Level",
    ),
    "ASCT+B": (
        "asctb_cell_types.tsv.gz", "author_label", "organ", "gene_markers", "ontology_id", "organ",
    ),
    "CRAFT": ("craft_cell_mentions.tsv.gz", "mention", "", "", "cl_id", "pmid"),
    "HRA popV": (
        "hra_crosswalk_popv.tsv", "Annotation_Label", "Organ_Level", "", "CL_ID", "Organ_Level",
    ),
    "CellTypist encyclopedia": (
        "celltypist_encyclopedia_v2.tsv", "low_hierarchy_cell_types", "tissues", "curated_markers",
        "cell_ontology_id", "",
    ),
    "dataset labels": ("dataset_labels_to_cl.tsv", "label", "", "", "cl_id", "dataset"),
}  # fmt: skip
SEVEN = tuple(TABLES)[:7]
NAMELESS, N_MARKERS = "markers, no name", 3
FAMILY = {
    "Azimuth labels": "Azimuth",
    "Azimuth expanded": "Azimuth",
    "HRA Azimuth": "Azimuth",
    "HRA CellTypist": "CellTypist",
    "CellTypist encyclopedia": "CellTypist",
    "HRA popV": "names and data sets",
    "dataset labels": "names and data sets",
}
"""Tables made from the same labels; a held-out fold leaves out all of them."""

N_TREES, RATE, DEPTH, LEAVES, L2, MIN_LEAF, SAMPLE = 160, 0.08, 4, 12, 20.0, 100, 0.8
TRAIN_CANDIDATES = 70
FEATURE_SHARE = 0.5


@dataclass
class Unit:
    """One distinct (label, context, term) of a table; ``y`` is the candidate that is right, or -1.

    ``origin`` is the table, and ``string`` the spelling of the label, that a unit without its label
    was made from; splits go by them.
    """

    table: str
    label: str
    tissue: str
    markers: tuple[str, ...]
    truth: str
    study: str
    origin: str = ""
    string: str = ""
    found: Evidence | None = None
    y: int = -1
    top: dict[str, Any] = field(default_factory=dict)


def spelling(label: str) -> str:
    """Return the form under which two labels count as the same string in a split."""
    return re.sub(r"[^a-z0-9+]+", " ", label.lower()).strip()


def bucket(text: str, n: int, salt: str) -> int:
    """Return a number below ``n`` that depends on the text alone."""
    return hashlib.sha256(f"{salt}:{text}".encode()).digest()[0] % n


def read_units(folder: Path) -> list[Unit]:
    """Read all tables; terms that are obsolete today are replaced, as the ontology says."""
    cl = bundled("cl")
    units: dict[tuple[str, str, str, str], Unit] = {}
    for table, (name, label, tissue, markers, term, study) in TABLES.items():
        for row in _rows(folder / "groundtruth" / name):
            if row.get("field", "cell_type") != "cell_type" or not row[label].strip():
                continue
            if "CL_Match" in row and "exactMatch" not in row["CL_Match"]:
                continue
            found = re.match(r"CL:\d{7}", row[term])
            if not found:
                continue
            live = cl.get(found.group())
            key = (table, row[label], row.get(tissue, ""), found.group())
            unit = units.setdefault(
                key,
                Unit(*key[:3], (), live.term_id if live else found.group(), row.get(study, "")),
            )
            genes = [g for g in re.split(r"[,\s;]+", row.get(markers, "")) if g]
            unit.markers = tuple(dict.fromkeys((*unit.markers, *genes)))
    named = list(units.values())
    for unit in named:
        unit.origin, unit.string = unit.table, spelling(unit.label)
    # The same cells under a cluster's number: what markers and tissue say when the label is silent.
    nameless = [
        replace(unit, table=NAMELESS, label="cluster 1", top={})
        for unit in named
        if len(unit.markers) >= N_MARKERS
    ]
    return [*named, *nameless]


def _rows(path: Path) -> Iterator[dict[str, str]]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8", newline="") as handle:
        yield from csv.DictReader(handle, delimiter="\t")


def weigh(units: Sequence[Unit]) -> LabelIndex:
    """Work out the evidence for every unit."""
    index = build_index(bundled("cl").terms())
    prior = term_priors(index)
    rows = {term.term_id: row for row, term in enumerate(index.terms)}
    known: dict[tuple[str, str, tuple[str, ...]], Evidence | None] = {}
    for unit in units:
        key = (unit.label, unit.tissue, unit.markers)
        if key not in known:
            known[key] = evidence(index, prior, *key)
        unit.found = known[key]
        at = np.flatnonzero(unit.found.rows == rows.get(unit.truth, -1)) if unit.found else []
        unit.y = int(at[0]) if len(at) else -1
    return index


RISING = (
    *(f"{kind}_{name}" for kind in KINDS for name in ("dice", "query_covered", "same", "contained")),
    "best_dice", "best_same", "raw_label_same", "grams", "text_covered", "lineage", "mass_self",
    "organ_named", "organ_told", "marker_self", "marker_above", "common",
)  # fmt: skip
FALLING = (
    "organ_other", "sign_conflict", "for_mouse", "not_vertebrate", "rank_dice", "rank_grams",
)  # fmt: skip
"""Features that can only speak for a term, or only against it, whatever one table's habits are."""


def directions() -> Any:
    """Return int8 [F]: 1, -1 or 0 for a feature that may only raise, only lower, or do either."""
    return np.array([(f in RISING) - (f in FALLING) for f in FEATURES], dtype=np.int8)


def fit(units: Sequence[Unit]) -> dict[str, Any]:
    """Boost trees on the softmax over each label's candidates; tables weigh by 1 / sqrt(size)."""
    # Private to scikit-learn, and the only histogram trees here that take a loss of one's own;
    # the package itself needs none of it.
    from sklearn.ensemble._hist_gradient_boosting.binning import _BinMapper
    from sklearn.ensemble._hist_gradient_boosting.grower import TreeGrower

    size = Counter(unit.table for unit in units)
    blocks, targets, counts, weights = [], [], [], []
    for unit in units:
        # Fitting on nameless clusters was tried: it cost other tables more than it gave.
        if unit.found is None or unit.y < 0 or unit.table == NAMELESS:
            continue
        keep = np.arange(min(TRAIN_CANDIDATES, len(unit.found.rows)))
        if unit.y >= len(keep):
            keep = np.append(keep, unit.y)
        blocks.append(unit.found.values[keep])
        targets.append(int(np.flatnonzero(keep == unit.y)[0]))
        counts.append(len(keep))
        weights.append(20 / size[unit.table] ** 0.5)
    values = np.concatenate(blocks).astype(np.float64)
    n = np.array(counts)
    starts = np.r_[0, np.cumsum(n)[:-1]]
    y = np.zeros(len(values))
    y[starts + np.array(targets)] = 1
    weight = np.repeat(np.array(weights), n)
    mapper = _BinMapper(n_bins=64, random_state=0)
    binned = mapper.fit_transform(values)
    scores = np.zeros(len(values))
    rng = np.random.default_rng(0)
    trees = []
    for _ in range(N_TREES):
        shifted = np.exp(scores - np.repeat(np.maximum.reduceat(scores, starts), n))
        p = shifted / np.repeat(np.add.reduceat(shifted, starts), n)
        used = np.repeat(rng.random(len(n)) < SAMPLE, n) * weight
        grower = TreeGrower(
            binned,
            ((p - y) * used).astype(np.float32),
            (np.maximum(p * (1 - p), 1e-4) * used).astype(np.float32),
            max_leaf_nodes=LEAVES,
            max_depth=DEPTH,
            min_samples_leaf=MIN_LEAF,
            l2_regularization=L2,
            n_bins=mapper.n_bins,
            shrinkage=RATE,
            n_threads=1,
            has_missing_values=False,
            feature_fraction_per_split=FEATURE_SHARE,
            rng=rng,
            monotonic_cst=directions(),
        )
        grower.grow()
        tree = grower.make_predictor(mapper.bin_thresholds_)
        scores += tree.predict_binned(binned, mapper.missing_values_bin_idx_, 1)
        trees.append(_as_lists(tree.nodes))
    content = {"features": list(FEATURES), "depth": DEPTH, "trees": trees}
    return {**content, "knots": [[0.0, 1.0], [0.0, 1.0]]}


def _as_lists(nodes: Any) -> dict[str, list[Any]]:
    own = range(len(nodes))
    leaf = [bool(node["is_leaf"]) for node in nodes]
    return {
        "feature": [0 if leaf[i] else int(nodes[i]["feature_idx"]) for i in own],
        "threshold": [0.0 if leaf[i] else round(float(nodes[i]["num_threshold"]), 6) for i in own],
        "left": [i if leaf[i] else int(nodes[i]["left"]) for i in own],
        "right": [i if leaf[i] else int(nodes[i]["right"]) for i in own],
        "value": [round(float(nodes[i]["value"]), 6) for i in own],
    }


def apply(content: dict[str, Any], units: Sequence[Unit], index: LabelIndex, name: str) -> None:
    """Rank every unit's candidates; ``unit.top[name]`` gets rank, raw probability, row, exactness."""
    ranker = from_json(content)
    labels = {folded(term.label): row for row, term in reversed(list(enumerate(index.terms)))}
    for unit in units:
        if unit.found is None:
            unit.top[name] = {"rank": -1, "p": 0.0, "row": -1, "exact": False}
            continue
        raw = probabilities(np.round(ranker.scores(unit.found.values), 6))
        ids = [index.terms[row].term_id for row in unit.found.rows]
        order = sorted(range(len(ids)), key=lambda at: (-raw[at], ids[at]))
        same = labels.get(folded(unit.label))
        if same is not None and same in unit.found.rows:
            first = int(np.flatnonzero(unit.found.rows == same)[0])
            order.remove(first)
            order.insert(0, first)
        unit.top[name] = {
            "rank": order.index(unit.y) if unit.y >= 0 else -1,
            "p": float(raw[order[0]]),
            "row": int(unit.found.rows[order[0]]),
            "exact": same is not None,
        }


def folds(units: Sequence[Unit], how: str) -> list[set[int]]:
    """Return the held-out units of each fold: by ``label`` string, ``study``, or ``family``."""
    keys: dict[str, Callable[[Unit], Any]] = {
        "label": lambda u: bucket(u.string, 4, "label"),
        "study": lambda u: bucket(f"{family(u)} {study(u)}", 4, "study"),
        "family": family,
    }
    grouped: dict[Any, set[int]] = {}
    for at, unit in enumerate(units):
        grouped.setdefault(keys[how](unit), set()).add(at)
    return [grouped[key] for key in sorted(grouped)]


def family(unit: Unit) -> str:
    """Return the group of tables that share their labels."""
    return FAMILY.get(unit.origin, unit.origin)


def study(unit: Unit) -> str:
    """Return the study, reference or organ of a unit, without the level of detail."""
    return re.sub(r"[_ ]?(?:l\d+|v\d.*|pkl|level.*)$", "", unit.study.lower())


def cross_validate(units: Sequence[Unit], index: LabelIndex, how: str) -> None:
    """Rank every unit by a ranker that saw neither its fold nor any of its label strings."""
    for number, held_out in enumerate(folds(units, how)):
        strings = {units[at].string for at in held_out}
        seen = [
            unit
            for at, unit in enumerate(units)
            if at not in held_out and unit.string not in strings
        ]
        print(
            f"{how} fold {number + 1}: {len(seen)} seen, {len(held_out)} held out", file=sys.stderr
        )
        apply(fit(seen), [units[at] for at in sorted(held_out)], index, how)


def calibration(units: Sequence[Unit], name: str) -> list[list[float]]:
    """Return the knots of an isotonic curve from raw probability to the share that is right.

    Every table weighs the same; labels that are a term's own label are left out, since they do not
    go through the curve.
    """
    from sklearn.isotonic import IsotonicRegression

    used = [u for u in units if not u.top[name]["exact"] and u.table != NAMELESS]
    size = Counter(u.table for u in used)
    p = np.array([u.top[name]["p"] for u in used])
    right = np.array([u.top[name]["rank"] == 0 for u in used], dtype=float)
    weight = np.array([1 / size[u.table] for u in used])
    curve = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(p, right, weight)
    # Few knots, between averages over a window, so that no single label makes a step.
    grid = np.linspace(0, 1, 21)
    smooth = [
        float(np.average(curve.predict(np.clip([x - 0.03, x, x + 0.03], 0, 1)))) for x in grid
    ]
    return [[round(float(x), 4) for x in grid], [round(min(v, 0.99), 4) for v in smooth]]


def main() -> None:
    """Read, fit, calibrate, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    data = Path(__file__).parents[1] / "corpus" / "data"
    parser.add_argument("--out", type=Path, default=data / WEIGHTS)
    arguments = parser.parse_args()
    units = read_units(arguments.data)
    index = weigh(units)
    cross_validate(units, index, "family")
    content = {**fit(units), "knots": calibration(units, "family")}
    text = json.dumps(content, separators=(",", ":")).replace('{"feature"', '\n{"feature"')
    arguments.out.write_text(text + "\n", encoding="utf-8")
    print(f"{arguments.out}: {len(content['trees'])} trees from {len(units)} triples")


if __name__ == "__main__":
    main()
