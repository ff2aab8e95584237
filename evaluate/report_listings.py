"""The plain tables of a report: types, paired tests, candidate sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from okrcell.evaluate.report_data import Dataset, Evaluation, slug
from okrcell.evaluate.report_names import metric_name, scope_name

__all__ = ["Listing", "candidate_table", "comparison_table", "per_class_table", "type_table"]


@dataclass(frozen=True)
class Listing:
    """A plain table; ``numeric`` are the columns of numbers."""

    name: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[int] = field(default_factory=frozenset)
    is_values: bool = False

    def records(self) -> list[list[str]]:
        """Return header and rows for a CSV file."""
        return [list(self.columns), *(list(row) for row in self.rows)]


def per_class_table(ev: Evaluation, dataset: Dataset, number: int) -> list[Listing]:
    """Return precision, recall and F1 per type of the main method, where it left them."""
    details = dataset.details("annotation")
    method = ev.main if ev.main in details else next(iter(details), "")
    per_class = details.get(method, {}).get("per_class") or []
    if not per_class:
        return []
    rows = [
        [str(entry["type"]), str(entry["n"])]
        + [
            f"{entry[key]:z.2f}" if entry[key] is not None else "–"
            for key in ("precision", "recall", "f1")
        ]
        for entry in per_class
    ]
    head = scope_name(str(details[method].get("head", "linear")))
    return [
        Listing(
            f"annotation-{number}-{slug(dataset.key)}-per-class",
            f"Per type: {method}, {head}",
            ("Cell type", "Test cells", "Precision", "Recall", "F1"),
            rows,
            frozenset({1, 2, 3, 4}),
        )
    ]


def candidate_table(dataset: Dataset, number: int) -> list[Listing]:
    """Return the open candidate sets of zero-shot, with the commonest errors of each method."""
    rows = []
    for method, part in dataset.details("zero_shot").items():
        for name, found in (part.get("open") or {}).items():
            wrong = "; ".join(f"{a} → {b} ({n})" for a, b, n in found.get("top_wrong", [])[:3])
            rows.append([name, f"{found.get('n_candidates', 0):,}", method, wrong or "–"])
    if not rows:
        return []
    rows.sort(key=lambda row: row[0])
    return [
        Listing(
            f"zero-shot-{number}-{slug(dataset.key)}-candidates",
            "Candidate sets, and the commonest errors (true → predicted, cells)",
            ("Candidates", "How many", "Method", "Commonest errors"),
            rows,
            frozenset({1}),
        )
    ]


def comparison_table(ev: Evaluation, limit: int | None = None) -> Listing | None:
    """Return the paired tests, the clear ones first; beyond ``limit`` only those of the main method."""
    rows = list(ev.comparisons)
    if not rows:
        return None
    if limit is not None and len(rows) > limit:
        rows = [row for row in rows if ev.main in (row["method_a"], row["method_b"])]
    rows.sort(
        key=lambda row: (
            row["p_adjusted"] is None or row["p_adjusted"] >= 0.05,
            row["p_adjusted"] if row["p_adjusted"] is not None else 2.0,
            -abs(row["difference"] or 0.0),
        )
    )
    cells = [
        [
            row["dataset"],
            metric_name(row["metric"]),
            row["method_a"],
            row["method_b"],
            _signed(row["difference"]),
            f"{_signed(row['ci_low'])} to {_signed(row['ci_high'])}",
            _p(row["p"]),
            _p(row["p_adjusted"]),
            f"{row['n']:,}",
        ]
        for row in rows
    ]
    return Listing(
        "comparisons",
        "",
        ("Dataset", "Metric", "a", "b", "a − b", "95 % interval", "p", "p, Holm", "Cells"),
        cells,
        frozenset({4, 5, 6, 7, 8}),
    )


def _signed(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:+z.1f}" if abs(value) > 1 else f"{value:+z.3f}"


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def type_table(dataset: Dataset, number: int) -> Listing:
    """Return the types of the test cells, their number, and whether they occur in train."""
    data = dataset.data
    unseen, seen = set(data.get("unseen") or ()), set(data.get("seen") or ())
    rows = [
        [
            name,
            "unseen" if name in unseen else "seen" if name in seen else "validation only",
            f"{n}",
        ]
        for name, n in (data.get("test_types") or {}).items()
    ]
    return Listing(
        f"types-{number}-{slug(dataset.key)}",
        "Test cells by type",
        ("Cell type", "In training", "Test cells"),
        rows,
        frozenset({2}),
    )
