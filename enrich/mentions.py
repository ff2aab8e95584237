"""What a text names: cell types, anatomy, genes and other substances, numbers, sex, stage, species.

``read`` turns a text into words with a sign each (affirmed or denied) and mentions with the ids that
they may mean. Two texts are then compared by ids and stems, not by letters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache

from okrcell.corpus import ontology
from okrcell.enrich.gene_words import PROTEIN_PHRASES, genes_of
from okrcell.enrich.lexicon import (
    ADJECTIVES,
    EXCLUSIVE,
    GENERIC_ANATOMY,
    NEGATORS,
    NOT_SUBSTANCES,
    NUMBERS,
    STOP,
)
from okrcell.enrich.names import tokenise
from okrcell.enrich.polarity import denied, positive_form
from okrcell.enrich.stems import singular, stem, tokens

__all__ = ["KINDS", "Mention", "Reading", "claims_number", "closure", "read"]

KINDS = ("cell", "tissue", "gene", "substance", "acronym", "sex", "stage", "species", "number")

_LONGEST = 8  # words of a name
_SHORT = 4  # single words up to this length count only as they are written ("DC", "vein" is longer)
_SUBSTANCE = re.compile(
    r"[a-z]{3,}(?:in|ins|ase|ases|ogen|ogens|one|ones|ine|ines|amine|poietin|kine|kines|tropin|trophin|cadherin|ol|steroids?)"
)
_ACRONYM = re.compile(r"(?=.*[A-Z].*[A-Z0-9])[A-Za-z]*[A-Z][A-Za-z0-9]*")
_ROMAN = re.compile(r"[IVX]+")
_DIGITS = re.compile(r"\d+(?:[.,]\d+)*")
_TENS = frozenset("twenty thirty forty fifty sixty seventy eighty ninety".split())
_SCALES = frozenset("hundred thousand million billion dozen".split())
_NO_CLAIM = frozenset("one zero first both pair paired dual single sole".split())
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
        Whether the text denies it.
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
        Stem to the signs with which it occurs.
    forms
        Stem to the word, in lower case, that it was taken from first.
    mentions
        In order of appearance; they do not overlap.
    """

    words: tuple[str, ...]
    stems: tuple[str, ...]
    signs: tuple[bool, ...]
    content: dict[str, frozenset[bool]]
    forms: dict[str, str]
    mentions: tuple[Mention, ...]

    def of(self, *kinds: str) -> list[Mention]:
        """Return the mentions of some kinds."""
        return [mention for mention in self.mentions if mention.kind in kinds]


@cache
def closure(term_id: str) -> frozenset[str]:
    """Return a term and its ancestors: what may be said of it in more general words."""
    return frozenset({term_id, *ontology.ancestors(term_id)})


# --- names -------------------------------------------------------------------------------------


def _key(name: str) -> tuple[str, ...]:
    return tokenise(re.sub(r"\s*\([^)]*\)|, human$|, mouse$", "", name))


@cache
def _names() -> tuple[dict[str, tuple[str, frozenset[str]]], dict[str, int]]:
    """Return name to kind and ids, and first word to the number of words of the longest name."""
    found: dict[str, tuple[str, set[str]]] = {}

    def add(kind: str, words: tuple[str, ...], ids: Iterable[str]) -> None:
        if words and len(words) <= _LONGEST:
            entry = found.setdefault(" ".join(words), (kind, set()))
            if entry[0] == kind:
                entry[1].update(ids)

    for phrase, gene in PROTEIN_PHRASES.items():
        add("gene", tokenise(phrase), {gene})
    for group, members in EXCLUSIVE.items():
        for value, words in members.items():
            for word in words:
                add(group, tokenise(word.replace("-", " ")), {value})
    for term in ontology.terms("cl"):
        for name in (term.label, *term.synonyms):
            words = _key(name)
            if term.term_id != "CL:0000000" and (len(words) > 1 or len("".join(words)) > _SHORT):
                add("cell", words, {term.term_id})
    nouns: dict[str, set[str]] = {}
    for term in ontology.terms("uberon"):
        for name in (term.label, *term.synonyms):
            words = _key(name)
            plain = " ".join(words)
            nouns.setdefault(plain, set()).add(term.term_id)
            is_word = len(words) == 1 and (len(plain) < _SHORT - 1 or plain in GENERIC_ANATOMY)
            if plain not in GENERIC_ANATOMY and not is_word and "cell" not in words:
                add("tissue", words, {term.term_id})
    for line in ADJECTIVES.strip().splitlines():
        adjective, _, noun = line.partition(" ")
        add("tissue", (adjective,), nouns.get(" ".join(tokenise(noun)), ()))
    longest: dict[str, int] = {}
    for name in found:
        words = name.split()
        longest[words[0]] = max(longest.get(words[0], 0), len(words))
    return {name: (kind, frozenset(ids)) for name, (kind, ids) in found.items()}, longest


@cache
def _abbreviations() -> dict[str, tuple[str, frozenset[str]]]:
    """Return short names of cell types, as they are written, to kind and ids."""
    found: dict[str, set[str]] = {}
    for term in ontology.terms("cl"):
        for name in term.synonyms:
            if 2 <= len(name) <= 6 and _ACRONYM.fullmatch(name):
                found.setdefault(name, set()).add(term.term_id)
    return {name: ("cell", frozenset(ids)) for name, ids in found.items()}


# --- reading -----------------------------------------------------------------------------------


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
    signs = denied(low, marked)
    stems = []
    for at, word in enumerate(low):
        negative_of = positive_form(word)
        if negative_of:
            signs[at] = not signs[at]
            word = negative_of
        silent = word in STOP or word in NEGATORS or word in _LEVELS or not word.isalnum()
        stems.append("" if silent or word in NUMBERS or word.isdigit() else stem(word))
    content: dict[str, set[bool]] = {}
    forms: dict[str, str] = {}
    for at, found in enumerate(stems):
        if found and len(found) > 1:
            content.setdefault(found, set()).add(signs[at])
            forms.setdefault(found, singular(low[at]))
    mentions = tuple(
        Mention(kind, ids, " ".join(raw[start:end]), start, end, signs[end - 1])
        for kind, ids, start, end in spans
    )
    return Reading(
        tuple(low),
        tuple(stems),
        tuple(signs),
        {found: frozenset(each) for found, each in content.items()},
        forms,
        mentions,
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
    for at, token in enumerate(raw):
        if token == "-":
            continue
        word = singular(token)
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
    names, longest = _names()
    first, at = words[begin]
    short = _abbreviations().get(raw[at]) or _abbreviations().get(raw[at].removesuffix("s"))
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
    family = first.lower() in {
        "interleukin",
        "keratin",
        "cytokeratin",
        "aquaporin",
        "claudin",
        "mucin",
    }
    if family:
        pieces = [piece for piece in raw[at + 1 : at + 3] if piece != "-"][:1]
        if pieces and pieces[0][0].isdigit():
            end = at + 2 + (raw[at + 1] == "-")
            return "gene", _or_receptor(genes_of(first.lower() + pieces[0]), raw, end), at, end
        return None
    capitals = sum(letter.isupper() for letter in first)
    if capitals == 0 or (capitals == 1 and not any(letter.isdigit() for letter in first)):
        # "Ki-67", "T-bet" and mouse symbols without a digit are left to the phrases.
        return None
    for end in (at + 5, at + 3, at + 1):
        pieces = raw[at:end]
        if len(pieces) == end - at and all(p == "-" for p in pieces[1::2]):
            found = genes_of("".join(pieces)) if all(p.isalnum() for p in pieces[::2]) else None
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
    if _SUBSTANCE.fullmatch(low[at]) and word not in NOT_SUBSTANCES and word not in STOP:
        return "substance", frozenset({stem(word)}), at, at + 1
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
        same |= {100 * value / total} if total else set()
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


def claims_number(mention: Mention) -> bool:
    """Whether a number is more than a way of speaking ("one", "both", "a single")."""
    return mention.name.lower() not in _NO_CLAIM
