"""Words for tasks, metrics and their variants, and how to read each task."""

from __future__ import annotations

__all__ = ["ASKED", "METRIC_NAMES", "READ", "TASK_NAMES", "metric_name", "scope_name"]

TASK_NAMES = {
    "clustering": "Clustering",
    "annotation": "Annotation",
    "batch": "Batch correction",
    "few_shot": "Few-shot annotation",
    "zero_shot": "Zero-shot annotation",
    "retrieval": "Retrieval",
    "robustness": "Robustness",
}

METRIC_NAMES = {
    "ari": "ARI",
    "ami": "AMI",
    "nmi": "NMI",
    "asw_cell": "ASW cell",
    "avg_bio": "AvgBIO",
    "accuracy": "Accuracy",
    "macro_f1": "Macro-F1",
    "top3": "Top-3 accuracy",
    "top5": "Top-5 accuracy",
    "ontology_credit": "Ontology credit",
    "auroc": "AUROC",
    "coverage": "Share of cells named",
    "ece": "Calibration error (lower is better)",
    "isolated_labels": "Isolated labels",
    "kmeans_nmi": "KMeans NMI",
    "kmeans_ari": "KMeans ARI",
    "silhouette_label": "Silhouette, label",
    "clisi": "cLISI",
    "silhouette_batch": "Silhouette, batch",
    "graph_connectivity": "Graph connectivity",
    "pcr_comparison": "PCR comparison",
    "ilisi": "iLISI",
    "kbet": "kBET",
    "avg_bio_b": "AvgBIO-B",
    "avg_batch": "AvgBATCH",
    "median_rank": "Median rank (lower is better)",
}

_SCOPE_NAMES = {
    "seen": "seen types",
    "unseen": "unseen types among all",
    "unseen_only": "unseen types among unseen",
    "all": "all types",
    "linear": "linear probe",
    "knn": "kNN",
    "own": "its own classifier",
    "chosen": "head chosen on validation",
    "label": "by bare label",
    "prompts": "by prompts around the label",
    "description": "by description",
    "tissue CL": "among Cell Ontology terms of the tissue",
    "all CL": "among all Cell Ontology terms",
    "answered": "cells that are named",
    "best": "resolution chosen by label",
    "label-free": "label-free resolution",
}

ASKED = {
    "clustering": "Do groups found in the embedding agree with the cell types?",
    "annotation": "How well are cell types read off by what was fitted on labelled train cells?",
    "batch": "Is technical origin gone while cell types stay apart?",
    "few_shot": "With K labelled cells per type, how many of the others are named right?",
    "zero_shot": "By text alone: is the nearest text that of the right type?",
    "retrieval": "Is a cell's own text found among all texts, and a text's cell among all cells?",
    "robustness": "What is left when genes or molecules of the test cells are lost?",
}
READ = {
    "clustering": "Leiden, and Louvain where a table says so, over a range of resolutions. “Chosen by label” "
    "takes the resolution that agrees best with the labels, as the paper does: it looks at the answer. "
    "“Label-free” takes the one with the best silhouette of its clusters. AvgBIO is the mean of ARI, NMI and "
    "ASW cell.",
    "annotation": "Only test cells of types that occur in train. Linear probe: logistic regression on the "
    "scaled frozen embedding; kNN on the same; own: the method's own classifier; fine-tuned: the whole "
    "network trained further. What is chosen is chosen on validation cells.",
    "batch": "AvgBIO-B is the mean of the first five indicators, AvgBATCH of the next three; iLISI and kBET "
    "stand beside them. Overall is 0.6 AvgBIO-B + 0.4 AvgBATCH, the weights of scIB. PCR comparison is 0 for "
    "pca by definition. random mixes batches perfectly and knows no biology: read both groups. Intervals: "
    "delete-d jackknife over subsamples.",
    "few_shot": "Support and query cells come from the test split and are disjoint. Intervals allow for other "
    "cells and for other support cells.",
    "zero_shot": "Candidates are the texts of all types, unless a table names another set: terms of the Cell "
    "Ontology, of the tissue or all. “Unseen among all” is the honest question; “unseen among unseen” leaves "
    "out the seen candidates and is easier. Ontology credit is 1 / (1 + d), d being the is-a steps in the "
    "Cell Ontology between the true and the predicted type. Confidence and the threshold of “unknown” are "
    "set on validation cells.",
    "retrieval": "Strict: only the cell's own copy of a text is right, although cells with the same "
    "description share it; the duplicate ceiling is the most that any method can reach. Graded: any cell "
    "with the same text is right; same type: any text of the type; ontology-near: types at most two is-a "
    "steps away too. Ties count by expectation.",
    "robustness": "What was fitted on whole train cells, asked about damaged test cells; nothing is fitted "
    "again. Only methods that can encode new cells.",
}


def metric_name(metric: str) -> str:
    """Return a metric's name for people: ``accuracy (seen)`` becomes ``Accuracy, seen types``."""
    base, _, scope = metric.partition(" (")
    scope = scope.rstrip(")")
    name = METRIC_NAMES.get(base, base)
    return f"{name}, {scope_name(scope)}" if scope else name


def scope_name(scope: str) -> str:
    """Return the words for what stands in brackets behind a metric."""
    return ", ".join(_SCOPE_NAMES.get(part, part) for part in scope.split(", "))
