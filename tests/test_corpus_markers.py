"""Markers: the shipped table, a user's file, what texts name, and the vote on expression."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from okrcell.corpus.label_text import read_columns
from okrcell.corpus.marker_mentions import cited_markers, named_markers
from okrcell.corpus.marker_table import (
    TABLE_SOURCE,
    Marker,
    bundled_markers,
    find_gene,
    joined,
    markers_of_term,
    read_markers,
)
from okrcell.corpus.marker_vote import combined, usable, vote
from okrcell.corpus.ontology import bundled, get_term
from okrcell.corpus.shards import CellMatrix
from okrcell.errors import FileFormatError


def gene(symbol: str) -> str:
    found = find_gene(symbol)
    assert found is not None, symbol
    return found[0]


def marker(symbol: str, sign: int = 1) -> Marker:
    return Marker(gene(symbol), symbol, sign, "test")


# --- table ------------------------------------------------------------------------------------


def test_every_line_of_the_table_is_a_live_term_with_genes_of_the_bundled_table() -> None:
    live = {term.term_id for term in bundled("cl").terms()}
    rows = read_columns("cell_markers.tsv")
    assert 250 <= len(rows) == len({row[0] for row in rows}) == len(bundled_markers())
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    for term_id, label, positive, negative in rows:
        term = get_term(term_id)
        assert term_id in live
        assert term is not None
        assert term.label == label
        symbols = [*positive.split(), *negative.split()]
        assert positive, label
        assert len(symbols) == len(set(symbols)), label
        for symbol in symbols:
            found = find_gene(symbol)
            assert found is not None, (label, symbol)
            assert found[1] == symbol  # the present symbol
        assert len(bundled_markers()[term_id]) == len(symbols)


def test_markers_of_a_term_cite_the_table_then_the_ontology() -> None:
    t_reg = {m.symbol: m for m in markers_of_term("CL:0000815")}
    assert t_reg["FOXP3"].source == TABLE_SOURCE
    assert t_reg["CD8A"].sign == -1
    beta = {m.symbol: m for m in markers_of_term("CL:0000169")}
    assert (
        beta["INS"].source == TABLE_SOURCE
    )  # the definition says it too, and is not counted again
    plasmablast = {m.symbol: m for m in markers_of_term("CL:0000980")}
    assert plasmablast["SDC1"] == Marker(gene("SDC1"), "SDC1", -1, "CL:0000980 definition")


def test_a_term_without_a_line_inherits_from_its_nearest_ancestors() -> None:
    term = "CL:0001204"  # CD4-positive, alpha-beta memory T cell, CD45RO-positive
    assert term not in bundled_markers()
    found = {m.symbol: m for m in markers_of_term(term)}
    assert found["IL2RA"].source == "CL:0001204 definition"
    assert found["S100A4"].source == f"{TABLE_SOURCE}, of CL:0000897"
    assert markers_of_term("CL:9999999") == ()
    assert markers_of_term("no id") == ()


def test_genes_are_found_by_present_and_earlier_symbols_and_ids() -> None:
    assert find_gene("LRMP") == find_gene("IRAG2")
    assert find_gene("ENSG00000156738") == ("ENSG00000156738", "MS4A1")
    assert find_gene("IL3RA") == ("ENSG00000185291", "IL3RA")  # the copy on X, not that on Y
    assert find_gene("CD45RA") is None


def test_the_first_source_of_a_gene_is_right() -> None:
    first, second = marker("CD4"), marker("CD4", -1)._replace(source="later")
    assert joined([first], [second, marker("CD3D")]) == (first, marker("CD3D"))


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.tsv"
    path.write_text(
        "term_id\tlabel\tpositive\tnegative\tsource\n"
        "CL:0000236\tB cell\tMS4A1, CD79A\tCD3D\tPMID:1\n"
        "\todd cell\tENSG00000156738;CD19\t\t\n"
        "\todd cell\tCD22\t\t\n\n"
    )
    found = read_markers(path)
    assert [(m.symbol, m.sign, m.source) for m in found["CL:0000236"]] == [
        ("MS4A1", 1, "PMID:1"),
        ("CD79A", 1, "PMID:1"),
        ("CD3D", -1, "PMID:1"),
    ]
    assert [(m.symbol, m.source) for m in found["odd cell"]] == [
        ("MS4A1", "mine.tsv"),
        ("CD19", "mine.tsv"),
        ("CD22", "mine.tsv"),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("label\tgenes\nx\tCD3D\n", "columns label, genes"),
        ("label\tpositive\n", "no lines"),
        ("label\tpositive\nx\tCD3D NOSUCHGENE\n", "line 2: found NOSUCHGENE"),
        ("label\tpositive\nx\t\n", "no gene for 'x'"),
        ("label\tpositive\n\tCD3D\n", "no cell type"),
        (
            "label\tpositive\tnegative\nx\tCD3D\t\nx\t\tCD3D\n",
            "CD3D both present and absent in 'x'",
        ),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.tsv"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=words):
        read_markers(path)
    with pytest.raises(FileFormatError, match="bad"):
        read_markers(tmp_path / "bad-path.tsv")


# --- texts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A CD4-positive, alpha-beta T cell", "+CD4"),
        ("T cells expressing CD45RA and CCR7", "+CCR7"),
        ("This cell lacks CD25 and does not express FOXP3.", "-IL2RA -FOXP3"),
        ("CD25-negative, CD127-low", "-IL2RA"),
        ("A cell that secretes glucagon.", "+GCG"),
        ("Cells do not secrete insulin.", "-INS"),
        ("B cells express CD19, CD20 and CD79A but lack CD4.", "+CD19 +MS4A1 +CD79A -CD4"),
        ("Unlike T cells, which express CD4, these cells express MS4A1.", "+MS4A1"),
        ("CD4- CD56bright NK cells", "-CD4 +NCAM1"),
        ("CD16+CD56dim", "+FCGR3A"),
        ("CD8-alpha-negative CD11b-positive dendritic cell", "-CD8A +ITGAM"),
        ("markers such as CD14, LYZ and S100A8", "+CD14 +LYZ +S100A8"),
        ("The markers are CD14 and LYZ.", "+CD14 +LYZ"),
        ("CD4 and CD19 are not expressed.", "-CD4 -CD19"),
        ("negative for the lineage markers CD4, CD19 and CD20", "-CD4 -CD19 -MS4A1"),
        ("Expression of KRT5, TP63 and KRT14 marks basal cells", "+KRT5 +TP63 +KRT14"),
        ("the marker tyrosine hydroxylase (TH) and neuropeptide Y (NPY)", "+TH +NPY"),
        ("expresses high levels of the transcription factor FOXP3", "+FOXP3"),
        ("GCG+ ARX+ INS- islet cells", "+GCG +ARX -INS"),
        ("It expresses neither CD4 nor CD19.", "-CD4 -CD19"),
        ("HLA-DR-positive, NKX2-1-expressing cells", "+HLA-DRA +NKX2-1"),
        ("interleukin-17A is produced by these cells", "+IL17A"),
    ],
)
def test_texts_state_markers(text: str, said: str) -> None:
    found = named_markers(text, "s")
    assert " ".join(("+" if m.sign > 0 else "-") + m.symbol for m in found) == said
    assert {m.source for m in found} <= {"s"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The glucagon receptor is expressed by hepatocytes",
        "They proliferate in response to IL-2",
        "It presents antigen to CD8-positive T cells",
        "Cells expressing low levels of CD14",
        "CD45RA-positive, CD45RO-negative, CD57-positive",
        "the voltage-gated sodium channel Nav1.7 is expressed",
        "It expresses CD4. It lacks CD4.",
        "细胞 expresses ничего " + "x" * 5000,
        "CD4 T cells",
    ],
)
def test_names_alone_are_no_markers(text: str) -> None:
    assert named_markers(text, "s") == ()


def test_markers_of_a_description_cite_its_snippets() -> None:
    def claim(sentence: str, *ids: str, state: str = "kept") -> dict:
        return {
            "sentence": sentence,
            "state": state,
            "citations": [{"snippet_id": name} for name in ids],
        }

    found = cited_markers(
        [
            claim("It expresses CD19.", "a", "b", "a"),
            claim("It expresses CD4.", "c", state="dropped"),
            claim("It lacks CD14."),
            claim("It expresses CD14.", "d"),
            claim("It lacks KIT."),
        ]
    )
    assert [(m.symbol, m.sign, m.source) for m in found] == [
        ("CD19", 1, "a b"),
        ("KIT", -1, "description"),
    ]


# --- vote -------------------------------------------------------------------------------------


def cells_of(rates: np.ndarray, genes: list[str], seed: int = 0) -> CellMatrix:
    """Return counts of the named genes beside 300 others that every cell expresses."""
    rng = np.random.default_rng(seed)
    counts = np.hstack([rng.poisson(rates), rng.poisson(3.0, size=(len(rates), 300))])
    ids = [gene(name) for name in genes] + [f"ENSG{i:011d}" for i in range(300)]
    return CellMatrix(sparse.csr_matrix(counts.astype(np.float32)), tuple(ids), "counts")


GENES = ["MS4A1", "CD79A", "CD3D", "CD3E", "PTPRC"]
B = [marker("MS4A1"), marker("CD79A"), marker("PTPRC")]
T = [marker("CD3D"), marker("CD3E"), marker("PTPRC")]


@pytest.fixture
def two_kinds() -> tuple[CellMatrix, np.ndarray]:
    kind = np.arange(200) % 2
    rates = np.full((200, 5), 0.02)
    rates[kind == 0, :2] = rates[kind == 1, 2:4] = 3.0
    rates[:, 4] = 4.0
    return cells_of(rates, GENES), kind


def test_the_vote_tells_kinds_apart(two_kinds: tuple[CellMatrix, np.ndarray]) -> None:
    cells, kind = two_kinds
    votes = vote(cells, [B, T, [marker("INS")], []])
    assert votes.shape == (200, 4)
    assert votes.dtype == np.float32
    assert (votes[:, :2].argmax(axis=1) == kind).mean() > 0.97
    assert not votes[:, 2:].any()  # no usable marker, no vote
    assert usable(cells.gene_ids, [B, T, [marker("INS")], []]).tolist() == [3, 3, 0, 0]
    assert votes[kind == 0, 0].mean() > 0 > votes[kind == 0, 1].mean()


def test_a_gene_that_all_name_decides_nothing(two_kinds: tuple[CellMatrix, np.ndarray]) -> None:
    cells, _ = two_kinds
    with_it, without = vote(cells, [B, T]), vote(cells, [B[:2], T[:2]])
    np.testing.assert_allclose(
        with_it[:, 0] - with_it[:, 1], without[:, 0] - without[:, 1], atol=1e-4
    )


def test_absence_counts_where_it_is_named(two_kinds: tuple[CellMatrix, np.ndarray]) -> None:
    cells, kind = two_kinds
    votes = vote(cells, [[marker("CD3D", -1)]])[:, 0]
    assert votes[kind == 0].mean() > 0 > votes[kind == 1].mean()
    both = vote(cells, [[marker("CD3D"), marker("CD3D", -1)]])
    assert not both.any()


def test_many_markers_win_nothing_unless_they_are_on(
    two_kinds: tuple[CellMatrix, np.ndarray],
) -> None:
    cells, kind = two_kinds
    few = vote(cells, [B[:1], T[:2]])
    assert (few[kind == 0].argmax(axis=1) == 0).mean() > 0.9


def test_shallow_cells_are_weak_evidence() -> None:
    kind = np.arange(300) % 2
    rates = np.full((300, 5), 0.02)
    rates[kind == 0, :2] = rates[kind == 1, 2:4] = 3.0
    deep = cells_of(rates, GENES)
    thin = deep.matrix.copy()
    thin.data = np.random.default_rng(1).binomial(thin.data.astype(int), 0.05).astype(np.float32)
    shallow = CellMatrix(thin, deep.gene_ids, "counts")
    of_deep, of_shallow = (vote(some, [B, T]) for some in (deep, shallow))
    assert np.abs(of_shallow).mean() < 0.6 * np.abs(of_deep).mean()


def test_log_normalised_values_vote_as_their_counts(
    two_kinds: tuple[CellMatrix, np.ndarray],
) -> None:
    cells, _ = two_kinds
    values = cells.matrix.astype(np.float64)
    depth = np.asarray(values.sum(axis=1)).ravel()
    values.data = np.log1p(values.data * np.repeat(1e4 / depth, np.diff(values.indptr)))
    logged = CellMatrix(values.astype(np.float32), cells.gene_ids, "lognorm")
    np.testing.assert_allclose(vote(logged, [B, T]), vote(cells, [B, T]), atol=0.01)


def test_blocks_of_cells_do_not_show(
    two_kinds: tuple[CellMatrix, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    cells, _ = two_kinds
    whole = vote(cells, [B, T])
    monkeypatch.setattr("okrcell.corpus.marker_vote._BLOCK_VALUES", 33)
    np.testing.assert_allclose(vote(cells, [B, T]), whole, atol=1e-5)
    monkeypatch.setattr("okrcell.corpus.marker_vote._FIT_CELLS", 60)
    assert (vote(cells, [B, T]).argmax(axis=1) == whole.argmax(axis=1)).mean() > 0.97


def test_odd_cells_have_a_vote_too() -> None:
    rates = np.full((4, 5), 2.0)
    cells = cells_of(rates, GENES)
    one = CellMatrix(cells.matrix[:1], cells.gene_ids, "counts")
    assert np.isfinite(vote(one, [B, T])).all()
    empty = cells.matrix.copy()
    empty.data[:] = 0
    empty.eliminate_zeros()
    for values in ("counts", "lognorm"):
        nothing = CellMatrix(empty, cells.gene_ids, values)
        assert not vote(nothing, [B, T]).any()
    none = CellMatrix(cells.matrix[:0], cells.gene_ids, "counts")
    assert vote(none, [B, T]).shape == (0, 2)
    assert vote(cells, []).shape == (4, 0)


def test_similarity_and_vote_are_joined() -> None:
    similarity = np.asarray([[0.9, 0.1, 0.2], [0.4, 0.5, 0.6]], dtype=np.float32)
    votes = np.asarray([[0.0, 9.0, 0.0], [0.0, 0.0, 0.0]], dtype=np.float32)
    assert combined(similarity, votes, weight=0).argmax(axis=1).tolist() == [0, 2]
    assert combined(similarity, votes, weight=1).argmax(axis=1).tolist() == [1, 2]
    np.testing.assert_allclose(
        combined(7 * similarity + 3, votes), combined(similarity, votes), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        combined(similarity, votes, weight=2, temperature=0.1), similarity / 0.1 + 2 * votes
    )
    assert np.isfinite(combined(np.ones((2, 3)), votes)).all()
    with pytest.raises(ValueError, match="beside votes"):
        combined(similarity, votes[:, :2])
    with pytest.raises(ValueError, match="weight"):
        combined(similarity, votes, weight=-1)
