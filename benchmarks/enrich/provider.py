"""The stand-in provider of the tests in a process of its own, and jobs to send to it."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from okrcell.corpus import ontology
from okrcell.corpus.knowledge import Snippet
from okrcell.schemas import TABLES

__all__ = ["Provider", "Terms", "profiles", "provider"]

SERVER = Path(__file__).parents[2] / "tests" / "openai_server.py"
TISSUES = [term for term in ontology.terms("uberon") if term.definition][:400]


class Provider:
    """The running server, seen from outside."""

    def __init__(self, url: str) -> None:
        self.url, self._admin = url, url.removesuffix("/v1") + "/admin"

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self._admin}/stats", timeout=60) as reply:
            found: dict[str, Any] = json.load(reply)
        return found


@contextmanager
def provider(**options: object) -> Iterator[Provider]:
    """Run the server; options are its flags."""
    flags = [part for k, v in options.items() for part in (f"--{k.replace('_', '-')}", str(v))]
    command = [sys.executable, str(SERVER), "--port", "0", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            yield Provider(child.stdout.readline().split()[-1])
        finally:
            child.terminate()


class Terms:
    """The Cell Ontology and Uberon as knowledge: definitions, found by id alone."""

    fingerprint = "terms"
    sources = ("cl", "uberon")

    def of_document(self, doc_id: str) -> list[Snippet]:
        term = ontology.get_term(doc_id)
        if term is None or not term.definition:
            return []
        text = f"{term.label}: {term.definition}"
        return [Snippet(f"s-{doc_id}", doc_id, term.ontology, "", text)]

    def search(self, query: str, **keys: object) -> list[Snippet]:
        return []


def profiles(n: int) -> pa.Table:
    """Return ``n`` distinct profiles: every defined cell type in one tissue, then in another, and so on."""
    cells = [term for term in ontology.terms("cl") if term.definition]
    rows = []
    for number in range(n):
        cell, tissue = cells[number % len(cells)], TISSUES[number // len(cells)]
        row = dict.fromkeys(TABLES["profiles"].schema.names, "") | {"n_cells": 1000}
        row |= {"profile_id": f"p{number:06d}", "cell_type": cell.label, "tissue": tissue.label}
        row["cell_type_ontology_term_id"] = cell.term_id
        row["tissue_ontology_term_id"] = tissue.term_id
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=TABLES["profiles"].schema)
