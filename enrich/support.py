"""How well quotes support a sentence: a probability, by a scorer that can be chosen.

The offline scorer needs no model. It holds the sentence against its evidence (``consistency``) and
weighs what it finds by a logistic model with the coefficients in ``data/support.json``, which
``benchmarks/enrich/planted.py --fit`` makes. The cosine of sentence and quote took part in the trial
and got a weight of zero: a swapped marker moves a vector less than a paraphrase does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Protocol

from okrcell.enrich.config import OFFLINE, EnrichConfig
from okrcell.enrich.consistency import Findings, compare
from okrcell.enrich.profile_text import Subject
from okrcell.errors import ConfigError

if TYPE_CHECKING:
    from okrcell.corpus.embedder import Embedder

__all__ = ["OfflineScorer", "Support", "SupportScorer", "coefficients", "logistic", "open_scorer"]


@dataclass(frozen=True)
class Support:
    """A sentence and what is held to support it.

    Attributes
    ----------
    quotes
        Those that stand in their passages.
    context
        Texts of the cited passages, as they were offered.
    """

    sentence: str
    quotes: tuple[str, ...]
    context: tuple[str, ...]
    subject: Subject


class SupportScorer(Protocol):
    """What the checks need of a scorer."""

    name: str

    def score(self, pairs: Sequence[Support]) -> list[float]:
        """Return for each pair how probable it is, in [0, 1], that the quotes support the sentence."""
        ...


class OfflineScorer:
    """Weighs names, denials, opposites and coverage; deterministic, and the same everywhere."""

    name = OFFLINE

    def score(self, pairs: Sequence[Support]) -> list[float]:
        """Return the probability for each pair."""
        return [_score(pair) for pair in pairs]

    def explain(self, pair: Support) -> str:
        """Return in words what speaks against a sentence, "" where nothing does."""
        return "; ".join(_findings(pair).remarks[:3])


@lru_cache(maxsize=20_000)
def _findings(pair: Support) -> Findings:
    return compare(pair.sentence, pair.quotes, pair.context, pair.subject)


def _score(pair: Support) -> float:
    # Rounded, so that the last bits of a sum do not reach the table.
    return round(logistic(_findings(pair).counts, coefficients("support")), 4)


@cache
def coefficients(model: str) -> Mapping[str, float]:
    """Return the weights of a logistic model by feature, and its ``intercept``."""
    path = files("okrcell.enrich") / "data" / "support.json"
    weights: dict[str, dict[str, float]] = json.loads(path.read_text(encoding="utf-8"))
    return weights[model]


def logistic(values: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Return the probability that a logistic model gives to values, a feature without weight being 0."""
    total = weights["intercept"] + sum(weights.get(name, 0.0) * x for name, x in values.items())
    return 1.0 / (1.0 + math.exp(-min(max(total, -30.0), 30.0)))


def open_scorer(config: EnrichConfig, embedder: Embedder | None = None) -> SupportScorer:
    """Return the scorer that a configuration names.

    Parameters
    ----------
    embedder
        For scorers that compare vectors; neither of those here does.

    Raises
    ------
    ConfigError
        A cross-encoder that cannot be loaded or does not tell entailment, or a judge model, which
        takes calls and is run by the job.
    """
    kind, _, name = config.support.partition(":")
    if kind == OFFLINE:
        return OfflineScorer()
    if kind == "nli":
        from okrcell.enrich.support_nli import NliScorer

        return NliScorer(name)
    raise ConfigError(
        "support",
        found=f"'{config.support}', a judge that is asked by the job",
        expected=f"'{OFFLINE}' or nli:NAME",
        fix="Run the job with a writer that is a model, or choose another scorer.",
    )
