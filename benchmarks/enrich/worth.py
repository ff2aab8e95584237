"""What enriched text is worth to a model: the same model, loss and steps with original and enriched text.

    python benchmarks/enrich/worth.py --data ../shared/data --out worth.json

The paper compares its text *and* loss with another text and another loss. Here text (the metadata
sentence, the extractive description without expression evidence, the same with the label masked) is
crossed with the objective (InfoNCE, the paper's CRA); encoder, initial weights, batches, steps and
splits are equal. Candidates of a test are texts of the kind that the model was trained on. The keys of
training are those of the quickstart, fixed before; nothing was chosen on these cells.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import shutil
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from arms import ENRICHED, MASKED, ORIGINAL, make_jobs, text_facts
from experts import make_store
from numpy.typing import NDArray
from output import publish

from okrcell import load
from okrcell.corpus.build import build
from okrcell.corpus.cells import add_cells
from okrcell.corpus.config import CellsConfig, CorpusConfig
from okrcell.corpus.embedder import Embedder, load_embedder
from okrcell.corpus.terms import add_ontologies
from okrcell.enrich.job import load_descriptions
from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.data import EvalData, load_eval_data
from okrcell.evaluate.intervals import (
    Bootstrap,
    Metric,
    accuracy_of,
    confusions,
    interval,
    macro_f1_of,
    of_tables,
    weighted_mean,
)
from okrcell.evaluate.methods import MethodOutput, candidate_vectors, cell_text, pca, trained, unit
from okrcell.evaluate.methods import pca_ridge as ridge
from okrcell.evaluate.retrieval import ceiling, fold_rows, rank_pairs
from okrcell.evaluate.zero_shot import credit_matrix
from okrcell.train.config import TrainConfig
from okrcell.train.loop import train

TRAINING: dict[str, Any] = {
    "preset": "tiny",
    "epochs": 16,
    "batch_size": 64,
    "lr": 1e-3,
    "lr_decay": 1.0,
    "bank_size": 512,
    "align_weight": 5.0,
    "max_genes": 256,
    "reliability_prior": False,  # the text alone is to differ
}
OBJECTIVES = ("infonce", "cra_paper")
TEXTS = (ORIGINAL, ENRICHED, MASKED)
PRIOR = "cra_paper, reliability prior"
EVALUATION = EvaluateConfig()
KS = (1, 5, 10)


@dataclass(frozen=True)
class Cells:
    """A data set: its file, what is known of all its cells, and the types kept out of training."""

    name: str
    tissue: str
    most: int | None
    hold_out: tuple[str, ...]
    n_hold_out: int = 0
    donor: str = ""


DATASETS = (
    # The types that the quickstart holds out.
    Cells("pbmc_facs_10pop", "blood", 800, ("CD56+ NK", "CD8+/CD45RA+ Naive Cytotoxic")),
    # Five of the types, the first by the hash of their term.
    Cells("gut_68types_dev_donors", "intestine", None, (), 5, "donor"),
)


def decided(data: Path, dataset: str) -> dict[str, str]:
    path = data / "groundtruth" / "dataset_labels_to_cl.tsv"
    with path.open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    return {r["label"]: r["cl_id"] for r in rows if dataset.startswith(r["dataset"]) and r["cl_id"]}


def make_cells(data: Path, store: Path, cells: Cells, scratch: Path) -> None:
    """Add the cells with a decided label to a store, by donor where there are donors."""
    import anndata

    terms = decided(data, cells.name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = anndata.read_h5ad(data / "cells" / f"{cells.name}.h5ad")
    found = found[found.obs["cell_type"].isin(list(terms))].copy()
    if cells.most and found.n_obs > cells.most:
        rows = np.random.default_rng(0).permutation(found.n_obs)[: cells.most]
        found = found[np.sort(rows)].copy()
    found.obs = found.obs[["cell_type", *([cells.donor] if cells.donor else [])]].astype(str)
    path = scratch / f"{cells.name}.h5ad"
    found.write_h5ad(path)
    by_hash = sorted(set(terms.values()), key=lambda t: hashlib.sha256(t.encode()).hexdigest())
    held = set(by_hash[: cells.n_hold_out])
    hold_out = (*cells.hold_out, *(label for label, term in terms.items() if term in held))
    columns = {"cell_type": "cell_type"} | ({"donor": cells.donor} if cells.donor else {})
    constants = {"tissue": cells.tissue, "organism": "Homo sapiens", "suspension_type": "cell"}
    add_cells(
        store,
        path,
        CorpusConfig(hold_out=hold_out),
        CellsConfig(dataset_id=cells.name, columns=columns, constants=constants),
        {"cell_type": terms},
    )


# --- one model on the test cells ---------------------------------------------------------------


Metrics = dict[str, tuple[Bootstrap, Metric]]


def measure(method: MethodOutput, data: EvalData) -> Metrics:
    """Return each metric as a function of how often a test cell is drawn."""
    types = np.asarray(data.types)
    labels = data.labels[data.test]
    truth = np.searchsorted(types, labels)
    scores = unit(method.cells[data.test]) @ candidate_vectors(method, data).T
    best = scores.argmax(axis=1)
    credit = credit_matrix(data.types, data.term_ids)
    unseen = np.isin(labels, sorted(data.unseen))
    seen = np.isin(labels, sorted(data.seen))
    metrics: Metrics = {}
    for scope, rows in (("seen", np.flatnonzero(seen)), ("unseen", np.flatnonzero(unseen))):
        if not len(rows):
            continue
        table = confusions(truth[rows], best[rows], len(types))
        boot = _boot(data, data.test[rows])
        metrics[f"zero-shot accuracy ({scope})"] = boot, of_tables(table, accuracy_of)
        metrics[f"zero-shot macro F1 ({scope})"] = boot, of_tables(table, macro_f1_of)
        metrics[f"zero-shot ontology credit ({scope})"] = (
            boot,
            weighted_mean(credit[truth[rows], best[rows]]),
        )
    if len(data.unseen) > 1:
        rows = np.flatnonzero(unseen)
        others = ~np.isin(types, sorted(data.unseen))
        among = np.where(others, -np.inf, scores[rows]).argmax(axis=1)
        metrics["zero-shot accuracy (unseen, among unseen)"] = (
            _boot(data, data.test[rows]),
            of_tables(confusions(truth[rows], among, len(types)), accuracy_of),
        )
    rows = np.concatenate(fold_rows(data.test, EVALUATION)[:1])
    texts, ids = np.unique(
        [cell_text(data, int(i), method.texts) for i in rows], return_inverse=True
    )
    assert method.encode_text is not None
    vectors = unit(method.encode_text([str(text) for text in texts]))
    ranks = rank_pairs(unit(method.cells[rows]), vectors, ids)
    boot = _boot(data, rows)
    for way, found in ranks.items():
        for k in KS:
            metrics[f"R@{k} ({way})"] = boot, weighted_mean(found.recall(k))
    return metrics


def _boot(data: EvalData, rows: NDArray[np.intp]) -> Bootstrap:
    return Bootstrap.over(data.donors[rows], EVALUATION.bootstrap, EVALUATION.seed)


def _value(of: tuple[Bootstrap, Metric]) -> float:
    return float(of[1](np.ones((1, of[0].n)))[0])


def mean_of(runs: list[Metrics], name: str) -> tuple[float, float, float, list[float]]:
    """Return the mean over seeds, its interval over test cells or donors, and the value of each seed."""
    values = [_value(run[name]) for run in runs]
    draws = np.mean([run[name][0].apply(run[name][1]) for run in runs], axis=0)
    return float(np.mean(values)), *interval(draws), values


def difference(
    one: list[Metrics], other: list[Metrics], name: str
) -> tuple[float, float, float, list[float]]:
    """Return the mean paired difference over seeds, its interval, and that of each seed."""
    values = [_value(a[name]) - _value(b[name]) for a, b in zip(one, other, strict=True)]
    draws = np.mean(
        [
            a[name][0].apply(a[name][1]) - b[name][0].apply(b[name][1])
            for a, b in zip(one, other, strict=True)
        ],
        axis=0,
    )
    return float(np.mean(values)), *interval(draws), values


# --- all models --------------------------------------------------------------------------------


Runs = dict[tuple[str, str], list[Metrics]]


def train_all(
    store: Path, jobs: dict[str, Path], folder: Path, seeds: int, embedder: Embedder
) -> tuple[Runs, dict[str, EvalData], dict[str, Any]]:
    data = {name: load_eval_data(store, job) for name, job in jobs.items()}
    runs: Runs = {}
    facts: dict[str, Any] = {}
    plan: list[tuple[str, str, dict[str, Any]]]
    plan = [(text, name, {"objective": name}) for name in OBJECTIVES for text in TEXTS]
    if _is_rated(jobs[ENRICHED]):
        plan.append((ENRICHED, PRIOR, {"objective": "cra_paper", "reliability_prior": True}))
    for seed in range(seeds):
        for text, objective, keys in plan:
            out = folder / f"{len(facts)}"
            begin = time.monotonic()
            found = train(
                store,
                jobs[text],
                out,
                TrainConfig(**(TRAINING | keys), seed=seed),
            )
            method = trained(text, load(out), data[text], texts="description", about="")
            runs.setdefault((text, objective), []).append(measure(method, data[text]))
            facts[f"{text} | {objective} | {seed}"] = {
                **{key: found[key] for key in ("pairs", "texts", "steps", "last_losses")},
                "seconds": round(time.monotonic() - begin, 1),
            }
            print(
                f"{text} | {objective} | seed {seed}: {time.monotonic() - begin:.0f} s", flush=True
            )
            shutil.rmtree(out)
    for text in TEXTS:
        base = pca(data[text], EVALUATION.seed)
        linear = ridge(data[text], base, embedder, "description")
        runs[text, "PCA and ridge"] = [measure(linear, data[text])]
    return runs, data, facts


def _is_rated(job: Path) -> bool:
    """Whether a prior would change anything: not all reliabilities are one."""
    rows = load_descriptions(job).to_pylist()
    return any(row["status"] == "accepted" and row["reliability"] < 1 for row in rows)


def _cell(found: tuple[float, float, float, list[float]]) -> str:
    mean, low, high, seeds = found
    spread = f" (seeds {min(seeds):.3f} to {max(seeds):.3f})" if len(seeds) > 1 else ""
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]{spread}"


def _difference(found: tuple[float, float, float, list[float]]) -> str:
    """Return mean, interval over test cells, and interval over seeds (Student's t)."""
    from scipy.stats import t

    mean, low, high, seeds = found
    half = 0.0
    if len(seeds) > 1:
        half = t.ppf(0.975, len(seeds) - 1) * np.std(seeds, ddof=1) / np.sqrt(len(seeds))
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}], seeds [{mean - half:+.3f}, {mean + half:+.3f}]"


def _short(name: str) -> str:
    return name.replace("zero-shot ", "").replace(", graded", "")


def tables_of(cells: Cells, runs: Runs, data: dict[str, EvalData]) -> list[dict[str, Any]]:
    names = list(runs[ORIGINAL, OBJECTIVES[0]][0])
    zero = [name for name in names if name.startswith("zero")]
    graded = [name for name in names if "graded" in name]
    strict = [name for name in names if "strict" in name]
    compared = [*zero, "R@1 (cell to text, graded)", "R@5 (text to cell, graded)"]
    tables = []
    for caption, chosen in (("zero-shot", zero), ("retrieval, graded", graded)):
        rows = [
            [text, objective, *(_cell(mean_of(found, name)) for name in chosen)]
            for (text, objective), found in sorted(runs.items(), key=lambda entry: entry[0][1])
        ]
        tables.append(
            {
                "caption": f"{cells.name}: {caption}",
                "columns": ["text", "objective", *map(_short, chosen)],
                "rows": rows,
            }
        )
    best = {text: ceiling(data[text], EVALUATION) for text in TEXTS}
    rows = []
    for (text, objective), found in sorted(runs.items(), key=lambda entry: entry[0][1]):
        rows.append([text, objective, *(f"{mean_of(found, name)[0]:.3f}" for name in strict)])
    for text in TEXTS:
        at = {row.metric: row.value for row in best[text].rows if row.method == "duplicate ceiling"}
        rows.append([text, "duplicate ceiling", *(f"{at[name]:.3f}" for name in strict)])
    tables.append(
        {
            "caption": f"{cells.name}: retrieval, strict (no method can pass the duplicate ceiling)",
            "columns": ["text", "objective", *(name.replace(", strict", "") for name in strict)],
            "rows": rows,
        }
    )
    rows = []
    for objective in OBJECTIVES:
        for text in TEXTS[1:]:
            pair = runs[text, objective], runs[ORIGINAL, objective]
            rows.append(
                [
                    f"{text} - original, {objective}",
                    *(_difference(difference(*pair, name)) for name in compared),
                ]
            )
    if (ENRICHED, PRIOR) in runs:
        pair = runs[ENRICHED, PRIOR], runs[ENRICHED, "cra_paper"]
        rows.append(
            [
                f"prior on - off, {ENRICHED}, cra_paper",
                *(_difference(difference(*pair, name)) for name in compared),
            ]
        )
    for text in TEXTS:
        pair = runs[text, "cra_paper"], runs[text, "infonce"]
        rows.append(
            [
                f"cra_paper - infonce, {text}",
                *(_difference(difference(*pair, name)) for name in compared),
            ]
        )
    tables.append(
        {
            "caption": f"{cells.name}: differences, paired by seed and test cell",
            "columns": ["difference", *map(_short, compared)],
            "rows": rows,
        }
    )
    return tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--store", type=Path, help="knowledge without cells, as experts.py keeps it"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--words", type=int, default=150)
    parser.add_argument("--only", choices=[cells.name for cells in DATASETS], help="one data set")
    arguments = parser.parse_args()
    embedder = load_embedder()
    tables, notes, facts = [], [], {}
    with tempfile.TemporaryDirectory() as scratch:
        knowledge = arguments.store or Path(scratch) / "knowledge"
        if not (knowledge / "knowledge").exists():
            make_store(arguments.data, knowledge, embedder)
        texts = []
        for cells in [c for c in DATASETS if arguments.only in {None, c.name}]:
            folder = Path(scratch) / cells.name
            store = folder / "store"
            shutil.copytree(knowledge, store)
            make_cells(arguments.data, store, cells, folder)
            add_ontologies(store, ["mondo", "hsapdv", "pato"], "profiles")
            build(store, CorpusConfig(), embedder)
            jobs = make_jobs(store, folder, arguments.words)
            runs, data, facts[cells.name] = train_all(
                store, jobs, folder / "runs", arguments.seeds, embedder
            )
            tables += tables_of(cells, runs, data)
            notes.append(_about(cells, data[ORIGINAL]))
            for name, job in jobs.items():
                found = text_facts(job)
                texts.append(
                    [
                        cells.name,
                        name,
                        *(f"{found[key]:.4g}" for key in found),
                        _example(data[name]),
                    ]
                )
    tables.append(
        {
            "caption": "The texts",
            "columns": [
                "cells",
                "text",
                "profiles",
                "accepted in all arms",
                "distinct",
                "words",
                "reliability",
                "for example",
            ],
            "rows": texts,
        }
    )
    publish(
        {
            "title": "Worth for the model",
            "command": "python benchmarks/enrich/worth.py --data DATA --out worth.json",
            "tables": tables,
            "notes": [
                *notes,
                f"Training: {', '.join(f'{key} {value}' for key, value in TRAINING.items())}; the quickstart's "
                f"keys but for epochs (20 there) and max_genes. Seeds 0 to {arguments.seeds - 1}; the seed sets weights and batches, "
                "the split is one. Text: all-MiniLM-L6-v2, frozen.",
                "Values are means over seeds. In brackets 95 % over test donors where there are five or more, else over test "
                "cells, with the seeds kept. Beside values stands the range over seeds, beside differences the 95 % interval "
                "over seeds (Student's t; with three seeds a wide one): a difference is to be believed where both "
                "exclude zero.",
                "Text to cell has as many distinct queries as there are texts, each counted once per cell that carries it: "
                "its intervals over cells are too narrow for new types.",
                "Zero-shot: each test cell gets the type whose text is nearest; candidates are texts of the same kind, of "
                "all types of the data. Unseen: cells of the types that no model was trained on, among all candidates, or "
                "among those types alone.",
                "The reliability prior is off, so that texts alone differ; it is compared only where some accepted "
                "enriched text has a reliability below 1 (see the table of texts).",
                "The masked text's candidates do not name the type; its results ask whether content alone is enough.",
                "PCA and ridge: a linear map from 50 principal components to the same text vectors; one fit, no seeds.",
            ],
            "runs": facts,
        },
        arguments.out,
    )


def _about(cells: Cells, data: EvalData) -> str:
    unit_of = _boot(data, data.test).unit
    return (
        f"{cells.name}: {len(data.train)} training and {len(data.test)} test cells "
        f"({int(np.isin(data.labels[data.test], sorted(data.unseen)).sum())} of unseen types), "
        f"{len(data.types)} types, {len(data.unseen)} of them unseen ({', '.join(sorted(data.unseen))}); "
        f"intervals over {unit_of}."
    )


def _example(data: EvalData) -> str:
    text = data.descriptions[str(data.profile_ids[data.test[0]])]
    return text if len(text) < 90 else text[:90].rsplit(" ", 1)[0] + " ..."


if __name__ == "__main__":
    main()
