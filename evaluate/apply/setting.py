"""A run and a file made ready for each other: what was asked, the gate, candidates, calibration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from okrcell import __version__
from okrcell.console import say
from okrcell.errors import ConfigError
from okrcell.evaluate.apply.cells import Header, Sample
from okrcell.evaluate.apply.confidence import Confidence, confidence_of
from okrcell.evaluate.apply.encode import load_run
from okrcell.evaluate.apply.gate import Coverage, coverage_of, marker_notes, measurable
from okrcell.evaluate.apply.known import Known, known_of
from okrcell.evaluate.apply.labels import Candidates, candidates_for, trained_types, with_markers

if TYPE_CHECKING:
    from okrcell.train.model import CellTextModel

__all__ = [
    "OBS_COLUMNS",
    "Request",
    "Setting",
    "value_notes",
    "for_uns",
    "record_of",
    "setting_of",
    "weak_notes",
]

Vectors = npt.NDArray[np.float32]

OBS_COLUMNS = ("tissue", "tissue_ontology_term_id")
"""Columns of the cells that name the tissue."""


@dataclass(frozen=True)
class Request:
    """What ``okrcell annotate`` was asked; the keys are its flags.

    Attributes
    ----------
    labels
        ``tissue``, ``run``, ``all-cl``, or the path of a table.
    threshold
        Instead of the calibrated one; with it ``unknown`` is on.
    markers
        Table of further markers; None for none.
    vote
        Whether markers have a say.
    """

    labels: str = "tissue"
    tissue: str | None = None
    unknown: bool = False
    threshold: float | None = None
    markers: Path | None = None
    vote: bool = True
    refine: bool = True
    layer: str = "X"
    batch: str | None = None
    device: str = "auto"

    def as_dict(self) -> dict[str, Any]:
        """Return what decides the answers, for the record in the output."""
        return {
            "labels": self.labels,
            "tissue": self.tissue or "",
            "unknown": self.unknown or self.threshold is not None,
            "markers": str(self.markers or ""),
            "marker_vote": self.vote,
            "refine": self.refine,
            "layer": self.layer,
            "batch": self.batch or "",
        }


@dataclass(frozen=True)
class Setting:
    """A run and a file made ready for each other, before any cell is read."""

    model: CellTextModel
    known: Known | None
    coverage: Coverage
    candidates: Candidates
    texts: Vectors
    confidence: Confidence
    notes: tuple[str, ...]


def setting_of(run: Path, header: Header, request: Request) -> Setting:
    """Load the run, refuse what is hopeless, and encode the candidates."""
    if request.threshold is not None and not 0 < request.threshold < 1:
        raise ConfigError(
            "--threshold",
            found=f"{request.threshold}",
            expected="between 0 and 1",
            fix="Correct it.",
        )
    if request.markers is not None and not request.vote:
        raise ConfigError(
            "--markers",
            found="a table beside --no-markers",
            expected="one of the two",
            fix="Leave one of them out.",
        )
    model = load_run(run, request.device)
    known = known_of(run, model)
    coverage = coverage_of(header, model, known)
    candidates = candidates_for(request.labels, run, model.config, header.obs, request.tissue)
    given = None
    if request.markers is not None:
        from okrcell.corpus.marker_table import read_markers

        given = read_markers(request.markers)
    # Without a vote they still say what supports an answer.
    candidates = with_markers(candidates, given)
    told = marker_notes(candidates, header) if request.labels != "all-cl" else []
    if request.labels == "tissue" and request.vote:
        own = set(filter(None, trained_types(run).values()))
        candidates, told = measurable(candidates, header, own)
    say(f"Candidates: {candidates.name}, {len(candidates)}")
    texts = model.encode_text(candidates.texts)
    confidence = confidence_of(
        known,
        candidates,
        lambda: with_markers(candidates_for("run", run, model.config, header.obs)),
        model.encode_text,
        float(model.card["tau"]),
        refine=request.refine,
        vote=request.vote,
    )
    notes = [
        *candidates.notes,
        *weak_notes(coverage),
        *told,
        *([] if confidence.is_calibrated else [confidence.about]),
    ]
    return Setting(model, known, coverage, candidates, texts, confidence, tuple(notes))


def weak_notes(coverage: Coverage) -> list[str]:
    """Say what the missing genes cost, where it is much."""
    if not coverage.is_weak:
        return []
    told = (
        f"The file has {coverage.share:.0%} of the genes that the run reads. "
        "Answers are less sure than the scores say"
    )
    if coverage.accuracy is not None and coverage.full_accuracy is not None:
        told += (
            f": with so few, drawn at random, the run gets {coverage.accuracy:.0%} of its own validation "
            f"cells right, with all {coverage.full_accuracy:.0%}"
        )
    return [told + "."]


def value_notes(sample: Sample) -> list[str]:
    """Say how many cells have no values, and if counts are no whole numbers, where it is so."""
    found = []
    if n := int(sample.empty.sum()):
        found.append(
            f"{n:,} cells have no value above zero: they are kept, as unknown with score 0."
        )
    if sample.has_fractions:
        found.append(
            "Some values are fractions too large for log values: all are read as counts, corrected or estimated."
        )
    return found


def record_of(
    run: Path, model: CellTextModel, coverage: Coverage, figures: dict[str, float]
) -> dict[str, Any]:
    """Return what an output says of the run that made it, and of the gate."""
    return {
        "version": __version__,
        "run": run.resolve().name,
        "run_fingerprint": model.fingerprint,
        "coverage": {k: v for k, v in coverage.as_dict().items() if v is not None},
        "coverage_told": coverage.sentence(),
        "distance": figures,
    }


def for_uns(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record as h5ad files can hold it: lists as arrays of text."""
    return {
        key: np.asarray(value, dtype=object) if isinstance(value, list) else value
        for key, value in record.items()
    }
