"""What a gene name in a file looks like before it is looked up: prefixes, suffixes, dates, species."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

__all__ = ["bare_name", "date_symbols", "ensembl_id", "foreign_hint", "loose_key", "made_unique"]

_ENSEMBL = re.compile(r"(?<![A-Za-z0-9])ENSG[\dR]\d{10}(?!\d)")
_GENOME = re.compile(r"(?:GRCh3[78]|hg19|hg38)[_:]+", re.IGNORECASE)
_UNIQUE = re.compile(r"(.+)[-.](\d{1,3})")
_MONTHS = (
    "JANUARY FEBRUARY MARCH APRIL MAY JUNE JULY AUGUST SEPTEMBER OCTOBER NOVEMBER DECEMBER".split()
)
_DATE = re.compile(
    rf"(?:(\d{{1,2}})-({'|'.join(m[:3] for m in _MONTHS)})"
    rf"|({'|'.join(m[:3] for m in _MONTHS)})-(\d{{1,2}}))",
    re.IGNORECASE,
)
_FOREIGN = {
    "mouse": re.compile(r"ENSMUSG\d|(?:mm9|mm10|mm39|GRCm3[89])_+", re.IGNORECASE),
    "rat": re.compile(r"ENSRNOG\d"),
    "zebrafish": re.compile(r"ENSDARG\d"),
    "another species": re.compile(r"ENS(?!G)[A-Z]{3,4}G\d|FBgn\d|WBGene\d"),
}
_TITLE = re.compile(r"[A-Z][a-z]+[a-z0-9-]*|[A-Z][a-z]{1,3}-?\d+[a-z]*\d*")
_HUMAN_SHARE = 0.2


def bare_name(name: str) -> str:
    """Return a name without white space around it and without a genome's prefix."""
    name = name.strip()
    found = _GENOME.match(name)
    return name[found.end() :] if found else name


def ensembl_id(name: str) -> str:
    """Return the unversioned human Ensembl gene id in a name, or an empty text.

    ``ENSG00000000003.15``, ``ENSG00000000003_TSPAN6``, ``TSPAN6_ENSG00000000003`` and the forms of
    the pseudo-autosomal copies (``ENSGR...``, ``..._PAR_Y``) are read.
    """
    found = _ENSEMBL.search(name) if "ENSG" in name else None
    return found.group().replace("ENSGR", "ENSG0") if found else ""


def loose_key(symbol: str) -> str:
    """Return a symbol without case, and with hyphens as the dots that R turns them into."""
    return symbol.casefold().replace("-", ".")


def made_unique(name: str) -> str:
    """Return the name that a tool numbered to make it unique (``ABC-1``, ``ABC.1``), or ''."""
    found = _UNIQUE.fullmatch(name)
    return found.group(1) if found else ""


def date_symbols(name: str) -> Iterator[str]:
    """Yield the symbols that a spreadsheet may have turned into this date: ``1-Mar``, ``Sep-02``."""
    found = _DATE.fullmatch(name)
    if not found:
        return
    day, month = found[1] or found[4], (found[2] or found[3]).upper()
    full = next(m for m in _MONTHS if m.startswith(month))
    for length in range(3, len(full) + 1):
        yield f"{full[:length]}{int(day)}"


def foreign_hint(names: Collection[str], known_share: float) -> str:
    """Say why names do not look like human genes, or return an empty text.

    Parameters
    ----------
    names
        The names that are no human Ensembl ids.
    known_share
        Share of them that are human symbols, exactly.
    """
    if not names or known_share >= _HUMAN_SHARE:
        return ""
    half = len(names) / 2
    for species, pattern in _FOREIGN.items():
        if sum(bool(pattern.match(name)) for name in names) > half:
            return f"the names look like genes of {species}; only human genes are supported"
    if sum(name.startswith("ENST0") for name in names) > half:
        return "the names are transcripts; sum them up to genes first"
    if sum(name.isdigit() for name in names) > half:
        return "the names are numbers, perhaps Entrez ids; Ensembl ids or symbols are needed"
    if sum(bool(_TITLE.fullmatch(name)) for name in names) > half:
        return "the names are written like symbols of mouse genes; only human genes are supported"
    if sum(name.islower() for name in names) > half:
        return "the names are in lower case; human symbols are in capitals"
    return ""
