"""Which weights of a text model train, and the model cut down to its last block.

Blocks, attention and projections are found by what all Hugging Face encoders share, not by a list
of architectures: the list of as many modules as the configuration has layers, and usual names.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from okrcell.errors import ConfigError, DependencyError
from okrcell.train.config import TrainConfig

__all__ = ["LastBlock", "blocks_of", "choose_parameters", "last_block", "share_frozen"]

_ATTENTION = ("attention", "attn", "self_attn", "self_attention")
# Names of the query and value projections in the encoders of the transformers library.
_QUERY_VALUE = {"query", "value", "q", "v", "q_lin", "v_lin", "q_proj", "v_proj"}
_QUERY_VALUE |= {"query_proj", "value_proj", "in_proj", "Wqkv"}


def blocks_of(transformer: Any) -> tuple[str, nn.ModuleList]:
    """Return the name of a model's list of blocks, and the list.

    Raises
    ------
    ConfigError
        There is none: the blocks share weights, or the model is no stack of blocks.
    """
    n_blocks = getattr(transformer.config, "num_hidden_layers", None)
    for name, module in transformer.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == n_blocks:
            return name, module
    raise ConfigError(
        "key text_train",
        found=f"{type(transformer).__name__}, in which no list of {n_blocks} blocks is found",
        expected="a text model that is a stack of blocks",
        fix='Set text_train = "lora", or stage = "1".',
    )


def choose_parameters(transformer: Any, config: TrainConfig) -> dict[str, nn.Parameter]:
    """Freeze a text model, apart from what ``config.text_train`` names.

    Returns
    -------
    dict
        Parameters that train, by their names in the model. ``attention`` is the attention
        sublayer of the last block: its projections, and the layer norm after it where that is
        part of the sublayer (paper, stage 2: "the last self-attention layer"). ``layer`` is the
        whole last block. ``lora`` are low-rank terms, zero at first, beside the query and value
        projections of all blocks (Hu et al. 2021, section 4.2).

    Raises
    ------
    ConfigError
        The model has no such part.
    DependencyError
        ``lora`` without the package peft.
    """
    for parameter in transformer.parameters():
        parameter.requires_grad_(False)
    if config.text_train == "lora":
        _add_lora(transformer, config)
        return {n: p for n, p in transformer.named_parameters() if p.requires_grad}
    name, blocks = blocks_of(transformer)
    prefix = f"{name}.{len(blocks) - 1}."
    if config.text_train == "attention":
        found = [child for child, _ in blocks[-1].named_children() if child in _ATTENTION]
        if not found:
            raise ConfigError(
                "key text_train",
                found=f"no attention among the parts of a {type(blocks[-1]).__name__}: "
                + ", ".join(child for child, _ in blocks[-1].named_children()),
                expected=f"a part called {' or '.join(_ATTENTION)}",
                fix='Set text_train = "layer" or "lora".',
            )
        prefix += f"{found[0]}."
    chosen = {n: p for n, p in transformer.named_parameters() if n.startswith(prefix)}
    for parameter in chosen.values():
        parameter.requires_grad_(True)
    return chosen


def _add_lora(transformer: Any, config: TrainConfig) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise DependencyError(
            'text_train = "lora"',
            found=f"no package peft ({error})",
            expected="the package that adds low-rank terms to a model",
            fix="Install it: pip install 'okrcell[lora]'.",
        ) from error
    targets = [
        name
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in _QUERY_VALUE
    ]
    if not targets:
        raise ConfigError(
            "key text_train",
            found=f"no query and value projections in {type(transformer).__name__}",
            expected=f"linear layers called {', '.join(sorted(_QUERY_VALUE))}",
            fix='Set text_train = "attention" or "layer".',
        )
    # No dropout: equal texts must have equal vectors within a step.
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]  # any number will do
        lora_dropout=0.0,
        target_modules=targets,
    )
    inject_adapter_in_model(lora, transformer)
    # The first factor is drawn at random: by the run's seed, whatever was drawn before.
    generator = torch.Generator().manual_seed(config.seed)
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if ".lora_A." in name:
                bound = parameter.shape[1] ** -0.5  # as peft draws it
                drawn = torch.rand(parameter.shape, generator=generator)
                parameter.copy_((2 * drawn - 1) * bound)


class LastBlock(nn.Module):
    """The last block, which reads ``states`` instead of what the blocks below would give it."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.states: torch.Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        """Look like the block: some encoders ask it for its kind of attention."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("block"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the block on ``states`` [n, L, D], padded to the length that it was called with."""
        hidden = args[0] if args else kwargs["hidden_states"]
        assert self.states is not None
        states = self.states.to(hidden.dtype)
        # Longformer pads to a multiple of its window.
        states = F.pad(states, (0, 0, 0, hidden.shape[1] - states.shape[1]))
        if args:
            return self.block(states, *args[1:], **kwargs)
        return self.block(**{**kwargs, "hidden_states": states})


def last_block(transformer: Any) -> tuple[Any, LastBlock]:
    """Return a model whose only block is the last one of another, with the same tensors.

    The model around the block prepares masks and positions as ever, whatever the architecture; it
    embeds word pieces too, for nothing, which costs next to nothing.
    """
    short = share_frozen(transformer, keep=transformer.parameters())
    name, blocks = blocks_of(short)
    parent, _, attribute = name.rpartition(".")
    only = LastBlock(blocks[-1])
    setattr(short.get_submodule(parent), attribute, nn.ModuleList([only]))
    return short, only


def share_frozen(modules: Any, *, keep: Any) -> Any:
    """Return a deep copy of modules in which some tensors are not copied but shared."""
    return copy.deepcopy(modules, {id(tensor): tensor for tensor in keep})
