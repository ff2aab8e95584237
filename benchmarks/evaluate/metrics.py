"""Every metric beside an independent implementation, on real cells.

python benchmarks/evaluate/metrics.py --data ../shared/data --out metrics.json
python benchmarks/evaluate/metrics.py --data ../shared/data --scib-python VENV/bin/python --out metrics.json

References: scikit-learn, scib-metrics and, with ``--scib-python`` (a Python that has it: its versions of
numpy and scanpy are its own affair), the original scib. The embedding is a PCA of log1p counts per
10,000; for the batch metrics 60 % of each batch's mean is taken off, which gives them something to see.

scib's LISI needs a helper program that was built for newer systems than some: where it does not start,
compile it as its README says (``g++ -std=c++11 -O3 knn_graph.cpp -o knn_graph.o`` in the package's
folder ``knn_graph``); else these lines are left out. scib's kBET needs R and is not asked.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

Line = tuple[str, float, float, str]

FILES = ("pancreas_panc8_5techs_500", "pbmc_kang_ifnb_2donors")
MAX_CELLS = 3000
CORRECTED = 0.6
REMARKS = {
    "kmeans_nmi": "best of five starts here, one start there",
    "kmeans_ari": "best of five starts here, one start there",
    "kbet": "exact diffusion neighbours without the stationary component here, with it and approximate there",
    "graph_connectivity (scib)": "strong connection in the directed graph of 15 neighbours here, the undirected graph there",
    "clisi (scib)": "90 nearest cells here, 90 nearest by shortest paths in a graph of 15 neighbours there",
    "ilisi (scib)": "90 nearest cells here, 90 nearest by shortest paths in a graph of 15 neighbours there",
    "isolated_labels (scib)": "no type is in fewer batches than the others: all count here and in scib-metrics, none there",
    "ami (draws' form)": "mutual information of chance taken for the cells as they are",
}
"""Why a value is not the reference's, by metric."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of development data")
    parser.add_argument("--only", nargs="*", default=list(FILES), help="files, without .h5ad")
    parser.add_argument("--scib-python", type=Path, help="a Python that has the original scib")
    parser.add_argument("--out", type=Path, help="JSON for the page of benchmarks")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(original_scib(arguments.worker)))
        return
    if arguments.data is None or arguments.out is None:
        parser.error("--data and --out are required")
    from output import publish

    scib_python = arguments.scib_python or os.environ.get("SCIB_PYTHON")
    warnings.simplefilter("ignore")
    tables = []
    for name in arguments.only:
        cells = read(arguments.data / "cells" / f"{name}.h5ad")
        if cells is not None:
            tables.append(
                table(name, cells, lines(cells, Path(scib_python) if scib_python else None))
            )
    publish(
        {
            "title": "Metrics against references",
            "command": "SCIB_PYTHON=VENV/bin/python python benchmarks/evaluate/run.py --data ../shared/data --only metrics",
            "tables": tables,
            "notes": [
                "The same cells, clusters and neighbours go to both. Hand-worked cases and invariances are in tests/.",
                "Values of the original scib and of scib-metrics are not to be mixed.",
            ],
        },
        arguments.out,
    )


def read(path: Path) -> dict[str, np.ndarray] | None:
    """Return PCA before and after a plain correction, labels and batches; None without labels."""
    import anndata
    from scipy import sparse
    from sklearn.decomposition import PCA

    found = anndata.read_h5ad(path)
    if "cell_type" not in found.obs or found.obs["cell_type"].nunique() < 2:
        return None
    found = found[found.obs["cell_type"].astype(str) != "unknown"]
    if found.n_obs > MAX_CELLS:
        kept = np.random.default_rng(0).permutation(found.n_obs)[:MAX_CELLS]
        found = found[np.sort(kept)]
    counts = sparse.csr_matrix(found.X, dtype=np.float64)
    depth = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
    logs = sparse.diags(1e4 / depth) @ counts
    logs.data = np.log1p(logs.data)
    n_components = min(50, *(side - 1 for side in logs.shape))
    before = PCA(n_components, svd_solver="arpack", random_state=0).fit_transform(logs.tocsr())
    labels = found.obs["cell_type"].astype(str).to_numpy(dtype=str)
    batches = (
        found.obs["batch"].astype(str).to_numpy(dtype=str)
        if "batch" in found.obs
        else np.full(found.n_obs, "one")
    )
    after = before.copy()
    for name in np.unique(batches):
        after[batches == name] -= CORRECTED * after[batches == name].mean(axis=0)
    return {
        "before": before.astype(np.float32),
        "after": after.astype(np.float32),
        "labels": labels,
        "batches": batches,
    }


def lines(cells: dict[str, np.ndarray], scib_python: Path | None) -> list[Line]:
    found = [*of_clustering(cells), *of_annotation(cells)]
    if len(np.unique(cells["batches"])) > 1:
        found += of_batches(cells, scib_python)
    return found


def of_clustering(cells: dict[str, np.ndarray]) -> list[Line]:
    from sklearn import metrics

    from okrcell.evaluate.agreement import ami_of, ari_of, chance_information, contingency, nmi_of
    from okrcell.evaluate.clustering import communities, neighbour_graph, silhouettes
    from okrcell.evaluate.intervals import Bootstrap

    embedding = cells["before"]
    truth = np.unique(cells["labels"], return_inverse=True)[1]
    graph = neighbour_graph(embedding, 15, 0)
    groups = communities(graph, "leiden", (1.0,), [0])[0, 0]
    n = len(truth)
    tables, whole = contingency(truth, groups), np.ones((1, n))
    one = tables(whole)
    chance = chance_information(one[0])
    ours = silhouettes(metrics.pairwise_distances(embedding.astype(float)), truth[None])[0]
    weights = Bootstrap(n, 1, 0).apply(np.copy)
    again = np.repeat(np.arange(n), weights[0].astype(int))
    return [
        ("ari", ari_of(one)[0], metrics.adjusted_rand_score(truth, groups), "scikit-learn"),
        ("ami", ami_of(one, chance)[0], metrics.adjusted_mutual_info_score(truth, groups), "scikit-learn"),
        ("nmi", nmi_of(one)[0], metrics.normalized_mutual_info_score(truth, groups), "scikit-learn"),
        (
            "ami (draws' form)",
            ami_of(tables(weights), chance)[0],
            metrics.adjusted_mutual_info_score(truth[again], groups[again]),
            "scikit-learn, cells repeated",
        ),
        ("asw_cell", (ours + 1) / 2, (metrics.silhouette_score(embedding, truth) + 1) / 2, "scikit-learn"),
    ]  # fmt: skip


def of_annotation(cells: dict[str, np.ndarray]) -> list[Line]:
    from sklearn import metrics
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    from okrcell.evaluate.annotation import probe_linear, probe_neighbors
    from okrcell.evaluate.intervals import accuracy_of, confusions, macro_f1_of

    embedding, labels = cells["before"], cells["labels"]
    train = np.random.default_rng(0).random(len(labels)) < 0.7
    asked = ~train & np.isin(labels, labels[train])
    types, truth = np.unique(labels, return_inverse=True)
    centre, scale = embedding[train].mean(axis=0), embedding[train].std(axis=0)
    overall = float(np.sqrt(np.mean(scale.astype(float) ** 2)))
    heads: dict[str, tuple[np.ndarray, Any]] = {
        "linear": (
            probe_linear(embedding[train], labels[train], embedding[asked], 0),
            make_pipeline(
                FunctionTransformer(lambda x: (x - centre) / overall),
                LogisticRegression(max_iter=5000, tol=1e-6),
            ),
        ),
        "knn": (
            probe_neighbors(embedding[train], labels[train], embedding[asked], 15),
            KNeighborsClassifier(15),
        ),
    }
    found = []
    for head, (predicted, reference) in heads.items():
        theirs = reference.fit(embedding[train], labels[train]).predict(embedding[asked])
        table = confusions(truth[asked], np.searchsorted(types, predicted), len(types))(
            np.ones((1, int(asked.sum())))
        )
        expected = (
            metrics.accuracy_score(labels[asked], theirs),
            metrics.f1_score(
                labels[asked],
                theirs,
                labels=np.unique(labels[asked]),
                average="macro",
                zero_division=0,
            ),
        )
        ours = accuracy_of(table)[0], macro_f1_of(table)[0]
        for metric, a, b in zip(("accuracy", "macro_f1"), ours, expected, strict=True):
            found.append((f"{metric} ({head})", a, b, "scikit-learn, fitted anew"))
    return found


def of_batches(cells: dict[str, np.ndarray], scib_python: Path | None) -> list[Line]:
    from okrcell.evaluate.batch import indicators
    from okrcell.evaluate.libraries import scib_metrics

    before, after, labels, batches = (
        cells[name] for name in ("before", "after", "labels", "batches")
    )
    ours = indicators(after, before, labels, batches, 0)
    scib = scib_metrics()
    nearest = scib.nearest_neighbors.pynndescent(after, n_neighbors=90, random_state=0)
    graph = {k: nearest.subset_neighbors(k) for k in (15, 50, 90)}
    kmeans = scib.nmi_ari_cluster_labels_kmeans(after, labels)
    theirs = {
        "isolated_labels": scib.isolated_labels(after, labels, batches),
        "kmeans_nmi": kmeans["nmi"],
        "kmeans_ari": kmeans["ari"],
        "silhouette_label": scib.silhouette_label(after, labels),
        "clisi": scib.clisi_knn(graph[90], labels),
        "silhouette_batch": scib.silhouette_batch(after, labels, batches),
        "graph_connectivity": scib.graph_connectivity(graph[15], labels),
        "pcr_comparison": scib.pcr_comparison(before, after, batches, categorical=True),
        "ilisi": scib.ilisi_knn(graph[90], batches),
        "kbet": scib.kbet_per_label(graph[50], batches, labels),
    }
    found: list[Line] = [
        (name, ours[name], float(value), "scib-metrics") for name, value in theirs.items()
    ]
    if scib_python is not None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "cells.npz"
            np.savez(path, **cells)
            command = [str(scib_python), "-W", "ignore", __file__, "--worker", str(path)]
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        original = json.loads(answer.splitlines()[-1])
        version = original.pop("version")
        found += [
            (f"{name} (scib)", ours[name], value, f"scib {version}")
            for name, value in original.items()
        ]
    return found


def original_scib(path: Path) -> dict[str, Any]:
    """Run in the Python that has scib: its values on the cells of an npz file."""
    import anndata
    import scanpy
    import scib

    warnings.simplefilter("ignore")
    cells = np.load(path)
    after = anndata.AnnData(cells["after"])
    after.obs["label"], after.obs["batch"] = cells["labels"], cells["batches"]
    for column in ("label", "batch"):
        after.obs[column] = after.obs[column].astype("category")
    after.obsm["X_emb"] = cells["after"]
    scanpy.pp.neighbors(after, n_neighbors=15, use_rep="X_emb", random_state=0)
    before = after.copy()
    before.obsm["X_pca"] = cells["before"]
    before.uns["pca"] = {"variance": cells["before"].var(axis=0, ddof=1)}
    both = {"batch_key": "batch", "label_key": "label", "embed": "X_emb", "verbose": False}
    values = {
        "isolated_labels": scib.me.isolated_labels_asw(after, **both),
        "silhouette_label": scib.me.silhouette(after, label_key="label", embed="X_emb"),
        "silhouette_batch": scib.me.silhouette_batch(after, **both),
        "graph_connectivity": scib.me.graph_connectivity(after, label_key="label"),
        "pcr_comparison": scib.me.pcr_comparison(
            before, after, covariate="batch", embed="X_emb", linreg_method="sklearn"
        ),
    }
    try:
        values["clisi"] = scib.me.clisi_graph(after, label_key="label", type_="embed")
        values["ilisi"] = scib.me.ilisi_graph(after, batch_key="batch", type_="embed")
    except FileNotFoundError:  # what its program should have written
        print("scib's LISI program does not start here: see the head of this file", file=sys.stderr)
    return {name: float(value) for name, value in values.items()} | {"version": scib.__version__}


def table(name: str, cells: dict[str, np.ndarray], found: list[Line]) -> dict[str, Any]:
    labels, batches = len(np.unique(cells["labels"])), len(np.unique(cells["batches"]))
    rows = []
    for metric, ours, theirs, which in found:
        gap = abs(ours - theirs)
        why = "" if gap <= 5e-5 else REMARKS.get(metric, "")
        label = metric.removesuffix(" (scib)")
        rows.append([f"`{label}`", f"{ours:.4f}", f"{theirs:.4f}", which, f"{gap:.4f}", why])
    return {
        "caption": f"{name}: {len(cells['labels'])} cells, {labels} types, {batches} batches",
        "columns": ["metric", "ours", "reference", "which", "difference", "why"],
        "rows": rows,
    }


if __name__ == "__main__":
    sys.exit(main())
