"""What the numbers say of the main method, in sentences: the good and the bad."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from okrcell.evaluate.report_data import Dataset, Evaluation
from okrcell.evaluate.summary import clear_best, compare, headline, is_lower_better, no_rivals

__all__ = ["verdict"]


def verdict(ev: Evaluation) -> list[str]:
    """Return what the numbers say of the main method, the good and the bad, in sentences."""
    asked = [question for dataset in ev.datasets for question in _questions(ev, dataset)]
    if not asked:
        return [f"No headline number was measured for {ev.main or 'any method'}."]
    best = [q for q in asked if q["best"] == ev.main]
    behind = [q for q in asked if q["better"]]
    level = len(asked) - len(best) - len(behind)
    how = (
        "by paired tests, corrected for their number,"
        if ev.comparisons
        else "beyond the 95 % intervals"
    )
    said = [
        f"{_where(ev)}, {ev.main} is the best method {how} in {len(best)} of {len(asked)} headline "
        f"numbers, behind at least one other in {len(behind)}, and not to be told apart from the best "
        f"in {level}."
    ]
    said += _zero_shot_sentence(ev)
    if best:
        said.append(f"Best in {_gathered(best, len(ev.datasets))}.")
    if behind:
        said.append(f"Behind in {_gathered(behind, len(ev.datasets), ev.main)}.")
    others = [name for name in ev.details.get("asked") or () if name != ev.main]
    others += [name for name in ev.details.get("checkpoints") or () if name != ev.main]
    for other in dict.fromkeys(others):
        known = [how for how in (q["against"](other) for q in asked) if how is not None]
        if known:
            said.append(
                f"Against {other}: ahead in {known.count(1)}, behind in {known.count(-1)}, "
                f"level in {known.count(0)} of {len(known)} headline numbers."
            )
    return said


def _where(ev: Evaluation) -> str:
    n_test = sum(dataset.data.get("n_test", 0) for dataset in ev.datasets)
    if len(ev.datasets) > 1:
        return f"On {n_test:,} test cells of {len(ev.datasets)} datasets"
    data = ev.datasets[0].data
    unseen = len(data.get("unseen") or ())
    tail = f", {unseen} of them without train cells" if unseen else ", all of them with train cells"
    return (
        f"On {n_test:,} test cells of {ev.datasets[0].key} "
        f"({len(data.get('test_types') or ())} types{tail})"
    )


def _questions(ev: Evaluation, dataset: Dataset) -> list[dict[str, Any]]:
    """Return one entry per headline number of a dataset that the main method has."""
    rows = [row for row in ev.rows if row["dataset"] == dataset.key]
    found = []
    for line in headline(rows):
        metric, values = line["metric"], line["values"]
        if ev.main not in values or values[ev.main]["value"] is None:
            continue
        decided = ev.decided.get((dataset.key, line["task"], metric))

        def against(
            other: str,
            metric: str = metric,
            values: Mapping[str, Any] = values,
            decided: Any = decided,
        ) -> int | None:
            return compare(metric, values, ev.main, other, decided)

        rivals = sorted(set(values) - {ev.main} - no_rivals(metric))
        found.append(
            {
                **line,
                "dataset": dataset.key,
                "best": clear_best(metric, values, decided),
                "better": [name for name in rivals if against(name) == -1],
                "against": against,
            }
        )
    return found


def _gathered(questions: Sequence[Mapping[str, Any]], n_datasets: int, main: str = "") -> str:
    """Name the headline numbers by task; with several datasets, each once and on how many of them.

    With ``main`` on one dataset its value stands beside that of the best that beats it.
    """
    found: dict[str, list[str]] = {}
    counts: dict[tuple[str, str], int] = {}
    for q in questions:
        key = q["task_name"].lower(), q["metric_name"]
        counts[key] = counts.get(key, 0) + 1
        words = q["metric_name"]
        if main and n_datasets == 1:
            sign = -1 if is_lower_better(q["metric"]) else 1
            best = max(q["better"], key=lambda name: sign * q["values"][name]["value"])
            words += f" {q['values'][main]['value']:.2f}; {best} {q['values'][best]['value']:.2f}"
        found.setdefault(key[0], []).append(words)
    if n_datasets > 1:
        found = {task: [] for task, _ in counts}
        for (task, metric), n in counts.items():
            found[task].append(f"{metric}: {n} of {n_datasets}")
    return "; ".join(f"{task} ({' | '.join(words)})" for task, words in found.items())


def _zero_shot_sentence(ev: Evaluation) -> list[str]:
    """Return the shares of cells that are named right, for one dataset."""
    if len(ev.datasets) != 1:
        return []
    rows = ev.of(ev.datasets[0].key, "zero_shot")
    parts = []
    for metric, words in (("accuracy (seen)", "seen"), ("accuracy (unseen)", "unseen")):
        values = {row["method"]: row for row in rows if row["metric"] == metric}
        mine = values.pop(ev.main, None)
        if mine is None or mine["value"] is None:
            continue
        known = {name: row for name, row in values.items() if row["value"] is not None}
        best = max(known, key=lambda name: known[name]["value"], default=None)
        beside = f"; best other, {best}: {_percent(known[best]['value'])}" if best else ""
        spread = (
            f" (interval {_percent(mine['ci_low'])} to {_percent(mine['ci_high'])})"
            if mine["ci_low"] is not None and mine["ci_high"] is not None
            else ""
        )
        parts.append(f"{_percent(mine['value'])}{spread} of the cells of {words} types{beside}")
    if not parts:
        return []
    n_types = len(ev.datasets[0].data.get("test_types") or ())
    return [
        f"By text alone it names the right one of {n_types} types for {', and for '.join(parts)}. Seen "
        "types have cells in the train split of these data; unseen types have none."
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
