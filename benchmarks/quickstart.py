"""Time and memory of the quickstart, stage by stage: ``make bench``.

Runs ``okrcell quickstart`` in a process of its own, in an empty folder, and prints a Markdown table.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "okrcell",
                "quickstart",
                "--out",
                str(Path(folder) / "out"),
                "--json",
            ],
            stdout=subprocess.PIPE,
            check=True,
        )
        total = time.monotonic() - start
    seconds = json.loads(done.stdout)["seconds"]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    print("| stage | seconds |\n| --- | ---: |")
    for stage, value in seconds.items():
        print(f"| {stage} | {value:.1f} |")
    print(f"| whole command, imports included | {total:.1f} |")
    print(f"\nPeak memory {peak:.2f} GB.")


if __name__ == "__main__":
    main()
