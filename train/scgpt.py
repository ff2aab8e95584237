"""Weights of a scGPT checkpoint (bowang-lab/scGPT) for the cell tower.

Names and layout are those of ``scgpt/model/model.py`` (TransformerModel): a post-norm encoder over
normalised gene embeddings plus a small network over binned values; the state of ``<cls>`` is the cell.
Nothing is dropped silently: every tensor of the tower is taken or listed as fresh, every tensor of the
checkpoint is taken or listed as unused.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from okrcell.corpus.genes import resolve_genes
from okrcell.errors import ConfigError, FileFormatError, GeneCoverageError
from okrcell.train.config import PRESETS, Shape
from okrcell.train.encoder import CellEncoder
from okrcell.train.tokens import CLS, N_SPECIAL, PAD

__all__ = ["ScGPT", "init_from_scgpt", "load_scgpt"]

_ARGS, _VOCABULARY, _WEIGHTS = "args.json", "vocab.json", "best_model.pt"
_SIZES = ("embsize", "nlayers", "nheads", "d_hid", "n_bins")
_GENES = "gene.weight"
_BLOCK = {
    "qkv": "self_attn.in_proj_",
    "out": "self_attn.out_proj.",
    "feed.0": "linear1.",
    "feed.2": "linear2.",
    "norm_attention": "norm1.",
    "norm_feed": "norm2.",
}
_INPUT = {
    "gene_norm": "encoder.enc_norm.",
    "bin.linear1": "value_encoder.linear1.",
    "bin.linear2": "value_encoder.linear2.",
    "bin.norm": "value_encoder.norm.",
}
_FRESH = {
    "projector": "scGPT has no space shared with text",
    "gep": "scGPT predicts a value, not a bin",
    "gepc_cell": "scGPT predicts a value, not a bin",
    "gepc_query": "scGPT predicts a value, not a bin",
    "types": "the cell types are those of this run",
}
_NOTE = "bins are of equal width here, and quantiles in scGPT"


class ScGPT(NamedTuple):
    """A checkpoint as read.

    Attributes
    ----------
    overrides
        Configuration keys, by name, that make a tower of its shape.
    tensors
        Tensors by their name in the tower. ``gene.weight`` has a row per entry of ``vocabulary``.
    vocabulary
        Symbol to row.
    report
        ``tensors_unused``: names of the checkpoint's tensors that the tower has no place for.
    """

    overrides: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    vocabulary: dict[str, int]
    report: dict[str, Any]


def load_scgpt(folder: Path) -> ScGPT:
    """Read ``args.json``, ``vocab.json`` and ``best_model.pt``.

    Raises
    ------
    FileFormatError
        A file is missing, damaged, or not of scGPT's layout.
    ConfigError
        A scGPT that the tower cannot be: of a size that no preset has, or with other inputs.
    """
    folder = Path(folder)
    args, vocabulary = _json(folder / _ARGS), _json(folder / _VOCABULARY)
    theirs = _weights(folder / _WEIGHTS)
    overrides = _overrides(folder, args, theirs)
    shape = PRESETS[overrides["preset"]]
    wanted = _names(shape)
    missing = sorted(name for name in wanted.values() if name not in theirs)
    special = [name for name in ("<pad>", "<cls>") if name not in vocabulary]
    if missing or special:
        raise FileFormatError(
            folder,
            found=f"no {', '.join((missing + special)[:4])}",
            expected=f"the tensors of a scGPT with {shape.blocks} layers, and its special tokens",
            fix="Use an unaltered scGPT checkpoint folder.",
        )
    tensors = {ours: theirs[name] for ours, name in wanted.items()}
    tensors["bin.numbers"] = torch.tensor(
        [
            float(args.get("pad_value", -2)),
            *range(1, overrides["n_bins"] + 1),
            float(args.get("mask_value", -1)),
        ]
    )
    if max(vocabulary.values()) >= len(tensors[_GENES]):
        raise FileFormatError(
            folder / _VOCABULARY,
            found=f"index {max(vocabulary.values())}",
            expected=f"less than the {len(tensors[_GENES])} rows of encoder.embedding.weight",
            fix="Use the vocabulary that came with the weights.",
        )
    report = {"tensors_unused": sorted(theirs.keys() - set(wanted.values()))}
    return ScGPT(overrides, tensors, vocabulary, report)


@torch.no_grad()
def init_from_scgpt(tower: nn.Module, folder: Path, gene_ids: Sequence[str]) -> dict[str, Any]:
    """Copy a scGPT checkpoint into a fresh tower.

    Its symbols are resolved to Ensembl ids as those of any file are; genes that it does not have keep
    their fresh vectors.

    Parameters
    ----------
    tower
        A :class:`~okrcell.train.encoder.CellEncoder`, written to.
    gene_ids
        The tower's vocabulary.

    Returns
    -------
    dict
        ``genes_taken``, ``genes_fresh``, ``genes_unused`` (entries of scGPT that this vocabulary does
        not have), ``tensors_taken``, ``tensors_fresh`` (name to reason), ``tensors_unused``, ``note``.

    Raises
    ------
    ConfigError
        The configuration describes another tower; the message names the keys to set.
    FileFormatError
        As :func:`load_scgpt`, or tensors of other shapes than ``args.json`` says.
    GeneCoverageError
        No gene is shared.
    """
    folder = Path(folder)
    found = load_scgpt(folder)
    _check_config(tower, folder, found.overrides)
    own = tower.state_dict()
    # A tensor that is neither taken nor known to be new is a mistake of ours, and a KeyError.
    new = [name for name in own if name not in found.tensors]
    fresh = {name: _FRESH[name.partition(".")[0]] for name in new}
    for name, value in found.tensors.items():
        shape = own[name].shape[1:] if name == _GENES else own[name].shape
        if (value.shape[1:] if name == _GENES else value.shape) != shape:
            raise FileFormatError(
                folder / _WEIGHTS,
                found=f"{name} of shape {list(value.shape)}",
                expected=f"{list(own[name].shape)}, as args.json says",
                fix="Use an unaltered scGPT checkpoint folder.",
            )
        if name != _GENES:
            own[name].copy_(value)
    row_of = _rows(found.vocabulary)
    shared = [(at, row_of[gene]) for at, gene in enumerate(gene_ids) if gene in row_of]
    if not shared:
        raise GeneCoverageError(
            folder / _VOCABULARY,
            found=f"none of the {len(gene_ids)} genes of the training cells",
            expected="human genes that scGPT knows",
            fix="Start without this checkpoint.",
        )
    table = found.tensors[_GENES]
    for row, token in ((PAD, "<pad>"), (CLS, "<cls>")):
        own[_GENES][row] = table[found.vocabulary[token]]
    mine, rows = (torch.tensor(side) for side in zip(*shared, strict=True))
    own[_GENES][mine + N_SPECIAL] = table[rows].to(own[_GENES])
    n_genes = sum(not symbol.startswith("<") for symbol in found.vocabulary)
    return {
        "genes_taken": len(shared),
        "genes_fresh": len(gene_ids) - len(shared),
        "genes_unused": n_genes - len(shared),
        "tensors_taken": len(found.tensors),
        "tensors_fresh": fresh,
        "tensors_unused": found.report["tensors_unused"],
        "note": _NOTE,
    }


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from None
    if isinstance(content, dict):
        return content
    raise _damaged(path, type(content).__name__)


def _weights(path: Path) -> dict[str, torch.Tensor]:
    """Read tensors; flash-attn's name of the joint projection becomes torch's, the layout is the same."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        named = dict(state.items())
    except (OSError, RuntimeError, ValueError, EOFError, AttributeError) as error:
        raise _damaged(path, str(error).splitlines()[0]) from None
    except pickle.UnpicklingError:
        raise _damaged(path, "something else than tensors") from None
    return {
        name.removeprefix("module.").replace("self_attn.Wqkv.", "self_attn.in_proj_"): value
        for name, value in named.items()
    }


def _damaged(path: Path, what: str) -> FileFormatError:
    return FileFormatError(
        path,
        found=what,
        expected=f"a file of a scGPT checkpoint folder ({_ARGS}, {_VOCABULARY}, {_WEIGHTS})",
        fix="Download the folder again, or name another one.",
    )


def _names(shape: Shape) -> dict[str, str]:
    """Return the tower's names and scGPT's."""
    stems = dict(_INPUT)
    for number in range(shape.blocks):
        layer = f"transformer_encoder.layers.{number}."
        stems |= {f"blocks.{number}.{ours}": layer + theirs for ours, theirs in _BLOCK.items()}
    pairs = {
        f"{ours}.{kind}": theirs + kind
        for ours, theirs in stems.items()
        for kind in ("weight", "bias")
    }
    return {_GENES: "encoder.embedding.weight", **pairs}


def _overrides(
    folder: Path, args: dict[str, Any], theirs: dict[str, torch.Tensor]
) -> dict[str, Any]:
    """Return the keys of a tower of this shape."""
    try:
        dim, blocks, heads, feed, n_bins = (int(args[name]) for name in _SIZES)
    except (KeyError, TypeError, ValueError):
        raise _damaged(folder / _ARGS, f"no whole number for one of {', '.join(_SIZES)}") from None
    shape = Shape(dim, blocks, heads, feed)
    preset = next((name for name, size in PRESETS.items() if size == shape), None)
    odd = []
    if preset is None:
        odd.append(f"embsize {dim}, nlayers {blocks}, nheads {heads}, d_hid {feed}")
    if args.get("input_emb_style", "continuous") != "continuous":
        odd.append(f"input_emb_style {args['input_emb_style']}")
    if args.get("pre_norm", False):
        odd.append("pre_norm")
    if any(name.startswith(("bn.", "dsbn.")) for name in theirs):
        odd.append("batch norm of its inputs")
    if odd:
        sizes = ", ".join(f"{name} {tuple(size)}" for name, size in PRESETS.items() if size.blocks)
        raise ConfigError(
            folder / _ARGS,
            found="; ".join(odd),
            expected=f"a post-norm scGPT with continuous inputs, of the size of a preset: {sizes}",
            fix="Use another checkpoint.",
        )
    return {
        "preset": preset,
        "norm": "post",
        "activation": "relu",
        "values": "continuous",
        # scGPT counts the bin of zero, which has no token here.
        "n_bins": n_bins - 1,
    }


def _check_config(tower: nn.Module, folder: Path, overrides: dict[str, Any]) -> None:
    config = getattr(tower, "config", None)
    keys = {} if config is None else {name: getattr(config, name) for name in overrides}
    wrong = {name: value for name, value in overrides.items() if keys.get(name) != value}
    if wrong or not isinstance(tower, CellEncoder):
        raise ConfigError(
            folder,
            found=", ".join(f"{name} = {keys.get(name, 'mlp')!r}" for name in wrong),
            expected="the shape and inputs of this scGPT",
            fix="Set " + ", ".join(f"{name} = {value!r}" for name, value in wrong.items()) + ".",
        )


def _rows(vocabulary: dict[str, int]) -> dict[str, int]:
    """Return Ensembl id to row, special tokens left out."""
    symbols = [name for name in vocabulary if not name.startswith("<")]
    report = resolve_genes(symbols, np.zeros(len(symbols)))
    return {
        gene: vocabulary[symbols[column]]
        for gene, column in zip(report.gene_ids, report.columns, strict=True)
    }
