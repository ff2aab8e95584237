"""What a cell can be called: candidate labels, the texts that stand for them, their markers.

All candidates of a set get the same kind of text, so that none is favoured: ``label: definition`` for a
run that was trained on descriptions, the bare label for one that was trained on labels. A user's own
description takes the place of the definition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from okrcell.corpus.ontology import bundled, get_term, ids_by_label
from okrcell.corpus.type_texts import type_text
from okrcell.errors import LabelError
from okrcell.evaluate.apply.label_file import Label, read_labels
from okrcell.evaluate.apply.tissue import (
    general_types,
    organs_of_tissue,
    tissue_of,
    types_of_tissue,
)
from okrcell.schemas import read_table

if TYPE_CHECKING:
    from okrcell.corpus.marker_table import Marker

__all__ = ["Candidates", "candidates_for", "trained_types", "with_markers"]

_MOST_NAMED = 5


@dataclass(frozen=True)
class Candidates:
    """The labels to choose from, C of them.

    Attributes
    ----------
    name
        What they are, for people.
    labels, term_ids, texts
        Of each; the id is empty where a label has none.
    markers
        Genes that speak for and against each; none where markers are switched off.
    notes
        What the user must be told of the choice.
    """

    name: str
    labels: tuple[str, ...]
    term_ids: tuple[str, ...]
    texts: tuple[str, ...]
    markers: tuple[tuple[Marker, ...], ...] = ()
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.labels)


def trained_types(run: Path) -> dict[str, str]:
    """Return the cell types that a run was trained on: label to Cell Ontology id, empty for none."""
    labels = read_table(run / "pairs.parquet", "pairs", ["cell_type"])["cell_type"]
    by_label = ids_by_label("cl")
    return {
        str(label): by_label.get(str(label), "") for label in sorted(labels.unique().to_pylist())
    }


def candidates_for(
    wanted: str, run: Path, config: Any, obs: Any, tissue: str | None = None
) -> Candidates:
    """Return the candidates that ``--labels`` asks for, without markers.

    Parameters
    ----------
    wanted
        ``tissue``, ``run`` (the types that the run was trained on), ``all-cl``, or the path of a
        table of labels.
    config
        The run's configuration.
    obs
        The file's table of cells: ``tissue`` reads the columns ``tissue`` and
        ``tissue_ontology_term_id``.
    tissue
        Instead of what ``obs`` says; several with commas between them.

    Raises
    ------
    LabelError
        Fewer than two candidates, or a tissue that names no known organ.
    FileFormatError, MissingColumnError
        The table cannot be read.
    """
    bare = config.text_source == "label"
    own = trained_types(run)
    if wanted == "all-cl":
        terms = [term.term_id for term in bundled("cl").terms()]
        return _of_terms("all of the Cell Ontology", terms, bare)
    if wanted == "run":
        return _of_run(own, bare)
    if wanted != "tissue":
        rows = read_labels(Path(wanted))
        name = f"labels of {Path(wanted).name}"
        texts = [_text(row.label, row.term_id, row.description, bare) for row in rows]
        return _candidates(name, rows, texts)
    pool = sorted({*general_types(), *filter(None, own.values())})
    tissues = tissue_of(obs, tissue)
    known = [name for name in tissues if organs_of_tissue(name)]
    if tissue is not None and len(known) < len(tissues):
        raise LabelError(
            f"--tissue {tissue}",
            found=f"no organ that is known here in '{next(t for t in tissues if t not in known)}'"
            if tissues
            else "nothing",
            expected="a tissue such as blood, lung, pancreas, or an Uberon id",
            fix="Name the organ in other words, or give your own candidates with --labels FILE.",
        )
    if not known:
        why = (
            f"the file's tissue ({', '.join(tissues[:_MOST_NAMED])}) names no organ that is known here"
            if tissues
            else "the file names no tissue (obs column 'tissue' or 'tissue_ontology_term_id')"
        )
        note = (
            f"{why}: {len(pool)} types of all organs are candidates. Say --tissue blood, for instance, "
            "to choose among those of one organ: fewer candidates, fewer mistakes."
        )
        return replace(_of_terms("types of all organs", pool, bare), notes=(note,))
    terms = list(types_of_tissue(pool, known))
    found = _of_terms(f"types of {', '.join(_named(known))}", terms, bare)
    left = sorted(label for label, term in own.items() if term not in terms)
    if left:
        some = ", ".join(left[:_MOST_NAMED]) + (", ..." if len(left) > _MOST_NAMED else "")
        note = f"Types of the run that are no candidates in this tissue: {some}."
        found = replace(found, notes=(note,))
    return found


def with_markers(
    candidates: Candidates, given: Mapping[str, tuple[Marker, ...]] | None = None
) -> Candidates:
    """Return the candidates with their markers.

    Markers of the shipped table and of the term's definition, those that a user's description names,
    and the user's own, by label or term id; the same gene is named once, by the user first.

    Raises
    ------
    LabelError
        No candidate has a name that the user's markers are for.
    """
    from okrcell.corpus.marker_mentions import named_markers
    from okrcell.corpus.marker_table import joined, markers_of_term

    given = given or {}
    by_name = {key.casefold(): some for key, some in given.items()}
    used: set[str] = set()
    markers = []
    for label, term_id, text in zip(
        candidates.labels, candidates.term_ids, candidates.texts, strict=True
    ):
        keys = {label.casefold(), term_id.casefold()} & by_name.keys()
        used |= keys
        mine = [marker for key in sorted(keys) for marker in by_name[key]]
        shipped = markers_of_term(term_id) if term_id else ()
        told = (
            ()
            if term_id and text == _text(label, term_id, "", False)
            else named_markers(text, "your text")
        )
        markers.append(joined(mine, told, shipped))
    if given and not used:
        raise LabelError(
            "--markers",
            found=f"markers of {', '.join(sorted(given)[:_MOST_NAMED])}, none of which is a candidate",
            expected=f"labels or term ids of {candidates.name}",
            fix="Use the labels that 'okrcell annotate --dry-run' lists.",
        )
    return replace(candidates, markers=tuple(markers))


def _of_terms(name: str, term_ids: Sequence[str], bare: bool) -> Candidates:
    rows = []
    for term_id in term_ids:
        term = get_term(term_id)
        assert term is not None, term_id
        rows.append(Label(term.label, term_id, ""))
    return _candidates(name, rows, [_text(row.label, row.term_id, "", bare) for row in rows])


def _of_run(own: Mapping[str, str], bare: bool) -> Candidates:
    rows = [Label(label, term, "") for label, term in own.items()]
    texts = [_text(row.label, row.term_id, "", bare) for row in rows]
    return _candidates("types that the run was trained on", rows, texts)


def _candidates(name: str, rows: Sequence[Label], texts: Sequence[str]) -> Candidates:
    if len(rows) < 2:
        raise LabelError(
            "--labels",
            found=f"{len(rows)} candidates ({', '.join(row.label for row in rows)})",
            expected="at least two to choose from",
            fix="Name another tissue, or give candidates of your own with --labels FILE.",
        )
    return Candidates(
        name, tuple(row.label for row in rows), tuple(row.term_id for row in rows), tuple(texts)
    )


def _text(label: str, term_id: str, description: str, bare: bool) -> str:
    if description:
        return f"{label}: {description}"
    return type_text(label, term_id, "label") if bare else type_text(label, term_id)


def _named(tissues: Sequence[str]) -> list[str]:
    found = [term.label if (term := get_term(name)) else name for name in tissues]
    return [
        *found[:_MOST_NAMED],
        *([f"{len(found) - _MOST_NAMED} more"] if len(found) > _MOST_NAMED else []),
    ]
