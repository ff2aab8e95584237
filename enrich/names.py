"""Names of cell types in running text: which type a sentence is about, and which names it gives away.

Names are compared as the Cell Ontology and the literature write them: hyphens, plurals, "+" and the
order of qualifiers do not matter, and "CD4 memory T cells" is "CD4-positive, alpha-beta memory T
cell".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache

from okrcell.corpus import ontology

__all__ = ["find_names", "is_about", "key_of", "near_relatives", "says", "tokenise"]

NEAR_STEPS = 2
"""A passage about an ancestor this near may speak for a cell type."""

_TOO_BROAD = 200  # "leukocyte" has more descendants than this: its markers say little of any
_LONGEST_NAME = 10  # tokens
_ABBREVIATION = 4  # characters; shorter names are often genes or other things (VIP, ARC, G5)
_ROOT = "CL:0000000"
_BEFORE_A_NAME = frozenset(
    "a all an and are as by every for from healthy human in is like most of or some that the these "
    "this those to with".split()
)


@lru_cache(maxsize=65536)
def tokenise(text: str) -> tuple[str, ...]:
    """Return the words of a text in lower case, singular, with markers as the literature has them."""
    plain = unicodedata.normalize("NFKC", text)
    plain = re.sub(r"(?<=[A-Za-z0-9])\+", " positive ", plain)
    words = []
    for word in re.findall(r"[A-Za-z0-9]+", plain):
        # A plural ends in a small "s"; gene symbols end in a capital one and keep it.
        plural = len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is"))
        words.append((word[:-1] if plural else word).casefold())
    kept: list[str] = []
    has_coreceptor = any(word in {"cd4", "cd8"} for word in words)
    for word in words:
        if word == "positive" and kept and re.fullmatch(r"cd\d+[a-z]*", kept[-1]):
            continue
        if has_coreceptor and word in {"alpha", "beta"}:
            continue
        kept.append(word)
    return tuple(kept)


def key_of(name: str) -> tuple[str, ...]:
    """Return what two spellings of a name have in common."""
    return tuple(sorted(tokenise(name)))


@cache
def _index() -> dict[tuple[str, ...], frozenset[str]]:
    index: dict[tuple[str, ...], set[str]] = {}
    for term in ontology.terms("cl"):
        for name in (term.label, *term.synonyms):
            key = key_of(name)
            if term.term_id != _ROOT and key and (len(key) > 1 or len(key[0]) > _ABBREVIATION):
                index.setdefault(key, set()).add(term.term_id)
    return {key: frozenset(ids) for key, ids in index.items()}


@cache
def _n_descendants() -> dict[str, int]:
    counts: dict[str, int] = {}
    for term in ontology.terms("cl"):
        for ancestor in ontology.ancestors(term.term_id):
            counts[ancestor] = counts.get(ancestor, 0) + 1
    return counts


@cache
def near_relatives(term_id: str) -> frozenset[str]:
    """Return a cell type and its near ancestors, without those that cover almost everything."""
    near = {
        ancestor
        for ancestor, steps in ontology.ancestors(term_id).items()
        if steps <= NEAR_STEPS
        and ancestor.startswith("CL:")
        and _n_descendants().get(ancestor, 0) <= _TOO_BROAD
    }
    return frozenset(near | {term_id})


def _first_mention(
    tokens: tuple[str, ...], own: Mapping[tuple[str, ...], frozenset[str]]
) -> tuple[frozenset[str], bool] | None:
    """Return the ids of the first cell type named, and whether its name stands unqualified."""
    index = _index()
    for start in range(len(tokens)):
        for size in range(min(_LONGEST_NAME, len(tokens) - start), 0, -1):
            key = tuple(sorted(tokens[start : start + size]))
            ids = own.get(key) or index.get(key)
            if ids:
                bare = start == 0 or tokens[start - 1] in _BEFORE_A_NAME
                return ids, bare
    return None


def is_about(sentence: str, label: str, term_id: str, *, near: bool) -> bool:
    """Whether a sentence is about a cell type: the first type that it names, without a qualifier.

    "Unlike T cells, NK cells lack CD3" is not taken to be about NK cells, nor "CD56-dim NK cells
    carry CD16" about all of them: what is refused costs a sentence, what slips through misleads.

    Parameters
    ----------
    label, term_id
        Of the cell type; the id may be empty.
    near
        Whether naming a near ancestor is enough.
    """
    # The label of a file may be a name that the ontology does not know.
    own = {key_of(name): frozenset({"own"}) for name in (label, *ontology.names(term_id))}
    allowed = near_relatives(term_id) if near and term_id else frozenset({term_id})
    mention = _first_mention(tokenise(sentence), own)
    return mention is not None and mention[1] and bool(mention[0] & (allowed | {"own"}))


def says(text: str, names: Iterable[str]) -> bool:
    """Whether a text contains one of the names as a run of words."""
    haystack = f" {' '.join(tokenise(text))} "
    return any(
        words and f" {' '.join(words)} " in haystack for words in (tokenise(name) for name in names)
    )


def find_names(text: str, names: Iterable[str]) -> list[str]:
    """Return the names that a text gives away, sorted; abbreviations must match in case."""
    found = set()
    for name in names:
        if len(name) <= _ABBREVIATION:
            if re.search(rf"(?<!\w){re.escape(name)}s?(?!\w)", text):
                found.add(name)
        elif says(text, (name,)):
            found.add(name)
    return sorted(found)
