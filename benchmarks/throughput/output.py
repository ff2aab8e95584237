"""Makes ``benchmarks/pages.py`` importable by the scripts of this folder."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from pages import peak_bytes, publish, run_all

__all__ = ["peak_bytes", "publish", "run_all"]
