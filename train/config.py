"""Configuration of the train stage. Every value the paper leaves open is a key with its default here."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from okrcell.config import StageConfig

__all__ = ["PRESETS", "Shape", "TrainConfig"]


class Shape(NamedTuple):
    """Size of the cell tower."""

    dim: int
    blocks: int
    heads: int
    feed_forward: int


PRESETS = {
    "tiny": Shape(64, 2, 2, 128),
    "small": Shape(128, 4, 4, 128),
    "paper": Shape(128, 6, 4, 128),
    "base": Shape(512, 12, 8, 512),
}
"""``paper`` is OKR-CELL's size, ``base`` that of the public scGPT."""


class TrainConfig(StageConfig):
    """Keys of the TOML table ``[train]``. (P) is stated in the paper, (R) is our reconstruction.

    Attributes
    ----------
    objective
        ``infonce``: symmetric cross-entropy over the batch. ``cra_paper``: CMMB + CCA + PSW (P).
    text_source
        ``description`` (enriched) or ``label`` (the bare cell type name), for comparison.
    epochs, batch_size, lr, lr_decay
        Adam with lr 1e-4 times 0.9 per epoch, 6 epochs, 448 pairs per step (P).
    max_genes, n_bins, mask_ratios
        At most 1200 non-zero genes per cell, a random choice where there are more (P); 51 bins (R);
        masked share drawn per step from these ratios (P).
    tau
        Temperature of the match probabilities, 0.07 (R).
    bank_size, momentum
        Entries of each queue, 4096, and decay of the momentum tower, 0.995 (R).
    sigma, rel_sym
        Temperature inside Rel_sym, 0.07, and how its two directions are joined: ``mean``,
        ``min`` or ``product`` (R).
    record_from_epoch, stability_from_epoch, n_sigma
        Rel_sym is recorded from epoch 2, its stability used from epoch 4, beyond mu + 3 s (P).
    omega, negative_weight
        Exponent of the complementary term, 0.5 (R), and its weight 5 (P).
    gamma_start, gamma_end, gamma_power, hard_after
        Progressive sample weighting: 2 to 10 by power 0.5, easy pairs first for 20 % (P).
    reliability_prior
        Multiply W_pos by the reliability of the description, as the enrichment rated it (ours; the
        paper has none: switch it off for its arm to the letter).
    psw, cca, bank
        Switches for the three parts of ``cra_paper``.
    """

    preset: Literal["tiny", "small", "paper", "base"] = "paper"
    objective: Literal["infonce", "cra_paper"] = "cra_paper"
    text_source: Literal["description", "label"] = "description"
    embedder: str = "minilm"
    seed: int = Field(default=0, ge=0)

    epochs: int = Field(default=6, ge=1)
    batch_size: int = Field(default=448, ge=2)
    lr: float = Field(default=1e-4, gt=0)
    lr_decay: float = Field(default=0.9, gt=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    checkpoint_every: int = Field(default=200, ge=1)

    max_genes: int = Field(default=1200, ge=1)
    n_bins: int = Field(default=51, ge=2)
    mask_ratios: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        default=(0.25, 0.5, 0.75), min_length=1
    )
    gep_weight: float = Field(default=1.0, ge=0)
    gepc_weight: float = Field(default=1.0, ge=0)
    align_weight: float = Field(default=1.0, ge=0)

    tau: float = Field(default=0.07, gt=0)
    bank: bool = True
    bank_size: int = Field(default=4096, ge=1)
    momentum: float = Field(default=0.995, ge=0, lt=1)
    cca: bool = True
    sigma: float = Field(default=0.07, gt=0)
    rel_sym: Literal["mean", "min", "product"] = "mean"
    record_from_epoch: int = Field(default=2, ge=1)
    stability_from_epoch: int = Field(default=4, ge=1)
    n_sigma: float = Field(default=3.0, gt=0)
    omega: float = Field(default=0.5, ge=0, le=1)
    negative_weight: float = Field(default=5.0, ge=0)
    reliability_prior: bool = True
    psw: bool = True
    gamma_start: float = Field(default=2.0, gt=0)
    gamma_end: float = Field(default=10.0, gt=0)
    gamma_power: float = Field(default=0.5, ge=0)
    hard_after: float = Field(default=0.2, ge=0, le=1)

    @property
    def shape(self) -> Shape:
        """Size of the cell tower."""
        return PRESETS[self.preset]
