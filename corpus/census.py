"""Cells of the CELLxGENE Census, or of any SOMA collection laid out like it, as a dataset.

A release is always named by its date, so that a store can be made again; the filter is evaluated by
TileDB, and only its cells are read, a block at a time.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from okrcell.config import fingerprint
from okrcell.corpus.cells import Addition, add_source
from okrcell.corpus.config import CellsConfig, CorpusConfig
from okrcell.corpus.formats import first_line
from okrcell.corpus.genes import GeneAliases
from okrcell.corpus.read_soma import SomaSource, open_selection
from okrcell.errors import (
    ConfigError,
    DependencyError,
    FileFormatError,
    ProviderUnavailableError,
)

__all__ = ["URI_VARIABLE", "add_census"]

URI_VARIABLE = "OKRCELL_CENSUS_URI"
_TILEDB = {"soma.init_buffer_bytes": str(64 << 20)}


def add_census(
    store: Path,
    value_filter: str,
    version: str | None,
    config: CorpusConfig,
    cells: CellsConfig,
    overrides: Mapping[str, Mapping[str, str]] | None = None,
    *,
    uri: str | None = None,
    aliases: GeneAliases | None = None,
) -> dict[str, Any]:
    """Add the human cells of a Census release that a filter selects, as one dataset.

    Cells that the Census marks as copies (``is_primary_data`` false) are left out, unless the
    filter speaks of ``is_primary_data`` itself. Where no batch is mapped, the source dataset is it.

    Parameters
    ----------
    value_filter
        A SOMA value filter over obs, such as ``tissue_general == 'blood' and sex == 'female'``.
    version
        Date of the release, ``YYYY-MM-DD``.
    uri
        Another place of a SOMA collection of that layout; also by the environment variable
        ``OKRCELL_CENSUS_URI``.

    Returns
    -------
    dict
        As :func:`okrcell.corpus.cells.add_cells`, and ``census``: release, filter and number of
        source datasets.

    Raises
    ------
    ConfigError
        The release is not a date, is retracted or not the one found; the filter cannot be used.
    DataError
        No cell passes the filter.
    DependencyError
        The packages of the extra ``census`` are not installed.
    ProviderUnavailableError
        The Census cannot be reached.
    """
    version = _pinned(version)
    if not value_filter.strip():
        raise ConfigError(
            "--census",
            found="an empty filter",
            expected="a filter such as tissue_general == 'blood'",
            fix="Say which cells; the whole Census is too much for one dataset.",
        )
    uri = uri or os.environ.get(URI_VARIABLE)
    source = _open(value_filter, version, uri)
    try:
        inputs = {**source.identity(), "version": version}
        downloads = Path(store) / "downloads" / f"census-{fingerprint(inputs)[:16]}"
        if uri is None or "://" in uri:
            source = replace(source, downloads=downloads)
        mapped = {*cells.columns, *cells.constants} & {"batch", "dataset"}
        columns = {} if mapped else {"dataset": ("dataset_id",)}
        addition = Addition(
            source,
            inputs,
            config,
            cells,
            overrides or {},
            aliases,
            columns=columns,
            facts={"source": f"CELLxGENE Census {version}", "census": source.facts(version)},
        )
        facts = add_source(store, addition)
        _forget(downloads)
        return facts
    finally:
        source.close()


def _forget(downloads: Path) -> None:
    shutil.rmtree(downloads, ignore_errors=True)
    with contextlib.suppress(OSError):  # another download may be waiting there
        downloads.parent.rmdir()


def _pinned(version: str | None) -> str:
    try:
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", version or ""):
            raise ValueError
        datetime.date.fromisoformat(str(version))
    except ValueError:
        raise ConfigError(
            "--census-version",
            found=f"'{version}'" if version else "no release",
            expected="the date of a release, YYYY-MM-DD",
            fix="Name one long-term release; 'stable' and 'latest' mean something else every month.",
        ) from None
    return str(version)


def _open(value_filter: str, version: str, uri: str | None) -> SomaSource:
    root = _root(version, uri)
    try:
        return open_selection(root, version, value_filter)
    except BaseException:
        root.close()
        raise


def _root(version: str, uri: str | None) -> Any:
    try:
        import tiledbsoma
    except ImportError:
        raise _missing("tiledbsoma") from None
    if uri is not None:
        context = tiledbsoma.SOMATileDBContext(tiledb_config=dict(_TILEDB))
        try:
            return tiledbsoma.open(uri, context=context)
        except (tiledbsoma.SOMAError, OSError, ValueError) as error:
            raise FileFormatError(
                uri,
                found=f"nothing that TileDB-SOMA can open ({first_line(error)})",
                expected="a SOMA collection laid out like the Census, or one experiment",
                fix=f"Check --census-uri or {URI_VARIABLE}.",
            ) from None
    try:
        import cellxgene_census
    except ImportError:
        raise _missing("cellxgene-census") from None
    try:
        release = cellxgene_census.get_census_version_description(version)
        if release.get("flags", {}).get("retracted"):
            raise ConfigError(
                f"--census-version {version}",
                found="a release that was retracted",
                expected="one that stands",
                fix="Choose a later long-term release.",
            )
        return cellxgene_census.open_soma(census_version=version, tiledb_config=dict(_TILEDB))
    except ValueError as error:
        raise ConfigError(
            f"--census-version {version}",
            found=f"no such release ({first_line(error)})",
            expected="the date of a long-term release",
            fix="See cellxgene_census.get_census_version_directory() for the dates.",
        ) from None
    except (OSError, tiledbsoma.SOMAError) as error:
        raise ProviderUnavailableError(
            f"CELLxGENE Census {version}",
            found=f"no answer ({type(error).__name__})",
            expected="the release",
            fix="Check the network and run the same command again, or name a copy with --census-uri.",
        ) from None


def _missing(package: str) -> DependencyError:
    return DependencyError(
        "--census",
        found=f"no package '{package}'",
        expected="the packages that read the Census",
        fix="Install them with: pip install 'okrcell[census]'",
    )
