"""Every figure of an evaluation as SVG and PDF, every table as CSV, the methods as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from okrcell.artifacts import atomic_write
from okrcell.evaluate.report_data import Evaluation, load_evaluation, package_versions
from okrcell.evaluate.report_figures import Figure, maps, task_figures
from okrcell.evaluate.report_listings import Listing, comparison_table, type_table
from okrcell.evaluate.report_pdf import sheet, standalone, write_pdf
from okrcell.evaluate.report_tables import (
    Values,
    dataset_summaries,
    summary_table,
    task_tables,
)
from okrcell.evaluate.words import limits, methods_paragraph

__all__ = ["export_tables_and_figures"]


def export_tables_and_figures(
    eval_dir: Path, out_dir: Path, formats: Sequence[str] = ("svg", "pdf")
) -> list[Path]:
    """Write the figures and tables of the report as files; equal input gives equal bytes.

    Parameters
    ----------
    eval_dir
        A finished evaluation.
    out_dir
        Folder for ``NAME.svg``, ``NAME.pdf``, ``NAME.csv`` and ``methods.md``; files of these names
        are replaced, others left alone.
    formats
        Of the figures: ``svg``, ``pdf`` (about half a second each).

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    ManifestError
        The folder is not a finished evaluation.
    """
    ev = load_evaluation(eval_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for figure in _figures(ev):
        drawing = sheet(figure)
        if "svg" in formats:
            written.append(_free(out_dir / f"{figure.name}.svg", written))
            atomic_write(written[-1], standalone(drawing))
        if "pdf" in formats:
            written.append(_free(out_dir / f"{figure.name}.pdf", written))
            write_pdf(drawing, written[-1])
    for table in _tables(ev):
        path = _free(out_dir / f"{table.name}.csv", written)
        atomic_write(path, _csv(table))
        written.append(path)
    path = out_dir / "methods.md"
    atomic_write(path, methods_text(ev))
    return [*written, path]


def _free(path: Path, taken: Collection[Path]) -> Path:
    """Return the path, or a numbered one where names of the data became the same file name."""
    wanted, number = path, 1
    while path in taken:
        number += 1
        path = wanted.with_stem(f"{wanted.stem}-{number}")
    return path


def methods_text(ev: Evaluation) -> str:
    """Return the methods paragraph and the limits as Markdown."""
    told = "\n".join(f"- {_plain(sentence)}" for sentence in limits(ev))
    paragraph = _plain(methods_paragraph(ev, package_versions()))
    return f"# Methods\n\n{paragraph}\n\n# What these data can and cannot tell\n\n{told}\n"


def _figures(ev: Evaluation) -> Iterator[Figure]:
    for number, dataset in enumerate(ev.datasets, 1):
        yield from maps(ev, dataset, number)
        for task in ev.tasks:
            if dataset in ev.measured(task):
                yield from task_figures(ev, task, dataset, number)


def _tables(ev: Evaluation) -> Iterator[Values | Listing]:
    yield summary_table(ev)
    if len(ev.datasets) > 1:
        for _, table in dataset_summaries(ev):
            yield table
    for number, dataset in enumerate(ev.datasets, 1):
        for task in ev.tasks:
            yield from task_tables(ev, task, dataset, number)
        yield type_table(dataset, number)
    tests = comparison_table(ev)
    if tests is not None:
        yield tests


def _csv(table: Values | Listing) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_cell(value) for value in row] for row in table.records())
    return text.getvalue()


def _cell(value: str) -> str:
    """Return a field that no spreadsheet takes for a formula; numbers stay as they are."""
    if not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def _plain(text: str) -> str:
    """Return a sentence in which no name of the data is read as markup."""
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    for sign in "\\`*_>[]#|":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())
