"""One exception tree. Every message says where, what was found, what was expected and what to do."""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "ArtifactError",
    "ConfigError",
    "DataError",
    "EmbedderError",
    "InternalError",
    "OkrcellError",
    "ProviderError",
    "UserError",
]


class OkrcellError(Exception):
    """Base of everything okrcell raises on purpose.

    Parameters
    ----------
    where
        The file, row, key, flag or endpoint the error is about.
    found, expected
        Short noun phrases or clauses, without a full stop.
    fix
        One or two full sentences: what the user can do now.
    """

    exit_code = 1

    def __init__(self, where: str | Path, *, found: str, expected: str, fix: str) -> None:
        self.where, self.found, self.expected, self.fix = str(where), found, expected, fix
        super().__init__(f"{self.where}: found {found}; expected {expected}. {fix}")

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling between processes, which keyword-only arguments would not."""
        return (_rebuild, (type(self), self.where, self.found, self.expected, self.fix))


def _rebuild(
    cls: type[OkrcellError], where: str, found: str, expected: str, fix: str
) -> OkrcellError:
    return cls(where, found=found, expected=expected, fix=fix)


class InternalError(OkrcellError):
    """A broken promise of ours (exit code 1)."""


class UserError(OkrcellError):
    """Something the user can put right (exit code 2)."""

    exit_code = 2


class ConfigError(UserError):
    """A configuration file, key or flag that cannot be used."""


class DependencyError(UserError):
    """An optional package that a requested feature needs is not installed."""


# --- data that users bring ---------------------------------------------------------------------


class DataError(UserError):
    """An input file whose content cannot be used."""


class FileFormatError(DataError):
    """Not the kind of file it should be, or damaged."""


class MissingColumnError(DataError):
    """A column that is needed does not exist; the message lists those that do."""


class DuplicateNamesError(DataError):
    """Names that must be unique are not."""


class GeneCoverageError(DataError):
    """Too few genes of a file can be resolved to Ensembl ids."""


class ExpressionValueError(DataError):
    """Expression values that are negative, not finite, or on another scale than declared."""


class LabelError(DataError):
    """Labels that cannot be mapped to ontology terms, or too few cells or types to work with."""


class LabelLeakError(DataError):
    """An evaluation whose test cells may have been trained on."""


# --- files between stages ----------------------------------------------------------------------


class ArtifactError(UserError):
    """A folder or table between stages that cannot be used."""


class ManifestError(ArtifactError):
    """A manifest that is absent, unreadable, or does not agree with the files."""


class SchemaVersionError(ArtifactError):
    """A table or folder of another schema version."""


class ForeignFolderError(ArtifactError):
    """An output folder that holds something okrcell did not write."""


class LockedError(ArtifactError):
    """Another process is writing to the folder."""


class StorageError(ArtifactError):
    """The file system refused: full, read-only, or no permission."""


# --- models and services -----------------------------------------------------------------------


class EmbedderError(UserError):
    """A text embedding model that is missing, altered, or other than the one recorded."""


class ProviderError(UserError):
    """An LLM endpoint that refused, failed, or answered something unusable.

    ``retryable`` says whether the same request may succeed later.
    """

    retryable = False


class ProviderUnavailableError(ProviderError):
    """Rate limit, time-out, dropped connection or server fault."""

    retryable = True


class TrainingError(UserError):
    """Training that cannot start, or that stopped on a loss that is not finite."""
