"""Zero-shot on studies that are left out whole: every run, then docs/benchmarks/generalisation.md.

python benchmarks/generalisation/run.py --data ../shared/data --work FOLDER
python benchmarks/generalisation/run.py --data ../shared/data --work FOLDER --arms naive recipe --seeds 0
python benchmarks/generalisation/run.py --page

Every run leaves its vectors in the work folder, so a killed benchmark goes on where it was, and several
calls share one folder. --list shows what is done; --page writes the page from results/ alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "generalisation.json"


def main() -> None:
    from arms import ARMS, SEEDS, runs

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of development data")
    parser.add_argument("--work", type=Path, help="folder of stores, runs and vectors")
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--list", action="store_true", help="show what is done, and do nothing")
    parser.add_argument("--page", action="store_true", help="write the page and do nothing else")
    arguments = parser.parse_args()
    if not arguments.page and (arguments.data is None or arguments.work is None):
        parser.error("--data FOLDER and --work FOLDER are needed, or --page")
    if not arguments.page:
        from models import is_done, vectors_of

        wanted = list(runs(arguments.arms, tuple(arguments.seeds)))
        if arguments.list:
            for run in wanted:
                print("done" if is_done(run, arguments.work) else "    ", run.key)
            return
        for run in wanted:
            vectors_of(run, arguments.data, arguments.work)
        from table import write_results

        write_results(arguments.data, arguments.work, arguments.arms, arguments.seeds, RESULTS)
    from page import write_page

    write_page(RESULTS, HERE.parents[1] / "docs" / "benchmarks" / "generalisation.md")


if __name__ == "__main__":
    main()
