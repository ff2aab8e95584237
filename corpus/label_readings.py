"""What a label may mean in words: abbreviations read by organ, cluster numbers and genes set aside.

A label has several readings. ``HSC`` is a hematopoietic stem cell, in liver a hepatic stellate cell;
``Fibroblast_COL1A1 high`` is a fibroblast once the gene is set aside; ``B cell (Plasmocyte)`` may be
named by either part. Each reading is a set of words with a weight; which one fits is decided by the
ontology's names and by the ranker.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from okrcell.corpus.label_text import FILLER, plain_tokens, read_columns, word_of

__all__ = ["KINDS", "Reading", "organs_of", "read_label"]

KINDS = ("raw", "whole", "clean", "part")
"""The label as it stands; with abbreviations read; without numbers, genes and states; its parts."""

_MAX_VARIANTS = 6
_MAX_PARTS = 5
_LONGEST_KEY = 5
_NOISE = frozenset(
    "high low hi lo pos neg positive negative outlier doublet contamination contaminated unknown "
    "unk other others misc cluster subcluster subset subtype type population pop state like cells "
    "adult normal healthy human mouse lineage general stressed stress activated act resting rest "
    "quiescent cycling early late mature immature inflammatory inflamed unspecified undefined "
    "new old rare major minor p g2m s phase ".split()
)
_SPLIT = re.compile(r"[()\[\]/,;:_|&+]|\s(?:and|or|in)\s|\s-\s")
_PREFIX = re.compile(r"^\s*(?:c(?:luster)?[-_ ]?)?\d+[-_.: ]+(?=\S)", re.I)
_SPECIES = re.compile(r"\b[hm](?=[A-Z])")


@dataclass(frozen=True)
class Reading:
    """Distinct words that a label may stand for, and how likely this reading is (0 to 1)."""

    words: tuple[str, ...]
    kind: str
    weight: float


@cache
def _abbreviations() -> dict[str, list[tuple[str, frozenset[str]]]]:
    table: dict[str, list[tuple[str, frozenset[str]]]] = {}
    for key, reading, organs in read_columns("label_abbreviations.tsv"):
        words = " ".join(word_of(token) for token in plain_tokens(key))
        table.setdefault(words, []).append((reading, frozenset(organs.split())))
    return table


@cache
def _organ_words() -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for organ, words in read_columns("label_organs.tsv"):
        for word in words.split():
            found.setdefault(word_of(word), set()).add(organ)
    return {word: frozenset(organs) for word, organs in found.items()}


def organs_of(words: Iterable[str]) -> frozenset[str]:
    """Return the organs that words of a tissue, label or name speak of."""
    table = _organ_words()
    return frozenset(organ for word in words for organ in table.get(word, ()))


@cache
def _gene_names() -> frozenset[str]:
    from okrcell.corpus.gene_tables import current

    return frozenset(symbol.upper() for symbol in current().symbol.values())


def genes_in(label: str, known: frozenset[str]) -> tuple[str, ...]:
    """Return the gene symbols that a label names, in capitals, unless they are words of names."""
    found = re.findall(r"(?<![A-Za-z0-9])[A-Z][A-Za-z0-9]+(?:-[A-Z0-9]+)?(?![a-z])", label)
    genes = _gene_names()
    return tuple(
        dict.fromkeys(
            token.upper()
            for token in found
            if token.upper() in genes
            and len(token) > 2
            and word_of(token.lower()) not in known
            and word_of(token.lower()) not in _abbreviations()
        )
    )


def read_label(
    label: str, organs: frozenset[str], known: frozenset[str]
) -> tuple[list[Reading], tuple[str, ...]]:
    """Return the readings of a label, the likeliest of each kind first, and the genes it names.

    Parameters
    ----------
    organs
        Organs of the context, or of the label; empty where unknown.
    known
        The words of the ontology's names.
    """
    genes = genes_in(label, known)
    tokens = [word_of(t) for t in plain_tokens(_without_species(label, known))]
    raw = _telling(tokens)
    readings = [Reading(raw, "raw", 1.0)] if raw else []
    readings += _variants(tokens, "whole", organs, known)
    clean = _clean(label, genes, known)
    if clean != tokens:
        readings += _variants(clean, "clean", organs, known)
    parts = [piece for piece in _SPLIT.split(label) if piece and re.search("[A-Za-z]", piece)]
    if len(parts) > 1:
        for part in parts[:_MAX_PARTS]:
            readings += _variants(_clean(part, genes, known), "part", organs, known)[:2]
    best: dict[tuple[str, tuple[str, ...]], Reading] = {}
    for reading in readings:
        at = (reading.kind, reading.words)
        if reading.words and (at not in best or best[at].weight < reading.weight):
            best[at] = reading
    return list(best.values()), genes


def _without_species(label: str, known: frozenset[str]) -> str:
    """Drop the h of ``hNK`` and the m of ``mEndo``, unless the whole is an abbreviation."""

    def drop(match: re.Match[str]) -> str:
        rest = re.match(r"[A-Za-z0-9]+", label[match.end() :])
        word = word_of(rest.group().lower()) if rest else ""
        whole = word_of(match.group().lower() + word)
        if whole in _abbreviations() or whole in known:
            return match.group()
        return "" if word in _abbreviations() or word in known else match.group()

    return _SPECIES.sub(drop, label)


def _telling(tokens: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(t for t in tokens if t not in FILLER))


def _clean(text: str, genes: tuple[str, ...], known: frozenset[str]) -> list[str]:
    text = re.sub(r"\([^)]*\)", " ", _PREFIX.sub("", text))
    text = _without_species(text, known)
    for gene in genes:
        text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(gene)}(?![A-Za-z0-9])", " ", text, flags=re.I)
    tokens = [word_of(token) for token in plain_tokens(text)]
    kept = [t for t in tokens if t not in _NOISE and not re.fullmatch(r"[pcl]?\d+", t)]
    return kept or tokens


def _variants(
    tokens: list[str], kind: str, organs: frozenset[str], known: frozenset[str]
) -> list[Reading]:
    """Read every abbreviation in its likeliest sense, then one at a time in its other senses."""
    segments = _segments(tokens, organs, known)
    if not segments:
        return []
    best = [segment[0] for segment in segments]
    combinations = [best]
    for at, segment in enumerate(segments):
        combinations += [[*best[:at], other, *best[at + 1 :]] for other in segment[1:]]
    readings = []
    for combination in combinations:
        words = _telling(word for words, _ in combination for word in words)
        weight = 1.0
        for _, w in combination:
            weight *= w
        if words:
            readings.append(Reading(words, kind, round(weight, 4)))
    readings.sort(key=lambda r: -r.weight)
    return readings[:_MAX_VARIANTS]


_Sense = tuple[tuple[str, ...], float]


def _segments(
    tokens: list[str], organs: frozenset[str], known: frozenset[str]
) -> list[list[_Sense]]:
    table = _abbreviations()
    segments: list[list[_Sense]] = []
    tokens = _unglued(tokens, known)
    at = 0
    while at < len(tokens):
        for length in range(min(_LONGEST_KEY, len(tokens) - at), 0, -1):
            window = tokens[at : at + length]
            keys = [" ".join(window), " ".join(t for t in window if t != "cell")]
            if length == 2:
                keys.append("".join(window))
            key = next((k for k in keys if k in table), None)
            if key is not None:
                segments.append(_senses(table[key], organs))
                break
        else:
            length = 1
            segments.append([((tokens[at],), 1.0)])
        at += length
    return segments


def _unglued(tokens: list[str], known: frozenset[str]) -> list[str]:
    """Split tokens that are two abbreviations or words in one (``trmact``), or one and a number."""
    table = _abbreviations()
    out: list[str] = []
    for token in tokens:
        if token in known or token in table or not token.isalnum():
            out.append(token)
            continue
        numbered = re.fullmatch(r"([a-z]{2,})\d{1,2}", token)
        if numbered and (numbered.group(1) in table or numbered.group(1) in known):
            out.append(numbered.group(1))  # the number of a cluster, as in FB1
            continue
        if len(token) < 4:
            out.append(token)
            continue
        for cut in range(len(token) - 2, 1, -1):
            head, tail = token[:cut], token[cut:]
            if (head in table or head in known) and (
                tail in table or tail in known or tail == "cell"
            ):
                out += [head, tail]
                break
        else:
            out.append(token)
    return out


def _senses(entries: list[tuple[str, frozenset[str]]], organs: frozenset[str]) -> list[_Sense]:
    senses = []
    fits = any(where & organs for _, where in entries)
    for rank, (reading, where) in enumerate(entries):
        if where & organs:
            weight = 1.0
        elif where:
            weight = 0.25 if organs else 0.8
        else:
            weight = 0.85 if fits else 1.0
        words = tuple(word_of(token) for token in plain_tokens(reading))
        senses.append((words, weight * 0.96**rank))
    return sorted(senses, key=lambda sense: -sense[1])
