"""Sentences of a passage, verbatim, and what of an ontology document is its definition."""

from __future__ import annotations

import re
from functools import lru_cache

from okrcell.corpus import ontology

__all__ = ["definition_sentences", "is_whole", "n_words", "split_sentences"]

_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9(\"'])|\s*\n+\s*")
_ABBREVIATED = re.compile(r"(?:\b(?:e\.g|i\.e|vs|cf|approx|Fig|al|no|sp|spp|St|Dr)|\b[A-Z])\.$")
_SYNONYMS = re.compile(r"(?:^|(?<=\s))Synonyms: ")


@lru_cache(maxsize=65536)
def split_sentences(text: str) -> tuple[str, ...]:
    """Return the sentences of a text; each is a verbatim part of it."""
    sentences, begin = [], 0
    for match in _END.finditer(text):
        if "\n" not in match[0] and _ABBREVIATED.search(text[begin : match.start()]):
            continue
        sentences.append(text[begin : match.start()])
        begin = match.end()
    sentences.append(text[begin:])
    return tuple(s for part in sentences if (s := part.strip()))


def is_whole(sentence: str) -> bool:
    """Whether a sentence of running text begins and ends as one, and is no heading or fragment."""
    return (
        (sentence[0].isupper() or sentence[0].isdigit())
        and sentence.endswith((".", "!", "?"))
        and n_words(sentence) >= 4
        and "|" not in sentence
    )


def definition_sentences(text: str, doc_id: str) -> tuple[str, tuple[str, ...]]:
    """Split an ontology document, ``label: definition. Synonyms: a, b.``

    Returns
    -------
    label
        As it stands in the text; "" in a later piece of a long document.
    sentences
        Of the definition, verbatim; the first follows ``label: ``.
    """
    term = ontology.get_term(doc_id)
    label = term.label if term else ""
    synonyms = _SYNONYMS.search(text)
    body = text[: synonyms.start()].strip() if synonyms else text.strip()
    if label and body.startswith(f"{label}: "):
        return label, split_sentences(body[len(label) + 2 :])
    if label and body.rstrip(".") == label:
        return label, ()
    return "", split_sentences(body) if not synonyms or synonyms.start() else ()


def n_words(text: str) -> int:
    """Return the number of words as a reader counts them."""
    return len(text.split())
