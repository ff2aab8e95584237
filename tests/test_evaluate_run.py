"""From a store, a job and a run to results and a report, with a model that is a table of vectors."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from okrcell.artifacts import commit, read_manifest, writing
from okrcell.corpus.shards import CellMatrix
from okrcell.errors import ConfigError, DataError, LabelError, LabelLeakError, ManifestError
from okrcell.evaluate import run as stage
from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.data import (
    EvalData,
    check_embedding,
    check_leakage,
    check_types,
    load_eval_data,
)
from okrcell.evaluate.methods import candidate_vectors, pca, pca_ridge, random, trained
from okrcell.evaluate.report import write_report
from okrcell.evaluate.summary import clear_best, format_value, headline, load_results, verdict
from okrcell.evaluate.zero_shot import majority_zero_shot, zero_shot
from okrcell.schemas import TABLES, read_table, write_table

TYPES = ("B cell", "T cell", "monocyte", "natural killer cell")
TERMS = ("CL:0000236", "CL:0000084", "CL:0000576", "CL:0000623")
UNSEEN = "natural killer cell"
HOSTILE = '<script>alert(1)</script> & "quotes"'
SMALL = EvaluateConfig(bootstrap=100, seeds=2, episodes=20, shots=(1, 5), resolutions=(0.3, 1.0))


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
    assert {row.value for row in perfect.rows} == {1.0}
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


def _write_run(run: Path, objective: str, cells: str = "c" * 64) -> None:
    with writing(run, "run"):
        (run / "weights").write_text(objective)
        config = {"objective": objective, "text_source": "description"}
        inputs = {"cells": cells}
        commit(
            run, "run", config=config, inputs=inputs, files={"weights": None}, facts={"steps": 24}
        )


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

    def run(out: str = "out", **keys: Any) -> dict[str, Any]:
        return stage.run(
            tmp_path / "model",
            tmp_path / "store",
            tmp_path / "job",
            tmp_path / out,
            SMALL.replace(**keys),
            twins={"infonce": tmp_path / "twin"},
            embedder=WordEmbedder(),
            open_model=open_model,
        )

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


def test_a_model_of_other_splits_is_refused(evaluate: Callable[..., Any], tmp_path: Path) -> None:
    evaluate(tasks=("retrieval",))
    _write_run(tmp_path / "twin", "infonce", cells="d" * 64)
    with pytest.raises(DataError, match="may have been trained on"):
        evaluate(tasks=("zero_shot",))
    assert (tmp_path / "out" / "manifest.json").exists()  # the finished evaluation is left alone


def test_loading_keeps_labelled_train_and_test_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: EvalData
) -> None:
    splits = data.splits.astype("U10")
    splits[data.test[:3]] = "validation"
    given = dataclasses.replace(data, splits=splits)
    _fake_corpus(monkeypatch, given)
    _write_job(tmp_path / "job", rejected=("p1",))
    loaded = load_eval_data(tmp_path, tmp_path / "job")
    assert len(loaded.labels) == 117
    assert loaded.seen == frozenset(TYPES[:3])
    assert loaded.descriptions["p1"] == "Plain T cell."
    assert any("1 of 4 profiles have no accepted description" in note for note in loaded.notes)
    assert any("3 of 4 descriptions contain a name" in note for note in loaded.notes)
    kept = splits != "validation"
    assert (loaded.matrix.matrix != data.matrix.matrix[kept]).nnz == 0


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


def test_twins_need_free_names_and_finished_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="taken"):
        stage.describe(tmp_path, tmp_path, tmp_path, SMALL, {"pca": tmp_path})
    with pytest.raises(ManifestError):
        read_manifest(tmp_path / "none", "run")


# --- words and the report --------------------------------------------------------------------


def _row(
    method: str, value: float, low: float, high: float, metric: str = "accuracy (seen)"
) -> dict[str, Any]:
    return {
        "task": "zero_shot",
        "method": method,
        "metric": metric,
        "value": value,
        "ci_low": low,
        "ci_high": high,
        "n": 50,
    }


def test_best_is_claimed_only_beyond_the_intervals() -> None:
    clear = headline([_row("okrcell", 0.8, 0.7, 0.9), _row("pca", 0.5, 0.4, 0.6)])
    close = headline([_row("okrcell", 0.8, 0.7, 0.9), _row("pca", 0.65, 0.6, 0.75)])
    assert (clear[0]["best"], close[0]["best"]) == ("okrcell", None)
    low = {"a": {"value": 3, "low": 2, "high": 4}, "b": {"value": 9, "low": 8, "high": 10}}
    assert clear_best("median_rank (x)", low) == "a"
    mixing = {
        "m": {"value": 0.5, "low": 0.4, "high": 0.6},
        "random": {"value": 0.9, "low": 0.9, "high": 0.9},
    }
    assert clear_best("accuracy (all)", mixing) == "random"
    assert clear_best("avg_batch", {**mixing, "p": {"value": 0.1, "low": 0.1, "high": 0.1}}) == "m"


def test_the_verdict_says_what_is_worse() -> None:
    rows = [
        _row("okrcell", 0.4, 0.3, 0.5),
        _row("pca+ridge", 0.8, 0.7, 0.9),
        _row("infonce", 0.1, 0.0, 0.2),
    ]
    known = {
        "n_test": 50,
        "dataset": "toy",
        "test_types": dict.fromkeys(TYPES, 1),
        "unseen": [UNSEEN],
    }
    said = " ".join(verdict(rows, known, ["infonce"]))
    assert "best method beyond the 95 % intervals in 0 of 1" in said
    assert "Behind in zero-shot annotation (Accuracy, seen types 0.40; pca+ridge 0.80)" in said
    assert "Against infonce: ahead in 1" in said
    assert "40 % (interval 30 % to 50 %)" in said


def test_values_print_with_their_interval() -> None:
    assert format_value({"value": 0.7123, "low": 0.65, "high": 0.78}) == "0.712 [0.65, 0.78]"
    assert format_value({"value": -0.0001, "low": None, "high": None}) == "0.000"
    assert format_value(None) == "–"


@pytest.fixture
def page(evaluate: Callable[..., dict[str, Any]], tmp_path: Path) -> Path:
    evaluate()
    context = {
        "title": "Toy evaluation",
        "subtitle": "Four types of simulated cells",
        "warnings": ["The batches are synthetic."],
        "commands": ["okrcell evaluate run model --data store"],
        "data_card": {"source": "simulated", HOSTILE: HOSTILE},
        "gene_coverage": {"resolved": "40 of 40"},
        "mapping_rows": [
            {
                "field": "cell_type",
                "label": HOSTILE,
                "term_id": "CL:0000236",
                "term_label": "B cell",
                "score": 1.0,
                "reason": "label",
                "n_cells": 30,
            },
            {"field": "tissue", "label": "nowhere", "term_id": None, "score": None, "reason": None},
        ],
    }
    write_report(tmp_path / "out", tmp_path / "web" / "report.html", context)
    return tmp_path / "web" / "report.html"


@pytest.mark.filterwarnings("ignore")
def test_the_report_is_complete_escaped_and_repeatable(page: Path, tmp_path: Path) -> None:
    html = page.read_text(encoding="utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert "<mark>kills target\ncells</mark>" in html
    for words in (
        "Toy evaluation",
        "synthetic",
        "pca+ridge",
        "duplicate ceiling",
        "unsupported",
        "CL:0000236",
    ):
        assert words in html
    for task in stage.EvaluateConfig().tasks:
        assert f'<section id="{task}">' in html
    assert "http" not in html.replace("http-equiv", "")
    write_report(tmp_path / "out", tmp_path / "again.html", {})
    write_report(tmp_path / "out", tmp_path / "twice.html", {})
    assert (tmp_path / "again.html").read_bytes() == (tmp_path / "twice.html").read_bytes()
    known = load_results(tmp_path / "out")
    assert {row["task"] for row in known} == set(stage.EvaluateConfig().tasks)
    timings = json.loads((tmp_path / "out" / "timings.json").read_text())
    assert "timings.json" not in read_manifest(tmp_path / "out", "evaluation").files
    assert timings["task batch"] > 0


@pytest.fixture
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    program = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if program is None:
        pytest.skip("no Chromium: install it with `apt-get install chromium`")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=flags)
        yield opened
        opened.close()


@pytest.mark.browser
@pytest.mark.filterwarnings("ignore")
def test_the_report_in_a_browser(page: Path, browser: Any) -> None:
    for width in (1280, 400):
        for scheme in ("light", "dark"):
            tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            said: list[str] = []
            asked: list[str] = []
            tab.on("console", lambda message, said=said: said.append(message.text))
            tab.on("pageerror", lambda error, said=said: said.append(str(error)))
            tab.on("request", lambda request, asked=asked: asked.append(request.url))
            tab.goto(page.as_uri())
            assert said == []
            assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            assert tab.locator("svg[role=img]").count() >= 15
            links = tab.locator("sup a").first
            links.click()
            assert tab.evaluate("document.querySelector(':target') !== null")
            tab.close()
