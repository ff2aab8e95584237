"""The paper's reliability screen, the reliability that goes on to training, and the leak report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from okrcell.corpus import ontology
from okrcell.enrich.config import EnrichConfig
from okrcell.enrich.names import find_names
from okrcell.enrich.profile_text import Subject

if TYPE_CHECKING:
    from okrcell.corpus.embedder import Embedder

__all__ = ["leaked_names", "reliability", "screen_cosines"]


def screen_cosines(
    originals: Sequence[str], enriched: Sequence[str], embedder: Embedder
) -> list[float]:
    """Return the cosine between each original text and its enriched text.

    The paper (text pipeline, reliability screening) drops an enriched text where this is below
    alpha, with Clinical-Longformer vectors; here the store's embedder encodes both.
    """
    if not originals:
        return []
    a, b = embedder.encode(originals), embedder.encode(enriched)
    return [round(float(value), 4) for value in np.einsum("nd,nd->n", a, b)]


def reliability(support: float, cosine: float, config: EnrichConfig) -> float:
    """Return how far a description can be trusted, in [0, 1]: a prior for the pair in training.

    It is the share of supported sentences times ``(cosine - alpha) / (full - alpha)`` clipped to
    [0, 1]: zero where the paper's screen would drop the text, no better than its evidence above.
    """
    span = config.screen_full - config.screen_alpha
    agreement = min(1.0, max(0.0, (cosine - config.screen_alpha) / span))
    return round(support * agreement, 4)


def leaked_names(text: str, subject: Subject) -> list[str]:
    """Return the names of the cell type (label, synonyms) that a text gives away.

    For zero-shot tests, where a text that names the answer is a leak.
    """
    label = subject.label("identity")
    names = {label, *ontology.names(subject.term_id("identity"))} - {""}
    return find_names(text, sorted(names))
