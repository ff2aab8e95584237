"""Configuration of the train stage. Every value the paper leaves open is a key with its default here."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from okrcell.config import StageConfig

__all__ = ["OBJECTIVES", "PRESETS", "RUNTIME_KEYS", "Shape", "TrainConfig"]


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
    "mlp": Shape(512, 0, 0, 512),
}
"""``paper`` is OKR-CELL's size, ``base`` that of the public scGPT; ``mlp`` reads variable genes."""

Preset = Literal["tiny", "small", "paper", "base", "mlp"]
ObjectiveName = Literal[
    "infonce",
    "siglip",
    "gce",
    "elr",
    "crcl",
    "momentum_distill",
    "cra_paper",
    "cra_plus",
    "clean_oracle",
]
OBJECTIVES: tuple[ObjectiveName, ...] = ObjectiveName.__args__  # type: ignore[attr-defined]

RUNTIME_KEYS = ("device", "init", "workers", "micro_batch", "checkpoint_every", "log_every")
"""Keys that say where and how a run is done; a run may be continued with others.

``micro_batch`` is one of them as long as gradients are cached: then the loss is that of the whole batch,
and only dropout, which is drawn per part, differs.
"""

_WITH_BANK = ("cra_paper", "cra_plus", "momentum_distill")
_Share = Annotated[float, Field(ge=0, le=1)]


class TrainConfig(StageConfig):
    """Keys of the TOML table ``[train]``. (P) is stated in the paper, (R) is our reconstruction.

    The keys are explained in docs/train.md.
    """

    preset: Preset = "paper"
    objective: ObjectiveName = "cra_paper"
    text_source: Literal["description", "label", "term"] = "description"
    embedder: str = "minilm"
    seed: int = Field(default=0, ge=0)
    init: str | None = None

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    workers: int = Field(default=2, ge=0)
    checkpoint_every: int = Field(default=200, ge=1)
    log_every: int = Field(default=10, ge=1)

    stage: Literal["1", "2", "both"] = "1"
    stage2_epochs: int = Field(default=2, ge=1)
    stage2_lr: float = Field(default=1e-5, gt=0)
    text_train: Literal["attention", "layer", "lora"] = "attention"
    lora_rank: int = Field(default=8, ge=1)
    lora_alpha: float = Field(default=16.0, gt=0)

    epochs: int = Field(default=6, ge=1)
    batch_size: int = Field(default=448, ge=2)
    micro_batch: int = Field(default=0, ge=0)
    grad_cache: bool = True
    lr: float = Field(default=1e-4, gt=0)
    lr_decay: float = Field(default=0.9, gt=0, le=1)
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    clip_norm: float = Field(default=1.0, gt=0)
    validation_cells: int = Field(default=2000, ge=0)
    keep: Literal["last", "best"] = "last"

    max_genes: int = Field(default=1200, ge=1)
    n_bins: int = Field(default=51, ge=2)
    mask_ratios: tuple[_Share, ...] = Field(default=(0.25, 0.5, 0.75), min_length=1)
    gep_weight: float = Field(default=1.0, ge=0)
    gepc_weight: float = Field(default=1.0, ge=0)
    cls_weight: float = Field(default=0.0, ge=0)
    align_weight: float = Field(default=1.0, ge=0)
    shuffle_block: int = Field(default=1, ge=1)
    norm: Literal["pre", "post"] = "pre"
    activation: Literal["gelu", "relu"] = "gelu"
    values: Literal["bins", "continuous"] = "bins"
    hvgs: int = Field(default=2000, ge=1)
    input_dropout: float = Field(default=0.5, ge=0, lt=1)
    standardise: bool = False
    marker_genes: bool = False
    thinning: float = Field(default=1.0, gt=0, le=1)
    gene_dropout: float = Field(default=0.0, ge=0, lt=1)

    tau: float = Field(default=0.07, gt=0)
    learn_tau: bool = False
    bank: bool | None = None
    bank_size: int = Field(default=4096, ge=1)
    momentum: float = Field(default=0.995, ge=0, lt=1)
    momentum_view: Literal["full", "masked"] = "full"
    reliability_prior: bool = True

    gce_q: float = Field(default=0.7, gt=0, le=1)
    elr_weight: float = Field(default=3.0, ge=0)
    elr_momentum: float = Field(default=0.7, ge=0, lt=1)
    crcl_momentum: float = Field(default=0.8, ge=0, lt=1)
    distill_alpha: _Share = 0.4

    cca: bool = True
    sigma: float = Field(default=0.07, gt=0)
    rel_sym: Literal["mean", "min", "product"] = "mean"
    record_from_epoch: int = Field(default=2, ge=1)
    stability_from_epoch: int = Field(default=4, ge=1)
    n_sigma: float = Field(default=3.0, gt=0)
    omega: _Share = 0.5
    negative_weight: float = Field(default=5.0, ge=0)
    psw: bool = True
    gamma_start: float = Field(default=2.0, gt=0)
    gamma_end: float = Field(default=10.0, gt=0)
    gamma_power: float = Field(default=0.5, ge=0)
    hard_after: _Share = 0.2

    group_targets: bool = True
    consensus: bool = True
    neighbours: int = Field(default=30, ge=0)
    graph_genes: int = Field(default=2000, ge=2)
    graph_components: int = Field(default=50, ge=2)
    debias: bool = True
    debias_smoothing: float = Field(default=1.0, ge=0)
    readings: bool = True
    markers: bool = True
    witness: float = Field(default=0.5, ge=0, le=1)
    keep_texts: int = Field(default=8, ge=1)
    repair: bool = True
    repair_from_epoch: int = Field(default=1, ge=1)
    candidates: int = Field(default=4096, ge=2)
    curriculum_q: float = Field(default=0.7, ge=0, le=1)

    mismatch: _Share = 0.0
    mismatch_kind: Literal["uniform", "sibling", "donor"] = "uniform"
    expression_noise: _Share = 0.0
    noise_seed: int = Field(default=0, ge=0)

    @property
    def shape(self) -> Shape:
        """Size of the cell tower."""
        return PRESETS[self.preset]

    @property
    def missing_value(self) -> float:
        """What ``mlp`` reads for a gene that a file did not measure."""
        return float("nan") if self.standardise else 0.0

    @property
    def with_bank(self) -> bool:
        """Whether there are momentum towers and a bank; ``bank`` unset leaves it to the objective."""
        return self.bank if self.bank is not None else self.objective in _WITH_BANK

    @property
    def text_from(self) -> int:
        """Number of epochs before the text tower trains (stage 2)."""
        return {"1": self.epochs, "2": 0, "both": self.epochs}[self.stage]

    @property
    def total_epochs(self) -> int:
        """Epochs of all stages."""
        return self.text_from + (0 if self.stage == "1" else self.stage2_epochs)

    def identity(self) -> dict[str, Any]:
        """Return the keys that decide what is learnt, as JSON values."""
        keys = self.model_dump(mode="json")
        free = [name for name in RUNTIME_KEYS if self.grad_cache or name != "micro_batch"]
        return {name: value for name, value in keys.items() if name not in free}
