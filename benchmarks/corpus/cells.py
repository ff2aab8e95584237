"""Cells into a store: speed and memory against the bare limit and a peer, every format, real files.

``python benchmarks/corpus/cells.py --data FOLDER --out FILE.json``. It writes its own synthetic
files (about 6 GB at the full size) below ``--work`` and removes them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from output import publish

N_GENES, N_VALUES, BLOCK = 20_000, 1_000, 4_096
BAR_CELLS, BAR_RSS = 5_000, 1.5

CHILD = """
import json, resource, sys, time
from pathlib import Path
job = json.loads(sys.argv[1])
def cpu_s():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
result = {}
if job["what"] == "add":
    from okrcell.artifacts import writing
    from okrcell.corpus import cells
    from okrcell.corpus.config import CellsConfig, CorpusConfig
    with writing(Path(job["store"]), "store"):
        pass
    how = CellsConfig(dataset_id="d", columns=job.get("columns", {}), constants=job.get("set", {}))
    imported, before = time.perf_counter(), cpu_s()
    from okrcell.errors import DataError
    try:
        facts = cells.add_cells(Path(job["store"]), Path(job["path"]), CorpusConfig(), how)
        result = {k: facts[k] for k in ("cells", "values", "genes", "gene_coverage", "labels")}
    except DataError as error:
        result = {"refused": error.found}
elif job["what"] == "limit":
    import h5py
    imported, before = time.perf_counter(), cpu_s()
    with h5py.File(job["path"]) as file, open(job["to"], "wb") as out:
        for name in ("data", "indices", "indptr"):
            array = file["X"][name]
            for at in range(0, array.shape[0], 1 << 23):
                out.write(array[at : at + (1 << 23)].data)
        import os
        os.fsync(out.fileno())
elif job["what"] == "peer":
    import anndata, os
    imported, before = time.perf_counter(), cpu_s()
    data = anndata.read_h5ad(job["path"], backed="r")
    with open(job["to"], "wb") as out:
        for at in range(0, data.n_obs, 4096):
            block = data.X[at : at + 4096]
            out.write(block.data.data)
            out.write(block.indices.data)
        os.fsync(out.fileno())
ended = time.perf_counter()
cpu = cpu_s() - before
# Not ru_maxrss, which a process inherits from the one that started it.
status = Path("/proc/self/status").read_text().split()
peak = int(status[status.index("VmHWM:") + 1]) * 1024
print(json.dumps({"s": ended - imported, "cpu": cpu, "rss": peak, **result}))
"""


def child(**job: Any) -> dict[str, Any]:
    """Run one job in a process of its own; return seconds and the peak resident memory."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(job)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def gene_ids(n: int) -> list[str]:
    from okrcell.corpus.gene_tables import current

    return (
        sorted(current().coding)[:n]
        + sorted(set(current().symbol) - current().coding)[: max(0, n - len(current().coding))]
    )


def blocks(n_cells: int, n_values: int, seed: int = 0) -> Any:
    """Yield values and sorted distinct columns of a random matrix, block by block."""
    rng = np.random.default_rng(seed)
    stride = N_GENES // n_values
    base = np.arange(n_values, dtype=np.int32) * stride
    for begin in range(0, n_cells, BLOCK):
        n = min(BLOCK, n_cells - begin)
        columns = base + rng.integers(0, stride, (n, n_values), dtype=np.int32)
        values = rng.geometric(0.4, (n, n_values)).astype(np.float32)
        yield begin, columns, values


def annotation(n_cells: int) -> Any:
    import pandas as pd

    types = ["T cell", "B cell", "monocyte", "natural killer cell", "dendritic cell", "platelet"]
    rows = np.arange(n_cells)
    return pd.DataFrame(
        {
            "cell_type": pd.Categorical.from_codes(rows % 6, types),
            "tissue": pd.Categorical.from_codes(rows // 7 % 2, ["blood", "lung"]),
            "sex": pd.Categorical.from_codes(rows // 11 % 2, ["female", "male"]),
            "donor_id": pd.Categorical.from_codes(rows % 50, [f"donor{i}" for i in range(50)]),
            "batch": pd.Categorical.from_codes(rows % 20, [f"lane{i}" for i in range(20)]),
        },
        index=[f"AAACCTGAGAAACCAT-{i}" for i in rows],
    )


def write_h5ad(path: Path, n_cells: int, n_values: int, compression: str | None = None) -> Path:
    import h5py
    import pandas as pd
    from anndata.io import write_elem

    with h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        write_elem(file, "obs", annotation(n_cells))
        write_elem(file, "var", pd.DataFrame(index=gene_ids(N_GENES)))
        group = file.create_group("X")
        group.attrs.update(
            {
                "encoding-type": "csr_matrix",
                "encoding-version": "0.1.0",
                "shape": np.array([n_cells, N_GENES]),
            }
        )
        how = {"compression": compression, "shape": (n_cells * n_values,), "maxshape": (None,)}
        data = group.create_dataset("data", dtype="f4", **how)
        indices = group.create_dataset("indices", dtype="i4", **how)
        group["indptr"] = np.arange(n_cells + 1, dtype=np.int64) * n_values
        for begin, columns, values in blocks(n_cells, n_values):
            part = slice(begin * n_values, (begin + len(columns)) * n_values)
            data[part], indices[part] = values.ravel(), columns.ravel()
    return path


def as_anndata(n_cells: int) -> Any:
    import anndata
    import pandas as pd
    from scipy import sparse

    parts = [
        sparse.csr_matrix(
            (v.ravel(), c.ravel(), np.arange(len(c) + 1) * N_VALUES), (len(c), N_GENES)
        )
        for _, c, v in blocks(n_cells, N_VALUES)
    ]
    var = pd.DataFrame(index=gene_ids(N_GENES))
    return anndata.AnnData(sparse.vstack(parts, format="csr"), annotation(n_cells), var)


def write_tenx(path: Path, n_cells: int) -> Path:
    import h5py

    ids = gene_ids(N_GENES)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        how = {"compression": "gzip", "shape": (n_cells * N_VALUES,), "chunks": (80_000,)}
        data = group.create_dataset("data", dtype="i4", **how)
        indices = group.create_dataset("indices", dtype="i8", **how)
        for begin, columns, values in blocks(n_cells, N_VALUES):
            part = slice(begin * N_VALUES, (begin + len(columns)) * N_VALUES)
            data[part], indices[part] = values.ravel(), columns.ravel()
        group["indptr"] = np.arange(n_cells + 1, dtype=np.int64) * N_VALUES
        group["shape"] = (N_GENES, n_cells)
        group["barcodes"] = [f"AAACCTGAGAAACCAT-{i}" for i in range(n_cells)]
        group["features/id"] = group["features/name"] = ids
        group["features/feature_type"] = ["Gene Expression"] * N_GENES
    return path


def write_mtx(folder: Path, n_cells: int) -> Path:
    import gzip

    folder.mkdir()
    with gzip.open(folder / "matrix.mtx.gz", "wt", compresslevel=1) as handle:
        handle.write("%%MatrixMarket matrix coordinate integer general\n")
        handle.write(f"{N_GENES} {n_cells} {n_cells * N_VALUES}\n")
        for begin, columns, values in blocks(n_cells, N_VALUES):
            cells = np.repeat(np.arange(begin, begin + len(columns)), N_VALUES) + 1
            table = np.column_stack([columns.ravel() + 1, cells, values.ravel().astype(int)])
            np.savetxt(handle, table, fmt="%d")
    with gzip.open(folder / "barcodes.tsv.gz", "wt") as handle:
        handle.writelines(f"AAACCTGAGAAACCAT-{i}\n" for i in range(n_cells))
    with gzip.open(folder / "features.tsv.gz", "wt") as handle:
        handle.writelines(f"{g}\t{g}\tGene Expression\n" for g in gene_ids(N_GENES))
    return folder


def write_loom(path: Path, n_cells: int) -> Path:
    import h5py

    with h5py.File(path, "w") as file:
        matrix = file.create_dataset(
            "matrix", (N_GENES, n_cells), "f4", chunks=(64, 64), compression="gzip"
        )
        for begin, columns, values in blocks(n_cells, N_VALUES):
            dense = np.zeros((N_GENES, len(columns)), dtype=np.float32)
            dense[columns.T, np.arange(len(columns))] = values.T
            matrix[:, begin : begin + len(columns)] = dense
        table = annotation(n_cells)
        file["col_attrs/CellID"] = table.index.to_list()
        for name in table.columns:
            file[f"col_attrs/{name}"] = table[name].astype(str).to_list()
        file["row_attrs/Accession"] = gene_ids(N_GENES)
    return path


def size_of(path: Path) -> int:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(p.stat().st_size for p in files)


def gib(n: float) -> str:
    return f"{n / 2**30:.2f}"


def scale_table(work: Path, n_cells: int) -> dict[str, Any]:
    rows = []
    for share, compression in ((4, None), (1, None), (1, "gzip")):
        n = n_cells // share
        path = write_h5ad(work / "big.h5ad", n, N_VALUES, compression)
        moved = 8 * n * N_VALUES
        limit = child(what="limit", path=str(path), to=str(work / "bytes"))
        peer = child(what="peer", path=str(path), to=str(work / "bytes"))
        (work / "bytes").unlink()
        ours = child(what="add", path=str(path), store=str(work / "store"))
        shutil.rmtree(work / "store")
        for name, found, bar in (
            ("okrcell add-cells", ours, f">= {BAR_CELLS} cells/s, < {BAR_RSS} GiB"),
            ("anndata backed loop, copy only (peer)", peer, ""),
            ("h5py read and write of the same bytes (limit)", limit, ""),
        ):
            rows.append(
                [
                    f"{n:,} cells, {compression or 'uncompressed'}, {gib(size_of(path))} GiB",
                    name,
                    f"{found['s']:.1f}",
                    f"{found['cpu']:.1f}",
                    f"{n / found['s']:,.0f}",
                    f"{moved / found['s'] / 1e6:,.0f}",
                    gib(found["rss"]),
                    bar,
                ]
            )
        path.unlink()
    return {
        "caption": f"h5ad to shards: {N_GENES:,} genes, {N_VALUES:,} non-zeros per cell",
        "columns": [
            "file",
            "what",
            "s",
            "CPU s",
            "cells/s",
            "MB/s of values",
            "peak RSS GiB",
            "bar",
        ],
        "rows": rows,
    }


def long_table(work: Path, n_cells: int) -> dict[str, Any]:
    rows = []
    for n in (n_cells, 5 * n_cells):
        path = write_h5ad(work / "long.h5ad", n, 10)
        found = child(what="add", path=str(path), store=str(work / "store"))
        rows.append([f"{n:,}", f"{found['s']:.1f}", f"{n / found['s']:,.0f}", gib(found["rss"])])
        shutil.rmtree(work / "store")
        path.unlink()
    return {
        "caption": "What a cell costs apart from its values: 10 non-zeros per cell",
        "columns": ["cells", "s", "cells/s", "peak RSS GiB"],
        "rows": rows,
    }


def format_table(work: Path, n_cells: int) -> dict[str, Any]:
    from scipy import sparse

    bare = {"set": {"cell_type": "unknown"}}

    def csc(path: Path, n: int) -> Path:
        data = as_anndata(n)
        data.X = sparse.csc_matrix(data.X)
        data.write_h5ad(path)
        return path

    def dense(path: Path, n: int) -> Path:
        data = as_anndata(n)
        data.X = data.X.toarray()
        data.write_h5ad(path, compression="gzip")
        return path

    def zarr(path: Path, n: int) -> Path:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # anndata announces another default format
            as_anndata(n).write_zarr(path)
        return path

    cases = (
        ("h5ad, CSC", csc, "csc.h5ad", n_cells // 4, {}),
        ("h5ad, dense, gzip", dense, "dense.h5ad", n_cells // 20, {}),
        ("zarr, CSR", zarr, "a.zarr", n_cells // 4, {}),
        ("10x .h5, gzip", write_tenx, "x.h5", n_cells // 4, bare),
        ("10x folder, gzip", write_mtx, "mtx", n_cells // 20, bare),
        ("loom, dense, gzip", write_loom, "a.loom", n_cells // 20, {}),
    )
    rows = []
    for name, write, file, n, how in cases:
        path = write(work / file, n)
        found = child(what="add", path=str(path), store=str(work / "store"), **how)
        rows.append(
            [
                name,
                f"{n:,}",
                gib(size_of(path)),
                f"{found['s']:.1f}",
                f"{n / found['s']:,.0f}",
                gib(found["rss"]),
                f"< {BAR_RSS} GiB",
            ]
        )
        shutil.rmtree(work / "store")
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return {
        "caption": "The other formats (each writes the same kind of matrix)",
        "columns": ["format", "cells", "file GiB", "s", "cells/s", "peak RSS GiB", "bar"],
        "rows": rows,
    }


def real_table(work: Path, data: Path) -> dict[str, Any]:
    rows = []
    for path in sorted((data / "cells").glob("*.h5ad")):
        labelled = "unlabelled" not in path.name
        how = {} if labelled else {"set": {"cell_type": "unknown"}}
        found = child(what="add", path=str(path), store=str(work / "store"), **how)
        shutil.rmtree(work / "store")
        if "refused" in found:
            rows.append([path.stem, "", f"refused: {found['refused']}", *[""] * 4])
            continue
        lost = {k: v for k, v in found["genes"].items() if k in ("ambiguous", "unknown")}
        rows.append(
            [
                path.stem,
                f"{found['cells']:,}",
                found["values"],
                f"{found['gene_coverage']:.3f}",
                str(sum(lost.values())),
                ", ".join(
                    f"{n} {k}" for k, n in found["labels"].get("cell_type", {"unknown": 1}).items()
                ),
                f"{found['s']:.1f}",
            ]
        )
    return {
        "caption": "Real files: values, genes and cell type labels",
        "columns": ["file", "cells", "values", "genes kept", "genes lost", "cell types", "s"],
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--only", default="scale,long,formats,real")
    parser.add_argument("--work", type=Path, default=None, help="folder for scratch files")
    args = parser.parse_args()
    began, load = time.perf_counter(), os.getloadavg()[0]
    makers = {
        "scale": lambda work: scale_table(work, args.cells),
        "long": lambda work: long_table(work, args.cells),
        "formats": lambda work: format_table(work, args.cells),
        "real": lambda work: real_table(work, args.data),
    }
    tables = []
    for name in args.only.split(","):
        with tempfile.TemporaryDirectory(dir=args.work) as work:
            tables.append(makers[name](Path(work)))
    report = {
        "title": "Cells: reading, speed and memory",
        "command": "python benchmarks/corpus/cells.py --data DATA --out FILE.json",
        "notes": [
            f"{os.cpu_count()} CPU cores, files in the page cache; every line is a process of its own.",
            f"Load average when it began {load:.1f}: with other work on the machine, seconds grow and "
            "CPU seconds hardly do.",
            "Seconds leave out importing; add-cells includes the hash of the source, checks, labels "
            "(about 3 s to read the ontologies, whatever the file), "
            "splits, tables, the hashes of what is written, and fsync.",
            "MB/s count 8 bytes per value (float32 and int32), whatever their size in the file.",
            f"The run took {time.perf_counter() - began:.0f} s.",
        ],
        "tables": tables,
    }
    publish(report, args.out)


if __name__ == "__main__":
    main()
