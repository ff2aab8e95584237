"""One self-contained HTML file from an evaluation: readable on a phone, on paper and in the dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from okrcell.artifacts import atomic_write
from okrcell.evaluate.export import export_tables_and_figures
from okrcell.evaluate.folder import UNITS
from okrcell.evaluate.planted import planted_figure
from okrcell.evaluate.report_data import (
    Dataset,
    Details,
    Evaluation,
    clean,
    load_evaluation,
    notes,
    package_versions,
    split_words,
)
from okrcell.evaluate.report_figures import maps, task_figures
from okrcell.evaluate.report_listings import comparison_table, type_table
from okrcell.evaluate.report_names import ASKED, READ, TASK_NAMES
from okrcell.evaluate.report_tables import (
    dataset_summaries,
    summary_table,
    task_tables,
)
from okrcell.evaluate.report_verdict import verdict
from okrcell.evaluate.words import limits, methods_paragraph

__all__ = ["environment", "export_tables_and_figures", "write_report"]

_MOST_TESTS = 400
"""Beyond this many paired tests the page shows those of the main method alone."""

_MOST_NOTES = 12
"""Beyond this many the others are folded."""


def write_report(eval_dir: Path, out_html: Path, context: Mapping[str, Any] | None = None) -> None:
    """Write the report of an evaluation folder.

    Parameters
    ----------
    context
        What only the caller knows; all keys are optional. ``title`` and ``subtitle`` (str);
        ``warnings`` and ``commands`` (lists of str); ``data_card``, ``gene_coverage`` and
        ``versions`` (mappings to text or numbers); ``mapping_rows`` (list of mappings with the
        columns of the ``mappings`` table); ``planted`` (rows of
        :func:`okrcell.evaluate.planted.planted_curves`).

    Raises
    ------
    ManifestError
        The folder is not a finished evaluation.
    """
    context = clean(context or {}, mark_blanks=False)
    ev = load_evaluation(eval_dir)
    versions = {**package_versions(), **context.get("versions", {})}
    several = len(ev.datasets) > 1
    told = notes(ev, context.get("warnings", ()))
    out_html.parent.mkdir(parents=True, exist_ok=True)
    page = environment().get_template("report.html.j2")
    html = page.render(
        title=context.get("title", "okrcell evaluation"),
        subtitle=context.get("subtitle", ""),
        main=ev.main,
        several=several,
        verdict=verdict(ev),
        warnings=told[:_MOST_NOTES],
        more_warnings=told[_MOST_NOTES:],
        facts=_facts(ev),
        summary=summary_table(ev),
        is_tested=bool(ev.comparisons),
        dataset_summaries=dataset_summaries(ev) if several else [],
        umaps=[
            {"key": dataset.key, "figures": found}
            for number, dataset in enumerate(ev.datasets, 1)
            if (found := maps(ev, dataset, number))
        ],
        methods=ev.methods,
        tasks=[_task(ev, task) for task in ev.tasks],
        planted=planted_figure(context["planted"]) if context.get("planted") else None,
        tests=comparison_table(ev, _MOST_TESTS),
        n_tests=len(ev.comparisons),
        examples=_examples(ev),
        datasets=[_card(dataset, number) for number, dataset in enumerate(ev.datasets, 1)],
        data_card=context.get("data_card", {}),
        mapping_rows=context.get("mapping_rows", []),
        gene_coverage=context.get("gene_coverage", {}),
        commands=context.get("commands", []),
        versions=versions,
        runs=ev.details.get("checkpoints") or {},
        inputs=clean(ev.manifest.inputs),
        files={
            name: entry["sha256"]
            for name, entry in ev.manifest.files.items()
            if not name.startswith(f"{UNITS}/")  # one for each task, method and dataset
        },
        producer=ev.manifest.producer,
        settings={key: _setting(value) for key, value in clean(ev.settings).items()},
        paragraph=methods_paragraph(ev, package_versions()),
        limits=limits(ev),
    )
    atomic_write(out_html, html)


def environment() -> Any:
    """Return the templates of evaluate, with everything escaped that is put into them."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("okrcell.evaluate", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _facts(ev: Evaluation) -> dict[str, str]:
    """Return the card under the verdict."""
    facts = {}
    if len(ev.datasets) == 1:
        data = ev.datasets[0].data
        sizes = [data.get("n_train", 0), data.get("n_validation"), data.get("n_test", 0)]
        names = "train / validation / test" if sizes[1] else "train / test"
        facts["Dataset"] = ev.datasets[0].key
        facts[f"Cells, {names}"] = " / ".join(
            f"{n:,}" for n in sizes if n or n == 0 and n != sizes[1]
        )
        facts["Split"] = split_words(ev.datasets[0].entry)
        facts["Cell types, seen / unseen"] = (
            f"{len(data.get('seen') or ())} / {len(data.get('unseen') or ())}"
        )
        facts["Genes, values"] = f"{data.get('n_genes', 0):,}, {data.get('values', 'not stated')}"
        facts["Distinct profiles"] = f"{data.get('n_profiles', 0):,}"
        facts["Intervals"] = f"95 %, over {data.get('interval_unit', 'cells')}"
    else:
        facts["Datasets"] = f"{len(ev.datasets)}"
        facts["Test cells"] = f"{sum(d.data.get('n_test', 0) for d in ev.datasets):,}"
        facts["Intervals"] = "95 %, over donors where there are enough, else cells"
    facts["Methods"] = f"{len(ev.methods)}; the report is about {ev.main}"
    run = (ev.details.get("checkpoints") or {}).get(ev.main)
    if run:
        steps = run["facts"].get("steps", run["config"].get("steps"))
        facts["Objective"] = str(run["config"].get("objective", "not stated"))
        if steps is not None:
            facts["Training steps"] = str(steps)
    return facts


def _task(ev: Evaluation, task: str) -> dict[str, Any]:
    return {
        "id": task,
        "name": TASK_NAMES[task],
        "asked": ASKED[task],
        "read": READ[task],
        "datasets": [
            {
                "key": dataset.key,
                "figures": task_figures(ev, task, dataset, number),
                "remarks": _remarks(ev, task, dataset),
                "tables": task_tables(ev, task, dataset, number),
            }
            for number, dataset in enumerate(ev.datasets, 1)
            if dataset in ev.measured(task)
        ],
    }


def _remarks(ev: Evaluation, task: str, dataset: Dataset) -> list[str]:
    """Return what the reader should know of this task on these data."""
    details = dataset.details(task)
    name = ev.main if ev.main in details else next(iter(details), "")
    mine = details.get(name) or {}
    if task == "clustering" and "label-free" in mine:
        part = mine["label-free"]
        return [
            f"Label-free, {name}: resolutions {_list(part['resolution'])} gave "
            f"{_list(part['n_clusters'])} clusters for {mine.get('n_types', '?')} types."
        ]
    if task == "batch" and mine.get("batches"):
        sizes = [f"{batch or '(none)'}: {n} cells" for batch, n in mine["batches"].items()]
        return [f"Batches as the data name them: {'; '.join(sizes)}."]
    if task == "few_shot":
        return [
            f"K = {k}: left out for too few cells: {', '.join(names)}."
            for k, names in (mine.get("dropped") or {}).items()
            if names
        ]
    if task == "retrieval" and mine.get("fold"):
        return [f"{mine['n_folds']} fold(s) of {mine['fold']} pairs."]
    if task == "zero_shot":
        return [
            f"{method}: below a confidence of {part['unknown']['threshold']:.2f} a cell is called "
            f"unknown; {100 * part['unknown']['coverage']:.0f} % of the cells are named, "
            f"{100 * part['unknown']['accuracy']:.0f} % of these right."
            for method, part in details.items()
            if part.get("unknown")
            and all(
                part["unknown"].get(k) is not None for k in ("threshold", "coverage", "accuracy")
            )
        ][:6]
    return []


def _list(values: Sequence[Any]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _card(dataset: Dataset, number: int) -> dict[str, Any]:
    """Return one dataset's facts for the section on data."""
    data = dataset.data
    batches = [name or "(none)" for name in data.get("batches") or ()]
    listed = ", ".join(batches[:30]) + (
        f", and {len(batches) - 30} more" if len(batches) > 30 else ""
    )
    facts = {
        "Cells, train / validation / test": " / ".join(
            f"{data.get(key) or 0:,}" for key in ("n_train", "n_validation", "n_test")
        ),
        "Seen by clustering and batch correction": (
            f"all {data['n_integrated']:,} cells"
            if data.get("integration") == "all"
            else "the test cells"
        ),
        "Split": split_words(dataset.entry)
        + "".join(f"; annotation also {split_words(entry)}" for _, entry in dataset.splits),
        "Genes, values": f"{data.get('n_genes', 0):,}, {data.get('values', 'not stated')}",
        "Texts": f"{data.get('n_profiles', 0):,}, {data.get('text_kind', 'description')}s",
        "Tissue": data.get("tissue") or "not stated",
        "Donors": str(data.get("donors") or "none named"),
        "Batches in the test split": listed if batches not in ([], ["(none)"]) else "none named",
        "Genes of the model that are measured": ", ".join(
            f"{name} {100 * share:.0f} %"
            for name, share in (data.get("gene_coverage") or {}).items()
            if share is not None
        ),
        "sha256": str(data.get("sha256", ""))[:16],
    }
    return {
        "key": dataset.key,
        "facts": {key: value for key, value in facts.items() if value},
        "types": type_table(dataset, number),
    }


def _setting(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def _examples(ev: Evaluation) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for dataset in ev.datasets:
        for entry in dataset.entry.get("examples") or ():
            named = {**entry, "dataset": dataset.key if len(ev.datasets) > 1 else ""}
            found.append(_example(len(found) + 1, named))
    return found


def _example(number: int, entry: Details) -> dict[str, Any]:
    """Number the evidence of one description and mark the quotes in it."""
    evidence: dict[tuple[str, str], dict[str, Any]] = {}
    sentences = []
    for claim in entry["claims"]:
        refs = []
        for snippet in claim["evidence"]:
            key = snippet["snippet_id"], snippet["quote"]
            if key not in evidence:
                position = len(evidence) + 1
                evidence[key] = {**snippet, "number": position, "id": f"e{number}-{position}"}
            refs.append(evidence[key])
        sentences.append({**claim, "refs": refs})
    return {**entry, "sentences": sentences, "evidence": list(evidence.values())}
