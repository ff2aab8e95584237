"""What every corpus benchmark does at its end: print its tables, write its JSON; and its own peak memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


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
