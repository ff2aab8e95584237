"""Ontologies: time and memory of every form against the bar, a peer and the limit; counts checked.

``python benchmarks/corpus/ontology.py --data FOLDER --out FILE.json``. OBO, OWL and OBO-graph files
of CL, UBERON and MONDO are written from the JSON files of the data folder, with as many
cross-references, subsets and relations as make them the size of the makers' own releases.
"""

from __future__ import annotations

import argparse
import gzip
import html
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from output import publish

BAR_S, BAR_GB = 20.0, 1.5
NAMES = {"cl": "CL", "uberon": "UBERON", "mondo": "MONDO"}

CHILD = """
import json, sys, time, warnings
from pathlib import Path
what, paths = sys.argv[1], [Path(p) for p in sys.argv[2:]]
warnings.simplefilter("ignore")
began = time.perf_counter()
terms = 0
if what == "bundled":
    from okrcell.corpus.ontology import bundled
    terms = sum(len(bundled(path.name)) for path in paths)
elif what == "okrcell":
    from okrcell.corpus.ontology_files import read_ontology
    terms = sum(len(read_ontology(path).terms) for path in paths)
elif what == "pronto":
    import pronto
    for path in paths:
        made = pronto.Ontology(str(path), import_depth=0)
        for term in made.terms():
            if not term.obsolete and term.name:
                {s.description for s in term.synonyms if s.scope == "EXACT"}
                str(term.definition), [p.id for p in term.superclasses(1)], term.replaced_by.ids
                terms += 1
elif what == "fastobo":
    import fastobo
    terms = sum(1 for path in paths for frame in fastobo.iter(open(path, "rb"), threads=1))
elif what == "json":
    import gzip
    for path in paths:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as handle:
            terms += len(json.load(handle))
elif what == "expat":
    from xml.parsers import expat
    for path in paths:
        with open(path, "rb") as handle:
            expat.ParserCreate().ParseFile(handle)
took = time.perf_counter() - began
cpu = time.process_time()
# A child of fork starts with the parent's peak as its own: VmHWM is of this program alone.
peak = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM"))
print(json.dumps({"s": took, "cpu": cpu, "gb": peak / 1e6, "terms": terms}))
"""


def child(what: str, paths: list[Path | str]) -> dict[str, Any]:
    """Run one reading in a process of its own; imports count, as a user waits for them too."""
    command = [sys.executable, "-c", CHILD, what, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1][:80]}
    return json.loads(done.stdout)


def load(path: Path) -> dict[str, dict[str, Any]]:
    with gzip.open(path) as handle:
        return json.load(handle)


# --- files of the makers' size -----------------------------------------------------------------


def obo(name: str, content: dict[str, dict[str, Any]], path: Path) -> None:
    def quoted(text: str) -> str:
        return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    with path.open("w") as out:
        out.write(f"format-version: 1.2\ndata-version: {name}/releases/2030-01-01/{name}.owl\n")
        out.write(f"ontology: {name}\n")
        for n, (term_id, entry) in enumerate(content.items()):
            out.write(f"\n[Term]\nid: {term_id}\n")
            if entry["label"]:
                out.write(f"name: {quoted(entry['label']).replace('{', chr(92) + '{')}\n")
            if entry.get("description"):
                out.write(f'def: "{quoted(entry["description"])}" [GOC:abc, PMID:{n + 1}]\n')
            out.write("subset: cellxgene_subset\n")
            for text in entry.get("synonyms", ()):
                out.write(f'synonym: "{quoted(text)}" EXACT [GOC:abc, MONDO:equivalentTo]\n')
            for k in range(8):
                out.write(f'xref: UMLS:C{n * 7 + k:07d} {{source="MONDO:equivalentTo"}}\n')
            for parent in parents(entry):
                out.write(f'is_a: {parent} {{source="DOID:{n}"}} ! {n}\n')
            for k in range(3):
                out.write(f"relationship: RO:000{1000 + k} {term_id} ! {n}\n")
            if entry.get("deprecated"):
                out.write("is_obsolete: true\n")
            if ":" in entry.get("replaced_by", "") and " " not in entry["replaced_by"]:
                out.write(f"replaced_by: {entry['replaced_by']}\n")


def owl(name: str, content: dict[str, dict[str, Any]], path: Path) -> None:
    text_type = 'rdf:datatype="http://www.w3.org/2001/XMLSchema#string"'
    base = "http://purl.obolibrary.org/obo/"

    def iri(term_id: str) -> str:
        return base + term_id.replace(":", "_")

    with path.open("w") as out:
        out.write(
            '<?xml version="1.0"?>\n<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
            ' xmlns:owl="http://www.w3.org/2002/07/owl#" xmlns:obo="http://purl.obolibrary.org/obo/"'
            ' xmlns:rdfs="http://www.w3.org/2000/01/rdf-schema#"'
            ' xmlns:oio="http://www.geneontology.org/formats/oboInOwl#">\n'
            f'<owl:Ontology rdf:about="{base}{name}.owl"/>\n'
        )
        for n, (term_id, entry) in enumerate(content.items()):
            out.write(f'<owl:Class rdf:about="{iri(term_id)}">\n')
            if entry["label"]:
                out.write(f"<rdfs:label>{html.escape(entry['label'])}</rdfs:label>\n")
            for text in entry.get("synonyms", ()):
                out.write(f"<oio:hasExactSynonym>{html.escape(text)}</oio:hasExactSynonym>\n")
            for parent in parents(entry):
                out.write(f'<rdfs:subClassOf rdf:resource="{iri(parent)}"/>\n')
            for k in range(8):
                out.write(f"<oio:hasDbXref {text_type}>UMLS:C{n * 7 + k}</oio:hasDbXref>\n")
            for k in range(3):
                out.write(
                    "<rdfs:subClassOf><owl:Restriction>"
                    f'<owl:onProperty rdf:resource="{base}RO_000{1000 + k}"/>'
                    f'<owl:someValuesFrom rdf:resource="{iri(term_id)}"/>'
                    "</owl:Restriction></rdfs:subClassOf>\n"
                )
            if entry.get("deprecated"):
                out.write("<owl:deprecated>true</owl:deprecated>\n")
            definition = html.escape(entry.get("description", ""))
            if definition:
                out.write(f"<obo:IAO_0000115>{definition}</obo:IAO_0000115>\n")
            out.write("</owl:Class>\n")
            if definition:
                out.write(
                    f'<owl:Axiom><owl:annotatedSource rdf:resource="{iri(term_id)}"/>'
                    f'<owl:annotatedProperty rdf:resource="{base}IAO_0000115"/>'
                    f"<owl:annotatedTarget>{definition}</owl:annotatedTarget>"
                    f"<oio:hasDbXref>PMID:{n + 1}</oio:hasDbXref></owl:Axiom>\n"
                )
        out.write("</rdf:RDF>\n")


def graph(name: str, content: dict[str, dict[str, Any]], path: Path) -> None:
    base = "http://purl.obolibrary.org/obo/"

    def iri(term_id: str) -> str:
        return base + term_id.replace(":", "_")

    nodes, edges = [], []
    for n, (term_id, entry) in enumerate(content.items()):
        meta: dict[str, Any] = {
            "definition": {"val": entry.get("description", ""), "xrefs": [f"PMID:{n + 1}"]},
            "synonyms": [{"pred": "hasExactSynonym", "val": t} for t in entry.get("synonyms", ())],
            "xrefs": [{"val": f"UMLS:C{n * 7 + k}"} for k in range(8)],
            "deprecated": entry.get("deprecated", False),
        }
        nodes.append({"id": iri(term_id), "lbl": entry["label"], "type": "CLASS", "meta": meta})
        edges += [{"sub": iri(term_id), "pred": "is_a", "obj": iri(p)} for p in parents(entry)]
        edges += [
            {"sub": iri(term_id), "pred": f"{base}RO_000{1000 + k}", "obj": iri(term_id)}
            for k in range(3)
        ]
    whole = {"graphs": [{"id": f"{base}{name}.owl", "nodes": nodes, "edges": edges}]}
    path.write_text(json.dumps(whole, indent=1))


def parents(entry: dict[str, Any]) -> list[str]:
    return [term_id for term_id, steps in entry["ancestors"].items() if steps == 1]


def speed(data: Path, work: Path) -> dict[str, Any]:
    sources = {n: next((data / "ontology").glob(f"{p}-*.json.gz")) for n, p in NAMES.items()}
    files: dict[str, list[Path]] = {"guide JSON.gz": list(sources.values())}
    for kind, write in (("obo", obo), ("owl", owl), ("json", graph)):
        for name, source in sources.items():
            write(name, load(source), work / f"{name}.{kind}")
        files[kind] = [work / f"{name}.{kind}" for name in sources]
    rows: list[list[Any]] = []

    def measure(form: str, reader: str, what: str, paths: list[Path | str], bar: bool) -> None:
        size = sum(p.stat().st_size for p in paths if isinstance(p, Path)) / 1e6
        found = child(what, paths)
        bars = f"< {BAR_S:.0f} s, < {BAR_GB} GB" if bar else ""
        if "error" in found:
            rows.append([form, reader, round(size, 1), "-", "-", "-", found["error"], bars])
            return
        seconds, cpu, gb = round(found["s"], 1), round(found["cpu"], 1), round(found["gb"], 2)
        if bar:
            bars += ": met" if found["s"] < BAR_S and found["gb"] < BAR_GB else ": NOT met"
        rows.append([form, reader, round(size, 1), seconds, cpu, gb, found["terms"] or "", bars])

    measure("bundled", "okrcell", "bundled", list(NAMES), True)
    measure("guide JSON.gz", "okrcell", "okrcell", [*files["guide JSON.gz"]], True)
    measure("guide JSON.gz", "json.load (limit)", "json", [*files["guide JSON.gz"]], False)
    measure("OBO", "okrcell", "okrcell", [*files["obo"]], True)
    measure("OBO", "pronto (peer)", "pronto", [*files["obo"]], False)
    measure("OBO", "fastobo frames alone (peer)", "fastobo", [*files["obo"]], False)
    measure("OWL", "okrcell", "okrcell", [*files["owl"]], True)
    measure("OWL", "pronto (peer)", "pronto", [*files["owl"]], False)
    measure("OWL", "bare expat pass (limit)", "expat", [*files["owl"]], False)
    measure("OBO graph", "okrcell", "okrcell", [*files["json"]], True)
    measure("OBO graph", "pronto (peer)", "pronto", [*files["json"]], False)
    measure("OBO graph", "json.load (limit)", "json", [*files["json"]], False)
    for name, source in sources.items():
        measure(f"{name.upper()} alone, OBO", "okrcell", "okrcell", [work / f"{name}.obo"], False)
        measure(f"{name.upper()} alone, bundled", "okrcell", "bundled", [name], False)
        measure(f"{name.upper()} alone, guide JSON.gz", "okrcell", "okrcell", [source], False)
    return {
        "caption": "CL, UBERON and MONDO: seconds and peak memory, each reading in a process of its own",
        "columns": ["form", "reader", "MB", "s", "CPU s", "peak GB", "live terms", "bar"],
        "rows": rows,
    }


# --- counts ------------------------------------------------------------------------------------


def walk_obo(path: Path) -> dict[str, int]:
    """Count by lines alone."""
    entries: list[dict[str, list[str]]] = []
    inside = False
    with gzip.open(path, "rt", encoding="utf-8") as handle:
        for line in handle:
            if line.startswith("["):
                inside = line.strip() == "[Term]"
                if inside:
                    entries.append({})
            elif inside and ": " in line:
                tag, _, value = line.rstrip("\n").partition(": ")
                entries[-1].setdefault(tag, []).append(value)
    own = [e for e in entries if e["id"][0].startswith("CL:")]
    return tally(
        [
            {
                "id": e["id"][0],
                "label": e.get("name", [""])[0],
                "gone": e.get("is_obsolete") == ["true"],
                "by": [v.split()[0] for v in e.get("replaced_by", ())],
                "consider": [v.split()[0] for v in e.get("consider", ())],
                "alt": [v.split()[0] for v in e.get("alt_id", ())],
                "exact": {v.split('"')[1] for v in e.get("synonym", ()) if '" EXACT' in v},
                "defined": bool(e.get("def")),
                "pmid": sum("PMID:" in v.rpartition("[")[2] for v in e.get("def", ())),
            }
            for e in own
        ]
    )


def walk_json(path: Path) -> dict[str, int]:
    def plain(value: str) -> str:
        return value.rpartition("/")[2].removeprefix("obo.").replace("_", ":")

    return tally(
        [
            {
                "id": term_id,
                "label": e["label"],
                "gone": e["deprecated"],
                "by": [e["replaced_by"]] if e.get("replaced_by") else [],
                "consider": [
                    v if ":" in v[:12] and "/" not in v else plain(v) for v in e.get("consider", ())
                ],
                "alt": [],
                "exact": set(e.get("synonyms", ())),
                "defined": bool(e.get("description")),
                "pmid": 0,
            }
            for term_id, e in load(path).items()
        ]
    )


def tally(entries: list[dict[str, Any]]) -> dict[str, int]:
    live = {e["id"]: e for e in entries if e["label"] and not e["gone"]}
    by_id = {e["id"]: e for e in entries}

    def end(term_id: str, hops: int = 9) -> str:
        if term_id in live or term_id not in by_id or not hops:
            return term_id if term_id in live else ""
        entry = by_id[term_id]
        if entry["by"]:
            return next((x for t in entry["by"] if (x := end(t, hops - 1))), "")
        ends = {end(t, hops - 1) for t in entry["consider"]} - {""}
        return ends.pop() if len(ends) == 1 else ""

    gone = [e for e in entries if e["gone"]]
    return {
        "live terms": len(live),
        "obsolete": len(gone),
        "obsolete, replaced": sum(bool(end(e["id"])) for e in gone),
        "alternative ids": len({a for e in live.values() for a in e["alt"]} - set(by_id)),
        "definitions": sum(e["defined"] for e in live.values()),
        "with a PMID": sum(bool(e["pmid"]) for e in live.values()),
        "exact synonyms": sum(len(e["exact"] - {e["label"]}) for e in live.values()),
    }


def counts(data: Path) -> dict[str, Any]:
    from okrcell.corpus.ontology_files import read_ontology

    rows = []
    for path in sorted((data / "ontology").glob("*")):
        if path.name.endswith((".obo.gz", ".json.gz")):
            walked = walk_obo(path) if path.name.endswith(".obo.gz") else walk_json(path)
            file = read_ontology(path)
            ours = {
                "live terms": len(file.terms),
                "obsolete": file.counts["obsolete"],
                "obsolete, replaced": file.counts["obsolete_replaced"],
                "alternative ids": file.counts["alternative_ids"],
                "definitions": sum(bool(t.definition) for t in file.terms),
                "with a PMID": sum(any(x.startswith("PMID:") for x in t.xrefs) for t in file.terms),
                "exact synonyms": sum(len(t.synonyms) for t in file.terms),
            }
            rows.append(
                [path.name]
                + [
                    f"{ours[k]:,} = {walked[k]:,}"
                    if ours[k] == walked[k]
                    else f"{ours[k]:,} / {walked[k]:,}"
                    for k in ours
                ]
            )
        return {
            "caption": "Counts by okrcell and by a plain walk over lines or JSON (= where they agree)",
            "columns": ["file", *ours],
            "rows": rows,
        }


def agreement(data: Path) -> dict[str, Any]:
    """Compare what a file gives with the bundled ontology of the same release."""
    from okrcell.corpus.ontology import bundled
    from okrcell.corpus.ontology_files import read_ontology
    from okrcell.corpus.ontology_stored import from_terms

    rows = []
    for path in sorted((data / "ontology").glob("*.json.gz")):
        file = read_ontology(path)
        ours = from_terms(file.name, file.release, file.prefixes, "", file.terms)
        theirs = bundled(file.name)
        ids = [t.term_id for t in theirs.terms()]
        same_ids = ids == [t.term_id for t in ours.terms()]
        sets = sum(set(ours.ancestors(t)) == set(theirs.ancestors(t)) for t in ids)
        steps = sum(ours.ancestors(t) == theirs.ancestors(t) for t in ids)
        rows.append(
            [
                f"{file.name} {file.release}",
                "yes" if same_ids else "no",
                f"{sets:,} of {len(ids):,}",
                f"{steps:,} of {len(ids):,}",
            ]
        )
    return {
        "caption": "A file against the bundled ontology of the same release",
        "columns": ["ontology", "same live ids", "same ancestors", "same steps to each"],
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        tables = [speed(given.data, Path(work)), counts(given.data), agreement(given.data)]
    result = {
        "title": "Ontologies",
        "command": "python benchmarks/corpus/ontology.py --data DATA --out FILE.json",
        "notes": [
            "OBO, OWL and OBO-graph files of UBERON, MONDO and CL are written by the benchmark from "
            "the JSON files, with eight cross-references and three relations a term more.",
            "Seconds include the imports of the reader; CPU seconds also Python's start, and tell how "
            "much of the rest was spent waiting for other work on the machine. Peak memory is of the "
            "process alone.",
            "Steps differ where a path runs through another ontology's terms, which a file of the "
            "guide's form leaves out: the ancestor becomes a parent.",
        ],
        "tables": tables,
    }
    publish(result, given.out)


if __name__ == "__main__":
    main()
