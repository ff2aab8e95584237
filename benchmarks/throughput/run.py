"""Run the throughput benchmarks one after the other and write docs/benchmarks/throughput.md.

python benchmarks/throughput/run.py --data ../shared/data
python benchmarks/throughput/run.py --data ../shared/data --only encoder step

They want a quiet machine. The loader's peer scDataset is no dependency: ``pip install scDataset`` first.
"""

from pathlib import Path

from output import run_all

NAMES = ("floors", "encoder", "step", "loader", "neighbours")

if __name__ == "__main__":
    run_all(Path(__file__).parent, NAMES, "Throughput of training", "throughput.md", __doc__)
