"""From a store, a job and a run to results and a report, with a model that is a table of vectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from okrcell.artifacts import commit, read_manifest, writing
from okrcell.corpus.contents import content_hashes
from okrcell.corpus.shards import CellMatrix
from okrcell.errors import ConfigError, DataError, LabelError, LabelLeakError, ManifestError
from okrcell.evaluate import run as stage
from okrcell.evaluate.annotation import annotation
from okrcell.evaluate.baselines import pca, pca_ridge, random, trained
from okrcell.evaluate.candidates import candidate_vectors
from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.data import EvalData
from okrcell.evaluate.folder import UNITS
from okrcell.evaluate.guards import (
    check_alignment,
    check_embedding,
    check_leakage,
    check_types,
    check_unseen,
)
from okrcell.evaluate.specs import BASELINES, parse_methods
from okrcell.evaluate.stores import load_store
from okrcell.evaluate.suite import suite_of
from okrcell.evaluate.zero_shot import majority_zero_shot, zero_shot
from okrcell.schemas import TABLES, read_table, write_table
from okrcell.train.data import SEEN

TYPES = ("B cell", "T cell", "monocyte", "natural killer cell")
TERMS = ("CL:0000236", "CL:0000084", "CL:0000576", "CL:0000623")
UNSEEN = "natural killer cell"
HOSTILE = '<script>alert(1)</script> & "quotes"'
SMALL = EvaluateConfig(
    bootstrap=100,
    seeds=2,
    episodes=20,
    shots=(1, 5),
    resolutions=(0.3, 1.0),
    dropout=(0.5,),
    thinning=(0.5,),
    open_candidates=("tissue",),
    allow_named_types=True,
)


class WordEmbedder:
    """A text is the hash of its characters: equal texts, equal unit rows."""

    id, dim, max_tokens = "fake:00000000:float32", 16, 256

    def encode(self, texts: Any) -> np.ndarray:
        rows = [np.random.default_rng(list(text.encode())).normal(size=16) for text in texts]
        stacked = np.asarray(rows, dtype=np.float32)
        return stacked / np.linalg.norm(stacked, axis=1, keepdims=True)


@dataclass
class TableModel:
    """Knows every cell's text; ``skill`` is how much of it shows in the cell vectors."""

    targets: np.ndarray
    skill: float
    config: Any

    def encode_cells(self, cells: CellMatrix) -> np.ndarray:
        noise = np.random.default_rng(0).normal(size=self.targets.shape)
        rows = self.skill * self.targets + (1 - self.skill) * noise / 4
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def encode_text(self, texts: list[str]) -> np.ndarray:
        return WordEmbedder().encode(texts)


def _text(name: str) -> str:
    return f"A description of the {name}."


def make_data(n: int = 120, seed: int = 0) -> EvalData:
    """Four types, the last of them unseen; genes 0-9 mark type 0, and so on."""
    rng = np.random.default_rng(seed)
    code = np.arange(n) % 4
    rates = np.full((n, 40), 0.5)
    for row, which in enumerate(code):
        rates[row, 10 * which : 10 * which + 10] = 5.0
    splits = np.where(rng.random(n) < 0.5, "train", "test")
    splits[code == 3] = "test"
    splits[:8] = ["train", "train", "train", "test"] * 2
    return EvalData(
        dataset="toy",
        matrix=CellMatrix(
            sparse.csr_matrix(rng.poisson(rates).astype(np.float32)),
            tuple(f"ENSG{i:011d}" for i in range(40)),
            "counts",
        ),
        cell_uids=np.asarray([f"toy:{i}" for i in range(n)]),
        labels=np.asarray(TYPES)[code],
        batches=np.asarray(["x", "y"])[(np.arange(n) // 4) % 2],
        donors=np.full(n, ""),
        splits=splits,
        profile_ids=np.asarray([f"p{i}" for i in range(4)])[code],
        term_ids=dict(zip(TYPES, TERMS, strict=True)),
        descriptions={f"p{i}": _text(name) for i, name in enumerate(TYPES)},
        sha256="0" * 64,
    )


@pytest.fixture
def data() -> EvalData:
    return make_data()


def model_for(data: EvalData, skill: float = 1.0, source: str = "description") -> TableModel:
    texts = [
        str(label) if source == "label" else data.descriptions[str(profile)]
        for label, profile in zip(data.labels, data.profile_ids, strict=True)
    ]
    config = SimpleNamespace(objective="cra_paper", text_source=source)
    return TableModel(WordEmbedder().encode(texts), skill, config)


# --- guards ----------------------------------------------------------------------------------


def test_a_test_cell_with_the_expression_of_a_train_cell_is_refused(data: EvalData) -> None:
    check_leakage(data, "store")
    rows = data.matrix.matrix.tolil()
    rows[data.test[0]] = rows[data.train[0]]
    copied = CellMatrix(rows.tocsr(), data.matrix.gene_ids, "counts")
    with pytest.raises(DataError, match=f"toy:{data.test[0]} = train toy:{data.train[0]}"):
        check_leakage(dataclasses.replace(data, matrix=copied), "store")


def test_nearly_empty_cells_may_agree_by_chance(data: EvalData) -> None:
    rows = data.matrix.matrix.tolil()
    for row in (data.test[0], data.train[0]):
        rows[row] = 0
        rows[row, 3] = 1
    check_leakage(
        dataclasses.replace(data, matrix=CellMatrix(rows.tocsr(), data.matrix.gene_ids, "counts")),
        "s",
    )


def test_a_cell_in_two_splits_is_refused(data: EvalData) -> None:
    uids = data.cell_uids.copy()
    uids[data.test[0]] = uids[data.train[0]]
    with pytest.raises(DataError, match="twice"):
        check_leakage(dataclasses.replace(data, cell_uids=uids), "store")


def test_one_type_is_refused(data: EvalData) -> None:
    with pytest.raises(LabelError, match="at least two"):
        check_types(dataclasses.replace(data, labels=np.full(120, "B cell")), "store")
    with pytest.raises(LabelError, match="no labelled cells in the train split"):
        check_types(dataclasses.replace(data, splits=np.full(120, "test")), "store")


def test_broken_embeddings_name_their_cells(data: EvalData) -> None:
    cells = np.random.default_rng(0).normal(size=(120, 4))
    check_embedding(cells, data.cell_uids, "m")
    cells[7, 2] = np.nan
    with pytest.raises(DataError, match="toy:7"):
        check_embedding(cells, data.cell_uids, "m")
    with pytest.raises(DataError, match="the same vector for all 120 cells"):
        check_embedding(np.ones((120, 4)), data.cell_uids, "m")


# --- methods and zero-shot -------------------------------------------------------------------


def test_candidates_are_the_mean_of_a_types_descriptions(data: EvalData) -> None:
    profiles = data.profile_ids.astype("U5")
    profiles[0] = "extra"
    texts = {**data.descriptions, "extra": "Another text."}
    two = dataclasses.replace(data, profile_ids=profiles, descriptions=texts)
    method = trained("okrcell", model_for(two), two, texts="description", about="")
    vectors = candidate_vectors(method, two)
    mean = WordEmbedder().encode([_text("B cell"), "Another text."]).mean(axis=0)
    np.testing.assert_allclose(vectors[0], mean / np.linalg.norm(mean), atol=1e-6)
    label = trained("l", model_for(two, source="label"), two, texts="label", about="")
    np.testing.assert_allclose(
        candidate_vectors(label, two), WordEmbedder().encode(TYPES), atol=1e-6
    )


def test_pca_is_fitted_on_train_cells_alone(data: EvalData) -> None:
    before = pca(data, 0).cells[data.train]
    rows = data.matrix.matrix.copy().tolil()
    rows[data.test] = rows[data.test] * 3
    other = CellMatrix(rows.tocsr(), data.matrix.gene_ids, "counts")
    after = pca(dataclasses.replace(data, matrix=other), 0).cells[data.train]
    np.testing.assert_allclose(before, after, atol=1e-4)


def test_zero_shot_of_a_perfect_model_and_of_chance(data: EvalData) -> None:
    perfect = zero_shot(
        trained("okrcell", model_for(data), data, texts="description", about=""), data, SMALL
    )
    plain = [row for row in perfect.rows if row.metric.startswith(("accuracy (", "macro_f1 ("))]
    assert {row.value for row in plain if "," not in row.metric} == {1.0}
    assert {row.metric for row in perfect.rows} >= {
        f"accuracy ({s})" for s in ("all", "seen", "unseen")
    }
    n = {row.metric: row.n for row in perfect.rows}
    assert n["accuracy (all)"] == n["accuracy (seen)"] + n["accuracy (unseen)"] == len(data.test)
    chance = {row.metric: row for row in zero_shot(random(data, 0), data, SMALL).rows}
    assert chance["accuracy (all)"].value == pytest.approx(1 / 4, abs=0.15)


def test_majority_never_names_an_unseen_type(data: EvalData) -> None:
    rows = {row.metric: row for row in majority_zero_shot(data, SMALL).rows}
    assert rows["accuracy (unseen)"].value == 0.0
    assert rows["accuracy (unseen)"].ci_high > 0.05
    assert not any("unseen_only" in metric for metric in rows)


def test_ridge_reads_seen_types_off_pca(data: EvalData) -> None:
    method = pca_ridge(data, pca(data, 0), WordEmbedder(), "label")
    rows = {row.metric: row.value for row in zero_shot(method, data, SMALL).rows}
    assert rows["accuracy (seen)"] > 0.8
    assert rows["accuracy (unseen)"] < 0.5


# --- the whole stage -------------------------------------------------------------------------


def _fake_corpus(monkeypatch: pytest.MonkeyPatch, data: EvalData) -> None:
    import pyarrow as pa

    from okrcell.corpus import cells, shards

    fields = TABLES["profiles"].schema.names
    profiles = [
        dict.fromkeys(fields, "unknown")
        | {
            "profile_id": f"p{i}",
            "cell_type": name,
            "cell_type_ontology_term_id": term,
            "n_cells": 30,
        }
        for i, (name, term) in enumerate(zip(TYPES, TERMS, strict=True))
    ]
    rows = [
        {
            "cell_uid": str(data.cell_uids[i]),
            "dataset_id": "toy",
            "row": i,
            "obs_name": str(i),
            "profile_id": str(data.profile_ids[i]),
            "donor": "",
            "batch": str(data.batches[i]),
            "split": str(data.splits[i]),
        }
        for i in range(len(data.labels))
    ]
    tables = {
        "profiles": pa.Table.from_pylist(profiles, schema=TABLES["profiles"].schema),
        "cells": pa.Table.from_pylist(rows, schema=TABLES["cells"].schema),
    }
    monkeypatch.setattr(cells, "load_profiles", lambda store: tables["profiles"])
    monkeypatch.setattr(cells, "load_cells", lambda store: tables["cells"])
    monkeypatch.setattr(cells, "cells_fingerprint", lambda store: "c" * 64)
    monkeypatch.setattr(shards, "load_matrix", lambda store, name: data.matrix)


def _write_job(
    job: Path, *, rejected: tuple[str, ...] = (), told_cells: tuple[str, ...] = ()
) -> None:
    rows = []
    for i, name in enumerate(TYPES):
        claims = [
            {
                "sentence": f"{_text(name)} {HOSTILE}",
                "facet": "identity",
                "citations": [
                    {
                        "snippet_id": f"s{i}",
                        "quote": "kills   TARGET cells",
                        "start": len(HOSTILE) + 13,
                        "end": len(HOSTILE) + 31,
                    }
                ],
                "verdict": "unsupported" if name == UNSEEN else "supported",
                "score": 0.9,
                "state": "dropped" if name == UNSEEN else "kept",
                "origin": "draft",
                "checks": [],
            }
        ]
        rows.append(
            {
                "profile_id": f"p{i}",
                "status": "rejected" if f"p{i}" in rejected else "accepted",
                "text": _text(name),
                "original_text": f"Plain {name}.",
                "claims": claims,
                "screen_cosine": 0.8,
                "reliability": 0.9,
                "coverage": 1.0,
                "leaked_names": [name],
                "leak": None,
                "writer": "fake",
                "prompt_version": "1",
                "tokens_in": 0,
                "tokens_out": 0,
                "cost_usd": 0.0,
                "reason": "",
            }
        )
    import pyarrow as pa

    text = f"{HOSTILE} A cell that kills target\ncells on sight. Synonyms: none."
    passage = {"doc_id": "CL:0000623", "source": "cl", "section": "", "text": text}
    marks = {"is_retracted": False, "is_masked": False}
    contents = {
        "descriptions": rows,
        "evidence": [
            {"evidence_id": f"e{i}", "snippet_id": f"s{i}", **passage, **marks}
            for i in range(len(TYPES))
        ],
        "requests": [
            {
                "profile_id": f"p{i}",
                "request": f"r{i}",
                "original_text": "",
                "n_cells": 1,
                "groups": [{"group": "identity", "evidence_ids": [f"e{i}"]}],
            }
            for i in range(len(TYPES))
        ],
        "expression_cells": [{"cell_uid": uid} for uid in told_cells],
    }
    with writing(job, "job"):
        files = {
            f"{name}.parquet": write_table(
                job / f"{name}.parquet",
                name,
                pa.Table.from_pylist(content, schema=TABLES[name].schema),
            )
            for name, content in contents.items()
        }
        commit(job, "job", config={}, inputs={}, files=files)


def _write_run(
    run: Path, objective: str, cells: str = "c" * 64, seen: list[dict[str, str]] | None = None
) -> None:
    import pyarrow as pa

    with writing(run, "run"):
        (run / "weights").write_text(objective)
        files: dict[str, int | None] = {"weights": None}
        if seen is not None:
            table = pa.Table.from_pylist(seen, schema=TABLES["seen_cells"].schema)
            files[SEEN] = write_table(run / SEEN, "seen_cells", table)
        config = {"objective": objective, "text_source": "description"}
        inputs = {"cells": cells}
        commit(run, "run", config=config, inputs=inputs, files=files, facts={"steps": 24})


@pytest.fixture
def evaluate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: EvalData
) -> Callable[..., dict[str, Any]]:
    """Run the stage on toy inputs in ``tmp_path``; keywords go to the configuration."""
    _fake_corpus(monkeypatch, data)
    _write_job(tmp_path / "job")
    _write_run(tmp_path / "model", "cra_paper")
    _write_run(tmp_path / "twin", "infonce")

    def open_model(path: Path) -> TableModel:
        return model_for(data, 0.9 if path.name == "model" else 0.3)

    def run(
        out: str = "out", asked: tuple[str, ...] = ("model", "infonce=twin"), **keys: Any
    ) -> dict[str, Any]:
        config = SMALL.replace(**keys)
        (tmp_path / "store").mkdir(exist_ok=True)
        specs, _ = suite_of([tmp_path / "store"], descriptions=tmp_path / "job")
        monkeypatch.chdir(tmp_path)
        methods = parse_methods(
            asked, config, extra=BASELINES, embedder=WordEmbedder(), open_model=open_model
        )
        return stage.run(methods, specs, tmp_path / out, config, n_asked=len(asked))

    return run


def test_descriptions_that_saw_test_cells_are_refused(
    evaluate: Callable[..., Any], data: EvalData, tmp_path: Path
) -> None:
    trained = str(data.cell_uids[data.train[0]])
    _write_job(tmp_path / "job", told_cells=(trained,))
    notes = evaluate(tasks=("retrieval",))["notes"]
    assert any("training cells express" in note for note in notes)
    tested = str(data.cell_uids[data.test[0]])
    _write_job(tmp_path / "job", told_cells=(trained, tested))
    with pytest.raises(LabelLeakError, match=f"1 test cells \\({tested}\\)"):
        evaluate(tasks=("retrieval",), out="other")
    assert not (tmp_path / "other").exists()


def test_a_model_of_other_splits_is_refused(
    evaluate: Callable[..., Any], data: EvalData, tmp_path: Path
) -> None:
    evaluate(tasks=("retrieval",))
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    _write_run(tmp_path / "twin", "infonce", cells="d" * 64)
    with pytest.raises(LabelLeakError, match="does not say which cells"):
        evaluate(tasks=("zero_shot",))
    seen = content_hashes(data.matrix)
    rows = [
        {"cell_uid": f"elsewhere:{i}", "content": seen[int(i)], "pattern": ""}
        for i in (*data.train, data.test[0])
    ]
    _write_run(tmp_path / "twin", "infonce", cells="d" * 64, seen=rows)
    with pytest.raises(LabelLeakError, match=f"1 of .*trained on \\(toy:{data.test[0]}\\)"):
        evaluate(tasks=("zero_shot",))
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before
    _write_run(tmp_path / "twin", "infonce", cells="d" * 64, seen=rows[:-1])
    assert evaluate(tasks=("zero_shot",))["reused"] is False


def test_cells_that_were_trained_on_are_known_in_any_file(data: EvalData, tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(len(data.matrix.gene_ids))
    moved = CellMatrix(
        data.matrix.matrix[:, order].tocsr(),
        tuple(data.matrix.gene_ids[i] for i in order),
        "counts",
    )
    assert content_hashes(moved) == content_hashes(data.matrix)
    content = content_hashes(moved)[int(data.test[3])]
    rows = [{"cell_uid": "x", "content": content, "pattern": ""}]
    _write_run(tmp_path, "infonce", seen=rows)
    with pytest.raises(LabelLeakError, match=f"toy:{data.test[3]}"):
        check_unseen(data, tmp_path, data.matrix.gene_ids)
    fewer = data.matrix.gene_ids[:20]  # other genes: another content
    check_unseen(data, tmp_path, fewer)


def test_a_normalised_copy_of_a_cell_is_known_by_the_genes_that_it_detects(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(rng.poisson(1.0, size=(30, 200)).astype(np.float32))
    genes = tuple(f"ENSG{i:011d}" for i in range(200))
    logs = counts.copy()
    logs.data = np.log1p(logs.data * 3.7)
    a, b = CellMatrix(counts, genes, "counts"), CellMatrix(logs, genes, "lognorm")
    assert not set(content_hashes(a)) & set(content_hashes(b))
    pattern = content_hashes(a, only_pattern=True)
    assert pattern == content_hashes(b, only_pattern=True)
    assert len(set(pattern)) == 30
    data = dataclasses.replace(make_data(30), matrix=b)
    rows = [{"cell_uid": "x", "content": "", "pattern": pattern[int(data.test[0])]}]
    _write_run(tmp_path, "infonce", seen=rows)
    with pytest.raises(LabelLeakError, match=f"toy:{data.test[0]}"):
        check_unseen(data, tmp_path, genes)


def test_names_in_descriptions_of_test_cells_are_refused_unless_allowed(
    evaluate: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(LabelLeakError, match="4 of 4 descriptions .*name their cell type"):
        evaluate(tasks=("retrieval",), allow_named_types=False)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_model_that_knows_nothing_is_refused() -> None:
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(8, 16)).astype(np.float32)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    codes = np.arange(200) % 8
    noise = rng.normal(size=(200, 400)).astype(np.float32)
    wide = np.pad(texts, ((0, 0), (0, 384)))
    noise[:, :16] = 0  # at right angles to every text
    with pytest.raises(DataError, match=r"ln\(8\) = 2.079"):
        check_alignment(noise / np.linalg.norm(noise, axis=1, keepdims=True), wide, codes, "m")
    check_alignment(texts[codes], texts, codes, "m")


def test_nothing_is_chosen_on_test_cells(data: EvalData) -> None:
    """Other labels of the test cells change scores, but no penalty, head, temperature or threshold."""
    splits = data.splits.astype("U10")
    splits[np.flatnonzero(splits == "train")[::2]] = "validation"
    given = dataclasses.replace(data, splits=splits)
    labels = given.labels.copy()
    labels[given.test] = np.roll(labels[given.test], 1)
    profiles = given.profile_ids.copy()  # the texts of the types stay what they are
    profiles[given.test] = np.roll(profiles[given.test], 1)
    other = dataclasses.replace(given, labels=labels, profile_ids=profiles)
    method = trained("m", model_for(data, 0.7), data, texts="description", about="")
    chosen, tuned = [], []
    for some in (given, other):
        found = annotation(method, some, SMALL).details
        chosen.append((found["c"], found["chosen"]))
        details = zero_shot(method, some, SMALL).details
        tuned.append((details["calibration"]["temperature"], details["unknown"]["threshold"]))
    assert chosen[0] == chosen[1]
    assert tuned[0] == tuned[1]


def test_loading_keeps_labelled_cells_of_all_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: EvalData
) -> None:
    splits = data.splits.astype("U10")
    splits[data.test[:3]] = "validation"
    given = dataclasses.replace(data, splits=splits)
    _fake_corpus(monkeypatch, given)
    _write_job(tmp_path / "job", rejected=("p1",))
    loaded = load_store(tmp_path, tmp_path / "job", allow_named_types=True)
    assert len(loaded.labels) == 120
    assert loaded.validation.tolist() == data.test[:3].tolist()
    assert loaded.seen == frozenset(TYPES[:3])
    assert loaded.descriptions["p1"] == "Plain T cell."
    assert any("1 of 4 profiles have no accepted description" in note for note in loaded.notes)
    assert any("3 of 4 descriptions contain a name" in note for note in loaded.notes)
    assert (loaded.matrix.matrix != data.matrix.matrix).nnz == 0


def test_results_are_complete_repeatable_and_reused(
    evaluate: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    light = ("annotation", "few_shot", "zero_shot", "retrieval")
    first = evaluate("one", tasks=light)
    evaluate("two", tasks=light)
    for name in ("results.parquet", "details.json", "manifest.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), (
            name
        )
    again = evaluate("one", tasks=light)
    assert (first["reused"], again["reused"]) == (False, True)
    assert evaluate("one", tasks=("zero_shot",))["reused"] is False
    rows = read_table(tmp_path / "two" / "results.parquet", "results").to_pylist()
    assert {row["task"] for row in rows} == set(light)
    measured = [row for row in rows if row["method"] not in {"duplicate ceiling", "chance"}]
    assert all(row["ci_low"] <= row["value"] <= row["ci_high"] for row in measured)
    assert all(row["n"] > 0 and row["seed"] for row in measured)
    of_model = {row["checkpoint_sha256"] for row in rows if row["method"] == "okrcell"}
    assert of_model == {read_manifest(tmp_path / "model", "run").fingerprint}
    shared = {
        (row["task"], row["metric"]): row["value"] for row in rows if row["method"] == "okrcell"
    }
    ceiling = {
        (row["task"], row["metric"]): row["value"]
        for row in rows
        if row["method"] == "duplicate ceiling"
    }
    for key, best in ceiling.items():
        assert shared[key] <= best + 1e-9


def test_a_further_method_computes_that_method_alone(
    evaluate: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    evaluate(asked=("model",), tasks=("few_shot",))
    units = tmp_path / "out" / UNITS
    before = {path.name: path.stat().st_mtime_ns for path in units.iterdir()}
    evaluate(asked=("model", "infonce=twin"), tasks=("few_shot",))
    after = {path.name: path.stat().st_mtime_ns for path in units.iterdir()}
    assert {name: after[name] for name in before} == before
    assert len(after) - len(before) == 2  # the task and the view of the twin
    (tmp_path / "out" / "manifest.json").unlink()  # as if it had been killed
    (units / next(name for name in before if name.startswith("few_shot"))).write_text("{")
    evaluate(asked=("model",), tasks=("few_shot",), out="other")
    evaluate(asked=("infonce=twin", "model"), tasks=("few_shot",))  # a damaged piece is made anew
    first, other = (
        {
            (r["method"], r["metric"]): r["value"]
            for r in read_table(tmp_path / name / "results.parquet", "results").to_pylist()
            if r["method"] == "okrcell" or r["method"] == "model"
        }
        for name in ("out", "other")
    )
    assert sorted(first.values()) == sorted(other.values())


def test_names_must_be_free_and_specifications_mean_something(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="taken"):
        parse_methods(["pca", "pca=random"], SMALL)
    with pytest.raises(ConfigError, match="taken"):
        parse_methods(["majority=random"], SMALL)
    with pytest.raises(ConfigError, match="no such folder"):
        parse_methods(["no-such-thing"], SMALL)
    with pytest.raises(ManifestError):
        parse_methods([str(tmp_path)], SMALL)
    with pytest.raises(ManifestError):
        read_manifest(tmp_path / "none", "run")
