"""Configuration of the evaluate stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from okrcell.config import StageConfig

__all__ = ["TASKS", "EvaluateConfig", "Task"]

Task = Literal[
    "clustering", "annotation", "batch", "few_shot", "zero_shot", "retrieval", "robustness"
]
TASKS: tuple[Task, ...] = (
    "clustering",
    "annotation",
    "batch",
    "few_shot",
    "zero_shot",
    "retrieval",
    "robustness",
)


class EvaluateConfig(StageConfig):
    """Keys of the TOML table ``[evaluate]``.

    Attributes
    ----------
    tasks
        Which tasks to run; they run and are reported in the order of ``TASKS``.
    seeds
        Number of Leiden seeds, of subsamples behind the intervals of the batch task, and of seeds for
        methods that depend on chance.
    bootstrap
        Resamples behind every other interval (percentile, 95 %).
    episodes, shots
        Few-shot draws per K, and the values of K (the paper: 1, 5, 9).
    resolutions
        Leiden resolutions to choose from.
    n_neighbors
        Neighbours of the clustering graph and of the kNN probe.
    fold, max_folds
        Retrieval is scored on folds of this many pairs (the paper: five of 1000).
    max_cells
        Clustering and batch metrics look at neighbours: beyond this many cells they see a seeded
        sample, stratified by type and batch.
    dropout, thinning
        Robustness: shares of genes set to zero, and shares of molecules kept, in the test cells.
    open_candidates
        Open candidate sets of zero-shot annotation: Cell Ontology terms to be expected in the tissue,
        and all of them. Every candidate's text is encoded.
    allow_named_types
        Let descriptions of test cells name the cell type; refused otherwise.
    embedder
        Frozen text embedder of the ``pca+ridge`` baselines.
    seed
        First seed; everything random derives from it.
    """

    tasks: tuple[Task, ...] = Field(default=TASKS, min_length=1)
    seeds: int = Field(default=5, ge=1, le=100)
    bootstrap: int = Field(default=1000, ge=100)
    episodes: int = Field(default=20, ge=20)
    shots: tuple[Annotated[int, Field(ge=1)], ...] = (1, 5, 9, 20)
    resolutions: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=tuple(round(0.1 * step, 1) for step in range(1, 21)), min_length=1
    )
    n_neighbors: int = Field(default=15, ge=2)
    fold: int = Field(default=1000, ge=2)
    max_folds: int = Field(default=5, ge=1)
    max_cells: int = Field(default=3_000, ge=100)
    dropout: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.1, 0.2, 0.3, 0.4, 0.5)
    thinning: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.5, 0.25, 0.1)
    open_candidates: tuple[Literal["tissue", "cl"], ...] = ("tissue", "cl")
    allow_named_types: bool = False
    embedder: str = "minilm"
    seed: int = Field(default=0, ge=0, lt=2**31)
