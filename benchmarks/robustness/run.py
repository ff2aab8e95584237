"""Robustness to mismatched pairs: every run of the grid, then docs/benchmarks/robustness.md.

python benchmarks/robustness/run.py --data ../shared/data --work FOLDER
python benchmarks/robustness/run.py --data ../shared/data --work FOLDER --only facs --jobs 2
python benchmarks/robustness/run.py --page

Every run leaves a file in the work folder; a killed grid goes on where it was, and several calls share
one grid. --tune chooses temperatures and one key of each objective, on training data alone. --list shows
what is done; --page writes the page again from the files of results/.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import threading
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from grid import ARMS, TUNED, Run, grid, key_of

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sections = list(grid())
    parser.add_argument("--data", type=Path, help="folder of development data")
    parser.add_argument("--work", type=Path, help="folder of stores and of a file per run")
    parser.add_argument("--only", nargs="*", choices=sections, default=sections)
    parser.add_argument("--arms", nargs="*", help="only these arms")
    parser.add_argument("--seeds", nargs="*", type=int, help="only these seeds")
    parser.add_argument(
        "--tune", nargs="*", choices=ARMS, metavar="ARM", help="choose keys of (some) arms"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--most", type=int, help="do no more runs than this")
    parser.add_argument("--list", action="store_true", help="show what is done, and do nothing")
    parser.add_argument("--page", action="store_true", help="write the page and do nothing else")
    arguments = parser.parse_args()
    if not arguments.page and arguments.work is None:
        parser.error("--work FOLDER is needed")
    if not (arguments.page or arguments.list) and arguments.data is None:
        parser.error("--data FOLDER is needed")
    if arguments.tune is not None:
        from tune import tune

        tune(arguments.tune, arguments.work, TUNED, lambda wanted: do_all(wanted, arguments))
        return
    if not arguments.page:
        wanted = [run for section in arguments.only for run in grid()[section]]
        wanted = [r for r in wanted if not arguments.arms or r.arm in arguments.arms]
        wanted = [r for r in wanted if arguments.seeds is None or r.seed in arguments.seeds]
        if arguments.list:
            show(wanted, arguments.work)
            return
        do(wanted, arguments)
    from page import write_page

    write_page(arguments.work if not arguments.page else None, HERE / "results")


def show(wanted: list[Run], work: Path) -> None:
    from results import is_done

    for run in wanted:
        state = "done" if is_done(work, key_of(run)) else "    "
        keys = " ".join(f"{name}={value}" for name, value in run.keys)
        print(state, key_of(run), run.data, run.tower, run.arm, run.kind, run.rate, f"seed {run.seed}", run.text, keys)  # fmt: skip
    print(f"{sum(is_done(work, key_of(run)) for run in wanted)} of {len(wanted)} runs are done")


def do_all(wanted: list[Run], arguments: argparse.Namespace) -> None:
    """Do the runs that are left, and wait for those that another call does."""
    from results import is_done

    while not do(wanted, arguments) and not all(is_done(arguments.work, key_of(r)) for r in wanted):
        time.sleep(5)


def do(wanted: list[Run], arguments: argparse.Namespace) -> int:
    """Do the runs that are left, in processes of one thread; return how many failed."""
    from results import is_done

    left = list(
        {key_of(run): run for run in wanted if not is_done(arguments.work, key_of(run))}.values()
    )
    left = left[: arguments.most] if arguments.tune is None else left
    print(f"{len(wanted) - len(left)} of {len(wanted)} runs are done", flush=True)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    start, failed = time.monotonic(), 0
    places = [(run, arguments.data, arguments.work) for run in left]
    context = multiprocessing.get_context("spawn")
    jobs = max(1, arguments.jobs)
    with ProcessPoolExecutor(jobs, context, follow, (os.getpid(),)) as pool:
        for number, (said, is_good) in enumerate(pool.map(one, places), 1):
            failed += not is_good
            left_s = (time.monotonic() - start) / number * (len(left) - number)
            print(f"{number}/{len(left)} {said}, {left_s / 60:.0f} minutes left", flush=True)
    if failed:
        print(f"{failed} runs failed; the reasons stand above, and the next call tries them again")
    return failed


def follow(parent: int) -> None:
    """End this process once the one that started it is gone, killed or not."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def one(place: tuple[Run, Path, Path]) -> tuple[str, bool]:
    """Do a run, unless another process does it; return what to say, and whether it went well."""
    run, data, work = place
    from filelock import FileLock, Timeout
    from results import is_done, keep

    key = key_of(run)
    name = f"{run.data} {run.tower} {run.title} {run.kind} {run.rate} seed {run.seed}"
    (work / "locks").mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(work / "locks" / f"{key}.lock", timeout=0):
            if is_done(work, key):
                return f"{name}: done elsewhere", True
            from measure import measure

            found = measure(run, data, work, work / "scratch" / key)
            keep(work, key, run, found)
    except Timeout:
        return f"{name}: another process does it", True
    except Exception:  # noqa: BLE001  one bad run must not end a grid of hours; it is said and counted
        return f"{name}: FAILED\n{traceback.format_exc()}", False
    numbers = found["numbers"]
    if "last" not in numbers:
        return f"{name} {dict(run.keys)}: validation {numbers['validation']['accuracy']:.3f}", True
    detected = numbers["detection"]
    said = f"{name}: {numbers['last']['accuracy']:.3f} (best {numbers['best']['accuracy']:.3f})"
    if detected:
        said += f", AUROC {detected['auroc']:.3f}"
    return f"{said}, {numbers['seconds']['all']:.0f} s", True


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
