"""BM25 over words and pairs of words, made in one pass, read from disk by memory map.

Own code where a library exists: bm25s holds every token of the corpus in Python lists while it
indexes and its vocabulary in a dict while it searches, which pairs of words make ten times as large.
Here a token is a 64-bit hash, postings are sorted on disk in parts, and a search reads only what
its words need.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

__all__ = ["LEXICAL_VERSION", "Lexical", "LexicalWriter", "words"]

LEXICAL_VERSION = "1"
_K1, _B = 0.9, 0.4  # snippets are of much the same length, and a word repeated says little more
_PARTS, _PART_BITS = 64, np.uint64(58)  # keys are split by their highest six bits
_PAIR = np.uint64(0x9E3779B97F4A7C15)
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")
_PLUS = re.compile(r"(?<=\w)\+")
_STOP = frozenset(
    "a an and are as at be but by for from had has have if in into is it its may no not of on or"
    " such that the their then there these they this to was we were which will with".split()
)
_ENTRY = np.dtype([("key", np.uint64), ("row", np.int32), ("count", np.uint16)])

Scores = npt.NDArray[np.float32]
Hashes = npt.NDArray[np.uint64]


def words(text: str) -> list[str]:
    """Return the words of a text as they are indexed: lower case, no stop words, no plural ending.

    ``CD8+`` is read as "CD8 positive", which is how ontologies spell it.
    """
    found = _WORD.findall(_PLUS.sub(" positive ", text.lower()))
    return [_singular(word) for word in found if word not in _STOP]


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return f"{word[:-3]}y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


class _Hasher:
    """Hashes of words, remembered; forgets all when it knows too many."""

    def __init__(self, most: int = 1 << 20) -> None:
        self._known: dict[str, int] = {}
        self._most = most

    def __call__(self, found: Sequence[str]) -> Hashes:
        known = self._known
        if len(known) > self._most:
            known.clear()
        for word in found:
            if word not in known:
                digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
                known[word] = int.from_bytes(digest, "little")
        return np.fromiter((known[word] for word in found), np.uint64, len(found))


class LexicalWriter:
    """Indexes texts, batch by batch; a text's row is its place in the whole sequence.

    The folder, which must be new, gets ``keys`` (uint64, sorted), ``starts`` (int64), ``peaks``
    (float32, the highest weight of a key), and per posting ``rows`` (int32) and ``weights``
    (float16).
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._scratch = folder, folder / "scratch"
        self._hasher, self._row = _Hasher(), 0
        self._lengths = [np.empty(0, np.int32)]

    def __enter__(self) -> Self:
        self._scratch.mkdir(parents=True)
        self._handles = [(self._scratch / f"{n:02d}").open("wb") for n in range(_PARTS)]
        return self

    def add(self, texts: Sequence[str]) -> None:
        """Take the next texts."""
        entries, lengths = _entries(self._hasher, texts, self._row)
        self._lengths.append(lengths)
        self._row += len(texts)
        part = (entries["key"] >> _PART_BITS).astype(np.int64)
        order = np.argsort(part, kind="stable")
        bounds = np.searchsorted(part[order], np.arange(_PARTS + 1))
        entries = entries[order]
        for number, handle in enumerate(self._handles):
            entries[bounds[number] : bounds[number + 1]].tofile(handle)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.close()
        if kind is None:
            _sort_parts(self._folder, self._scratch, np.concatenate(self._lengths))
            shutil.rmtree(self._scratch)


def _entries(
    hasher: _Hasher, texts: Sequence[str], first: int
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
    """Return (key, row, count) of a batch's words and pairs, and the texts' lengths in words."""
    found = [words(text) for text in texts]
    lengths = np.array([len(entry) for entry in found], np.int32)
    single = hasher([word for entry in found for word in entry])
    row = np.repeat(np.arange(first, first + len(texts), dtype=np.int32), lengths)
    together = row[1:] == row[:-1]
    pair = _pairs(single)[together]
    key = np.concatenate([single, pair])
    rows = np.concatenate([row, row[1:][together]])
    order = np.lexsort((rows, key))
    key, rows = key[order], rows[order]
    new = np.ones(len(key), bool)
    new[1:] = (key[1:] != key[:-1]) | (rows[1:] != rows[:-1])
    at = np.flatnonzero(new)
    entries = np.empty(len(at), _ENTRY)
    entries["key"], entries["row"] = key[at], rows[at]
    counts = np.diff(np.append(at, len(key)))
    entries["count"] = np.minimum(counts, np.iinfo(np.uint16).max)
    return entries, lengths


def _pairs(single: Hashes) -> Hashes:
    """Return the keys of neighbouring words; arithmetic is modulo 2**64."""
    return single[:-1] * _PAIR + single[1:]


def _sort_parts(folder: Path, scratch: Path, lengths: npt.NDArray[np.int32]) -> None:
    """Turn the scattered entries into postings; part after part, since keys are split by range."""
    n = len(lengths)
    shape = _K1 * (1 - _B + _B * lengths / max(float(lengths.mean()) if n else 0.0, 1.0))
    keys, starts, peaks, total = [], [np.zeros(1, np.int64)], [], 0
    with (folder / "rows").open("wb") as rows_file, (folder / "weights").open("wb") as weights_file:
        for number in range(_PARTS):
            entries = np.fromfile(scratch / f"{number:02d}", _ENTRY)
            (scratch / f"{number:02d}").unlink()
            if not len(entries):
                continue
            entries = entries[np.lexsort((entries["row"], entries["key"]))]
            key, at, df = np.unique(entries["key"], return_index=True, return_counts=True)
            idf = np.log1p((n - df + 0.5) / (df + 0.5))
            count = entries["count"].astype(np.float32)
            weight = np.repeat(idf, df) * count / (count + shape[entries["row"]])
            weight = weight.astype(np.float16)
            entries["row"].tofile(rows_file)
            weight.tofile(weights_file)
            keys.append(key)
            starts.append(total + at[1:].astype(np.int64))
            total += len(entries)
            starts.append(np.array([total], np.int64))
            peaks.append(np.maximum.reduceat(weight, at).astype(np.float32))
    _write(folder / "keys", keys, np.uint64)
    _write(folder / "starts", starts, np.int64)
    _write(folder / "peaks", peaks, np.float32)
    lengths.astype(np.int32).tofile(folder / "lengths")


def _write(path: Path, parts: list[npt.NDArray[Any]], dtype: type) -> None:
    np.concatenate([np.empty(0, dtype), *parts]).astype(dtype).tofile(path)


class Lexical:
    """Search by words in a finished index."""

    def __init__(self, folder: Path) -> None:
        self._keys, self._starts = (
            _mapped(folder / "keys", np.uint64),
            _mapped(folder / "starts", np.int64),
        )
        self._peaks = _mapped(folder / "peaks", np.float32)
        self._rows = _mapped(folder / "rows", np.int32)
        self._weights = _mapped(folder / "weights", np.float16)
        self._n = (folder / "lengths").stat().st_size // 4

    def scores(self, query: str) -> tuple[Scores, float]:
        """Score every text by a query.

        Returns
        -------
        tuple
            float32 [n], 0 where no word is shared; and the score of an ideal text, one that gives
            every word and pair of the query its highest weight anywhere (0 for no known word).
        """
        found = np.zeros(self._n, np.float32)
        ideal = 0.0
        single = _Hasher()(words(query))
        for key in np.unique(np.concatenate([single, _pairs(single)])):
            at = int(np.searchsorted(self._keys, key))
            if at == len(self._keys) or self._keys[at] != key:
                continue
            part = slice(int(self._starts[at]), int(self._starts[at + 1]))
            found[self._rows[part]] += self._weights[part]
            ideal += float(self._peaks[at])
        return found, ideal


def _mapped(path: Path, dtype: type) -> npt.NDArray[Any]:
    if not path.stat().st_size:
        return np.empty(0, dtype)
    return np.memmap(path, dtype, mode="r")
