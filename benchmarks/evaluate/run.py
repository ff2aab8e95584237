"""Run the evaluation benchmarks one after the other and write docs/benchmarks/evaluate.md.

python benchmarks/evaluate/run.py --data ../shared/data
python benchmarks/evaluate/run.py --data ../shared/data --only metrics scale
"""

from pathlib import Path

from output import run_all

NAMES = ("suite", "metrics", "scale")

if __name__ == "__main__":
    run_all(Path(__file__).parent, NAMES, "Evaluation benchmarks", "evaluate.md", __doc__)
