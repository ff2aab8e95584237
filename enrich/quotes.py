"""Where a quote stands in the text that was offered: wording counts, spelling variants do not."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from okrcell.enrich.lexicon import STOP

__all__ = ["find_quote", "is_telling", "normalise_text"]

_SPELLINGS = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u02bc\u2032`\u00b4", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033", '"'),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u2043\ufe58\ufe63\uff0d", "-"),
    }
)
_EDGES = " .,;:\"'"
_WORD = re.compile(r"\w+")


def normalise_text(text: str) -> str:
    """Return text in which only wording counts.

    Alike are NFKC variants, kinds of quotation marks and dashes, runs of white space, and case;
    characters that nobody sees, such as soft hyphens, are left out.
    """
    return _normalised(text)[0]


def find_quote(quote: str, text: str) -> tuple[int, int] | None:
    """Return where a quote begins and ends in a text (first occurrence), None where it is not.

    Marks around the quote and a full stop at its end do not count. It begins and ends with whole
    words. ``text[start:end]`` has the quote's wording.
    """
    wanted = normalise_text(quote).strip(_EDGES)
    if not wanted:
        return None
    plain, starts, ends = _normalised(text)
    begin = plain.find(wanted)
    while begin >= 0:
        end = begin + len(wanted)
        if _breaks(plain, begin) and _breaks(plain, end):
            return starts[begin], ends[end - 1]
        begin = plain.find(wanted, begin + 1)
    return None


def _breaks(text: str, at: int) -> bool:
    """Whether a word may begin or end at a place."""
    return at in {0, len(text)} or not (_is_word(text[at - 1]) and _is_word(text[at]))


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def is_telling(quote: str) -> bool:
    """Whether a quote says anything: "of the" or a single letter does not.

    The words that stand for a masked name do: they are the label of the term that is quoted.
    """
    plain = normalise_text(quote)
    words = _WORD.findall(plain)
    return plain in _MASKED or any(
        word not in STOP and (len(word) > 1 or len(words) > 1) for word in words
    )


_MASKED = frozenset({"cell of this type", "cells of this type"})


@lru_cache(maxsize=20_000)
def _normalised(text: str) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    """Return normalised text and, for each of its characters, where its source begins and ends."""
    plain: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for begin, end in _clusters(text):
        piece = text[begin:end]
        if not piece.isascii():
            piece = unicodedata.normalize("NFKC", piece)
        piece = piece.translate(_SPELLINGS).casefold()
        for character in piece:
            if character.isspace():
                character = " "
                if plain[-1:] == [" "]:
                    ends[-1] = end
                    continue
            elif unicodedata.category(character) in {"Cf", "Cc"}:
                continue
            plain.append(character)
            starts.append(begin)
            ends.append(end)
    return "".join(plain), tuple(starts), tuple(ends)


def _clusters(text: str) -> list[tuple[int, int]]:
    """Split at characters that normalise on their own: an accent goes with its letter."""
    if text.isascii():
        return [(at, at + 1) for at in range(len(text))]
    bounds = [0]
    for at in range(1, len(text)):
        if text[at].isascii() and text[at - 1].isascii():
            bounds.append(at)
            continue
        before, after = text[bounds[-1] : at], text[at]
        joined = unicodedata.normalize("NFKC", before + after)
        apart = unicodedata.normalize("NFKC", before) + unicodedata.normalize("NFKC", after)
        if joined == apart and not unicodedata.combining(after):
            bounds.append(at)
    return list(zip(bounds, [*bounds[1:], len(text)], strict=True)) if text else []
