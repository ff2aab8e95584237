"""Vectors of pieces of text by the current weights; what lies below the weights that train is kept.

Dropout is off, also while training: equal texts have equal vectors within a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from okrcell.corpus.embedder import TextModel
from okrcell.train.config import TrainConfig
from okrcell.train.text_layers import (
    LastBlock,
    blocks_of,
    choose_parameters,
    last_block,
    share_frozen,
)

__all__ = ["Packed", "PieceEncoder"]

Rows = npt.NDArray[np.int64]

_PROBE = ("A cell.", "Natural killer cells kill infected cells and tumour cells, without priming.")
_TOLERANCE = 1e-4
_HALF_LIMIT = 3e4  # float16 ends at 65,504


class Packed:
    """Sequences of different lengths, one after another, without padding. Copies share it.

    Attributes
    ----------
    values
        [sum of lengths, ...].
    lengths
        int64 [n].
    """

    def __init__(self, values: torch.Tensor, lengths: Rows) -> None:
        self.values, self.lengths = values, lengths
        self._starts = np.cumsum(lengths) - lengths

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def padded(self, rows: Rows, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return sequences [p, L, ...] and int64 [p, L], 1 where there is a value, 0 beyond."""
        places = np.arange(self.lengths[rows].max())
        mask = places < self.lengths[rows][:, None]
        # Beyond the end stands a sequence's first value: finite, and nobody reads it.
        index = torch.from_numpy(self._starts[rows][:, None] + np.where(mask, places, 0))
        values = self.values[index.to(self.values.device)]
        return values.to(device), torch.from_numpy(mask.astype(np.int64)).to(device)


class PieceEncoder:
    """A text model, of which some weights train.

    Not a module, so that the frozen weights are nobody's parameters: they are neither optimised nor
    synchronised nor saved.

    Attributes
    ----------
    trained
        Parameters that train, by their names in the text model.
    cuts
        Whether only the last block is computed for remembered pieces. So it is where the last
        block alone trains, and is found to give the same result as the whole model.
    """

    def __init__(self, model: TextModel, config: TrainConfig, device: torch.device) -> None:
        self.device = device
        self._features = model.features
        self._transformer = model.transformer.to(device).eval()
        self._pooling = model.pooling.to(device).eval()
        for parameter in self._pooling.parameters():
            parameter.requires_grad_(False)
        self.trained = choose_parameters(self._transformer, config)
        self._short: Any = None
        self._only: LastBlock | None = None
        # Both are shared with copies.
        self._memory: list[Packed] = []
        self._constant: dict[str, Any] = {}  # features that are the same for all texts
        self._forget_unused()
        if config.text_train != "lora":
            self._short, self._only = last_block(self._transformer)
            if not self._agrees():
                self._short = self._only = None

    @property
    def cuts(self) -> bool:
        """Whether remembered pieces pass the last block only."""
        return self._short is not None

    def copy(self) -> PieceEncoder:
        """Return an encoder with trained weights of its own; frozen ones and memory are shared."""
        new = object.__new__(PieceEncoder)
        new.__dict__.update(self.__dict__)
        mine = {id(parameter) for parameter in self.trained.values()}
        modules = (self._transformer, self._short)
        tensors = [
            tensor
            for module in modules
            if module is not None
            for tensor in (*module.parameters(), *module.buffers())
            if id(tensor) not in mine
        ]
        new._transformer, new._short = share_frozen(modules, keep=tensors)
        named = dict(new._transformer.named_parameters())
        new.trained = {name: named[name] for name in self.trained}
        if new._short is not None:
            (new._only,) = (m for m in new._short.modules() if isinstance(m, LastBlock))
        return new

    def move(self, fn: Any) -> None:
        """Apply what ``Module.to`` applies to tensors."""
        self._transformer._apply(fn)
        self._pooling._apply(fn)
        if self._short is not None:
            self._short._apply(fn)
        self.device = next(self._transformer.parameters()).device

    def encode_texts(self, pieces: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return float32 [P, E], unit rows, of any pieces that fit; no gradient."""
        tokens = self._tokens(pieces)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            vectors = self._encode(np.arange(len(pieces)), tokens, whole=True)
        return vectors.cpu().numpy()

    def remember(self, pieces: Sequence[str]) -> None:
        """Keep what :meth:`encode_rows` needs of pieces: states below the last block, or tokens."""
        # Also for a caller in inference mode, whose tensors could not be trained on later.
        with torch.inference_mode(False):
            tokens = self._tokens(pieces)
            self._memory[:] = [self._states(tokens) if self.cuts else tokens]

    @property
    def remembers(self) -> bool:
        """Whether :meth:`remember` was called."""
        return bool(self._memory)

    def encode_rows(self, rows: Rows) -> torch.Tensor:
        """Return float32 [p, E], unit rows, of remembered pieces; with gradient where there is one."""
        return self._encode(rows, self._memory[0], whole=not self.cuts)

    def _encode(self, rows: Rows, packed: Packed, *, whole: bool) -> torch.Tensor:
        parts, order = [], []
        for chunk in self._chunks(packed.lengths[rows]):
            values, mask = packed.padded(rows[chunk], self.device)
            parts.append(self._whole(values, mask) if whole else self._last(values, mask))
            order.append(chunk)
        back = torch.from_numpy(np.argsort(np.concatenate(order))).to(self.device)
        return torch.cat(parts)[back]

    def _whole(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        ids = torch.where(mask.bool(), ids.long(), self._padding_id)
        return self._pool(self._transformer(input_ids=ids, attention_mask=mask)[0], ids, mask)

    def _last(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        assert self._only is not None
        ids = torch.full_like(mask, self._padding_id)
        self._only.states = states
        try:
            return self._pool(self._short(input_ids=ids, attention_mask=mask)[0], ids, mask)
        finally:
            self._only.states = None

    def _pool(self, states: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        features = {"token_embeddings": states, "input_ids": ids, "attention_mask": mask}
        pooled = self._pooling({**features, **self._constant})["sentence_embedding"]
        return F.normalize(pooled.float(), dim=1)

    @property
    def _padding_id(self) -> int:
        return int(getattr(self._transformer.config, "pad_token_id", None) or 0)

    def _chunks(self, lengths: Rows) -> Iterator[Rows]:
        """Yield places of pieces of like length: little padding, and bounded memory while caching."""
        order = np.argsort(-lengths, kind="stable")
        budget = 8192 if self.device.type == "cpu" else 32768  # tokens
        begin = 0
        while begin < len(order):
            n = max(1, budget // int(lengths[order[begin]]))
            yield order[begin : begin + n]
            begin += n

    def _tokens(self, pieces: Sequence[str]) -> Packed:
        ids, lengths = [], []
        for begin in range(0, len(pieces), 256):
            features = self._features(pieces[begin : begin + 256])
            mask = features["attention_mask"].bool()
            ids.append(features["input_ids"][mask].int())
            lengths.append(mask.sum(1).numpy())
            if "prompt_length" in features:
                self._constant["prompt_length"] = features["prompt_length"]
        if not ids:
            return Packed(torch.zeros(0, dtype=torch.int32), np.zeros(0, dtype=np.int64))
        return Packed(torch.cat(ids), np.concatenate(lengths))

    def _states(self, tokens: Packed) -> Packed:
        """Return the states that enter the last block, in half precision.

        They lie on the device where they take at most a quarter of its free memory, else on the
        CPU, from where each step brings its own.
        """
        dim, n = int(self._transformer.config.hidden_size), len(tokens.values)
        place = self.device
        if place.type == "cuda" and 2 * n * dim > torch.cuda.mem_get_info(place)[0] // 4:
            place = torch.device("cpu")
        values = torch.empty(n, dim, dtype=torch.float16, device=place)
        starts = np.cumsum(tokens.lengths) - tokens.lengths
        for chunk in self._chunks(tokens.lengths):
            ids, mask = tokens.padded(chunk, self.device)
            states = self._below(ids, mask)
            if values.dtype == torch.float16 and states.abs().max() > _HALF_LIMIT:
                values = values.bfloat16()
            for row, begin, length in zip(
                states, starts[chunk], tokens.lengths[chunk], strict=True
            ):
                values[begin : begin + length] = row[:length].to(values)
        return Packed(values, tokens.lengths)

    def _below(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return float32 [n, L, D], what enters the last block."""
        caught: list[torch.Tensor] = []

        def catch(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            caught.append(args[0] if args else kwargs["hidden_states"])

        _, blocks = blocks_of(self._transformer)
        hook = blocks[-1].register_forward_pre_hook(catch, with_kwargs=True)
        try:
            with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                self._whole(ids, mask)
        finally:
            hook.remove()
        return caught[0][:, : ids.shape[1]]

    def _agrees(self) -> bool:
        """Whether the last block alone, on states in full precision, gives what the model gives."""
        tokens = self._tokens(_PROBE)
        ids, mask = tokens.padded(np.arange(len(_PROBE)), self.device)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            whole = self._whole(ids, mask)
            try:
                short = self._last(self._below(ids, mask), mask)
            except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
                return False  # an architecture that does not bear the cut
        return bool(torch.allclose(whole, short, atol=_TOLERANCE))

    def _forget_unused(self) -> None:
        """Leave out parameters that no vector depends on, which data-parallel training trips over."""
        tokens = self._tokens(_PROBE)
        ids, mask = tokens.padded(np.arange(len(_PROBE)), self.device)
        with torch.enable_grad(), torch.autocast(self.device.type, enabled=False):
            total = self._whole(ids, mask).sum()
            found: tuple[torch.Tensor | None, ...] = torch.autograd.grad(
                total, list(self.trained.values()), allow_unused=True
            )
        for (name, parameter), gradient in zip(list(self.trained.items()), found, strict=True):
            if gradient is None:
                parameter.requires_grad_(False)
                del self.trained[name]
