"""What a sentence affirms and what it denies, word by word.

Denials are written in many ways: "does not express CD3", "lacks CD3", "CD3 is absent", "CD3-negative",
"without CD3". Each word gets one sign, so that the signs of the same word in two sentences can be
compared, however the denial is put.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from okrcell.enrich.lexicon import CONTRAST, NEGATIVE_FORMS, NEGATORS, SCOPE_ENDS, VERBS

__all__ = ["denied", "positive_form"]

_CONTRAST = tuple(tuple(phrase.split()) for phrase in CONTRAST)
_BE = frozenset("is are was were be been being remain remains become becomes stay stays".split())
_AFTER = frozenset("negative deficient null free less".split())  # "CD3-negative", "nucleus-free"
_MISSING = frozenset("absent missing lacking undetectable undetected negligible lost".split())
_NOUN_CUES = frozenset("lack lacks lacking lacked without devoid absence neither nor no".split())
_EXACTLY = frozenset("only longer more less fewer just merely later necessarily".split())
_DETERMINERS = frozenset("the a an this these those its their such each".split())
_RELATIVES = frozenset("that".split())
_CLAUSE_STARTS = frozenset(". ; : but while whereas although though however that which who".split())
_NOT_NEGATED = frozenset(
    """unless regardless nonetheless nevertheless bless united uniform unified unlike limitless
    none nonetheless nonsense process access excess""".split()
)


@cache
def positive_form(word: str) -> str:
    """Return the word that a lower-case word denies ("unmyelinated": "myelinated"), or ""."""
    if word in NEGATIVE_FORMS:
        return NEGATIVE_FORMS[word]
    if word in _NOT_NEGATED:
        return ""
    if word.startswith("non") and len(word) > 7:
        return word[3:]
    if (
        word.startswith("un")
        and word.endswith("ed")
        and len(word) > 7
        and not word.startswith("under")
    ):
        return word[2:]
    if word.endswith("less") and len(word) > 7:
        return word[:-4]
    return ""


def denied(words: Sequence[str], marked: Sequence[bool]) -> list[bool]:
    """Return for each word whether the sentence denies it.

    Parameters
    ----------
    words
        Words and punctuation in lower case, in order.
    marked
        Whether a word belongs to the name of a gene or of another substance; only such names are
        denied by what follows them ("CD3 and CD19 are not expressed").
    """
    signs = [False] * len(words)
    for at, word in enumerate(words):
        if word in _AFTER and _binds_back(words, at):
            _deny_back(words, signs, marked, at)
        elif word == "non" or word in NEGATORS or (word == "free" and _next(words, at) == "of"):
            if word in {"not", "no"} and _next(words, at) in _EXACTLY - {"longer"}:
                continue
            if word == "absent" or (word in _MISSING and _is_predicate(words, at)):
                _deny_subject(words, signs, marked, at)
            if word in _MISSING and _next(words, at) not in {"from", "in", "of"} and word != "lost":
                continue
            _deny_forward(words, signs, at)
            if word in {"not", "never", "nor", "hardly", "rarely"} and _is_passive(words, at):
                _deny_subject(words, signs, marked, at)
        elif word == "little" and tuple(words[at + 1 : at + 3]) == ("or", "no"):
            continue
        elif word == "negative" and _next(words, at) == "for":
            _deny_forward(words, signs, at)
        elif any(tuple(words[at : at + len(phrase)]) == phrase for phrase in _CONTRAST):
            _deny_contrast(words, signs, at)
    return signs


def _next(words: Sequence[str], at: int) -> str:
    return words[at + 1] if at + 1 < len(words) else ""


def _binds_back(words: Sequence[str], at: int) -> bool:
    """Whether "negative" and its like belong to the name before them."""
    if at == 0 or (words[at] == "negative" and _next(words, at) == "for"):
        return False
    before = words[at - 1]
    if words[at] == "free":
        return before == "-"
    if words[at] == "less":
        return before == "-"
    return before == "-" or (before not in _BE and before.isalnum())


def _deny_back(words: Sequence[str], signs: list[bool], marked: Sequence[bool], at: int) -> None:
    """Deny the one name that stands before."""
    place = at - 1
    while place >= 0 and words[place] == "-":
        place -= 1
    inside_name = place >= 0 and marked[place]
    while place >= 0 and (words[place] == "-" or words[place].isalnum()):
        signs[place] = not signs[place]
        # A name of several words or tokens (IL-2, T cell receptor) is denied whole.
        if not (inside_name and place > 0 and (words[place - 1] == "-" or marked[place - 1])):
            break
        place -= 1


def _deny_forward(words: Sequence[str], signs: list[bool], at: int) -> None:
    lists_nouns = words[at] in _NOUN_CUES or _next(words, at) == "of"
    place = at + 1
    while place < len(words):
        word = words[place]
        if word in SCOPE_ENDS or (word in _RELATIVES and place > at + 1):
            return
        if word in {"and", "or", ","}:
            after = _next(words, place)
            if word == "," and after in {"and", "or"}:
                after = words[place + 2] if place + 2 < len(words) else ""
            if word != "or" and _begins_statement(after, lists_nouns or after.endswith("s")):
                return
        signs[place] = not signs[place]
        place += 1


def _begins_statement(word: str, verbs_count: bool) -> bool:
    return (
        word in SCOPE_ENDS or (verbs_count and word in VERBS) or word in {"it", "they", "is", "are"}
    )


def _deny_contrast(words: Sequence[str], signs: list[bool], at: int) -> None:
    place = at + 1
    while place < len(words) and words[place] not in {",", ".", ";", ":", "but", "which", ")"}:
        signs[place] = not signs[place]
        place += 1


def _is_predicate(words: Sequence[str], at: int) -> bool:
    return at > 0 and words[at - 1] in _BE


def _is_passive(words: Sequence[str], at: int) -> bool:
    """Whether "not" follows a form of "to be" and precedes a participle: "is not expressed"."""
    after = _next(words, at)
    return (
        at > 0
        and words[at - 1] in _BE
        and (
            after.endswith(("ed", "en"))
            or after in {"found", "seen", "made", "present", "detectable"}
        )
    )


def _deny_subject(words: Sequence[str], signs: list[bool], marked: Sequence[bool], at: int) -> None:
    """Deny the names of substances from the beginning of the clause to a verb."""
    place = at - 1
    while place >= 0 and words[place] not in _CLAUSE_STARTS:
        if marked[place]:
            signs[place] = not signs[place]
        place -= 1
