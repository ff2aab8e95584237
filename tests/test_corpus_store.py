"""Embedding, the store, search, and the cells in it."""

import json
import shutil

import numpy as np
import pytest

from okrcell.corpus import build, cells, literature
from okrcell.corpus import embedder as embedder_module
from okrcell.corpus.config import CellsConfig, CorpusConfig
from okrcell.corpus.genes import KEPT
from okrcell.corpus.knowledge import open_knowledge
from okrcell.corpus.shards import load_matrix
from okrcell.corpus.splits import assign_splits
from okrcell.errors import ArtifactError, ConfigError, EmbedderError, ManifestError
from okrcell.schemas import read_table


def test_embedder_is_unit_stable_and_never_cuts(embedder):
    long = "The natural killer cell kills. " * 120
    texts = ["B cell", long, "B cell", long + "It also makes interferon gamma."]
    vectors = embedder.encode(texts)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.array_equal(vectors[0], vectors[2])
    assert embedder.count_tokens([long])[0] > embedder.max_tokens
    assert not np.array_equal(vectors[1], vectors[3])  # the end of a long text counts
    word = "x" * 5000
    assert np.isfinite(embedder.encode([word])).all()
    assert embedder.encode([]).shape == (0, embedder.dim)


def test_wrong_weights_are_refused(tmp_path, monkeypatch):
    copy = tmp_path / "model"
    shutil.copytree(embedder_module.minilm_path(), copy)
    with (copy / "model.safetensors").open("r+b") as handle:
        handle.seek(-1, 2)
        handle.write(b"\x7f")
    monkeypatch.setattr(embedder_module, "minilm_path", lambda: copy)
    with pytest.raises(EmbedderError, match="sha256"):
        embedder_module.check_minilm()
    with pytest.raises(EmbedderError, match=r"no model\.safetensors"):
        embedder_module.load_embedder(str(tmp_path))


def test_search_finds_by_meaning_by_word_and_by_both(store, embedder):
    knowledge = open_knowledge(store, embedder)
    for mode in ("dense", "lexical", "hybrid"):
        found = knowledge.search("MS4A1 encodes CD20 on B cells", k=5, mode=mode)
        assert len(found) == 5
        assert "NOTE:b_cell" in {s.doc_id for s in found}, mode
        assert [s.score for s in found] == sorted((s.score for s in found), reverse=True)
        assert found == knowledge.search("MS4A1 encodes CD20 on B cells", k=5, mode=mode)
    only = knowledge.search("cell", k=3, sources=["cl"])
    assert {s.source for s in only} == {"cl"}
    assert knowledge.search("zzzz qqqq", k=3, mode="lexical") == []
    with pytest.raises(ConfigError, match="'pubmed'"):
        knowledge.search("x", sources=["pubmed"])
    assert knowledge.of_document("CL:0000236")[0].text.startswith("B cell: ")
    assert knowledge.get(found[0].snippet_id).text == found[0].text
    assert knowledge.get("none") is None
    knowledge.close()


def test_build_again_reuses_and_a_lost_index_is_rebuilt_alike(store, tmp_path, embedder):
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    before = open_knowledge(copy, embedder)
    first = before.search("naive T cell", k=10)
    before.close()  # chromadb shares one connection per path within a process while one is open
    shutil.rmtree(copy / "knowledge" / "index")
    assert "not searchable" in build.status(copy)["knowledge"]["state"]
    with pytest.raises(ManifestError, match="corpus build"):
        open_knowledge(copy, embedder)
    again = build.build(copy, CorpusConfig(), embedder=embedder)
    assert again["reused"]
    assert open_knowledge(copy, embedder).search("naive T cell", k=10) == first


def test_only_new_snippets_are_embedded(store, tmp_path, embedder):
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "new.md").write_text("# New\nMast cells express TPSAB1.\n")

    class Counting:
        id, dim, max_tokens = embedder.id, embedder.dim, embedder.max_tokens
        seen: list[str] = []
        count_tokens = staticmethod(embedder.count_tokens)
        token_ends = staticmethod(embedder.token_ends)

        def encode(self, texts):
            self.seen.extend(texts)
            return embedder.encode(texts)

    counting = Counting()
    literature.add_literature(copy, [notes])
    build.build(copy, CorpusConfig(), embedder=counting)
    assert counting.seen == ["Mast cells express TPSAB1."]


def test_vectors_of_two_embedders_never_mix(store, embedder):
    class Other:
        id, dim, max_tokens = "other:1:float32", 384, 256

    with pytest.raises(EmbedderError, match="other:1"):
        open_knowledge(store, Other())


def test_a_store_is_needed(tmp_path):
    with pytest.raises(ManifestError, match="corpus init"):
        build.open_store(tmp_path / "none")
    build.init_store(tmp_path / "s")
    with pytest.raises(ManifestError, match="add-ontology"):
        build.build(tmp_path / "s", CorpusConfig())


def test_status_tells_whole_from_damaged(store, tmp_path):
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    assert {part["state"] for part in build.status(copy).values()} == {"whole"}
    (copy / "terms" / "cl" / "terms.parquet").write_bytes(b"")
    assert build.status(copy)["terms/cl"]["state"].startswith("not usable")


# --- cells -------------------------------------------------------------------------------------


def test_matrix_profiles_and_mappings_agree_with_the_file(store, adata):
    matrix = load_matrix(store, "pbmc")
    genes = read_table(store / "datasets" / "pbmc" / "genes.parquet", "genes").to_pylist()
    kept = [row["column"] for row in genes if row["status"] in KEPT]
    assert matrix.values == "counts"
    assert len(matrix.gene_ids) == len(kept) == 759
    assert np.array_equal(matrix.matrix.toarray(), adata.X.toarray()[:, kept])
    table = cells.load_cells(store)
    assert table["obs_name"].to_pylist() == adata.obs_names.to_list()
    profiles = {p["profile_id"]: p for p in cells.load_profiles(store).to_pylist()}
    assert len(profiles) == 10
    assert sum(p["n_cells"] for p in profiles.values()) == 700
    labels = {m["label"]: m["term_label"] for m in cells.load_mappings(store).to_pylist()}
    for cell, label in zip(table.to_pylist(), adata.obs["bulk_labels"], strict=True):
        assert profiles[cell["profile_id"]]["cell_type"] == labels[label]


def test_held_out_types_are_never_trained_on(store, adata):
    for cell, label in zip(
        cells.load_cells(store).to_pylist(), adata.obs["bulk_labels"], strict=True
    ):
        if label in ("CD56+ NK", "CD8+/CD45RA+ Naive Cytotoxic"):
            assert cell["split"] == "test"
    assert set(cells.load_cells(store)["split"].to_pylist()) == {"train", "validation", "test"}


def test_split_by_donor_keeps_donors_together_whatever_the_order():
    config = CorpusConfig(seed=1)
    names = [f"c{i}" for i in range(60)]
    obs = {"donor": [f"d{i % 6}" for i in range(60)], "cell_type": ["T"] * 60}
    splits, rule = assign_splits(obs, names, "x", config)
    assert rule == "by donor (6 donors)"
    for donor in set(obs["donor"]):
        assert len({s for s, d in zip(splits, obs["donor"], strict=True) if d == donor}) == 1
    back = {key: value[::-1] for key, value in obs.items()}
    assert assign_splits(back, names[::-1], "x", config)[0] == splits[::-1]


def test_split_by_cell_says_so_and_reaches_every_type():
    obs = {"donor": [""] * 40, "cell_type": ["T"] * 30 + ["B"] * 10}
    splits, rule = assign_splits(obs, [f"c{i}" for i in range(40)], "x", CorpusConfig())
    assert "by cell" in rule
    for label in "TB":
        mine = [s for s, t in zip(splits, obs["cell_type"], strict=True) if t == label]
        assert {"train", "test"} <= set(mine)


def test_a_second_dataset_joins_and_the_first_stays(store, tmp_path, adata):
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    half = adata[:300].copy()
    half.obs["donor_id"] = [f"d{i % 5}" for i in range(300)]
    half.obs["cell_type"] = half.obs["bulk_labels"]
    half.var_names = [f"{name}" for name in half.var_names]
    half.write_h5ad(tmp_path / "half.h5ad")
    added = cells.add_cells(
        copy, tmp_path / "half.h5ad", CorpusConfig(), CellsConfig(dataset_id="half")
    )
    assert added["split_rule"] == "by donor (5 donors)"
    assert added["unresolved"]
    assert cells.load_cells(copy).num_rows == 1000
    again = cells.add_cells(
        copy, tmp_path / "half.h5ad", CorpusConfig(), CellsConfig(dataset_id="half")
    )
    assert again["reused"]


@pytest.mark.parametrize("kill_at", [1, 3, 6, 9, 12, 14])
def test_killed_add_cells_continues_to_the_same_bytes(okrcell, tmp_path, pbmc, store, kill_at):
    def add(name, **kwargs):
        return okrcell(
            "corpus", "add-cells", tmp_path / name, pbmc, "--map", "cell_type=bulk_labels", **kwargs
        )

    for name in ("calm", "killed"):
        build.init_store(tmp_path / name)
    assert add("calm").returncode == 0
    killed = add("killed", kill_at=kill_at)
    if killed.returncode == -9:
        with pytest.raises(ArtifactError):
            cells.cells_fingerprint(tmp_path / "killed")
    assert add("killed").returncode == 0
    contents = [
        {
            p.relative_to(tmp_path / name).as_posix(): p.read_bytes()
            for p in (tmp_path / name).rglob("*")
            if p.is_file() and p.name != ".lock"
        }
        for name in ("calm", "killed")
    ]
    assert contents[0] == contents[1]


def test_search_and_status_speak_json(okrcell, store, tmp_path):
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    found = json.loads(
        okrcell("corpus", "search", copy, "regulatory T cell FOXP3", "-k", "3", "--json").stdout
    )
    assert len(found) == 3
    assert {"snippet_id", "doc_id", "text", "score"} <= set(found[0])
    status = json.loads(okrcell("corpus", "status", copy, "--json").stdout)
    assert status["cells"]["facts"]["profiles"] == 10


def test_hold_outs_and_donors_hold_across_datasets(tmp_path, adata):
    store = tmp_path / "store"
    build.init_store(store)

    def add(name, donors, **keys):
        part = adata[:200].copy()
        part.obs["donor_id"] = [donors[i % len(donors)] for i in range(200)]
        part.obs_names = [f"{name}-{i}" for i in range(200)]
        part.write_h5ad(tmp_path / f"{name}.h5ad")
        how = CellsConfig(dataset_id=name, columns={"cell_type": "bulk_labels"})
        return cells.add_cells(store, tmp_path / f"{name}.h5ad", CorpusConfig(**keys), how)

    add("one", ["d1", "d2", "d3", "d4", "d5"], hold_out=("dendritic cell",))
    added = add("two", ["d1", "d2", "d5"])
    assert added["held_out"] == ["dendritic cell"]
    types = {p["profile_id"]: p["cell_type"] for p in cells.load_profiles(store).to_pylist()}
    splits: dict[str, set[str]] = {}
    for cell in cells.load_cells(store).to_pylist():
        if types[cell["profile_id"]] == "dendritic cell":
            assert cell["split"] == "test"
        else:
            splits.setdefault(cell["donor"], set()).add(cell["split"])
    assert all(len(found) == 1 for found in splits.values())
    with pytest.raises(ValueError, match="add up to 1"):
        CorpusConfig(split_fractions=(0.0, 5.0, -3.0))


def test_exact_ids_of_the_schema_come_before_labels(tmp_path, adata):
    part = adata[:60].copy()
    part.obs["cell_type_ontology_term_id"] = ["CL:0000084", "CL:0000236"] * 30
    part.obs["cell_type"] = "something vague"
    part.write_h5ad(tmp_path / "s.h5ad")
    build.init_store(tmp_path / "store")
    cells.add_cells(
        tmp_path / "store", tmp_path / "s.h5ad", CorpusConfig(), CellsConfig(dataset_id="s")
    )
    found = {p["cell_type"] for p in cells.load_profiles(tmp_path / "store").to_pylist()}
    assert found == {"T cell", "B cell"}
