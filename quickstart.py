"""The whole chain on 700 real blood cells: data, corpus, enrich, train, evaluate, report.

Every step is the library call behind the command of the same name; every step reuses what is
finished and unchanged, and continues what was interrupted.
"""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from okrcell import console
from okrcell.artifacts import atomic_path, commit, current_manifest, invalidate, writing
from okrcell.config import load_config
from okrcell.corpus.config import CellsConfig, CorpusConfig
from okrcell.enrich.config import EnrichConfig
from okrcell.evaluate.config import EvaluateConfig
from okrcell.train.config import TrainConfig

__all__ = ["make_input", "plan", "run", "summary_rows"]

DATASET = "pbmc68k_reduced"
MODEL = "okrcell"
_REFERENCES = ("duplicate ceiling", "chance")
KEEP_SHARE = 0.5
FULL, THINNED = "full depth", "thinned (synthetic)"
_COLUMNS = {"cell_type": "bulk_labels", "batch": "batch"}
_CONSTANTS = {
    "tissue": "blood",
    "disease": "normal",
    "development_stage": "adult stage",
    "assay": "10x 3' v1",
    "organism": "Homo sapiens",
    "suspension_type": "cell",
}
_ALL_TERMS, _USED_TERMS = ("cl",), ("uberon", "mondo", "hsapdv", "pato")


class _Configs:
    """The four stages' keys, from one TOML file and one seed."""

    def __init__(self, path: Path | None, seed: int) -> None:
        with as_file(files("okrcell.examples") / "quickstart.toml") as shipped:
            source = path or shipped
            flags = {"seed": seed}
            self.corpus = load_config(CorpusConfig, "corpus", source, flags)
            self.enrich = load_config(EnrichConfig, "enrich", source, flags)
            self.train = load_config(TrainConfig, "train", source, flags)
            # Its descriptions name their cell type, and its report says so.
            flags |= {"allow_named_types": True}
            self.evaluate = load_config(EvaluateConfig, "evaluate", source, flags)

    def runs(self) -> dict[str, TrainConfig]:
        """Name to configuration: the model, and its twins that differ in one key."""
        runs = {MODEL: self.train, "label-text": self.train.replace(text_source="label")}
        if self.train.objective != "infonce":
            runs["infonce"] = self.train.replace(objective="infonce")
        return runs


def plan(out: Path, config: Path | None, seed: int) -> dict[str, str]:
    """Say what :func:`run` would do; writes nothing."""
    configs = _Configs(config, seed)
    return {
        "input": f"700 PBMCs that scanpy ships; half of them thinned to {KEEP_SHARE:.0%} as a synthetic batch",
        "corpus": "the Cell Ontology, the terms the profiles need, 14 notes; embedder "
        f"{configs.corpus.embedder}; held out: {', '.join(configs.corpus.hold_out)}",
        "enrich": f"one description per profile by the '{configs.enrich.writer}' writer, no cost",
        "train": f"{', '.join(configs.runs())}: {configs.train.epochs} epochs each, preset "
        f"{configs.train.preset}",
        "evaluate": "six tasks on test cells",
        "robustness": "accuracy after training on wrong labels: three objectives, four rates",
        "report": str(out / "report.html"),
    }


def run(out: Path, config: Path | None, seed: int) -> dict[str, Any]:
    """Run the chain into one folder.

    Returns
    -------
    dict
        Path of the report, headline lines (see ``evaluate.summary.headline``), seconds per stage.
    """
    from okrcell.corpus import build, cells
    from okrcell.corpus.literature import add_literature
    from okrcell.corpus.normalise import read_overrides

    configs = _Configs(config, seed)
    out = Path(out)
    store, job, evaluation = out / "corpus", out / "enrich", out / "evaluate"
    clock = _Clock()
    with writing(out, "quickstart"):
        source = clock("input", lambda: make_input(out / "input", seed))
        build.init_store(store)
        with as_file(files("okrcell.examples")) as examples:
            decided = read_overrides(examples / "pbmc68k_labels.tsv")
            how = CellsConfig(dataset_id=DATASET, columns=_COLUMNS, constants=_CONSTANTS)
            added = clock(
                "corpus: cells",
                lambda: cells.add_cells(store, source["path"], configs.corpus, how, decided),
            )
            clock("corpus: ontologies", lambda: _ontologies(store))
            clock("corpus: notes", lambda: add_literature(store, [examples / "notes"]))
        clock("corpus: search index", lambda: build.build(store, configs.corpus))
        clock("enrich", lambda: _enrich(store, job, configs.enrich))
        runs = {name: out / "train" / name for name in configs.runs()}
        for name, keys in configs.runs().items():
            clock(f"train: {name}", _trainer(store, job, runs[name], keys))
        clock("evaluate", lambda: _evaluate(store, job, evaluation, runs, configs.evaluate))
        planted = clock("robustness", lambda: _robustness(store, job, out, configs.train))
        report = clock(
            "report", lambda: _report(out, evaluation, store, added, planted["rows"], seed)
        )
        return {
            "report": str(report["path"]),
            "headline": report["headline"],
            "seconds": clock.seconds,
        }


class _Clock:
    """Runs a step, says whether it was reused and how long it took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, step: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        start = time.monotonic()
        result = step()
        self.seconds[name] = round(time.monotonic() - start, 1)
        how = "unchanged, reused" if result.get("reused") else "done"
        console.say(f"{name}: {how} ({self.seconds[name]:.1f} s)")
        return result


def make_input(folder: Path, seed: int) -> dict[str, Any]:
    """Write the input h5ad: near-counts of scanpy's 700 PBMCs, half of the cells thinned.

    The file that scanpy ships holds log-normalised values; counts are recovered as the rounded ratio of
    expm1 to the cell's smallest non-zero value. A random half of the cells is thinned binomially and
    forms the batch "thinned (synthetic)": it stands for a shallower run and is no real batch.

    Returns
    -------
    dict
        ``path`` of the file and whether it was ``reused``.
    """
    import anndata
    import numpy as np
    import scanpy

    from okrcell.corpus.expression import recover_counts

    path = folder / f"{DATASET}.h5ad"
    key = {"keep_share": KEEP_SHARE, "seed": seed}
    with writing(folder, "input"):
        if current_manifest(folder, "input", config=key, inputs={}):
            return {"path": path, "reused": True}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shipped = scanpy.datasets.pbmc68k_reduced()
        counts = recover_counts(shipped.raw.X)
        rng = np.random.default_rng(seed)
        thinned = np.zeros(shipped.n_obs, dtype=bool)
        thinned[rng.permutation(shipped.n_obs)[: shipped.n_obs // 2]] = True
        in_thinned = np.repeat(thinned, np.diff(counts.indptr))
        counts.data[in_thinned] = rng.binomial(counts.data[in_thinned].astype(int), KEEP_SHARE)
        counts.eliminate_zeros()
        obs = shipped.obs[["bulk_labels"]].astype(str)
        obs["batch"] = np.where(thinned, THINNED, FULL)
        invalidate(folder)
        with atomic_path(path) as temporary:
            anndata.AnnData(counts, obs=obs, var=shipped.raw.var[[]]).write_h5ad(temporary)
        commit(folder, "input", config=key, inputs={}, files={path.name: shipped.n_obs})
    return {"path": path, "reused": False}


def _ontologies(store: Path) -> dict[str, Any]:
    from okrcell.corpus.terms import add_ontologies

    full = add_ontologies(store, _ALL_TERMS, "all")
    used = add_ontologies(store, _USED_TERMS, "profiles")
    return {"reused": full["reused"] and used["reused"]}


def _enrich(store: Path, job: Path, keys: EnrichConfig) -> dict[str, Any]:
    from okrcell.enrich.job import plan as plan_job
    from okrcell.enrich.job import run as run_job

    planned = plan_job(store, job, keys)
    return planned if planned.get("reused") else run_job(job)


def _trainer(store: Path, job: Path, out: Path, keys: TrainConfig) -> Callable[[], dict[str, Any]]:
    def step() -> dict[str, Any]:
        from okrcell.train.loop import train

        # What stands in the way is an interrupted run of an earlier input: begin anew.
        return train(store, job, out, keys, restart=True)

    return step


def _evaluate(
    store: Path, job: Path, out: Path, runs: dict[str, Path], keys: EvaluateConfig
) -> dict[str, Any]:
    from okrcell.evaluate.run import n_steps
    from okrcell.evaluate.run import run as evaluate
    from okrcell.evaluate.specs import BASELINES, parse_methods
    from okrcell.evaluate.suite import suite_of

    extra = (*BASELINES, "markers", f"{runs[MODEL]}+markers")
    methods = parse_methods([f"{n}={path}" for n, path in runs.items()], keys, extra=extra)
    specs, _ = suite_of([store], descriptions=job)
    with console.progress("Evaluating", n_steps(methods, specs), "steps") as advance:
        return evaluate(methods, specs, out, keys, n_asked=len(runs), progress=advance)


def _robustness(store: Path, job: Path, out: Path, keys: TrainConfig) -> dict[str, Any]:
    from okrcell.evaluate.planted import OBJECTIVES, RATES, planted_curves

    n = len(OBJECTIVES) * len(RATES)
    with console.progress("Training on wrong labels", n, "runs") as advance:
        return planted_curves(store, job, out / "robustness", keys, progress=advance)


def _report(
    out: Path,
    evaluation: Path,
    store: Path,
    added: dict[str, Any],
    planted: list[dict[str, Any]],
    seed: int,
) -> dict[str, Any]:
    from okrcell.corpus import ontology
    from okrcell.corpus.cells import load_mappings
    from okrcell.corpus.genes import GENE_TABLE
    from okrcell.evaluate.report import write_report
    from okrcell.evaluate.summary import headline, load_comparisons, load_results

    context = {
        "title": "okrcell quickstart",
        "subtitle": "A small cell-language model, built from ontologies and notes, trained on 700 blood cells",
        "data_card": {
            "Cells": "700 PBMCs of one healthy donor (10x Genomics, Zheng et al. 2017), as shipped with scanpy",
            "Values": "near-counts recovered from log-normalised values, 765 variable genes",
            "Split": added["split_rule"],
            "Cells per split": console.plain(added["splits"]),
            "Batches": f"'{FULL}' and '{THINNED}': half of the cells, thinned to {KEEP_SHARE:.0%}",
        },
        "gene_coverage": {
            "Gene table": GENE_TABLE,
            "Coverage": added["gene_coverage"],
            **added["genes"],
        },
        "mapping_rows": load_mappings(store).to_pylist(),
        "planted": planted,
        "warnings": [
            "700 cells of one donor: the intervals say nothing about other donors, tissues or laboratories.",
            "The two batches are synthetic: one library, half of its cells thinned by the computer.",
            f"One training seed ({seed}): the comparison with the twins leaves out the variance between "
            "trainings.",
            "The labels were transferred from sorted populations by the data's authors and are not certain.",
        ],
        "commands": [f"okrcell quickstart --out {out.name} --seed {seed}", *_commands(seed)],
        "versions": {name.upper(): ontology.release(name) for name in (*_ALL_TERMS, *_USED_TERMS)},
    }
    with atomic_path(out / "results.parquet") as temporary:
        shutil.copyfile(evaluation / "results.parquet", temporary)
    path = out / "report.html"
    before = path.read_bytes() if path.exists() else b""
    write_report(evaluation, path, context)
    lines = headline(load_results(evaluation), load_comparisons(evaluation))
    return {"path": path, "headline": lines, "reused": path.read_bytes() == before}


def _commands(seed: int) -> list[str]:
    """The same chain, command by command, with CONFIG the file of --config or the one that ships."""
    maps = " ".join(f"--map {field}={column}" for field, column in _COLUMNS.items())
    constants = " ".join(f'--set {field}="{value}"' for field, value in _CONSTANTS.items())
    keys = f"--config CONFIG --seed {seed}"
    train = f"okrcell train run corpus --descriptions enrich {keys}"
    return [
        "okrcell corpus init corpus",
        f"okrcell corpus add-cells corpus input/{DATASET}.h5ad {maps} {constants}"
        f" --overrides examples/pbmc68k_labels.tsv {keys}",
        f"okrcell corpus add-ontology corpus {' '.join(_ALL_TERMS)}",
        f"okrcell corpus add-ontology corpus {' '.join(_USED_TERMS)} --terms profiles",
        "okrcell corpus add-literature corpus examples/notes",
        "okrcell corpus build corpus --config CONFIG",
        f"okrcell enrich plan corpus --out enrich {keys}",
        "okrcell enrich run enrich",
        f"{train} --out train/okrcell",
        f"{train} --out train/label-text --text-source label",
        f"{train} --out train/infonce --objective infonce",
        f"okrcell evaluate run train/okrcell markers train/okrcell+markers --data corpus"
        f" --descriptions enrich --out evaluate {keys}"
        " --twin label-text=train/label-text --twin infonce=train/infonce",
        "okrcell evaluate report evaluate --out report.html",
    ]


def summary_rows(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the columns and rows of the closing table: values, and the model's own interval."""
    lines = result["headline"]
    methods = [
        name
        for name in dict.fromkeys(name for line in lines for name in line["values"])
        if name not in _REFERENCES
    ]
    rows = []
    for line in lines:
        row = [line["task_name"], line["metric_name"]]
        for name in methods:
            cell = line["values"].get(name, {"value": None})
            row.append("" if cell["value"] is None else f"{cell['value']:.3f}")
            if name == MODEL:
                known = cell["value"] is not None and cell["low"] is not None
                row.append(f"{cell['low']:.2f}-{cell['high']:.2f}" if known else "")
        rows.append(row)
    columns = [part for name in methods for part in ([name, "95 %"] if name == MODEL else [name])]
    return ["task", "metric", *columns], rows
