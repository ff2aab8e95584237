"""The figures of the page, as SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["write_figures"]

COLOURS = {
    "clean_oracle": "#444444",
    "cra_plus": "#0072b2",
    "cra_paper": "#e69f00",
    "elr": "#009e73",
    "infonce": "#d55e00",
    "crcl": "#cc79a7",
}
_MARKERS = {"clean_oracle": "s", "cra_plus": "o", "cra_paper": "^", "elr": "D", "infonce": "v"}
_KINDS = {"uniform": "uniform mismatch", "sibling": "mismatch among Cell Ontology siblings"}

Lines = list[dict[str, Any]]


def write_figures(lines: Lines, folder: Path) -> list[tuple[str, str]]:
    """Draw what the lines of the summary give; return name of file and caption of each figure."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update(
        {
            "svg.hashsalt": "okrcell",
            "svg.fonttype": "none",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "figure.facecolor": "white",
        }
    )
    facs = [line for line in lines if line["data"] == "facs" and line["tower"] == "mlp"]
    drawn = [_accuracy(facs, folder), _roc(facs, folder), _calibration(facs, folder)]
    return [one for one in drawn if one is not None]


def _accuracy(facs: Lines, folder: Path) -> tuple[str, str] | None:
    import matplotlib.pyplot as plt

    arms = [arm for arm in _MARKERS if any(line["arm"] == arm for line in facs)]
    if not arms:
        return None
    figure, axes = plt.subplots(2, 2, figsize=(8.4, 6.2), sharex=True, sharey=True)
    for row, checkpoint in zip(axes, ("best", "last"), strict=True):
        for axis, kind in zip(row, _KINDS, strict=True):
            for n, arm in enumerate(arms):
                points = sorted(
                    (line["rate"], line[checkpoint]["accuracy"])
                    for line in facs
                    if line["arm"] == arm and (line["kind"] == kind or line["rate"] == 0)
                )  # with no noise planted all kinds are the same
                if not points:
                    continue
                x = [100 * rate + (n - (len(arms) - 1) / 2) * 0.7 for rate, _ in points]
                y = [value["value"] for _, value in points]
                low = [max(0.0, v["value"] - v["low"]) for _, v in points]
                high = [max(0.0, v["high"] - v["value"]) for _, v in points]
                axis.errorbar(
                    x, y, [low, high], label=arm, color=COLOURS[arm], marker=_MARKERS[arm],
                    markersize=4, linewidth=1.2, elinewidth=0.8, capsize=2,
                )  # fmt: skip
            axis.set_title(f"{_KINDS[kind]}, {checkpoint} checkpoint", fontsize=9)
            axis.set_xticks([0, 20, 40, 60])
            axis.grid(axis="y", linewidth=0.3)
    for axis in axes[1]:
        axis.set_xlabel("mismatched training pairs, %")
    for axis in axes[:, 0]:
        axis.set_ylabel("zero-shot accuracy, %")
    axes[0][0].legend(frameon=False, fontsize=8, loc="lower left")
    caption = (
        "FACS: zero-shot accuracy on test cells against the share of mismatched training pairs, mean "
        "over seeds; bars: 95 % intervals over test cells."
    )
    return _saved(figure, folder, "robustness_accuracy.svg", caption)


def _with_detection(facs: Lines) -> Lines:
    return [line for line in facs if line["detection"] and line["arm"] in COLOURS]


def _panels(facs: Lines) -> list[tuple[str, float]]:
    there = {(line["kind"], line["rate"]) for line in _with_detection(facs)}
    return [(kind, 0.4) for kind in _KINDS if (kind, 0.4) in there]


def _roc(facs: Lines, folder: Path) -> tuple[str, str] | None:
    import matplotlib.pyplot as plt

    panels = _panels(facs)
    if not panels:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.6), sharey=True)
    for axis, (kind, rate) in zip(axes, panels, strict=False):
        for line in _with_detection(facs):
            if (line["kind"], line["rate"]) == (kind, rate):
                x, y = zip(*line["detection"]["roc"], strict=True)
                label = f"{line['arm']}: {line['detection']['auroc']['value']:.3f}"
                axis.plot(x, y, color=COLOURS[line["arm"]], label=label)
        axis.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8, linestyle=":")
        axis.set_title(f"{_KINDS[kind]}, {rate:.0%}", fontsize=9)
        axis.set_xlabel("clean pairs flagged")
        axis.legend(frameon=False, fontsize=8, loc="lower right", title="AUROC")
    axes[0].set_ylabel("planted pairs flagged")
    caption = "FACS: finding the planted mismatches by the reliability that an objective keeps, mean over seeds."
    return _saved(figure, folder, "robustness_detection.svg", caption)


def _calibration(facs: Lines, folder: Path) -> tuple[str, str] | None:
    import matplotlib.pyplot as plt

    panels = _panels(facs)
    if not panels:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 4.2), sharey=True)
    for axis, (kind, rate) in zip(axes, panels, strict=False):
        for line in _with_detection(facs):
            if (line["kind"], line["rate"]) == (kind, rate):
                bins = line["detection"]["bins"]
                total = sum(b["n"] for b in bins)
                axis.plot(
                    [b["mean"] for b in bins], [b["clean"] for b in bins],
                    color=COLOURS[line["arm"]], linewidth=0.8,
                )  # fmt: skip
                axis.scatter(
                    [b["mean"] for b in bins], [b["clean"] for b in bins],
                    [6 + 160 * b["n"] / total for b in bins], color=COLOURS[line["arm"]],
                    label=f"{line['arm']}: {line['detection']['ece']['value']:.3f}", alpha=0.8,
                )  # fmt: skip
        axis.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8, linestyle=":")
        axis.set_title(f"{_KINDS[kind]}, {rate:.0%}", fontsize=9)
        axis.set_xlabel("reliability of the pair")
        legend = axis.legend(
            frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3,
            title="expected calibration error",
        )  # fmt: skip
        for handle in legend.legend_handles:
            handle.set_sizes([24])
    axes[0].set_ylabel("share of clean pairs")
    caption = (
        "FACS: what share of pairs of a reliability is clean; a dot's area is the share of pairs there. "
        "On the diagonal a reliability is a probability."
    )
    return _saved(figure, folder, "robustness_calibration.svg", caption)


def _saved(figure: Any, folder: Path, name: str, caption: str) -> tuple[str, str]:
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(folder / name, metadata={"Date": None, "Creator": "okrcell"})
    plt.close(figure)
    return name, caption
