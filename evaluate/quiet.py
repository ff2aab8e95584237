"""Third-party training code without its warnings, logs and global side effects."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from okrcell.errors import DependencyError

__all__ = ["peer_module", "quiet"]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings and logging inside the block; the root logger comes back as it was.

    Some of these packages install a handler on the root logger when they are imported.
    """
    root = logging.getLogger()
    level, handlers, disabled = root.level, list(root.handlers), logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.setLevel(level)
        root.handlers[:] = handlers


def peer_module(name: str, distribution: str) -> ModuleType:
    """Import an optional package, or say how to get it.

    Raises
    ------
    DependencyError
        It is not installed.
    """
    import importlib

    with quiet():
        try:
            return importlib.import_module(name)
        except ImportError as error:
            raise DependencyError(
                "peer methods",
                found=f"no package {distribution} ({error})",
                expected="the optional packages of the peer methods",
                fix="Install them: pip install 'okrcell[peers]'.",
            ) from error
