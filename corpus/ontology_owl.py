"""Ontologies in OWL (RDF/XML), read as a stream: what OWLAPI, ROBOT, Protege and pronto write.

Nothing that a file refers to is ever fetched. Short internal entities, which Protege writes for
namespaces, are read; external ones and nested ones are refused before any element is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO
from urllib.parse import urljoin
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from okrcell.corpus.ontology_raw import RawOntology, RawTerm, curie, duplicate, release_of
from okrcell.errors import FileFormatError

__all__ = ["read_owl"]

_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_RDFS = "{http://www.w3.org/2000/01/rdf-schema#}"
_OWL = "{http://www.w3.org/2002/07/owl#}"
_OBO = "{http://purl.obolibrary.org/obo/}"
_OIO = "{http://www.geneontology.org/formats/oboInOwl#}"
_XML = "{http://www.w3.org/XML/1998/namespace}"
_PART_OF = ("BFO_0000050", "#part_of", "/part_of")
_CLASS_PARTS = (
    *(f"{_RDFS}{name}" for name in ("label", "subClassOf")),
    *(f"{_OWL}{name}" for name in ("deprecated", "equivalentClass")),
    *(f"{_OBO}{name}" for name in ("IAO_0000115", "IAO_0100001")),
    *(f"{_OIO}{name}" for name in ("hasExactSynonym", "hasAlternativeId", "consider")),
    f"{_RDF}type",
)
# Elements wanted as children of the root, and of each the children wanted, as expat writes names.
_WANTED: dict[str, frozenset[str]] = {
    f"{_OWL}Ontology"[1:]: frozenset(f"{_OWL}{n}"[1:] for n in ("versionIRI", "versionInfo")),
    f"{_OWL}Class"[1:]: frozenset(name[1:] for name in _CLASS_PARTS),
    f"{_RDF}Description"[1:]: frozenset(name[1:] for name in _CLASS_PARTS),
    f"{_OWL}Axiom"[1:]: frozenset(
        name[1:]
        for name in (f"{_OWL}annotatedSource", f"{_OWL}annotatedProperty", f"{_OIO}hasDbXref")
    ),
}
_MOST_ENTITIES, _LONGEST_ENTITY = 500, 1000
_CHUNK = 1 << 18


def read_owl(handle: IO[bytes], path: Path) -> RawOntology:
    """Read an RDF/XML file.

    Raises
    ------
    FileFormatError
        No RDF/XML, or one with external or nested entities.
    DuplicateNamesError
        An id is defined twice, with two labels.
    """
    name = release = ""
    records: dict[str, RawTerm] = {}
    references: dict[str, list[str]] = {}
    for element, base in _elements(handle, path):
        iri = _join(base, element.get(f"{_RDF}about") or f"#{element.get(f'{_RDF}ID', '')}")
        if element.tag == f"{_OWL}Ontology":
            name = iri.rpartition("/")[2].partition(".")[0] or name
            found = [
                *_resources(element, f"{_OWL}versionIRI", base),
                *_texts(element, f"{_OWL}versionInfo"),
            ]
            release = release_of(found[0]) if found else release
        elif element.tag == f"{_OWL}Axiom":
            source = next(_resources(element, f"{_OWL}annotatedSource", base), "")
            target = next(_resources(element, f"{_OWL}annotatedProperty", base), "")
            if target.endswith("IAO_0000115"):
                xrefs = references.setdefault(curie(source), [])
                xrefs += _texts(element, f"{_OIO}hasDbXref")
        elif _is_class(element):
            _merge(records, _read_class(element, curie(iri), base), path)
    for term_id, xrefs in references.items():
        if term_id in records:
            records[term_id].xrefs += xrefs
    return RawOntology(name, release, records)


class _Elements:
    """Builds the children of the root that can be of use, without what is not, one at a time.

    Expat is driven directly: building everything takes ten times as long as parsing it, and most of
    an ontology is cross-references and notes.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.base = path, ""
        self.ready: list[Element] = []
        self._depth = self._skipped_from = self._entities = 0
        self._parts: frozenset[str] | None = None
        self._builder = TreeBuilder()
        self.parser = expat.ParserCreate(namespace_separator="}")
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._doctype
        self.parser.EntityDeclHandler = self._entity
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text

    def _doctype(self, _name: str, system: str | None, public: str | None, _has: bool) -> None:
        if system or public:
            raise _refused(self.path, f"a document type that refers to {system or public}")

    def _entity(
        self,
        name: str,
        is_parameter: bool,
        value: str | None,
        _base: str | None,
        system: str | None,
        *_: object,
    ) -> None:
        self._entities += 1
        if value is None or is_parameter:
            raise _refused(self.path, f"the external or parameter entity '{name}' ({system or ''})")
        if "&" in value or len(value) > _LONGEST_ENTITY or self._entities > _MOST_ENTITIES:
            found = f"the entity '{name}', which is nested, too long or one too many"
            raise _refused(self.path, found)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._skipped_from:
            return
        if self._depth == 1:
            if name != f"{_RDF}RDF"[1:]:
                raise _wrong(self.path, f"XML with the root '{name.rpartition('}')[2]}'")
            self.base = attributes.get(f"{_XML}base"[1:], "")
            return
        if self._depth == 2:
            self._parts = _WANTED.get(name)
        if self._parts is None or (self._depth == 3 and name not in self._parts):
            self._skipped_from = self._depth
        else:
            self._builder.start(f"{{{name}", {f"{{{key}": v for key, v in attributes.items()})

    def _end(self, name: str) -> None:
        if not self._skipped_from and self._depth > 1:
            self._builder.end(f"{{{name}")
            if self._depth == 2:
                self.ready.append(self._builder.close())
                self._builder = TreeBuilder()
        elif self._skipped_from == self._depth:
            self._skipped_from = 0
        self._depth -= 1

    def _text(self, text: str) -> None:
        if not self._skipped_from and self._depth > 2:
            self._builder.data(text)


def _elements(handle: IO[bytes], path: Path) -> Iterator[tuple[Element, str]]:
    """Yield the children of the root that can be of use, and the base IRI."""
    made = _Elements(path)
    try:
        while chunk := handle.read(_CHUNK):
            made.parser.Parse(chunk)
            yield from ((element, made.base) for element in made.ready)
            made.ready.clear()
        made.parser.Parse(b"", True)
    except (expat.ExpatError, UnicodeError, LookupError, ValueError) as error:
        raise _wrong(path, f"unreadable XML ({error})") from None
    yield from ((element, made.base) for element in made.ready)


def _is_class(element: Element) -> bool:
    if element.tag == f"{_OWL}Class":
        return f"{_RDF}about" in element.attrib or f"{_RDF}ID" in element.attrib
    types = (child.get(f"{_RDF}resource", "") for child in element.findall(f"{_RDF}type"))
    return element.tag == f"{_RDF}Description" and any(t.endswith("owl#Class") for t in types)


def _read_class(element: Element, term_id: str, base: str) -> RawTerm:
    by_tag: dict[str, list[Element]] = {}
    for child in element:
        by_tag.setdefault(child.tag, []).append(child)

    def texts(tag: str) -> Iterator[str]:
        return _literals(element.get(tag), by_tag.get(tag, ()))

    def ids(tag: str) -> list[str]:
        return [curie(iri) for iri in _iris(by_tag.get(tag, ()), base)]

    raw = RawTerm(term_id)
    raw.label = next(texts(f"{_RDFS}label"), "")
    raw.definition = next(texts(f"{_OBO}IAO_0000115"), "")
    raw.synonyms = list(texts(f"{_OIO}hasExactSynonym"))
    raw.obsolete = "true" in texts(f"{_OWL}deprecated")
    raw.replaced_by = ids(f"{_OBO}IAO_0100001")
    raw.consider = ids(f"{_OIO}consider")
    raw.alternative_ids = list(texts(f"{_OIO}hasAlternativeId"))
    raw.obsolete |= bool(raw.replaced_by)  # only what is obsolete is replaced
    raw.parents = [
        curie(parent)
        for child in by_tag.get(f"{_RDFS}subClassOf", ())
        for parent in _superclasses(child, base)
    ]
    raw.genus = [
        curie(_join(base, part.attrib[f"{_RDF}about"]))
        for child in by_tag.get(f"{_OWL}equivalentClass", ())
        for part in child.findall(f"{_OWL}Class/{_OWL}intersectionOf/*")
        if f"{_RDF}about" in part.attrib
    ]
    return raw


def _superclasses(child: Element, base: str) -> Iterator[str]:
    """Yield the named superclass, or the whole of a part_of restriction."""
    if resource := child.get(f"{_RDF}resource"):
        yield _join(base, resource)
    for inner in child:
        if inner.tag in {f"{_OWL}Class", f"{_RDF}Description"} and f"{_RDF}about" in inner.attrib:
            yield _join(base, inner.attrib[f"{_RDF}about"])
        elif inner.tag == f"{_OWL}Restriction":
            on = next(_resources(inner, f"{_OWL}onProperty", base), "")
            if on.endswith(_PART_OF):
                yield from _resources(inner, f"{_OWL}someValuesFrom", base)


def _texts(element: Element, tag: str) -> Iterator[str]:
    return _literals(element.get(tag), element.findall(tag))


def _literals(attribute: str | None, children: Iterable[Element]) -> Iterator[str]:
    """Yield a property's literals in English or without a language, also one given as attribute."""
    if attribute:
        yield attribute
    for child in children:
        language = child.get(f"{_XML}lang", "en").lower()
        if child.text and child.text.strip() and language.partition("-")[0] == "en":
            yield child.text.strip()


def _resources(element: Element, tag: str, base: str) -> Iterator[str]:
    return _iris(element.findall(tag), base)


def _iris(children: Iterable[Element], base: str) -> Iterator[str]:
    """Yield a property's values as IRIs; an id written as text counts too."""
    for child in children:
        if resource := child.get(f"{_RDF}resource"):
            yield _join(base, resource)
            continue
        found = [iri for inner in child if (iri := inner.get(f"{_RDF}about"))]
        text = (child.text or "").strip()
        yield from (_join(base, iri) for iri in found) if found else ([text] if text else ())


def _join(base: str, iri: str) -> str:
    # Nearly all are whole already, and urljoin takes its time.
    return iri if "://" in iri else urljoin(base, iri)


def _merge(records: dict[str, RawTerm], raw: RawTerm, path: Path) -> None:
    """Add what one element says of a class; RDF may spread a class over several elements."""
    known = records.setdefault(raw.term_id, raw)
    if known is raw:
        return
    if known.label and raw.label and known.label != raw.label:
        raise duplicate(path, raw.term_id)
    known.label = known.label or raw.label
    known.definition = known.definition or raw.definition
    known.obsolete |= raw.obsolete
    for name in ("synonyms", "parents", "genus", "replaced_by", "consider", "alternative_ids"):
        getattr(known, name).extend(getattr(raw, name))


def _refused(path: Path, found: str) -> FileFormatError:
    return FileFormatError(
        path,
        found=found,
        expected="XML that refers to nothing outside itself",
        fix="Save the ontology as plain RDF/XML, with its imports merged, and add that file.",
    )


def _wrong(path: Path, found: str) -> FileFormatError:
    return FileFormatError(
        path,
        found=found,
        expected="an ontology in OWL, as RDF/XML",
        fix="Check that the file is complete; other OWL syntaxes can be converted with ROBOT.",
    )
