"""What a sentence may not say, whatever supports it: against the cells' own data and metadata."""

from __future__ import annotations

import re
from functools import cache, lru_cache

from okrcell.corpus import ontology
from okrcell.enrich.circles import PEOPLE, circle, is_licensed, known_of, title_of
from okrcell.enrich.evidence import GeneStat, Request
from okrcell.enrich.mentions import Mention, Reading, closure, read
from okrcell.enrich.names import tokenise
from okrcell.enrich.profile_text import NORMAL, Subject

__all__ = ["contradiction", "disagreement"]

_CELLS = 30  # fewer say little of a share
_DATA_SPEAK = 0.1  # where no type of the tissue shows a gene more often, it is not measured well
_SILENT, _COMMON = 0.01, 0.5
# Stray transcripts, doublets and wrong labels show a few cells of any type with the marker of another.
_STRAY, _STRAY_OF_HIGHEST = 0.2, 0.15
_EXPRESSION = frozenset(
    """express expresses expressed expressing expression positive marker markers marked transcript transcripts mrna
    carry carries bear bears detected enriched upregulated highly high recognised recognized
    identified distinguished characterised characterized defined hallmark""".split()
)
_WEAK = frozenset("low lower dim little weak weakly reduced minimal hardly lo".split())
_CLAUSES = frozenset("; . whereas while but although though unlike".split())


def disagreement(sentence: str, request: Request) -> tuple[bool | None, str]:
    """Hold what a sentence says about markers against the subject's own cells.

    Returns
    -------
    bool or None
        Whether it disagrees; None where it says nothing of a gene that was measured.
    str
        The shares that were looked at.
    """
    told = read(sentence)
    stats = {stat.symbol: stat for stat in request.genes if stat.n_cells >= _CELLS}
    seen: list[str] = []
    for mention, denied in _claims(told, request.subject) if stats else ():
        measured = [stats[symbol] for symbol in sorted(mention.ids) if symbol in stats]
        if not measured:
            continue
        words = ", ".join(_share(stat) for stat in measured)
        if denied and max(stat.fraction for stat in measured) >= _COMMON:
            return True, f"said to lack {mention.name}, but it is in {words}"
        if not denied and all(_is_absent(stat) for stat in measured):
            return True, f"said to express {mention.name}, but it is in {words}"
        seen.append(words)
    return (False, "; ".join(seen)) if seen else (None, "")


def _is_absent(stat: GeneStat) -> bool:
    """Whether the data say that the cells lack a gene: it is not seen, or is plainly another type's.

    The latter where half of another type's cells show it, and few of these, fewer than of the others.
    """
    if stat.highest < _DATA_SPEAK:
        return False
    of_others = (
        stat.highest >= _COMMON
        and stat.fraction < _STRAY
        and stat.fraction <= _STRAY_OF_HIGHEST * stat.highest
        and stat.fraction < stat.fraction_others
    )
    return stat.fraction < _SILENT or of_others


def _share(stat: GeneStat) -> str:
    return f"{100 * stat.fraction:.3g} % of {stat.n_cells} cells ({stat.symbol})"


def _claims(told: Reading, subject: Subject) -> list[tuple[Mention, bool]]:
    """Return the markers that the sentence gives to or denies of the subject."""
    own = known_of(subject).cell
    found = []
    for begin, end in _clauses(told):
        words = set(told.words[begin:end])
        inside = [m for m in told.mentions if begin <= m.start < end]
        others = [m for m in inside if m.kind == "cell" and not m.ids & own]
        if others or words & _WEAK:
            continue
        denies = any(told.signs[begin:end])
        for mention in inside:
            if mention.kind == "gene" and (words & _EXPRESSION or (denies and mention.is_denied)):
                found.append((mention, mention.is_denied))
    return found


def _clauses(told: Reading) -> list[tuple[int, int]]:
    bounds = [0, *(n for n, word in enumerate(told.words) if word in _CLAUSES), len(told.words)]
    return list(zip(bounds[:-1], bounds[1:], strict=True))


# --- metadata and ontology ---------------------------------------------------------------------

_THESE = r"(?:the|these|this|such|all|both)\s+(?:\w+\s+)?"
_SAMPLED = re.compile(
    rf"\b{_THESE}(?:cells?|samples?|profiles?)\b[^.;]*?\b(?:come|comes|came|were|was|are|is)\s+(?:\w+ly\s+)?"
    r"(?:from|taken|isolated|sampled|obtained|collected|profiled)\b|\btissue(?:\s+of\s+origin)?\s+is\b"
    r"|\bdonors?\b|\bsampled\s+from\b|\bbiops(?:y|ies)\b|\bthe\s+(?:sex|development(?:al)?\s+stage|disease|condition)\s+is\b"
    r"|\bpatients?\s+(?:with|who|suffering)\b",
    re.IGNORECASE,
)
_IDENTITY = re.compile(
    r"^\W*(?:the cell type|this cell type|these cells|the cells|this cell|it|they)\s+(?:is|are)\s+"
    r"(?:an?\s+|the\s+)?(?:kinds?\s+of\s+|types?\s+of\s+)?",
    re.IGNORECASE,
)
_DISEASE_WORD = re.compile(
    r"disease|syndrome|disorder|cancer|tumou?r|infection|diabet|covid|lupus|anemia|anaemia|deficiency|dystrophy"
    r"|\w(?:itis|iasis|oma|omas|osis|emia|aemia|pathy|plegia|philia|sclerosis)\b|asthma|eczema|influenza|sepsis",
    re.IGNORECASE,
)


def contradiction(
    sentence: str, quotes: tuple[str, ...], context: tuple[str, ...], subject: Subject
) -> str:
    """Return how a sentence contradicts the subject's metadata or the ontology, "" where it does not.

    A definition may name other tissues, people and types: what its evidence names is no
    contradiction, unless it is asserted of these very cells.
    """
    told, known = read(sentence), known_of(subject)
    evidence = circle(quotes + context)
    of_these = _SAMPLED.search(sentence) is not None
    for mention in told.mentions:
        if mention.is_denied:
            continue
        asserted = of_these or not is_licensed(mention, told, evidence)
        if mention.kind == "cell":
            if not is_licensed(mention, told, evidence) and not _related(
                mention.ids, known.cell, subject
            ):
                return f"'{mention.name}' is another cell type than {subject.label('identity')}"
        elif mention.kind == "tissue" and subject.label("tissue"):
            if asserted and not _overlap(mention.ids, known.tissue, subject.term_id("tissue")):
                if of_these or not is_licensed(mention, told, circle((subject.label("identity"),))):
                    return f"'{mention.name}' is another tissue than {subject.label('tissue')}"
        elif mention.kind in PEOPLE and asserted and not mention.ids & known.people:
            if mention.kind == "species" or _is_known(mention.kind, subject):
                return f"'{mention.name}' is another {mention.kind} than the profile's"
    return _other_type(sentence, told, quotes, context, subject) or _other_disease(
        sentence, quotes, context, subject, of_these
    )


def _is_known(kind: str, subject: Subject) -> bool:
    return bool(subject.label("sex" if kind == "sex" else "development_stage"))


def _related(ids: frozenset[str], own: frozenset[str], subject: Subject) -> bool:
    """Whether a type is the subject's own, one above it or one below it."""
    term_id = subject.term_id("identity")
    return bool(ids & own) or any(term_id in closure(each) for each in ids)


def _overlap(ids: frozenset[str], own: frozenset[str], term_id: str) -> bool:
    return bool(ids & own) or bool(term_id) and any(term_id in closure(each) for each in ids)


def _other_type(
    sentence: str,
    told: Reading,
    quotes: tuple[str, ...],
    context: tuple[str, ...],
    subject: Subject,
) -> str:
    """Whether "it is a ..." names an unrelated type, on the word of a passage about another one."""
    frame = _IDENTITY.match(sentence)
    cells = told.of("cell")
    if not frame or not cells or not subject.term_id("identity"):
        return ""
    own = known_of(subject).cell
    before = len(read(sentence[: frame.end()]).words)
    if cells[0].start > before or _related(cells[0].ids, own, subject):
        return ""
    titles = [read(title) for text in context if (title := title_of(text))]
    about = [m for reading in (*titles, *map(read, quotes)) for m in reading.of("cell")]
    if any(_related(mention.ids, own, subject) for mention in about):
        return ""
    return f"'{cells[0].name}' is another cell type than {subject.label('identity')}"


@cache
def _diseases() -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for term in ontology.terms("mondo"):
        for name in (term.label, *term.synonyms):
            words = tokenise(name)
            if len(" ".join(words)) > 5:
                found.setdefault(" ".join(words), set()).add(term.term_id)
    return {name: frozenset(ids) for name, ids in found.items()}


@lru_cache(maxsize=20_000)
def _diseases_in(text: str) -> tuple[tuple[str, frozenset[str]], ...]:
    """Return the diseases that a text names, the longest name at each place."""
    if not _DISEASE_WORD.search(
        text
    ):  # the names take a while to load, and few sentences need them
        return ()
    words, found, at = tokenise(text), [], 0
    while at < len(words):
        for size in range(min(8, len(words) - at), 0, -1):
            name = " ".join(words[at : at + size])
            if name in _diseases() and _DISEASE_WORD.search(name):
                found.append((name, _diseases()[name]))
                at += size
                break
        else:
            at += 1
    return tuple(found)


def _other_disease(
    sentence: str,
    quotes: tuple[str, ...],
    context: tuple[str, ...],
    subject: Subject,
    of_these: bool,
) -> str:
    label, term_id = subject.label("disease"), subject.term_id("disease")
    if not label:
        return ""
    own = closure(term_id) if term_id and term_id != NORMAL else frozenset()
    own |= {each for _, ids in _diseases_in(label) for each in ids}
    told = _diseases_in(sentence)
    there = (
        {name for text in (*quotes, *context) for name, _ in _diseases_in(text)} if told else set()
    )
    for name, ids in told:
        if ids & own or any(term_id in closure(each) for each in ids):
            continue
        if of_these or name not in there:
            return f"'{name}' is another condition than {label}"
    return ""
