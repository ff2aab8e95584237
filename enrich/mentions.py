"""What a text names: cell types, anatomy, genes and other substances, numbers, sex, stage, species.

``read`` turns a text into words with a sign each (affirmed or denied) and mentions with the ids that
they may mean. Two texts are then compared by ids and stems, not by letters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache

from okrcell.corpus import ontology
from okrcell.corpus.gene_words import genes_of
from okrcell.enrich.lexicon import NEGATORS, NOT_SUBSTANCES, NUMBERS, STOP, SUBSTANCES
from okrcell.enrich.name_index import abbreviations, name_index
from okrcell.enrich.polarity import denied, positive_form
from okrcell.enrich.stems import singular, stem, tokens

__all__ = ["KINDS", "Mention", "Reading", "claims_number", "closure", "read"]

KINDS = ("cell", "tissue", "gene", "substance", "acronym", "sex", "stage", "species", "number")

_SUBSTANCE = re.compile(r"[a-z]{3,}(?:(?:in|ase|ogen|one|ine|kine)s?|ol|steroids?)")
_ACRONYM = re.compile(r"(?=.*[A-Z].*[A-Z0-9])[A-Za-z]*[A-Z][A-Za-z0-9]*")
_CELL_NOUN = re.compile(r"[a-z]{3,}(?:cyte|blast|clast|phage|phil|gonium)")
_ROMAN = re.compile(r"[IVX]+")
_DIGITS = re.compile(r"\d+(?:[.,]\d+)*")
_TENS = frozenset("twenty thirty forty fifty sixty seventy eighty ninety".split())
_SCALES = frozenset("hundred thousand million billion dozen".split())
_NO_CLAIM = frozenset("one zero first both pair paired dual".split())
_MEASURES = frozenset("to - percent % hundred thousand million in out per".split())
_FAMILIES = frozenset("interleukin keratin cytokeratin aquaporin claudin mucin".split())
_CORECEPTORS = frozenset({"cd4", "cd8"})
_LEVELS = frozenset("positive negative".split())


@dataclass(frozen=True, slots=True)
class Mention:
    """A name in a text.

    Attributes
    ----------
    kind
        One of ``KINDS``.
    ids
        What the name may mean: term ids, gene symbols, a group of sexes, stages or species, values
        of a number that come to the same, or the stem itself.
    name
        As it stands in the text.
    start, end
        Tokens.
    is_denied
        Whether the text denies it, or sets it in contrast to what it speaks of.
    """

    kind: str
    ids: frozenset[str]
    name: str
    start: int
    end: int
    is_denied: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """A text as the checks read it.

    Attributes
    ----------
    words, stems, signs
        One for each token: lower case; the stem, empty for words that claim nothing; whether it is
        denied.
    content
        Stem to the signs with which it occurs; both where its sign is left open.
    firm
        The same without occurrences that are left open.
    forms
        Stem to the word, in lower case, that it was taken from first.
    mentions
        In order of appearance; they do not overlap.
    denies
        Whether it denies something by a word of its own ("not", "lacks"), not only by a form of
        another word ("immature").
    """

    words: tuple[str, ...]
    stems: tuple[str, ...]
    signs: tuple[bool, ...]
    content: dict[str, frozenset[bool]]
    firm: dict[str, frozenset[bool]]
    forms: dict[str, str]
    mentions: tuple[Mention, ...]
    denies: bool

    def of(self, *kinds: str) -> list[Mention]:
        """Return the mentions of some kinds."""
        return [mention for mention in self.mentions if mention.kind in kinds]


@cache
def closure(term_id: str) -> frozenset[str]:
    """Return a term and its ancestors: what may be said of it in more general words."""
    return frozenset({term_id, *ontology.ancestors(term_id)})


@lru_cache(maxsize=50_000)
def read(text: str) -> Reading:
    """Read a text; readings are remembered, since profiles share their evidence."""
    raw = tokens(text)
    low = [token.lower() for token in raw]
    spans = list(_spans(raw, low))
    marked = [False] * len(raw)
    for kind, _, start, end in spans:
        if kind in {"gene", "substance", "acronym"}:
            marked[start:end] = [True] * (end - start)
    cells = [False] * len(raw)
    for kind, _, start, end in spans:
        cells[start:end] = [kind == "cell"] * (end - start)
    signs, open_ = denied(low, marked, cells)
    cued = list(signs)
    stems = []
    for at, word in enumerate(low):
        negative_of = positive_form(word)
        if negative_of:
            signs[at] = not signs[at]
            word = negative_of
        silent = word in STOP or word in NEGATORS or word in _LEVELS or not word.isalnum()
        stems.append("" if silent or word in NUMBERS or word.isdigit() else stem(word))
    denies = any(sign and found for sign, found in zip(cued, stems, strict=True))
    content: dict[str, set[bool]] = {}
    firm: dict[str, set[bool]] = {}
    forms: dict[str, str] = {}
    for at, found in enumerate(stems):
        if found and len(found) > 1:
            content.setdefault(found, set()).update({True, False} if open_[at] else {signs[at]})
            if not open_[at]:
                firm.setdefault(found, set()).add(signs[at])
            forms.setdefault(found, singular(low[at]))
    mentions = tuple(
        Mention(kind, ids, " ".join(raw[start:end]), start, end, signs[end - 1] or open_[end - 1])
        for kind, ids, start, end in spans
    )
    return Reading(
        tuple(low),
        tuple(stems),
        tuple(signs),
        {found: frozenset(each) for found, each in content.items()},
        {found: frozenset(each) for found, each in firm.items()},
        forms,
        mentions,
        denies,
    )


Span = tuple[str, frozenset[str], int, int]


def _spans(raw: list[str], low: list[str]) -> Iterator[Span]:
    """Yield kind, ids, and first and last token of each name, the longest at each place."""
    words = _canonical(raw, low)
    begins = {at: number for number, (_, at) in enumerate(words)}
    place = 0
    while place < len(raw):
        best = _gene_at(raw, place) or ("", frozenset(), place, place)
        if place in begins:
            named = _name_at(words, begins[place], raw)
            if named and named[3] >= best[3]:
                best = named
        best = best if best[0] else (_word_at(raw, low, place) or best)
        if best[0]:
            if low[best[3] : best[3] + 2] != ["-", "like"]:
                yield best
            place = best[3]
        else:
            place += 1


def _canonical(raw: list[str], low: list[str]) -> list[tuple[str, int]]:
    """Return the words as names of cell types are compared, each with its token's place.

    "CD4-positive, alpha-beta T cells" is "cd4 t cell". A comma or full stop stays and ends names.
    """
    words: list[tuple[str, int]] = []
    coreceptor_at = -9
    for at, piece in enumerate(raw):
        if low[at] in {"-", "/"}:
            continue
        word = singular(piece)
        before = words[-1][0] if words else ""
        if word == "positive" and re.fullmatch(r"cd\d+[a-z]*", before):
            continue
        if word in _CORECEPTORS:
            coreceptor_at = at
        near = at - coreceptor_at <= 8
        if near and word in {"alpha", "beta"} and low[at - 1] in {",", "-", "positive", "alpha"}:
            continue
        if near and word == "," and "alpha" in low[at + 1 : at + 2]:
            continue
        words.append((word, at))
    return words


def _name_at(words: list[tuple[str, int]], begin: int, raw: list[str]) -> Span | None:
    names, longest = name_index()
    first, at = words[begin]
    short = abbreviations().get(raw[at]) or abbreviations().get(raw[at].removesuffix("s"))
    for size in range(min(longest.get(first, 0), len(words) - begin), 0, -1):
        found = names.get(" ".join(word for word, _ in words[begin : begin + size]))
        if found and found[1]:
            return (*found, at, words[begin + size - 1][1] + 1)
    return (*short, at, at + 1) if short else None


def _gene_at(raw: list[str], at: int) -> Span | None:
    """Return the marker that begins at a token; it may be written in pieces (HLA-DR, IL-2)."""
    first = raw[at]
    if not first[0].isalpha():
        return None
    if first.lower() in _FAMILIES:
        pieces = [piece for piece in raw[at + 1 : at + 3] if piece != "-"][:1]
        if pieces and pieces[0][0].isdigit():
            end = at + 2 + (raw[at + 1] == "-")
            genes = genes_of(first.lower() + pieces[0])
            return "gene", _or_receptor(genes, raw, end), at, end
        return None
    for end in (at + 5, at + 3, at + 1):
        pieces = raw[at:end]
        whole = "".join(pieces)
        capitals = sum(letter.isupper() for letter in whole)
        # "Ki-67", "T-bet" and mouse symbols without a digit are left to the phrases.
        if capitals == 0 or (capitals == 1 and not any(letter.isdigit() for letter in whole)):
            continue
        if len(pieces) == end - at and all(p in "-/" for p in pieces[1::2]):
            found = genes_of(whole) if all(p.isalnum() for p in pieces[::2]) else None
            if found:
                return "gene", _or_receptor(found, raw, end), at, end
    return None


def _or_receptor(genes: frozenset[str], raw: list[str], end: int) -> frozenset[str]:
    """Return the genes, and those of their receptors where the text says "receptor"."""
    if raw[end : end + 1] != ["receptor"]:
        return genes
    return genes | {f"{gene}R" for gene in genes}


def _word_at(raw: list[str], low: list[str], at: int) -> Span | None:
    """Return a number, an abbreviation or a substance that is one word."""
    token, word = raw[at], singular(raw[at])
    number = _number_at(raw, low, at)
    if number:
        return number
    if len(token) > 1 and _ACRONYM.fullmatch(token) and not _ROMAN.fullmatch(token):
        return "acronym", frozenset({token.removesuffix("s").upper()}), at, at + 1
    known = word in SUBSTANCES or (_SUBSTANCE.fullmatch(low[at]) and word not in NOT_SUBSTANCES)
    if known and word not in STOP:
        return "substance", frozenset({word}), at, at + 1
    if _CELL_NOUN.fullmatch(word):
        return "cell", frozenset({word}), at, at + 1
    return None


def _number_at(raw: list[str], low: list[str], at: int) -> Span | None:
    value = _value(raw, low, at)
    if value is None:
        return None
    end = at + 1
    if low[at] in _TENS:
        skip = at + 1 + (low[at + 1 : at + 2] == ["-"])
        unit = NUMBERS.get(low[skip], 0.0) if skip < len(low) else 0.0
        if 1 <= unit <= 9:
            value, end = value + unit, skip + 1
    while end < len(low) and singular(low[end]) in _SCALES:
        value, end = value * NUMBERS[singular(low[end])], end + 1
    same = {value}
    if low[end : end + 1] in (["in"], ["of"]) or low[end : end + 2] == ["out", "of"]:
        whole = end + 1 + (low[end] == "out")
        total = _value(raw, low, whole) if whole < len(low) else None
        if total:
            same, end = same | {100 * value / total}, whole + 1
    if value in {0.25, 0.5}:
        same.add(100 * value)
    ids = frozenset(f"{each:g}" for each in same)
    return "number", ids, at, end


def _value(raw: list[str], low: list[str], at: int) -> float | None:
    if _DIGITS.fullmatch(raw[at]):
        plain = raw[at].replace(",", "")
        return float(plain) if plain.count(".") < 2 else None
    word = singular(low[at])
    if word in {"i", "ii", "iii", "iv", "vi"} and not raw[at].isupper():
        return None
    if word == "i" and (
        at == 0 or low[at - 1] not in {"type", "class", "group", "stage", "collagen"}
    ):
        return None
    return NUMBERS.get(word)


def claims_number(mention: Mention, words: tuple[str, ...]) -> bool:
    """Whether a number is more than a way of speaking ("one", "both", "a single")."""
    after, name = words[mention.end : mention.end + 1], singular(mention.name)
    return name not in _NO_CLAIM or (name == "one" and bool(after) and after[0] in _MEASURES)
