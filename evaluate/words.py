"""Sentences that follow from the numbers and the configuration alone: verdict, methods, limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from okrcell.evaluate.report_data import Dataset, Evaluation
from okrcell.evaluate.report_tables import split_words
from okrcell.evaluate.summary import (
    clear_best,
    compare,
    headline,
    is_lower_better,
    no_rivals,
)

__all__ = ["limits", "methods_paragraph", "verdict"]

_SMALL_TEST = 1000
_FEW_DONORS = 5


def verdict(ev: Evaluation) -> list[str]:
    """Return what the numbers say of the main method, the good and the bad, in sentences."""
    asked = [question for dataset in ev.datasets for question in _questions(ev, dataset)]
    if not asked:
        return [f"No headline number was measured for {ev.main or 'any method'}."]
    best = [q for q in asked if q["best"] == ev.main]
    behind = [q for q in asked if q["better"]]
    level = len(asked) - len(best) - len(behind)
    how = (
        "by paired tests, corrected for their number,"
        if ev.comparisons
        else "beyond the 95 % intervals"
    )
    said = [
        f"{_where(ev)}, {ev.main} is the best method {how} in {len(best)} of {len(asked)} headline "
        f"numbers, behind at least one other in {len(behind)}, and not to be told apart from the best "
        f"in {level}."
    ]
    said += _zero_shot_sentence(ev)
    if best:
        said.append(f"Best in {_gathered(best, len(ev.datasets))}.")
    if behind:
        said.append(f"Behind in {_gathered(behind, len(ev.datasets), ev.main)}.")
    others = [name for name in ev.details.get("asked") or () if name != ev.main]
    others += [name for name in ev.details.get("checkpoints") or () if name != ev.main]
    for other in dict.fromkeys(others):
        known = [how for how in (q["against"](other) for q in asked) if how is not None]
        if known:
            said.append(
                f"Against {other}: ahead in {known.count(1)}, behind in {known.count(-1)}, "
                f"level in {known.count(0)} of {len(known)} headline numbers."
            )
    return said


def _where(ev: Evaluation) -> str:
    n_test = sum(dataset.data.get("n_test", 0) for dataset in ev.datasets)
    if len(ev.datasets) > 1:
        return f"On {n_test:,} test cells of {len(ev.datasets)} datasets"
    data = ev.datasets[0].data
    unseen = len(data.get("unseen") or ())
    tail = f", {unseen} of them never trained on" if unseen else ", all of them seen in training"
    return (
        f"On {n_test} test cells of {ev.datasets[0].key} "
        f"({len(data.get('test_types') or ())} types{tail})"
    )


def _questions(ev: Evaluation, dataset: Dataset) -> list[dict[str, Any]]:
    """Return one entry per headline number of a dataset that the main method has."""
    rows = [row for row in ev.rows if row["dataset"] == dataset.key]
    found = []
    for line in headline(rows):
        metric, values = line["metric"], line["values"]
        if ev.main not in values or values[ev.main]["value"] is None:
            continue
        decided = ev.decided.get((dataset.key, line["task"], metric))

        def against(
            other: str,
            metric: str = metric,
            values: Mapping[str, Any] = values,
            decided: Any = decided,
        ) -> int | None:
            return compare(metric, values, ev.main, other, decided)

        rivals = sorted(set(values) - {ev.main} - no_rivals(metric))
        found.append(
            {
                **line,
                "dataset": dataset.key,
                "best": clear_best(metric, values, decided),
                "better": [name for name in rivals if against(name) == -1],
                "against": against,
            }
        )
    return found


def _gathered(questions: Sequence[Mapping[str, Any]], n_datasets: int, main: str = "") -> str:
    """Name the headline numbers by task; with several datasets, each once and on how many of them.

    With ``main`` on one dataset its value stands beside that of the best that beats it.
    """
    found: dict[str, list[str]] = {}
    counts: dict[tuple[str, str], int] = {}
    for q in questions:
        key = q["task_name"].lower(), q["metric_name"]
        counts[key] = counts.get(key, 0) + 1
        words = q["metric_name"]
        if main and n_datasets == 1:
            sign = -1 if is_lower_better(q["metric"]) else 1
            best = max(q["better"], key=lambda name: sign * q["values"][name]["value"])
            words += f" {q['values'][main]['value']:.2f}; {best} {q['values'][best]['value']:.2f}"
        found.setdefault(key[0], []).append(words)
    if n_datasets > 1:
        found = {task: [] for task, _ in counts}
        for (task, metric), n in counts.items():
            found[task].append(f"{metric}: {n} of {n_datasets}")
    return "; ".join(f"{task} ({' | '.join(words)})" for task, words in found.items())


def _zero_shot_sentence(ev: Evaluation) -> list[str]:
    """Return the shares of cells that are named right, for one dataset."""
    if len(ev.datasets) != 1:
        return []
    rows = ev.of(ev.datasets[0].key, "zero_shot")
    parts = []
    for metric, words in (("accuracy (seen)", "seen"), ("accuracy (unseen)", "unseen")):
        values = {row["method"]: row for row in rows if row["metric"] == metric}
        mine = values.pop(ev.main, None)
        if mine is None or mine["value"] is None:
            continue
        known = {name: row for name, row in values.items() if row["value"] is not None}
        best = max(known, key=lambda name: known[name]["value"], default=None)
        beside = f"; best other, {best}: {_percent(known[best]['value'])}" if best else ""
        spread = (
            f" (interval {_percent(mine['ci_low'])} to {_percent(mine['ci_high'])})"
            if mine["ci_low"] is not None and mine["ci_high"] is not None
            else ""
        )
        parts.append(f"{_percent(mine['value'])}{spread} of the cells of {words} types{beside}")
    if not parts:
        return []
    n_types = len(ev.datasets[0].data.get("test_types") or ())
    return [
        f"By text alone it names the right one of {n_types} types for {', and for '.join(parts)}. Seen "
        "types had labelled cells in training; unseen types had none."
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


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
        f"Intervals are 95 % percentile bootstrap intervals over {unit}{draws}, unless said otherwise."
    )
    if ev.comparisons:
        parts.append(
            "Methods were compared in pairs on the same resamples, two-sided; p-values were corrected "
            "by Holm's method over all pairs of methods and datasets within a metric, and differences "
            "with a corrected p below 0.05 are called clear."
        )
    seeds = s.get("seeds")
    if seeds:
        first = s.get("seed", 0)
        listed = f"{first}" if seeds == 1 else f"{first} to {first + seeds - 1}"
        parts.append(f"Methods that depend on chance were run with seeds {listed}, others once.")
    parts.append("No setting was chosen on test cells.")
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
        f"Clustering: Leiden{near}{span}, scored by ARI, AMI, NMI, ASW cell and AvgBIO, with the "
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
        "and a linear head on the frozen embedding; intervals hold 95 % of the episodes."
    )


def _retrieval(s: Mapping[str, Any]) -> str:
    fold = f" on folds of at most {s['fold']:,} pairs" if s.get("fold") else ""
    return (
        f"Retrieval: recall at k, MRR and median rank both ways{fold}, strict (one right item, beside "
        "the ceiling that duplicate texts impose) and graded (any item with the same text)."
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
    if ev.details.get("checkpoints"):
        said.append("One training per trained model: the variance between trainings is not shown.")
    said.append(
        "Cell type labels are taken as the data name them. Where their authors transferred them by "
        "computer, agreement with them is not truth."
    )
    return said
