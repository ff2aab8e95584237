"""The model card of a run: what it is, what it saw, how it did, and what it is not for."""

from __future__ import annotations

from typing import Any

from okrcell.train.config import TrainConfig

__all__ = ["CARD", "model_card"]

CARD = "README.md"

_USE = """```python
import okrcell

model = okrcell.load("this-folder")
model.encode_cells(adata)  # float32 [n_obs, {dim}], unit rows
model.encode_text(["B cell"])  # float32 [n, {dim}], unit rows
```
"""

_LIMITS = """- Human single-cell and single-nucleus RNA-seq. Genes outside the vocabulary are not read.
- It learnt the cell types, tissues and assays of its training data; how it does on others is a matter of
  measurement (`okrcell evaluate run`), and a type that no training text described may be given another's name.
- A nearest text is a suggestion, not a diagnosis. Not for clinical use.
- Nothing here measures differences between donor groups."""


def model_card(
    config: TrainConfig,
    inputs: dict[str, str],
    facts: dict[str, Any],
    history: list[dict[str, float]],
    hashes: dict[str, str],
    text_tower: str,
    dim: int,
) -> str:
    """Return the card as Markdown; the same run gives the same text."""
    last = history[-1]
    figures = [(name, f"{value:.4f}") for name, value in last.items() if name != "epoch"]
    best = max(history, key=lambda row: (row.get("val_accuracy", -1.0), -row.get("val_loss", 0.0)))
    if "val_accuracy" in best:
        figures.append(
            ("best val_accuracy", f"{best['val_accuracy']:.4f} (epoch {best['epoch']:.0f})")
        )
    noise = facts.get("noise")
    lines = [
        "# Cell-text model trained by okrcell",
        "",
        f"A `{config.preset}` cell tower of {facts['parameters']:,} parameters, aligned with the text tower "
        f"`{text_tower}` by the objective `{config.objective}` (arXiv 2601.05648v1 and okrcell's "
        "docs/method.md).",
        "",
        _USE.format(dim=dim),
        "## Data",
        "",
        f"- {facts['pairs']:,} training cells with {facts['texts']:,} distinct texts "
        f"({config.text_source}), {facts['genes']:,} genes; "
        f"{facts['cells_without_text']:,} cells had no text and were left out.",
        *(f"- {name}: `{value}`" for name, value in sorted(inputs.items())),
        *([f"- Noise was planted on purpose: {noise}."] if noise else []),
        "- Every training cell is listed, by content hash, in `seen_cells.parquet`.",
        "",
        "## Figures",
        "",
        f"Means over the last of {len(history)} epochs ({facts['steps']:,} steps, {facts['precision']}); "
        "validation cells against all training texts. Training figures, not an evaluation.",
        "",
        "| figure | value |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in figures),
        "",
        "## Limits",
        "",
        _LIMITS,
        "",
        "## Licence",
        "",
        "The weights derive from the training data and from the text model; their licences apply. okrcell "
        "itself is under the BSD 3-Clause licence.",
        "",
        "## Files",
        "",
        "| file | sha256 |",
        "|---|---|",
        *(f"| {name} | `{value}` |" for name, value in sorted(hashes.items())),
        "",
        "## Keys",
        "",
        "```toml",
        "[train]",
        *(
            f"{name} = {_toml(value)}"
            for name, value in config.identity().items()
            if value is not None
        ),
        "```",
        "",
    ]
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
