"""Records out of XML of any length: one at a time, nothing fetched, no entity of the file's own.

The parser is expat, driven directly: subtrees that nobody reads are passed over without building
anything, which makes a MEDLINE file three times as fast to read as building all of it, and declarations
of entities can be refused where they stand.
"""

from __future__ import annotations

import html.entities
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO
from xml.etree import ElementTree
from xml.parsers import expat

from okrcell.errors import FileFormatError

__all__ = ["Skip", "XmlRecord", "always", "root_name", "stream_records"]

_CHUNK = 1 << 18
_MOST_BYTES, _MOST_ELEMENTS, _MOST_DEPTH = 1 << 25, 1_000_000, 200
_C1 = re.compile(rb"[\x80-\x9f]")

Skip = Mapping[str, Callable[[Mapping[str, str]], bool]]
"""Local name of an element to a test of its attributes: True passes over it with all it holds."""


@dataclass(frozen=True)
class XmlRecord:
    """One record: its element, and the byte at which it starts, counted from 1.

    Elements have their local names, whatever prefixes the file uses; attributes keep theirs.
    """

    element: ElementTree.Element
    byte: int


def always(_: Mapping[str, str]) -> bool:
    """Pass over an element whatever its attributes."""
    return True


def root_name(head: bytes) -> str | None:
    """Return the name of the first element in the first bytes of a file, or None: no XML."""
    parser = expat.ParserCreate()
    parser.StartElementHandler = _found_root
    parser.UseForeignDTD(True)
    try:
        parser.Parse(head, False)
    except _RootError as found:
        return str(found.args[0]).rpartition(":")[2]
    except (expat.ExpatError, ValueError, LookupError):
        pass  # damage is reported by who reads the file
    return None


class _RootError(Exception):
    """Ends the look at a file once its first element is known."""


def _found_root(name: str, _: Mapping[str, str]) -> None:
    raise _RootError(name)


def stream_records(
    handle: BinaryIO,
    where: str,
    *,
    records: frozenset[str],
    skip: Skip,
    flat: frozenset[str] = frozenset(),
) -> Iterator[XmlRecord]:
    """Yield every record of an XML file, in order, in memory that does not grow with the file.

    Parameters
    ----------
    handle
        The uncompressed bytes.
    where
        What errors call the file.
    records
        Local names of elements that are records; one inside another belongs to the outer.
    skip
        Elements of a record that are passed over.
    flat
        Those of them that by their DTD never hold one of their own name. Not having to count
        levels makes a MEDLINE file a tenth faster to read; one that does nest there is an error.

    Raises
    ------
    FileFormatError
        Not well-formed, bytes that are not of the declared encoding, an entity declaration, or a
        record of more than 32 MiB, a million elements or 200 levels. The error names line and byte.
    """
    reader = _Reader(where, records, skip, flat)
    while chunk := handle.read(_CHUNK):
        yield from reader.feed(chunk)
    yield from reader.feed(b"", final=True)


class _Reader:
    """Handlers that build only what lies in a record and is not passed over."""

    def __init__(
        self, where: str, records: frozenset[str], skip: Skip, flat: frozenset[str]
    ) -> None:
        self.where, self.records, self.rule_of, self.flat = where, records, skip.get, flat
        self.done: list[XmlRecord] = []
        self.stack: list[str] = []  # names of open elements of the present record
        self.begin = self.count = self.mark = self.fed = 0
        self.passing = ""  # name of the element that is passed over
        self.nested = 0  # open elements of that name within it
        self.one_byte = False
        self.parser = parser = expat.ParserCreate()
        parser.buffer_text, parser.buffer_size = True, 1 << 16
        # Entities that a DTD would define are left to us, also where the file names no DTD.
        parser.UseForeignDTD(True)
        parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
        parser.EntityDeclHandler = self.refuse_entity
        parser.XmlDeclHandler = self.note_encoding
        parser.SkippedEntityHandler = self.named_character
        parser.StartElementHandler = self.outside
        self.builder = ElementTree.TreeBuilder()

    def feed(self, chunk: bytes, *, final: bool = False) -> list[XmlRecord]:
        """Parse some bytes; return the records that end in them."""
        self.done = []
        try:
            self.parser.Parse(chunk, final)
        except expat.ExpatError as error:
            raise self.damaged(error, chunk) from None
        except (ValueError, LookupError) as error:
            raise self.error(
                f"an encoding that cannot be read ({error})", "UTF-8, UTF-16 or a one-byte encoding"
            ) from None
        if self.one_byte and (odd := _C1.search(chunk)):
            raise FileFormatError(
                f"{self.where} byte {self.fed + odd.start() + 1}",
                found=f"byte 0x{odd[0][0]:02x}, which text in the declared ISO-8859-1 does not have",
                expected="the encoding that the first line declares",
                fix="Correct the declaration: the file is UTF-8 or Windows-1252 more likely.",
            )
        self.fed += len(chunk)
        if self.parser.CurrentByteIndex - self.mark > _MOST_BYTES:
            raise self.error(
                f"more than {_MOST_BYTES >> 20} MiB in one record, or without any",
                "records of articles",
            )
        return self.done

    def outside(self, name: str, attributes: Mapping[str, str]) -> None:
        if name in self.records or (":" in name and name.rpartition(":")[2] in self.records):
            parser = self.parser
            # Not the line: expat would go through the whole text once more to count lines.
            self.begin = self.mark = parser.CurrentByteIndex
            self.count = 0
            self.builder = ElementTree.TreeBuilder()
            parser.StartElementHandler = self.start
            parser.EndElementHandler = self.end
            parser.CharacterDataHandler = self.builder.data
            self.start(name, attributes)

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        local = name.rpartition(":")[2] if ":" in name else name
        rule = self.rule_of(local)
        if rule is not None and (rule is always or rule(attributes)):
            self.passing = name
            self.parser.StartElementHandler = None if local in self.flat else self.deeper
            self.parser.CharacterDataHandler = None
            self.parser.EndElementHandler = self.passed
            return
        self.stack.append(name)
        self.count += 1
        if len(self.stack) > _MOST_DEPTH or self.count > _MOST_ELEMENTS:
            raise self.error(
                f"a record of more than {_MOST_DEPTH} levels or {_MOST_ELEMENTS:,} elements",
                "records of articles",
            )
        self.builder.start(local, attributes)  # type: ignore[arg-type]

    def deeper(self, name: str, _: Mapping[str, str]) -> None:
        if name == self.passing:
            self.nested += 1

    def passed(self, name: str) -> None:
        if name != self.passing:
            return
        if self.nested:
            self.nested -= 1
        else:
            self.passing = ""
            self.parser.StartElementHandler = self.start
            self.parser.CharacterDataHandler = self.builder.data
            self.parser.EndElementHandler = self.end

    def end(self, name: str) -> None:
        if self.stack.pop() != name:
            raise self.error(f"<{name}> inside an element of that name", "one level of it")
        self.builder.end(name)
        if not self.stack:
            self.done.append(XmlRecord(self.builder.close(), self.begin + 1))
            parser = self.parser
            parser.StartElementHandler, parser.EndElementHandler = self.outside, None
            parser.CharacterDataHandler = None
            self.mark = parser.CurrentByteIndex

    def named_character(self, name: str, is_parameter: bool) -> None:
        """Put in what the DTD would say for ``&alpha;``; a name that HTML lacks stays as it is."""
        if self.stack and not self.passing and not is_parameter:
            self.builder.data(html.entities.html5.get(f"{name};", f"&{name};"))

    def refuse_entity(
        self,
        name: str,
        _parameter: bool,
        _value: str | None,
        _base: str | None,
        _system: str | None,
        _public: str | None,
        notation: str | None,
    ) -> None:
        if notation is None:  # an image or the like is only ever named, never put into text
            raise self.error(f"a declaration of the entity '{name}'", "text without own entities")

    def note_encoding(self, _version: str, encoding: str | None, _standalone: int) -> None:
        self.one_byte = (encoding or "").upper() in {"ISO-8859-1", "LATIN1", "US-ASCII"}

    def damaged(self, error: expat.ExpatError, chunk: bytes) -> FileFormatError:
        byte = self.parser.ErrorByteIndex
        what = expat.ErrorString(error.code) or "damage"
        near = chunk[max(byte - self.fed, 0) :][:4]
        if (
            error.code == expat.errors.codes[expat.errors.XML_ERROR_INVALID_TOKEN]
            and near[:1] > b"\x7f"
        ):
            what = f"byte 0x{near[0]:02x}, which the declared encoding does not have there"
        elif not chunk:
            what = f"an end in the middle ({what})" if self.fed else "an empty file"
        record = f" (in the record that starts at byte {self.begin + 1})" if self.stack else ""
        return FileFormatError(
            f"{self.where} line {error.lineno} byte {byte + 1}",
            found=f"{what}{record}",
            expected="well-formed XML",
            fix="Get the file again, or correct it; nothing of it was added.",
        )

    def error(self, found: str, expected: str) -> FileFormatError:
        return FileFormatError(
            f"{self.where} line {self.parser.CurrentLineNumber}",
            found=found,
            expected=expected,
            fix="Do not use this file, or remove what the message names; nothing of it was added.",
        )
