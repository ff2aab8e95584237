"""Run the enrichment benchmarks one after the other and write docs/benchmarks/enrich.md.

python benchmarks/enrich/run.py --data ../shared/data
python benchmarks/enrich/run.py --data ../shared/data --only planted faults
"""

from pathlib import Path

from output import run_all

NAMES = ("planted", "experts", "worth", "faults", "throughput")

if __name__ == "__main__":
    run_all(Path(__file__).parent, NAMES, "Enrichment benchmarks", "enrich.md", __doc__)
