"""Curves of accuracy against wrong labels: measured once, kept, drawn from the numbers alone."""

import json
import shutil
from pathlib import Path

import pytest

from okrcell.errors import ManifestError
from okrcell.evaluate.planted import planted_curves, planted_figure
from okrcell.train.config import TrainConfig

KEYS = TrainConfig(
    preset="mlp",
    text_source="label",
    epochs=8,
    batch_size=64,
    lr=1e-3,
    bank=False,
    hvgs=300,
    graph_components=10,
    precision="fp32",
)
ASKED = {"objectives": ("infonce", "clean_oracle"), "rates": (0.0, 0.6)}


@pytest.fixture(scope="module")
def curves(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("curves") / "out"
    return out, planted_curves(store, Path(), out, KEYS, **ASKED)


def test_every_run_is_measured(curves):
    out, found = curves
    rows = {(row["objective"], row["rate"]): row for row in found["rows"]}
    assert len(rows) == 4
    for row in rows.values():
        assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1
        assert row["cells"] == 188  # test cells of types that were trained on
        assert row["mismatched"] == round(row["rate"] * row["pairs"])
    # Without wrong pairs the bound is InfoNCE itself; with them it is above.
    assert rows["clean_oracle", 0.0]["accuracy"] == rows["infonce", 0.0]["accuracy"]
    assert rows["clean_oracle", 0.6]["accuracy"] > rows["infonce", 0.6]["accuracy"]
    assert not (out / "clean_oracle-0").exists()


def test_finished_curves_are_kept_and_lost_ones_made_again(store, curves, tmp_path):
    folder, first = curves
    out = tmp_path / "out"
    shutil.copytree(folder, out)
    before = (out / "curves.json").read_bytes()
    again = planted_curves(store, Path(), out, KEYS, **ASKED)
    assert again == {"rows": first["rows"], "reused": True}
    (out / "manifest.json").unlink()  # as a kill before the end leaves it: finished runs are reused
    again = planted_curves(store, Path(), out, KEYS, **ASKED)
    assert not again["reused"]
    assert (out / "curves.json").read_bytes() == before
    (out / "curves.json").write_text("[]")
    with pytest.raises(ManifestError, match=r"curves\.json"):
        planted_curves(store, Path(), out, KEYS, **ASKED)


def test_the_figure_follows_from_the_rows(curves):
    rows = curves[1]["rows"]
    figure, listing = planted_figure(json.loads(json.dumps(rows)))
    assert [name for name, _ in figure.legend.entries] == ["infonce", "clean pairs only"]
    assert "60 %" in figure.panels[0].body
    assert list(listing.columns) == ["objective", "0%", "60%"]
    assert listing.rows[0][2] == f"{rows[1]['accuracy']:.3f}"
