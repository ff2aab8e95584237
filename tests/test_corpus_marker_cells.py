"""Synthetic training cells, and the texts of cell types."""

import anndata
import numpy as np
import pytest
from scipy import sparse

from okrcell.corpus.gene_tables import current
from okrcell.corpus.marker_cells import marker_cells, write_marker_cells
from okrcell.corpus.marker_table import bundled_markers
from okrcell.corpus.shards import CellMatrix
from okrcell.corpus.type_texts import FORMS, type_text
from okrcell.errors import DataError

B_CELL, T_CELL = "CL:0000236", "CL:0000084"


def genes_of(term, sign):
    return {marker.gene_id for marker in bundled_markers()[term] if marker.sign == sign}


def background(n_genes=6000, n_cells=40, seed=0, marked=(B_CELL, T_CELL)):
    """Return cells that express some housekeeping genes, and all markers of some types."""
    genes = set().union(*(genes_of(term, 1) for term in marked))
    others = sorted(current().coding - genes)[: n_genes - len(genes)]
    ids = (*sorted(genes), *others)
    counts = np.random.default_rng(seed).poisson(0.5, (n_cells, len(ids))).astype(np.float32)
    return CellMatrix(sparse.csr_matrix(counts), ids, "counts")


def shares(cells, rows, genes):
    """Return the mean share of some genes that the rows express."""
    columns = [at for at, gene in enumerate(cells.gene_ids) if gene in genes]
    return float((cells.matrix[rows][:, columns] > 0).mean())


def test_cells_express_their_type_and_little_of_others():
    cells, terms = marker_cells([background()], per_type=30, terms=[B_CELL, T_CELL, "CL:9999999"])
    assert terms == (T_CELL,) * 30 + (B_CELL,) * 30  # sorted, an unknown term is left out
    assert cells.values == "counts"
    assert (cells.matrix.data == np.rint(cells.matrix.data)).all()
    b_rows, t_rows = np.arange(30, 60), np.arange(30)
    only_b = genes_of(B_CELL, 1) - genes_of(T_CELL, 1)
    assert shares(cells, b_rows, only_b) > 3 * shares(cells, t_rows, only_b)
    assert shares(cells, b_rows, genes_of(B_CELL, -1) - genes_of(B_CELL, 1)) == 0
    depth = np.asarray(background().matrix.sum(axis=1)).mean()
    assert np.asarray(cells.matrix.sum(axis=1)).mean() == pytest.approx(depth, rel=0.2)


def test_cells_depend_on_the_seed_alone():
    made = [marker_cells([background()], per_type=2, seed=seed)[0].matrix for seed in (1, 1, 2)]
    assert (made[0] != made[1]).nnz == 0
    assert (made[0] != made[2]).nnz > 0
    assert made[0].shape[0] == 2 * len(bundled_markers())


def test_panels_are_passed_over_where_there_are_whole_cells():
    panel = background(n_genes=300, seed=3)
    whole = background()
    alone, both = (marker_cells(some, per_type=1)[0] for some in ([whole], [panel, whole]))
    assert (alone.matrix != both.matrix).nnz == 0
    assert marker_cells([panel], per_type=1)[0].matrix.shape[0] == len(bundled_markers())


def test_backgrounds_are_counts():
    cells = background()
    for some in ([], [CellMatrix(cells.matrix, cells.gene_ids, "lognorm")]):
        with pytest.raises(DataError, match="none of counts"):
            marker_cells(some)


def test_file_can_be_added_to_a_store(tmp_path):
    from okrcell.corpus import build, cells
    from okrcell.corpus.config import CellsConfig, CorpusConfig

    path, store = tmp_path / "made.h5ad", tmp_path / "store"
    n = write_marker_cells(path, [background()], per_type=1)
    assert anndata.read_h5ad(path).n_obs == n
    build.init_store(store)
    config = CorpusConfig(split_fractions=(1.0, 0.0, 0.0))
    how = CellsConfig(dataset_id="marker-cells", constants={"organism": "Homo sapiens"})
    cells.add_cells(store, path, config, how)
    table = cells.load_cells(store)
    assert set(table["split"].to_pylist()) == {"train"}
    terms = {row["cell_type_ontology_term_id"] for row in cells.load_profiles(store).to_pylist()}
    assert B_CELL in terms
    assert len(terms) > 0.95 * n


@pytest.mark.parametrize("form", FORMS)
def test_texts_of_types(form):
    text = type_text("my B cells", B_CELL, form)
    assert text
    assert (
        type_text("my B cells", "", form)
        == type_text("my B cells", "CL:9999999", form)
        == "my B cells"
    )
    assert ("CD19" in text) == (form == "markers" or "CD19" in type_text("", B_CELL, "definition"))
    assert text.startswith("B cell") or form == "definition"
    assert "Also called" in type_text("", B_CELL, "full") or form != "full"


def test_a_term_without_definition_is_its_label():
    from okrcell.corpus.ontology import terms

    bare = next(term for term in terms("cl") if not term.definition and not term.synonyms)
    assert {type_text("x", bare.term_id, form) for form in ("label", "definition", "named")} == {
        bare.label
    }
    assert type_text("x", bare.term_id, "full") == f"{bare.label}."
