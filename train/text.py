"""The text tower: vectors of the training texts, from a table while it is frozen, else encoded anew.

Stage 1 of the paper freezes the text model: each distinct text is encoded once. In stage 2 its last
self-attention layer trains (P): the states below are computed once per distinct text, and a step
computes the last block for the distinct texts of its batch. Other choices: :mod:`.text_layers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from okrcell.corpus.embedder import Embedder, load_embedder, load_text_model
from okrcell.corpus.long_texts import Pieces, encode_long, split_long
from okrcell.errors import FileFormatError, InternalError
from okrcell.train.config import TrainConfig
from okrcell.train.text_states import PieceEncoder, Rows

__all__ = ["TextTower", "load_text_tower"]


@dataclass
class _Shared:
    """What a tower and its copies have in common.

    Attributes
    ----------
    published
        float32 [T, E], or None until it is needed: vectors by the weights as published.
    touched
        Whether the weights may have changed since.
    """

    embedder: Embedder
    texts: tuple[str, ...]
    pieces: Pieces | None = None
    published: torch.Tensor | None = None
    touched: bool = False


class TextTower(nn.Module):
    """Texts to unit vectors. Get one from :func:`load_text_tower`.

    Its parameters are those that train, and nothing else: frozen weights, tables and caches are
    no parameters and no buffers, and copies share them. Dropout is off in training too, so that
    equal texts have equal vectors within a step.

    Attributes
    ----------
    trainable
        Whether the tower trains in this run, now or later: False in stage 1, and for copies that follow.
    frozen
        Whether it does not train now.
    dim
        E, width of the shared space.
    id
        Name, weights and arithmetic of the text model as published.
    """

    def __init__(
        self, shared: _Shared, encoder: PieceEncoder | None, device: torch.device, follows: bool
    ) -> None:
        super().__init__()
        self.id, self.dim = shared.embedder.id, shared.embedder.dim
        self.trainable, self.frozen = encoder is not None and not follows, True
        self._shared, self._encoder, self._follows = shared, encoder, follows
        self._table: torch.Tensor | None = None
        self._device = device
        named = {} if encoder is None else encoder.trained
        # Names of parameters must not have dots.
        self.trained = nn.ParameterDict({n.replace(".", "/"): p for n, p in named.items()})
        self.freeze()

    def forward(self, groups_n: torch.Tensor) -> torch.Tensor:
        """Return float32 [n, E], unit rows, of int64 [n] indices of training texts.

        Looked up where the tower is frozen. Else by the current weights, each distinct text of the
        call once, with gradient; a momentum copy does so too, without gradient, once the tower that
        it follows has begun to train.
        """
        if self.frozen and not (self._follows and self._shared.touched):
            return self.table()[groups_n.to(self._device)]
        distinct, inverse = np.unique(groups_n.cpu().numpy(), return_inverse=True)
        with torch.set_grad_enabled(not self.frozen and torch.is_grad_enabled()):
            vectors = self._encode_groups(distinct)
        return vectors[torch.from_numpy(inverse).to(self._device)]

    def table(self) -> torch.Tensor:
        """Return float32 [T, E] on the tower's device: all training texts, without gradient.

        As of the last :meth:`refresh`, :meth:`freeze` or loading: it does not follow the steps.
        """
        if self._table is None:
            if self._shared.touched:
                self._table = self._encode_all()
            else:
                if self._shared.published is None:
                    self._shared.published = self._encode_all()
                self._table = self._shared.published.to(self._device)
        return self._table

    def refresh(self) -> None:
        """Let the next :meth:`table` be computed by the weights of then."""
        self._table = None

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return float32 [n, E], unit rows, of any texts by the current weights; no gradient."""
        encoder = self._encoder
        if encoder is None:
            return self._shared.embedder.encode(texts)
        return encode_long(self._shared.embedder, texts, lambda some, _: encoder.encode_texts(some))

    def momentum_copy(self) -> Self:
        """Return a copy whose parameters an average may be kept in; caches are shared."""
        return self._copy(follows=True)

    def freeze(self) -> None:
        """Stop training: vectors come from the table."""
        if not self.frozen:
            self._table = None
        self._set_frozen(True)

    def unfreeze(self) -> None:
        """Train from now on.

        Raises
        ------
        InternalError
            The tower was loaded for stage 1, or follows another.
        """
        if not self.trainable:
            raise InternalError(
                "text tower",
                found="one that does not train",
                expected="a tower loaded for stage 2 or both",
                fix="Report this.",
            )
        self._shared.touched = True
        self._set_frozen(False)

    def trained_state(self) -> dict[str, torch.Tensor]:
        """Return what may differ from the published weights, by the names of the text model."""
        return {name.replace("/", "."): p.detach() for name, p in self.trained.items()}

    def load_trained_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take over what :meth:`trained_state` returned.

        Raises
        ------
        FileFormatError
            Other tensors than those of the configuration.
        """
        mine = self.trained_state()
        if {n: t.shape for n, t in state.items()} != {n: t.shape for n, t in mine.items()}:
            odd = sorted(n for n in {*state, *mine} if n not in state or n not in mine)
            raise FileFormatError(
                "text tower",
                found=f"{len(state)} trained tensors"
                + (f", other names: {odd[:3]}" if odd else ""),
                expected=f"the {len(mine)} tensors that text_train says, of their shapes",
                fix="Load with the embedder, stage and text_train of the run, or train again.",
            )
        with torch.no_grad():
            for name, tensor in state.items():
                if not torch.equal(mine[name], tensor.to(mine[name])):
                    self._shared.touched = True
                    mine[name].copy_(tensor)
        self._table = None

    def resume_state(self) -> dict[str, torch.Tensor]:
        """Return the trained state and, where it is older than the weights, the table."""
        state = {f"trained.{name}": tensor for name, tensor in self.trained_state().items()}
        if self._shared.touched and self._table is not None:
            state["table"] = self._table
        return state

    def load_resume_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take over what :meth:`resume_state` returned: a run goes on as if it had not stopped.

        Raises
        ------
        FileFormatError
            Other tensors than those of the configuration.
        """
        prefix = "trained."
        self.load_trained_state(
            {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
        )
        if "table" in state:
            self._table = state["table"].to(self._device)

    def _set_frozen(self, frozen: bool) -> None:
        self.frozen = frozen
        for parameter in self.trained.values():
            parameter.requires_grad_(not frozen)

    def _copy(self, *, follows: bool) -> Self:
        encoder = None if self._encoder is None else self._encoder.copy()
        new = type(self)(self._shared, encoder, self._device, follows)
        new._set_frozen(self.frozen or follows)
        new._table = self._table
        return new

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self._copy(follows=self._follows)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Move along what is no parameter."""
        if self._encoder is not None:
            self._encoder.move(fn)
        if self._table is not None:
            self._table = fn(self._table)
        self._device = fn(torch.zeros(0, device=self._device)).device
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _encode_all(self) -> torch.Tensor:
        if self._encoder is None:
            vectors = self._shared.embedder.encode(self._shared.texts)
            return torch.from_numpy(vectors).to(self._device)
        # In full precision whatever the caller's: the same table in a run that is resumed.
        with torch.inference_mode(False), torch.no_grad():
            with torch.autocast(self._device.type, enabled=False):
                return self._encode_groups(np.arange(len(self._shared.texts)))

    def _encode_groups(self, groups: Rows) -> torch.Tensor:
        """Return float32 [n, E]: long texts are means of pieces, as in ``encode_long``."""
        encoder, shared = self._encoder, self._shared
        assert encoder is not None
        if not len(groups):
            return torch.zeros(0, self.dim, device=self._device)
        if shared.pieces is None:
            shared.pieces = split_long(shared.embedder, shared.texts)
        if not encoder.remembers:
            encoder.remember(shared.pieces.texts)
        bounds = np.asarray(shared.pieces.bounds)
        n_pieces = bounds[groups + 1] - bounds[groups]
        rows = np.concatenate([np.arange(bounds[g], bounds[g + 1]) for g in groups])
        vectors = encoder.encode_rows(rows)
        if len(rows) == len(groups):
            return vectors
        owners = torch.from_numpy(np.repeat(np.arange(len(groups)), n_pieces)).to(vectors.device)
        lengths = torch.tensor([shared.pieces.lengths[row] for row in rows], device=vectors.device)
        sums = vectors.new_zeros(len(groups), self.dim)
        sums = sums.index_add(0, owners, vectors * lengths[:, None].to(vectors))
        return F.normalize(sums, dim=1)


def load_text_tower(
    config: TrainConfig, texts: Sequence[str], *, device: torch.device | str
) -> TextTower:
    """Load the text tower of a run.

    Parameters
    ----------
    texts
        The T distinct training texts; none where the tower is only to encode others.

    Returns
    -------
    TextTower
        Frozen for the stages "1" and "both" until ``unfreeze``, training for "2". Stage 1 encodes in the embedder's own
        arithmetic (bfloat16 on CPUs that have it), the others in float32.

    Raises
    ------
    EmbedderError
        The text model is missing or cannot be read, or a service is to be trained.
    ConfigError
        The text model has no part that ``text_train`` names.
    DependencyError
        ``text_train = "lora"`` without the package peft.
    """
    device = torch.device(device)
    if config.stage == "1":
        return TextTower(_Shared(load_embedder(config.embedder), tuple(texts)), None, device, False)
    model = load_text_model(config.embedder)
    encoder = PieceEncoder(model, config, device)
    tower = TextTower(_Shared(model.embedder, tuple(texts)), encoder, device, False)
    if config.stage == "2":
        tower.unfreeze()
    return tower
