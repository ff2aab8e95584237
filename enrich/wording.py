"""English as sentences need it: articles, capitals, plurals, and text without editors' marks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from okrcell.corpus import ontology

__all__ = ["capital", "closed", "joined", "lowered", "plural", "tidy", "with_article"]

_SPELT = re.compile(r"[AEFHILMNORSX]")  # letters whose name begins with a vowel
_LETTERS = re.compile(r"[A-Z]+(?![a-z])|[a-z](?=[A-Z])|[A-Za-z](?!\w)")
_CONSONANT_SOUND = re.compile(r"uni(?!n|mp|d)|eu|ur[aeio]|ut[eir]|us[eu]|ubi|one(?!i)|once", re.I)
_VOWEL_SOUND = re.compile(r"[aeiou]|hour|heir|honest|Fc\b", re.I)
_AN_NUMBER = re.compile(r"8|1[18](?!\d)")

_HIDDEN = re.compile("[\u00ad\u200b\u200c\u200d\u2060\ufeff]")
_REFERENCE = (
    r"(?:PMID|PMC|DOI|ISBN|GO|WP|FMA|MP|NCIT|Wikipedia|https?:|Automatically generated)\b[^\]]*"
    r"|[^\]]*(?:\bet al\b|\bedited\b|https?:)[^\]]*|[\d,;\s\u2013-]+|[A-Z][A-Za-z]{1,5}(?:,\s*\w+)*"
)
_BRACKETS = re.compile(rf"\s*\[(?:{_REFERENCE})\]", re.I)
_NOTE = re.compile(
    r"\s*\((?:[^()]*\b(?:et\.? al|PMID|DOI|modified from|adapted from|Wikipedia|CDISC|WHO\)|"
    r"reviewed in|see|Fig\.?|Figure|Table)\b[^()]*"
    r"|(?:[^()]*[,;\s-])?(?:19|20)\d\d[a-z]?\s*"
    r"|(?:UBERON|CL|MONDO|GO|FMA|HP|PR|CHEBI):\w+"
    r"|Mmus|Hsap|Primate|Homo sapiens|Mus musculus|[Hh]uman|[Mm]ouse)\)"
)
_SLIPS = [
    (re.compile(r"\s+"), " "),
    (re.compile(r"\( +"), "("),
    (re.compile(r" +(?=[,.;:)])"), ""),
    (re.compile(r"([,;:])\1+|[,;:](?=\.)"), r"\1"),
    (re.compile(r"(?<=[A-Za-z])_(?=[a-z])"), " "),
    (re.compile(r"\b[Aa]n? (?=the\b)"), ""),
    (re.compile(r"(?<!\.)\.\.(?!\.)"), "."),
]
_NO_NOUN = (
    "of|and|or|in|is|at|on|as|are|if|it|into|under|also|after|all|any|each|to|by|with|the|that"
)
_ARTICLE = re.compile(rf"(?<![\w.)/-])([Aa])(?:\(n\))? (?!(?:{_NO_NOUN})\b)(?=([A-Za-z0-9][\w-]*))")


def _article(word: str) -> str:
    """Return "a" or "an", by how the word is read aloud."""
    if word[0].isdigit():
        return "an" if _AN_NUMBER.match(word) else "a"
    spelt = _LETTERS.match(word)
    if spelt and (len(spelt[0]) <= 3 or not re.search("[AEIOU]", spelt[0][:3])):
        return "an" if _SPELT.match(word.upper()) else "a"
    if _CONSONANT_SOUND.match(word):
        return "a"
    return "an" if _VOWEL_SOUND.match(word) else "a"


def with_article(phrase: str) -> str:
    """Return a noun phrase with its indefinite article."""
    word = re.search(r"[A-Za-z0-9]+", phrase)
    return f"{_article(word[0]) if word else 'a'} {phrase}"


def capital(text: str) -> str:
    """Return text as it begins a sentence; names such as "cDC1" keep their case."""
    word = re.match(r"[A-Za-z]+\d*", text)
    return text[:1].upper() + text[1:] if word and word[0].islower() else text


@cache
def _proper_words() -> frozenset[str]:
    """Return capitalised words of names (Purkinje), which are written small but for proper ones."""
    words = {
        word
        for name in ("cl", "uberon")
        for term in ontology.terms(name)
        for word in re.findall(r"(?<![\w-])[A-Za-z][a-z]+(?!\w)", term.label)
    }
    return frozenset(w for w in words if w[0].isupper() and w.lower() not in words)


def lowered(text: str) -> str:
    """Return a phrase as it goes on within a sentence: "A lymphocyte" becomes "a lymphocyte"."""
    word = re.match(r"[A-Za-z]+(?![\w])", text)
    if not word or not word[0][1:].islower() and len(word[0]) > 1 or word[0] in _proper_words():
        return text
    if len(word[0]) == 1 and word[0] != "A":
        return text
    return text[0].lower() + text[1:]


def plural(name: str) -> str:
    """Return the plural of a noun phrase: "epithelial cells of appendix"."""
    head = re.match(r"(.*?)(?= (?:of|in|with|from|by|to|that) |,|\(|$)", name)
    stem = (head[1] if head else name).rstrip()
    rest = name[len(stem) :]
    if re.search(r"(?:cells|neurons|glia|s)$", stem) and not stem.endswith(("us", "is")):
        return name
    if re.search(r"[^aeiou]y$", stem):
        return f"{stem[:-1]}ies{rest}"
    return f"{stem}{'es' if re.search('(?:s|x|ch|sh)$', stem) else 's'}{rest}"


def joined(parts: Sequence[str]) -> str:
    """Return a list as it is read: "a, b and c"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def tidy(text: str) -> str:
    """Return a passage without reference marks and slips of typing; what it says stays."""
    plain = _NOTE.sub("", _BRACKETS.sub("", _HIDDEN.sub("", text)))
    for pattern, replacement in _SLIPS:
        plain = pattern.sub(replacement, plain)
    return _ARTICLE.sub(_corrected, plain).strip()


def _corrected(match: re.Match[str]) -> str:
    before = match.string[: match.start()].rstrip()
    if match[1] == "A" and before and not before.endswith((".", ":", "(")):
        return match[0]  # vitamin A, hepatitis A
    article = _article(match[2])
    return f"{article.capitalize() if match[1] == 'A' else article} "


def closed(text: str) -> str:
    """Return text as one sentence, with its full stop."""
    plain = text.rstrip(" ,;:")
    return plain if plain.endswith((".", "!", "?")) else f"{plain}."
