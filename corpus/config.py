"""Configuration of the corpus stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from okrcell.config import StageConfig

__all__ = ["CellsConfig", "CorpusConfig"]


class CorpusConfig(StageConfig):
    """Keys of the TOML table ``[corpus]``.

    Attributes
    ----------
    embedder
        ``minilm`` (offline, pinned by sha256), the path of a sentence-transformers model folder, or
        ``openai:MODEL`` of a service.
    chunk_tokens
        Upper bound of a snippet's length in word pieces. The paper cuts at about 500; the default
        embedder reads 256, and a snippet must fit whole.
    accept_score
        A cell type label becomes a term only at this score or above: an estimated probability (0 to
        1) that the term is right. Below it, it stays unresolved.
    accept_similarity
        The same for labels of the other fields, whose score is the similarity of the words.
    values
        What the matrix holds; None means: detect, and refuse when it is unclear.
    layer
        ``X``, ``raw``, or the name of a layer.
    min_gene_coverage
        Refuse a file when a smaller share of its genes resolves to Ensembl ids.
    split_fractions
        Train, validation and test share, by donor where there are donors, else by cell.
    hold_out
        Cell types (labels of the file, or term labels) whose cells all go to the test split, in
        every dataset of the store, whichever was added first.
    """

    embedder: str = "minilm"
    chunk_tokens: int = Field(default=200, ge=16, le=254)
    accept_score: float = Field(default=0.6, ge=0, le=1)
    accept_similarity: float = Field(default=0.8, ge=0, le=1)
    values: Literal["counts", "lognorm"] | None = None
    layer: str = "X"
    min_gene_coverage: float = Field(default=0.1, ge=0, le=1)
    split_fractions: tuple[float, float, float] = (0.6, 0.1, 0.3)
    hold_out: tuple[str, ...] = ()
    seed: int = Field(default=0, ge=0)

    def accept(self, field: str) -> float:
        """Return the least score at which a label of a metadata field becomes a term."""
        return self.accept_score if field == "cell_type" else self.accept_similarity

    @field_validator("split_fractions")
    @classmethod
    def _shares(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(value) < 0 or value[0] <= 0 or abs(sum(value) - 1) > 1e-6:
            raise ValueError("three shares, none negative, the first above 0, that add up to 1")
        return value


class CellsConfig(StageConfig):
    """How the columns of one file are read: column per field, or one constant for all cells."""

    columns: dict[str, str] = {}
    constants: dict[str, str] = {}
    dataset_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
