"""Names of cell types, anatomy, proteins and people, as running text writes them, with their ids."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from okrcell.corpus import ontology
from okrcell.corpus.gene_words import PROTEIN_PHRASES
from okrcell.enrich.lexicon import ADJECTIVES, EXCLUSIVE, GENERIC_ANATOMY, SHORT_ANATOMY
from okrcell.enrich.names import tokenise

__all__ = ["abbreviations", "name_index"]

Entry = tuple[str, frozenset[str]]
"""Kind of mention, and ids that a name may mean."""

_LONGEST = 8  # words of a name
_SHORT = 4  # a single word of a cell type up to this length is often another thing ("VIP", "ARC")
_SHORT_FORM = re.compile(r"(?=.*[A-Z].*[A-Z0-9])[A-Za-z]*[A-Z][A-Za-z0-9]*")


def _key(name: str) -> tuple[str, ...]:
    return tokenise(re.sub(r"\s*\([^)]*\)|, human$|, mouse$", "", name))


@cache
def name_index() -> tuple[dict[str, Entry], dict[str, int]]:
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
        for value, spellings in members.items():
            for member in spellings:
                add(group, tokenise(member.replace("-", " ")), {value})
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
            if not _is_everyday(words) and "cell" not in words:
                add("tissue", words, {term.term_id})
            # "Marginal zone of spleen" is also written without its organ.
            head = words[: words.index("of")] if "of" in words else ()
            if len(head) > 1 and head[-1] not in GENERIC_ANATOMY - {"zone"}:
                add("tissue", head, {term.term_id})
    for line in ADJECTIVES.strip().splitlines():
        adjective, _, noun = line.partition(" ")
        add("tissue", (adjective,), nouns.get(" ".join(tokenise(noun)), ()))
    longest: dict[str, int] = {}
    for name in found:
        first, n_words = name.partition(" ")[0], name.count(" ") + 1
        longest[first] = max(longest.get(first, 0), n_words)
    return {name: (kind, frozenset(ids)) for name, (kind, ids) in found.items()}, longest


def _is_everyday(words: tuple[str, ...]) -> bool:
    if len(words) != 1:
        return False
    word = words[0]
    short = len(word) < _SHORT and word not in SHORT_ANATOMY
    return short or word in GENERIC_ANATOMY or not word.isalpha()


@cache
def abbreviations() -> dict[str, Entry]:
    """Return short names of cell types, as they are written, to kind and ids."""
    found: dict[str, set[str]] = {}
    for term in ontology.terms("cl"):
        for name in term.synonyms:
            if 2 <= len(name) <= 6 and _SHORT_FORM.fullmatch(name):
                found.setdefault(name, set()).add(term.term_id)
    return {name: ("cell", frozenset(ids)) for name, ids in found.items()}
