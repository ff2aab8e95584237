"""What the project set itself before measuring, and whether it was reached."""

from __future__ import annotations

from typing import Any

__all__ = ["Target", "targets"]

ORACLE, OURS = "clean_oracle", "cra_plus"
_BELOW = {
    ("uniform", 0.0): 0.5,
    ("uniform", 0.2): 1.0,
    ("uniform", 0.4): 2.0,
    ("uniform", 0.6): 4.0,
    ("sibling", 0.2): 2.0,
    ("sibling", 0.4): 5.0,
    ("sibling", 0.6): 12.0,
}
"""Kind and rate to the most points below the oracle."""
_AUROC = {"uniform": 0.95, "sibling": 0.85}

Target = tuple[str, str, str, str, str, str]
"""What is asked, the bar, then for the best and the last checkpoint what was measured and the verdict."""


def targets(found: dict[str, Any]) -> list[Target]:
    """Return a line per target that anything was measured for."""
    facs = {
        (line["kind"], line["rate"], line["arm"]): line
        for line in found["lines"]
        if line["data"] == "facs" and line["tower"] == "mlp"
    }
    rows = []
    for (kind, rate), bar in _BELOW.items():
        line = facs.get((kind, rate, OURS))
        if line and ORACLE in line["against"]:
            what = f"FACS, {kind} {rate:.0%}: {OURS} against {ORACLE}"
            rows.append(_gap(what, line["against"][ORACLE], bar))
    of_mean = {
        c: m
        for m in found["means"]
        if (m["arm"], m["rival"]) == (OURS, ORACLE)
        for c in [m["checkpoint"]]
    }
    if of_mean:
        data = " + ".join(next(iter(of_mean.values()))["data"])
        rows.append(_gap(f"mean over {data}, uniform 40%: {OURS} against {ORACLE}", of_mean, 2.0))
    for (kind, rate), _ in _BELOW.items():
        line = facs.get((kind, rate, OURS))
        if line and rate:
            rows += _rivals(f"FACS, {kind} {rate:.0%}", line["against"])
    for (kind, rate), _ in _BELOW.items():
        line = facs.get((kind, rate, OURS))
        if line and line["detection"]:
            auroc = line["detection"]["auroc"]
            said = f"{auroc['value']:.3f} ({auroc['low']:.3f} to {auroc['high']:.3f})"
            verdict = _said(auroc["value"] >= _AUROC[kind])
            rows.append(
                (f"FACS, {kind} {rate:.0%}: AUROC of detection", f"at least {_AUROC[kind]}", "", "", said, verdict)
            )  # fmt: skip
    return rows


def _gap(what: str, by_checkpoint: dict[str, Any], bar: float) -> Target:
    cells = []
    for checkpoint in ("best", "last"):
        value = by_checkpoint.get(checkpoint)
        cells += [_points(value), _said(value["value"] >= -bar)] if value else ["", ""]
    return (what, f"at least -{bar:g}", *cells)  # type: ignore[return-value]


def _rivals(where: str, against: dict[str, Any]) -> list[Target]:
    """Return a line on the strongest rival: the one that is closest, by checkpoint."""
    rivals = {name: of for name, of in against.items() if name != ORACLE}
    if not rivals:
        return []
    cells = []
    for checkpoint in ("best", "last"):
        known = {name: of[checkpoint] for name, of in rivals.items() if checkpoint in of}
        name = min(known, key=lambda rival: known[rival]["value"])
        cells += [f"{_points(known[name])} over {name}", _said(known[name]["value"] > 0)]
    what = f"{where}: {OURS} against the strongest of {len(rivals)} others"
    return [(what, "above 0", *cells)]  # type: ignore[list-item]


def _points(value: dict[str, float]) -> str:
    return f"{value['value']:+.1f} [{value['low']:+.1f}, {value['high']:+.1f}]"


def _said(is_met: bool) -> str:
    return "met" if is_met else "**not met**"
