"""Add files of literature to a store: tell their format, read them, write batches of documents."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from okrcell.artifacts import (
    MANIFEST,
    atomic_path,
    commit,
    file_sha256,
    invalidate,
    storage_guard,
    writing,
)
from okrcell.console import progress, slug
from okrcell.corpus import jats, jsonl, medline, notes
from okrcell.corpus.archives import Member, open_members, stem_of
from okrcell.corpus.documents import Document, DocumentWriter, Rejected, clean_id
from okrcell.corpus.literature_inputs import (
    EXPECTED,
    Input,
    check_source,
    collect_inputs,
    format_of,
    format_of_file,
    nothing_to_read,
)
from okrcell.corpus.merge import FILE, batches
from okrcell.errors import DataError, FileFormatError

__all__ = ["SOURCES", "add_literature"]

SOURCES = {"medline": "pubmed", "jats": "pmc", "jsonl": "jsonl", "note": "notes"}
"""Format to the source that its documents are searched by, where the user names no other."""

_READERS_VERSION = 1  # of the documents that the readers make: files are read again when it changes
_GROUP_BYTES = 1 << 26  # of input files per batch: what a killed call may have to read again
_BATCH = re.compile(r"(\d{4,})-")


@dataclass
class _Tally:
    """What a call has done so far."""

    documents: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def skip(self, where: str, reason: str, detail: str = "") -> None:
        self.skipped[reason] += 1
        self.examples.setdefault(reason, detail or where)

    def facts(self) -> dict[str, Any]:
        return {
            "documents": dict(sorted(self.documents.items())),
            **{name: self.counts[name] for name in ("duplicates", "deleted", "retracted")},
            "skipped": dict(sorted(self.skipped.items())),
            "examples": dict(sorted(self.examples.items())),
        }


def add_literature(
    store: Path, paths: Sequence[Path], *, source: str | None = None
) -> dict[str, Any]:
    """Read files and folders of literature into a store; files that it has are not read again.

    The format is told from the content. In a folder, files of other formats are passed over and
    counted; one that is named itself is an error. A damaged file is an error and nothing of it, or
    of what was read since the last batch was closed, is kept; a damaged file inside an archive is
    passed over and counted. Files without a document or a deletion make no batch. Batches are closed after 64 MiB of input: a call that was killed
    continues after the last one when it is run again, and ends with the same bytes.

    Parameters
    ----------
    source
        What the documents are searched by; default ``pubmed``, ``pmc``, ``jsonl`` or ``notes``.

    Returns
    -------
    dict
        ``reused`` (nothing was new), ``files`` read, ``unchanged`` files, ``documents`` by source,
        ``duplicates`` (records of an id that came before in the same batch), ``deleted`` ids,
        ``retracted`` documents, ``skipped`` files and records by reason, and one example of each.

    Raises
    ------
    DataError
        A path that is no regular file or folder, nothing to read, or two notes of one name.
    FileFormatError
        A file that is named itself and of no known format, an archive named itself that holds
        nothing that can be read, or a file that is damaged or unsafe.
    ConfigError
        A source that cannot be used.
    """
    from okrcell.corpus.build import open_store

    open_store(store)
    check_source(store, source)
    inputs = collect_inputs(paths)
    tally = _Tally()
    with writing(store, "store"):
        config = {"source": source or "", "readers": _READERS_VERSION}
        fresh, unchanged = _fresh(store, inputs, config, tally)
        _sweep(store)
        total = sum(entry.path.stat().st_size for entry in fresh)
        with progress("read literature", -(-total // 1_000_000), "MB") as advance:
            meter = _Meter(advance)
            for group in _groups(fresh):
                _write_batch(store, group, config, source, tally, meter)
        if not unchanged and not tally.counts["read"]:
            raise nothing_to_read(", ".join(map(str, paths)), tally.skipped)
    facts = tally.facts()
    return {"reused": not fresh, "files": len(fresh), "unchanged": unchanged, **facts}


class _Meter:
    """Bytes to whole megabytes of progress."""

    def __init__(self, advance: Callable[..., None]) -> None:
        self.advance, self.bytes, self.documents = advance, 0, 0

    def read(self, n: int) -> None:
        before = self.bytes // 1_000_000
        self.bytes += n
        if self.bytes // 1_000_000 > before:
            self.advance(self.bytes // 1_000_000 - before, note=f"{self.documents:,} documents")


def _fresh(
    store: Path, inputs: Sequence[Input], config: Mapping[str, Any], tally: _Tally
) -> tuple[list[Input], int]:
    """Return the files to read and the number of those that the store has as they are."""
    latest: dict[str, str] = {}
    for manifest in batches(store, verify=False).values():
        if dict(manifest.config) == config:
            latest.update(manifest.inputs)
    contents = set(latest.values())
    fresh, unchanged = [], 0
    for entry in inputs:
        kind, reason = format_of_file(entry)
        if not kind:
            if entry.explicit:
                raise FileFormatError(
                    entry.path,
                    found=reason,
                    expected=EXPECTED,
                    fix="Check the path, or convert the file.",
                )
            tally.skip(str(entry.path), reason)
            continue
        if kind == "note":
            _claim_note(tally, entry.path.name, str(entry.path))
        with storage_guard(entry.path):
            sha256 = file_sha256(entry.path)
        # An edited file that is edited back is new: the store's latest of that name is another.
        if latest.get(entry.name, sha256) == sha256 and sha256 in contents:
            unchanged += 1
            continue
        contents.add(sha256)
        latest[entry.name] = sha256
        fresh.append(Input(entry.name, entry.path, entry.explicit, sha256, kind))
    # XML knows more of an article than a line of JSON: read later, it wins where both have one.
    return sorted(fresh, key=lambda entry: entry.kind in {"medline", "jats"}), unchanged


def _claim_note(tally: _Tally, file_name: str, where: str) -> None:
    stem = clean_id(stem_of(file_name))  # what the note's id is made of
    if stem and tally.notes.setdefault(stem, where) != where:
        raise DataError(
            where,
            found=f"two files named '{stem}' (the other is {tally.notes[stem]})",
            expected="names of notes that differ",
            fix="Rename one of them.",
        )


def _groups(inputs: Sequence[Input]) -> Iterator[list[Input]]:
    """Cut the files into batches; what is left after a kill is cut in the same places."""
    group: list[Input] = []
    size = 0
    for entry in inputs:
        group.append(entry)
        size += entry.path.stat().st_size
        if size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _sweep(store: Path) -> None:
    """Remove what a killed call left of a batch; the caller holds the lock."""
    for folder in (store / "documents").glob("*"):
        if folder.is_dir() and _BATCH.match(folder.name) and not (folder / MANIFEST).exists():
            _remove(folder)


def _remove(folder: Path) -> None:
    with storage_guard(folder):
        for leftover in folder.iterdir():
            leftover.unlink()
        folder.rmdir()


def _write_batch(
    store: Path,
    group: Sequence[Input],
    config: Mapping[str, Any],
    source: str | None,
    tally: _Tally,
    meter: _Meter,
) -> None:
    numbers = [
        int(found[1]) for name in batches(store, verify=False) if (found := _BATCH.match(name))
    ]
    name = slug(stem_of(PurePosixPath(group[0].name).name))[:40]
    folder = store / "documents" / f"{max(numbers, default=0) + 1:04d}-{name}"
    own = _Tally(notes=tally.notes)
    invalidate(folder)
    with atomic_path(folder / FILE) as temporary, DocumentWriter(temporary) as writer:
        for entry in group:
            for item in _read(entry, source, own, meter):
                if isinstance(item, Rejected):
                    own.skip(item.where, item.reason)
                else:
                    writer.add(item)
                    meter.documents += 1
    if writer.total:
        _commit(folder, group, config, writer, own)
    else:
        _remove(folder)
    tally.documents.update(own.documents)
    tally.counts.update(own.counts)
    tally.skipped.update(own.skipped)
    tally.examples = {**own.examples, **tally.examples}


def _commit(
    folder: Path,
    group: Sequence[Input],
    config: Mapping[str, Any],
    writer: DocumentWriter,
    own: _Tally,
) -> None:
    own.documents.update(writer.by_source)
    own.counts.update(duplicates=writer.twice, deleted=writer.deleted, retracted=writer.retracted)
    # Examples are places on this machine: shown to the user, not part of what was made.
    facts = {name: value for name, value in own.facts().items() if name != "examples"}
    inputs = {entry.name: entry.sha256 for entry in group}
    commit(
        folder, "documents", config=config, inputs=inputs, files={FILE: writer.total}, facts=facts
    )


def _read(
    entry: Input, source: str | None, tally: _Tally, meter: _Meter
) -> Iterator[Document | Rejected]:
    before, skipped = tally.counts["read"], Counter(tally.skipped)
    with open_members(entry.path, str(entry.path), meter.read) as members:
        for member in members:
            kind, reason = format_of(member)
            if member.damage is None and not kind:
                tally.skip(member.where, reason)
                continue
            read = 0
            try:
                if member.damage is not None:
                    raise member.damage
                for item in _documents(kind, member, source or SOURCES[kind]):
                    read += 1
                    yield item
            except FileFormatError as error:
                # One bad file in an archive costs that file; a bad archive, or a file of which
                # records were taken already, costs the whole.
                if not (member.in_archive and not read and error.where.startswith(member.where)):
                    raise
                tally.skip(member.where, "a damaged or unsafe file in an archive", str(error))
                continue
            tally.counts["read"] += 1
            if kind == "note" and member.in_archive:
                _claim_note(tally, member.name, member.where)
    if tally.counts["read"] == before:
        if entry.explicit:
            raise nothing_to_read(str(entry.path), tally.skipped - skipped)
        tally.skip(str(entry.path), "an archive without a file that can be read")


def _documents(kind: str, member: Member, source: str) -> Iterator[Document | Rejected]:
    if kind == "medline":
        yield from medline.read_medline(member.handle, member.where, source)
    elif kind == "jats":
        yield from jats.read_jats(member.handle, member.where, source, stem_of(member.name))
    elif kind == "jsonl":
        yield from jsonl.read_jsonl(member.handle, member.where, source)
    else:
        yield notes.read_note(member.handle, member.where, source, stem_of(member.name))
