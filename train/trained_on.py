"""What a finished run was trained on, found again and checked to be the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from okrcell.artifacts import read_manifest, read_note
from okrcell.config import load_config
from okrcell.errors import ConfigError, FileFormatError, ManifestError, SchemaVersionError
from okrcell.schemas import read_table
from okrcell.train.checkpoint import read_card
from okrcell.train.config import TrainConfig
from okrcell.train.data import Pairs, load_pairs, load_texts
from okrcell.train.export import PAIRS
from okrcell.train.noise import plant

__all__ = ["TrainedOn", "trained_on"]

_REQUEST = "request.json"


@dataclass(frozen=True)
class TrainedOn:
    """A run with its training pairs.

    Attributes
    ----------
    original, pairs
        The pairs before noise was planted in their texts, and as they were trained on.
    table
        The run's table ``pairs``, in the same order.
    """

    run: Path
    store: Path
    config: TrainConfig
    original: Pairs
    pairs: Pairs
    table: pa.Table


def trained_on(run: Path, store: Path | None = None, job: Path | None = None) -> TrainedOn:
    """Read a finished run's training pairs again.

    Parameters
    ----------
    store, job
        Where they are now; by default where training found them.

    Raises
    ------
    ConfigError
        It is not known where store or job are.
    ManifestError
        The run is not finished, a file of it was altered, or the store or job are not those it was
        trained on.
    SchemaVersionError
        The run was written by another version.
    FileFormatError
        The table ``pairs`` is damaged, or lists other pairs.
    """
    manifest = read_manifest(run, "run")
    config = _config(run, manifest.config)
    table = read_table(run / PAIRS, "pairs")
    where, descriptions = _sources(run, store, job, config)
    texts = load_texts(where, descriptions, config.text_source)
    for name, value in texts.inputs.items():
        if manifest.inputs.get(name) != value:
            raise ManifestError(
                where if name == "cells" else descriptions,
                found=f"other {name} than the run was trained on",
                expected="the very same",
                fix="Name the right folder with --store or --descriptions, or train again.",
            )
    original = load_pairs(where, texts)
    pairs = plant(original, config)[0] if config.mismatch else original
    if (
        pairs.cell_uids.to_pylist() != table["cell_uid"].to_pylist()
        or (~pairs.clean).tolist() != table["planted"].to_pylist()
    ):
        raise FileFormatError(
            run / PAIRS,
            found="other pairs than store and configuration give",
            expected="the training pairs, in their order",
            fix="Train again with this version of okrcell.",
        )
    return TrainedOn(run, where, config, original, pairs, table)


def _config(run: Path, keys: Mapping[str, Any]) -> TrainConfig:
    read_card(run)  # refuses a model of another format
    try:
        return load_config(TrainConfig, "train", None, dict(keys))
    except ConfigError as error:
        raise SchemaVersionError(
            run,
            found=f"keys of another version of okrcell ({error.where}: {error.found})",
            expected="the keys of this version",
            fix="Train again, or use the version of okrcell that wrote the run.",
        ) from None


def _sources(
    run: Path, store: Path | None, job: Path | None, config: TrainConfig
) -> tuple[Path, Path]:
    """Return where the store and the job are: as told, else as training noted it."""
    note = read_note(run / _REQUEST)
    found = []
    for flag, given, key in (("--store", store, "store"), ("--descriptions", job, "descriptions")):
        if key == "descriptions" and config.text_source != "description":
            found.append(Path())
            continue
        path = given or (Path(str(note[key])) if note.get(key) else None)
        if path is None or not Path(path).is_dir():
            raise ConfigError(
                path or run / _REQUEST,
                found="no such folder" if path else f"no note of the {key} of this run",
                expected=f"the {key} that the run was trained on",
                fix=f"Say where it is now with {flag}.",
            )
        found.append(Path(path))
    return found[0], found[1]
