"""The bundled gene tables: GENCODE 48, and the names that genes had in earlier Ensembl releases."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

__all__ = ["GENE_TABLE", "NOW", "RELEASES", "CurrentGenes", "EarlierGenes", "current", "earlier"]

GENE_TABLE = "GENCODE 48 (human)"
NOW = 1
"""The bit of the current table, beside those of ``RELEASES``."""
RELEASES = {2: "Ensembl 100", 4: "Ensembl 93", 8: "Ensembl 84", 16: "Ensembl 75 (GRCh37)"}
"""Bit to name of each earlier release, newest first."""
_BITS = {"d": 2, "c": 4, "b": 8, "a": 16}


@dataclass(frozen=True)
class CurrentGenes:
    """GENCODE 48.

    Attributes
    ----------
    symbol
        Gene id to symbol, empty where it has none.
    by_symbol
        Symbol to the ids that share it.
    coding
        Ids of protein-coding genes.
    """

    symbol: dict[str, str]
    by_symbol: dict[str, tuple[str, ...]]
    coding: frozenset[str]


@dataclass(frozen=True)
class EarlierGenes:
    """Four earlier releases.

    Attributes
    ----------
    by_symbol
        Symbol to pairs of a gene id and the bits of the releases in which it had that symbol.
    heir
        Retired gene id to the current id of that gene, empty where there is none.
    """

    by_symbol: dict[str, tuple[tuple[str, int], ...]]
    heir: dict[str, str]

    def now(self, gene_id: str) -> str:
        """Return the current id of a gene of an earlier release, or an empty text."""
        return self.heir.get(gene_id, gene_id)


def _lines(name: str) -> list[str]:
    path = files("okrcell.corpus") / "data" / name
    return gzip.decompress(path.read_bytes()).decode().split("\n")[1:-1]


@cache
def current() -> CurrentGenes:
    """Return the current table, read once."""
    symbols: dict[str, str] = {}
    by_symbol: dict[str, tuple[str, ...]] = {}
    coding = set()
    for line in _lines("genes_human.tsv.gz"):
        gene_id, symbol, biotype = line.split("\t")
        symbols[gene_id] = symbol
        if biotype == "protein_coding":
            coding.add(gene_id)
        if symbol:
            by_symbol[symbol] = (*by_symbol.get(symbol, ()), gene_id)
    return CurrentGenes(symbols, by_symbol, frozenset(coding))


@cache
def earlier() -> EarlierGenes:
    """Return the tables of the earlier releases, read once."""
    bits = {"".join(c for c in _BITS if mask & _BITS[c])[::-1]: mask for mask in range(2, 32, 2)}
    by_symbol: dict[str, tuple[tuple[str, int], ...]] = {}
    heir: dict[str, str] = {}
    for line in _lines("genes_human_releases.tsv.gz"):
        symbol, gene_id, letters, now = line.split("\t")
        entry = (gene_id, bits[letters])
        others = by_symbol.get(symbol)
        by_symbol[symbol] = (*others, entry) if others else (entry,)
        if now != "=":
            heir[gene_id] = now
    return EarlierGenes(by_symbol, heir)
