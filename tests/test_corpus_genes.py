"""Gene names: every spelling that files carry, releases, HGNC tables, and every way to be lost."""

from __future__ import annotations

import gzip
import random
import re
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okrcell.corpus.gene_lookup import annotated_with
from okrcell.corpus.gene_names import date_symbols, ensembl_id
from okrcell.corpus.gene_tables import NOW, RELEASES, current, earlier
from okrcell.corpus.genes import KEPT, gene_symbols, read_hgnc, resolve_genes, table_size
from okrcell.errors import DataError, FileFormatError, MissingColumnError

CURRENT = ("CD4", "MS4A1", "CD79A", "NKG7", "LYZ")  # symbols that no release has changed


def resolve(*names, aliases=None, totals=None, among=CURRENT):
    """Resolve names in a file that also has a few plain symbols; return (status, id) of each."""
    columns = [*names, *among]
    sums = np.ones(len(columns)) if totals is None else np.array([*totals, *np.ones(len(among))])
    report = resolve_genes(columns, sums, aliases)
    rows = report.table.to_pylist()[: len(names)]
    return [(row["status"], row["gene_id"]) for row in rows], report


def release_symbols(bit: int) -> dict[str, str]:
    """Return the symbols of a release that one gene alone had, and that gene."""
    found = {}
    for symbol, entries in earlier().by_symbol.items():
        genes = [gene for gene, mask in entries if mask & bit]
        if len(genes) == 1:
            found[symbol] = genes[0]
    return found


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "ENSG00000010610",
        "ENSG00000010610.12",
        "ENSG00000010610.12_PAR_Y",
        "ENSG00000010610_CD4",
        "CD4_ENSG00000010610",
        "GRCh38_ENSG00000010610",
        "GRCh38_CD4",
        "GRCh38___CD4",
        "hg19_CD4",
        " CD4 ",
        "cd4",
    ],
)
def test_spellings_of_one_gene(name):
    (found,), report = resolve(name, among=CURRENT[1:])
    assert found == ("id" if "ENSG" in name else "symbol", "ENSG00000010610")
    assert report.columns[0] == 0


@pytest.mark.parametrize(
    ("name", "status", "symbol"),
    [
        ("HLA.A", "symbol", "HLA-A"),  # R turns hyphens into dots
        ("C1ORF56", "symbol", "C1orf56"),
        ("C1ORF112", "previous", "FIRRM"),
        ("MARCH1", "previous", "MARCHF1"),
        ("2-Sep", "mangled", "SEPTIN2"),
        ("Sep-02", "mangled", "SEPTIN2"),
        ("1-Dec", "mangled", "DELEC1"),
        ("ENSG00000161570", "successor", "CCL5"),  # GRCh37
        ("CCL5", "symbol", "CCL5"),
    ],
)
def test_what_tools_and_time_do_to_names(name, status, symbol):
    (found,), report = resolve(name)
    assert found[0] == status
    assert gene_symbols([found[1]]) == [symbol]
    if name != symbol:
        assert report.reasons[0]


def test_a_date_that_was_one_of_two_symbols_is_ambiguous():
    (found,), report = resolve("1-Mar")
    assert found == ("ambiguous", "")
    assert "MARC1" in report.reasons[0]
    assert "MARCH1" in report.reasons[0]
    assert report.lost == {"ambiguous": ("1-Mar",)}


def test_numbered_names_are_the_gene_only_beside_the_name_itself():
    found, report = resolve("PTPRC", "PTPRC-1", "NOSUCH-1", totals=(2, 5, 1))
    gene = found[0][1]
    assert found == [("duplicate", gene), ("symbol", gene), ("unknown", "")]
    assert report.columns[0] == 1  # the larger
    assert resolve("PTPRC.1")[0] == [("unknown", "")]
    assert resolve("HLA-A", "NKX2-1")[0][1][0] == "symbol"


def test_an_unknown_id_beside_a_symbol_leaves_the_symbol():
    (found,), _ = resolve("CD8A_ENSG99999999999")
    assert gene_symbols([found[1]]) == ["CD8A"]


def test_duplicates_keep_the_larger_and_exact_names_before_aliases(hgnc):
    aliases = read_hgnc(hgnc)
    found, report = resolve("LYZ", "ENSG00000090382.8", totals=(1, 1), among=())
    assert [status for status, _ in found] == ["symbol", "duplicate"]  # of equals the first
    found, _ = resolve("OTHER_CD8A", "CD8A", aliases=aliases, totals=(9, 1))
    assert [status for status, _ in found] == ["duplicate", "symbol"]
    assert set(report.lost) == {"duplicate"}


def test_no_names_and_no_name():
    assert resolve_genes([], np.zeros(0)).gene_ids == ()
    report = resolve_genes(["", "nan"], np.zeros(2))
    assert report.counts == {"unknown": 2}
    assert report.coverage == 0
    assert not report.hint


@given(st.lists(st.text(max_size=20) | st.sampled_from(sorted(current().by_symbol)[:500])))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_every_column_has_one_fate(names):
    report = resolve_genes(names, np.arange(len(names), dtype=float))
    assert report.table.num_rows == len(report.reasons) == len(names)
    assert len(set(report.gene_ids)) == len(report.gene_ids) == len(report.columns)
    status = report.table["status"].to_pylist()
    assert [i for i, name in enumerate(status) if name in KEPT] == report.columns.tolist()
    assert sum(map(len, report.lost.values())) + len(report.columns) == len(names)
    assert set(report.gene_ids) <= set(current().symbol)


@given(st.text(max_size=40))
@settings(derandomize=True, deadline=None)
def test_readers_of_names_take_any_text(name):
    assert ensembl_id(name) == "" or len(ensembl_id(name)) == 15
    assert all(symbol.isalnum() for symbol in date_symbols(name))


# --- species -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (["Cd4", "Ms4a1", "Cd79a", "Nkg7", "Lyz2", "Gapdh", "H2-Aa", "mt-Co1"], "mouse"),
        ([f"ENSMUSG{i:011}" for i in range(9)], "mouse"),
        (["mm10_Cd4", "mm10_Lyz2", "mm10_Nkg7"], "mouse"),
        ([f"ENSDARG{i:011}" for i in range(9)], "zebrafish"),
        ([f"ENSSSCG{i:011}" for i in range(9)], "another species"),
        ([f"ENST{i:011}" for i in range(9)], "transcripts"),
        (["672", "7157", "920"], "Entrez"),
        (["cd4", "ms4a1", "cd79a", "actb1"], "lower case"),
    ],
)
def test_files_that_are_not_human_genes_say_so_and_resolve_nothing(names, word):
    report = resolve_genes(names, np.ones(len(names)))
    assert word in report.hint
    assert report.gene_ids == ()


def test_human_files_have_no_hint():
    assert not resolve(*CURRENT, "C1orf56", "not-a-gene")[1].hint
    mixed = resolve_genes([*CURRENT, "mm10_Cd4", "mm10_Lyz2"], np.ones(7))
    assert not mixed.hint
    assert mixed.counts == {"symbol": 5, "unknown": 2}


# --- releases ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bit", sorted(RELEASES))
def test_a_release_is_found_by_its_symbols(bit):
    symbols = release_symbols(bit)
    names = random.Random(bit).sample(sorted(symbols), 1500)
    report = resolve_genes(names, np.ones(len(names)))
    assert report.release == RELEASES[bit]
    given_ids = [symbols[names[column]] for column in report.columns]
    right = np.mean([a == b for a, b in zip(report.source_ids, given_ids, strict=True)])
    assert right > 0.997
    # No gene is another one than that its id leads to by itself.
    assert all(
        earlier().now(old) == new
        for old, new in zip(report.source_ids, report.gene_ids, strict=True)
    )


def test_current_symbols_are_read_in_the_current_table():
    names = sorted(s for s, ids in current().by_symbol.items() if len(ids) == 1)[::9]
    report = resolve_genes(names, np.ones(len(names)))
    assert report.release.startswith("GENCODE 48")
    assert set(report.counts) == {"symbol"}
    assert annotated_with(names)[0] == NOW


def test_a_symbol_means_what_it_meant_in_the_files_release():
    """MIR142 was the host gene in Ensembl 75 and is the microRNA now."""
    assert gene_symbols([resolve("MIR142")[0][0][1]]) == ["MIR142"]
    symbols = release_symbols(16)
    old = random.Random(0).sample(sorted(symbols), 800)
    (found,), report = resolve("MIR142", among=[name for name in old if name != "MIR142"])
    assert found == ("previous", symbols["MIR142"])
    assert gene_symbols([found[1]]) == ["MIR142HG"]
    assert report.reasons[0] == "now MIR142HG"


def test_numbers_within_a_clone_are_read_in_their_own_release_only():
    symbols = release_symbols(4)
    numbered = [name for name in sorted(symbols) if re.fullmatch(r"A[CL]\d{6}\.\d", name)]
    name = next(n for n in numbered if earlier().now(symbols[n]))
    names = random.Random(0).sample(sorted(symbols), 1500)
    (found,), _ = resolve(name, among=names)
    assert found[1] == earlier().now(symbols[name])
    plain = [n for n in names if "." not in n]
    invented = [f"AC{number:06}.9" for number in range(999_000, 999_200)]
    (found,), report = resolve(name, among=[*plain, *invented])
    assert found == ("ambiguous", "")
    assert "clone" in report.reasons[0]


def test_retired_ids_lead_to_genes_that_exist():
    heirs = {heir for heir in earlier().heir.values() if heir}
    assert len(heirs) > 500
    assert heirs <= set(current().symbol)
    assert not set(earlier().heir) & set(current().symbol)
    assert table_size() == len(current().symbol)


def test_sixty_thousand_names_are_fast():
    current(), earlier()
    names = [name for name, _ in zip(earlier().by_symbol, range(60_000), strict=False)]
    resolve_genes(names[:100], np.ones(100))
    start = time.perf_counter()
    resolve_genes(names, np.ones(len(names)))
    assert (
        time.perf_counter() - start < 10
    )  # a bound on the order of growth; the benchmark times it


# --- HGNC --------------------------------------------------------------------------------------

HEADER = "hgnc_id\tsymbol\tname\talias_symbol\tprev_symbol\tensembl_gene_id\tstatus\n"


@pytest.fixture
def hgnc(tmp_path):
    path = tmp_path / "hgnc.tsv"
    path.write_text(
        HEADER + 'HGNC:1\tCD8A\tx\t"OTHER_CD8A|SHARED"\tOLD_CD8A\tENSG00000153563\tApproved\n'
        "HGNC:2\tCCL5\tx\tSHARED\t\tENSG00000161570\tApproved\n"
        "HGNC:3\tPTPRC\tx\t\tWITHOUT_ID\t\tApproved\n"
        "HGNC:4\tGONE\tx\tGONE_ALIAS\t\t\tEntry Withdrawn\n"
        "\n"
    )
    return path


def test_aliases_and_previous_symbols(hgnc):
    aliases = read_hgnc(hgnc)
    names = ("OTHER_CD8A", "OLD_CD8A", "SHARED", "WITHOUT_ID", "GONE_ALIAS", "CCL5")
    found, report = resolve(*names, aliases=aliases, totals=(1, 2, 1, 1, 1, 1))
    symbols = [gene_symbols([gene])[0] if gene else "" for _, gene in found]
    assert [status for status, _ in found] == [
        "duplicate",  # of the previous symbol, which is no alias
        "previous",
        "ambiguous",
        "previous",
        "unknown",
        "symbol",
    ]
    assert symbols == ["CD8A", "CD8A", "", "PTPRC", "", "CCL5"]
    assert "HGNC" in report.reasons[1]
    assert [status for status, _ in resolve(*names[:4])[0]] == ["unknown"] * 4


def test_packed_tables_and_byte_order_marks_are_read(hgnc, tmp_path):
    plain = read_hgnc(hgnc)
    packed = tmp_path / "table"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + hgnc.read_bytes()))
    assert read_hgnc(packed).alias == plain.alias
    assert read_hgnc(packed).fingerprint != plain.fingerprint


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (b"symbol\talias_symbol\n", MissingColumnError, "prev_symbol"),
        (b"", MissingColumnError, "symbol"),
        (HEADER.encode() + b"HGNC:1\tCD8A\n", FileFormatError, "line 2"),
        (HEADER.encode(), DataError, "no approved gene"),
        (HEADER.encode() + b"\xff\xfe\xfa", FileFormatError, "UTF-8"),
        (gzip.compress(HEADER.encode() * 99)[:-20], FileFormatError, "gzip"),
        (b"\x1f\x8b" + b"\x00" * 40, FileFormatError, "gzip"),
        (HEADER.encode() + b"\x00" * 4, (FileFormatError, DataError), "hgnc"),
    ],
)
def test_bad_tables_are_refused(tmp_path, content, error, words):
    path = tmp_path / "hgnc.tsv"
    path.write_bytes(content)
    with pytest.raises(error, match=words):
        read_hgnc(path)


def test_absent_tables_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_hgnc(tmp_path / "none.tsv")
    with pytest.raises(DataError, match="a folder"):
        read_hgnc(tmp_path)
