"""Author labels to terms: readings, contexts, statuses, tables in and out, markers of a matrix."""

import gzip
import json
import math
import os
import subprocess
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from okrcell.corpus import label_table
from okrcell.corpus.label_fields import spelled_out
from okrcell.corpus.label_matcher import CellTypeMatcher
from okrcell.corpus.label_overrides import read_overrides
from okrcell.corpus.label_rank import calibrate, load_ranker
from okrcell.corpus.label_readings import read_label
from okrcell.corpus.label_table import LabelRow, read_labels, resolve_rows, write_overrides
from okrcell.corpus.label_text import plain_tokens, read_columns, words_of
from okrcell.corpus.normalise import Context, normalise
from okrcell.corpus.ontology import Content, Ontology, Term, bundled
from okrcell.errors import (
    ConfigError,
    DataError,
    FileFormatError,
    InternalError,
    LabelError,
    MissingColumnError,
)

ACCEPT = 0.5


def resolve(label, field="cell_type", tissue="", markers=(), accept=ACCEPT, **more):
    contexts = {label: Context(tissue, tuple(markers))}
    return normalise([label], field, accept_score=accept, contexts=contexts, **more)[label]


def best(label, **more):
    return resolve(label, **more).alternatives[0][0]


# --- words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("CD8+ T-cells", "CD8-positive T cell"),
        ("CD8_T", "T CD8+"),
        ("CD4- T", "CD4-negative T cell"),
        ("CD56dim NK", "CD56-dim NK"),
        ("CD16neg", "CD16-negative"),
        ("haematopoietic progenitors", "hemopoietic precursor"),
        ("foetal oesophageal tumour", "fetal esophagus tumor"),
        ("Müller glia", "Muller glial cells"),
        ("γδ T", "gamma-delta T"),
        ("ChoroidPlexus", "choroid plexus"),
        ("Deiters' cells", "Deiter's cell"),
        ("type II fibres", "type 2 fiber"),
    ],
)
def test_two_spellings_give_the_same_words(one, other):
    assert set(words_of(one)) == set(words_of(other))


def test_a_sign_is_not_lost():
    assert words_of("CD16- NK") != words_of("CD16+ NK")
    assert words_of("CD56bright") != words_of("CD56dim")
    assert words_of("CD16hi") == words_of("CD16+")


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.text(max_size=60))
def test_words_hold_for_any_text(text):
    tokens = plain_tokens(text)
    assert all(token == token.lower() and " " not in token for token in tokens)
    assert words_of(text) == words_of(f"  {text} ")
    readings, genes = read_label(text, frozenset(), frozenset({"t", "b"}))
    assert all(reading.words and 0 < reading.weight <= 1 for reading in readings)
    assert genes == tuple(dict.fromkeys(genes))


def test_the_tables_of_words_are_sound():
    rows = read_columns("label_abbreviations.tsv")
    assert all(len(row) == 3 and row[0] and row[1] for row in rows)
    organs = {organ for organ, _ in read_columns("label_organs.tsv")}
    assert {o for row in rows for o in row[2].split()} <= organs
    spellings = [s for _, listed in read_columns("label_words.tsv") for s in listed.split()]
    assert len(spellings) == len(set(spellings))
    cl = bundled("cl")
    for term_id, label, genes in read_columns("label_markers.tsv"):
        term = cl.get(term_id)
        assert term is not None
        assert (term.term_id, term.label) == (term_id, label)
        assert genes.split()


# --- cell types --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "tissue", "term_id"),
    [
        ("AT1", "", "CL:0002062"),
        ("AT1 Cell(Lung)", "", "CL:0002062"),
        ("cDC2", "", "CL:0002399"),
        ("pDCs", "", "CL:0000784"),
        ("Tregs", "", "CL:0000815"),
        ("MAIT", "", "CL:0000940"),
        ("gdT", "", "CL:0000798"),
        ("OPC", "", "CL:0002453"),
        ("LEC", "", "CL:0002138"),
        ("GC B cell", "", "CL:0000844"),
        ("B cell (Plasmocyte)_IGHG1 high", "", "CL:0000786"),
        ("Macrophage_SPP1 high", "", "CL:0000235"),
        ("Erythrocytes", "", "CL:0000232"),
        ("Exc L2-3 LINC00507 DSG3", "brain", "CL:0000679"),
        ("HSC", "liver", "CL:0000632"),
        ("HSC", "bone marrow", "CL:0000037"),
        ("AC", "retina", "CL:0000561"),
        ("alpha", "pancreas", "CL:0000171"),
        ("fibroblsat", "", "CL:0000057"),
        ("natural killer cell", "", "CL:0000623"),
    ],
)
def test_labels_as_authors_write_them(label, tissue, term_id):
    assert best(label, tissue=tissue) == term_id


def test_a_result_is_complete():
    found = resolve("NK cells")
    assert (found.term_id, found.term_label) == ("CL:0000623", "natural killer cell")
    assert len(found.alternatives) == 10
    assert found.alternatives[0] == (found.term_id, found.score)
    scores = [score for _, score in found.alternatives]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) <= 1 + 1e-6
    assert found.status == "certain"
    assert "natural killer cell" in found.reason


def test_markers_speak_where_the_label_does_not():
    label = "cluster 7"
    assert resolve(label).status == "unresolved"
    markers = ("NPHS1", "NPHS2", "PODXL", "WT1", "PTPRO")
    podocyte = "CL:0000653"
    found = resolve(label, markers=markers)
    assert podocyte in {term_id for term_id, _ in found.alternatives[:5]}
    assert podocyte not in {term_id for term_id, _ in resolve(label).alternatives}


def test_statuses():
    assert resolve("T cell").status == "certain"
    assert resolve("T cell").score >= 0.95
    sure = resolve("CD14+ Monocyte")
    assert sure.status == "likely"
    strict = resolve("CD14+ Monocyte", accept=0.89)
    assert (strict.status, strict.term_id, strict.score) == ("unresolved", "", sure.score)
    assert strict.nearest == sure.term_label
    assert resolve("unknown").status == "unknown"
    for label in ("doublets", "Low quality", "B/T doublet", "unassigned_3", "17", "others"):
        assert resolve(label).status == "unresolved", label
    assert resolve("qqq zzz").status == "unresolved"
    assert resolve("nucleus", "suspension_type").status == "text"


def test_ids_and_obsolete_ids():
    assert resolve("CL:0000084").reason == "term id"
    assert resolve("cl_0000084").term_label == "T cell"
    old = resolve("CL:0011107")
    assert old.term_id == "CL:0000636"
    assert "obsolete" in old.reason
    assert resolve("CL:9999999").status == "unresolved"
    by_hand = resolve("x", overrides={"x": "CL:0011107"})
    assert (by_hand.term_id, by_hand.status) == ("CL:0000636", "override")
    assert "obsolete" in by_hand.reason
    with pytest.raises(LabelError, match="CL:9999999"):
        resolve("x", overrides={"x": "CL:9999999"})


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.text(max_size=40), st.text(max_size=15), st.lists(st.text(max_size=8), max_size=3))
def test_any_label_gets_an_answer(label, tissue, markers):
    found = resolve(label, tissue=tissue, markers=markers)
    assert found.status in {"certain", "likely", "unresolved", "unknown"}
    assert 0 <= found.score <= 1
    assert len({term_id for term_id, _ in found.alternatives}) == len(found.alternatives)
    assert bool(found.term_id) == (found.status in {"certain", "likely"})


def test_the_same_in_another_process_with_another_hash_seed():
    labels = ["4.CD4TRMact", "EC venous systemic", "hcDC2", "Prolif. fibro 3"]
    program = (
        "import json, sys;from okrcell.corpus.normalise import normalise;"
        "labels = json.loads(sys.argv[1]);"
        "found = normalise(labels, 'cell_type', accept_score=0.5);"
        "print(json.dumps([found[x].alternatives for x in labels]))"
    )
    output = subprocess.run(
        [sys.executable, "-c", program, json.dumps(labels)],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    here = normalise(labels, "cell_type", accept_score=ACCEPT)
    assert json.loads(output) == json.loads(json.dumps([here[x].alternatives for x in labels]))


def small_ontology(*terms):
    live = {term.term_id: term for term in terms}
    content = Content(live, {}, lambda _: {})
    return Ontology("cl", "test", ("CL",), lambda: str(sorted(live)), lambda: content)


def test_an_ontology_of_ones_own():
    own = small_ontology(
        Term("CL:7000001", "frobnicator cell", "A cell.", ("FBC",), (), "cl", "test"),
        Term("CL:7000002", "gizmo cell", "", (), ("CL:7000001",), "cl", "test"),
    )
    assert resolve("Frobnicator cells", ontologies=[own]).alternatives[0][0] == "CL:7000001"
    assert resolve("FBC", ontologies=[own]).alternatives[0][0] == "CL:7000001"
    nothing = CellTypeMatcher((small_ontology(),)).find("T cell")
    assert nothing.ranked == ()


def test_calibration_keeps_the_order():
    ranker = load_ranker()
    assert np.all(np.diff(ranker.knots[1]) >= 0)
    for first in (0.05, 0.4, 0.9, 1.0):
        raw = np.array([first, *np.full(4, (1 - first) / 4)])
        raw[::-1].sort()
        scores = calibrate(ranker, raw)
        assert np.all(np.diff(scores) <= 1e-9)
        assert scores.sum() <= 1 + 1e-3


def test_weights_of_other_features_are_refused():
    from okrcell.corpus.label_rank import from_json

    with pytest.raises(InternalError, match="fit_labels"):
        from_json({"features": ["a"], "trees": [], "depth": 1, "knots": [[0, 1], [0, 1]]})


# --- the other fields --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "label", "term_id", "status"),
    [
        ("tissue", "blood", "UBERON:0000178", "certain"),
        ("tissue", "renal cortex", "UBERON:0001225", "certain"),
        ("disease", "normal", "PATO:0000461", "certain"),
        ("disease", "Healthy control", "PATO:0000461", "certain"),
        ("sex", "male", "PATO:0000384", "certain"),
        ("sex", "F", "PATO:0000383", "certain"),
        ("assay", "10x 3' v3", "EFO:0009922", "certain"),
        ("assay", "10X v2", "EFO:0009899", "certain"),
        ("development_stage", "42-year-old stage", "HsapDv:0000136", "certain"),
        ("development_stage", "42 y", "HsapDv:0000136", "certain"),
        ("development_stage", "42", "HsapDv:0000136", "certain"),
        ("development_stage", "adult", "HsapDv:0000258", "certain"),
        ("self_reported_ethnicity", "European", "HANCESTRO:0005", "certain"),
    ],
)
def test_other_fields(field, label, term_id, status):
    found = resolve(label, field)
    assert (found.term_id, found.status) == (term_id, status)


def test_a_field_holds_only_what_its_schema_allows():
    assert resolve("bacterial mating type", "sex").status == "unresolved"
    assert spelled_out("development_stage", "Carnegie stage 12") == "Carnegie stage 12"
    assert spelled_out("development_stage", "6 months") == "6-month-old stage"


# --- tables ------------------------------------------------------------------------------------


def test_rows_of_a_table(tmp_path):
    table = tmp_path / "labels.tsv.gz"
    text = (
        "label\torgan\tmarkers\textra\nHSC\tliver\tLRAT, RGS5\tx\nHSC\tbone marrow\t\ty\n\t\t\t\n"
    )
    table.write_bytes(gzip.compress(text.encode()))
    rows = read_labels(table, "cell_type", ("tissue", "markers"))
    assert rows[0] == LabelRow("HSC", "liver", ("LRAT", "RGS5"))
    assert read_labels(table, "cell_type")[0] == LabelRow("HSC")
    found = resolve_rows(rows, "cell_type", accept_score=0.3)
    assert [r.term_id for r in found] == ["CL:0000632", "CL:0000037", ""]
    assert found[2].status == "unknown"
    line = label_table.as_json(found[0])
    assert list(line) == [
        "label", "term_id", "term_label", "score", "reason", "status", "alternatives",
    ]  # fmt: skip
    assert set(line["alternatives"][0]) == {"term_id", "score"}
    assert json.loads(json.dumps(line)) == line


def test_json_has_the_best_guess_of_an_unresolved_label():
    (found,) = resolve_rows([LabelRow("CD14+ Monocyte")], "cell_type", accept_score=0.99)
    line = label_table.as_json(found)
    assert (line["status"], line["term_id"]) == ("unresolved", "CL:0001054")
    assert line["term_label"] == "CD14-positive monocyte"


def test_tables_that_cannot_be_used(tmp_path):
    def refused(kind, match, content, name="t.tsv", field="cell_type", context=()):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(kind, match=match):
            read_labels(path, field, context)

    refused(MissingColumnError, "'label'", b"name\tx\nT\t1\n")
    refused(DataError, "no label", b"label\n")
    refused(MissingColumnError, "none", b"")
    refused(FileFormatError, "UTF-8", b"label\nM\xfcller\n")
    refused(FileFormatError, "whole table", gzip.compress(b"label\nT\n" * 999)[:-9], "t.tsv.gz")
    refused(FileFormatError, "table", b"plain", "t.tsv.gz")
    refused(FileFormatError, "table", b'label\n"T\n')
    refused(ConfigError, "--context", b"label\nT\n", context=("age",))
    refused(ConfigError, "--field", b"label\nT\n", field="celltype")
    with pytest.raises(FileFormatError):
        read_labels(tmp_path / "none.tsv", "cell_type")
    with pytest.raises(FileFormatError):
        read_labels(tmp_path / "none.h5ad", "cell_type")


def test_decisions_go_round(tmp_path):
    rows = [
        LabelRow("NK cells", n_cells=5),
        LabelRow("blob\t7", n_cells=3),
        LabelRow('"odd" one', n_cells=4),
        LabelRow("HSC", "liver"),
        LabelRow("HSC", "bone marrow"),
        LabelRow("unknown", n_cells=9),
    ]
    found = resolve_rows(rows, "cell_type", accept_score=ACCEPT)
    out = tmp_path / "decide.tsv"
    write_overrides(out, "cell_type", rows, found)
    decided = read_overrides(out)["cell_type"]
    assert decided["NK cells"] == "CL:0000623"
    assert decided["blob 7"] == ""
    assert decided['"odd" one'] == ""
    assert decided["HSC"] == ""
    assert "unknown" not in decided
    lines = out.read_text().splitlines()
    assert lines[0].startswith("field\tlabel\tterm_id\tterm_label\tscore\tstatus\treason\tnearest")
    assert "rows differ" in next(line for line in lines if line.startswith("cell_type\tHSC"))
    again = resolve_rows(rows[:1], "cell_type", accept_score=ACCEPT, overrides=decided)
    assert again[0].status == "override"
    before = out.read_bytes()
    write_overrides(out, "cell_type", rows, found)
    assert out.read_bytes() == before


def test_a_label_decided_twice(tmp_path):
    table = tmp_path / "o.tsv"
    head = "field\tlabel\tterm_id\n"
    table.write_text(head + "cell_type\tx\tCL:0000236\ncell_type\tx\tCL:0000236\n")
    assert read_overrides(table)["cell_type"] == {"x": "CL:0000236"}
    table.write_text(head + "cell_type\tx\tCL:0000236\ntissue\tx\t\ncell_type\tx\tCL:0000084\n")
    with pytest.raises(FileFormatError, match="lines 2 and 4"):
        read_overrides(table)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x85\u2028\u2029"), max_size=20),
        min_size=1, max_size=5, unique=True,
    )
)  # fmt: skip
def test_any_label_survives_the_table_of_decisions(tmp_path_factory, labels):
    from okrcell.corpus.label_overrides import write_rows

    path = tmp_path_factory.mktemp("round") / "o.tsv"
    clean = dict.fromkeys(" ".join(label.split()) for label in labels)
    write_rows(path, [{"field": "cell_type", "label": label, "term_id": ""} for label in clean])
    assert set(read_overrides(path).get("cell_type", {})) == set(clean)


# --- files of cells ----------------------------------------------------------------------------

GENES = ["CD3D", "CD3E", "MS4A1", "CD79A", "LYZ", "CD14", "ACTB", "MT-CO1", "GAPDH", "NOT_A_GENE"]


def cells(tmp_path, values, name="cells.h5ad"):
    labels = ["c1"] * 6 + ["c2"] * 6
    obs = pd.DataFrame(
        {"my_type": labels, "tissue": ["blood"] * 6 + ["blood", "lung"] * 3},
        index=[f"cell{i}" for i in range(12)],
    )
    path = tmp_path / name
    data = anndata.AnnData(sparse.csr_matrix(values), obs, pd.DataFrame(index=GENES))
    data.write_h5ad(path)
    return path


def counts():
    values = np.ones((12, len(GENES)), dtype=np.float32)
    values[:6, [0, 1]] = 9
    values[6:, [2, 3]] = 9
    values[:, 9] = np.arange(12)
    return values


def test_labels_of_a_file_of_cells(tmp_path):
    path = cells(tmp_path, counts())
    rows = read_labels(path, "cell_type", ("tissue", "markers"), {"cell_type": "my_type"})
    assert [(r.label, r.tissue, r.n_cells) for r in rows] == [("c1", "blood", 6), ("c2", "", 6)]
    assert rows[0].markers[:2] == ("CD3D", "CD3E")
    assert set(rows[1].markers[:2]) == {"MS4A1", "CD79A"}
    assert "NOT_A_GENE" not in rows[1].markers
    bare = read_labels(path, "cell_type", (), {"cell_type": "my_type"})
    assert bare[0] == LabelRow("c1", n_cells=6)
    with pytest.raises(MissingColumnError, match="my_type"):
        read_labels(path, "cell_type")


def test_markers_of_lognormalised_values_are_the_same(tmp_path):
    raw = counts()
    lognorm = np.log1p(raw / raw.sum(axis=1, keepdims=True) * 1e4)
    found = [
        read_labels(cells(tmp_path, v, name), "cell_type", ("markers",), {"cell_type": "my_type"})
        for v, name in ((raw, "a.h5ad"), (lognorm, "b.h5ad"))
    ]
    assert [r.markers for r in found[0]] == [r.markers for r in found[1]]
    assert all(math.isfinite(r.n_cells) for r in found[0])
