"""Which gene a name means: the release that a file was annotated with, and the lookup by way of it."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import cache
from typing import NamedTuple

from okrcell.corpus import gene_names as spelling
from okrcell.corpus.gene_tables import GENE_TABLE, NOW, RELEASES, current, earlier
from okrcell.corpus.hgnc import GeneAliases

__all__ = ["Call", "Lookup", "annotated_with"]

# Where few names are right as they stand, other spellings would only find coincidences.
_EXACT_SHARE = 0.5
# Genes of a clone without a name of their own are numbered, and numbered anew in other releases:
# measured, one such name in eight is another gene in the release before or after.
_NUMBERED = re.compile(r"[A-Z]{1,2}\d{5,6}\.\d+")
_OWN_RELEASE_SHARE = 0.95
_RENUMBERED = "numbered within a clone, in a release whose table is not at hand"


class Call(NamedTuple):
    """The gene of a name (id empty: lost), its status, its id in the file's release, and why."""

    gene_id: str
    status: str
    source_id: str = ""
    reason: str = ""


def annotated_with(symbols: Collection[str]) -> tuple[int, float]:
    """Return the bit of the release that knows most of a file's symbols, and the share it knows."""
    if not symbols:
        return NOW, 1.0
    now, before = current().by_symbol, earlier().by_symbol
    known: dict[int, int] = {}
    for symbol in symbols:
        bits = NOW if symbol in now else 0
        for _, mask in before.get(symbol, ()):
            bits |= mask
        known[bits] = known.get(bits, 0) + 1
    score = {
        bit: sum(count for bits, count in known.items() if bits & bit) for bit in (NOW, *RELEASES)
    }
    best = max(score, key=lambda bit: (score[bit], -bit))  # of equals the newest
    return best, score[best] / len(symbols)


class Lookup:
    """Looks names up for one file, by way of its release."""

    def __init__(
        self, symbols: Collection[str], release: int, share: float, aliases: GeneAliases | None
    ) -> None:
        self.symbols, self.release, self.aliases = symbols, release, aliases
        self.lenient = share >= _EXACT_SHARE
        self.now, self.before = current().by_symbol, earlier().by_symbol
        numbered = [name for name in symbols if _NUMBERED.fullmatch(name)]
        known = sum(map(self.in_release, numbered))
        self.trusted = known >= _OWN_RELEASE_SHARE * len(numbered)

    def in_release(self, name: str) -> bool:
        """Say whether the file's release has a symbol."""
        if self.release == NOW:
            return name in self.now
        return any(mask & self.release for _, mask in self.before.get(name, ()))

    def read(self, name: str) -> Call:
        """Return the gene of a name."""
        gene_id = spelling.ensembl_id(name)
        if gene_id:
            by_id = _by_id(gene_id)
            beside = name.replace(gene_id, "").strip("_.:|- ")
            return by_id if by_id.gene_id else self.by_symbol(beside) or by_id
        found = self.by_symbol(name)
        if found is None or not (found.gene_id or found.status == "ambiguous"):
            found = self.by_aliases(name, found) or found
        if found is None and self.lenient:
            found = self.by_spelling(name)
        return found or Call("", "unknown", reason="in no table")

    def by_symbol(self, name: str) -> Call | None:
        """Look a symbol up in the file's release, then the current one, then all others."""
        before, now, release = self.before.get(name, ()), self.now.get(name, ()), self.release
        if len(before) == len(now) == 1:  # nearly all names: one gene, then and now
            gene, mask = before[0]
            if gene == now[0] and (mask & release or release == NOW):
                return Call(gene, "symbol")
        if "." in name and self.renumbered(name):
            return Call("", "ambiguous", reason=_RENUMBERED) if before or now else None
        if release != NOW:
            genes = [gene for gene, mask in before if mask & release]
            if genes:
                return _choose(name, genes, release)
        if now:
            return _choose(name, now, NOW)
        return _choose(name, [gene for gene, _ in before], 0) if before else None

    def renumbered(self, name: str) -> bool:
        """Say whether a name is a number within a clone that may be another gene's here."""
        if not _NUMBERED.fullmatch(name):
            return False
        return not (self.trusted and self.in_release(name))

    def by_aliases(self, name: str, retired: Call | None) -> Call | None:
        """Look a name up in the HGNC file; only as a previous symbol if its gene is retired."""
        if self.aliases is None:
            return None
        kinds = [("previous", self.aliases.previous, "a previous symbol by HGNC")]
        if retired is None:
            kinds += [
                ("symbol", self.aliases.approved, "approved by HGNC"),
                ("alias", self.aliases.alias, "an alias by HGNC"),
            ]
        for status, names, reason in kinds:
            genes = {_hgnc_gene(symbol, gene) for symbol, gene in names.get(name, ())} - {""}
            if len(genes) == 1:
                return Call(genes.pop(), status, retired.source_id if retired else "", reason)
            if genes:
                return Call("", "ambiguous", reason=f"{reason} of {len(genes)} genes")
        return None

    def by_spelling(self, name: str) -> Call | None:
        """Read a name that a tool changed: numbered, in other letters, or turned into a date."""
        base = spelling.made_unique(name)
        if base in self.symbols:
            found = self.by_symbol(base)
            if found is not None:
                return Call(found.gene_id, found.status, found.source_id, f"'{base}', numbered")
        key = spelling.loose_key(name)
        ways = [(f"'{other}' in other letters", "", other) for other in _loose_names().get(key, ())]
        ways += [
            (f"'{other}', turned into a date", "mangled", other)
            for other in spelling.date_symbols(name)
        ]
        hits = {}
        for reason, status, other in ways:
            found = self.by_symbol(other)
            if found is not None:
                hits[reason] = Call(found.gene_id, status or found.status, found.source_id, reason)
        genes = {hit.gene_id for hit in hits.values()}
        if len(genes) > 1:
            return Call("", "ambiguous", reason=f"may be {' or '.join(sorted(hits))}")
        return next(iter(hits.values()), None)


@cache
def _loose_names() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for symbol in dict.fromkeys([*current().by_symbol, *earlier().by_symbol]):
        key = spelling.loose_key(symbol)
        found[key] = (*found.get(key, ()), symbol)
    return found


def _by_id(gene_id: str) -> Call:
    if gene_id in current().symbol:
        return Call(gene_id, "id")
    heir = earlier().heir.get(gene_id)
    if heir:
        return Call(heir, "successor", gene_id, f"{gene_id} was retired; the gene is {heir} now")
    reason = "retired without a successor" if heir == "" else f"not in {GENE_TABLE}"
    return Call("", "unknown", reason=f"{gene_id}: {reason}")


def _choose(name: str, genes: Sequence[str], release: int) -> Call:
    """Choose among the genes that had a symbol in a release (0: in any earlier one)."""
    heir = earlier().heir
    if len(genes) == 1:
        gene_id = heir.get(genes[0], genes[0])
        if gene_id:
            return _named(name, gene_id, genes[0], "symbol")
    now = [gene if release == NOW else heir.get(gene, gene) for gene in genes]
    ids = sorted(set(now) - {""})
    if not ids:
        reason = f"retired without a successor ({', '.join(genes)})"
        return Call("", "unknown", genes[0], reason)
    if len(ids) == 1:
        return _named(name, ids[0], genes[now.index(ids[0])], "symbol")
    coding = [gene for gene in ids if gene in current().coding]
    if len(coding) != 1:
        return Call("", "ambiguous", reason=f"shared by {', '.join(ids)}")
    reason = f"the coding one of {', '.join(ids)}"
    return _named(name, coding[0], genes[now.index(coding[0])], "preferred", reason)


def _named(name: str, gene_id: str, source_id: str, status: str, reason: str = "") -> Call:
    """Return the call of a gene, which is ``previous`` where it has another symbol now."""
    symbol = current().symbol[gene_id]
    if symbol == name:
        return Call(gene_id, status, source_id, reason)
    return Call(gene_id, "previous", source_id, f"now {symbol}" if symbol else "has no symbol now")


def _hgnc_gene(symbol: str, gene_id: str) -> str:
    """Return the current id of an HGNC record, by its id or else by its approved symbol."""
    found = _by_id(gene_id).gene_id if gene_id else ""
    now = current().by_symbol.get(symbol, ())
    return found or (now[0] if len(now) == 1 else "")
