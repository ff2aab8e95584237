"""Run the corpus benchmarks one after the other and write docs/benchmarks/corpus.md.

Each is a script of its own in a process of its own, so that memory is measured for it alone:

    python benchmarks/corpus/run.py --data ../shared/data
    python benchmarks/corpus/run.py --data ../shared/data --only labels passages
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "benchmarks" / "corpus.md"
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


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), "")


def section(result: dict) -> list[str]:
    lines = [f"## {result['title']}", "", "```sh", result["command"], "```", ""]
    for table in result["tables"]:
        lines += [f"**{table['caption']}**", ""]
        lines.append("| " + " | ".join(map(str, table["columns"])) + " |")
        lines.append("|" + "---|" * len(table["columns"]))
        lines += ["| " + " | ".join(map(str, row)) + " |" for row in table["rows"]]
        lines.append("")
    lines += [f"- {note}" for note in result["notes"]]
    lines.append(f"- Run on {result['machine']}, {result['date']}, {result['seconds']:.0f} s.")
    return [*lines, ""]


def write_page(results: Path) -> None:
    lines = [
        "# Corpus benchmarks",
        "",
        "Written by `python benchmarks/corpus/run.py --data DATA`; every figure is from a run of the command above it.",
        "A bar is what the project set itself before measuring.",
        "",
    ]
    for name in NAMES:
        path = results / f"{name}.json"
        if path.exists():
            lines += section(json.loads(path.read_text()))
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text("\n".join(lines).rstrip() + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of development data")
    parser.add_argument(
        "--only", nargs="*", choices=NAMES, default=list(NAMES), help="none: just the page"
    )
    parser.add_argument("--results", type=Path, default=HERE / "results", help="JSON per benchmark")
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    machine = f"{os.cpu_count()} cores of {processor()}, Python {platform.python_version()}"
    for name in arguments.only:
        out = arguments.results / f"{name}.json"
        start = time.monotonic()
        command = [
            sys.executable,
            str(HERE / f"{name}.py"),
            "--data",
            str(arguments.data),
            "--out",
            str(out),
        ]
        subprocess.run(command, check=True)
        result = json.loads(out.read_text())
        result |= {
            "machine": machine,
            "date": time.strftime("%Y-%m-%d"),
            "seconds": time.monotonic() - start,
        }
        out.write_text(json.dumps(result, indent=1) + "\n")
    write_page(arguments.results)


if __name__ == "__main__":
    main()
