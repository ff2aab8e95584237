"""Marker genes of cell types: the shipped table, what the Cell Ontology says, and a user's own file.

The table is ours: common knowledge of the field as facts, a line for each type, with the genes that its
cells express and those that tell it apart by their absence. It was not fitted to any expression.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from okrcell.errors import FileFormatError

__all__ = [
    "TABLE_SOURCE",
    "Marker",
    "bundled_markers",
    "find_gene",
    "joined",
    "marker_genes",
    "markers_of_term",
    "read_markers",
]

TABLE_SOURCE = "okrcell:markers"
"""Source of what the shipped table says."""

_SEPARATORS = re.compile(r"[\s,;|]+")
_SHOWN = 5
_FILE_COLUMNS = "term_id or label, positive, and where wanted negative and source"


class Marker(NamedTuple):
    """A gene that speaks for a cell type (sign 1) or against it (sign -1), and what says so.

    ``source`` is a citation: ``okrcell:markers``, ``CL:0000236 definition``, the id of a snippet or
    document, or the name of a file.
    """

    gene_id: str
    symbol: str
    sign: int
    source: str


@cache
def find_gene(name: str) -> tuple[str, str] | None:
    """Return the Ensembl id and present symbol of a gene, None where no or no single gene has the name.

    ``name`` is a symbol, present or earlier, or an unversioned Ensembl id. The two copies of a gene of
    the pseudo-autosomal regions count as the one on X, which is the one that files hold.
    """
    from okrcell.corpus.gene_tables import current, earlier

    now = current()
    if name in now.symbol:
        return name, now.symbol[name] or name
    ids = now.by_symbol.get(name, ())
    coding = [gene for gene in ids if gene in now.coding] or list(ids)
    if coding:
        return min(coding), name
    before = {earlier().now(gene) for gene, _ in earlier().by_symbol.get(name, ())} - {""}
    before = {gene for gene in before if now.symbol.get(gene)}
    if len(before) != 1:
        return None
    (gene_id,) = before
    return gene_id, now.symbol[gene_id]


@cache
def bundled_markers() -> Mapping[str, tuple[Marker, ...]]:
    """Return the shipped table: Cell Ontology id to markers, those of presence first."""
    text = (files("okrcell.corpus") / "data" / "cell_markers.tsv").read_text(encoding="utf-8")
    found: dict[str, tuple[Marker, ...]] = {}
    for line in text.splitlines()[1:]:
        term_id, _, *lists = line.split("\t")
        found[term_id] = tuple(
            Marker(*gene, sign, TABLE_SOURCE)
            for sign, symbols in zip((1, -1), lists, strict=True)
            for gene in map(find_gene, symbols.split())
            if gene is not None
        )
    return MappingProxyType(found)


@cache
def marker_genes() -> frozenset[str]:
    """Return the Ensembl ids of all genes that the shipped table names."""
    return frozenset(m.gene_id for some in bundled_markers().values() for m in some)


def joined(*parts: Iterable[Marker]) -> tuple[Marker, ...]:
    """Return markers of several sources as one list, each gene once: the first that names it is right.

    A later source that agrees is not counted again; one that disagrees is overruled.
    """
    found: dict[str, Marker] = {}
    for part in parts:
        for marker in part:
            found.setdefault(marker.gene_id, marker)
    return tuple(found.values())


@cache
def markers_of_term(term_id: str) -> tuple[Marker, ...]:
    """Return what the table and the Cell Ontology's own words say of a term.

    The definition and the names of the term come after the table, which overrules them. A term that
    the table does not know has, after its own words, the markers of the nearest ancestors that the
    table knows; their source names the ancestor. An obsolete id stands for what replaced it; an unknown
    one has none.
    """
    from okrcell.corpus.marker_mentions import named_markers
    from okrcell.corpus.ontology import bundled

    term = bundled("cl").get(term_id)
    if term is None:
        return ()
    table = bundled_markers()
    return joined(
        table.get(term.term_id, ()),
        named_markers(term.definition, f"{term.term_id} definition"),
        *(named_markers(name, f"{term.term_id} name") for name in (term.label, *term.synonyms)),
        () if term.term_id in table else _inherited(term.term_id),
    )


def _inherited(term_id: str) -> tuple[Marker, ...]:
    from okrcell.corpus.ontology import bundled

    table = bundled_markers()
    steps = {
        ancestor: n for ancestor, n in bundled("cl").ancestors(term_id).items() if ancestor in table
    }
    nearest = sorted(a for a, n in steps.items() if n == min(steps.values()))
    return joined(
        *(
            (
                marker._replace(source=f"{marker.source}, of {ancestor}")
                for marker in table[ancestor]
            )
            for ancestor in nearest
        )
    )


def read_markers(path: Path) -> dict[str, tuple[Marker, ...]]:
    """Read a user's table: tab-separated, ``term_id`` or ``label``, and ``positive``.

    Columns ``negative`` and ``source`` may stand beside them, further ones are ignored. Genes are
    symbols or Ensembl ids, set apart by spaces, commas or semicolons. Several lines of one type add
    up. Where ``source`` is empty, the file's name is the source.

    Returns
    -------
    dict
        Term id, or label where a line has no term id, to markers.

    Raises
    ------
    FileFormatError
        The file cannot be read, lacks a column or has no line; a line names no type, no gene, or a
        gene that nobody knows; a gene is said to be present and absent in one type. The line is named.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, delimiter="\t")
            header = [str(name) for name in reader.fieldnames or ()]
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FileFormatError(
            path, found=str(error), expected="a readable TSV file", fix="Check the path."
        ) from None
    if "positive" not in header or not {"term_id", "label"} & set(header):
        raise FileFormatError(
            path,
            found=f"columns {', '.join(header) or 'none'}",
            expected=f"tab-separated columns {_FILE_COLUMNS}",
            fix="Correct the header line.",
        )
    found: dict[str, tuple[Marker, ...]] = {}
    for number, row in rows:
        cells = {key: (row.get(key) or "").strip() for key in header}
        name = cells.get("term_id") or cells.get("label") or ""
        if not any(cells.values()):
            continue
        source = cells.get("source") or path.name
        markers = [
            marker
            for sign, column in ((1, "positive"), (-1, "negative"))
            for marker in _listed(cells.get(column, ""), sign, source, f"{path} line {number}")
        ]
        if not name or not markers:
            raise FileFormatError(
                f"{path} line {number}",
                found="no cell type" if not name else f"no gene for '{name}'",
                expected=f"a line with {_FILE_COLUMNS}",
                fix="Fill the line, or remove it.",
            )
        found[name] = (*found.get(name, ()), *markers)
        _check_signs(found[name], name, f"{path} line {number}")
    if not found:
        raise FileFormatError(
            path, found="no lines", expected="a line for each cell type", fix="Add markers."
        )
    return {name: joined(markers) for name, markers in found.items()}


def _listed(symbols: str, sign: int, source: str, where: str) -> Iterable[Marker]:
    names = [name for name in _SEPARATORS.split(symbols) if name]
    genes = {name: find_gene(name) for name in names}
    unknown = [name for name, gene in genes.items() if gene is None]
    if unknown:
        raise FileFormatError(
            where,
            found=f"{', '.join(unknown[:_SHOWN])}, no human gene or several",
            expected="gene symbols or Ensembl ids",
            fix="Correct the names, or leave them out.",
        )
    return [Marker(*gene, sign, source) for gene in genes.values() if gene is not None]


def _check_signs(markers: Iterable[Marker], name: str, where: str) -> None:
    signs: dict[str, int] = {}
    for marker in markers:
        if signs.setdefault(marker.gene_id, marker.sign) != marker.sign:
            raise FileFormatError(
                where,
                found=f"{marker.symbol} both present and absent in '{name}'",
                expected="one or the other",
                fix="Remove one of the two.",
            )
