"""Support by a cross-encoder that was trained to tell entailment from contradiction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from okrcell.errors import ConfigError

if TYPE_CHECKING:
    from okrcell.enrich.support import Support

__all__ = ["NliScorer"]

_BATCH = 32


class NliScorer:
    """Probability of entailment, the quotes being the premise.

    Parameters
    ----------
    model
        Name on the model hub, or a folder.

    Raises
    ------
    ConfigError
        The model cannot be loaded, or has no label "entailment".
    """

    def __init__(self, model: str) -> None:
        from sentence_transformers import CrossEncoder

        self.name = f"nli:{model}"
        try:
            self._model: Any = CrossEncoder(model, device="cpu")
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ConfigError(
                f"support nli:{model}",
                found=f"a model that cannot be loaded ({str(error).splitlines()[0][:200]})",
                expected="the name or folder of a cross-encoder for natural language inference",
                fix="Correct the name, or download the model into a folder and name that.",
            ) from error
        labels = {int(n): str(label) for n, label in self._model.config.id2label.items()}
        wanted = [n for n, label in labels.items() if label.lower() == "entailment"]
        if len(labels) < 2 or len(wanted) != 1:
            raise ConfigError(
                f"support nli:{model}",
                found=f"a model with the labels {', '.join(labels.values())}",
                expected="one label 'entailment' among several",
                fix="Take a model for natural language inference, or correct id2label in its config.",
            )
        self._column = wanted[0]

    def score(self, pairs: Sequence[Support]) -> list[float]:
        """Return the probability of entailment for each pair."""
        if not pairs:
            return []
        texts = [(" ".join(pair.quotes), pair.sentence) for pair in pairs]
        distinct = sorted(set(texts))
        probabilities = np.asarray(
            self._model.predict(
                distinct, batch_size=_BATCH, apply_softmax=True, show_progress_bar=False
            )
        )
        found = {
            text: round(float(row[self._column]), 4)
            for text, row in zip(distinct, probabilities, strict=True)
        }
        return [found[text] for text in texts]
