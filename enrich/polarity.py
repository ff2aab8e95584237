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
_AFTER = frozenset(
    "negative deficient deficiency null free less".split()
)  # "CD3-negative", "nucleus-free"
_MISSING = frozenset("absent missing lacking undetectable undetected negligible lost".split())
_PLACES = frozenset("on in at from during within inside under after before by among into".split())
_FINITE = frozenset("it they their is are was were can may has have do does will".split())
_JOINTS = frozenset("-/")
_ADVERBS = frozenset("largely mostly completely entirely usually also both all".split())
_RESULTS = frozenset(
    "lead leads result results cause causes make makes is are was were can may".split()
)
_NOUN_CUES = frozenset("lack lacks lacking lacked without devoid absence neither nor no".split())
_EXACTLY = frozenset("only other more less fewer just merely later necessarily".split())
_CLAUSE_STARTS = frozenset(
    ". ; : so because but while whereas although though however that which who".split()
)
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


def denied(
    words: Sequence[str], marked: Sequence[bool], cells: Sequence[bool]
) -> tuple[list[bool], list[bool]]:
    """Return for each word whether the sentence denies it, and whether that is left open.

    Open are words that are set in contrast, and places where something is lacking.

    Parameters
    ----------
    words
        Words and punctuation in lower case, in order.
    marked
        Whether a word belongs to the name of a gene or of another substance; only such names are
        denied by what follows them ("CD3 and CD19 are not expressed").
    cells
        Whether a word belongs to the name of a cell type, which may be "absent" or "missing".
    """
    signs, open_ = [False] * len(words), [False] * len(words)
    for at, word in enumerate(words):
        if word in _AFTER and _binds_back(words, at):
            _deny_back(words, signs, marked, at)
        elif word == "non":
            _flip(signs, at + 1 + (_next(words, at) == "-"))
        elif word in NEGATORS or (word == "free" and _next(words, at) == "of"):
            _deny(words, signs, open_, marked, cells, at)
        elif word == "negative" and _next(words, at) == "for":
            _deny_forward(words, signs, open_, marked, at)
        elif _is_contrast(words, at):
            _contrast(words, open_, at)
    return signs, open_


def _deny(
    words: Sequence[str],
    signs: list[bool],
    open_: list[bool],
    marked: Sequence[bool],
    cells: Sequence[bool],
    at: int,
) -> None:
    word, after = words[at], _next(words, at)
    idle = word in {"not", "no"} and after in _EXACTLY
    if idle or (word == "not" and at > 0 and words[at - 1] == "if"):
        return
    if word in _MISSING and _is_predicate(words, at):
        _deny_subject(words, signs, [a or b for a, b in zip(marked, cells, strict=True)], at)
        if not (word == "lacking" and after == "in"):
            return
    _deny_forward(words, signs, open_, marked, at)
    if word in {"not", "never", "nor", "hardly", "rarely"} and _is_passive(words, at):
        _deny_subject(words, signs, marked, at)


def _next(words: Sequence[str], at: int) -> str:
    return words[at + 1] if at + 1 < len(words) else ""


def _flip(signs: list[bool], at: int) -> None:
    if at < len(signs):
        signs[at] = not signs[at]


def _binds_back(words: Sequence[str], at: int) -> bool:
    """Whether "negative" and its like belong to the name before them."""
    if at == 0 or (words[at] == "negative" and _next(words, at) == "for"):
        return False
    before = words[at - 1]
    if words[at] in {"free", "less"}:
        return before == "-"
    return before == "-" or (before not in _BE and before.isalnum())


def _deny_back(words: Sequence[str], signs: list[bool], marked: Sequence[bool], at: int) -> None:
    """Deny the one name that stands before."""
    place = at - 1
    while place >= 0 and words[place] == "-":
        place -= 1
    while place >= 0 and (words[place] in _JOINTS or words[place].isalnum()):
        signs[place] = not signs[place]
        # A name of several words or tokens (IL-2, T1/ST2) is denied whole.
        joined = place > 0 and (marked[place - 1] or words[place - 1] in _JOINTS - {"-"})
        if not (joined and (marked[place] or words[place] in _JOINTS)):
            return
        place -= 1


def _deny_forward(
    words: Sequence[str],
    signs: list[bool],
    open_: list[bool],
    marked: Sequence[bool],
    at: int,
) -> None:
    """Deny what follows, up to the end of the statement; what the denial may not reach is left open."""
    lists_nouns = words[at] in _NOUN_CUES or _next(words, at) == "of"
    begins = lists_nouns and (at == 0 or words[at - 1] in {",", ";", "."})
    place = at + 1
    # "Not yet committed" may turn up as "before it is committed", "not on T cells" as "on B cells".
    loose = _next(words, at) in {"yet", *_PLACES}
    while place < len(words):
        word = words[place]
        if word in SCOPE_ENDS or (word == "that" and place > at + 1) or _is_contrast(words, place):
            return
        if word == "," and (begins or (place == at + 2 and _is_passive(words, at))):
            return
        # "Neither A nor B", "no A and no B": each denial has its own reach; "not without" has none.
        if word in NEGATORS and place > at + 1:
            return
        if lists_nouns and (word in _RESULTS or (word == "to" and words[at] == "no")):
            return
        if word in {"and", "or", ","}:
            after = place + 1
            if word == "," and words[after : after + 1] in (["and"], ["or"]):
                after += 1
            follows = words[after] if after < len(words) else ""
            if word != "or" and _begins_statement(follows, lists_nouns or follows.endswith("s")):
                return
            is_name = after < len(words) and marked[after]
            loose = loose or (word == "and" and not lists_nouns and not is_name)
        # "Lacks CD3 on the surface" denies CD3, and of the surface says neither.
        if place > at + 1:
            loose = loose or (word in _PLACES if lists_nouns else word == "to")
        if loose:
            open_[place] = True
        else:
            _flip(signs, place)
        place += 1


def _begins_statement(word: str, verbs_count: bool) -> bool:
    return word in SCOPE_ENDS or (verbs_count and word in VERBS) or word in _FINITE


def _is_contrast(words: Sequence[str], at: int) -> bool:
    return any(tuple(words[at : at + len(phrase)]) == phrase for phrase in _CONTRAST)


def _contrast(words: Sequence[str], open_: list[bool], at: int) -> None:
    place = at + 1
    while place < len(words) and words[place] not in {",", ".", ";", ":", "but", "which", ")"}:
        open_[place] = True
        place += 1


def _is_predicate(words: Sequence[str], at: int) -> bool:
    return at > 0 and (words[at - 1] in _BE or words[at - 1] in _ADVERBS)


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
    """Deny the names of substances from the beginning of the clause on."""
    place = at - 1
    while place >= 0 and words[place] not in _CLAUSE_STARTS:
        if marked[place]:
            signs[place] = not signs[place]
        place -= 1
