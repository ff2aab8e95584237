"""Genes, labels, expression values, notes and snippets."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from okrcell.corpus import ontology
from okrcell.corpus.chunk import chunk_documents
from okrcell.corpus.expression import check_values, recover_counts
from okrcell.corpus.genes import resolve_genes
from okrcell.corpus.literature import clean_text, read_notes
from okrcell.corpus.normalise import normalise, read_overrides
from okrcell.errors import DataError, ExpressionValueError, FileFormatError, LabelError
from okrcell.schemas import TABLES


class WordCounter:
    """Counts words, so that a property test need not load a model."""

    def count_tokens(self, texts):
        return [len(text.split()) + 2 for text in texts]


# --- genes -------------------------------------------------------------------------------------


def test_genes_by_id_symbol_and_every_way_to_be_lost():
    names = ["ENSG00000010610.12", "CD4", "MS4A1", "NOT_A_GENE", "ENSG99999999999", "CYP2T1P"]
    report = resolve_genes(names, np.array([1.0, 9.0, 1.0, 1.0, 1.0, 1.0]))
    assert report.table["status"].to_pylist() == [
        "duplicate",  # the id of CD4, with the smaller total
        "symbol",
        "symbol",
        "unknown",
        "unknown",
        "ambiguous",
    ]
    assert report.gene_ids == ("ENSG00000010610", "ENSG00000156738")
    assert report.columns.tolist() == [1, 2]
    assert report.coverage == pytest.approx(2 / 6)
    assert sum(report.counts.values()) == len(names)


def test_no_genes_at_all():
    assert resolve_genes([], np.zeros(0)).gene_ids == ()


# --- labels ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "label", "term_id"),
    [
        ("cell_type", "NK cells", "CL:0000623"),
        ("cell_type", "CD14+ Monocyte", "CL:0001054"),
        ("cell_type", "CD8+ Cytotoxic T", "CL:0000794"),
        ("cell_type", "Dendritic", "CL:0000451"),
        ("cell_type", "CL:0000084", "CL:0000084"),
        ("tissue", "Blood", "UBERON:0000178"),
        ("disease", "normal", "PATO:0000461"),
        ("sex", "female", "PATO:0000383"),
        ("assay", "10x 3' v1", "EFO:0009901"),
    ],
)
def test_labels_that_can_be_read(field, label, term_id):
    found = normalise([label], field, accept_score=0.8)[label]
    assert found.term_id == term_id
    assert found.score >= 0.8
    assert found.reason


def test_doubtful_labels_stay_unresolved_with_alternatives():
    found = normalise(["CD34+", "blob 7"], "cell_type", accept_score=0.8)
    assert {r.term_id for r in found.values()} == {""}
    assert found["CD34+"].alternatives
    assert "unresolved" in found["CD34+"].reason


def test_overrides_decide_and_are_checked(tmp_path):
    table = tmp_path / "o.tsv"
    table.write_text("field\tlabel\tterm_id\ncell_type\tblob 7\tCL:0000236\n")
    decided = read_overrides(table)
    found = normalise(["blob 7"], "cell_type", accept_score=0.8, overrides=decided["cell_type"])
    assert (found["blob 7"].term_label, found["blob 7"].reason) == ("B cell", "override")
    with pytest.raises(LabelError, match="CL:9999999"):
        normalise(["x"], "cell_type", accept_score=0.8, overrides={"x": "CL:9999999"})
    with pytest.raises(LabelError, match="UBERON:0000178"):
        normalise(["x"], "cell_type", accept_score=0.8, overrides={"x": "UBERON:0000178"})
    table.write_text("field\tlabel\tterm_id\ncelltype\tx\tCL:0000236\n")
    with pytest.raises(FileFormatError, match="line 2"):
        read_overrides(table)
    table.write_text("label,term_id\n")
    with pytest.raises(FileFormatError, match="tab-separated"):
        read_overrides(table)
    with pytest.raises(FileFormatError):
        read_overrides(tmp_path / "none.tsv")


def test_unknown_is_unknown_and_free_fields_keep_their_text():
    assert normalise(["nan"], "sex", accept_score=0.8)["nan"].term_label == "unknown"
    assert normalise(["nucleus"], "suspension_type", accept_score=0.8)["nucleus"].term_id == ""


def test_ontology_terms():
    t_cell = ontology.get_term("CL:0000084")
    assert t_cell is not None
    assert t_cell.label == "T cell"
    assert "T-cell" in ontology.names("CL:0000084")
    assert ontology.ancestors("CL:0000084")["CL:0000542"] == 1
    assert t_cell.parents == ("CL:0000542",)
    assert ontology.get_term("CL:9999999") is None
    assert ontology.get_term("XX:1") is None


# --- expression --------------------------------------------------------------------------------


def block(values):
    return sparse.csr_matrix(np.asarray(values, dtype=np.float32))


def test_scale_of_values(tmp_path):
    assert check_values(block([[0, 3, 250]]), tmp_path, 0) == "counts"
    assert check_values(block([[0, 0.5, 4.2]]), tmp_path, 0) == "lognorm"
    for values, said in (([[-1.0]], "-1"), ([[np.nan]], "nan"), ([[0.5, 5000]], "neither counts")):
        with pytest.raises(ExpressionValueError, match=said):
            check_values(block(values), tmp_path, 0)
    with pytest.raises(ExpressionValueError, match="cell 12, column 1"):
        check_values(block([[1, 1], [0, -2]]), tmp_path, 11)
    with pytest.raises(ExpressionValueError, match="--layer raw"):
        check_values(block([[-1.0]]), tmp_path, 0, has_raw=True)


@given(st.lists(st.lists(st.integers(0, 40), min_size=5, max_size=5), min_size=1, max_size=6))
def test_counts_come_back_where_one_molecule_is_seen(rows):
    counts = np.array(rows, dtype=np.float64)
    counts[:, 0] = 1
    normalised = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    recovered = recover_counts(sparse.csr_matrix(normalised)).toarray()
    assert np.array_equal(recovered, counts)


# --- notes and snippets ------------------------------------------------------------------------


def test_hidden_characters_are_removed():
    assert clean_text("a\u200bb\u202ec\x00d\r\ne\U000e0041") == "abcd\ne"


def test_notes_folder(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        read_notes(tmp_path / "none")
    with pytest.raises(DataError, match=r"no \.md"):
        read_notes(tmp_path)
    (tmp_path / "a.md").write_text("# Title\ntext\n")
    (tmp_path / "b.txt").write_text("plain\n")
    notes = read_notes(tmp_path)
    assert notes["doc_id"].to_pylist() == ["NOTE:a", "NOTE:b"]
    assert notes["title"].to_pylist() == ["Title", "b"]
    (tmp_path / "c.md").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileFormatError, match=r"c\.md"):
        read_notes(tmp_path)
    (tmp_path / "c.md").rename(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match="two files named 'a'"):
        read_notes(tmp_path)


def as_documents(*texts):
    rows = [
        {"doc_id": f"D{i}", "title": "", "year": None, "source": "notes", "licence": "",
         "is_retracted": i % 2 == 1, "text": text, "text_sha256": str(hash(text))}
        for i, text in enumerate(texts)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=TABLES["documents"].schema)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.text(st.sampled_from("ab .;\n#é"), max_size=400), min_size=1, max_size=3))
def test_snippets_slice_back_and_lose_nothing_but_space(texts):
    documents = as_documents(*texts)
    snippets = chunk_documents(documents, WordCounter(), 16).to_pylist()
    for snippet in snippets:
        text = texts[int(snippet["doc_id"][1:])]
        assert text[snippet["start"] : snippet["end"]] == snippet["text"]
        assert snippet["n_tokens"] <= 16
    assert len({s["snippet_id"] for s in snippets}) == len(snippets)


def test_snippets_keep_headings_apart_and_flag_retraction():
    documents = as_documents("# One\nalpha beta.\n## Two\ngamma.", "text")
    snippets = chunk_documents(documents, WordCounter(), 50).to_pylist()
    assert [(s["section"], s["text"], s["flags"]) for s in snippets] == [
        ("One", "alpha beta.", []),
        ("Two", "gamma.", []),
        ("", "text", ["retracted"]),
    ]
