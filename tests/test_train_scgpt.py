"""scGPT checkpoints: the same state of ``<cls>``, strict names, and errors that say what to set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from okrcell.errors import ConfigError, FileFormatError, GeneCoverageError
from okrcell.train.batch import PackedCells
from okrcell.train.config import TrainConfig
from okrcell.train.scgpt import init_from_scgpt, load_scgpt
from okrcell.train.towers import build_tower

SYMBOLS = ("CD3E", "MS4A1", "LYZ", "NKG7", "GNLY", "CD8A")
ENSEMBL = {
    "CD3E": "ENSG00000198851",
    "MS4A1": "ENSG00000156738",
    "LYZ": "ENSG00000090382",
    "NKG7": "ENSG00000105374",
    "CD19": "ENSG00000177455",
}
ARGS = {
    "embsize": 64,
    "nlayers": 2,
    "nheads": 2,
    "d_hid": 128,
    "n_bins": 51,
    "dropout": 0.2,
    "pad_token": "<pad>",
    "pad_value": -2,
    "mask_value": -1,
    "input_emb_style": "continuous",
}
KEYS = {
    "preset": "tiny",
    "norm": "post",
    "activation": "relu",
    "values": "continuous",
    "n_bins": 50,
}


class Reference(nn.Module):
    """scGPT's encoder in plain torch, with its names."""

    def __init__(self, n_tokens: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(64, 2, 128, 0.2, batch_first=True)
        self.encoder = nn.ModuleDict(
            {"embedding": nn.Embedding(n_tokens, 64, padding_idx=0), "enc_norm": nn.LayerNorm(64)}
        )
        self.value_encoder = nn.ModuleDict(
            {"linear1": nn.Linear(1, 64), "linear2": nn.Linear(64, 64), "norm": nn.LayerNorm(64)}
        )
        self.transformer_encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.decoder = nn.Linear(64, 1)

    def forward(self, genes: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        value = self.value_encoder
        x = value["linear2"](torch.relu(value["linear1"](values[..., None])))
        x = value["norm"](x) + self.encoder["enc_norm"](self.encoder["embedding"](genes))
        return self.transformer_encoder(x)[:, 0]


def write(folder: Path, *, flash: bool = False, **args: object) -> tuple[Reference, dict[str, int]]:
    torch.manual_seed(0)
    vocabulary = {name: at for at, name in enumerate(("<pad>", *SYMBOLS, "<cls>", "<eoc>"))}
    model = Reference(len(vocabulary)).eval()
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.3)
    state = model.state_dict()
    if flash:
        state = {name.replace("in_proj_", "Wqkv."): value for name, value in state.items()}
    torch.save(state, folder / "best_model.pt")
    (folder / "args.json").write_text(json.dumps(ARGS | args))
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    return model, vocabulary


@pytest.mark.parametrize("flash", [False, True])
def test_the_state_is_that_of_scgpt(tmp_path: Path, flash: bool) -> None:
    model, vocabulary = write(tmp_path, flash=flash)
    found = load_scgpt(tmp_path)
    assert found.overrides == KEYS
    gene_ids = [ENSEMBL[name] for name in ("MS4A1", "LYZ", "CD19", "CD3E")]
    tower = build_tower(TrainConfig(**found.overrides), len(gene_ids), 16, 3).eval()
    fresh_row = tower.gene.weight[4].clone()
    report = init_from_scgpt(tower, tmp_path, gene_ids)
    assert (report["genes_taken"], report["genes_fresh"], report["genes_unused"]) == (3, 1, 3)
    assert report["tensors_unused"] == ["decoder.bias", "decoder.weight"]
    assert {name.partition(".")[0] for name in report["tensors_fresh"]} == {
        "projector",
        "gep",
        "gepc_cell",
        "gepc_query",
        "types",
    }
    assert report["tensors_taken"] + len(report["tensors_fresh"]) == len(tower.state_dict())
    assert torch.equal(tower.gene.weight[4], fresh_row)

    rng = np.random.default_rng(0)
    for n in (1, 2, 3):
        names = ["MS4A1", "LYZ", "CD3E"][:n]
        bins = rng.integers(1, 51, n)
        own = [1] + [2 + gene_ids.index(ENSEMBL[name]) for name in names]
        none = torch.zeros(0, dtype=torch.int32)
        cells = PackedCells(
            torch.tensor(own, dtype=torch.int32),
            torch.tensor([0, *bins], dtype=torch.int32),
            torch.tensor([n + 1]),
            none,
            none,
            torch.tensor([0]),
        )
        tokens = torch.tensor([[vocabulary["<cls>"], *(vocabulary[name] for name in names)]])
        with torch.inference_mode():
            expected = model(tokens, torch.tensor([[-2.0, *map(float, bins)]]))
            torch.testing.assert_close(tower(cells, genes=False).state, expected, atol=1e-4, rtol=0)


def test_the_message_names_the_keys_to_set(tmp_path: Path) -> None:
    write(tmp_path)
    for wrong in ({}, {"norm": "pre"}, {"n_bins": 51}, {"preset": "mlp"}):
        keys = KEYS | wrong if wrong else {"preset": "tiny"}
        tower = build_tower(TrainConfig(**keys), 5, 16)
        with pytest.raises(ConfigError) as caught:
            init_from_scgpt(tower, tmp_path, list(ENSEMBL.values()))
        for name in wrong or ("norm", "activation", "values", "n_bins"):
            assert f"{name} = {KEYS[name]!r}" in caught.value.fix


@pytest.mark.parametrize(
    ("args", "word"),
    [
        ({"embsize": 96}, "embsize 96"),
        ({"input_emb_style": "category"}, "category"),
        ({"pre_norm": True}, "pre_norm"),
    ],
)
def test_a_scgpt_that_the_tower_cannot_be(tmp_path: Path, args: dict, word: str) -> None:
    write(tmp_path, **args)
    with pytest.raises(ConfigError, match=word):
        load_scgpt(tmp_path)


def test_damaged_folders(tmp_path: Path) -> None:
    write(tmp_path)
    tower = build_tower(TrainConfig(**KEYS), 1, 16)
    with pytest.raises(GeneCoverageError):
        init_from_scgpt(tower, tmp_path, ["ENSG00000999999"])
    state = torch.load(tmp_path / "best_model.pt", weights_only=True)
    gone = state.pop("encoder.enc_norm.bias")
    torch.save(state, tmp_path / "best_model.pt")
    with pytest.raises(FileFormatError, match=r"encoder\.enc_norm\.bias"):
        load_scgpt(tmp_path)
    torch.save(state | {"encoder.enc_norm.bias": gone[:5]}, tmp_path / "best_model.pt")
    with pytest.raises(FileFormatError, match="shape"):
        init_from_scgpt(tower, tmp_path, [ENSEMBL["LYZ"]])
    (tmp_path / "best_model.pt").write_bytes(b"no")
    with pytest.raises(FileFormatError):
        load_scgpt(tmp_path)
    (tmp_path / "vocab.json").unlink()
    with pytest.raises(FileFormatError, match=r"vocab\.json"):
        load_scgpt(tmp_path)
