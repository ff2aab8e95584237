"""What a person sees while a command works: messages and progress on stderr, results on stdout."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["emit_json", "pairs", "plain", "progress", "report", "run", "say", "slug", "table"]

_SHOW_AFTER_S = 2.0
_PLAIN_EVERY_S = 10.0


def say(message: str) -> None:
    """Print one line to stderr."""
    print(message, file=sys.stderr, flush=True)  # noqa: T201


def emit_json(value: object) -> None:
    """Print one JSON document on stdout, for scripts."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, sort_keys=False) + "\n")
    sys.stdout.flush()


def report(result: dict[str, Any], as_json: bool, title: str) -> None:
    """Print a command's result: a table of two columns, or one JSON document."""
    if as_json:
        emit_json(result)
        return
    rows = [[name, plain(value)] for name, value in result.items() if name != "reused"]
    if result.get("reused") is True:
        title += " (unchanged, reused)"
    table(title, ["", ""], rows)


def table(
    title: str, columns: list[str], rows: list[list[str]], right: frozenset[int] = frozenset()
) -> None:
    """Print a table on stdout; columns whose index is in ``right`` are aligned right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # A pipe has no width of its own: give it one that cuts nothing.
    console = Console(width=None if sys.stdout.isatty() else 160)
    grid = Table(title=Text(title), title_justify="left")
    for index, name in enumerate(columns):
        grid.add_column(Text(name), justify="right" if index in right else "left")
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    console.print(grid)


@contextmanager
def progress(task: str, total: int, unit: str = "") -> Iterator[Callable[..., None]]:
    """Yield ``advance(n=1, note="")``; a bar with ETA appears once the work takes over two seconds.

    Without a terminal on stderr, plain lines are printed every ten seconds instead.
    """
    meter: _Meter = _Bar(task, total) if sys.stderr.isatty() else _Lines(task, total, unit)
    try:
        yield meter.advance
    finally:
        meter.close()


class _Meter:
    def __init__(self, task: str, total: int) -> None:
        self.task, self.total, self.done = task, total, 0
        self.start = time.monotonic()

    def advance(self, n: int = 1, note: str = "") -> None:
        self.done += n
        elapsed = time.monotonic() - self.start
        if elapsed >= _SHOW_AFTER_S:
            self.show(elapsed, note)

    def show(self, elapsed: float, note: str) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class _Lines(_Meter):
    def __init__(self, task: str, total: int, unit: str) -> None:
        super().__init__(task, total)
        self.unit, self.last = unit, 0.0

    def show(self, elapsed: float, note: str) -> None:
        if self.last and elapsed - self.last < _PLAIN_EVERY_S:
            return
        self.last = elapsed
        left = elapsed / max(self.done, 1) * (self.total - self.done)
        unit = f" {self.unit}" if self.unit else ""
        tail = f" | {note}" if note else ""
        say(
            f"{self.task}: {self.done}/{self.total}{unit}, {elapsed:.0f} s, about {left:.0f} s left{tail}"
        )

    def close(self) -> None:
        if self.last:
            say(f"{self.task}: {self.done}/{self.total} in {time.monotonic() - self.start:.0f} s")


class _Bar(_Meter):
    def __init__(self, task: str, total: int) -> None:
        super().__init__(task, total)
        self.bar: Progress | None = None
        self.row: Any = None

    def show(self, elapsed: float, note: str) -> None:
        if self.bar is None:
            from rich import progress as rp
            from rich.console import Console

            self.bar = rp.Progress(
                rp.TextColumn("{task.description}"),
                rp.BarColumn(),
                rp.MofNCompleteColumn(),
                rp.TimeElapsedColumn(),
                rp.TimeRemainingColumn(),
                rp.TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self.bar.start()
            self.row = self.bar.add_task(self.task, total=self.total, note=note)
        self.bar.update(self.row, completed=self.done, note=note)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()


def plain(value: object) -> str:
    """Return a value as a person reads it: mappings and lists without brackets and quotes."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {plain(entry)}" for name, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(entry) for entry in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def pairs(flag: str, values: list[str] | None) -> dict[str, str]:
    """Parse repeated ``NAME=VALUE`` flags.

    Raises
    ------
    ConfigError
        A value without an equals sign.
    """
    from okrcell.errors import ConfigError

    found = {}
    for value in values or []:
        name, equals, content = value.partition("=")
        if not equals or not name or not content:
            raise ConfigError(
                flag,
                found=f"'{value}'",
                expected="NAME=VALUE",
                fix=f"Write it as {flag} cell_type=COLUMN, for instance.",
            )
        found[name.strip()] = content.strip()
    return found


def slug(name: str) -> str:
    """Return a name that can be a folder: letters, digits, dots, dashes, underscores."""
    import re

    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip("._-")[:100] or "dataset"


def run(app: Callable[[], object]) -> None:
    """Run a command line: exit code 2 for the user's input, 1 for faults of ours."""
    from okrcell.errors import OkrcellError

    # Set before any library reads them: nothing here talks to a model hub, and no telemetry.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except OkrcellError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)
    except SystemExit as ended:
        if ended.code == 130:  # typer's answer to Ctrl-C
            say("interrupted: run the same command again to continue")
        raise
    except OSError as error:
        from okrcell.artifacts import as_storage_error

        refused = as_storage_error(error, error.filename or "file system")
        if refused is None:
            raise
        say(f"error: {refused}")
        sys.exit(refused.exit_code)
