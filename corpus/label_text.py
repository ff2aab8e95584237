"""Cell type labels as words: signs, Greek letters, glued names, spellings and plurals.

Ontology names and authors' labels go through the same reading, so that ``CD8+ T-cells``, ``CD8_T``
and ``CD8-positive T cell`` give the same words. A marker keeps its sign: ``cd8`` is present,
``cd8~`` absent, ``cd56<`` dim, ``cd56>`` bright.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from importlib.resources import files

__all__ = ["FILLER", "folded", "plain_tokens", "read_columns", "word_of", "words_of"]

FILLER = frozenset(
    {"the", "an", "of", "and", "in", "with", "from", "for", "to", "on", "at", "by", "cell", "human"}
)
"""Words that say nothing about which cell type is meant."""

_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "κ": "kappa",
    "λ": "lambda", "φ": "phi", "ϕ": "phi", "θ": "theta",
}  # fmt: skip
_GENE = r"(?<![A-Za-z0-9])((?:CD|cd|Cd)\d+[A-Za-z]?)"
_RULES = [
    (re.compile(_GENE + r"[-_ ]?(?:dim|low|lo|int)(?![a-z])", re.I), r"\1< "),
    (re.compile(_GENE + r"[-_ ]?(?:bright|bri|high|hi)(?![a-z])", re.I), r"\1> "),
    (re.compile(_GENE + r"[-_ ]?(?:negative|neg)(?![a-z])", re.I), r"\1~ "),
    (re.compile(_GENE + r"[-_ ]?(?:positive|pos)(?![a-z])", re.I), r"\1 "),
    (re.compile(_GENE + r"\++", re.I), r"\1 "),
    (re.compile(_GENE + r"[-−–](?=$|[\s,/);_]|CD)", re.I), r"\1~ "),
    (re.compile(r"(?<=[A-Za-z0-9])(?<!double)(?<!triple)[- ]negative\b", re.I), "~ "),
    (re.compile(r"(?<=[A-Za-z0-9])[- ]positive\b", re.I), " "),
    (re.compile(r"(?<=[A-Za-z0-9])(?:pos|\++)(?=$|[^a-z0-9])"), " "),
    # Names written without a space: ChoroidPlexus, CD4TEM, CD8Naive.
    (re.compile(r"(?<=[a-z]{3})(?=[A-Z][a-z]{2})"), " "),
    (re.compile(_GENE + r"(?=T[A-Z]|[TN]reg|Tcm|Tem|T$|Naive|naive|Mono|mono)"), r"\1 "),
]
_ANY_RULE = re.compile(r"[+]|[Cc][Dd]\d|[a-z][A-Z]|(?i:positive|negative|pos\b)")
_TOKEN = re.compile(r"[a-z0-9]+[~<>]?")


def read_columns(name: str) -> list[list[str]]:
    """Return the rows of one of the package's tab-separated tables, without its header."""
    text = (files("okrcell.corpus") / "data" / name).read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines()[1:]]


@cache
def _spellings() -> dict[str, str]:
    return {
        spelling: word
        for word, spellings in read_columns("label_words.tsv")
        for spelling in spellings.split()
    }


def plain_tokens(text: str) -> list[str]:
    """Split a label or name into lower-case tokens; signs stay with their marker."""
    if not text.isascii():
        for letter, name in _GREEK.items():
            text = text.replace(letter, f"{name} ").replace(letter.upper(), f"{name} ")
        text = unicodedata.normalize("NFKD", text)
        text = "".join(c for c in text if not unicodedata.combining(c)).replace("’", "")
    text = text.replace("_", " ").replace("'", "")
    if _ANY_RULE.search(text):  # most names need none
        for pattern, replacement in _RULES:
            text = pattern.sub(replacement, text)
    # Brightness tells types apart for CD56 alone; elsewhere "high" means "present".
    return [
        token.rstrip(">") if not token.startswith("cd56") else token
        for token in _TOKEN.findall(text.lower())
    ]


@cache
def word_of(token: str) -> str:
    """Return the one form under which all spellings and plurals of a word are compared."""
    known = _spellings()
    if token in known:
        return known[token]
    if len(token) > 3 and token.endswith("s") and not token.endswith(("ss", "us", "is", "ous")):
        single = f"{token[:-3]}y" if token.endswith("ies") else token[:-1]
        return known.get(single, single)
    if len(token) == 3 and token.endswith("s") and token[:2] in {"dc", "ec", "nk"}:
        return token[:2]
    return token


def folded(name: str) -> str:
    """Return a name without what two writings of the same string may differ in: case and spaces."""
    return re.sub(r"\s+", " ", name).strip().casefold()


def words_of(text: str) -> tuple[str, ...]:
    """Return the distinct telling words of a name, in order."""
    words = (word_of(token) for token in plain_tokens(text))
    return tuple(dict.fromkeys(word for word in words if word not in FILLER))
