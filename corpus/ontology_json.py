"""Ontologies in JSON: OBO graphs, and the form of ``cellxgene-ontology-guide``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from okrcell.corpus.ontology_raw import (
    RawOntology,
    RawTerm,
    add_raw,
    curie,
    duplicate,
    release_of,
)
from okrcell.errors import FileFormatError

__all__ = ["guide_terms", "read_json"]

_REPLACED_BY = {
    "http://purl.obolibrary.org/obo/IAO_0100001",
    "http://www.geneontology.org/formats/oboInOwl#replacedBy",
}
_CONSIDER = "http://www.geneontology.org/formats/oboInOwl#consider"
_ALTERNATIVE = "http://www.geneontology.org/formats/oboInOwl#hasAlternativeId"
_DEPRECATED = "http://www.w3.org/2002/07/owl#deprecated"
_PART_OF = ("BFO_0000050", "BFO:0000050", "#part_of", "/part_of")


def read_json(handle: IO[bytes], path: Path) -> RawOntology:
    """Read either JSON form.

    Raises
    ------
    FileFormatError
        No JSON, or JSON of another kind.
    DuplicateNamesError
        An id occurs twice.
    """
    try:
        content = json.load(handle, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:  # also bytes, and numbers without end
        raise _wrong(path, f"unreadable JSON ({error})") from None
    except _DuplicateKeyError as error:
        raise duplicate(path, error.key) from None
    if not isinstance(content, dict) or not content:
        raise _wrong(path, f"a JSON {type(content).__name__} without terms")
    if "graphs" in content:
        return _read_graphs(content["graphs"], path)
    if all(isinstance(e, dict) and isinstance(e.get("label"), str) for e in content.values()):
        try:
            return RawOntology("", "", {raw.term_id: raw for raw in guide_terms(content)})
        except (AttributeError, TypeError) as error:
            raise _wrong(path, f"an entry that breaks off its form ({error!r})") from None
    raise _wrong(path, f"JSON with the keys {', '.join(sorted(content)[:4])}")


def guide_terms(content: Mapping[str, Mapping[str, Any]]) -> Iterator[RawTerm]:
    """Yield the terms of a mapping of id to label, description, synonyms, ancestors with distance.

    An ancestor that no listed parent leads to (its path runs through another ontology) becomes a
    parent itself, so that climbing the parents reaches every ancestor.
    """
    for term_id, entry in content.items():
        distances: Mapping[str, int] = entry.get("ancestors") or {}
        parents = [t for t, distance in distances.items() if distance == 1]
        lost = set(distances) - set(parents) - _above(parents, content)
        parents += sorted(lost - _above(lost, content))
        yield RawTerm(
            term_id=term_id,
            label=entry.get("label") or "",
            definition=(entry.get("description") or entry.get("definition") or "").strip(),
            synonyms=[str(text) for text in entry.get("synonyms") or ()],
            parents=parents,
            xrefs=[str(text) for text in entry.get("xrefs") or ()],
            obsolete=bool(entry.get("deprecated")),
            replaced_by=_ids(entry.get("replaced_by")),
            consider=_ids(entry.get("consider")),
            alternative_ids=_ids(entry.get("alternative_ids")),
        )


def _above(ids: Iterable[str], content: Mapping[str, Mapping[str, Any]]) -> set[str]:
    found: set[str] = set()
    for term_id in ids:
        found.update(content.get(term_id, {}).get("ancestors") or ())
    return found


def _ids(value: object) -> list[str]:
    if not value:
        return []
    return [curie(str(v)) for v in (value if isinstance(value, list) else [value])]


def _read_graphs(graphs: Any, path: Path) -> RawOntology:
    records: dict[str, RawTerm] = {}
    name = release = ""
    try:
        for graph in graphs:
            if not name:
                name = str(graph.get("id") or "").rpartition("/")[2].partition(".")[0]
                version = (graph.get("meta") or {}).get("version") or ""
                release = release_of(str(version))
            for node in graph.get("nodes") or ():
                if node.get("type", "CLASS") == "CLASS":
                    add_raw(records, _node(node), path)
            for edge in graph.get("edges") or ():
                child = records.get(curie(edge["sub"]))
                if child is not None and (
                    edge["pred"] == "is_a" or edge["pred"].endswith(_PART_OF)
                ):
                    child.parents.append(curie(edge["obj"]))
            for axiom in graph.get("logicalDefinitionAxioms") or ():
                child = records.get(curie(axiom["definedClassId"]))
                if child is not None:
                    child.genus += [curie(genus) for genus in axiom.get("genusIds") or ()]
    except (AttributeError, KeyError, TypeError) as error:
        raise _wrong(path, f"an OBO graph that breaks off its form ({error!r})") from None
    return RawOntology(name, release, records)


def _node(node: Mapping[str, Any]) -> RawTerm:
    meta = node.get("meta") or {}
    definition = meta.get("definition") or {}
    raw = RawTerm(
        term_id=curie(node["id"]),
        label=str(node.get("lbl") or ""),
        definition=str(definition.get("val") or ""),
        xrefs=[str(text) for text in definition.get("xrefs") or ()],
        synonyms=[
            str(s["val"])
            for s in meta.get("synonyms") or ()
            if s["pred"].endswith("hasExactSynonym")
        ],
        obsolete=bool(meta.get("deprecated")),
    )
    for value in meta.get("basicPropertyValues") or ():
        predicate, text = value["pred"], str(value["val"])
        if predicate in _REPLACED_BY:
            raw.replaced_by.append(curie(text))
        elif predicate == _CONSIDER:
            raw.consider.append(curie(text))
        elif predicate == _ALTERNATIVE:
            raw.alternative_ids.append(curie(text))
        elif predicate == _DEPRECATED and text == "true":
            raw.obsolete = True
    # Only what is obsolete is replaced; some writers leave the flag out.
    raw.obsolete |= bool(raw.replaced_by)
    return raw


class _DuplicateKeyError(Exception):
    def __init__(self, key: str) -> None:
        self.key = key


def _no_duplicates(items: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(items)
    if len(content) < len(items):
        seen: set[str] = set()
        for key, _ in items:
            if key in seen:
                raise _DuplicateKeyError(key)
            seen.add(key)
    return content


def _wrong(path: Path, found: str) -> FileFormatError:
    return FileFormatError(
        path,
        found=found,
        expected="an OBO graph, or terms by id with label, synonyms and ancestors",
        fix="Check that the file is complete and that its suffix says what it is.",
    )
