"""Texts that do not name the cell type they describe, for zero-shot tests.

What counts as a name: the label and exact synonyms, in any spelling (plural, hyphens, "+" for positive,
another order of the qualifiers), and abbreviations that stand for one of them. Names of descendants are
masked as far as they contain a name ("CD56-bright NK cell" becomes "CD56-bright cell of this type").
Ancestors keep theirs: that a natural killer cell is a lymphocyte is what a description is for, and the
leak report measures how far it gives the type away.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from okrcell.corpus import ontology
from okrcell.enrich.abbreviations import abbreviations_of
from okrcell.enrich.evidence import Evidence
from okrcell.enrich.names import find_names, key_of, tokenise
from okrcell.enrich.profile_text import Subject
from okrcell.enrich.sentences import split_sentences

__all__ = ["MASKED", "MASKED_PLURAL", "given_away", "label_names", "mask_evidence", "mask_text"]

MASKED, MASKED_PLURAL = "cell of this type", "cells of this type"

_PLAIN_WORDS = frozenset("cell of this type".split())
_SPECIES = re.compile(
    r",? \(?(?:Mmus|Hsap|Primate|Homo sapiens|Mus musculus|[Hh]uman|[Mm]ouse)\)?$"
)
_SYNONYMS = re.compile(r"(?:^|\s)Synonyms: .*", re.DOTALL)
_WORD = re.compile(r"[A-Za-z0-9]+|(?<=[A-Za-z0-9])\+")
_BARRIER = re.compile(r"[.;:!?\n]")
_NOUNS = "cells?|lymphocytes?|neurons?|thymocytes?|progenitors?|interneurons?|leukocytes?"
_HEADED = re.compile(rf"[\s-](?P<noun>{_NOUNS})\b")
# A mention before one of these is no subject but says of what kind the noun is.
_MODIFIED = re.compile(
    r"\s(?:subsets?|subtypes?|receptors?|populations?|subpopulations?|lineages?|differentiation|"
    r"development|activation|progenitors?|precursors?|identity|markers?|functions?|responses?|surface|"
    r"membrane|types?|maturation|proliferation|survival|zones?|areas?|lines?|leuka?emias?|lymphomas?|"
    r"counts?|numbers?|compartments?|phenotypes?|antigens?|layers?|bod(?:y|ies)|help|immunity|islets?|"
    r"tumou?rs?|cancers?|carcinomas?|neoplasms?|islands?|fates?|states?|clones?|niches?|morphology|"
    r"mediated|specific|dependent|restricted|derived(?! from)|cytotoxicity|dysfunction|death|loss|fraction|signatures?|transcripts?|genes?|axons?|dendrites?|"
    r"soma(?:ta)?|nucle(?:us|i)|granules?|processes|expansion|migration|biology|homeostasis|pool)\b"
)
_DETERMINED = re.compile(
    r"\b(?:an?|the|each|every|any|one|this|that|another|no|per|single|its|their)\s+(?:[\w-]+,?\s+){0,4}$",
    re.I,
)
_GOES_ON = re.compile(
    r"\s*$|\s*[^\w\s'-]|\s(?:is|are|was|were|has|have|had|can|could|may|might|do|does|did|will|that|which|"
    r"who|whose|where|when|with|without|within|of|in|on|from|for|to|at|by|as|and|or|but|than|into|after|"
    r"before|during|via|through|between|under|upon|because|while|if|also|usually|typically|often|not|"
    r"located|found|expressing|lacking|producing|isolated|obtained|known|called|[a-z]+(?:es|ly))\b"
)
_TIDY = [
    (re.compile(rf"(?i)\b({MASKED_PLURAL}|{MASKED})\s*\((?:an? |the )?cells? of this type\)"), r"\1"),
    (re.compile(r"(?i)\b(cells? of this type),? (?:or|also (?:called|known as|termed)|called|termed|i\.e\.,?"
                r"|known as) (?:an? |the )?cells? of this type(?:,|\b)"), r"\1"),
    (re.compile(r"(?i)\b(cells? of this type)(?:,| and| or) (?:an? |the )?cells? of this type\b"), r"\1"),
    (re.compile(r"(?i),? \(?(?:also )?(?:called|known as|termed|referred to as) (?:an? |the )?cells? of this "
                r"type\)?(?=[,.;)])"), ""),
]  # fmt: skip
_AN = re.compile(r"\b([Aa])n(?= cells? of this type\b| cell\b)")
_PASSES = 3


@lru_cache(maxsize=4096)
def label_names(subject: Subject) -> tuple[str, ...]:
    """Return what names a subject's cell type: label, exact synonyms, abbreviations; longest first."""
    label = subject.label("identity")
    names = {label, *ontology.names(subject.term_id("identity"))} - {""}
    names |= {_SPECIES.sub("", name) for name in names}
    names |= set(abbreviations_of(names))
    telling = (n for n in names if tokenise(n) and not set(tokenise(n)) <= _PLAIN_WORDS)
    return tuple(sorted(telling, key=lambda name: (-len(name), name)))


@dataclass(frozen=True)
class _Word:
    """A word of a text as names are compared, where it stands, and whether it was a plural."""

    text: str
    start: int
    end: int
    is_plural: bool


@dataclass(frozen=True)
class _Names:
    """The names of a subject by what is compared: words in any order but the last, or exact strings."""

    keys: frozenset[tuple[tuple[str, ...], str]]
    exact: frozenset[str]
    longest: int


@lru_cache(maxsize=4096)
def _names(subject: Subject) -> _Names:
    keys, exact = set(), set()
    for name in label_names(subject):
        words = tokenise(name)
        if len(name) <= 4 or (len(words) == 1 and _is_abbreviation(name)):
            exact.add(name)
        else:
            keys.add((key_of(name), words[-1]))
            # "natural killer (NK) cells"
            keys |= {
                (key_of(f"{name} {short}"), words[-1])
                for short in label_names(subject)
                if len(words) > 1 and _is_abbreviation(short) and short not in name
            }
    # The words "alpha-beta" of a text count for nothing beside a coreceptor.
    longest = max((len(key) + 2 for key, _ in keys), default=0)
    return _Names(frozenset(keys), frozenset(exact), longest)


def _is_abbreviation(name: str) -> bool:
    return (
        re.fullmatch(r"[A-Za-z0-9-]+", name) is not None and len(re.findall("[A-Z0-9]", name)) >= 2
    )


def given_away(text: str, subject: Subject) -> tuple[str, ...]:
    """Return the names of the cell type that stand in a text, sorted; any other spelling as it stands."""
    names, found = label_names(subject), set()
    # Sentence by sentence: "... of a neocortex. Basket cells are ..." names no neocortex basket cell.
    for sentence in split_sentences(text):
        found |= set(find_names(sentence, names))
        mentions = (sentence[start:end] for start, end, _ in _mentions(sentence, _names(subject)))
        found |= {raw for raw in mentions if not find_names(raw, names)}
    return tuple(sorted(found))


def mask_text(text: str, subject: Subject) -> str:
    """Return a text in which each mention of the cell type reads "cell of this type".

    A mention that only qualifies a noun becomes "cell": "NK cell-mediated" is "cell-mediated".
    """
    masked = text
    for _ in range(_PASSES):
        masked = _once(masked, subject)
        if not find_names(masked, label_names(subject)):
            return masked
    # What the grammar above did not see; rare, but a name must not stay.
    for name in find_names(masked, label_names(subject)):
        words = r"\W+".join(re.escape(word) for word in re.findall(r"[A-Za-z0-9]+", name))
        flags = 0 if len(name) <= 4 else re.IGNORECASE
        masked = re.sub(rf"(?<!\w){words}s?(?!\w)", MASKED, masked, flags=flags)
    return masked


def mask_evidence(item: Evidence, subject: Subject) -> Evidence:
    """Return a passage without the cell type's names, in text and section.

    Of an ontology document the list of synonyms is cut away; a piece that holds nothing else comes
    back with an empty text and is not worth offering.
    """
    text = _SYNONYMS.sub("", item.text) if item.source in ontology.ONTOLOGIES else item.text
    return replace(
        item,
        text=mask_text(text, subject),
        section=mask_text(item.section, subject),
        is_masked=True,
    )


def _once(text: str, subject: Subject) -> str:
    out, done = [], 0
    for start, end, is_plural in _mentions(text, _names(subject)):
        replacement, end = _replacement(text, start, end, is_plural)
        out += [text[done:start], replacement]
        done = end
    masked = "".join([*out, text[done:]])
    if not out:
        return masked
    for pattern, plain in _TIDY:
        masked = pattern.sub(plain, masked)
    return _AN.sub(r"\1", masked)


def _mentions(text: str, names: _Names) -> Iterator[tuple[int, int, bool]]:
    """Yield where a name stands, the longest first at each place, none within another."""
    words = list(_words(text))
    at = 0
    while at < len(words):
        found = 0
        for size in range(min(names.longest, len(words) - at), 0, -1):
            window = words[at : at + size]
            if _is_name(text, window, names):
                found = size
                break
        if found:
            window = words[at : at + found]
            yield window[0].start, window[-1].end, any(word.is_plural for word in window)
        else:
            raw = text[words[at].start : words[at].end]
            if raw in names.exact or raw.removesuffix("s") in names.exact:
                yield words[at].start, words[at].end, raw not in names.exact
        at += max(found, 1)


def _words(text: str) -> Iterator[_Word]:
    previous = ""
    for match in _WORD.finditer(text):
        raw = match[0]
        word = "positive" if raw == "+" else (tokenise(raw) or ("",))[0]
        if word == "positive" and re.fullmatch(r"cd\d+[a-z]*", previous):
            continue
        yield _Word(word, match.start(), match.end(), word != raw.casefold() and raw != "+")
        previous = word


def _is_name(text: str, window: list[_Word], names: _Names) -> bool:
    last = window[-1].text
    forms = [[word.text for word in window]]
    if {"cd4", "cd8"} & set(forms[0]):
        forms.append([word for word in forms[0] if word not in {"alpha", "beta"}])
    if not any((tuple(sorted(form)), last) in names.keys for form in forms):
        return False
    return not _BARRIER.search(text, window[0].start, window[-1].end)


def _replacement(text: str, start: int, end: int, is_plural: bool) -> tuple[str, int]:
    """Return what stands for a mention, and where the text goes on."""
    headed = _HEADED.match(text, end)
    if headed and not re.search(rf"(?:{_NOUNS})$", text[start:end], re.I):
        # "NK cells", "MAIT lymphocytes": the noun belongs to the name.
        end, is_plural = headed.end(), headed["noun"].endswith("s")
    rest, before = text[end:], text[:start]
    if rest.startswith(("'s", "\u2019s")):
        plain = "cell"
    elif not is_plural and _only_qualifies(before, rest):
        plain = "cell"
    else:
        is_plural = is_plural or re.match(r"\s(?:are|were|have|do)\b", rest) is not None
        plain = MASKED_PLURAL if is_plural else MASKED
    opens = re.search(r"(?:^|[.!?]\s+|\n\s*)[\"'(]?$", before) is not None
    is_head = not before.strip() and rest.startswith(":")
    big = opens and not (is_head and text[start].islower())
    return (plain[0].upper() + plain[1:] if big else plain), end


def _only_qualifies(before: str, rest: str) -> bool:
    if re.match(r"-[a-z]", rest) or _MODIFIED.match(rest):
        return True
    return not _DETERMINED.search(before) and not _GOES_ON.match(rest)
