"""The sentence that cells are looked for with: refused where it is none, doubted where it says little."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from okrcell.errors import ConfigError

__all__ = ["LANGUAGES", "checked_text", "doubts_of"]

Vectors = npt.NDArray[np.float32]

_MOST = 5_000
_FOREIGN_SHARE = 0.3
_LEAST_FUNCTION_WORDS = 2
_UNRELATED = 0.3
"""Cosine with every training text and every usual cell type below which a text is about something else."""

_STANDS_OUT = 2.0

LANGUAGES = {
    "German": "der die das und mit aus von nicht ist im den ein eine zellen welche",
    "French": "le la les des du et avec dans pour une est cellules qui sur aux",
    "Spanish": "el los las del y con para una es en de que células por",
    "Italian": "il gli delle della e con per una è nel che cellule di dei",
    "Portuguese": "o os as do da e com para uma em células que dos não",
    "Dutch": "de het een en met van niet is uit cellen die op",
}
"""Function words by language; those of English are not among them, but where they are spelt alike."""

_ENGLISH = frozenset("the of and with from in that are which to a is for by on".split())


def checked_text(text: str) -> str:
    """Return the text without blanks to spare.

    Raises
    ------
    ConfigError
        Nothing but blanks and signs, or more than 5,000 characters.
    """
    tidy = " ".join(text.split())
    if not re.search(r"\w", tidy):
        raise ConfigError(
            "TEXT",
            found="an empty text" if not tidy else f"'{tidy[:40]}', no word",
            expected="a cell type, a marker or a sentence",
            fix='Write what to look for, such as "cytotoxic T cells".',
        )
    if len(tidy) > _MOST:
        raise ConfigError(
            "TEXT",
            found=f"{len(tidy):,} characters",
            expected=f"some sentences, at most {_MOST:,} characters",
            fix="Keep what the cells have in common: a vector of a whole article means nothing in particular.",
        )
    return tidy


def doubts_of(
    text: str, vector: Vectors, known_texts: Vectors, scores: Vectors, k: int
) -> list[str]:
    """Return why the answer to a text is to be doubted, one sentence each.

    Parameters
    ----------
    vector
        float32 [E]: of the text.
    known_texts
        float32 [T, E]: of the training texts and of usual cell types.
    scores
        float32 [n]: cosine of each cell with the text.
    """
    found = []
    if language := _language(text):
        found.append(
            f"The text seems to be {language}. The text model reads English: say it in English for an answer "
            "that means something."
        )
    nearest = float((known_texts @ vector).max()) if len(known_texts) else 1.0
    if nearest < _UNRELATED:
        found.append(
            "The text is far from all that the run was trained on, and from every usual cell type (cosine "
            f"{nearest:.2f} with the nearest): the order of the cells means little."
        )
    if len(scores) > k:
        spread = float(np.std(scores)) or 1.0
        edge = (float(np.sort(scores)[-k:].mean()) - float(scores.mean())) / spread
        if edge < min(_STANDS_OUT, _expected_edge(k / len(scores)) / 2):
            found.append(
                f"No cell stands out: the first {k} are only {edge:.1f} standard deviations above the mean "
                "of all. Perhaps no cell of the file is what the text says."
            )
    return found


def _expected_edge(share: float) -> float:
    """Return the mean of the highest share of a normal distribution, in standard deviations."""
    from scipy.stats import norm

    return float(norm.pdf(norm.isf(share)) / share)


def _language(text: str) -> str:
    letters = [c for c in text if c.isalpha()]
    foreign = sum(ord(c) > 0x24F for c in letters) - len(re.findall(r"[α-ωΑ-Ω](?!\w)", text))
    if letters and foreign / len(letters) > _FOREIGN_SHARE:
        return "in another script than Latin"
    words = re.findall(r"[^\W\d_]+", text.casefold())
    english = sum(word in _ENGLISH for word in words)
    counts = {name: sum(w in set(some.split()) for w in words) for name, some in LANGUAGES.items()}
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] >= _LEAST_FUNCTION_WORDS and counts[best] > english else ""
