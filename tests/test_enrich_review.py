"""The page on which people read descriptions: what it shows, what it refuses to run, how large it gets."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from okrcell.artifacts import commit, writing
from okrcell.enrich.claims import CHECKS
from okrcell.enrich.config import EnrichConfig
from okrcell.enrich.evidence import Evidence
from okrcell.enrich.review import CHECK_WORDS, VERDICT_WORDS, doc_link, review_rows, write_review
from okrcell.errors import ManifestError, StorageError
from okrcell.schemas import TABLES, write_table

HOSTILE = (
    "</script><script>window.hurt = 1</script><img src=x onerror=\"window.hurt = 2\">"
    " <!-- <svg/onload=window.hurt=3> [go](javascript:window.hurt=4) \u202etxt.exe\u202c zero\u200bwidth"
)  # fmt: skip
CL = Evidence("s-cl", "CL:0000623", "cl", "", "natural killer cell: A lymphocyte that kills target cells without prior sensitisation.")  # fmt: skip
PAPER = Evidence("s-pm", "PMID:12345", "pubmed", "Results", "Mathematical 𝑵𝑲 letters come first. NKG7 and GNLY mark natural killer cells in blood.")  # fmt: skip
NOTE = Evidence("s-note", "javascript:alert(1)", "notes", HOSTILE, f"Before. {HOSTILE} After.")
RETRACTED = Evidence("s-old", "DOI:10.1000/old<x>", "pubmed", "Abstract", "Killer cells are made of cheese.", is_retracted=True)  # fmt: skip
MASKED = Evidence("s-cl", "CL:0000623", "cl", "", "Cell of this type: A lymphocyte that kills target cells.", is_masked=True)  # fmt: skip


def citation(item: Evidence, quote: str) -> dict[str, Any]:
    start = item.text.find(quote)
    span = (start, start + len(quote)) if start >= 0 else (None, None)
    return {"snippet_id": item.snippet_id, "quote": quote, "start": span[0], "end": span[1]}


def claim(
    text: str,
    *citations: dict[str, Any],
    verdict: str = "supported",
    state: str = "",
    origin: str = "draft",
    facet: str = "identity",
    detail: str = "",
) -> dict[str, Any]:
    checks, has_failed = [], False
    for check, failing in CHECKS.items():
        outcome = "not_run" if has_failed else "failed" if failing == verdict else "passed"
        has_failed = has_failed or outcome == "failed"
        checks.append({"check": check, "outcome": outcome, "detail": detail if outcome == "failed" else ""})  # fmt: skip
    return {
        "sentence": text,
        "facet": facet,
        "citations": list(citations),
        "verdict": verdict,
        "score": 0.83 if verdict == "supported" else None,
        "state": state or ("kept" if verdict == "supported" else "dropped"),
        "origin": origin,
        "checks": checks,
    }


def described(
    profile_id: str,
    original_text: str,
    claims: Sequence[dict[str, Any]],
    *,
    offered: Sequence[Evidence] = (),
    request: str = "",
    status: str = "accepted",
    reliability: float = 0.9,
    reason: str = "",
    n_cells: int = 10,
) -> dict[str, Any]:
    """Return a profile's rows of the three tables, by table."""
    text = " ".join(c["sentence"] for c in claims if c["state"] == "kept")
    leak = {
        "names": ["NK cell"],
        "rank": 2,
        "candidates": 40,
        "probability": 0.31,
        "guess": "T cell",
    }
    return {
        "descriptions": {
            "profile_id": profile_id,
            "status": status,
            "text": text if status == "accepted" else "",
            "original_text": original_text,
            "claims": list(claims),
            "screen_cosine": 0.52 if claims else None,
            "coverage": 0.75 if claims else 0.0,
            "reliability": reliability,
            "leaked_names": leak["names"] if claims else [],
            "leak": leak if claims else None,
            "writer": "openai:test-model",
            "prompt_version": "7",
            "tokens_in": 1000,
            "tokens_out": 200,
            "cost_usd": 0.01,
            "reason": reason,
        },
        "requests": {
            "profile_id": profile_id,
            "request": request or (f"request {profile_id}" if offered else ""),
            "original_text": original_text,
            "n_cells": n_cells,
            "groups": [
                {"group": "identity", "evidence_ids": [item.evidence_id for item in offered]}
            ],
        },
        "evidence": offered,
    }


def make_job(folder: Path, profiles: Sequence[dict[str, Any]], *, is_finished: bool = True) -> Path:
    """Write a job as a run leaves it."""
    config = EnrichConfig(writer="openai:test-model", price_in=1, price_out=2)
    items = {item.evidence_id: item for profile in profiles for item in profile["evidence"]}
    columns = [name for name in TABLES["evidence"].schema.names if name != "evidence_id"]
    evidence = [
        {"evidence_id": key, **{name: getattr(item, name) for name in columns}}
        for key, item in sorted(items.items())
    ]
    tables = {
        "descriptions": [profile["descriptions"] for profile in profiles],
        "requests": [profile["requests"] for profile in profiles],
        "evidence": evidence,
        "expression_cells": [{"cell_uid": "cell-1"}],
    }
    claims = [c for row in tables["descriptions"] for c in row["claims"]]
    summary = {"profiles": len(profiles), "cells": sum(p["requests"]["n_cells"] for p in profiles)}
    inputs = {"knowledge": "k", "profiles": "p", "embedder": "e"}
    with writing(folder, "job"):
        files = {
            f"{name}.parquet": write_table(
                folder / f"{name}.parquet",
                name,
                pa.Table.from_pylist(rows, schema=TABLES[name].schema),
            )
            for name, rows in tables.items()
        }
        plan = {"config": config.model_dump(mode="json"), "inputs": inputs, "summary": summary}
        (folder / "plan.json").write_text(json.dumps(plan))
        facts = {
            "descriptions": dict(Counter(row["status"] for row in tables["descriptions"])),
            "sentences": dict(Counter(c["verdict"] for c in claims)),
            "sentence_states": dict(Counter(c["state"] for c in claims)),
            "unpaid_failures": 0,
            "plan": summary,
            "leak_control": {
                "mask_label": False,
                "expression": True,
                "expression_split": "train",
                "expression_cells": 1,
            },
        }
        if is_finished:
            commit(folder, "job", config=config.content(), inputs=inputs, files=files, facts=facts)
    return folder


def examples() -> list[dict[str, Any]]:
    """Every state and verdict that matters, a shared request, and text that attacks the page."""
    kills = "kills target cells"
    killers = [
        claim("Natural killer cells are lymphocytes that kill target cells.", citation(CL, kills)),
        claim(
            "They express NKG7 and GNLY.",
            citation(PAPER, "NKG7 and GNLY mark natural killer cells"),
            citation(CL, "without prior sensitisation"),
            facet="markers_function",
        ),
        claim(
            "They live for 400 years.",
            citation(PAPER, "live for 400 years"),
            verdict="quote_not_found",
            detail="the words stand in no cited passage",
        ),
        claim("They come from cheese.", citation(RETRACTED, "made of cheese"), verdict="retracted"),
        claim("They are B cells.", citation(CL, kills), verdict="contradicted", state="repaired"),
        claim("They are no B cells but lymphocytes.", citation(CL, "lymphocyte"), origin="repair"),
    ]
    offered = (CL, PAPER, RETRACTED)
    shared = {"offered": offered, "request": "request-nk"}
    name = "natural killer cell; tissue: blood; disease: normal; sex: female"
    return [
        described("p-nk-1", f"{name}; assay: 10x 3' v3.", killers, reliability=0.71, n_cells=40, **shared),
        described("p-nk-2", f"{name}; assay: Smart-seq2.", killers, reliability=0.64, n_cells=2, **shared),
        described("p-nk-3", f"{name}; assay: odd.", killers, reliability=0.1, status="rejected",
                  reason="screened out: cosine 0.1 with the original text is below 0.2", **shared),
        described("p-mask", "T cell; tissue: lung.", [claim("A cell of this type kills.", citation(MASKED, kills))],
                  offered=(MASKED,), n_cells=500),
        described("p-bad", f"evil {HOSTILE}; tissue: {HOSTILE}.",
                  [claim(HOSTILE, citation(NOTE, HOSTILE), {"snippet_id": HOSTILE, "quote": HOSTILE, "start": None,
                         "end": None}, verdict="unknown_snippet", detail=HOSTILE)],
                  offered=(NOTE,), status="rejected", reason=HOSTILE, reliability=0.05),
        described("p-fail", "platelet.", [], status="failed", reliability=0.0, reason="invalid_json: no JSON"),
    ]  # fmt: skip


@pytest.fixture
def job(tmp_path: Path) -> Path:
    profiles = examples()
    profiles[3]["descriptions"]["leak"] |= {"names": [], "rank": 0}  # no label to guess
    return make_job(tmp_path / "job", profiles)


def many(n: int) -> list[dict[str, Any]]:
    profiles = []
    for i in range(n):
        own = Evidence(f"s-{i}", f"PMID:{i + 1}", "pubmed", "Abstract", f"Cells of type {i} express GENE{i}. " + "They live in tissue and do what cells do, over and over again. " * 8)  # fmt: skip
        claims = [
            claim(f"Sentence {k} says of type {i} that it expresses GENE{i} and does much else besides.",
                  citation(own if k % 2 else CL, f"express GENE{i}" if k % 2 else "kills target cells"),
                  verdict="supported" if (i + k) % 9 else "unsupported")
            for k in range(8)
        ]  # fmt: skip
        profiles.append(
            described(f"p-{i:06}", f"type {i % 300} cell; tissue: tissue {i}.", claims, offered=(CL, own),
                      status="accepted" if i % 5 else "rejected", reliability=(i * 37 % 1000) / 1000, n_cells=i % 77)
        )  # fmt: skip
    return profiles


def data(page: Path) -> dict[str, Any]:
    """Return the JSON of a page's data scripts, by id."""
    found = re.findall(r'<script type="application/json" id="([^"]+)">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)  # fmt: skip
    return {name: json.loads(text) for name, text in found}


def test_rows_come_least_reliable_first_and_shared_ones_once(job: Path) -> None:
    rows = review_rows(job)
    assert [row["profile_id"] for row in rows] == ["p-fail", "p-bad", "p-nk-3", "p-nk-2", "p-mask"]
    shared = rows[3]
    assert shared["profiles"] == ["p-nk-2", "p-nk-1"]
    assert (shared["n_cells"], shared["status"], shared["reliability"]) == (42, "accepted", 0.64)
    second, third = shared["claims"][1:3]
    assert second["documents"] == ["PMID:12345", "CL:0000623"]
    assert second["citations"][1]["doc_id"] == "CL:0000623"
    assert (third["verdict"], third["state"], third["origin"]) == ("quote_not_found", "dropped", "draft")  # fmt: skip
    assert [c["check"] for c in third["checks"]] == list(CHECKS)
    unknown = rows[1]["claims"][0]
    assert unknown["documents"] == ["javascript:alert(1)"]
    assert unknown["citations"][1]["doc_id"] is None
    assert rows[0]["claims"] == []
    assert rows[0]["reason"] == "invalid_json: no JSON"
    json.dumps(rows)


def test_limit_and_statuses(job: Path, tmp_path: Path) -> None:
    assert [r["profile_id"] for r in review_rows(job, limit=2)] == ["p-fail", "p-bad"]
    accepted = review_rows(job, statuses=("accepted",))
    assert [r["profile_id"] for r in accepted] == ["p-nk-2", "p-mask"]
    told = write_review(job, tmp_path / "one.html", statuses=("accepted", "failed"), limit=2)
    page = tmp_path / "one.html"
    size = page.stat().st_size
    assert told == {"path": str(page), "descriptions": 5, "shown": 2, "bytes": size}
    assert data(page)["index"]["profiles"] == [["p-fail"], ["p-nk-2", "p-nk-1"]]
    assert "shows 2 of 5 descriptions: accepted and failed" in page.read_text(encoding="utf-8")
    none = write_review(job, tmp_path / "none.html", statuses=("nothing",))
    assert none["shown"] == 0


def test_the_page_is_the_same_twice_and_wherever_the_job_lies(job: Path, tmp_path: Path) -> None:
    write_review(job, tmp_path / "new" / "one.html")
    moved = job.rename(tmp_path / "moved")
    write_review(moved, moved / "review.html")
    write_review(moved, moved / "review.html")
    assert (moved / "review.html").read_bytes() == (tmp_path / "new" / "one.html").read_bytes()
    assert [row["profile_id"] for row in review_rows(moved)]  # the page does no harm to the job


def test_an_unfinished_or_altered_job_is_refused(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", examples(), is_finished=False)
    with pytest.raises(ManifestError, match="no manifest"):
        write_review(folder, tmp_path / "page.html")
    with pytest.raises(ManifestError, match="no manifest"):
        review_rows(folder)
    assert not (tmp_path / "page.html").exists()
    done = make_job(tmp_path / "done", examples())
    (done / "evidence.parquet").write_bytes(b"other")
    with pytest.raises(ManifestError, match="other content"):
        review_rows(done)


def test_a_page_that_cannot_be_written_says_so(job: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError):
        write_review(job, tmp_path / "folder")


def test_nothing_hostile_stands_in_the_source(job: Path, tmp_path: Path) -> None:
    write_review(job, tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "window.hurt = 1</script>" not in html
    assert "<img" not in html
    assert "<!--" not in html
    assert html.count("<script") == html.count("</script>") == 3
    assert "unsafe" not in html
    assert "default-src 'none'" in html
    links = {p[1]: p[2] for p in data(tmp_path / "page.html")["chunk-0"]["passages"]}
    assert links == {
        "javascript:alert(1)": None,
        "CL:0000623": "https://purl.obolibrary.org/obo/CL_0000623",
        "PMID:12345": "https://pubmed.ncbi.nlm.nih.gov/12345/",
        "DOI:10.1000/old<x>": "https://doi.org/10.1000/old%3Cx%3E",
    }
    addresses = set(re.findall(r"https?://[^/\"]+", html))
    assert addresses <= {
        "https://purl.obolibrary.org",
        "https://pubmed.ncbi.nlm.nih.gov",
        "https://doi.org",
    }


def test_quotes_are_placed_as_browsers_count(job: Path, tmp_path: Path) -> None:
    write_review(job, tmp_path / "page.html")
    (chunk,) = [part for name, part in data(tmp_path / "page.html").items() if name != "index"]
    cited = chunk["descriptions"][3]["claims"][1][6]
    number, start, end, quote = cited[0]
    text = chunk["passages"][number][5].encode("utf-16-le")
    assert (
        text[2 * start : 2 * end].decode("utf-16-le") == "NKG7 and GNLY mark natural killer cells"
    )
    assert quote is None  # it reads as the passage does, and is not stored twice
    masked = chunk["descriptions"][4]["claims"][0][6][0]
    assert chunk["passages"][masked[0]][5].startswith("Cell of this type")


@pytest.mark.parametrize(
    ("doc_id", "address"),
    [
        ("PMC:77", "https://pmc.ncbi.nlm.nih.gov/articles/PMC77/"),
        ("UBERON:0000178", "https://purl.obolibrary.org/obo/UBERON_0000178"),
        ("EFO:0009922", "https://www.ebi.ac.uk/efo/EFO_0009922"),
        ("DOI:10.1000/a\"b'c d", None),
        ('DOI:10.1000/a"b', "https://doi.org/10.1000/a%22b"),
        ("PMID:1\n", None),
        ("PMID:0", None),
        ("https://example.org", None),
        ("NOTE:mine", None),
        ("", None),
    ],
)
def test_links_are_built_from_known_ids_alone(doc_id: str, address: str | None) -> None:
    assert doc_link(doc_id) == address


def test_every_check_and_verdict_has_words() -> None:
    assert set(CHECK_WORDS) == set(CHECKS)
    assert set(VERDICT_WORDS) == {"supported", *CHECKS.values()}


def test_colours_can_be_read(job: Path, tmp_path: Path) -> None:
    write_review(job, tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    colours: dict[str, str] = {}
    schemes = re.findall(r":root \{([^}]*)\}", html)
    assert len(schemes) == 3  # light, dark, paper
    for scheme in schemes:
        colours |= dict(re.findall(r"--(\w+): (#\w+);", scheme))
        for ink, *papers in (
            ("fg", "bg", "tint", "mark", "warnbg", "goodbg", "badbg", "changebg"),
            ("soft", "bg", "tint", "badbg", "changebg"),
            ("accent", "bg", "tint"),
            ("good", "bg", "tint", "goodbg"),
            ("bad", "bg", "tint", "badbg"),
            ("change", "bg", "changebg"),
            ("warn", "bg", "warnbg"),
        ):
            for paper in papers:
                assert contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper)


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_thousands_stay_small_and_quick(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", many(2000))
    began = time.monotonic()
    told = write_review(folder, tmp_path / "page.html")
    assert time.monotonic() - began < 30
    assert told["shown"] == 2000
    assert told["bytes"] < 2000 * 3000
    found = data(tmp_path / "page.html")
    assert len(found) == 21
    passages = [p for name, part in found.items() if name != "index" for p in part["passages"]]
    assert len(passages) == 2001  # each once, the shared one among them
    assert found["index"]["starts"] == sorted(found["index"]["starts"])


# --- in a browser ------------------------------------------------------------------------------


@pytest.fixture
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    program = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if program is None:
        pytest.skip("no Chromium: install it with `apt-get install chromium`")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=flags)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a page that must say nothing on the console and ask for nothing; checked at the end."""
    said: list[str] = []
    asked: list[str] = []

    def opened(page: Path, fragment: str = "", width: int = 1280, **how: Any) -> Any:
        tab = browser.new_page(viewport={"width": width, "height": 900}, **how)
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(page.as_uri() + fragment)
        if how.get("java_script_enabled", True):
            tab.wait_for_selector("html[data-ready=yes]")
        return tab

    yield opened
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


@pytest.fixture
def page(job: Path, tmp_path: Path) -> Path:
    write_review(job, tmp_path / "page.html")
    return tmp_path / "page.html"


def until(tab: Any, expression: str) -> None:
    """Wait for an expression to hold; playwright's own way needs eval, which the page's policy refuses."""
    for _ in range(100):
        if tab.evaluate(expression):
            return
        tab.wait_for_timeout(50)
    raise AssertionError(expression)


def titles(tab: Any) -> list[str]:
    return [text.split("\n")[0] for text in tab.locator("article h2").all_inner_texts()]


@pytest.mark.browser
@pytest.mark.filterwarnings("ignore")
def test_a_sentence_opens_its_evidence(page: Path, visit: Callable[..., Any]) -> None:
    for width in (1280, 400):
        tab = visit(page, width=width)
        card = tab.locator("article").nth(3)
        assert card.locator("h2").inner_text() == "natural killer cell"
        assert "42 cells" in card.inner_text()
        card.locator(".s", has_text="NKG7").click()
        marks = card.locator(".panel mark").all_inner_texts()
        assert marks == ["NKG7 and GNLY mark natural killer cells", "without prior sensitisation"]
        link = card.locator(".panel a").first
        assert link.get_attribute("href") == "https://pubmed.ncbi.nlm.nih.gov/12345/"
        assert link.get_attribute("rel") == "noreferrer noopener"
        assert card.locator(".panel .checks .passed").count() == len(CHECKS)
        dropped = card.locator(".s.dropped", has_text="400 years")
        assert dropped.locator("del").inner_text() == "They live for 400 years."
        dropped.focus()
        tab.keyboard.press("Enter")
        assert card.locator(".panel").count() == 1
        panel = card.locator(".panel").inner_text()
        assert "This quote was not found in the passage" in panel
        assert "the words stand in no cited passage" in panel
        tab.keyboard.press("Escape")
        assert card.locator(".panel").count() == 0
        assert "replaced by the next" in card.locator(".s.repaired").inner_text()
        assert "repair" in card.locator(".s.kept.repair .tag").inner_text()
        assert "Yes: NK cell" in card.inner_text()
        assert "number 2 of 40 candidates" in card.inner_text()
        assert "Guessed from the text" not in tab.locator("article").nth(4).inner_text()
        tab.close()


@pytest.mark.browser
@pytest.mark.filterwarnings("ignore")
def test_filters_sort_and_keys(page: Path, visit: Callable[..., Any]) -> None:
    tab = visit(page)
    assert len(titles(tab)) == 5
    tab.fill("#search", "gnly PMID:12345")
    until(tab, "document.querySelectorAll('article').length === 2")
    tab.fill("#search", "")
    until(tab, "document.querySelectorAll('article').length === 5")
    tab.locator("#statuses label", has_text="rejected").click()
    assert len(titles(tab)) == 3
    tab.click("#reset")
    tab.select_option("#verdict", label="retracted source (2)")
    assert titles(tab) == ["natural killer cell"] * 2
    tab.click("#reset")
    tab.check("#dropped")
    assert len(titles(tab)) == 3
    tab.click("#reset")
    tab.select_option("#type", label="T cell (1)")
    assert titles(tab) == ["T cell"]
    tab.click("#reset")
    tab.locator("#bins button").nth(12).click()
    assert titles(tab) == ["natural killer cell"]
    assert tab.locator("#from").input_value() == "0.6"
    tab.locator("#bins button").nth(12).click()
    tab.locator("#to").fill("0.05")
    assert titles(tab) == ["platelet"]
    tab.click("#reset")
    tab.select_option("#sort", "cells")
    assert titles(tab)[0] == "T cell"
    tab.select_option("#sort", "name")
    assert titles(tab)[-1] == "T cell"
    tab.locator("h1").click()
    tab.keyboard.press("j")
    tab.keyboard.press("j")
    assert tab.evaluate("document.activeElement === document.querySelectorAll('article')[1]")
    tab.keyboard.press("k")
    assert tab.evaluate("document.activeElement === document.querySelectorAll('article')[0]")
    tab.keyboard.press("/")
    assert tab.evaluate("document.activeElement.id") == "search"
    tab.keyboard.type("jk/")
    assert tab.input_value("#search") == "jk/"


@pytest.mark.browser
@pytest.mark.filterwarnings("ignore")
def test_hostile_text_is_inert_and_seen(page: Path, visit: Callable[..., Any]) -> None:
    tab = visit(page, "#profile=p-bad")
    card = tab.locator("article", has_text="evil")
    assert card.locator(".panel").count() == 1
    shown = card.inner_text()
    assert "<img src=x onerror=" in shown
    assert "U+202E" in shown
    assert "U+200B" in shown
    assert "\u202e" not in tab.evaluate("document.body.innerText")
    assert "was offered to the writer" in shown
    assert card.locator("img, script, svg").count() == 0
    addresses = tab.evaluate("[...document.links].map(a => a.protocol)")
    assert set(addresses) <= {"https:", "file:"}
    assert tab.evaluate("window.hurt") is None


@pytest.mark.browser
@pytest.mark.filterwarnings("ignore")
def test_the_policy_holds_should_the_script_ever_fail(page: Path, browser: Any) -> None:
    tab = browser.new_page()
    tab.goto(page.as_uri())
    for attempt in (
        "document.body.innerHTML = '<img src=x onerror=\"window.hurt = 1\">'",
        "document.body.append(Object.assign(document.createElement('script'), {text: 'window.hurt = 2'}))",
    ):
        tab.evaluate(f"() => {{ try {{ {attempt} }} catch {{ }} }}")
    tab.wait_for_timeout(200)
    assert tab.evaluate("window.hurt") is None


@pytest.mark.browser
@pytest.mark.filterwarnings("ignore")
def test_a_permalink_opens_its_description(tmp_path: Path, visit: Callable[..., Any]) -> None:
    write_review(make_job(tmp_path / "job", many(260)), tmp_path / "page.html")
    tab = visit(tmp_path / "page.html", "#profile=p-000213")
    focused = "document.activeElement.closest('article').querySelector('.facts').innerText"
    assert "p-000213" in tab.evaluate(focused)
    assert tab.evaluate(
        "document.activeElement.closest('article').querySelector('.panel') !== null"
    )
    tab.fill("#search", "nothing like it")
    until(tab, "document.querySelectorAll('article').length === 0")
    tab.evaluate("location.hash = '#profile=p-000007'")
    until(tab, f"{focused}.includes('p-000007')")
    assert tab.input_value("#search") == ""
    tab.evaluate("location.hash = '#profile=%00none'")
    until(tab, "document.querySelector('#said').innerText.startsWith('No description of')")
    tab.evaluate("document.querySelector('article .link').click()")
    assert tab.evaluate("location.hash").startswith("#profile=p-0")
    tab.click("#reset")
    tab.locator(".pager button", has_text="Next").first.click()
    assert "26–50 of 260" in tab.locator("#said").inner_text()


@pytest.mark.browser
@pytest.mark.filterwarnings("ignore")
def test_it_fits_screens_paper_and_no_script(page: Path, visit: Callable[..., Any]) -> None:
    for width in (1280, 400):
        for scheme in ("light", "dark"):
            tab = visit(page, "#profile=p-nk-1", width=width, color_scheme=scheme)
            for span in tab.locator("article").nth(1).locator(".s").all():
                span.click()
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            tab.close()
    tab = visit(page, java_script_enabled=False)
    assert "okrcell enrich review JOB" in tab.locator("noscript").inner_text()
    tab.close()
    tab = visit(page)
    tab.emulate_media(media="print")
    assert not tab.locator("#filters").is_visible()
    assert tab.locator("article").first.is_visible()
