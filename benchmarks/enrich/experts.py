"""Extractive descriptions against the long, referenced descriptions that Cell Ontology curators keep.

    python benchmarks/enrich/experts.py --data ../shared/data --out experts.json

A store is built of the Cell Ontology, UBERON, open literature and the example notes; the curators' texts
are not in it, which is checked. For each of their terms a description is written, and both texts are
read into units (``content.py``): how many of the expert's units does the description have, how many of
its own has the expert's text, and which of its sentences does the expert's text contradict? The last
were flagged by rule and then read one by one (``contradictions.py``, ``verdicts.tsv``).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import random
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from content import (
    KINDS,
    Content,
    Score,
    content_of,
    function_threshold,
    score,
    shared_grams,
    with_label,
)
from contradictions import flags, read_verdicts, wilson
from output import publish

from okrcell.corpus import ontology
from okrcell.corpus.build import build, init_store
from okrcell.corpus.config import CorpusConfig
from okrcell.corpus.embedder import Embedder, load_embedder
from okrcell.corpus.knowledge import open_knowledge
from okrcell.corpus.literature import add_literature
from okrcell.corpus.terms import add_ontologies
from okrcell.enrich.config import EnrichConfig
from okrcell.enrich.evidence import make_request
from okrcell.enrich.extractive import EXTRACTIVE_VERSION, write_extractive
from okrcell.enrich.mentions import read
from okrcell.enrich.profile_text import Subject
from okrcell.enrich.retrieve import Retriever
from okrcell.enrich.sentences import split_sentences
from okrcell.errors import ProviderError
from okrcell.schemas import read_table

NOTES = Path(__file__).resolve().parents[2] / "examples" / "notes"
LENGTHS = (150, 300)
DRAWS = 2000
LEAK_GRAM = 10  # words in a row that no two texts share by chance
ALIGNED, NEAREST = (
    3,
    0.35,
)  # expert sentences that a sentence is held against, and how near they must be
LABEL, DEFINITION, NAMED = "label", "definition", "definition and synonyms"
OFFERED, OTHER = "all evidence offered", "another term's description, 300 words"
MAIN = "extractive, 300 words"
Texts = dict[str, str]


@dataclass(frozen=True)
class Expert:
    """A curators' text."""

    term_id: str
    label: str
    text: str
    references: tuple[str, ...]


def experts(data: Path) -> list[Expert]:
    csv.field_size_limit(10**7)
    path = data / "ontology" / "cl_extended_descriptions.tsv.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [
            Expert(
                row["cl_id"],
                row["cl_label"],
                row["description"].strip(),
                tuple(
                    re.findall(
                        r"(?:DOI|PMID|PMC):?[^|\s,]+", row["references"] or "", re.IGNORECASE
                    )
                ),
            )
            for row in csv.DictReader(lines, delimiter="\t")
        ]


def make_store(data: Path, store: Path, embedder: Embedder) -> None:
    literature = data / "literature"
    init_store(store)
    add_ontologies(store, ["cl", "uberon"], "all")
    files = (
        "craft_nxml",
        "pmc_other",
        "anatem.jsonl.gz",
        "medline16n0902_sample.xml.gz",
        "pubmed_29768149.xml",
    )
    add_literature(store, [*(literature / name for name in files), NOTES])
    build(store, CorpusConfig(), embedder)


def leaks(store: Path, found: list[Expert]) -> tuple[int, int, int]:
    """Return expert texts of which the store has a run of words, passages, and references it has."""
    table = read_table(store / "knowledge" / "snippets.parquet", "snippets", ["doc_id", "text"])
    known: set[tuple[str, ...]] = set()
    for text in table["text"].to_pylist():
        known |= _grams(text)
    documents = {str(doc).casefold() for doc in table["doc_id"].unique().to_pylist()}
    cited = {reference.casefold() for expert in found for reference in expert.references}
    n = sum(bool(_grams(expert.text) & known) for expert in found)
    return n, table.num_rows, len(cited & documents)


def _grams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[at : at + LEAK_GRAM]) for at in range(len(words) - LEAK_GRAM + 1)}


# --- the texts that are compared ---------------------------------------------------------------


def _tissue_of(term_id: str) -> tuple[str, str]:
    """Return label and id of the first place that a definition names."""
    term = ontology.get_term(term_id)
    for mention in read(term.definition if term else "").of("tissue"):
        ids = sorted(each for each in mention.ids if each.startswith("UBERON:"))
        if ids and not mention.is_denied:
            exact = [
                i for i in ids if (t := ontology.get_term(i)) and t.label == mention.name.lower()
            ]
            place = ontology.get_term((exact or ids)[0])
            if place:
                return place.label, place.term_id
    return "", ""


def describe(
    found: list[Expert], store: Path, embedder: Embedder
) -> tuple[dict[str, Texts], Counter[str], list[str]]:
    """Return system to term to text, sentences by source, and the terms told of from passages.

    A system without a text for a term leaves it out.
    """
    texts: dict[str, Texts] = {LABEL: {}, DEFINITION: {}, NAMED: {}}
    sources: Counter[str] = Counter()
    from_passages = []
    for expert in found:
        term = ontology.get_term(expert.term_id)
        definition = term.definition if term else ""
        others = [name for name in ontology.names(expert.term_id) if name != expert.label]
        texts[LABEL][expert.term_id] = f"{expert.label}."
        texts[DEFINITION][expert.term_id] = f"{expert.label}: {definition}"
        also = f" Synonyms: {', '.join(others)}." if others else ""
        texts[NAMED][expert.term_id] = f"{expert.label}: {definition}{also}"
    config = EnrichConfig(expression=False)
    knowledge = open_knowledge(store, embedder)
    retriever = Retriever(knowledge, config, embedder)
    try:
        for with_tissue in (False, True):
            for expert in found:
                fields = [("cell_type", expert.label, expert.term_id)]
                tissue = _tissue_of(expert.term_id)
                if with_tissue and not tissue[1]:
                    continue
                if with_tissue:
                    fields.append(("tissue", *tissue))
                subject = Subject(tuple(fields))
                groups = dict(retriever.groups(subject))
                for words in LENGTHS:
                    name = f"extractive, {words} words" + (", tissue known" if with_tissue else "")
                    keys = config.replace(words=words)
                    request = make_request(keys, subject, groups, EXTRACTIVE_VERSION)
                    try:
                        draft = write_extractive(request, words)
                    except ProviderError:
                        continue
                    written = " ".join(s.text for s in draft.sentences)
                    texts.setdefault(name, {})[expert.term_id] = written
                    if name == MAIN:
                        offered = request.offered
                        used = [offered[s.citations[0].snippet_id].source for s in draft.sentences]
                        sources.update(used)
                        if set(used) - set(ontology.ONTOLOGIES):
                            from_passages.append(expert.term_id)
                        texts.setdefault(OFFERED, {})[expert.term_id] = "\n".join(
                            item.text for item in offered.values()
                        )
    finally:
        knowledge.close()
    ids = sorted(texts[MAIN])
    mixed = ids[:]
    random.Random(0).shuffle(mixed)
    pairs = [(a, b if a != b else ids[0]) for a, b in zip(ids, mixed, strict=True)]
    texts[OTHER] = {a: texts[MAIN][b] for a, b in pairs}
    return texts, sources, from_passages


# --- coverage ----------------------------------------------------------------------------------


def vectors_of(sentences: set[str], embedder: Embedder) -> dict[str, np.ndarray]:
    ordered = sorted(sentences)
    return dict(zip(ordered, embedder.encode(ordered), strict=True))


def interval(values: np.ndarray, digits: int = 2) -> str:
    if not len(values):
        return ""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (DRAWS, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{values.mean():.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _values(scores: Mapping[str, Score], kind: str, ids: list[str]) -> np.ndarray:
    found = [scores[i].credit[kind] for i in ids if i in scores]
    return np.array([value for value in found if value is not None])


Scores = dict[str, dict[str, Score]]


def coverage_table(
    caption: str, scores: Scores, ids: list[str], names: list[str]
) -> dict[str, Any]:
    rows = []
    for name in names:
        n = sum(i in scores[name] for i in ids)
        rows.append([name, n, *(interval(_values(scores[name], kind, ids)) for kind in KINDS)])
    return {"caption": caption, "columns": ["text", "terms", *KINDS], "rows": rows}


def gain_table(scores: Scores, ids: list[str], pairs: list[tuple[str, str]]) -> dict[str, Any]:
    rows = []
    for one, other in pairs:
        row = [f"{one} minus {other}"]
        for kind in KINDS:
            both = [i for i in ids if i in scores[one] and i in scores[other]]
            gains = [
                a - b
                for i in both
                if (a := scores[one][i].credit[kind]) is not None
                and (b := scores[other][i].credit[kind]) is not None
            ]
            row.append(interval(np.array(gains)))
        rows.append(row)
    return {
        "caption": "Difference in coverage, paired over terms",
        "columns": ["texts", *KINDS],
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--store", type=Path, help="keep the store here, and use it if it is there")
    arguments = parser.parse_args()
    embedder = load_embedder()
    found = experts(arguments.data)
    with tempfile.TemporaryDirectory() as scratch:
        store = arguments.store or Path(scratch) / "store"
        if not (store / "knowledge").exists():
            make_store(arguments.data, store, embedder)
        leaked = leaks(store, found)
        texts, sources, told_of = describe(found, store, embedder)
    publish(_result(found, texts, sources, told_of, leaked, embedder), arguments.out)


def _result(
    found: list[Expert],
    texts: dict[str, Texts],
    sources: Counter[str],
    from_passages: list[str],
    leaked: tuple[int, int, int],
    embedder: Embedder,
) -> dict[str, Any]:
    by_id = {expert.term_id: expert for expert in found}
    threshold, right, pairs = function_threshold(embedder)
    said = {i: content_of(e.text, i) for i, e in by_id.items()}
    told = {
        name: {i: with_label(content_of(t, i), by_id[i].label, i) for i, t in each.items()}
        for name, each in texts.items()
    }
    named = {i: with_label(content_of("", i), e.label, i) for i, e in by_id.items()}
    sentences = {s for c in said.values() for s in c.functions}
    sentences |= {s for each in told.values() for c in each.values() for s in c.functions}
    sentences |= {s for e in found for s in split_sentences(e.text)}
    sentences |= {s for each in texts.values() for t in each.values() for s in split_sentences(t)}
    vectors = vectors_of(sentences, embedder)

    def scored(make: Callable[[str, Content], Score]) -> Scores:
        return {name: {i: make(i, c) for i, c in each.items()} for name, each in told.items()}

    recall = scored(lambda i, c: score(said[i], c, vectors, threshold))
    beyond = scored(lambda i, c: score(said[i], c, vectors, threshold, named[i]))
    precision = scored(lambda i, c: score(c, said[i], vectors, threshold, named[i]))
    ids = sorted(by_id)
    defined = {i: (ontology.get_term(i) or by_id[i]) for i in ids}
    shared = {
        i: shared_grams(getattr(term, "definition", ""), by_id[i].text)
        for i, term in defined.items()
    }
    apart = [i for i in ids if shared[i] < 0.5]
    written = [f"extractive, {n} words" for n in LENGTHS]
    placed = [f"extractive, {n} words, tissue known" for n in LENGTHS]
    names = [LABEL, DEFINITION, NAMED, *written, OFFERED, OTHER]
    in_placed = sorted(texts[placed[0]])
    tables = [
        coverage_table(
            "Share of the expert's units that a text has, all terms", recall, ids, names
        ),
        coverage_table("The same without the units that the label alone gives", beyond, ids, names),
        coverage_table(
            f"Without those units; the {len(from_passages)} terms with a sentence from literature or a note",
            beyond,
            from_passages,
            names,
        ),
        coverage_table(
            f"Without those units; the {len(in_placed)} terms whose definition names a tissue",
            beyond,
            in_placed,
            [DEFINITION, *written, *placed],
        ),
        gain_table(
            beyond,
            ids,
            [
                (written[0], DEFINITION),
                (written[1], DEFINITION),
                (written[1], written[0]),
                (placed[1], written[1]),
            ],
        ),
        coverage_table(
            "Share of a text's units that the expert's text has too (what it lacks is no error)",
            precision,
            ids,
            [DEFINITION, NAMED, *written, OTHER],
        ),
        _length_table(told, said, recall, ids, [DEFINITION, NAMED, *written, *placed, OTHER]),
    ]
    if len(apart) < len(ids):
        caption = "Without those units; terms whose definition shares less than half of its runs of 5 words"
        tables.append(coverage_table(caption, beyond, apart, names))
    judged = _contradictions(texts, by_id, vectors, [DEFINITION, *written, *placed])
    n_units = {kind: sum(bool(_n_of(said[i], kind)) for i in ids) for kind in KINDS}
    return {
        "title": "Against experts",
        "command": "python benchmarks/enrich/experts.py --data DATA --out experts.json",
        "tables": [*tables, *judged["tables"]],
        "notes": [
            f"{len(found)} expert texts of {np.mean([len(e.text.split()) for e in found]):.0f} words on average, "
            f"none in the store: {leaked[0]} of them share a run of {LEAK_GRAM} words with any of its "
            f"{leaked[1]} passages, and {leaked[2]} of the works they cite are in it.",
            "What they share are terms' names and a list of markers that the definition has as well.",
            "The store: Cell Ontology and UBERON (all terms), 69 articles, 808 AnatEM extracts, 605 "
            "abstracts, 14 example notes. None was chosen for these terms, so literature is thin: "
            f"the sentences of the {MAIN.split(',')[1].strip()} texts come from "
            + ", ".join(f"{source} {n}" for source, n in sources.most_common())
            + ".",
            f"Terms whose definition shares less than half of its runs of 5 words with the expert's text: "
            f"{len(apart)} of {len(ids)}; the most that one shares is {max(shared.values()):.0%}. The subset "
            + (
                "is all terms, so there is no second table."
                if len(apart) == len(ids)
                else "is listed above."
            ),
            "Terms with units of a kind in the expert's text: "
            + ", ".join(f"{kind} {n}" for kind, n in n_units.items())
            + ". Means are over these terms; intervals are 95 %, "
            f"{DRAWS} bootstrap draws of terms.",
            "What the curators of the Cell Ontology describe as their way (obophenotype/cell-ontology, issue 2557) is to have "
            "GPT-4 draft such a text and then to check it against references and edit it: these are reviewed texts, "
            "not texts written by experts from nothing, and a contradiction does not say which side is right.",
            "The tissue that is made known is one that the definition names, so a part of the gain in locations is given.",
            f"A term up to 2 steps above or below the expert's earns 0.5, the same 1. Function sentences say the "
            f"same from cosine {threshold} on, which gets {right} of {pairs} hand-written pairs right and was "
            "fixed on them; it is the weakest of the measures, and the words of these sentences are counted beside it.",
            "All evidence offered: every passage that the writer was shown; what it lacks, no writer could have taken "
            "from this store. Another term's description: what is reached by chance.",
            *judged["notes"],
        ],
        "judged": judged["judged"],
        "unflagged_read": judged["unflagged"],
    }


def _n_of(content: Content, kind: str) -> int:
    if kind in content.names:
        return len(content.names[kind])
    return len(content.words if kind == "function words" else content.functions)


def _length_table(
    told: dict[str, dict[str, Content]],
    said: dict[str, Content],
    recall: Scores,
    ids: list[str],
    names: list[str],
) -> dict[str, Any]:
    rows = []
    for name in names:
        own = [i for i in ids if i in told[name]]
        words = np.array([told[name][i].n_words for i in own])
        hits = np.array(
            [
                sum((recall[name][i].credit[k] or 0) * recall[name][i].n[k] for k in KINDS[:4])
                for i in own
            ]
        )
        rows.append(
            [
                name,
                f"{words.mean():.0f}",
                f"{hits.mean():.1f}",
                f"{100 * hits.sum() / words.sum():.1f}",
            ]
        )
    return {
        "caption": "Length, and expert's names (markers, substances, locations, lineage) found",
        "columns": ["text", "words", "names found per term", "per 100 words"],
        "rows": rows,
    }


# --- contradictions ----------------------------------------------------------------------------


def _contradictions(
    texts: dict[str, Texts],
    by_id: Mapping[str, Expert],
    vectors: dict[str, np.ndarray],
    names: list[str],
) -> dict[str, Any]:
    where: dict[tuple[str, str], set[str]] = {}
    for name in names:
        for i, text in texts[name].items():
            for sentence in split_sentences(text):
                where.setdefault((i, sentence), set()).add(name)
    verdicts = read_verdicts(where)
    flagged: dict[tuple[str, str], list[str]] = {}
    nearest: dict[tuple[str, str], list[str]] = {}
    for i, sentence in where:
        near = _nearest(sentence, by_id[i].text, vectors)
        nearest[i, sentence] = near
        reasons = flags(sentence, by_id[i].text, near, by_id[i].label)
        if reasons:
            flagged[i, sentence] = reasons
    judged = [
        {
            "cl_id": i,
            "label": by_id[i].label,
            "sentence": sentence,
            "texts": sorted(where[i, sentence]),
            "flags": flagged[i, sentence],
            "expert": nearest[i, sentence],
            **_verdict(verdicts, (i, sentence)),
        }
        for i, sentence in sorted(flagged)
    ]
    rows = []
    for name in names:
        every = [key for key, inside in where.items() if name in inside]
        marked = [key for key in every if key in flagged]
        counts = Counter(verdicts.get(key, {}).get("verdict", "unread") for key in marked)
        bad = counts["contradiction"]
        low, high = wilson(bad, len(every))
        terms = len({i for i, _ in every})
        bad_terms = {
            i for i, s in marked if verdicts.get((i, s), {}).get("verdict") == "contradiction"
        }
        low_t, high_t = wilson(len(bad_terms), terms)
        foreign = sum(_names_species(s) and not _names_species(by_id[i].text) for i, s in every)
        rows.append(
            [
                name,
                len(every),
                len(marked),
                counts["unread"],
                counts["tension"],
                bad,
                f"{bad / len(every):.2%} [{low:.2%}, {high:.2%}]",
                f"{len(bad_terms)} of {terms}: {len(bad_terms) / terms:.1%} [{low_t:.1%}, {high_t:.1%}]",
                foreign,
            ]
        )
    drawn = {key for key, row in verdicts.items() if row["drawn"] == "random"}
    rest = {key for key, inside in where.items() if MAIN in inside} - flagged.keys()
    sample = sorted(rest & drawn)
    unflagged = [
        {
            "cl_id": i,
            "label": by_id[i].label,
            "sentence": sentence,
            **_verdict(verdicts, (i, sentence)),
        }
        for i, sentence in sample
    ]
    n_read = sum(row["verdict"] != "unread" for row in unflagged)
    missed = sum(row["verdict"] == "contradiction" for row in unflagged)
    low, high = wilson(missed, n_read)
    strays = sum(row["about"] not in {"type", ""} for row in unflagged)
    low_s, high_s = wilson(strays, n_read)
    columns = [
        "text",
        "sentences",
        "flagged",
        "unread",
        "tension",
        "contradictions",
        "of sentences",
        "texts with one",
        "another species",
    ]
    return {
        "tables": [
            {
                "caption": "Sentences that the expert's text contradicts, flagged by rule and then read",
                "columns": columns,
                "rows": rows,
            }
        ],
        "notes": [
            f"Contradictions: {len(flagged)} distinct sentences were flagged by rule (sign of a name or word, "
            "side of an opposition, number), each held against the whole expert text and judged "
            "contradiction, tension (both may hold: another subset, stage, species or degree) or none, by one reader, "
            "a language model, once and not blind to the text's origin.",
            f"Of the {len(rest)} sentences of the texts of 300 words that were not flagged, {n_read} drawn at random were read: {missed} "
            f"contradictions, {missed / max(n_read, 1):.1%} [{low:.1%}, {high:.1%}]. Intervals: Wilson.",
            f"Of the same {n_read} sentences {strays} ({strays / max(n_read, 1):.0%} [{low_s:.0%}, {high_s:.0%}]) tell "
            "of one experiment or another cell type instead of this type in general.",
            "Another species: sentences that name a species which the expert's text does not name.",
        ],
        "judged": judged,
        "unflagged": unflagged,
    }


def _verdict(
    verdicts: Mapping[tuple[str, str], Mapping[str, str]], key: tuple[str, str]
) -> dict[str, str]:
    found = verdicts.get(key, {})
    return {"verdict": found.get("verdict", "unread")} | {
        k: found.get(k, "") for k in ("about", "why")
    }


def _nearest(sentence: str, text: str, vectors: dict[str, np.ndarray]) -> list[str]:
    parts = list(split_sentences(text))
    cosines = [float(vectors[sentence] @ vectors[part]) for part in parts]
    order = sorted(range(len(parts)), key=lambda at: -cosines[at])[:ALIGNED]
    return [parts[at] for at in order if cosines[at] >= NEAREST]


def _names_species(text: str) -> bool:
    return any("human" not in mention.ids for mention in read(text).of("species"))


if __name__ == "__main__":
    main()
