"""Run the corpus benchmarks one after the other and write docs/benchmarks/corpus.md.

Each is a script of its own in a process of its own, so that memory is measured for it alone:

    python benchmarks/corpus/run.py --data ../shared/data
    python benchmarks/corpus/run.py --data ../shared/data --only labels passages
"""

from pathlib import Path

from output import run_all

NAMES = (
    "labels",
    "passages",
    "genes",
    "literature",
    "ontology",
    "embedding",
    "index",
    "cells",
)

if __name__ == "__main__":
    run_all(Path(__file__).parent, NAMES, "Corpus benchmarks", "corpus.md", __doc__)
