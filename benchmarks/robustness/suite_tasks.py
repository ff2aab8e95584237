"""The tasks of the evaluation suite on a run, by the code behind ``okrcell evaluate run``."""

from __future__ import annotations

from pathlib import Path

__all__ = ["SUITE_NUMBERS", "suite_numbers"]

SUITE_NUMBERS = {
    "zero-shot accuracy": ("zero_shot", "accuracy (all)"),
    "zero-shot macro-F1": ("zero_shot", "macro_f1 (all)"),
    "annotation accuracy": ("annotation", "accuracy (linear)"),
    "few-shot accuracy, 9 shots": ("few_shot", "accuracy (prototype, K=9)"),
    "clustering AvgBIO": ("clustering", "avg_bio (label-free)"),
    "retrieval R@1, graded": ("retrieval", "R@1 (cell to text, graded)"),
}
"""As the page calls it, to task and metric of the table of results."""


def suite_numbers(run: Path, store: Path, job: Path) -> dict[str, float]:
    """Return the numbers of one trained run; its weights are those of the key ``keep``."""
    from okrcell.evaluate.annotation import annotation
    from okrcell.evaluate.clustering import clustering
    from okrcell.evaluate.config import EvaluateConfig
    from okrcell.evaluate.few_shot import few_shot
    from okrcell.evaluate.libraries import one_thread
    from okrcell.evaluate.retrieval import retrieval
    from okrcell.evaluate.specs import parse_methods
    from okrcell.evaluate.stores import load_store
    from okrcell.evaluate.zero_shot import zero_shot

    # One seed and few resamples: what is shown are ranges over the seeds of training.
    config = EvaluateConfig(
        seeds=1,
        bootstrap=100,
        shots=(9,),
        open_candidates=(),
        allow_named_types=True,
        max_cells=1000,
    )
    data = load_store(store, job, allow_named_types=True)
    (method,) = parse_methods([f"model={run}"], config)
    found: dict[tuple[str, str], float] = {}
    with one_thread():
        output = method.embed(data, config.seed)
        for task in (clustering, annotation, few_shot, zero_shot, retrieval):
            rows = task(output, data, config).rows
            found |= {(row.task, row.metric): row.value for row in rows}
    return {name: found[key] for name, key in SUITE_NUMBERS.items() if key in found}
