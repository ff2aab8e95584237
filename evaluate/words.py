"""Sentences for a paper that follow from the configuration and the facts alone: methods, limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from okrcell.evaluate.report_data import Dataset, Evaluation, split_words

__all__ = ["limits", "methods_paragraph"]

_SMALL_TEST = 1000
_FEW_DONORS = 5


def methods_paragraph(ev: Evaluation, versions: Mapping[str, str]) -> str:
    """Return the paragraph on methods for a paper, from the configuration and the facts."""
    s = ev.settings
    parts = [
        f"{_listed(list(ev.methods))} were evaluated with okrcell {ev.manifest.producer} on "
        f"{len(ev.datasets)} dataset{'s' if len(ev.datasets) != 1 else ''}: "
        + "; ".join(_data_words(dataset) for dataset in ev.datasets)
        + "."
    ]
    parts += [_TASK_WORDS[task](s) for task in ev.tasks]
    units = {dataset.data.get("interval_unit", "cells") for dataset in ev.datasets}
    unit = " or ".join(sorted(units))
    if len(units) > 1:
        unit += f" (donors where at least {_FEW_DONORS} are named in the test split)"
    draws = f" ({s['bootstrap']:,} resamples)" if s.get("bootstrap") else ""
    parts.append(
        f"Intervals are 95 % bootstrap intervals over {unit}{draws}: percentiles "
        "where cells are resampled, Student's t where donors or texts are; a delete-d jackknife over cells "
        "for batch correction. Models, probes and clusters were held fixed; draws of clustering, macro-F1 "
        "and calibration error were centred on the value."
    )
    if ev.comparisons:
        parts.append(
            "Methods were compared in pairs on the same resamples: the difference over the standard "
            "error that its resampled values tell, against Student's t with the degrees of freedom of what was "
            "resampled, two-sided; p-values were corrected by Holm's method over all pairs of methods (floors "
            "such as random left out) and datasets within a metric, not across metrics, and differences "
            "with a corrected p below 0.05 are called clear."
        )
    seeds = s.get("seeds")
    if seeds:
        first = s.get("seed", 0)
        listed = f"{first}" if seeds == 1 else f"{first} to {first + seeds - 1}"
        parts.append(f"Methods whose seed can be set were run with seeds {listed}, others once.")
    parts.append(
        "No setting was chosen on test cells, but for the resolution of clustering where it says 'best'. "
        "For embeddings that came with the data this cannot be vouched for."
    )
    if versions:
        parts.append(
            "Software: "
            + ", ".join(f"{name} {version}" for name, version in versions.items())
            + "."
        )
    return " ".join(parts)


def _data_words(dataset: Dataset) -> str:
    data = dataset.data
    split = split_words(dataset.entry)
    further = [split_words(entry) for _, entry in dataset.splits]
    also = f", for annotation also {_listed(further)}" if further else ""
    validation = f", {data['n_validation']:,} validation" if data.get("n_validation") else ""
    unseen = len(data.get("unseen") or ())
    unseen_words = f", {unseen} of them unseen in training" if unseen else ""
    donors = f", {data['donors']} donors" if data.get("donors") else ""
    return (
        f"{dataset.key} ({data.get('n_train', 0):,} training{validation} and "
        f"{data.get('n_test', 0):,} test cells, {data.get('n_genes', 0):,} genes, "
        f"{len(data.get('test_types') or ())} cell types in the test split{unseen_words}{donors}; "
        f"split {split}{also})"
    )


def _clustering(s: Mapping[str, Any]) -> str:
    found = s.get("resolutions") or ()
    span = f" at resolutions {min(found):g} to {max(found):g}" if found else ""
    near = f" on the graph of {s['n_neighbors']} neighbours" if s.get("n_neighbors") else ""
    return (
        f"Clustering: Leiden and Louvain{near}{span}, scored by ARI, AMI, NMI, ASW cell and AvgBIO, with the "
        "resolution chosen by label and, apart from it, by silhouette without labels."
    )


def _batch(s: Mapping[str, Any]) -> str:
    size = f" on at most {s['max_cells']:,} cells" if s.get("max_cells") else ""
    return (
        f"Batch correction: scib-metrics{size}; AvgBIO-B is the mean of isolated labels, KMeans NMI, "
        "KMeans ARI, silhouette label and cLISI, AvgBATCH that of silhouette batch, graph connectivity "
        "and PCR comparison; iLISI and kBET are given beside them; intervals are delete-d jackknife "
        "intervals over subsamples."
    )


def _few_shot(s: Mapping[str, Any]) -> str:
    shots = _listed([str(k) for k in s.get("shots") or ()])
    draws = f"{s['episodes']} episodes" if s.get("episodes") else "episodes"
    return (
        f"Few-shot annotation: K = {shots or 'few'} labelled cells per type, {draws}, nearest prototype "
        "and a logistic head on the frozen embedding; intervals allow for other cells and other support "
        "cells."
    )


def _retrieval(s: Mapping[str, Any]) -> str:
    fold = f" on folds of at most {s['fold']:,} pairs" if s.get("fold") else ""
    return (
        f"Retrieval: recall at k, MRR and median rank both ways{fold}, strict (one right item, beside "
        "the ceiling that duplicate texts impose), graded (any item with the same text), of the same type, "
        "and near in the Cell Ontology."
    )


def _robustness(s: Mapping[str, Any]) -> str:
    parts = []
    if s.get("dropout"):
        shares = _listed([f"{100 * x:g} %" for x in s["dropout"]])
        parts.append(f"{shares} of the genes set to zero")
    if s.get("thinning"):
        shares = _listed([f"{100 * x:g} %" for x in s["thinning"]])
        parts.append(f"{shares} of the molecules kept")
    return f"Robustness: the same scores with {'; '.join(parts) or 'damaged'} in the test cells."


_TASK_WORDS = {
    "clustering": _clustering,
    "annotation": lambda s: (
        "Annotation: logistic regression and kNN fitted on the frozen embeddings of training cells, and "
        "each method's own classifier where it has one, scored by accuracy and macro-F1 on test cells "
        "of types that occur in training."
    ),
    "batch": _batch,
    "few_shot": _few_shot,
    "zero_shot": lambda s: (
        "Zero-shot annotation: the type whose text is nearest to the cell, scored by accuracy, "
        "macro-F1, top-k accuracy and ontology credit, for seen and unseen types apart."
    ),
    "retrieval": _retrieval,
    "robustness": _robustness,
}


def _listed(words: Sequence[str]) -> str:
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def limits(ev: Evaluation) -> list[str]:
    """Return what these data can and cannot tell, from their facts."""
    every = ev.datasets
    said = []
    if len(every) == 1:
        said.append(
            "One dataset: nothing here shows how a method does on another laboratory's cells."
        )
    tissues = sorted({str(d.data.get("tissue")) for d in every if d.data.get("tissue")})
    if tissues:
        said.append(f"Tissues covered: {', '.join(tissues)}; others may behave differently.")
    small = [d.key for d in every if d.data.get("n_test", 0) < _SMALL_TEST]
    if small:
        said.append(
            f"Fewer than {_SMALL_TEST:,} test cells in {', '.join(small)}: differences of a few points "
            "there are noise, as the intervals show."
        )
    few = [d.key for d in every if d.data.get("interval_unit", "cells") != "donors"]
    if few:
        said.append(
            f"Intervals resample cells, not donors, in {', '.join(few)}: they say nothing about new "
            "donors there."
        )
    known = [d.key for d in every if not d.data.get("unseen")]
    if known and "zero_shot" in ev.tasks:
        said.append(
            f"Every test type occurs in training in {', '.join(known)}: naming unseen types could not "
            "be asked there."
        )
    one = [d.key for d in every if len(d.data.get("batches") or ()) < 2]
    if one and "batch" in ev.tasks:
        said.append(f"One batch in {', '.join(one)}: batch correction could not be asked there.")
    bare = [d.key for d in every if d.data.get("text_kind") == "label"]
    if bare and {"zero_shot", "retrieval"} & set(ev.tasks):
        said.append(
            f"Texts are bare labels in {', '.join(bare)}: there the cross-modal tasks measure how well "
            "names are told apart, not descriptions."
        )
    chance = [
        d.key
        for d in every
        if d.entry.get("split") == "random"
        and not any(e.get("split") == "donor" for _, e in d.splits)
    ]
    if chance:
        said.append(
            f"Test cells were drawn at random in {', '.join(chance)}: cells of the same donors are in "
            "training, which flatters every method that learns from it."
        )
    single = [
        name
        for name, card in (ev.details.get("checkpoints") or {}).items()
        if "," not in str(card.get("sha256", ""))
    ]
    if single:
        said.append(
            f"One training of {', '.join(single)}: the variance between trainings is not shown."
        )
    said.append(
        "Seen and unseen are types with and without cells in the train split of these data. A model that "
        "was trained elsewhere may have seen unseen types, and may not have seen seen ones."
    )
    few = [
        d.key
        for d in every
        if d.data.get("interval_unit") == "cells" and 0 < int(d.data.get("donors") or 0)
    ]
    if few:
        said.append(
            f"Fewer than five test donors in {', '.join(few)}: clear differences there hold for other cells "
            "of these donors, not for other donors."
        )
    said.append(
        "Cell type labels are taken as the data name them. Where their authors transferred them by "
        "computer, agreement with them is not truth."
    )
    return said
