"""One method, one task: what the method makes of the data, and what it scores there."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from okrcell.evaluate.config import EvaluateConfig
from okrcell.evaluate.data import EvalData
from okrcell.evaluate.guards import check_text_vectors
from okrcell.evaluate.methods import Method, MethodOutput, NotApplicable, Vectors
from okrcell.evaluate.rows import TaskResult

__all__ = ["Outputs", "ask", "outputs_of", "references"]


@dataclass(frozen=True)
class Outputs:
    """What one method makes of the data, once per seed, or why it sits them out."""

    found: list[MethodOutput]
    seeds: list[int]
    notes: list[str]


def outputs_of(
    method: Method, data: EvalData, config: EvaluateConfig, shared: dict[str, Outputs]
) -> Outputs:
    """Embed the data; a method that refines another takes what that one gave, if it is the last."""
    if method.refines is not None and method.refines.identity in shared:
        base = shared[method.refines.identity]
        found = [replace(method.derive(o), name=method.name) for o in base.found]
        return Outputs(found, base.seeds, base.notes)
    seeds = list(range(config.seed, config.seed + method.n_seeds))
    try:
        outputs = Outputs([_checked(method.embed(data, seed)) for seed in seeds], seeds, [])
    except NotApplicable as reason:
        outputs = Outputs([], seeds, [str(reason)])
    shared.clear()
    shared[method.identity] = outputs
    return outputs


def _checked(output: MethodOutput) -> MethodOutput:
    """Return the output with a text encoder whose vectors are looked at."""
    encode, cells = output.encode_text, output.cells
    if encode is None or cells is None:
        return output

    def encoded(texts: list[str]) -> Vectors:
        vectors = encode(texts)
        check_text_vectors(vectors, texts, cells.shape[1], output.name)
        return vectors

    return replace(output, encode_text=encoded)


@contextmanager
def _many_types() -> Iterator[None]:
    """Let there be many types of few cells, which scikit-learn takes for a mistake."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The number of unique classes")
        yield


@_many_types()
def ask(
    task: str,
    method: MethodOutput,
    data: EvalData,
    config: EvaluateConfig,
    before: list[np.ndarray],
) -> TaskResult:
    """Run one task for one method."""
    notes: list[str] = []
    if task in {"clustering", "batch"} and method.used_labels and data.integration == "all":
        data = replace(data, integration="test")
        notes = [
            f"{data.dataset}: {method.name} was shown labels of train cells, so clustering and batch "
            "correction look at its test cells alone; it is not tested against methods that saw none."
        ]
    mute = method.encode_text is None and method.votes != "alone"
    if task in {"zero_shot", "retrieval"} and mute:
        return TaskResult(notes=[f"{method.name} gave no text vectors: {task} was left out."])
    if task == "clustering":
        from okrcell.evaluate.clustering import clustering

        return _noted(clustering(method, data, config), notes)
    if task == "annotation":
        from okrcell.evaluate.annotation import annotation

        return annotation(method, data, config)
    if task == "batch":
        from okrcell.evaluate.baselines import pca
        from okrcell.evaluate.batch import batch_correction

        if not before:
            cells = pca(data, config.seed, data.integrated).cells
            assert cells is not None
            before.append(cells)
        return _noted(batch_correction(method, before[0], data, config), notes)
    if task == "few_shot":
        from okrcell.evaluate.few_shot import few_shot

        return few_shot(method, data, config)
    if task == "zero_shot":
        from okrcell.evaluate.zero_shot import zero_shot

        return zero_shot(method, data, config)
    if task == "retrieval":
        from okrcell.evaluate.retrieval import retrieval

        return retrieval(method, data, config)
    from okrcell.evaluate.robustness import robustness

    return robustness(method, data, config)


def _noted(result: TaskResult, notes: list[str]) -> TaskResult:
    result.notes += notes if result.rows else []
    return result


def references(
    data: EvalData, config: EvaluateConfig
) -> Mapping[str, tuple[str, Callable[[], TaskResult]]]:
    """Return task to what needs no method: the most frequent type, the bounds of strict retrieval."""

    def majority_annotation() -> TaskResult:
        from okrcell.evaluate.annotation import majority

        return majority(data, config)

    def majority_zero_shot() -> TaskResult:
        from okrcell.evaluate.zero_shot import majority_zero_shot as guess

        return guess(data, config)

    def bounds() -> TaskResult:
        from okrcell.evaluate.retrieval import ceiling

        return ceiling(data, config)

    return {
        "annotation": ("majority", majority_annotation),
        "zero_shot": ("majority", majority_zero_shot),
        "retrieval": ("reference", bounds),
    }
