"""The text tower: frozen, with its last block trained, with low-rank terms; where models come from."""

import copy
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from okrcell.corpus import embedder as embedder_module
from okrcell.corpus.embedder import load_embedder, load_text_model, minilm_path
from okrcell.corpus.hub import find_model, weight_files
from okrcell.corpus.long_texts import encode_long, split_long
from okrcell.errors import (
    ConfigError,
    DependencyError,
    EmbedderError,
    FileFormatError,
    InternalError,
)
from okrcell.train import text_states
from okrcell.train.config import TrainConfig
from okrcell.train.text import load_text_tower
from okrcell.train.text_layers import LastBlock

LONG = "The natural killer cell kills. It also makes interferon gamma; it needs no priming. " * 21
TEXTS = (
    "B cell",
    "A natural killer cell of the blood that expresses NKG7 and GNLY.",
    LONG,
    "Monocytes are CD14 positive and express LYZ.",
)
WORDS = sorted({w for t in TEXTS for w in t.lower().replace(".", " ").replace(";", " ").split()})


def config(**keys) -> TrainConfig:
    return TrainConfig(**{"stage": "2", **keys})


def tokenizer(folder: Path, max_length: int) -> None:
    """A word tokenizer in the files that transformers reads."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = ["<s>", "<pad>", "</s>", "<unk>", ".", ";", *WORDS]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(names)}, unk_token="<unk>"))
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=max_length,
    ).save_pretrained(folder)


SIZES = {
    "vocab_size": 6 + len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 66,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}


def plain_model(folder: Path, kind: str, shard: str = "5GB", max_length: int = 10**9) -> Path:
    """A small model with random weights, as ``save_pretrained`` leaves it."""
    import transformers

    extra = {"Longformer": {"attention_window": [8, 8, 8]}, "Albert": {"embedding_size": 16}}
    torch.manual_seed(0)
    made = getattr(transformers, f"{kind}Config")(**SIZES, **extra.get(kind, {}))
    model = getattr(transformers, f"{kind}Model")(made)
    for name, parameter in model.named_parameters():
        if "bias" not in name and parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)  # so that attention is not flat
    model.save_pretrained(folder, max_shard_size=shard)
    tokenizer(folder, max_length)
    return folder


@pytest.fixture(scope="module")
def roberta(tmp_path_factory) -> Path:
    return plain_model(tmp_path_factory.mktemp("model") / "roberta", "Roberta")


@pytest.fixture(scope="module")
def longformer(tmp_path_factory) -> Path:
    return plain_model(tmp_path_factory.mktemp("model") / "longformer", "Longformer")


@pytest.fixture(scope="module")
def cls_pooled(tmp_path_factory, roberta) -> Path:
    """The same weights as a sentence-transformers folder that takes the first state."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    folder = tmp_path_factory.mktemp("model") / "cls"
    transformer = modules.Transformer(str(roberta))
    dense = modules.Dense(32, 24)
    pooling = modules.Pooling(32, pooling_mode="cls")
    SentenceTransformer(modules=[transformer, pooling, dense], device="cpu").save(str(folder))
    return folder


@pytest.fixture
def floats(monkeypatch):
    """Embedders in float32 on every machine."""
    monkeypatch.setattr(embedder_module, "_fast_dtype", lambda: "float32")
    load_embedder.cache_clear()
    yield
    load_embedder.cache_clear()


# --- stage 1 -----------------------------------------------------------------------------------


def test_frozen_tower_looks_up_what_the_embedder_says(embedder):
    tower = load_text_tower(TrainConfig(), TEXTS, device="cpu")
    assert not tower.trainable
    assert (tower.id, tower.dim) == (embedder.id, 384)
    assert list(tower.parameters()) == []
    assert list(tower.state_dict()) == []
    groups = torch.tensor([3, 0, 2, 3])
    vectors = tower(groups)
    assert vectors.dtype == torch.float32
    assert not vectors.requires_grad
    assert np.array_equal(vectors.numpy(), embedder.encode([TEXTS[g] for g in groups]))
    assert np.array_equal(tower.table()[groups].numpy(), vectors.numpy())
    assert np.array_equal(tower.encode(["T cell"]), embedder.encode(["T cell"]))
    again = copy.deepcopy(tower)
    assert again.table().data_ptr() == tower.table().data_ptr()
    assert tower.momentum_copy().table().data_ptr() == tower.table().data_ptr()
    tower.load_trained_state(tower.trained_state())
    with pytest.raises(InternalError, match="stage 2"):
        tower.unfreeze()


# --- stage 2 -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "part"),
    [
        ("minilm", "attention"),
        *((m, p) for m in ("roberta", "longformer", "cls_pooled") for p in ("layer", "lora")),
    ],
)
@pytest.mark.usefixtures("floats")
def test_untrained_tower_equals_the_frozen_one(model, part, request):
    name = model if model == "minilm" else str(request.getfixturevalue(model))
    tower = load_text_tower(config(embedder=name, text_train=part), TEXTS, device="cpu")
    assert tower._encoder.cuts == (part != "lora")
    embedder = load_embedder(name)
    assert (tower.id, tower.dim) == (embedder.id, embedder.dim)
    expected = embedder.encode(TEXTS)
    assert embedder.count_tokens([LONG])[0] > 1.5 * embedder.max_tokens  # several pieces
    found = tower(torch.arange(len(TEXTS)))
    assert found.dtype == torch.float32
    assert found.requires_grad
    assert np.abs(found.detach().numpy() - expected).max() < 1e-3
    assert np.abs(tower.table().numpy() - expected).max() < 1e-3
    assert np.abs(tower.encode(TEXTS) - expected).max() < 1e-5
    # The texts differ by far more than that.
    assert np.abs(expected[0] - expected[3]).max() > 0.02


def test_what_trains_is_what_was_asked_for(roberta, longformer):
    def names(part, model=roberta):
        tower = load_text_tower(config(embedder=str(model), text_train=part), TEXTS, device="cpu")
        assert sum(1 for _ in tower.parameters()) == len(tower.trained_state())
        assert all(p.requires_grad for p in tower.parameters())
        return set(tower.trained_state())

    last = "encoder.layer.2."
    attention = names("attention")
    assert {n.removeprefix(last) for n in attention} == {
        f"attention.{part}.{kind}"
        for part in ("self.query", "self.key", "self.value", "output.dense", "output.LayerNorm")
        for kind in ("weight", "bias")
    }
    layer = names("layer")
    assert attention < layer
    assert {n for n in layer if not n.startswith(last)} == set()
    assert len(layer - attention) == 6
    lora = names("lora")
    assert lora == {
        f"encoder.layer.{block}.attention.self.{kind}.lora_{factor}.default.weight"
        for block in range(3)
        for kind in ("query", "value")
        for factor in "AB"
    }
    # Without global attention its projections are never used, and data-parallel training would wait.
    assert not any("_global" in name for name in names("attention", longformer))


@pytest.mark.parametrize("part", ["attention", "layer"])
def test_gradients_of_the_cut_model_are_those_of_the_whole(roberta, longformer, part, monkeypatch):
    for folder in (roberta, longformer):
        keys = config(embedder=str(folder), text_train=part)
        goal = F.normalize(torch.randn(len(TEXTS), 32, generator=torch.manual_seed(1)), dim=1)
        gradients = []
        for cuts in (True, False):
            monkeypatch.setattr(text_states.PieceEncoder, "_agrees", lambda self, c=cuts: c)
            tower = load_text_tower(keys, TEXTS, device="cpu")
            assert tower._encoder.cuts == cuts
            (tower(torch.arange(len(TEXTS))) * goal).sum().backward()
            gradients.append({n: p.grad for n, p in tower.trained.items()})
        short, whole = gradients
        assert short.keys() == whole.keys()
        for name in whole:
            assert torch.allclose(short[name], whole[name], atol=2e-3), name
        assert max(g.abs().max() for g in whole.values()) > 0.02


@pytest.mark.parametrize(
    "odd", [lambda model: (model, LastBlock(model)), lambda model: (None, LastBlock(model))]
)
def test_architecture_that_does_not_bear_the_cut_is_computed_whole(roberta, odd, monkeypatch):
    # Word pieces are lost, or it fails.
    monkeypatch.setattr(text_states, "last_block", odd)
    tower = load_text_tower(config(embedder=str(roberta)), TEXTS, device="cpu")
    assert not tower._encoder.cuts
    vectors = tower(torch.arange(4))
    assert np.abs(vectors.detach().numpy() - tower.encode(TEXTS)).max() < 1e-5
    vectors.sum().backward()
    assert all(p.grad is not None for p in tower.parameters())


@pytest.mark.parametrize("part", ["attention", "lora"])
def test_training_moves_vectors_and_only_the_trained_weights(roberta, part):
    tower = load_text_tower(config(embedder=str(roberta), text_train=part), TEXTS, device="cpu")
    follower = tower.momentum_copy()
    before, frozen = tower.table().clone(), _frozen(tower)
    goal = F.normalize(torch.randn(4, tower.dim, generator=torch.manual_seed(1)), dim=1)
    groups = torch.tensor([2, 0, 3, 2, 1])
    optimiser = torch.optim.Adam(tower.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        tower.train()  # no dropout: equal texts stay equal
        vectors = tower(groups)
        assert torch.equal(vectors[0], vectors[3])
        loss = -(vectors * goal[[0, 1, 2, 0, 3]]).sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05
    for name, tensor in _frozen(tower).items():
        assert torch.equal(tensor, frozen[name]), name
    assert torch.equal(tower.table(), before)  # until it is refreshed
    tower.refresh()
    assert not torch.allclose(tower.table(), before, atol=1e-2)
    with torch.no_grad():
        assert torch.allclose(tower(torch.arange(4)), tower.table(), atol=1e-6)
    assert np.abs(tower.encode(TEXTS) - tower.table().numpy()).max() < 1e-3
    # The follower has weights of its own, and follows when it is told to.
    assert torch.allclose(follower(torch.arange(4)), before, atol=1e-5)
    with torch.no_grad():
        for mine, its in zip(follower.parameters(), tower.parameters(), strict=True):
            assert mine is not its
            mine.lerp_(its, 1.0)
    assert torch.allclose(follower(groups), tower(groups), atol=1e-6)
    assert not follower(groups).requires_grad
    assert not follower.trainable
    tower.freeze()
    assert not tower(groups).requires_grad
    assert torch.allclose(tower(groups), follower(groups), atol=1e-6)


def _frozen(tower) -> dict[str, torch.Tensor]:
    return {
        name: tensor.clone()
        for name, tensor in tower._encoder._transformer.state_dict().items()
        if name not in tower.trained_state()
    }


def test_both_looks_up_first_and_then_trains(roberta):
    tower = load_text_tower(config(embedder=str(roberta), stage="both"), TEXTS, device="cpu")
    follower = tower.momentum_copy()
    groups = torch.tensor([1, 1, 2])
    assert tower.trainable
    assert tower.frozen
    assert not follower.trainable
    assert not any(p.requires_grad for p in tower.parameters())
    looked_up = tower(groups)
    assert torch.equal(looked_up, tower.table()[groups])
    assert torch.equal(follower(groups), looked_up)
    assert follower.table().data_ptr() == tower.table().data_ptr()
    tower.unfreeze()
    assert not tower.frozen
    assert all(p.requires_grad for p in tower.parameters())
    vectors = tower(groups)
    assert vectors.requires_grad
    assert torch.allclose(vectors, looked_up, atol=1e-5)
    assert torch.allclose(follower(groups), looked_up, atol=1e-5)
    assert not follower(groups).requires_grad
    with pytest.raises(InternalError):
        follower.unfreeze()


def test_each_text_of_a_call_is_encoded_once(roberta, monkeypatch):
    tower = load_text_tower(config(embedder=str(roberta)), TEXTS, device="cpu")
    tower.table()
    seen = []
    plain = text_states.PieceEncoder.encode_rows
    monkeypatch.setattr(
        text_states.PieceEncoder,
        "encode_rows",
        lambda self, rows: seen.extend(rows) or plain(self, rows),
    )
    assert tower(torch.tensor([0, 3, 0, 0, 3])).shape == (5, 32)
    assert sorted(seen) == [0, len(split_long(load_embedder(str(roberta)), TEXTS).texts) - 1]


def test_copies_share_what_is_big(roberta):
    tower = load_text_tower(config(embedder=str(roberta)), TEXTS, device="cpu")
    early = copy.deepcopy(tower)
    tower.table()
    for twin in (early, copy.deepcopy(tower), tower.momentum_copy()):
        assert twin._encoder._memory is tower._encoder._memory
        assert twin._shared is tower._shared
        mine = dict(tower._encoder._transformer.named_parameters())
        its = dict(twin._encoder._transformer.named_parameters())
        assert {n for n in mine if mine[n] is not its[n]} == set(tower.trained_state())
        # The whole model and the cut one of a copy are one set of weights.
        query = twin._encoder._only.block.attention.self.query.weight
        assert query is its["encoder.layer.2.attention.self.query.weight"]
        assert any(query is parameter for parameter in twin.parameters())
    assert tower._encoder._memory[0].values.dtype == torch.float16
    assert not copy.deepcopy(tower).frozen
    assert all(p.requires_grad for p in copy.deepcopy(tower).parameters())
    assert tower.momentum_copy().frozen


def test_large_states_are_kept_in_bfloat16(tmp_path, roberta, monkeypatch):
    monkeypatch.setattr(text_states, "_HALF_LIMIT", 1e-3)
    tower = load_text_tower(config(embedder=str(roberta)), TEXTS, device="cpu")
    vectors = tower(torch.arange(4))
    assert tower._encoder._memory[0].values.dtype == torch.bfloat16
    assert np.abs(vectors.detach().numpy() - tower.encode(TEXTS)).max() < 5e-3


def test_caller_sets_the_precision(roberta):
    tower = load_text_tower(config(embedder=str(roberta)), TEXTS, device="cpu")
    with torch.inference_mode():
        full = tower.table()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        vectors = tower(torch.arange(4))
        tower.refresh()
        assert torch.equal(tower.table(), full)
    assert vectors.dtype == torch.float32
    assert not torch.equal(vectors, full)
    assert torch.allclose(vectors, full, atol=2e-2)
    vectors.sum().backward()  # what was cached in inference mode can be trained on


def test_state_is_restored_strictly_and_with_the_table(roberta):
    keys = config(embedder=str(roberta))
    tower = load_text_tower(keys, TEXTS, device="cpu")
    old = tower.table()
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.mul_(1.1)
    state = {name: tensor.clone() for name, tensor in tower.resume_state().items()}
    other = load_text_tower(keys, TEXTS, device="cpu")
    other.load_resume_state(state)
    assert torch.equal(other.table(), old)
    assert torch.equal(other(torch.arange(4)), tower(torch.arange(4)))
    other.refresh()
    tower.refresh()
    assert torch.equal(other.table(), tower.table())
    alone = load_text_tower(keys, (), device="cpu")
    alone.load_trained_state(tower.trained_state())
    assert alone.table().shape == (0, 32)
    assert np.array_equal(alone.encode(["B cell"]), tower.encode(["B cell"]))
    with pytest.raises(FileFormatError, match="other names"):
        other.load_trained_state({"x": torch.zeros(1)})
    with pytest.raises(FileFormatError, match="of their shapes"):
        other.load_trained_state({n: t[:1] for n, t in tower.trained_state().items()})


def test_low_rank_terms_depend_on_the_seed_alone(roberta):
    def drawn(seed):
        keys = config(embedder=str(roberta), text_train="lora", lora_rank=3, seed=seed)
        return load_text_tower(keys, TEXTS, device="cpu").trained_state()

    torch.manual_seed(5)
    first = drawn(1)
    torch.manual_seed(6)
    second, other = drawn(1), drawn(2)
    assert all(torch.equal(first[n], second[n]) for n in first)
    assert any(not torch.equal(first[n], other[n]) for n in first)
    assert {t.shape for n, t in first.items() if "lora_A" in n} == {(3, 32)}


def test_models_that_cannot_be_trained_are_refused(tmp_path, roberta, monkeypatch):
    shared = plain_model(tmp_path / "albert", "Albert")
    with pytest.raises(ConfigError, match='text_train = "lora"'):
        load_text_tower(config(embedder=str(shared)), TEXTS, device="cpu")
    tower = load_text_tower(config(embedder=str(shared), text_train="lora"), TEXTS, device="cpu")
    assert tower(torch.tensor([0])).requires_grad
    with pytest.raises(EmbedderError, match="service"):
        load_text_tower(config(embedder="openai:m"), TEXTS, device="cpu")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(DependencyError, match=r"okrcell\[lora\]"):
        load_text_tower(config(embedder=str(roberta), text_train="lora"), TEXTS, device="cpu")


# --- where models come from --------------------------------------------------------------------


def test_plain_folder_is_averaged_and_reads_no_more_than_its_positions(roberta):
    model = load_text_model(str(roberta))
    assert model.embedder.max_tokens == 64  # 66 rows, of which RoBERTa leaves two unused
    assert model.embedder.id == f"roberta:{find_model(str(roberta)).sha256[:8]}:float32"
    features = model.features(TEXTS[:2])
    with torch.no_grad():
        states = model.transformer(
            input_ids=features["input_ids"], attention_mask=features["attention_mask"]
        )[0]
    mask = features["attention_mask"][..., None]
    expected = F.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
    assert np.abs(model.embedder.encode(TEXTS[:2]) - expected.numpy()).max() < 1e-5
    edge = " ".join(["cell"] * 62)
    assert model.embedder.count_tokens([edge]) == [64]
    assert np.isfinite(model.embedder.encode([edge, f"{edge} cell"])).all()


def test_identity_is_of_all_weights(tmp_path, roberta, cls_pooled):
    sharded = plain_model(tmp_path / "roberta", "Roberta", shard="50KB")
    files = weight_files(sharded)
    assert len(files) > 2
    assert not (sharded / "model.safetensors").exists()
    found = find_model(str(sharded))
    assert found.sha256 != find_model(str(roberta)).sha256
    one, other = load_text_model(str(sharded)), load_text_model(str(roberta))
    assert np.array_equal(one.embedder.encode(TEXTS), other.embedder.encode(TEXTS))
    content = files[1].read_bytes()
    files[1].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert find_model(str(sharded)).sha256 != found.sha256
    files[1].unlink()
    with pytest.raises(EmbedderError, match="no such file"):
        find_model(str(sharded))
    assert [f.parent.name for f in weight_files(cls_pooled)] == ["2_Dense", "cls"]


def test_pickled_weights_and_code_are_refused(tmp_path, roberta, cls_pooled):
    pickled = tmp_path / "pickled"
    shutil.copytree(roberta, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(EmbedderError, match="only pickled weights") as refused:
        load_embedder(str(pickled))
    assert "save_pretrained" in refused.value.fix
    dense = tmp_path / "dense"
    shutil.copytree(cls_pooled, dense)
    (dense / "2_Dense" / "model.safetensors").rename(dense / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(EmbedderError, match="2_Dense"):
        load_embedder(str(dense))
    custom = tmp_path / "custom"
    shutil.copytree(roberta, custom)
    settings = json.loads((custom / "config.json").read_text())
    settings |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModel": "own.M"}}
    (custom / "config.json").write_text(json.dumps(settings))
    (custom / "own.py").write_text("raise SystemExit('ran')\n")
    with pytest.raises(EmbedderError, match="cannot be loaded"):
        load_embedder(str(custom))
    broken = tmp_path / "broken"
    shutil.copytree(roberta, broken)
    (broken / "config.json").write_text("{")
    with pytest.raises(EmbedderError, match="cannot be loaded"):
        load_embedder(str(broken))


@pytest.fixture
def cache(tmp_path, monkeypatch, roberta) -> Path:
    """A cache of the hub, laid out as huggingface_hub does, and no connection."""
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    model = tmp_path / "hub" / "models--some--roberta"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(commit)
    (model / "blobs").mkdir()
    snapshot = model / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(roberta.iterdir())):
        shutil.copy(file, model / "blobs" / str(number))
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(number))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return snapshot


@pytest.mark.usefixtures("floats")
def test_hub_model_comes_from_the_cache(cache, roberta):
    found = find_model("some/roberta")
    assert (found.folder, found.label) == (cache, "some/roberta")
    assert found.sha256 == find_model(str(roberta)).sha256
    ours = load_embedder("some/roberta")
    assert ours.id == f"some/roberta:{found.sha256[:8]}:float32"
    assert np.array_equal(ours.encode(TEXTS), load_embedder(str(roberta)).encode(TEXTS))
    tower = load_text_tower(config(embedder="some/roberta"), TEXTS, device="cpu")
    assert tower.id == ours.id


def test_hub_model_that_is_not_there_says_what_to_do(cache, tmp_path):
    with pytest.raises(EmbedderError, match="no complete copy") as refused:
        find_model("some/other")
    assert "hf download some/other" in str(refused.value)
    assert "HF_HOME" in refused.value.fix
    (cache / "model.safetensors").unlink()  # a download that was cut off
    with pytest.raises(EmbedderError):
        find_model("some/roberta")
    with pytest.raises(EmbedderError, match=r"no model\.safetensors"):
        find_model(str(tmp_path / "a" / "b"))  # a path is never looked for on the hub
    (tmp_path / "some" / "other").mkdir(parents=True)
    with pytest.raises(EmbedderError, match=r"no model\.safetensors"):
        find_model("some/other")  # a folder wins


def test_minilm_keeps_its_identity():
    found = find_model(str(minilm_path()))
    assert found.sha256 == embedder_module.MINILM_SHA256
    assert load_embedder().id.startswith("all-MiniLM-L6-v2:53aa5117:")


def test_pieces_are_those_of_encode_long(embedder):
    pieces = split_long(embedder, TEXTS)
    assert pieces.bounds[0] == 0
    assert pieces.bounds[-1] == len(pieces.texts) > len(TEXTS)
    assert max(pieces.lengths) <= embedder.max_tokens
    assert split_long(embedder, TEXTS[:2]).texts == list(TEXTS[:2])
    seen = []
    encode_long(
        embedder, TEXTS, lambda t, n: seen.extend(t) or np.ones((len(t), 384), dtype=np.float32)
    )
    assert sorted(seen) == sorted(pieces.texts)
