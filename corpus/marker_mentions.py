"""Genes that a text states as expressed or not: "CD4-positive", "secretes glucagon", "lacks CD25".

A name alone is no evidence: "glucagon receptor", "in response to IL2", "CD4 T cells". A mark on the name
("-positive", "+", "-expressing", "-negative"), a verb or noun before it ("expresses", "lacks", "markers
such as") or a predicate behind it ("are not expressed") must say what the cell does. What is set in
contrast ("unlike T cells, which express CD3") is left out, and so are isoforms and sugars, which the
count of a gene cannot tell (CD45RA, CD57), and low or intermediate levels.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from okrcell.corpus import marker_words as words_of
from okrcell.corpus.gene_words import PROTEIN_PHRASES, genes_of
from okrcell.corpus.marker_table import Marker, find_gene, joined

__all__ = ["cited_markers", "named_markers"]

_GREEK = {"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "κ": "kappa"}
_LEVEL = re.compile(r"\b(CD\d+[a-zA-Z]?\d?)(hi|high|bright|lo|low|dim|int|neg|pos)\b")
_PLUS = re.compile(r"(?<=[A-Za-z0-9])\s?\+{1,3}(?![a-z0-9])")
_MINUS = re.compile(r"\b(CD\d+[a-zA-Z]?\d?|[A-Z][A-Z0-9]{2,})[-\u2212](?=[\s,.;)/]|$|CD\d)")
_STOPS = re.compile(r"(?<=[a-z0-9)\]])[.!?](?=\s+[A-Z\[(]|\s*$)|[;\n]")
_TOKEN = re.compile(r"[A-Za-z0-9]+(?:\.\d+)?|[-/,:()]")

_ASIDE = 8
_MOST_BETWEEN = 4
_DENIAL_REACH = 4


class _Name(NamedTuple):
    """A gene's name in a sentence: its tokens from ``start`` to ``end``, and the symbols it stands for."""

    start: int
    end: int
    symbols: tuple[str, ...]


def named_markers(text: str, source: str) -> tuple[Marker, ...]:
    """Return the genes that a text states as expressed (sign 1) or not (sign -1), in order.

    A gene stands once. One that the text states both ways is left out.

    Parameters
    ----------
    text
        Running text in English, or the name of a cell type.
    source
        What the markers cite.
    """
    signs: dict[str, set[int]] = {}
    for sentence in _STOPS.split(_plain(text)):
        for symbols, sign in _read(tuple(_TOKEN.findall(sentence))):
            for symbol in symbols:
                signs.setdefault(symbol, set()).add(sign)
    return joined(
        Marker(*gene, both.pop(), source)
        for symbol, both in signs.items()
        if len(both) == 1 and (gene := find_gene(symbol)) is not None
    )


def cited_markers(claims: Sequence[Mapping[str, Any]]) -> tuple[Marker, ...]:
    """Return the markers of a description, each with the citations of the sentence that states it.

    Parameters
    ----------
    claims
        The column ``claims`` of one row of the table ``descriptions``. Dropped sentences are not
        read. The source of a marker lists the snippet ids of its sentence, joined by spaces; a
        sentence without any has the source ``description``.
    """
    parts = []
    for claim in claims:
        if claim["state"] != "dropped":
            ids = dict.fromkeys(str(c["snippet_id"]) for c in claim["citations"] or ())
            parts.append(named_markers(str(claim["sentence"]), " ".join(ids) or "description"))
    against: dict[str, set[int]] = {}
    for marker in (marker for part in parts for marker in part):
        against.setdefault(marker.gene_id, set()).add(marker.sign)
    return tuple(marker for marker in joined(*parts) if len(against[marker.gene_id]) == 1)


def _plain(text: str) -> str:
    plain = re.sub("[\u2010-\u2015\u2212]", "-", unicodedata.normalize("NFKC", text))
    for letter, name in _GREEK.items():
        plain = plain.replace(letter, f" {name} ")
    plain = _LEVEL.sub(r"\1-\2", plain)
    plain = _MINUS.sub(r"\1 negative ", plain)
    return _PLUS.sub(" positive ", plain)


@cache
def _read(words: tuple[str, ...]) -> tuple[tuple[tuple[str, ...], int], ...]:
    """Return the symbols that a sentence states, each group with its sign."""
    low = [word.lower() for word in words]
    names = _names(words, low)
    inside = [False] * len(words)
    for name in names:
        inside[name.start : name.end] = [True] * (name.end - name.start)
    found = []
    for name in names:
        sign = _sign(words, low, inside, name)
        if sign and not _in_contrast(low, name.start):
            found.append((name.symbols, sign))
    return tuple(found)


def _names(words: Sequence[str], low: Sequence[str]) -> list[_Name]:
    names, at = [], 0
    while at < len(words):
        name = _phrase_at(low, at) or _symbol_at(words, low, at)
        if name is None:
            at += 1
            continue
        if name.symbols:
            names.append(name)
        at = name.end
    return names


@cache
def _phrases() -> dict[str, list[tuple[tuple[str, ...], str]]]:
    found: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    for phrase, symbol in PROTEIN_PHRASES.items():
        pieces = tuple(phrase.split())
        found.setdefault(pieces[0], []).append((pieces, symbol))
    return {first: sorted(some, key=lambda p: -len(p[0])) for first, some in found.items()}


def _phrase_at(low: Sequence[str], at: int) -> _Name | None:
    for pieces, symbol in _phrases().get(low[at], ()):
        place = at
        for number, piece in enumerate(pieces):
            if number and low[place : place + 1] == ["-"]:
                place += 1
            if list(low[place : place + 1]) != [piece]:
                break
            place += 1
        else:
            return _Name(at, place, (symbol,))
    return None


def _symbol_at(words: Sequence[str], low: Sequence[str], at: int) -> _Name | None:
    """Return the marker that begins at a token, also one in pieces (HLA-DRA, IL-2, CD8-alpha)."""
    first = words[at]
    if not first[0].isalpha():
        return None
    if low[at] in words_of.FAMILIES:
        number = at + 1 + (list(low[at + 1 : at + 2]) == ["-"])
        if number < len(words) and words[number][0].isdigit():
            return _Name(at, number + 1, tuple(sorted(genes_of(low[at] + words[number]))))
        return None
    for end in (at + 5, at + 3, at + 1):
        pieces = words[at:end]
        whole = "".join(pieces)
        capitals = sum(letter.isupper() for letter in whole)
        if capitals == 0 or (capitals == 1 and not any(letter.isdigit() for letter in whole)):
            continue
        joints, parts = pieces[1::2], pieces[::2]
        if (
            len(pieces) != end - at
            or any(j != "-" for j in joints)
            or not all(map(str.isalnum, parts))
        ):
            continue
        bare = whole.replace("-", "").upper()
        if bare in words_of.UNTOLD:
            return _Name(at, end, ())
        symbols = words_of.ONE_OF.get(bare) or genes_of(whole)
        if symbols:
            return _with_subunit(symbols, low, at, end)
    return None


def _with_subunit(symbols: frozenset[str], low: Sequence[str], at: int, end: int) -> _Name:
    """Read the subunit behind a complex: CD8-alpha is CD8A alone."""
    place = end + (list(low[end : end + 1]) == ["-"])
    letter = words_of.SUBUNITS.get(low[place], "") if place < len(low) else ""
    chosen = {symbol for symbol in symbols if letter and symbol.endswith(letter)}
    if len(symbols) > 1 and chosen:
        return _Name(at, place + 1, tuple(sorted(chosen)))
    return _Name(at, end, tuple(sorted(symbols)))


def _sign(words: Sequence[str], low: Sequence[str], inside: Sequence[bool], name: _Name) -> int:
    """Return 1 or -1 where the sentence says what the cell does with a name, else 0."""
    place = name.end
    while place < len(low) and (low[place] == "-" or low[place] in words_of.CHAINS):
        place += 1
    after = low[place] if place < len(low) else ""
    told = words[place] if place < len(words) else ""
    is_mark = after in words_of.ABSENT_MARKS or after in words_of.PRESENT_MARKS
    if is_mark and name.start and low[name.start - 1] in words_of.ELSEWHERE:
        return 0  # "presents antigen to CD8-positive T cells"
    if after in words_of.ABSENT_MARKS and low[place + 1 : place + 2] != ["for"]:
        return -1
    if after in words_of.PRESENT_MARKS and low[place + 1 : place + 2] != ["for"]:
        return 1 if not _denied(low, name.start) else -1
    if after in words_of.WEAK_MARKS:
        return 0
    if after in words_of.OTHER_THINGS or told in words_of.OTHER_THINGS:
        return 0
    before = _before(low, inside, name.start)
    if before:
        return before
    if after == "expression":
        return -1 if _denied(low, name.start) else 1
    return _behind(low, inside, place)


def _before(low: Sequence[str], inside: Sequence[bool], start: int) -> int:
    """Return what the nearest verb or noun before a name says: "expresses CD3 and CD4"."""
    place, between = start - 1, 0
    while place >= 0:
        word, pair = low[place], tuple(low[max(place - 1, 0) : place + 1])
        if pair in words_of.LACK_PHRASES or word in words_of.LACK:
            return -1
        if pair in words_of.HAVE_PHRASES:
            if low[max(place - 2, 0)] in words_of.WEAK_MARKS:
                return 0
            return -1 if _denied(low, place - 1) else 1
        if inside[place] or word in words_of.JOINTS or word in words_of.INTRODUCE:
            place -= 1
            continue
        if word == ")" and "(" in low[max(place - _ASIDE, 0) : place]:
            place -= 2 + list(reversed(low[:place])).index("(")  # an aside is passed over whole
            continue
        if word in words_of.HAVE:
            return -1 if _denied(low, place) else 1
        if word in words_of.BE and low[max(place - 1, 0)] in words_of.HAVE:
            place -= 1  # "the markers are CD14 and LYZ"
            continue
        between += 1
        if (
            word in words_of.BREAKS
            or word in words_of.CONTRAST
            or word == ")"
            or between > _MOST_BETWEEN
        ):
            return 0
        place -= 1
    return 0


def _denied(low: Sequence[str], at: int) -> bool:
    """Whether a denial stands shortly before a word: "does not express", "lack of expression of"."""
    reach = low[max(at - _DENIAL_REACH, 0) : at]
    if "," in reach:
        reach = reach[len(reach) - list(reversed(reach)).index(",") :]
    denies = any(word in words_of.DENIALS for word in reach) or any(
        pair in words_of.LACK_PHRASES for pair in zip(reach, reach[1:], strict=False)
    )
    return denies and "only" not in reach


def _behind(low: Sequence[str], inside: Sequence[bool], place: int) -> int:
    """Return what a predicate behind a name says: "CD3 and CD4 are not expressed", "GCG marks"."""
    while place < len(low) and (
        inside[place] or low[place] in {",", "and", "or", "-", "/", "both"}
    ):
        place += 1
    rest = list(low[place : place + 4])
    if rest[:1] and rest[0] in words_of.MARK:
        return 1
    if not rest or rest[0] not in words_of.BE:
        return 0
    is_denied = any(word in {"not", "never", "no"} for word in rest[1:])
    if any(word in words_of.GONE for word in rest[1:]):
        return -1
    if any(word in words_of.SHOWN or word in {"marker", "markers"} for word in rest[1:]):
        return -1 if is_denied else 1
    return 0


def _in_contrast(low: Sequence[str], start: int) -> bool:
    """Whether a name stands in what is set in contrast, up to the next comma."""
    for place in range(start - 1, -1, -1):
        if low[place] == ",":
            # "unlike T cells, which express CD3, B cells ..." reaches beyond its first comma.
            if low[place + 1 : place + 2] not in (["which"], ["that"]):
                return False
        elif (
            low[place] in words_of.CONTRAST
            or tuple(low[place : place + 2]) in words_of.CONTRAST_PHRASES
        ):
            return True
    return False
