"""Embeddings of other tools: a key of ``obsm`` with text vectors beside it, or a Python function."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from okrcell.artifacts import file_sha256
from okrcell.config import fingerprint
from okrcell.errors import ConfigError, DataError, FileFormatError
from okrcell.evaluate.config import Task
from okrcell.evaluate.data import EvalData
from okrcell.evaluate.guards import check_embedding
from okrcell.evaluate.methods import Method, MethodOutput, NotApplicable, as_float32, unit

__all__ = ["of_function", "of_obsm", "read_text_vectors"]

_OF_CELLS: frozenset[Task] = frozenset({"clustering", "annotation", "batch", "few_shot"})
_OF_TEXTS: frozenset[Task] = frozenset({"zero_shot", "retrieval"})
_NAMED = 3


def of_obsm(name: str, spec: str) -> Method:
    """Return the method ``obsm:KEY[,texts=FILE]``.

    FILE is an npz with ``texts`` (strings [n]: type names, Cell Ontology ids or whole texts) and
    ``vectors`` (float [n, D], of the same space as the cells).
    """
    key, _, rest = spec.removeprefix("obsm:").partition(",")
    file = Path(rest.removeprefix("texts=")) if rest.startswith("texts=") else None
    if not key or (rest and file is None):
        raise ConfigError(
            f"method '{spec}'",
            found="no key of obsm" if not key else f"'{rest}' after the key",
            expected="obsm:KEY or obsm:KEY,texts=FILE.npz",
            fix="Write for example obsm:X_scGPT.",
        )
    title = name or key
    tasks = _OF_CELLS
    identity: dict[str, Any] = {"obsm": key}
    about = f"obsm '{key}' of the file; what it was trained on is not known here"
    if file is not None:
        read_text_vectors(file)
        tasks = tasks | _OF_TEXTS
        identity["texts"] = file_sha256(file)
        about += f"; text vectors of {file.name}"

    def embed(data: EvalData, seed: int) -> MethodOutput:
        if key not in data.vectors:
            raise NotApplicable(f"{title}: {data.dataset} has no obsm '{key}'")
        cells = data.vectors[key]
        check_embedding(cells, data.cell_uids, title)
        if file is None:
            return MethodOutput(title, cells, about)
        known = _for_types(read_text_vectors(file), data, file, cells.shape[1])

        def encode(texts: list[str]) -> NDArray[np.float32]:
            return unit(np.stack([known[text] for text in texts]))

        return MethodOutput(title, cells, about, encode, "label", known_texts=frozenset(known))

    return Method(title, fingerprint(identity), about, tasks, embed, vectors=key)


def read_text_vectors(path: Path) -> dict[str, NDArray[np.float32]]:
    """Return text to vector [D].

    Raises
    ------
    FileFormatError
        Not an npz with ``texts`` and ``vectors`` of one length, or values that are not finite.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            texts, vectors = content["texts"], np.asarray(content["vectors"], dtype=np.float32)
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise _bad_texts(path, str(error).splitlines()[0][:120]) from None
    if vectors.ndim != 2 or texts.shape != (len(vectors),):
        raise _bad_texts(path, f"texts of shape {texts.shape}, vectors of shape {vectors.shape}")
    if len(set(map(str, texts))) < len(texts):
        raise _bad_texts(path, "the same text twice")
    if not np.isfinite(vectors).all():
        broken = texts[~np.isfinite(vectors).all(axis=1)][:_NAMED]
        raise _bad_texts(path, f"values that are not finite ({', '.join(map(str, broken))})")
    return {str(text): vector for text, vector in zip(texts, vectors, strict=True)}


def _bad_texts(path: Path, found: str) -> FileFormatError:
    return FileFormatError(
        path,
        found=found,
        expected="an npz file with texts (strings [n]) and vectors (float [n, D])",
        fix="Write it with numpy.savez(FILE, texts=..., vectors=...).",
    )


def _for_types(
    given: dict[str, NDArray[np.float32]], data: EvalData, path: Path, dim: int
) -> dict[str, NDArray[np.float32]]:
    """Return label to vector for every type of the data."""
    found = {}
    for name in data.types:
        for key in (name, data.term_ids.get(name, "")):
            if key in given:
                found[name] = given[key]
                break
    missing = sorted(set(data.types) - found.keys())
    if missing:
        raise DataError(
            path,
            found=f"no vector for {len(missing)} types of {data.dataset} "
            f"({', '.join(missing[:_NAMED])})",
            expected="one for the name or the Cell Ontology id of every type",
            fix="Add them, or leave texts=FILE away.",
        )
    width = len(next(iter(found.values())))
    if width != dim:
        raise DataError(
            path,
            found=f"vectors of width {width}",
            expected=f"{dim}, the width of the cells' embedding",
            fix="Project cells and texts into one space first.",
        )
    return found


def of_function(name: str, spec: str, seed: int) -> Method:
    """Return the method ``MODULE:FUNCTION`` or ``FILE.py:FUNCTION``.

    The function is called as ``function(adata, seed=...)``. ``adata`` holds all cells on unversioned
    Ensembl ids, and in ``obs`` the columns ``cell_type`` (empty for cells that are not trained on),
    ``split``, ``batch`` and ``donor``. It returns an array [N, D], or a dict with ``cells`` and, where
    it can, ``encode_text`` (list of str to [n, D]) and ``predicted`` (labels [N]).
    """
    target, _, attribute = spec.rpartition(":")
    function, source = _import(target, attribute, spec)
    title = name or attribute

    def embed(data: EvalData, at: int) -> MethodOutput:
        parts = _called(f"method '{title}'", lambda: function(_masked(data), seed=at))
        parts = parts if isinstance(parts, dict) else {"cells": parts}
        if not parts.keys() & {"cells", "predicted"}:
            raise _bad_answer(title, f"a dict of {', '.join(map(str, parts)) or 'nothing'}", data)
        cells, predicted = parts.get("cells"), parts.get("predicted")
        if cells is None and predicted is None:
            raise _bad_answer(title, "nothing", data)
        if cells is not None:
            cells = _array(cells, title, data)
            check_embedding(cells, data.cell_uids, title)
        if predicted is not None:
            predicted = np.asarray(predicted).astype(np.str_)
            if predicted.shape != data.labels.shape:
                raise _bad_answer(title, f"predicted labels of shape {predicted.shape}", data)
        encode: Any = parts.get("encode_text")
        if encode is not None and not callable(encode):
            raise _bad_answer(title, "an encode_text that cannot be called", data)

        def encoded(texts: list[str]) -> NDArray[np.float32]:
            vectors = _called(f"encode_text of '{title}'", lambda: np.asarray(encode(list(texts))))
            if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.number):
                raise _bad_answer(title, f"text vectors {vectors.dtype} {vectors.shape}", data)
            return unit(as_float32(vectors))

        return MethodOutput(
            title,
            cells,
            f"Python function {spec}",
            None if encode is None else encoded,
            predicted=predicted,
            used_labels=True,  # it was shown those of train cells
        )

    identity = hashlib.sha256(source).hexdigest()
    tasks = _OF_CELLS | _OF_TEXTS
    return Method(
        title,
        fingerprint({"function": spec, "source": identity, "seed": seed}),
        f"Python function {spec}",
        tasks,
        embed,
    )


def _import(target: str, attribute: str, spec: str) -> tuple[Callable[..., Any], bytes]:
    def imported() -> Any:
        if target.endswith(".py"):
            path = Path(target)
            found = importlib.util.spec_from_file_location(path.stem, path)
            assert found is not None
            assert found.loader is not None
            module = importlib.util.module_from_spec(found)
            sys.modules.setdefault(path.stem, module)
            found.loader.exec_module(module)
            return module
        return importlib.import_module(target)

    try:
        with contextlib.redirect_stdout(sys.stderr):
            module = imported()
        function = getattr(module, attribute)
    except (Exception, SystemExit) as error:  # noqa: BLE001  (importing runs what a user wrote)
        words = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ConfigError(
            f"method '{spec}'",
            found=f"nothing to call ({words})",
            expected="MODULE:FUNCTION that can be imported, or FILE.py:FUNCTION",
            fix="Check the spelling, and that the module is installed here.",
        ) from None
    if not callable(function):
        raise ConfigError(
            f"method '{spec}'",
            found=f"a {type(function).__name__}, nothing to call",
            expected="a function",
            fix="Name a function of the module.",
        )
    origin = getattr(module, "__file__", None)
    return function, Path(origin).read_bytes() if origin else spec.encode()


def _called(where: str, call: Callable[[], Any]) -> Any:
    """Call what a user wrote: its words go to stderr, its errors become ours, with its last line."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return call()
    except (Exception, SystemExit) as error:  # noqa: BLE001  (anything may go wrong in there)
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            where,
            found=f"{type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''} "
            f"({Path(last.filename).name}, line {last.lineno})",
            expected="function(adata, seed=...) that returns vectors of all cells",
            fix="Mend the function.",
        ) from None


def _array(values: Any, title: str, data: EvalData) -> NDArray[np.float32]:
    """Return a copy as float32 [N, D]."""
    if hasattr(values, "toarray"):
        values = values.toarray()
    try:
        cells = np.array(values, dtype=np.float32)
    except (TypeError, ValueError):
        raise _bad_answer(
            title, f"{type(values).__name__} that is no array of numbers", data
        ) from None
    if cells.ndim != 2 or len(cells) != len(data.labels):
        raise _bad_answer(title, f"an array of shape {cells.shape}", data)
    return cells


def _bad_answer(title: str, found: str, data: EvalData) -> DataError:
    return DataError(
        f"method '{title}'",
        found=found,
        expected=f"an array ({len(data.labels)}, D), or a dict with cells, encode_text, predicted",
        fix="Return one row per cell, in their order.",
    )


def _masked(data: EvalData) -> Any:
    """Return the cells as AnnData; labels of cells that are not trained on are hidden."""
    import pandas as pd
    from anndata import AnnData

    obs = pd.DataFrame(
        {
            "cell_type": np.where(data.splits == "train", data.labels, ""),
            "split": data.splits,
            "batch": data.batches,
            "donor": data.donors,
        },
        index=data.cell_uids.tolist(),
    )
    var = pd.DataFrame(index=list(data.matrix.gene_ids))
    return AnnData(data.matrix.matrix.copy(), obs=obs, var=var)
