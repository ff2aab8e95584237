"""What every benchmark does at its end (tables printed, JSON written), and the page made of several.

Benchmarks are scripts in folders of their own; each folder's ``output.py`` makes this module importable.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["peak_bytes", "publish", "run_all"]


def publish(result: dict[str, Any], out: Path) -> None:
    """Print the tables and notes, and write the JSON that ``run.py`` makes a page of."""
    for table in result["tables"]:
        lines = [[str(cell) for cell in line] for line in (table["columns"], *table["rows"])]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        print(f"\n{table['caption']}")
        for line in lines:
            print(
                "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip(),
                flush=True,
            )
    print("\n" + "\n".join(f"- {note}" for note in result["notes"]))
    out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def peak_bytes() -> int:
    """Return the most memory this program has had resident.

    Not ``ru_maxrss``, which a process inherits from the one that started it.
    """
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("VmHWM:") + 1]) * 1024


def run_all(here: Path, names: Sequence[str], title: str, page: str, about: str) -> None:
    """Run a folder's benchmarks one after the other, each in a process, and write their page.

    Parameters
    ----------
    here
        Folder of the scripts.
    names
        Scripts without ``.py``, in the order of the page.
    page
        Name of the page under ``docs/benchmarks``.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--data", type=Path, required=True, help="folder of development data")
    parser.add_argument(
        "--only", nargs="*", choices=names, default=list(names), help="none: just the page"
    )
    parser.add_argument("--results", type=Path, default=here / "results", help="JSON per benchmark")
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    machine = f"{os.cpu_count()} cores of {_processor()}, Python {platform.python_version()}"
    for name in arguments.only:
        out, start = arguments.results / f"{name}.json", time.monotonic()
        command = [sys.executable, str(here / f"{name}.py"), "--data", str(arguments.data)]
        subprocess.run([*command, "--out", str(out)], check=True)
        result = json.loads(out.read_text())
        result |= {"machine": machine, "date": time.strftime("%Y-%m-%d")}
        result["seconds"] = time.monotonic() - start
        out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    lines = [
        f"# {title}",
        "",
        f"Written by `python benchmarks/{here.name}/run.py --data DATA`; every figure is from a run of the command above it.",
        "A bar is what the project set itself before measuring.",
        "",
    ]
    for name in names:
        path = arguments.results / f"{name}.json"
        if path.exists():
            lines += _section(json.loads(path.read_text()))
    target = here.parents[1] / "docs" / "benchmarks" / page
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), "")


def _section(result: dict[str, Any]) -> list[str]:
    lines = [f"## {result['title']}", "", "```sh", result["command"], "```", ""]
    for table in result["tables"]:
        lines += [f"**{table['caption']}**", ""]
        lines.append("| " + " | ".join(map(str, table["columns"])) + " |")
        lines.append("|" + "---|" * len(table["columns"]))
        lines += ["| " + " | ".join(map(str, row)) + " |" for row in table["rows"]]
        lines.append("")
    lines += [f"- {note}" for note in result["notes"]]
    if "machine" in result:
        lines.append(f"- Run on {result['machine']}, {result['date']}, {result['seconds']:.0f} s.")
    return [*lines, ""]
