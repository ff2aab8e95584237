"""Columns of an h5ad file: labels in one spelling, Cell Ontology terms, texts, ways to split."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from okrcell.errors import FileFormatError, MissingColumnError
from okrcell.evaluate.data import Strings, TextKind
from okrcell.evaluate.suite import DataSpec

__all__ = ["default_splits", "optional", "some", "terms_of", "text_of", "texts_of", "tidy_labels"]

_OTHER_NAMES = {
    "term": ("cell_type_ontology_term_id",),
    "batch": ("batch",),
    "donor": ("donor_id", "donor"),
}
_NAMED = 3


def default_splits(spec: DataSpec, columns: Sequence[str]) -> tuple[str, ...]:
    """Return how cells are set apart where the suite does not say."""
    if spec.split:
        return spec.split
    for field in ("donor", "batch"):
        if _column(spec, field, columns):
            return (field,)
    return ("random",)


def tidy_labels(raw: Strings) -> tuple[Strings, list[str]]:
    """Return labels without blanks around them, in one spelling, and what was changed."""
    stripped = np.asarray([" ".join(str(label).split()) for label in raw], dtype=np.str_)
    said = []
    blanks = sorted({str(a) for a, b in zip(raw, stripped, strict=True) if str(a) != str(b)})
    if blanks:
        quoted = [f"'{name}'" for name in blanks]
        said.append(f"{len(blanks)} labels with blanks to spare were tidied ({some(quoted)}).")
    counts = Counter(stripped.tolist())
    spellings: dict[str, list[str]] = {}
    for name in sorted(counts, key=lambda name: (-counts[name], name)):
        spellings.setdefault(name.lower(), []).append(name)
    several = {names[0]: names[1:] for names in spellings.values() if len(names) > 1}
    if several:
        one_spelling = {other: name for name, others in several.items() for other in others}
        stripped = np.asarray([one_spelling.get(str(s), str(s)) for s in stripped], dtype=np.str_)
        pairs = [f"'{other}' as '{name}'" for other, name in sorted(one_spelling.items())]
        said.append(f"{len(pairs)} labels differ from another in case only ({some(pairs)}).")
    return stripped, said


def _column(spec: DataSpec, field: str, columns: Sequence[str]) -> str:
    given = str(getattr(spec, field))
    return given or next((name for name in _OTHER_NAMES[field] if name in columns), "")


def text_of(obs: Any, path: Path, column: str, what: str) -> Strings:
    """Return a column of ``obs`` as strings [n], missing values as empty ones.

    Raises
    ------
    MissingColumnError
        There is no such column; the error names those there are.
    """
    if column not in obs.columns:
        raise MissingColumnError(
            path,
            found=f"no column '{column}' ({what}) in obs",
            expected=f"one of {', '.join(map(str, obs.columns)) or 'none: obs is empty'}",
            fix="Name the column in the suite, or with --map FIELD=COLUMN.",
        )
    values = obs[column].astype(object)
    missing = np.asarray(values.isna())
    return np.asarray(
        ["" if gone else str(value) for gone, value in zip(missing, values, strict=True)]
    )


def optional(obs: Any, path: Path, spec: DataSpec, field: str, n: int) -> Strings:
    """Return the column of a field that data need not have: empty strings where there is none."""
    name = _column(spec, field, obs.columns)
    return text_of(obs, path, name, field) if name else np.full(n, "", dtype=np.str_)


def terms_of(spec: DataSpec, obs: Any, labels: Strings) -> dict[str, str]:
    """Return label to Cell Ontology id, empty where there is none."""
    from okrcell.corpus import ontology

    names = sorted(set(labels.tolist()))
    found = dict.fromkeys(names, "")
    column = _column(spec, "term", obs.columns)
    if column:
        per_cell = text_of(obs, spec.path, column, "term")
        for name in names:
            ids = Counter(per_cell[labels == name].tolist())
            found[name] = ids.most_common(1)[0][0]
    if not column and spec.terms is None:
        found |= {name: term for name in names if (term := _by_name().get(name.lower(), ""))}
    elif isinstance(spec.terms, Path):
        found |= _read_terms(spec.terms, spec.title, set(names))
    elif spec.terms:
        found |= {name: term for name, term in spec.terms.items() if name in found}
    for name, term in found.items():
        if term and ontology.get_term(term) is None:
            found[name] = ""
    return found


def _by_name() -> Mapping[str, str]:
    from okrcell.corpus import ontology

    return {term.label.lower(): term.term_id for term in ontology.terms("cl")}


def _rows(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle, delimiter="\t")
            missing = [name for name in needed if name not in (reader.fieldnames or ())]
            rows = list(reader)
    except (OSError, UnicodeDecodeError) as error:
        raise FileFormatError(
            path,
            found=f"a table that cannot be read ({error})",
            expected="a TSV file",
            fix="Check the path.",
        ) from None
    if missing:
        raise MissingColumnError(
            path,
            found=f"no column {', '.join(missing)}",
            expected=f"columns {', '.join(needed)}",
            fix="Add the columns; they are separated by tabs.",
        )
    return rows


def _read_terms(path: Path, title: str, names: set[str]) -> dict[str, str]:
    return {
        row["label"]: row["cl_id"]
        for row in _rows(path, ("label", "cl_id"))
        if row["label"] in names and title.startswith(row.get("dataset") or title)
    }


def texts_of(
    spec: DataSpec, names: Sequence[str], terms: Mapping[str, str]
) -> tuple[dict[str, str], TextKind, list[str]]:
    """Return label to text, what kind most of them are, and labels without a term."""
    from okrcell.corpus import ontology

    given: dict[str, str] = {}
    if spec.texts is not None:
        for row in _rows(spec.texts, ("text",)):
            for key in ("label", "cl_id"):
                if row.get(key):
                    given[str(row[key])] = row["text"]
    texts, kinds = {}, Counter[TextKind]()
    for name in names:
        term = ontology.get_term(terms[name]) if terms[name] else None
        if name in given or terms[name] in given:
            texts[name] = given.get(name) or given[terms[name]]
            kinds["description"] += 1
        elif term is not None and term.definition:
            texts[name] = f"{term.label}: {term.definition}"
            kinds["definition"] += 1
        else:
            texts[name] = term.label if term is not None else name
            kinds["label"] += 1
    kind = kinds.most_common(1)[0][0]
    return texts, kind, [name for name in names if not terms[name]]


def some(names: Sequence[str]) -> str:
    """Return the first few names for a sentence."""
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
