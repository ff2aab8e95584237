"""The cell tower against a padded BertModel and nn.TransformerEncoder of the same shape.

    python benchmarks/throughput/encoder.py [--data FOLDER] [--quick]
    OMP_NUM_THREADS=1 python benchmarks/throughput/encoder.py --clock cpu    # on a shared machine

All do the same work on the same cells: predict the bins of the hidden genes and train the state of
``<cls>``. The peers read every token with every token, padded to the longest cell of the batch. The
contenders take turns, and the best of each one's turns counts, since other work on a machine slows
all of them; figures are ratios to the faster BertModel in the same process.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from output import publish
from torch import nn
from torch.nn import functional as F

from okrcell.train.batch import PackedCells
from okrcell.train.config import TrainConfig
from okrcell.train.flops import cost, fast_precision, peak_flops
from okrcell.train.towers import build_tower

N_GENES, TEXT_DIM, LONGEST = 20_000, 384, 1_200
BAR, MOMENTUM = 2, "momentum forward, share of the step"
BERT_DROPOUT = "BertModel, attention dropout 0.1 (its default)"
SLOW = (BERT_DROPOUT, "nn.TransformerEncoder")


def lengths_of(n: int, data: Path | None, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """Draw non-zero genes per cell, between 200 and 1,200."""
    if data is not None:
        import anndata

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cells = anndata.read_h5ad(data / "pbmc_facs_10pop.h5ad")
        counts = np.asarray((cells.X != 0).sum(axis=1)).ravel()
        source = f"{len(counts)} sorted blood cells, median {np.median(counts):.0f} genes"
        drawn = rng.choice(counts, n)
    else:
        drawn, source = rng.lognormal(np.log(600), 0.45, n), "lognormal, median 600, sigma 0.45"
    return np.clip(drawn, 200, LONGEST).astype(np.int64), source


def make_cells(
    lengths: np.ndarray, ratio: float, n_bins: int, rng: np.random.Generator
) -> PackedCells:
    """Make cells of these lengths, a share of their genes hidden."""
    hidden = rng.binomial(lengths, ratio)
    known = lengths - hidden + 1
    genes = [rng.permutation(N_GENES)[:n] + 2 for n in lengths]
    known_genes = np.concatenate([np.r_[1, g[h:]] for g, h in zip(genes, hidden, strict=True)])
    bins = [np.r_[0, rng.integers(1, n_bins + 1, n - 1)] for n in known]
    return PackedCells(
        torch.from_numpy(known_genes.astype(np.int32)),
        torch.from_numpy(np.concatenate(bins).astype(np.int32)),
        torch.from_numpy(known),
        torch.from_numpy(np.concatenate([g[:h] for g, h in zip(genes, hidden, strict=True)])).int(),
        torch.from_numpy(rng.integers(1, n_bins + 1, hidden.sum())).int(),
        torch.from_numpy(hidden),
    )


def padded(cells: PackedCells, mask_bin: int) -> tuple[torch.Tensor, ...]:
    """Return genes, bins, real, hidden as [B, T], and the bins to predict."""
    rows = [cells.rows(i, i + 1) for i in range(len(cells))]
    fill = nn.utils.rnn.pad_sequence
    genes = fill([torch.cat([r.known_genes, r.hidden_genes]).long() for r in rows], True)
    bins = fill(
        [F.pad(r.known_bins.long(), (0, len(r.hidden_bins)), value=mask_bin) for r in rows], True
    )
    return genes, bins, genes != 0, bins == mask_bin, cells.hidden_bins.long() - 1


class Peer(nn.Module):
    """Embeddings, a padded encoder, a head for hidden bins."""

    def __init__(self, config: TrainConfig, encoder: nn.Module, kind: str) -> None:
        super().__init__()
        dim = config.shape.dim
        self.kind, self.encoder = kind, encoder
        self.gene, self.bin = nn.Embedding(N_GENES + 2, dim), nn.Embedding(config.n_bins + 2, dim)
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, config.n_bins))
        self.projector = nn.Linear(dim, TEXT_DIM)

    def loss(self, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Return the loss of hidden bins plus one that reaches ``<cls>``."""
        genes, bins, real, hidden, target = batch
        x = self.gene(genes) + self.bin(bins)
        if self.kind == "bert":
            states = self.encoder(inputs_embeds=x, attention_mask=real.long()).last_hidden_state
        else:
            states = self.encoder(x, src_key_padding_mask=~real)
        cell = F.normalize(self.projector(states[:, 0]).float(), dim=-1)
        return F.cross_entropy(self.head(states[hidden]).float(), target) + cell.sum()


def bert(config: TrainConfig, attention_dropout: float) -> Peer:
    """Return transformers.BertModel of the tower's shape."""
    from transformers import BertConfig, BertModel

    shape = config.shape
    keys = BertConfig(
        vocab_size=2,
        hidden_size=shape.dim,
        num_hidden_layers=shape.blocks,
        num_attention_heads=shape.heads,
        intermediate_size=shape.feed_forward,
        max_position_embeddings=1300,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=attention_dropout,
    )
    return Peer(config, BertModel(keys, add_pooling_layer=False), "bert")


def plain(config: TrainConfig) -> Peer:
    """Return torch.nn.TransformerEncoder of the tower's shape."""
    shape = config.shape
    layer = nn.TransformerEncoderLayer(
        shape.dim,
        shape.heads,
        shape.feed_forward,
        config.dropout,
        "gelu",
        batch_first=True,
        norm_first=True,
    )
    encoder = nn.TransformerEncoder(layer, shape.blocks, enable_nested_tensor=False)
    return Peer(config, encoder, "plain")


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def seconds_of(work: Callable[[], None], clock: str) -> float:
    """Return the seconds of some work; those of the processor are fair where others use it too."""
    start = CLOCKS[clock]()
    work()
    return CLOCKS[clock]() - start


def matrix_rate(precision: str, clock: str) -> float:
    """Return operations per second of a large product, by the clock of everything else here."""
    if clock == "wall":
        return peak_flops("cpu", precision)  # type: ignore[arg-type]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = torch.randn(2, 1536, 1536, dtype=dtype)
    return 2 * 1536**3 / min(seconds_of(lambda: torch.mm(left, right), clock) for _ in range(6))


def step(loss: Callable[[], torch.Tensor], module: nn.Module, half: bool) -> Callable[[], None]:
    def work() -> None:
        module.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            value = loss()
        value.backward()

    return work


def forward(tower: nn.Module, cells: PackedCells, half: bool) -> Callable[[], None]:
    """Return the work of a momentum tower: no gradient, no dropout, no hidden genes."""

    def work() -> None:
        tower.eval()
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            tower(cells, genes=False)
        tower.train()

    return work


def all_known(cells: PackedCells) -> PackedCells:
    """Return the full view of the cells: nothing hidden."""
    rows = [cells.rows(i, i + 1) for i in range(len(cells))]
    none = torch.zeros(0, dtype=torch.int32)
    return PackedCells(
        torch.cat([x for r in rows for x in (r.known_genes, r.hidden_genes)]),
        torch.cat([x for r in rows for x in (r.known_bins, r.hidden_bins)]),
        cells.known_counts + cells.hidden_counts,
        none,
        none,
        torch.zeros_like(cells.hidden_counts),
    )


def measure(
    quick: bool = False, data: Path | None = None, preset: str = "paper", clock: str = "wall"
) -> dict[str, Any]:
    """Time forward and backward pass of one batch; processor time is for a single thread only.

    Returns
    -------
    dict
        ``rows`` (contender, precision, cells/s, ratio to the faster BertModel of no attention
        dropout, share of the matrix rate), ``momentum`` (share of a step), and what was measured on.
    """
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    config = TrainConfig(preset=preset)  # type: ignore[arg-type]
    n, turns = (4, 1) if quick else (8, 4)
    lengths, source = lengths_of(n, data, rng)
    cells = make_cells(lengths, 0.5, config.n_bins, rng)
    batch = padded(cells, config.n_bins + 1)
    full = all_known(cells)
    tower = build_tower(config, N_GENES, TEXT_DIM)

    def ours() -> torch.Tensor:
        out = tower(cells)
        return (out.gep + out.gepc) / out.n_hidden + out.cell.sum()

    peers = {
        "BertModel": bert(config, 0.0),
        BERT_DROPOUT: bert(config, 0.1),
        "nn.TransformerEncoder": plain(config),
    }
    work: dict[tuple[str, str], Callable[[], None]] = {}
    for precision in ("fp32", "bf16"):
        half = precision == "bf16"
        work["okrcell", precision] = step(ours, tower, half)
        for name, peer in peers.items():
            work[name, precision] = step(lambda peer=peer: peer.loss(batch), peer, half)
        work["momentum, full view", precision] = forward(tower, full, half)
        work["momentum, masked view", precision] = forward(tower, cells, half)
    seconds = {key: float("inf") for key in work}
    for turn in range(turns):
        for key, run in work.items():
            # These take ten times as long, and no claim rests on them.
            if turn and key[0] in SLOW:
                continue
            seconds[key] = min(seconds[key], seconds_of(run, clock))
    floor = sum(
        cost(config, int(k), int(h), text_dim=TEXT_DIM).train
        for k, h in zip(cells.known_counts, cells.hidden_counts, strict=True)
    )
    reference = min(seconds["BertModel", p] for p in ("fp32", "bf16"))
    rows = []
    for (name, precision), spent in seconds.items():
        if name.startswith("momentum"):
            continue
        row = {"who": name, "precision": precision, "cells/s": round(n / spent, 2)}
        row["times the faster BertModel"] = round(reference / spent, 2)
        if name == "okrcell":
            row["share of matrix rate"] = round(floor / spent / matrix_rate(precision, clock), 3)
        rows.append(row)
    momentum = {
        f"{view} view, {p}": round(
            (m := seconds[f"momentum, {view} view", p]) / (m + seconds["okrcell", p]), 3
        )
        for view in ("full", "masked")
        for p in ("fp32", "bf16")
    }
    fastest = min(("fp32", "bf16"), key=lambda p: seconds["okrcell", p])
    return {
        "preset": preset,
        "lengths": f"{source}; {n} cells of {lengths.mean():.0f} genes on average, half hidden",
        "threads": torch.get_num_threads(),
        "clock": clock,
        "padding of the peers": round(1 - float(batch[2].float().mean()), 3),
        "operations per cell, training": floor / n,
        "rows": rows,
        "momentum forward, share of the step": momentum,
        "faster precision": fastest,
        "fast_precision says": fast_precision("cpu"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--out", type=Path, default=Path("encoder.json"), help="JSON for the page")
    arguments = parser.parse_args()
    cells = None if arguments.data is None else arguments.data / "cells"
    found = measure(arguments.quick, cells, arguments.preset, arguments.clock)
    columns = list(found["rows"][0])
    columns += ["share of matrix rate"] * ("share of matrix rate" not in columns)
    momentum = [[name, f"{share:.2f}"] for name, share in found[MOMENTUM].items()]
    publish(
        {
            "title": "The cell tower beside a padded BertModel",
            "command": "python benchmarks/throughput/run.py --data ../shared/data --only encoder",
            "tables": [
                {
                    "caption": f"Forward and backward pass, preset {found['preset']}, {found['lengths']}; "
                    f"{found['threads']} threads",
                    "columns": columns,
                    "rows": [[row.get(name, "") for name in columns] for row in found["rows"]],
                },
                {
                    "caption": "The momentum tower's forward pass, as a share of the step with it",
                    "columns": ["view", "share"],
                    "rows": momentum,
                },
            ],
            "notes": [
                f"Bar: at least {BAR} times the faster BertModel in the same process.",
                f"All predict the bins of the same hidden genes; {found['padding of the peers']:.0%} of the "
                "peers' tokens are padding.",
                f"{found['operations per cell, training'] / 1e9:.2f} GFLOP per cell; the share of the matrix "
                "rate is of a product of large matrices in the same arithmetic.",
                f"Faster precision here: {found['faster precision']}; 'auto' takes "
                f"{found['fast_precision says']}.",
            ],
        },
        arguments.out,
    )


if __name__ == "__main__":
    main()
