"""Words and their stems, so that "secretes", "secretory" and "secretion" count as one."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

from okrcell.enrich.lexicon import ABBREVIATED, SYNONYMS

__all__ = ["plain_text", "senses", "singular", "stem", "tokens"]

_GREEK = dict(
    zip(
        "αβγδεζηθικλμνξπρστφχψωΑΒΓΔΕΛΣΩ",
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau phi chi psi "
        "omega alpha beta gamma delta epsilon lambda sigma omega".split(),
        strict=True,
    )
)
_GREEK_LETTER = re.compile(f"[{''.join(_GREEK)}]")
_MICRON = re.compile("\\s?[\u00b5\u03bc]m\\b")
_DASH = re.compile("[\u2010-\u2015\u2212]")
_GLUED_UNIT = re.compile(r"(?<![A-Za-z0-9])(\d+(?:[.,]\d+)?)(mm|cm|nm|um|kg|mg|ml|bp|kb|kDa)\b")
_GLUED_LEVEL = re.compile(r"\b(CD\d+[a-zA-Z]?\d?)(hi|high|bright|lo|low|dim|int|neg|pos)\b")
_PLUS = re.compile(r"(?<=[A-Za-z0-9])\+(?![A-Za-z0-9])")
_MINUS = re.compile(r"\b(CD\d+[a-zA-Z]?\d?|[A-Z][A-Z0-9]{2,})-(?=[\s,.;)]|$)")
_REFERENCE = re.compile(r"\[[^\]]{1,80}\]|\([^()]{0,60}\b(?:19|20)\d\d[a-z]?(?:;[^()]*)?\)")
_TOKEN = re.compile(r"\d+(?:[.,]\d+)*(?![A-Za-z0-9])|[A-Za-z0-9]+|[-%/.;:,()]")
_IRREGULAR = {
    "epithelia": "epithelium",
    "endothelia": "endothelium",
    "nuclei": "nucleus",
    "ganglia": "ganglion",
    "villi": "villus",
    "microvilli": "microvillus",
    "alveoli": "alveolus",
    "glomeruli": "glomerulus",
    "bronchi": "bronchus",
    "cortices": "cortex",
    "axes": "axis",
    "testes": "testis",
    "ovaries": "ovary",
    "arteries": "artery",
    "cavities": "cavity",
    "bodies": "body",
    "mice": "mouse",
    "women": "woman",
    "men": "man",
    "children": "child",
    "teeth": "tooth",
    "feet": "foot",
    "sinuses": "sinus",
    "uteri": "uterus",
    "fetuses": "fetus",
    "viruses": "virus",
    "ova": "ovum",
    "spermatozoa": "spermatozoon",
    "bacteria": "bacterium",
    "fungi": "fungus",
}
_ENDINGS = tuple(
    sorted(
        """ational ization isation ations ation ators ator atory ating ated ates ate ities ity ments ment ingly edly
        ings ing ions ion ives ive ical ically als al ous ously ances ance ences ence ants ant ents ent ers er ors or
        ory ories ies ied ed ly ic y e um us a i ae ar in is ness able ible ably""".split(),
        key=len,
        reverse=True,
    )
)
_SHORT_FORMS = {phrase.lower(): short for phrase, short in ABBREVIATED.items()}
_ABBREVIATED = re.compile(
    "|".join(rf"\b{re.escape(phrase)}\b" for phrase in _SHORT_FORMS), re.IGNORECASE
)
_SHORTEST = 4
_SHORTEST_LATER = 5  # a second ending is taken off with more care


def plain_text(text: str) -> str:
    """Return text with letters spelled alike: Greek in full, "CD3+" as "CD3 positive", references off."""
    plain = _DASH.sub("-", unicodedata.normalize("NFKC", text))
    plain = _ABBREVIATED.sub(lambda found: _SHORT_FORMS[found[0].lower()], plain)
    plain = _MICRON.sub(" micrometer", plain)
    plain = _REFERENCE.sub(" ", plain)
    plain = _GLUED_UNIT.sub(r"\1 \2", plain)
    plain = _GLUED_LEVEL.sub(r"\1-\2", plain)
    plain = _MINUS.sub(r"\1 negative ", plain)
    plain = _GREEK_LETTER.sub(lambda found: f" {_GREEK[found[0]]} ", plain)
    return _PLUS.sub(" positive ", plain)


def tokens(text: str) -> list[str]:
    """Return words, numbers and the signs that end a clause or join words, as they stand."""
    return _TOKEN.findall(plain_text(text))


@cache
def singular(word: str) -> str:
    """Return a lower-case word in the singular."""
    low = word.lower()
    if low in _IRREGULAR:
        return _IRREGULAR[low]
    # A plural ends in a small "s"; gene symbols end in a capital one and keep it.
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        if low.endswith(("ches", "shes", "sses", "xes")):
            return low[:-2]
        return f"{low[:-3]}y" if low.endswith("ies") and len(low) > 5 else low[:-1]
    return low


@cache
def stem(word: str) -> str:
    """Return what a word has in common with its other forms."""
    found = singular(word)
    for shortest in (_SHORTEST, _SHORTEST_LATER):
        ending = next(
            (e for e in _ENDINGS if found.endswith(e) and len(found) - len(e) >= shortest), ""
        )
        found = found[: len(found) - len(ending)]
    return found


@cache
def _groups() -> dict[str, frozenset[int]]:
    groups: dict[str, set[int]] = {}
    for number, line in enumerate(SYNONYMS.strip().splitlines()):
        for word in line.split():
            groups.setdefault(stem(word), set()).add(number)
    return {word: frozenset(numbers) for word, numbers in groups.items()}


def senses(stemmed: str) -> frozenset[int]:
    """Return the groups of synonyms that a stem belongs to."""
    return _groups().get(stemmed, frozenset())
