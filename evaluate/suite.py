"""A suite: which data are evaluated, what their columns mean, and how test cells are set apart."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from okrcell.config import StageConfig
from okrcell.errors import ConfigError, FileFormatError
from okrcell.evaluate.config import EvaluateConfig, Task

__all__ = ["DataSpec", "Suite", "as_suite", "read_suite", "suite_of"]

ValueKind = Literal["counts", "lognorm"]

_SPLIT = re.compile(r"donor|batch|random|store|column:.+")
_CELL_FIELDS = {"cell_type": "label", "batch": "batch", "donor": "donor"}


class DataSpec(StageConfig):
    """One table ``[[data]]`` of a suite file.

    Attributes
    ----------
    name
        Name in results; the file's or store's name by default.
    path
        An h5ad file, or a store of the corpus stage.
    descriptions
        Job of the enrich stage with the texts of a store.
    label, term, batch, donor
        Columns of ``obs``: cell type, its Cell Ontology id, technical batch, donor. ``term``,
        ``batch`` and ``donor`` are found by their usual names where not given.
    terms
        Label to Cell Ontology id: a TSV file with columns ``label`` and ``cl_id`` (and ``dataset``,
        of which rows are read whose dataset the name of the data begins with), or the mapping itself.
    texts
        TSV file with columns ``label`` (or ``cl_id``) and ``text``: what stands for a type.
    layer
        ``X``, ``raw``, or the name of a layer.
    values
        ``counts`` or ``lognorm``; found out where not given. Fractions that are declared to be counts
        are taken as they are.
    split
        How test cells are set apart, one way or several: ``donor``, ``batch``, ``random``, or
        ``column:NAME`` of ``obs`` with ``train``, ``validation`` and ``test``. The first is used for
        all tasks, the others for annotation alone. By default ``donor`` where donors are named, else
        ``batch``, else ``random``.
    hold_out
        Types whose cells all go to test: unseen types.
    keep
        Column of ``obs`` to the value that cells must have to take part.
    unlabelled
        Further labels that mean "not known".
    tissue, candidate_roots
        See ``EvalData``.
    tasks
        Which tasks make sense on these data; all by default.
    integration
        Cells that clustering and batch correction look at; ``all`` is right for data that no method
        was trained on. Of a store always the test cells.
    min_gene_coverage
        Least share of the file's genes that must be known human genes.
    vectors
        ``obsm`` keys to read; those that methods ask for are added.
    """

    name: str = ""
    path: Path
    descriptions: Path | None = None
    label: str = "cell_type"
    term: str = ""
    batch: str = ""
    donor: str = ""
    terms: Path | dict[str, str] | None = None
    texts: Path | None = None
    layer: str = "X"
    values: ValueKind | None = None
    split: tuple[str, ...] = ()
    hold_out: tuple[str, ...] = ()
    keep: dict[str, str] = Field(default_factory=dict)
    unlabelled: tuple[str, ...] = ()
    tissue: str = ""
    candidate_roots: tuple[str, ...] = ()
    tasks: tuple[Task, ...] = ()
    vectors: tuple[str, ...] = ()
    integration: Literal["test", "all"] = "all"
    min_gene_coverage: float = Field(default=0.5, ge=0, le=1)

    @field_validator("split", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _known_splits(self) -> DataSpec:
        if len(set(self.split)) < len(self.split):
            raise ValueError("every way of splitting once")
        for split in self.split:
            if not _SPLIT.fullmatch(split):
                raise ValueError(f"split '{split}' is none of donor, batch, random, column:NAME")
        return self

    @property
    def title(self) -> str:
        """Name in results."""
        return self.name or self.path.name.removesuffix(".h5ad")


class Suite(StageConfig):
    """A suite file: ``name``, ``root``, ``[evaluate]`` with keys of the stage, ``[[data]]``.

    ``root`` is the folder that paths of the data start from, itself read from the suite file's.
    """

    name: str = ""
    about: str = ""
    root: Path = Path()
    evaluate: EvaluateConfig = EvaluateConfig()
    data: tuple[DataSpec, ...] = Field(min_length=1)


def read_suite(path: Path, root: Path | None = None) -> Suite:
    """Read a suite file; paths in it become paths from here.

    Raises
    ------
    FileFormatError
        No such file, or not TOML.
    ConfigError
        Unknown keys or values.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileFormatError(
            path, found="no such file", expected="a suite file", fix="Check the path."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FileFormatError(
            path,
            found=f"text that is not TOML ({error})",
            expected="a suite file, as in suites/quickstart.toml",
            fix="Mend the line that is named.",
        ) from None
    suite = as_suite(content, str(path))
    base = root if root is not None else path.parent / suite.root
    specs = tuple(_rooted(spec, base) for spec in suite.data)
    check_names(specs, str(path))
    return suite.replace(data=specs, name=suite.name or path.stem)


def as_suite(content: Mapping[str, Any], where: str) -> Suite:
    """Return the suite of a parsed file.

    Raises
    ------
    ConfigError
        Unknown keys or values.
    """
    try:
        return Suite.model_validate(content)
    except ValidationError as error:
        raise _bad_key(where, error) from None


def _bad_key(where: str, error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    words = {"extra_forbidden": "a key that exists", "missing": "a value"}
    return ConfigError(
        f"{where}: {key or 'suite'}",
        found=str(first.get("input"))[:80] if first["type"] != "missing" else "nothing",
        expected=words.get(first["type"], str(first["msg"]).removeprefix("Value error, ")),
        fix="See docs/evaluate/data.md for the keys.",
    )


def suite_of(
    paths: Sequence[Path],
    *,
    descriptions: Path | None = None,
    columns: Mapping[str, str] | None = None,
    split: Sequence[str] = (),
    root: Path | None = None,
) -> tuple[tuple[DataSpec, ...], EvaluateConfig | None]:
    """Return the data that ``--data`` names, and the keys of the stage where a suite sets them.

    Parameters
    ----------
    paths
        Suite files (``.toml``), h5ad files, stores.
    descriptions, columns, split
        For the data named directly: job, field to column of ``obs``, ways to split.
    """
    specs: list[DataSpec] = []
    keys: EvaluateConfig | None = None
    named = {_field(field): column for field, column in (columns or {}).items()}
    for path in paths:
        if path.suffix == ".toml":
            suite = read_suite(path, root)
            if keys is not None and keys != suite.evaluate:
                raise ConfigError(
                    f"--data {path}",
                    found="a second suite with other keys in [evaluate]",
                    expected="suites that agree",
                    fix="Evaluate them one by one and compare with `okrcell evaluate compare`.",
                )
            keys = suite.evaluate
            specs += suite.data
        else:
            job = descriptions if path.is_dir() else None
            content = {"path": path, "descriptions": job, "split": tuple(split), **named}
            try:
                specs.append(DataSpec.model_validate(content))
            except ValidationError as error:
                raise _bad_key(f"--data {path}", error) from None
    ignored = [
        f
        for f, given in (("--map", named), ("--split", split), ("--descriptions", descriptions))
        if given
    ]
    if ignored and all(path.suffix == ".toml" for path in paths):
        raise ConfigError(
            ", ".join(ignored),
            found="a flag that does not apply to suites",
            expected="these things in the suite's tables [[data]]",
            fix="Change the suite, or leave the flag away.",
        )
    check_names(specs, "--data")
    return tuple(specs), keys


def check_names(specs: Sequence[DataSpec], where: str) -> None:
    """Refuse two data of one name, and names with a slash, which stands before a split."""
    named = [spec.title for spec in specs]
    for name in named:
        if named.count(name) > 1 or "/" in name:
            raise ConfigError(
                f"{where}: data '{name}'",
                found="a name given twice" if "/" not in name else "a name with a slash",
                expected="names of data that differ, without slashes",
                fix="Set name in the tables [[data]] of a suite.",
            )


def _field(name: str) -> str:
    if name not in _CELL_FIELDS:
        raise ConfigError(
            f"--map {name}",
            found="a field that evaluation does not use",
            expected=", ".join(_CELL_FIELDS),
            fix="Map one of these.",
        )
    return _CELL_FIELDS[name]


def _rooted(spec: DataSpec, base: Path) -> DataSpec:
    changes: dict[str, Any] = {"path": base / spec.path}
    for key in ("descriptions", "texts", "terms"):
        value = getattr(spec, key)
        if isinstance(value, Path):
            changes[key] = base / value
    return spec.replace(**changes)
