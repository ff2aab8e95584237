"""Cells by a sentence, sentences by a cell, and when either is to be doubted."""

import json

import numpy as np
import pytest

from okrcell.enrich import job as enriching
from okrcell.enrich.config import EnrichConfig
from okrcell.errors import ConfigError, LabelError, MissingColumnError
from okrcell.evaluate.apply.find import describe, find
from okrcell.evaluate.apply.query import checked_text, doubts_of
from okrcell.evaluate.apply.ranking import named_types
from okrcell.train import loop
from okrcell.train.config import TrainConfig

KEYS = {
    "preset": "mlp",
    "objective": "infonce",
    "epochs": 12,
    "batch_size": 64,
    "lr": 1e-3,
    "hvgs": 400,
    "precision": "fp32",
}


@pytest.fixture(scope="module")
def job(tmp_path_factory, store):
    folder = tmp_path_factory.mktemp("jobs") / "job"
    keys = EnrichConfig(writer="extractive", words=80, expression=False)
    enriching.plan(store, folder, keys)
    enriching.run(folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, store, job):
    out = tmp_path_factory.mktemp("runs") / "run"
    loop.train(store, job, out, TrainConfig(**KEYS))
    return out


def test_named_cells_come_first_and_columns_are_only_shown(run, pbmc, tmp_path):
    found = find(run, pbmc, "B cells", 20, out=tmp_path / "b.tsv", show=["bulk_labels"])
    assert [cell["rank"] for cell in found["cells"]] == list(range(1, 21))
    scores = [cell["score"] for cell in found["cells"]]
    assert scores == sorted(scores, reverse=True)
    top = found["made_of"]["bulk_labels"][0]
    assert top["value"] == "CD19+ B"
    assert top["share"] >= 0.8 > top["share_of_file"]
    assert [t["label"] for t in found["named_types"]] == ["B cell"]
    assert (tmp_path / "b.tsv").read_text().startswith("cell_id\tokrcell_rank\t")
    genes = find(run, pbmc, "cells that express LYZ and S100A9", 20, show=["bulk_labels"])
    assert {"LYZ", "S100A9"} <= set(genes["markers"])
    assert genes["made_of"]["bulk_labels"][0]["value"] in {"CD14+ Monocyte", "Dendritic"}
    assert find(run, pbmc, "B cells", 5, markers=False)["markers"] == []
    assert len(find(run, pbmc, "B cells", 5000)["cells"]) == 700


def test_doubts(run, pbmc):
    def notes(text):
        return " ".join(find(run, pbmc, text, 10)["notes"])

    assert "far from all" in notes("the train to Paris leaves at noon")
    assert "German" in notes("zytotoxische Zellen mit Granzym aus der Haut")
    assert "another script" in notes("细胞毒性T细胞")
    assert "not trained on" in notes("hepatocytes")
    assert "language" not in notes("monocytes of the blood")
    flat = doubts_of("x", np.ones(2), np.ones((1, 2)), np.linspace(0, 1, 100), 50)
    assert not flat
    even = doubts_of("x", np.ones(2), np.ones((1, 2)), np.repeat([0.0, 1.0], 500), 50)
    assert "No cell stands out" in " ".join(even)


@pytest.mark.parametrize("text", ["", "  \n", "?!", "x" * 5001])
def test_texts_that_are_none(text):
    with pytest.raises(ConfigError, match="TEXT: found"):
        checked_text(text)


def test_types_that_a_sentence_names():
    def labels(text):
        from okrcell.corpus.ontology import names

        return {names(term)[0] for term in named_types(text)}

    assert labels("B cells") == {"B cell"}
    assert "natural killer cell" in labels("natural killer cells of the lung")
    assert labels("nothing of the kind") == set()


def test_a_cell_is_described_by_cited_texts(run, pbmc, adata, job):
    cell = adata.obs_names[int(np.flatnonzero(adata.obs["bulk_labels"] == "CD19+ B")[0])]
    found = describe(run, pbmc, cell, n=2)
    assert len(found["descriptions"]) == 2
    best, second = found["descriptions"]
    assert best["score"] >= second["score"]
    assert best["title"].startswith("B cell")
    passages = [passage for claim in best["claims"] for passage in claim["evidence"]]
    assert any(passage["doc_id"] == "CL:0000236" and passage["quote"] for passage in passages)
    assert describe(run, pbmc, cell, job=job, n=2)["descriptions"] == found["descriptions"]
    assert json.loads(json.dumps(found)) == found


def test_refusals(run, pbmc, tmp_path):
    with pytest.raises(LabelError, match="no cell 'nobody'"):
        describe(run, pbmc, "nobody")
    with pytest.raises(ConfigError, match="-k"):
        find(run, pbmc, "B cells", 0)
    with pytest.raises(MissingColumnError, match="no column 'absent'"):
        find(run, pbmc, "B cells", 5, show=["absent"])
    with pytest.raises(ConfigError, match="the input"):
        find(run, pbmc, "B cells", 5, out=pbmc)
