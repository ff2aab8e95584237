"""The tables of the page, from the lines of the summary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from grid import ARMS
from sources import DATA
from targets import targets

__all__ = [
    "Table",
    "ablation_tables",
    "accuracy_table",
    "detection_table",
    "means_table",
    "secondary_table",
    "swap_table",
    "target_table",
    "tuning_table",
]

ORACLE, OURS = "clean_oracle", "cra_plus"
_ORDER = [ORACLE, OURS, *(arm for arm in ARMS if arm not in {ORACLE, OURS})]
_KINDS = ("uniform", "sibling", "donor", "expression")
_NONE = "–"

Lines = list[dict[str, Any]]


@dataclass(frozen=True)
class Table:
    """A table of strings."""

    caption: str
    columns: list[str]
    rows: list[list[str]]


def target_table(found: dict[str, Any]) -> Table:
    """Return what was asked, and what came of it."""
    columns = ["target", "bar", "best checkpoint", "", "last checkpoint", ""]
    caption = "Targets, in points of zero-shot accuracy unless said; 95 % intervals"
    return Table(caption, columns, [list(row) for row in targets(found)])


def accuracy_table(lines: Lines, data: str, tower: str, checkpoint: str) -> Table:
    """Return accuracy, macro-F1 and the distance to the oracle, a row per arm and a column per noise."""
    here = [line for line in lines if line["data"] == data and line["tower"] == tower]
    noises = sorted(
        {(line["kind"], line["rate"]) for line in here}, key=lambda n: (_KINDS.index(n[0]), n[1])
    )
    by_noise = {(line["arm"], line["kind"], line["rate"]): line for line in here}
    rows = []
    for arm in _ORDER:
        found = [by_noise.get((arm, *noise)) for noise in noises]
        if any(found):
            rows.append([arm, *(_accuracy_cell(line, checkpoint) for line in found)])
    seeds = sorted({len(line["seeds"]) for line in here})
    caption = (
        f"{DATA[data].name}, {tower}, {checkpoint} checkpoint: accuracy / macro-F1 in %, and points of "
        f"accuracy over the oracle ({' to '.join(map(str, seeds))} seeds)"
    )
    return Table(caption, ["objective", *(_noise(*noise) for noise in noises)], rows)


def means_table(means: Lines) -> Table:
    """Return every arm's mean distance to the oracle over data sets, at 40 % uniform mismatch."""
    found = {(m["arm"], m["checkpoint"]): m for m in means if m["rival"] == ORACLE}
    rows = []
    for arm in _ORDER:
        cells = [found.get((arm, checkpoint)) for checkpoint in ("best", "last")]
        if any(cells):
            data = next(cell["data"] for cell in cells if cell)
            said = [_points(cell) if cell else _NONE for cell in cells]
            rows.append([arm, *said, ", ".join(DATA[name].name for name in data)])
    columns = ["objective", "best checkpoint", "last checkpoint", "data sets"]
    caption = "40 % uniform mismatch, mean over data sets: points of accuracy over the oracle"
    return Table(caption, columns, rows)


def swap_table(lines: Lines) -> Table:
    """Return what a swap of two types' labels in 40 % of the donors does, on the data that name donors."""
    found = [line for line in lines if line["kind"] == "donor" and line["tower"] == "mlp"]
    rows = []
    for line in sorted(found, key=_place):
        gaps = [line["against"].get(ORACLE, {}).get(c) for c in ("best", "last")]
        detected = line["detection"]
        rows.append(
            [
                DATA[line["data"]].name,
                line["arm"],
                f"{line['planted']:.0%}",
                *(f"{line[c]['accuracy']['value']:.1f}" for c in ("best", "last")),
                *(_points(gap) if gap else _NONE for gap in gaps),
                _ranged(detected["auroc"]) if detected else _NONE,
            ]
        )
    columns = [
        "data", "objective", "pairs changed", "best, %", "last, %", "best, over the oracle", "last, over the oracle",
        "AUROC",
    ]  # fmt: skip
    return Table("Two types swapped in 40 % of the training donors", columns, rows)


def _noise(kind: str, rate: float) -> str:
    return f"{kind} {rate:.0%}" if rate else "none"


def _accuracy_cell(line: dict[str, Any] | None, checkpoint: str) -> str:
    if line is None:
        return _NONE
    numbers = line[checkpoint]
    said = f"{numbers['accuracy']['value']:.1f} / {numbers['macro_f1']['value']:.1f}"
    gap = line["against"].get(ORACLE, {}).get(checkpoint)
    return said if gap is None else f"{said}<br>{_points(gap)}"


def _points(value: dict[str, float]) -> str:
    return f"{value['value']:+.1f} [{value['low']:+.1f}, {value['high']:+.1f}]"


def detection_table(lines: Lines) -> Table:
    """Return how well each reliability finds the planted pairs."""
    columns = [
        "data",
        "noise",
        "pairs changed",
        "objective",
        "AUROC",
        "precision",
        "Brier",
        "ECE",
        "repaired",
    ]
    keys = ("auroc", "precision", "brier", "ece", "repaired")
    rows = [
        [
            DATA[line["data"]].name + ("" if line["tower"] == "mlp" else f", {line['tower']}"),
            _noise(line["kind"], line["rate"]),
            f"{line['planted']:.0%}",
            line["arm"],
            *(_ranged(line["detection"].get(key)) for key in keys),
        ]
        for line in sorted(lines, key=_place)
        if line["detection"]
    ]
    return Table("Detection of planted mismatches (range over seeds)", columns, rows)


def _place(line: dict[str, Any]) -> tuple[Any, ...]:
    return (
        list(DATA).index(line["data"]),
        line["tower"],
        _KINDS.index(line["kind"]),
        line["rate"],
        _ORDER.index(line["arm"]),
    )


def _ranged(value: dict[str, float] | None) -> str:
    if value is None:
        return _NONE
    if value["low"] == value["high"]:
        return f"{value['value']:.3f}"
    return f"{value['value']:.3f} ({value['low']:.2f} to {value['high']:.2f})"


def secondary_table(lines: Lines) -> Table:
    """Return every objective on FACS at 40 %: accuracy, retrieval, few-shot."""
    names = {
        "cell to text, right among 5": "cell to text, R@5",
        "text to cell, precision at 10": "text to cell, P@10",
        "few-shot, prototype": "few-shot, prototype",
        "few-shot, logistic": "few-shot, logistic",
    }
    rows = []
    for line in sorted(lines, key=_place):
        if line["data"] == "facs" and line["tower"] == "mlp" and line["rate"] == 0.4:
            for checkpoint in ("best", "last"):
                numbers = line[checkpoint]
                gap = line["against"].get(ORACLE, {}).get(checkpoint)
                rows.append(
                    [
                        line["kind"], line["arm"], checkpoint,
                        f"{numbers['accuracy']['value']:.1f}",
                        _points(gap) if gap else _NONE,
                        *(f"{100 * numbers[name]:.1f}" for name in names),
                    ]
                )  # fmt: skip
    columns = [
        "noise",
        "objective",
        "checkpoint",
        "zero-shot (R@1)",
        "over the oracle",
        *names.values(),
    ]
    return Table("FACS, 40 % mismatched, all objectives: %", columns, rows)


def ablation_tables(lines: Lines) -> list[Table]:
    """Return the paper's table, the 2 x 2 of texts and objectives, and the parts of cra_plus."""
    groups = {
        "The paper's ablation: cra_paper with its bank (CMMB), complementary loss (CCA) and weighting (PSW)": [
            line for line in lines if line["arm"].startswith("cra_paper: ")
        ],
        "The 2 x 2 that the paper leaves out: text x objective": [
            line for line in lines if " on " in line["arm"]
        ],
        "cra_plus without each of its parts": [
            line for line in lines if line["arm"].startswith(f"{OURS}: ")
        ],
    }
    return [_ablation(name, of) for name, of in groups.items() if of]


def _ablation(caption: str, lines: Lines) -> Table:
    names = list(dict.fromkeys(name for line in lines for name in line["suite"]))
    rows = []
    whole = f"{OURS}: all"
    has_gap = any(whole in line["against"] for line in lines)
    for line in sorted(lines, key=lambda line: (_KINDS.index(line["kind"]), line["rate"])):
        gap = line["against"].get(whole, {}).get("last")
        detected = line["detection"]
        rows.append(
            [
                _noise(line["kind"], line["rate"]),
                line["arm"].removeprefix("cra_paper: ").removeprefix(f"{OURS}: "),
                f"{line['best']['accuracy']['value']:.1f}",
                f"{line['last']['accuracy']['value']:.1f}",
                *([_points(gap) if gap else _NONE] if has_gap else []),
                f"{detected['auroc']['value']:.3f}" if detected else _NONE,
                *(
                    f"{100 * line['suite'][n]['value']:.1f}" if n in line["suite"] else _NONE
                    for n in names
                ),
            ]
        )
    columns = [
        "noise", "variant", "zero-shot, best", "zero-shot, last",
        *(["last, against all parts"] if has_gap else []), "AUROC", *(f"suite: {n}" for n in names),
    ]  # fmt: skip
    return Table(
        f"{caption} (FACS, mlp; %; the suite's tasks on the last checkpoint)", columns, rows
    )


def tuning_table(
    table: dict[str, list[dict[str, Any]]], chosen: dict[str, dict[str, Any]]
) -> Table:
    """Return what the noisy validation cells said of each temperature and own key."""
    rows = []
    for arm in [arm for arm in _ORDER if arm in table]:
        for row in table[arm]:
            keys = ", ".join(f"{name} = {value:g}" for name, value in row["keys"].items())
            is_chosen = row["keys"] == chosen.get(arm)
            each = ", ".join(f"{100 * value:.1f}" for value in row["accuracies"])
            rows.append(
                [
                    arm,
                    f"**{keys}**" if is_chosen else keys,
                    f"{100 * row['accuracy']:.1f} ({each})",
                    f"{100 * row['last_accuracy']:.1f}",
                    f"{row['loss']:.3f}",
                    f"{row['epoch']:.0f}",
                ]
            )
    columns = ["objective", "keys", "best, % (each seed)", "last, %", "loss, nats", "best epoch"]
    caption = (
        "Tuning: FACS, 40 % uniform mismatch, accuracy on noisy validation cells at the best and the last epoch, "
        "over seeds that are not reported (bold: chosen, by the mean of both). Four pairs in ten are wrong, so accuracy cannot pass 60 %"
    )
    return Table(caption, columns, rows)
