"""The paper's reliability screen, and the reliability that goes on to training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from okrcell.enrich.claims import SUPPORTED, Claim
from okrcell.enrich.config import EnrichConfig
from okrcell.enrich.evidence import Request
from okrcell.enrich.support import coefficients, logistic

if TYPE_CHECKING:
    from okrcell.corpus.embedder import Embedder

__all__ = ["evidence_of_reliability", "facet_coverage", "reliability", "screen_cosines"]

_CERTAIN = 6.0  # log odds beyond which a score says no more


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


def facet_coverage(claims: Sequence[Claim], request: Request) -> float:
    """Return the share of the facets with evidence on which a supported sentence says something.

    A sentence may tell of several facets (disease, stage and sex of the donors): it speaks for its own and
    for those whose evidence it cites.
    """
    known = {group for group, items in request.groups if items and group != "passages"}
    standing = [claim.sentence for claim in claims if claim.verdict == SUPPORTED]
    cited = {snippet_id for sentence in standing for snippet_id in sentence.snippet_ids}
    told = {sentence.facet for sentence in standing} | {
        group for group, items in request.groups if any(e.snippet_id in cited for e in items)
    }
    return len(known & told) / len(known) if known else 1.0


def reliability(
    claims: Sequence[Claim], cosine: float, coverage: float, config: EnrichConfig
) -> float:
    """Return how far a description can be trusted, in [0, 1]: a prior for the pair in training.

    It is the probability that all its sentences are true, by a logistic model of how sure the least
    sure sentence is, how sure they are on average, which share fails, which share contradicts the
    cells' data, metadata or the ontology, which facets are told, and the paper's cosine. Planted
    corruptions give the weights; those of coverage and cosine, on which a single false sentence
    leaves no trace, have a floor. Sentences that others stand in for do not count.

    Parameters
    ----------
    claims
        As verified. How sure the sentences are is asked of those that stand in the text; one that was
        dropped counts in the shares that fail and contradict: who wrote it may have erred elsewhere.
    cosine
        The paper's, between original and enriched text.
    coverage
        As :func:`facet_coverage` gives it.
    """
    values = evidence_of_reliability(claims, cosine, coverage, config)
    return round(logistic(values, coefficients("reliability")), 4) if values else 0.0


def evidence_of_reliability(
    claims: Sequence[Claim], cosine: float, coverage: float, config: EnrichConfig
) -> dict[str, float]:
    """Return what the reliability is computed from; empty where no sentence is left."""
    standing = [claim for claim in claims if claim.state != "repaired"]
    if not standing:
        return {}
    told = [claim for claim in standing if claim.state == "kept"] or standing
    odds = [_log_odds(claim) for claim in told]
    against = {"contradicted", "expression_disagrees"}
    span = config.screen_full - config.screen_alpha
    return {
        "least": min(odds),
        "mean": sum(odds) / len(odds),
        "failing": sum(claim.verdict != SUPPORTED for claim in standing) / len(standing),
        "contradicting": sum(claim.verdict in against for claim in standing) / len(standing),
        "coverage": min(1.0, max(0.0, coverage)),
        "agreement": min(1.0, max(0.0, (cosine - config.screen_alpha) / span)),
    }


def _log_odds(claim: Claim) -> float:
    """Return how sure a sentence is: its score's log odds, the least where a check failed."""
    if claim.score is None or claim.verdict in {"contradicted", "expression_disagrees"}:
        return -_CERTAIN
    score = min(max(claim.score, 1e-6), 1 - 1e-6)
    return min(_CERTAIN, max(-_CERTAIN, math.log(score / (1 - score))))
