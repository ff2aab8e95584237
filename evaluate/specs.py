"""From what a user writes to methods: ``okrcell=runs/a``, ``pca``, ``obsm:X_scGPT``, ``lab:embed+grit``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import okrcell
from okrcell.artifacts import read_manifest
from okrcell.config import fingerprint
from okrcell.errors import ConfigError, GeneCoverageError
from okrcell.evaluate import baselines
from okrcell.evaluate.config import TASKS, EvaluateConfig, Task
from okrcell.evaluate.data import EvalData
from okrcell.evaluate.derived import refined, voted
from okrcell.evaluate.guards import check_alignment, check_unseen
from okrcell.evaluate.methods import Method, MethodOutput, cell_text, unit

if TYPE_CHECKING:
    from okrcell.corpus.embedder import Embedder

__all__ = ["BASELINES", "MAIN", "RESERVED", "Opener", "parse_method", "parse_methods"]

MAIN = "okrcell"
BASELINES = ("pca", "pca+ridge", "pca+ridge-desc", "random")
RESERVED = frozenset({"majority", "duplicate ceiling", "chance", "reference"})
GRIT = "+grit"
MARKERS = "+markers"

Opener = Callable[[Path], Any]

_OF_CELLS: frozenset[Task] = frozenset(
    {"clustering", "annotation", "batch", "few_shot", "robustness"}
)
_OF_TEXTS: frozenset[Task] = frozenset({"zero_shot", "retrieval", "robustness"})
_NAME = re.compile(r"(?P<name>[\w .:@/-]*[\w.)])=(?P<spec>.+)")
_LEAST_COVERAGE = 0.1


def parse_methods(
    asked: Sequence[str],
    config: EvaluateConfig,
    *,
    extra: Sequence[str] = (),
    grit: bool = False,
    embedder: Embedder | None = None,
    open_model: Opener | None = None,
) -> list[Method]:
    """Return the methods that are asked for and then the ``extra`` ones that are not among them.

    Parameters
    ----------
    asked, extra
        Specifications, see :func:`parse_method`.
    grit
        Add a refined twin of every method that does zero-shot annotation.
    embedder, open_model
        Opened from the configuration and the run folders where they are not given.

    Raises
    ------
    ConfigError
        A specification that means nothing, or a name that is taken.
    """
    remember = _Texts(config.embedder, embedder)
    found: dict[str, Method] = {}
    for spec, is_extra in [*((s, False) for s in asked), *((s, True) for s in extra)]:
        method = parse_method(spec, config, remember, open_model or okrcell.load)
        if is_extra and method.name in found:
            continue
        if method.name == MAIN and MAIN in found:
            method = replace(method, name=method.runs[0].name if method.runs else method.name)
        if method.name in found or method.name in RESERVED:
            raise ConfigError(
                f"method '{spec}'",
                found=f"the name '{method.name}', which is taken",
                expected=f"a name of its own, and none of {', '.join(sorted(RESERVED))}",
                fix="Give it a name: NAME=SPEC, such as infonce=runs/infonce.",
            )
        found[method.name] = method
    ordered: list[Method] = []
    for method in found.values():
        ordered.append(method)
        name = f"{method.name}{GRIT}"
        if grit and "zero_shot" in method.tasks and method.refines is None and name not in found:
            ordered.append(refined(method, name))  # right behind: it takes what that one embedded
    return ordered


def parse_method(text: str, config: EvaluateConfig, remember: _Texts, open_model: Opener) -> Method:
    """Return the method that a specification names.

    ``[NAME=]SPEC[+markers][+grit]``, where SPEC is the folder of a trained run (several, of one model trained
    with several seeds, are joined by commas), the name of a baseline or peer,
    ``obsm:KEY[,texts=FILE]``, or ``MODULE:FUNCTION`` (also ``FILE.py:FUNCTION``).
    """
    from okrcell.evaluate.peers import PEERS

    matched = _NAME.fullmatch(text)
    is_plain = Path(text).exists() or text.startswith("obsm:")
    name, spec = (matched["name"], matched["spec"]) if matched and not is_plain else ("", text)
    for switch, change in ((GRIT, refined), (MARKERS, voted)):
        if not spec.endswith(switch):
            continue
        base = parse_method(spec.removesuffix(switch), config, remember, open_model)
        if "zero_shot" not in base.tasks:
            raise ConfigError(
                f"method '{text}'",
                found=f"{switch} on a method that knows no texts",
                expected="a method that does zero-shot annotation",
                fix=f"Leave {switch} away.",
            )
        return change(base, name or f"{base.name}{switch}")
    folders = [Path(part) for part in spec.split(",")]
    if spec in _SIMPLE:
        return replace(_SIMPLE[spec](config, remember), name=name or spec)
    if spec in PEERS:
        peer = PEERS[spec]
        return Method(
            name or spec,
            fingerprint({"peer": spec, "version": peer.version, "seed": config.seed}),
            peer.about,
            peer.tasks,
            lambda data, seed: replace(peer.embed(data, seed), name=name or spec),
            config.seeds if peer.n_seeds < 0 else peer.n_seeds,
        )
    if spec.startswith("obsm:"):
        from okrcell.evaluate.external import of_obsm

        return of_obsm(name, spec)
    if all(folder.is_dir() for folder in folders):
        return _of_runs(name or MAIN, folders, remember, open_model)
    if ":" in spec:
        from okrcell.evaluate.external import of_function

        return of_function(name, spec, config.seed)
    known = ", ".join([*_SIMPLE, *PEERS])
    raise ConfigError(
        f"method '{text}'",
        found="no such folder, and no method of this name",
        expected=f"a run folder, obsm:KEY, MODULE:FUNCTION, or one of {known}",
        fix="Check the spelling; `okrcell evaluate tasks` lists methods.",
    )


class _Texts:
    """Encodes every text once, whoever asks: equal embedders share what was encoded."""

    def __init__(self, name: str, embedder: Embedder | None) -> None:
        self.name, self._embedder = name, embedder
        self._kept: dict[str, dict[str, NDArray[np.float32]]] = {}

    @property
    def embedder(self) -> Embedder:
        if self._embedder is None:
            from okrcell.corpus.embedder import load_embedder

            self._embedder = load_embedder(self.name)
        return self._embedder

    def once(
        self, key: str, encode: Callable[[list[str]], NDArray[np.float32]]
    ) -> Callable[[list[str]], NDArray[np.float32]]:
        """Return ``encode`` with a memory that all encoders under ``key`` share."""
        kept = self._kept.setdefault(key, {})

        def remembered(texts: list[str]) -> NDArray[np.float32]:
            new = list(dict.fromkeys(text for text in texts if text not in kept))
            if new:
                kept.update(zip(new, encode(new), strict=True))
            return np.stack([kept[text] for text in texts])

        return remembered


class _Shared:
    """An embedder that remembers, for the baselines."""

    def __init__(self, remember: _Texts) -> None:
        self.encode = remember.once(
            f"embedder {remember.name}", lambda texts: remember.embedder.encode(texts)
        )


def _of_runs(name: str, folders: Sequence[Path], remember: _Texts, open_model: Opener) -> Method:
    manifests = [read_manifest(folder, "run") for folder in folders]
    sources = {str(manifest.config.get("text_source", "description")) for manifest in manifests}
    objectives = {str(manifest.config.get("objective", "")) for manifest in manifests}
    if len(sources) > 1 or len(objectives) > 1:
        raise ConfigError(
            f"method '{name}'",
            found="runs of different objectives or texts under one name",
            expected="runs that differ in their seed",
            fix="Give each its own name: NAME=RUN.",
        )
    source, objective = sources.pop(), objectives.pop()
    about = f"trained with {objective} on {source}s"
    if len(folders) > 1:
        about += f", {len(folders)} training seeds"
    opened: dict[int, Any] = {}

    def embed(data: EvalData, seed: int) -> MethodOutput:
        number = seed % len(folders)
        if number not in opened:
            opened.clear()
            opened[number] = open_model(folders[number])
        model, folder = opened[number], folders[number]
        coverage = _check_genes(model, data, name)
        own = manifests[number].inputs.get("cells", "")
        if not own or own != data.cells_sha256:
            check_unseen(data, folder, getattr(model, "gene_ids", data.matrix.gene_ids))
        where = "" if own and own == data.cells_sha256 else ", on other cells than these"
        output = baselines.trained(name, model, data, texts=_kind(source), about=about + where)
        # Runs share the vectors of a text tower that was not trained.
        shared = coverage is not None and model.config.stage == "1"
        key = f"embedder {model.config.embedder}" if shared else f"run {folder}"
        encode = remember.once(key, model.encode_text)
        if own and own == data.cells_sha256:
            _check_learnt(output, encode, data)
        finetune = None
        if coverage is not None:
            from okrcell.evaluate.finetune import finetune_classifier

            finetune = lambda d, s: finetune_classifier(model, d, s)  # noqa: E731
        return replace(output, encode_text=encode, finetune=finetune, coverage=coverage)

    shas = [manifest.fingerprint for manifest in manifests]
    return Method(
        name,
        fingerprint({"runs": shas}),
        about,
        frozenset(TASKS),
        embed,
        len(folders),
        ",".join(shas),
        tuple(folders),
    )


def _kind(source: str) -> Any:
    return source if source in ("label", "term") else "description"


def _check_genes(model: Any, data: EvalData, name: str) -> float | None:
    """Return the share of the data's genes that a model knows, None for one that does not tell."""
    known = getattr(model, "gene_ids", None)
    if known is None:
        return None
    share = len(set(known) & set(data.matrix.gene_ids)) / max(len(data.matrix.gene_ids), 1)
    if share < _LEAST_COVERAGE:
        raise GeneCoverageError(
            f"model '{name}' on {data.dataset}",
            found=f"{share:.1%} of {len(data.matrix.gene_ids)} genes in its vocabulary of {len(known)}",
            expected=f"at least {_LEAST_COVERAGE:.0%}",
            fix="Train a model on these genes, or leave these data out.",
        )
    return share


def _check_learnt(output: MethodOutput, encode: Callable[..., Any], data: EvalData) -> None:
    assert output.cells is not None
    rows = data.train
    if len(rows) > 512:
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:512])
    texts, codes = np.unique(
        np.asarray([cell_text(data, int(i), output.texts) for i in rows]), return_inverse=True
    )
    vectors = unit(encode([str(text) for text in texts]))
    check_alignment(unit(output.cells[rows]), vectors, codes, output.name)


# --- baselines by name --------------------------------------------------------------------------


def _pca(config: EvaluateConfig, remember: _Texts) -> Method:
    return Method(
        "pca",
        fingerprint({"baseline": "pca", "seed": config.seed}),
        "principal components of log1p counts per 10,000, fitted on train cells",
        _OF_CELLS,
        lambda data, _: baselines.pca(data, config.seed),
    )


def _ridge(texts: Any) -> Callable[[EvaluateConfig, _Texts], Method]:
    def make(config: EvaluateConfig, remember: _Texts) -> Method:
        shared: Any = _Shared(remember)

        def embed(data: EvalData, seed: int) -> MethodOutput:
            return baselines.pca_ridge(data, baselines.pca(data, config.seed), shared, texts)

        what = "bare cell type names" if texts == "label" else "descriptions"
        key = {"baseline": "ridge", "texts": texts, "embedder": config.embedder}
        return Method(
            "pca+ridge",
            fingerprint({**key, "seed": config.seed}),
            f"ridge regression from PCA to frozen text vectors of the {what}, fitted on train cells",
            _OF_TEXTS,
            embed,
        )

    return make


def _random(config: EvaluateConfig, remember: _Texts) -> Method:
    return Method(
        "random",
        fingerprint({"baseline": "random"}),
        "Gaussian vectors: chance",
        frozenset({*_OF_CELLS, *_OF_TEXTS} - {"robustness"}),
        baselines.random,
        config.seeds,
    )


def _markers(config: EvaluateConfig, remember: _Texts) -> Method:
    from okrcell.evaluate.marker_method import alone, rules

    return Method(
        "markers",
        fingerprint({"baseline": "markers", "markers": rules()}),
        "the vote of marker genes of the candidates on each cell's expression, without any training",
        frozenset({"zero_shot"}),
        alone,
    )


_SIMPLE: dict[str, Callable[[EvaluateConfig, _Texts], Method]] = {
    "markers": _markers,
    "pca": _pca,
    "pca+ridge": _ridge("label"),
    "pca+ridge-desc": _ridge("description"),
    "label-text": _ridge("label"),
    "random": _random,
}
