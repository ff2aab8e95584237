"""Genes: precision of symbols against a file's own Ensembl ids, coverage of every file, speed.

python benchmarks/corpus/genes.py --data ../shared/data --out genes.json
"""

from __future__ import annotations

import argparse
import csv
import gzip
import random
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
from output import publish

from okrcell.corpus import gene_lookup
from okrcell.corpus.gene_tables import RELEASES, EarlierGenes, current, earlier
from okrcell.corpus.genes import GeneAliases, GeneReport, read_hgnc, resolve_genes

OWN_IDS = ("pbmc_facs_10pop", "pbmc_kang_ifnb_2donors")
BAR, RATE_BAR = 0.997, 0.3
HGNC = "genes/hgnc_complete_set_2020.tsv.gz"


class Names:
    """What a file says of its genes."""

    def __init__(self, path: Path) -> None:
        import anndata

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = anndata.read_h5ad(path)
        self.name = path.stem
        self.index = [str(name) for name in data.var_names]
        self.own = data.var["ensembl_id"].astype(str).tolist()
        symbols = data.var["gene_symbol"].astype(str).tolist()
        # Symbols alone: some names hold an id beside the symbol.
        self.symbols = [re.sub(r"_ENSG\d+$", "", name) for name in symbols]
        self.totals = np.asarray(data.X.sum(axis=0), dtype=np.float64).ravel()


def now(gene_id: str) -> str:
    """Return the id that the file's own id leads to today, by the id alone; empty if none."""
    report = resolve_genes([gene_id], np.ones(1))
    return report.gene_ids[0] if report.gene_ids else ""


def share(pairs: list[tuple[str, str]]) -> str:
    return f"{sum(a == b for a, b in pairs) / len(pairs):.4f}" if pairs else "-"


def precision_row(method: str, names: Names, found: dict[int, tuple[str, str]]) -> list[object]:
    """``found``: column to its id in the file's release and its current id."""
    own = {column: names.own[column] for column in found}
    in_release = [(found[c][0], own[c]) for c in found]
    today = [(found[c][1], now(own[c])) for c in found]
    right = sum(a == b for a, b in in_release)
    return [
        names.name,
        method,
        len(found),
        share(in_release),
        f"{BAR}",
        share([pair for pair in today if pair[1]]),
        sum(not pair[1] for pair in today),
        share([(found[c][1], own[c]) for c in found]),
        f"{right / len(names.own):.4f}",
    ]


def kept(report: GeneReport) -> dict[int, tuple[str, str]]:
    ids = zip(report.source_ids, report.gene_ids, strict=True)
    return dict(zip(report.columns.tolist(), ids, strict=True))


def precision_table(files: list[Names], aliases: GeneAliases, hgnc: Path) -> dict[str, object]:
    by_symbol = {symbol: ids[0] for symbol, ids in current().by_symbol.items()}
    with gzip.open(hgnc, "rt", encoding="utf-8") as handle:
        by_hgnc = {
            row["symbol"]: row["ensembl_gene_id"]
            for row in csv.DictReader(handle, delimiter="\t")
            if row["ensembl_gene_id"]
        }
    rows = []
    for names in files:
        for method, table in (("naive, GENCODE 48", by_symbol), ("naive, HGNC", by_hgnc)):
            hits = {i: (table[s], table[s]) for i, s in enumerate(names.symbols) if s in table}
            rows.append(precision_row(method, names, hits))
        for method, extra in (("okrcell", None), ("okrcell, HGNC file", aliases)):
            report = resolve_genes(names.symbols, names.totals, extra)
            rows.append(precision_row(method, names, kept(report)))
    return {
        "caption": "From symbols alone, against the file's own Ensembl ids",
        "columns": [
            "file",
            "method",
            "resolved",
            "precision, id in the file's release",
            "bar",
            "precision, current id (own id followed by itself)",
            "own id retired without a successor",
            "precision, current id against the own id as it stands",
            "recall",
        ],
        "rows": rows,
    }


def coverage_table(files: list[Names], aliases: GeneAliases) -> dict[str, object]:
    rows = []
    for names in files:
        sources = {"symbols": names.symbols}
        if names.index[0].startswith("ENSG"):
            sources = {"ids": names.index, **sources}
        for source, values in sources.items():
            at = [i for i, value in enumerate(values) if value not in {"", "nan"}]
            values, totals = [values[i] for i in at], names.totals[at]
            exact = sum(
                v in current().symbol or len(current().by_symbol.get(v, ())) == 1 for v in values
            )
            plain = resolve_genes(values, totals)
            more = resolve_genes(values, totals, aliases)
            lost = plain.counts
            rows.append(
                [
                    names.name,
                    source,
                    len(values),
                    plain.release or "-",
                    f"{exact / len(values):.4f}",
                    f"{plain.coverage:.4f}",
                    f"{more.coverage:.4f}",
                    *(lost.get(status, 0) for status in ("previous", "successor")),
                    *(lost.get(status, 0) for status in ("ambiguous", "duplicate", "unknown")),
                    f"{totals[plain.columns].sum() / totals.sum():.4f}",
                ]
            )
    return {
        "caption": "Coverage of every file",
        "columns": [
            "file",
            "names",
            "columns",
            "release found",
            "naive coverage",
            "coverage",
            "coverage, HGNC file",
            "previous",
            "successor",
            "ambiguous",
            "duplicate",
            "unknown",
            "share of all counts kept",
        ],
        "rows": rows,
    }


def left_out_table() -> dict[str, object]:
    """Symbols of each earlier release, read as if its table were not there."""
    rows = []
    whole = earlier()
    for bit, name in RELEASES.items():
        truth = {}
        for symbol, entries in whole.by_symbol.items():
            genes = [gene for gene, mask in entries if mask & bit]
            if len(genes) == 1:
                truth[symbol] = genes[0]
        others = {
            symbol: tuple((gene, mask & ~bit) for gene, mask in entries if mask & ~bit)
            for symbol, entries in whole.by_symbol.items()
        }
        without = EarlierGenes({s: e for s, e in others.items() if e}, whole.heir)
        sample = random.Random(bit).sample(sorted(truth), 15_000)
        totals = np.ones(len(sample))
        with mock.patch.object(gene_lookup, "earlier", lambda table=without: table):
            report = resolve_genes(sample, totals)
        for label, found in (
            (f"without {name}", report),
            ("all tables", resolve_genes(sample, totals)),
        ):
            pairs = [
                (gene_id, whole.now(truth[sample[column]]))
                for column, gene_id in zip(found.columns, found.gene_ids, strict=True)
            ]
            rows.append(
                [
                    name,
                    label,
                    found.release,
                    f"{found.coverage:.4f}",
                    share([pair for pair in pairs if pair[1]]),
                    sum(not pair[1] for pair in pairs),
                ]
            )
    return {
        "caption": "15,000 symbols of each earlier release, with and without its table",
        "columns": [
            "symbols of",
            "read with",
            "release found",
            "coverage",
            "precision, current id",
            "kept though retired",
        ],
        "rows": rows,
    }


def speed_table() -> dict[str, object]:
    program = (
        "import time\n"
        "import numpy, pyarrow\n"
        "start = time.perf_counter()\n"
        "from okrcell.corpus.gene_tables import current, earlier\n"
        "current(), earlier()\n"
        "print(time.perf_counter() - start)\n"
    )
    loads = [
        float(
            subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout
        )
        for _ in range(5)
    ]
    names = sorted(
        symbol
        for symbol, entries in earlier().by_symbol.items()
        if any(
            RELEASES[bit] == "Ensembl 93" for bit in RELEASES for _, mask in entries if mask & bit
        )
    )
    times = []
    for _ in range(5):
        start = time.perf_counter()
        resolve_genes(names, np.ones(len(names)))
        times.append(time.perf_counter() - start)
    rows = [
        ["load both tables", f"{np.median(loads):.3f} s", f"{max(loads):.3f} s", f"{RATE_BAR} s"],
        [
            f"resolve {len(names):,} symbols of Ensembl 93",
            f"{np.median(times):.3f} s",
            f"{max(times):.3f} s",
            f"{RATE_BAR} s",
        ],
    ]
    return {"caption": "Speed", "columns": ["step", "median of 5", "worst", "bar"], "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    hgnc = arguments.data / HGNC
    aliases = read_hgnc(hgnc)
    files = [Names(path) for path in sorted((arguments.data / "cells").glob("*.h5ad"))]
    result = {
        "title": "Genes",
        "command": "python benchmarks/corpus/genes.py --data ../shared/data --out genes.json",
        "notes": [
            f"Bar: precision of at least {BAR} on both files whose Ensembl ids are their own.",
            "The two files were annotated on GRCh37; some of their ids have been retired since "
            "(CCL5 was ENSG00000161570 and is ENSG00000271503). No current table has those ids, so "
            "the column 'as it stands' counts every such gene as wrong, and no method that gives "
            "current ids can do better there without dropping them.",
            "'Own id followed by itself': the file's id is resolved alone, without its symbol. "
            "Where an id was retired, its successor was decided when the table was made, from the "
            "symbols of later releases: for those genes this column is not independent evidence; "
            "'id in the file's release' is.",
            "Ids that stand inside names (LILRA3_ENSG00000170866) were cut off first.",
            "The tables of earlier releases end at Ensembl 100; the third table shows what a file of "
            "a release without a table loses. Time bars are for an idle core.",
            "In the other files ids were filled from HGNC and prove nothing; their coverage counts.",
        ],
        "tables": [
            precision_table([names for names in files if names.name in OWN_IDS], aliases, hgnc),
            coverage_table(files, aliases),
            left_out_table(),
            speed_table(),
        ],
    }
    publish(result, arguments.out)


if __name__ == "__main__":
    main()
