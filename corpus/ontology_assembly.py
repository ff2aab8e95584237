"""From the frames of an ontology file to clean terms: own ids only, obsolete ones replaced, no cycles.

Every format's reader gives the same ``RawTerm``; what is decided about them is decided here, once,
and counted: nothing is dropped without a line in the report.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from okrcell.corpus.clean import scrub
from okrcell.corpus.ontology import ALSO_OWN, ONTOLOGIES, Term
from okrcell.corpus.ontology_raw import (
    RawTerm,
    obsolete_ids,
    prefix_of,
    replacements,
    replaces,
)
from okrcell.errors import DataError

__all__ = ["OntologyFile", "assemble"]

_OBO_IRI = re.compile(r"^http://purl\.obolibrary\.org/obo/([A-Za-z.-]+)_(\w+)$")
_DOI = re.compile(r"^(?:https?://(?:dx\.)?doi\.org/|doi:\s*)(10\.\S+)$", re.IGNORECASE)
_PMID = re.compile(
    r"^(?:pmid:\s*|https?://(?:www\.ncbi\.nlm\.nih\.gov/pubmed|pubmed\.ncbi\.nlm\.nih\.gov)/)(\d+)/?$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class OntologyFile:
    """What a file holds: live terms in order of id, counts, and the lists behind the counts.

    Attributes
    ----------
    name, prefixes, release
        As of ``ontology.Ontology``.
    counts
        ``terms``, ``obsolete``, ``obsolete_replaced``, ``obsolete_replaced_elsewhere``,
        ``alternative_ids``, ``without_label``, ``dangling_parents``, ``cycles_broken``,
        ``other_ontologies``, ``cleaned_texts``.
    details
        Obsolete id to replacement (or ""), and the ids and edges behind the other counts.
    """

    name: str
    prefixes: tuple[str, ...]
    release: str
    terms: tuple[Term, ...]
    counts: Mapping[str, int]
    details: Mapping[str, Any]


def assemble(
    path: Path, declared: str, release: str, records: Mapping[str, RawTerm]
) -> OntologyFile:
    """Choose which ontology the records are, and make terms of those that belong to it.

    Parameters
    ----------
    declared
        The file's own name for itself (``cl``, ``cl/cl-basic``), or "".
    release
        The file's own version, or "".

    Raises
    ------
    DataError
        The file holds no live term with an id such as ``CL:0000000``.
    """
    prefixes = _own_prefixes(path, declared, records)
    own = {t: raw for t, raw in sorted(records.items()) if prefix_of(t) in prefixes}
    live = {t: raw for t, raw in own.items() if raw.label and not raw.obsolete}
    replaced = replacements(own.values(), prefixes)
    obsolete, obsolete_counts = obsolete_ids(own.values(), replaced, prefixes)
    old_ids = replaces(replaced)
    name = _short_name(prefixes[0])
    parents, dangling = _parents(live, records, replaced, prefixes)
    cycles = _break_cycles(parents)
    cleaned = 0
    terms = []
    for term_id, raw in live.items():
        tidied = [_tidy(text) for text in (raw.label, raw.definition, *raw.synonyms)]
        label, definition, *synonyms = (text for text, _ in tidied)
        cleaned += any(flags for _, flags in tidied)
        terms.append(
            Term(
                term_id=term_id,
                label=label,
                definition=definition,
                synonyms=tuple(sorted({*synonyms} - {"", label}, key=lambda s: (s.casefold(), s))),
                parents=tuple(parents[term_id]),
                ontology=name,
                release=release,
                xrefs=tuple(dict.fromkeys(_reference(x) for x in raw.xrefs if x.strip())),
                replaces=old_ids.get(term_id, ()),
            )
        )
    without_label = [t for t, raw in own.items() if not raw.label and not raw.obsolete]
    counts = {
        "terms": len(terms),
        **obsolete_counts,
        "alternative_ids": sum(t not in own for t in replaced),
        "without_label": len(without_label),
        "dangling_parents": len(dangling),
        "cycles_broken": len(cycles),
        "other_ontologies": len(records) - len(own),
        "cleaned_texts": cleaned,
    }
    details = {
        "obsolete": obsolete,
        "alternative_ids": {t: now for t, now in sorted(replaced.items()) if t not in own},
        "without_label": without_label,
        "dangling_parents": dangling,
        "cycles_broken": cycles,
    }
    return OntologyFile(name, prefixes, release, tuple(terms), counts, details)


def _own_prefixes(path: Path, declared: str, records: Mapping[str, RawTerm]) -> tuple[str, ...]:
    """Return the prefix that the file names itself by, else that of most of its live terms."""
    live = (t for t, raw in records.items() if raw.label and not raw.obsolete)
    count = Counter(prefix for t in live if (prefix := prefix_of(t)))
    if not count:
        raise DataError(
            path,
            found=f"{len(records)} entries, none of them a live term with a label and an id like CL:0000000",
            expected="the terms of an ontology",
            fix="Check that the file is complete and that ids have a prefix.",
        )
    word = declared.partition("/")[0].lower()
    # A full release holds more terms of the ontologies it imports than of its own.
    main = next((p for p in sorted(count) if p.lower() == word), None)
    main = main or min(count, key=lambda prefix: (-count[prefix], prefix))
    return (main, *ALSO_OWN.get(main, ()))


def _short_name(prefix: str) -> str:
    known = {known.lower(): name for name, known in ONTOLOGIES.items()}
    return known.get(prefix.lower(), prefix.lower())


def _tidy(text: str) -> tuple[str, tuple[str, ...]]:
    text, flags = scrub(text)
    return " ".join(text.split()), flags


def _reference(text: str) -> str:
    text = _OBO_IRI.sub(r"\1:\2", text.strip())
    for pattern, prefix in ((_PMID, "PMID"), (_DOI, "DOI")):
        if match := pattern.match(text):
            return f"{prefix}:{match[1]}"
    return text


def _parents(
    live: Mapping[str, RawTerm],
    records: Mapping[str, RawTerm],
    replaced: Mapping[str, str],
    prefixes: tuple[str, ...],
) -> tuple[dict[str, list[str]], list[list[str]]]:
    """Return each live term's own parents, and the edges to own ids that are no live term.

    A path through another ontology's terms is followed to the next own term.
    """
    found: dict[str, list[str]] = {}
    dangling = []
    for term_id, raw in live.items():
        own: set[str] = set()
        seen, stack = {term_id}, list(raw.parents or raw.genus)
        while stack:
            parent = stack.pop()
            parent = parent if parent in live else replaced.get(parent, parent)
            if parent in live:
                own.add(parent)
            elif prefix_of(parent) in prefixes:
                dangling.append([term_id, parent])
            elif parent not in seen:
                seen.add(parent)
                stack += records[parent].parents if parent in records else ()
        found[term_id] = sorted(own)
    return found, sorted(dangling)


def _break_cycles(parents: dict[str, list[str]]) -> list[list[str]]:
    """Remove, in place, the edges that close a cycle in a walk by id; return them."""
    removed: list[list[str]] = []
    done: set[str] = set()
    for root in sorted(parents):
        if root in done:
            continue
        path, stack = {root}, [(root, iter(list(parents[root])))]
        while stack:
            child, left = stack[-1]
            parent = next(left, None)
            if parent is None:
                stack.pop()
                path.discard(child)
                done.add(child)
            elif parent in path:
                parents[child].remove(parent)
                removed.append([child, parent])
            elif parent not in done:
                path.add(parent)
                stack.append((parent, iter(list(parents[parent]))))
    return removed
