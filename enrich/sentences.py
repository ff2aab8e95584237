"""Sentences of a passage, verbatim, and what of an ontology document is its definition."""

from __future__ import annotations

import re
from functools import lru_cache

from okrcell.corpus import ontology

__all__ = ["definition_sentences", "is_whole", "n_words", "split_sentences"]

_NEXT = r"(?=[A-Z0-9(\"'])"
_END = re.compile(rf"(?<=[.!?])\s+{_NEXT}|(?<=[.!?][\"')\]])\s+{_NEXT}|\s*\n+\s*")
_ABBREVIATED = re.compile(
    r"(?:\b(?:e\.g|i\.e|vs|cf|ca|approx|Figs?|al|no|spp?|subsp|var|St|Dr|resp)|\b[A-Z])\.$"
)
_OPENER = re.compile(r"(?:The|These|This|It|In|They|An?|When|Upon|Its?|Such|Some|Most|Cells?)\s")
_SYNONYMS = re.compile(r"(?:^|(?<=\s))Synonyms: ")


@lru_cache(maxsize=65536)
def split_sentences(text: str, *, flowing: bool = False) -> tuple[str, ...]:
    """Return the sentences of a text; each is a verbatim part of it.

    Parameters
    ----------
    flowing
        Whether a line may end within a sentence, as in the definitions of ontologies.
    """
    sentences, begin = [], 0
    for match in _END.finditer(text):
        so_far = text[begin : match.start()]
        if flowing and "\n" in match[0] and not so_far.endswith((".", "!", "?")):
            continue
        if ("\n" not in match[0] or flowing) and _ABBREVIATED.search(so_far):
            # "vitamin A. The cell": a letter may also end a sentence.
            if not re.search(r"\b[A-Z]\.$", so_far) or not _OPENER.match(text, match.end()):
                continue
        sentences.append(so_far)
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


def definition_sentences(
    text: str, doc_id: str, label: str | None = None
) -> tuple[str, tuple[str, ...]]:
    """Split an ontology document, ``label: definition. Synonyms: a, b.``

    Parameters
    ----------
    label
        How the term's label stands in the text, where it was masked.

    Returns
    -------
    label
        As it stands in the text; "" in a later piece of a long document.
    sentences
        Of the definition, verbatim; the first follows ``label: ``.
    """
    term = ontology.get_term(doc_id)
    label = (term.label if term else "") if label is None else label
    synonyms = _SYNONYMS.search(text)
    body = text[: synonyms.start()].strip() if synonyms else text.strip()
    if label and body.startswith(f"{label}: "):
        return label, split_sentences(body[len(label) + 2 :], flowing=True)
    if label and body.rstrip(".") == label:
        return label, ()
    if synonyms and not synonyms.start():
        return "", ()
    return "", split_sentences(body, flowing=True)


def n_words(text: str) -> int:
    """Return the number of words as a reader counts them."""
    return len(text.split())
