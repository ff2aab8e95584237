"""Readers of literature: nothing lost, offsets, licences, notices; records per second and memory.

    python benchmarks/corpus/literature.py --data ../shared/data --out literature.json

Counts are compared with counts by plain walking of each whole file with xml.etree and json, which
shares no code with the readers. (Over 300 lines: five measurements and the counts they rest on, in
one place so that they can be checked against each other.)
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

from output import publish

os.environ.setdefault("OMP_NUM_THREADS", "1")

SIZES = (3_000, 30_000, 90_000)
BAR = 3_000  # records per second
SAMPLE = "literature/medline16n0902_sample.xml.gz"
NAMES = {
    "CC BY 2.0": "CC-BY-2.0",
    "CC BY (version not given)": "CC-BY",
    "public domain": "public domain",
    "open access: verbatim redistribution with notice": "open access, verbatim with notice",
}
# What the JATS reader leaves out on purpose: references, cells of tables, labels, notes, thanks.
LEFT_OUT = {"ref-list", "table", "label", "fn", "graphic", "object-id", "media", "table-wrap-foot"}
LEFT_OUT_BACK = {"ack", "fn-group", "glossary", "notes", "ref-list", "bio"}


def make_store(folder: Path) -> Path:
    from okrcell.artifacts import writing

    with writing(folder, "store"):
        return folder


def read(store: Path, paths: list[Path]) -> tuple[dict, dict[str, dict]]:
    """Add files to a store; return the facts and the merged documents by id."""
    from okrcell.corpus.documents import open_documents
    from okrcell.corpus.literature import add_literature

    facts = add_literature(make_store(store), paths)
    found = open_documents(store)
    return facts, {row["doc_id"]: row for t in found.tables() for row in t.to_pylist()}


def letters(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFC", text) if c.isalnum())


# --- independent counts ----------------------------------------------------------------------------


def plain(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def nodes(element: ElementTree.Element, left_out: set[str]) -> Iterator[str]:
    """Yield every piece of text below an element, except within what is left out."""
    if element.tag in left_out:
        return
    yield element.text or ""
    for child in element:
        yield from nodes(child, left_out)
        yield child.tail or ""


def count_medline(path: Path) -> tuple[dict[str, int], dict[str, list[str]]]:
    counts: Counter[str] = Counter()
    texts = {}
    for record in ElementTree.fromstring(plain(path)).iter("MedlineCitation"):
        pieces = ["".join(e.itertext()) for e in record.findall("Article/Abstract/AbstractText")]
        title = "".join(record.find("Article/ArticleTitle").itertext())
        counts["articles"] += 1
        counts["abstracts"] += any(p.strip() for p in pieces)
        counts["sections"] += sum(bool(p.strip()) for p in pieces)
        texts[f"PMID:{record.findtext('PMID')}"] = [title, *pieces]
    return counts, texts


def count_jats(path: Path) -> tuple[dict[str, int], dict[str, list[str]]]:
    counts: Counter[str] = Counter()
    article = ElementTree.fromstring(plain(path))
    meta, body, back = (article.find(p) for p in ("front/article-meta", "body", "back"))
    abstracts = meta.findall("abstract")
    parts = [*abstracts, body, *article.findall("floats-group")]
    parts += [e for e in (back if back is not None else []) if e.tag not in LEFT_OUT_BACK]
    counts["articles"] += 1
    counts["abstracts"] += bool(abstracts)
    counts["sections"] = sum(
        1 for part in parts for s in part.iter("sec") if s.find("title") is not None
    )
    return counts, {"": [t for part in parts for t in nodes(part, LEFT_OUT)]}


def count_jsonl(path: Path) -> tuple[dict[str, int], dict[str, list[str]]]:
    lines = [json.loads(line) for line in plain(path).decode().split("\n") if line.strip()]
    keys = [f"PMC:{r['pmcid'][3:]}" if "pmcid" in r else f"JSONL:{r['id']}" for r in lines]
    texts = {key: [r["text"]] for key, r in zip(keys, lines, strict=True)}
    return {"articles": len(lines), "abstracts": 0, "sections": len(lines)}, texts


def of_reader(found: dict[str, dict], kind: str, path: Path) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for row in found.values():
        names = [s["name"] for s in row["sections"]]
        counts["articles"] += 1
        if kind == "medline":
            own = [n for n in names if n != "Title" and not n.startswith("Other abstract")]
            counts["abstracts"] += bool(own)
            counts["sections"] += len(own)
        elif kind == "jats":
            counts["abstracts"] += any(n.startswith("Abstract") for n in names)
            counts["sections"] += headings(row, path)
        else:
            counts["sections"] += len(names)
    return counts


def headings(row: dict, path: Path) -> int:
    """Count the section titles of a JATS file that stand, in their order, in the document's text."""
    article = ElementTree.fromstring(plain(path))
    place, n = 0, 0
    text = letters(row["text"])
    for part in (article.find("front/article-meta"), article.find("body"), article.find("back")):
        for section in part.iter("sec") if part is not None else ():
            title = section.find("title")
            if title is not None:
                at = text.find(letters("".join(title.itertext())), place)
                n += at >= 0
                place = max(place, at)
    return n


COUNTERS: dict[str, Callable[[Path], tuple[dict[str, int], dict[str, list[str]]]]] = {
    "medline": count_medline,
    "jats": count_jats,
    "jsonl": count_jsonl,
}


def completeness(data: Path, scratch: Path) -> tuple[dict, list[str]]:
    literature = data / "literature"
    groups = [
        ("medline16n0902_sample.xml.gz", "medline", [data / SAMPLE]),
        ("pubmed_29768149.xml", "medline", [literature / "pubmed_29768149.xml"]),
        ("craft_nxml (64 files)", "jats", sorted((literature / "craft_nxml").glob("*.gz"))),
        ("pmc_other (5 files)", "jats", sorted((literature / "pmc_other").glob("*.gz"))),
        ("craft_text.jsonl.gz", "jsonl", [literature / "craft_text.jsonl.gz"]),
        ("anatem.jsonl.gz", "jsonl", [literature / "anatem.jsonl.gz"]),
    ]
    rows, notes = [], []
    for name, kind, paths in groups:
        total: dict[str, list[int]] = {k: [0, 0] for k in ("articles", "abstracts", "sections")}
        pieces = lost = differing = 0
        for i, path in enumerate(paths):
            _, found = read(scratch / f"{kind}-{path.stem}-{i}", [path])
            counted, texts = COUNTERS[kind](path)
            mine = of_reader(found, kind, path)
            bad = 0
            for key, pair in total.items():
                pair[0] += counted[key]
                pair[1] += mine[key]
                bad += counted[key] != mine[key]
            for key, expected in texts.items():
                row = found[key] if key else next(iter(found.values()))
                have = letters(row["text"])
                pieces += len(expected)
                missing = [t for t in expected if letters(t) not in have]
                lost += len(missing)
                if missing:
                    notes.append(f"{path.name}: not in the document: {missing[0][:80]!r}")
            if bad:
                notes.append(f"{path.name}: counted {dict(counted)}, read {dict(mine)}")
            differing += bool(bad)
        cells = [f"{a:,} / {b:,}" for a, b in total.values()]
        rows.append([name, len(paths), *cells, f"{pieces:,}", lost, differing])
    columns = [
        "input",
        "files",
        "articles",
        "abstracts",
        "sections",
        "pieces of text",
        "lost",
        "files that differ",
    ]
    caption = "Completeness: counted by plain walking / read (bar: equal, nothing lost)"
    return {"caption": caption, "columns": columns, "rows": rows}, notes


# --- offsets, licences, notices --------------------------------------------------------------------


def offsets(data: Path, scratch: Path) -> dict:
    import pyarrow as pa

    from okrcell.corpus.chunk import chunk_documents
    from okrcell.corpus.config import CorpusConfig
    from okrcell.corpus.documents import open_documents
    from okrcell.corpus.embedder import load_embedder

    store = scratch / "craft"
    _, found = read(store, [data / "literature" / "craft_text.jsonl.gz"])
    with gzip.open(
        data / "groundtruth" / "craft_cell_mentions.tsv.gz", "rt", encoding="utf-8"
    ) as handle:
        mentions = list(csv.DictReader(handle, delimiter="\t"))
    limit = CorpusConfig().chunk_tokens
    table = pa.concat_tables(open_documents(store).tables())
    snippets: dict[str, list[dict]] = {}
    for snippet in chunk_documents(table, load_embedder(), limit).to_pylist():
        snippets.setdefault(snippet["doc_id"], []).append(snippet)
    exact = whole = part = lost = 0
    for mention in mentions:
        doc_id = f"PMC:{mention['pmcid'][3:]}"
        text = found[doc_id]["text"]
        spans = [tuple(map(int, s.split("-"))) for s in mention["spans"].split(";")]
        exact += " ... ".join(text[a:b] for a, b in spans) == mention["mention"]
        start, end = int(mention["start"]), int(mention["end"])
        over = [s for s in snippets[doc_id] if s["start"] < end and s["end"] > start]
        # Every character of the mention must be found, at its place, in a snippet.
        there = {
            i
            for s in over
            for i in range(max(start, s["start"]), min(end, s["end"]))
            if s["text"][i - s["start"]] == text[i]
        }
        if any(s["start"] <= start and end <= s["end"] for s in over) and len(there) == end - start:
            whole += 1
        elif all(i in there or text[i].isspace() for i in range(start, end)):
            part += 1
        else:
            lost += 1
    n = len(mentions)
    return {
        "caption": f"CRAFT mentions: offsets through reading and chunking at {limit} tokens",
        "columns": [
            "mentions",
            "text[start:end] is the mention",
            "whole in one snippet",
            "over two snippets",
            "lost (bar: 0)",
        ],
        "rows": [[f"{n:,}", f"{exact:,}", f"{whole:,}", part, lost]],
    }


def licences(data: Path, scratch: Path) -> tuple[dict, list[str]]:
    listed = {}
    for line in (data / "README.md").read_text(encoding="utf-8").splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        if cells[0].startswith("literature/") and cells[0].endswith(".nxml.gz"):
            stated = cells[2] if cells[0].startswith("literature/craft") else cells[3]
            listed[cells[0]] = stated.removesuffix("(in the file)").strip()
    tally: Counter[tuple[str, str]] = Counter()
    notes = []
    for i, (name, stated) in enumerate(sorted(listed.items())):
        _, found = read(scratch / f"licence{i}", [data / name])
        (row,) = found.values()
        tally[stated, row["licence"]] += 1
        if NAMES.get(stated) != row["licence"]:
            words = re.search(rb"Creative Commons[^<(]*", plain(data / name))
            said = words[0].decode().strip() if words else "?"
            notes.append(
                f"{Path(name).name}: listed as '{stated}', read as '{row['licence']}'; the file says '{said}'."
            )
    rows = [
        [stated, own, n, "yes" if NAMES.get(stated) == own else "no"]
        for (stated, own), n in sorted(tally.items())
    ]
    columns = ["licence in the folder's list", "licence read", "files", "agree"]
    return {"caption": "Licences of the 69 PMC articles", "columns": columns, "rows": rows}, notes


def notices(data: Path, scratch: Path) -> dict:
    """Plant notices in copies of real records, in three batches, and count what they reach."""
    folder = scratch / "notices"
    folder.mkdir()
    head, records, tail = sample(data)
    real = [r for r in records if b'EIdType="doi"' in r][:300]

    def link(kind: bytes, pmid: int) -> bytes:
        return (
            b'<CommentsCorrectionsList><CommentsCorrections RefType="%s"><PMID>%d</PMID>'
            b"</CommentsCorrections></CommentsCorrectionsList></MedlineCitation>" % (kind, pmid)
        )

    def numbered(record: bytes, i: int) -> bytes:
        record = re.sub(
            rb'<PMID Version="1">\d+', b'<PMID Version="1">%d' % (60_000_000 + i), record, count=1
        )
        for name in (b"CommentsCorrectionsList", b"OtherID"):  # ids and links of the copied record
            record = re.sub(rb"(?s)<%b[ >].*</%b>" % (name, name), b"", record)
        doi = b'EIdType="doi" ValidYN="Y">10.9999/r%d' % i
        return re.sub(rb'EIdType="doi" ValidYN="Y">[^<]+', doi, record, count=1)

    end = b"</MedlineCitation>"
    works = [numbered(r, i) for i, r in enumerate(real)]
    works[:50] = [w.replace(end, link(b"RetractionIn", 1)) for w in works[:50]]
    batches = {
        "1.xml": head + b"\n".join(works) + tail,
        "2.xml": head
        + b"\n".join(
            numbered(real[0], 1_000 + i).replace(end, link(kind, 60_000_000 + i))
            for kind, low in ((b"RetractionOf", 50), (b"ErratumFor", 100))
            for i in range(low, low + 50)
        )
        + tail,
        "3.xml": b'<articles xmlns:xlink="x">'
        + b"".join(
            b'<article article-type="retraction"><front><article-meta><article-id pub-id-type="pmc">%d'
            b"</article-id><title-group><article-title>Retraction</article-title></title-group>"
            b'<related-article related-article-type="retracted-article" ext-link-type="doi" '
            b'xlink:href="10.9999/r%d"/></article-meta></front></article>' % (90_000_000 + i, i)
            for i in range(150, 200)
        )
        + b"".join(  # full texts of works that the first batch says are retracted
            b'<article><front><article-meta><article-id pub-id-type="pmc">%d</article-id>'
            b'<article-id pub-id-type="pmid">%d</article-id></article-meta></front><body><p>Text.</p>'
            b"</body></article>" % (91_000_000 + i, 60_000_000 + i)
            for i in range(50)
        )
        + b"</articles>",
    }
    store = scratch / "planted"
    found: dict[str, dict] = {}
    for name, content in batches.items():
        (folder / name).write_bytes(content)
        _, found = read(store, [folder / name])

    def reached(prefix: str, low: int, test: Callable[[dict], bool]) -> int:
        return sum(test(found[f"{prefix}{low + i}"]) for i in range(50))

    def is_out(row: dict) -> bool:
        return bool(row["is_retracted"])

    others = [
        r for k, r in found.items() if k not in {f"PMID:{60_000_000 + i}" for i in range(200)}
    ]
    false = sum(map(is_out, others)) - reached("PMC:", 91_000_000, is_out)
    false += sum(is_out(found[f"PMID:{60_000_000 + i}"]) for i in range(100, 150))
    rows = [
        ["the record says so (RetractionIn)", 50, reached("PMID:", 60_000_000, is_out)],
        ["a notice of a later batch (RetractionOf)", 50, reached("PMID:", 60_000_050, is_out)],
        ["a JATS notice of a later batch, by DOI", 50, reached("PMID:", 60_000_150, is_out)],
        ["the PMC article of a retracted PMID", 50, reached("PMC:", 91_000_000, is_out)],
        [
            "an erratum of a later batch (ErratumFor): flag 'corrected'",
            50,
            reached("PMID:", 60_000_100, lambda row: "corrected" in row["flags"]),
        ],
        ["works marked as retracted without a notice (bar: 0)", 0, false],
    ]
    columns = ["how a work is known to be retracted or corrected", "planted", "marked"]
    return {
        "caption": "Notices planted in real records, over three batches",
        "columns": columns,
        "rows": rows,
    }


# --- speed and memory ------------------------------------------------------------------------------


def sample(data: Path) -> tuple[bytes, list[bytes], bytes]:
    """Return head, records and tail of the MEDLINE sample."""
    content = plain(data / SAMPLE)
    first = content.index(b"<MedlineCitation ")
    records = re.findall(rb"(?s)<MedlineCitation .*?</MedlineCitation>", content)
    return content[:first], records, b"\n</MedlineCitationSet>\n"


def make_baseline(data: Path, path: Path, n: int) -> int:
    """Write ``n`` records with PMIDs of their own; return the number of unpacked bytes."""
    head, records, tail = sample(data)
    size = len(head) + len(tail)
    with gzip.open(path, "wb", compresslevel=6) as handle:
        handle.write(head)
        for i in range(n):
            own = b"\\g<1>%d" % (50_000_000 + i)
            record = re.sub(rb'(<PMID Version="1">)\d+', own, records[i % len(records)], count=1)
            handle.write(record + b"\n")
            size += len(record) + 1
        handle.write(tail)
    return size


MEASURE = """
import gzip, json, resource, sys, time
from pathlib import Path
what, path, store = sys.argv[1], sys.argv[2], Path(sys.argv[3])
def chunks():
    with gzip.open(path) as handle:
        while chunk := handle.read(1 << 18):
            yield chunk
if what == "okrcell":
    import pyarrow.parquet
    from okrcell.artifacts import writing
    from okrcell.corpus import literature
    with writing(store, "store"):
        pass
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
wall, cpu = time.perf_counter(), time.process_time()
n = 0
if what == "okrcell":
    n = sum(literature.add_literature(store, [Path(path)])["documents"].values())
elif what == "gzip":
    for chunk in chunks():
        pass
elif what == "expat":
    from xml.parsers import expat
    parser = expat.ParserCreate()
    for chunk in chunks():
        parser.Parse(chunk, False)
    parser.Parse(b"", True)
elif what == "iterparse":
    from xml.etree import ElementTree
    with gzip.open(path) as handle:
        for _, element in ElementTree.iterparse(handle):
            if element.tag == "MedlineCitation":
                n += 1
                element.findtext("PMID"), element.findtext("Article/ArticleTitle")
                ["".join(e.itertext()) for e in element.iter("AbstractText")]
                element.clear()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu,
                  "before": before / 1024, "peak": peak / 1024, "n": n}))
"""


def measure(what: str, path: Path, store: Path) -> dict[str, float]:
    words = [sys.executable, "-c", MEASURE, what, str(path), str(store)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def speed(data: Path, scratch: Path) -> dict:
    rows = []
    for n in SIZES:
        path = scratch / f"medline{n}.xml.gz"
        size = make_baseline(data, path, n)
        tasks = [("okrcell", "add_literature: read, clean, write Parquet")]
        if n == 30_000:
            tasks += [
                ("gzip", "limit: gzip alone"),
                ("expat", "limit: gzip and expat without handlers"),
                ("iterparse", "peer: xml.etree.iterparse, title and abstract, nothing written"),
            ]
        for what, label in tasks:
            took = measure(what, path, scratch / f"speed-{what}-{n}")
            rate, alone = n / took["wall"], n / took["cpu"]
            rows.append(
                [
                    f"{n:,}",
                    label,
                    f"{took['wall']:.1f}",
                    f"{took['cpu']:.1f}",
                    f"{rate:,.0f}",
                    f"{alone:,.0f}",
                    f"{size / took['cpu'] / 1e6:.0f}",
                    f"{took['peak'] - took['before']:.0f}",
                    f"{took['peak']:.0f}",
                ]
            )
        path.unlink()
    columns = [
        "records",
        "what",
        "s",
        "CPU s",
        "records/s",
        f"records per CPU s (bar {BAR:,})",
        "MB of XML per CPU s",
        "MiB over start",
        "peak RSS MiB",
    ]
    caption = "MEDLINE baseline-like file, made from the sample with new PMIDs (bar: flat memory)"
    return {"caption": caption, "columns": columns, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    notes: list[str] = []
    tables = []
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for step in (speed, completeness, offsets, licences, notices):
            result = step(arguments.data, scratch)
            table, said = result if isinstance(result, tuple) else (result, [])
            tables.append(table)
            notes += said
    notes.append(
        "A piece of text is one text node of the XML (or one `text` of JSON lines); it is lost where its "
        "letters and digits are not in the document in that order. Left out on purpose: references, cells "
        "and footnotes of tables, acknowledgements, glossaries, author notes."
    )
    notes.append(
        "The bar is for one core that nothing else uses: records per CPU second. Wall-clock time includes "
        "waiting for cores that other work on the machine held; 3,000 records are mostly start-up."
    )
    command = "python benchmarks/corpus/literature.py --data ../shared/data --out literature.json"
    result = {"title": "Literature readers", "command": command, "notes": notes, "tables": tables}
    publish(result, arguments.out)


if __name__ == "__main__":
    main()
