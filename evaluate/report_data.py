"""An evaluation folder as the report reads it: everything in one object, every string made safe."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from okrcell import __version__
from okrcell.artifacts import Manifest, read_manifest
from okrcell.evaluate.config import TASKS
from okrcell.evaluate.folder import DETAILS, KIND
from okrcell.evaluate.report_names import TASK_NAMES
from okrcell.evaluate.summary import (
    REFERENCES,
    Decided,
    decisions,
    load_comparisons,
    load_results,
)

__all__ = [
    "Dataset",
    "Evaluation",
    "clean",
    "datasets_of",
    "load_evaluation",
    "notes",
    "package_versions",
    "slug",
]

Details = Mapping[str, Any]

_PACKAGES = (
    *("numpy", "scipy", "torch", "scikit-learn", "scanpy", "scib-metrics", "igraph", "leidenalg"),
    *("anndata", "harmonypy", "scvi-tools", "celltypist"),
)

_KNOWN = {"majority": "always the most frequent type of the train cells"}

# What no XML may hold, lone halves of pairs, and signs that turn the direction of other text around.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]"
)


@dataclass(frozen=True)
class Dataset:
    """One dataset: its first split, which has all tasks, and further splits of the same cells.

    Attributes
    ----------
    key
        Its name in the results table.
    entry
        Its part of ``details.json``.
    splits
        (name in the results table, part of ``details.json``) of each further split.
    """

    key: str
    entry: Details
    splits: tuple[tuple[str, Details], ...] = ()

    @property
    def data(self) -> Details:
        """Facts of the data."""
        found: Details = self.entry.get("data") or {}
        return found

    def details(self, task: str) -> Details:
        """Return what the methods left for the report, by method."""
        found: Details = self.entry.get("tasks", {}).get(task) or {}
        return found


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Attributes
    ----------
    main
        The method that the report is about: the first that was asked for.
    methods
        Name to what it is, in the order of the run.
    rows, comparisons
        Of the results table and of the paired tests.
    """

    manifest: Manifest
    details: Details
    rows: Sequence[Details]
    comparisons: Sequence[Details]
    datasets: tuple[Dataset, ...]
    main: str
    methods: Mapping[str, str]

    @cached_property
    def styles(self) -> dict[str, int]:
        """Method to its place in the list of colours and marks."""
        return {name: index for index, name in enumerate(self.methods)}

    @cached_property
    def decided(self) -> Mapping[tuple[str, str, str], Decided]:
        """What the paired tests decide."""
        return decisions(self.comparisons)

    @property
    def tasks(self) -> list[str]:
        """The tasks that have numbers."""
        known = {row["task"] for row in self.rows}
        return [task for task in TASKS if task in known and task in TASK_NAMES]

    @property
    def settings(self) -> Details:
        """The configuration of the stage."""
        config = self.manifest.config
        inner = config.get("evaluate", config.get("config", config))
        return inner if isinstance(inner, Mapping) else config

    def of(self, dataset: str, task: str) -> list[Details]:
        """Return the rows of one task on one dataset."""
        return [row for row in self.rows if row["dataset"] == dataset and row["task"] == task]

    def measured(self, task: str) -> Iterator[Dataset]:
        """Yield the datasets that have numbers of a task."""
        known = {row["dataset"] for row in self.rows if row["task"] == task}
        for dataset in self.datasets:
            if known & {dataset.key, *(key for key, _ in dataset.splits)}:
                yield dataset


def load_evaluation(folder: Path) -> Evaluation:
    """Read a finished evaluation.

    Raises
    ------
    ManifestError
        The folder is not a finished evaluation.
    """
    manifest = read_manifest(folder, KIND)
    details = clean(json.loads((folder / DETAILS).read_text(encoding="utf-8")))
    rows = clean(load_results(folder))
    methods = {entry["name"]: entry.get("about", "") for entry in details["methods"]}
    for row in rows:  # what was measured is shown, described or not
        if row["method"] not in REFERENCES:
            methods.setdefault(row["method"], _KNOWN.get(row["method"], ""))
    asked = [name for name in details.get("asked") or () if name in methods]
    return Evaluation(
        manifest,
        details,
        rows,
        clean(load_comparisons(folder)),
        datasets_of(details.get("datasets") or ()),
        (asked or list(methods) or [""])[0],
        methods,
    )


def datasets_of(entries: Sequence[Details]) -> tuple[Dataset, ...]:
    """Group the entries by dataset; ``label`` is an entry's name in the results table."""
    groups: dict[str, list[tuple[str, Details]]] = {}
    for entry in entries:
        mine = groups.setdefault(entry["dataset"], [])
        split = f"{entry['dataset']}/{entry.get('split', '')}" if mine else entry["dataset"]
        mine.append((entry.get("label", split), entry))
    found = []
    for name, mine in groups.items():
        mine.sort(key=lambda part: part[0] != name)  # the first split has the bare name
        found.append(Dataset(mine[0][0], mine[0][1], tuple(mine[1:])))
    return tuple(found)


def notes(ev: Evaluation, first: Sequence[str] = ()) -> list[str]:
    """Return what the reader must know: ``first``, then that of the run, then that of the data.

    A note that several datasets share is told once, with their names.
    """
    owners: dict[str, list[str]] = {}
    for dataset in ev.datasets:
        for _, entry in ((dataset.key, dataset.entry), *dataset.splits):
            for note in entry.get("notes") or ():
                mine = owners.setdefault(note, [])
                if dataset.key not in mine:
                    mine.append(dataset.key)
    general = [note for note in ev.details.get("notes") or () if note not in owners]
    told = [*first, *general]
    for note, names in owners.items():
        head = "" if len(names) == len(ev.datasets) else f"{', '.join(names)}: "
        told.append(note if note.startswith(head) else f"{head}{note}")
    return list(dict.fromkeys(told))


def clean(value: Any, *, mark_blanks: bool = True) -> Any:
    """Return JSON values without signs that could break a file or turn text around.

    Names that differ in blanks at their ends must not look equal: such blanks are shown.
    """
    if isinstance(value, Mapping):
        return {
            clean(str(key), mark_blanks=mark_blanks): clean(
                item, mark_blanks=mark_blanks and key != "examples"
            )
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [clean(item, mark_blanks=mark_blanks) for item in value]
    if not isinstance(value, str):
        return value
    text = _UNSAFE.sub("\ufffd", value)
    bare = text.strip()
    if mark_blanks and bare != text:
        start = len(text) - len(text.lstrip())
        text = "␣" * start + bare + "␣" * (len(text) - start - len(bare))
    return text


def split_words(entry: Mapping[str, Any]) -> str:
    """Return how test cells were set apart: ``by donor``, ``at random``, ``by column NAME``."""
    split = str(entry.get("split") or "store")
    return {"random": "at random", "store": "as in the store"}.get(split, f"by {split}")


def slug(text: str) -> str:
    """Return a name for files: lower-case letters, digits and dashes; never empty."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40] or "x"


def package_versions() -> dict[str, str]:
    """Return the versions of okrcell and of the libraries that the numbers depend on."""
    found = {"okrcell": __version__}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
