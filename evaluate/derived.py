"""Methods that do zero-shot annotation with what another method made of the data, and one thing more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from okrcell.config import fingerprint
from okrcell.evaluate.data import EvalData
from okrcell.evaluate.methods import Method, MethodOutput

__all__ = ["refined", "voted"]


def refined(base: Method, name: str) -> Method:
    """Return a method whose zero-shot scores are those of ``base``, smoothed (``+grit``)."""
    return _derived(
        base,
        name,
        {"refines": base.identity},
        f"{base.name}, zero-shot scores smoothed over a neighbour graph of the test cells",
        lambda output: replace(output, refined=True),
    )


def voted(base: Method, name: str) -> Method:
    """Return a method with the vote of markers beside the zero-shot scores of ``base`` (``+markers``)."""
    from okrcell.evaluate.marker_method import rules

    return _derived(
        base,
        name,
        {"votes": base.identity, "markers": rules()},
        f"{base.name}, marker genes of the candidates voting beside its zero-shot scores",
        lambda output: replace(output, votes=output.votes or "beside"),
    )


def _derived(
    base: Method,
    name: str,
    identity: dict[str, str],
    about: str,
    change: Callable[[MethodOutput], MethodOutput],
) -> Method:
    """Return a method that does zero-shot annotation with what another one made, changed."""

    def derive(output: MethodOutput) -> MethodOutput:
        return change(base.derive(output))

    root = base.refines or base

    def embed(data: EvalData, seed: int) -> MethodOutput:
        return replace(derive(root.embed(data, seed)), name=name)

    return replace(
        base,
        name=name,
        identity=fingerprint(identity),
        about=about,
        tasks=frozenset({"zero_shot"}),
        embed=embed,
        refines=root,
        derive=derive,
    )
