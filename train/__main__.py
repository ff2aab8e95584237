"""``python -m okrcell.train run ...``: what torchrun starts, once per process."""

from __future__ import annotations

from okrcell.console import run
from okrcell.train.commands import app

if __name__ == "__main__":
    run(app)
