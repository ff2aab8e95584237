"""Abbreviations that give a cell type away: NK, Treg, pDC, HSC, ILC2, MAIT."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from okrcell.corpus.label_text import read_columns
from okrcell.enrich.names import key_of

__all__ = ["abbreviations_of"]

_SHORT_CELL = re.compile(r"([A-Za-z][A-Za-z0-9-]{1,9}) (?:cell|lymphocyte)s?")
_LEAST_INITIALS = 3  # two letters mean too many things, unless the table of labels has them


def abbreviations_of(names: Iterable[str]) -> frozenset[str]:
    """Return abbreviations that stand for one of a cell type's names; gene symbols are none.

    They are the telling word of a short name ("NK cell"), initials ("plasmacytoid dendritic cell": PDC
    and pDC), and what the table of labels reads as the name.
    """
    names = set(names)
    found = {
        match[1]
        for name in names
        if (match := _SHORT_CELL.fullmatch(name)) and _looks_short(match[1])
    }
    for name in names:
        found |= _initials(name)
    keys = {key_of(name) for name in names}
    found |= {written for key in keys for written in _table().get(key, ())}
    return frozenset(short for short in found if not _is_gene(short))


def _looks_short(word: str) -> bool:
    return (
        len(re.findall("[A-Z0-9]", word)) >= 2
        or re.fullmatch("T(?:reg|conv|h\\d+)", word) is not None
    )


def _initials(name: str) -> frozenset[str]:
    words = re.findall(r"[A-Za-z]+|\d+", name)
    if not 2 <= len(words) <= 6 or any(word in {"of", "in", "and"} for word in words):
        return frozenset()
    letters = "".join(word if word.isdigit() else word[0] for word in words)
    forms = {letters.upper(), letters[0].lower() + letters[1:].upper()}
    if words[-1] == "cell" and len(words) > _LEAST_INITIALS:
        forms |= {form[:-1] for form in forms}
    return frozenset(form for form in forms if len(form) >= _LEAST_INITIALS)


@cache
def _table() -> dict[tuple[str, ...], frozenset[str]]:
    table: dict[tuple[str, ...], set[str]] = {}
    for key, reading, _ in read_columns("label_abbreviations.tsv"):
        short = re.sub(r"(?<=[a-z]{2})s$", "", key.replace(" ", ""))
        if not 2 <= len(short) <= 6 or not short.isalnum() or re.fullmatch(r"(?:cd)?\d+", short):
            continue
        written = {short.upper()} if len(short) <= 5 else set()
        if re.fullmatch(r"t(?:cm|em|rm|n|scm|reg|conv|eff|ex|pex|fh|fr|h\d*)", short):
            written.add(short.capitalize())
        if re.fullmatch(r"[a-z](?:dc|sc|nkt)\d?", short):
            written.add(short[0] + short[1:].upper())
        table.setdefault(key_of(reading), set()).update(written)
    return {key: frozenset(forms) for key, forms in table.items()}


@cache
def _genes() -> frozenset[str]:
    from okrcell.corpus.gene_tables import current

    return frozenset(symbol.upper() for symbol in current().symbol.values() if symbol)


def _is_gene(short: str) -> bool:
    return short.upper() in _genes() or re.fullmatch(r"CD\d+[A-Za-z]?", short, re.I) is not None
