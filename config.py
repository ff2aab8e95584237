"""Frozen configuration per stage, read from TOML, overridden by flags, identified by a fingerprint."""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from okrcell.errors import ConfigError

__all__ = ["STAGES", "StageConfig", "fingerprint", "load_config"]

STAGES = ("corpus", "enrich", "train", "evaluate")


class StageConfig(BaseModel):
    """Base of every stage's configuration: immutable, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def replace(self, **changes: Any) -> Self:
        """Return a validated copy with some keys changed."""
        return type(self).model_validate({**self.model_dump(), **changes})


ConfigT = TypeVar("ConfigT", bound=StageConfig)


def fingerprint(value: object) -> str:
    """Return the sha256 (hex) of a value's canonical JSON; models are dumped first."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def load_config(
    cls: type[ConfigT],
    stage: str,
    path: Path | None = None,
    flags: Mapping[str, Any] | None = None,
) -> ConfigT:
    """Build one stage's configuration from its table in a TOML file and from flags.

    Parameters
    ----------
    stage
        Name of the table to read, one of ``STAGES``; the file may hold tables of other stages.
    flags
        Values given on the command line; ``None`` means "not given". Flags win over the file.

    Raises
    ------
    ConfigError
        The file is not readable TOML, or a table, key or value is not known or not valid.
    """
    values: dict[str, Any] = {}
    where = "flags" if path is None else str(path)
    if path is not None:
        table = _read_toml(path).get(stage, {})
        if not isinstance(table, dict):
            raise ConfigError(
                f"{path} [{stage}]",
                found=f"a {type(table).__name__}",
                expected="a table of keys",
                fix=f"Write the keys below a line [{stage}].",
            )
        values.update(table)
    values.update({key: value for key, value in (flags or {}).items() if value is not None})
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise _explain(cls, stage, where, error) from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            path, found="no such file", expected="a TOML file", fix="Check the path after --config."
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            path,
            found=f"unreadable TOML ({error})",
            expected="a TOML file",
            fix="Correct the file.",
        ) from None
    unknown = sorted(set(content) - set(STAGES))
    if unknown:
        raise ConfigError(
            f"{path} [{unknown[0]}]",
            found="an unknown table or a key outside any table",
            expected=f"tables named {', '.join(STAGES)}",
            fix=f"Move the key below one of these tables{_guess(unknown[0], STAGES)}.",
        )
    return content


def _explain(cls: type[StageConfig], stage: str, where: str, error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "(whole table)"
    if first["type"] == "extra_forbidden":
        known = sorted(cls.model_fields)
        return ConfigError(
            f"{where} [{stage}] {key}",
            found="an unknown key",
            expected=f"one of {', '.join(known)}",
            fix=f"Correct or remove the key{_guess(key, known)}.",
        )
    return ConfigError(
        f"{where} [{stage}] {key}",
        found=repr(first["input"]),
        expected=first["msg"].removeprefix("Input should be ").removeprefix("Value error, "),
        fix="Correct the value.",
    )


def _guess(word: str, known: tuple[str, ...] | list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""
