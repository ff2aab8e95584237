"""PubMed over E-utilities, against a server on this machine that misbehaves as NCBI's can."""

import datetime as dt
import gzip
import http.server
import json
import threading
import time
import urllib.parse
from contextlib import contextmanager

import pytest

from okrcell.artifacts import writing
from okrcell.corpus.documents import open_documents
from okrcell.corpus.eutils import Eutils
from okrcell.corpus.pubmed import add_pubmed, plan_pubmed
from okrcell.errors import (
    ConfigError,
    DataError,
    ManifestError,
    ProviderError,
    ProviderUnavailableError,
)

KEY = "0123456789abcdefSECRET0123456789abcd"

ARTICLE = (
    "<PubmedArticle><MedlineCitation><PMID Version='1'>{pmid}</PMID><DateRevised><Year>2024</Year>"
    "<Month>01</Month><Day>02</Day></DateRevised><Article><Journal><JournalIssue><PubDate><Year>2024"
    "</Year></PubDate></JournalIssue></Journal><ArticleTitle>Title {pmid}</ArticleTitle><Abstract>"
    "<AbstractText>About T cells, number {pmid}.</AbstractText></Abstract></Article>"
    "<CommentsCorrectionsList><CommentsCorrections RefType='Cites'><PMID>1</PMID>"
    "</CommentsCorrections></CommentsCorrectionsList></MedlineCitation></PubmedArticle>"
)
HEAD = (
    '<?xml version="1.0" ?>\n<!DOCTYPE PubmedArticleSet PUBLIC "-//NLM//DTD PubMedArticle, 1st January '
    '2024//EN" "https://dtd.nlm.nih.gov/ncbi/pubmed/out/pubmed_240101.dtd">\n'
)


class Server:
    """Records newest first; ``faults`` are done to the next requests of a tool, one each."""

    def __init__(self) -> None:
        self.records: list[tuple[str, dt.date]] = []
        self.absent: set[str] = set()
        self.limit = 9_999
        self.faults: dict[str, list[str]] = {"esearch": [], "efetch": []}
        self.log: list[tuple[str, dict[str, str], str, float]] = []
        self.sessions: dict[str, list[str]] = {}
        self.url = ""

    def fill(self, n: int, per_day: int = 3) -> None:
        start = dt.date(2024, 6, 1)
        self.records = [
            (str(90_000 - i), start - dt.timedelta(days=i // per_day)) for i in range(n)
        ]

    def calls(self, tool: str) -> list[dict[str, str]]:
        return [fields for name, fields, _, _ in self.log if name == tool]

    def esearch(self, fields: dict[str, str]) -> bytes:
        if fields["term"] == "refuse me":
            return b'{"esearchresult": {"ERROR": "Search Backend failed"}}'
        found = self.records
        if "mindate" in fields:
            first, last = (
                dt.datetime.strptime(fields[k], "%Y/%m/%d").date() for k in ("mindate", "maxdate")
            )
            assert fields["datetype"] == "edat"
            found = [(pmid, day) for pmid, day in found if first <= day <= last]
        assert int(fields["retmax"]) <= self.limit
        ids = [pmid for pmid, _ in found]
        session = f"MCID_{len(self.sessions)}"
        self.sessions[session] = ids[: self.limit]
        answer = {
            "count": str(len(ids)),
            "idlist": ids[: int(fields["retmax"])],
            "webenv": session,
            "querykey": "1",
            "warninglist": {
                "outputmessages": ["a word was left out"] if "odd" in fields["term"] else []
            },
        }
        return json.dumps({"header": {}, "esearchresult": answer}).encode()

    def efetch(self, fields: dict[str, str]) -> bytes:
        if "id" in fields:
            ids = fields["id"].split(",")
        else:
            session = self.sessions.get(fields["WebEnv"])
            if session is None:
                message = "<ERROR>Unable to obtain query #1</ERROR>"
                return f"<?xml version='1.0'?><eFetchResult>{message}</eFetchResult>".encode()
            start = int(fields["retstart"])
            assert start < self.limit
            ids = session[start : start + int(fields["retmax"])]
        body = "".join(ARTICLE.format(pmid=pmid) for pmid in ids if pmid not in self.absent)
        return f"{HEAD}<PubmedArticleSet>{body}</PubmedArticleSet>".encode()


class Handler(http.server.BaseHTTPRequestHandler):
    server_version = "fake"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.send_error(405)

    def do_POST(self):
        fake = self.server.fake
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        tool = self.path.rpartition("/")[2].removesuffix(".fcgi")
        fields = dict(urllib.parse.parse_qsl(body))
        fake.log.append((tool, fields, self.path, time.monotonic()))
        fault = fake.faults[tool].pop(0) if fake.faults[tool] else ""
        if fault.isdigit():
            said = {"error": "API rate limit exceeded", "api-key": fields.get("api_key")}
            self.answer(int(fault), json.dumps(said).encode(), {"Retry-After": "2"})
            return
        if fault == "wait":
            self.answer(503, b"", {"Retry-After": "100000"})
            return
        if fault == "away":
            self.answer(307, b"", {"Location": "http://127.0.0.2:9/elsewhere"})
            return
        if fault == "json":
            said = {"error": "API rate limit exceeded", "api-key": fields.get("api_key")}
            self.answer(200, json.dumps(said).encode())
            return
        if fault == "expire":
            fake.sessions.clear()
        if fault == "expire-400":
            fake.sessions.clear()
            self.answer(400, b"Cannot retrieve history data. query_key: 1, WebEnv: x")
            return
        if fault == "hang-up":
            self.connection.close()
            return
        content = getattr(fake, tool)(fields)
        if fault == "cut-short":
            self.answer(200, content[: len(content) // 2])
        elif fault == "drop":
            self.answer(200, content, cut=len(content) // 2)
        elif fault == "malformed":
            self.answer(200, content.replace(b"</Title", b"</Titel").replace(b"<PMID", b"<<PMID"))
        elif fault == "some":
            first = content.index(b"<PubmedArticle>")
            second = content.index(b"<PubmedArticle>", first + 1)
            self.answer(200, content[:first] + content[second:])
        elif fault == "entity":
            bomb = b'<!DOCTYPE a [<!ENTITY x "y">]><PubmedArticleSet/>'
            self.answer(200, bomb)
        else:
            self.answer(200, content)

    def answer(self, status, content, headers=(), cut=None):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:cut])
        if cut is not None:
            self.connection.close()


@contextmanager
def serving():
    fake = Server()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.fake = fake
        server.handle_error = lambda *_: None  # connections that the test itself drops
        fake.url = f"http://127.0.0.1:{server.server_address[1]}/entrez/eutils"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield fake
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def fake(monkeypatch):
    for name in ("NCBI_API_KEY", "NCBI_EMAIL", "OKRCELL_EUTILS_URL"):
        monkeypatch.delenv(name, raising=False)
    with serving() as server:
        yield server


@pytest.fixture
def store(tmp_path):
    with writing(tmp_path / "store", "store") as folder:
        return folder


@pytest.fixture
def client(fake):
    """A client that waits for nothing and notes how long it would have waited."""
    waits: list[float] = []
    made = Eutils(fake.url, KEY, "me@example.org", rate=1e12, sleep=waits.append)
    made.waits = waits
    return made


def documents(store):
    return {row["doc_id"] for table in open_documents(store).tables() for row in table.to_pylist()}


def pages(store):
    return {p.name: p.read_bytes() for p in sorted((store / "downloads").rglob("page-*"))}


def everything(folder):
    return b"".join(p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file())


def unpacked(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            yield gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


# --- a download --------------------------------------------------------------------------------


def test_records_become_documents(fake, client, store):
    fake.fill(25)
    facts = add_pubmed(store, "T  cells", 100, page_size=10, client=client)
    assert documents(store) == {f"PMID:{pmid}" for pmid, _ in fake.records}
    shown = {k: facts[k] for k in ("query", "found", "fetched", "kept", "undelivered", "requests")}
    assert shown == {
        "query": "T cells",
        "found": 25,
        "fetched": 25,
        "kept": 0,
        "undelivered": 0,
        "requests": 4,
    }
    (search,), fetches = fake.calls("esearch"), fake.calls("efetch")
    assert (search["usehistory"], search["db"]) == ("y", "pubmed")
    assert [f["retstart"] for f in fetches] == ["0", "10", "20"]
    assert [f["retmax"] for f in fetches] == ["10", "10", "5"]
    assert all(f["WebEnv"] == "MCID_0" and f["query_key"] == "1" for f in fetches)
    for _, fields, path, _ in fake.log:
        assert (fields["tool"], fields["email"], fields["api_key"]) == (
            "okrcell",
            "me@example.org",
            KEY,
        )
        assert "?" not in path
    assert list(pages(store)) == [f"page-0000{n}.xml.gz" for n in (1, 2, 3)]


def test_the_maximum_takes_the_newest(fake, client, store):
    fake.fill(25)
    facts = add_pubmed(store, "q", 12, page_size=10, client=client)
    assert documents(store) == {f"PMID:{pmid}" for pmid, _ in fake.records[:12]}
    assert (facts["found"], facts["fetched"]) == (25, 12)


def test_run_again_fetches_only_what_is_new(fake, client, store):
    fake.fill(25)
    add_pubmed(store, "q", 100, page_size=10, client=client)
    before, requests = pages(store), client.requests
    assert add_pubmed(store, "q", 100, page_size=10, client=client)["reused"]
    assert client.requests == requests + 1

    fake.records = [("99001", dt.date(2024, 7, 1)), ("99000", dt.date(2024, 7, 1)), *fake.records]
    facts = add_pubmed(store, "q", 100, page_size=10, client=client)
    assert (facts["found"], facts["fetched"], facts["kept"]) == (27, 2, 25)
    assert fake.calls("efetch")[-1]["id"] == "99001,99000"
    after = pages(store)
    assert {name: after[name] for name in before} == before
    assert len(documents(store)) == 27


# --- more than a search can list ---------------------------------------------------------------


def test_large_results_are_cut_by_entry_date(fake, client, store):
    fake.fill(95, per_day=3)
    fake.limit = 10
    facts = add_pubmed(store, "q", 1000, page_size=4, limit=10, client=client)
    assert documents(store) == {f"PMID:{pmid}" for pmid, _ in fake.records}
    assert (facts["found"], facts["fetched"], facts["out_of_reach"]) == (95, 95, 0)
    fetched = [(f["WebEnv"], f["retstart"]) for f in fake.calls("efetch")]
    assert len(fetched) == len(set(fetched))
    assert len(fake.calls("esearch")) < 50


def test_a_day_beyond_the_limit_is_said(fake, client, store, capsys):
    fake.fill(36, per_day=12)
    fake.limit = 10
    facts = add_pubmed(store, "q", 1000, page_size=10, limit=10, client=client)
    assert (facts["fetched"], facts["out_of_reach"]) == (30, 6)
    assert "2 records of 2024/06/01 cannot be listed" in capsys.readouterr().err


def test_the_maximum_stops_the_cutting(fake, client, store):
    fake.fill(95, per_day=3)
    fake.limit = 10
    facts = add_pubmed(store, "q", 14, page_size=5, limit=10, client=client)
    assert (facts["found"], facts["fetched"], facts["out_of_reach"]) == (95, 14, 0)
    assert documents(store) == {f"PMID:{pmid}" for pmid, _ in fake.records[:14]}


# --- what goes wrong ---------------------------------------------------------------------------


PASSING = ["429", "500", "json", "hang-up", "drop", "cut-short"]


@pytest.mark.parametrize(
    ("tool", "fault"),
    [("esearch", fault) for fault in PASSING]
    + [("efetch", fault) for fault in (*PASSING, "503", "malformed", "some", "entity")],
)
def test_faults_that_pass_are_waited_out(fake, client, store, tool, fault):
    fake.fill(25)
    # A record that is lacking twice counts as one that PubMed has not.
    fake.faults[tool] = [fault, "", fault, "" if fault == "some" else fault]
    add_pubmed(store, "q", 100, page_size=10, client=client)
    assert len(documents(store)) == 25
    least = 2.0 if fault.isdigit() else 0.7
    assert client.waits
    assert all(least <= wait <= 4 for wait in client.waits)
    fake.faults[tool] = []
    clean = Eutils(fake.url, rate=1e12)
    with writing(store.parent / "other", "store") as other:
        pass
    add_pubmed(other, "q", 100, page_size=10, client=clean)
    assert pages(other) == pages(store)
    assert KEY.encode() not in everything(store)


def test_lasting_faults_end_with_what_is_kept_and_continue(fake, client, store):
    fake.fill(45)
    fake.faults["efetch"] = ["", "", *["malformed"] * 6]
    with pytest.raises(ProviderUnavailableError) as caught:
        add_pubmed(store, "q", 100, page_size=10, client=client)
    message = str(caught.value)
    assert "page 3 of 5 (2 pages are kept in" in message
    assert "damaged XML" in message
    assert "continues" in message
    assert caught.value.exit_code == 2
    assert [*client.waits] == sorted(client.waits)
    assert len(pages(store)) == 2
    facts = add_pubmed(store, "q", 100, page_size=10, client=client)
    assert (facts["fetched"], facts["kept"]) == (25, 20)
    assert len(documents(store)) == 45
    good = [f["retstart"] for f in fake.calls("efetch")[:2] + fake.calls("efetch")[8:]]
    assert good == ["0", "10", "20", "30", "40"]


def test_a_refused_query_is_not_repeated_and_hides_the_key(fake, client, store, capsys):
    fake.fill(5)
    fake.faults["esearch"] = ["400"]
    with pytest.raises(ProviderError) as caught:
        add_pubmed(store, "q", 100, client=client)
    assert len(fake.log) == 1
    assert not caught.value.retryable
    assert "***" in str(caught.value)
    fake.faults["esearch"] = ["json"] * 9
    with pytest.raises(ProviderUnavailableError) as again:
        add_pubmed(store, "q", 100, client=client)
    assert "API rate limit exceeded" in str(again.value)
    seen = capsys.readouterr()
    for text in (caught.value, again.value, repr(caught.value), client, seen.err, seen.out):
        assert KEY not in str(text)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_search_that_fails_says_why(fake, client, store):
    with pytest.raises(ProviderUnavailableError, match="Search Backend failed"):
        add_pubmed(store, "refuse me", 10, client=client)


def test_too_long_a_wait_and_a_redirection_are_refused(fake, client, store):
    fake.fill(5)
    fake.faults["esearch"] = ["wait"]
    with pytest.raises(ProviderUnavailableError, match="asks to wait for 100000 s"):
        add_pubmed(store, "q", 100, client=client)
    assert client.waits == []
    fake.faults["esearch"] = ["away"]
    with pytest.raises(ProviderError, match="refused"):
        add_pubmed(store, "q", 100, client=client)


def test_nobody_there(store):
    client = Eutils("http://127.0.0.1:9", rate=1e12, sleep=lambda _: None)
    with pytest.raises(ProviderUnavailableError, match="no usable answer"):
        add_pubmed(store, "q", 100, client=client)


@pytest.mark.parametrize("how", ["expire", "expire-400"])
def test_a_lost_session_is_opened_again(fake, client, store, how):
    fake.fill(45)
    fake.faults["efetch"] = ["", how]
    add_pubmed(store, "q", 100, page_size=10, client=client)
    assert len(documents(store)) == 45
    assert len(fake.calls("esearch")) == 2
    assert not any("id" in fields for fields in fake.calls("efetch"))


def test_a_result_that_changed_is_fetched_by_its_ids(fake, client, store, capsys):
    fake.fill(45)
    expected = {f"PMID:{pmid}" for pmid, _ in fake.records}
    fake.faults["efetch"] = ["", *["500"] * 6]
    with pytest.raises(ProviderUnavailableError):
        add_pubmed(store, "q", 100, page_size=10, client=client)
    fake.records.insert(0, ("99000", dt.date(2024, 7, 1)))
    add_pubmed(store, "q", 100, page_size=10, client=client)
    assert documents(store) == expected
    assert "has changed since it was planned (46 records now)" in capsys.readouterr().err
    assert [f["id"].count(",") for f in fake.calls("efetch")[-4:]] == [9, 9, 9, 4]
    assert add_pubmed(store, "q", 100, page_size=10, client=client)["fetched"] == 1


def test_a_session_with_other_records_is_noticed(fake, client, store):
    fake.fill(25)
    real = fake.efetch

    def shifted(fields):
        if "WebEnv" in fields:
            fields = {**fields, "retstart": str(int(fields["retstart"]) + 1)}
        return real(fields)

    fake.efetch = shifted
    add_pubmed(store, "q", 100, page_size=10, client=client)
    assert len(documents(store)) == 25


def test_ids_without_a_record_are_counted(fake, client, store):
    fake.fill(25)
    fake.absent = {fake.records[3][0]}
    facts = add_pubmed(store, "q", 100, page_size=10, client=client)
    assert (facts["fetched"], facts["undelivered"]) == (24, 1)
    assert len(fake.calls("efetch")) == 4  # asked for twice
    fake.records.insert(0, ("99000", dt.date(2024, 7, 1)))
    fake.absent.add("99000")
    facts = add_pubmed(store, "q", 100, page_size=10, client=client)  # a page without any record
    assert (facts["fetched"], facts["undelivered"], facts["kept"]) == (0, 1, 25)


def test_damaged_plan_is_named(fake, client, store):
    fake.fill(5)
    add_pubmed(store, "q", 100, client=client)
    (path,) = (store / "downloads").rglob("plan.json")
    path.write_text("{")
    with pytest.raises(ManifestError, match="Remove"):
        add_pubmed(store, "q", 100, client=client)


# --- killed ------------------------------------------------------------------------------------


def test_killed_anywhere_it_ends_the_same_and_fetches_no_page_twice(okrcell, fake, store, tmp_path):
    fake.fill(650)
    env = {"OKRCELL_EUTILS_URL": fake.url, "NCBI_API_KEY": KEY}
    words = ("corpus", "add-literature", tmp_path / "killed", "--pubmed", "T cells", "--max", "900")
    with writing(tmp_path / "killed", "store"):
        pass
    outputs = ""
    for rename in (2, 4):  # at the plan; at a page
        done = okrcell(*words, kill_at=rename, **env)
        assert done.returncode == -9, done.stderr
        outputs += done.stdout + done.stderr
    done = okrcell(*words, **env)
    assert done.returncode == 0, done.stderr
    outputs += done.stdout + done.stderr
    fetched = [f["retstart"] for f in fake.calls("efetch")]
    # A page that was on its way when the process died is asked for again; a saved one never is.
    saved = len(set(fetched))
    assert saved == 4
    assert len(fetched) <= saved + 2

    client = Eutils(fake.url, rate=1e12)
    add_pubmed(store, "T cells", 900, client=client)
    assert pages(store) == pages(tmp_path / "killed")
    for folder in ("downloads", "documents"):
        ours = {
            p.relative_to(store): p.read_bytes()
            for p in sorted((store / folder).rglob("*"))
            if p.is_file() and p.name != ".lock"
        }
        theirs = {
            p.relative_to(tmp_path / "killed"): p.read_bytes()
            for p in sorted((tmp_path / "killed" / folder).rglob("*"))
            if p.is_file() and p.name != ".lock"
        }
        assert ours == theirs
    assert KEY not in outputs
    assert not any(KEY.encode() in data for data in unpacked(tmp_path / "killed"))


# --- manners -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "rate"), [(None, 3), (KEY, 10)])
def test_the_pace_is_what_ncbi_allows(fake, key, rate):
    now, starts = [0.0], []

    def sleep(seconds):
        now[0] += seconds

    client = Eutils(fake.url, key, sleep=sleep, clock=lambda: now[0])
    for _ in range(7):
        client.post("esearch", {"term": "q", "retmax": 1}, lambda _: starts.append(now[0]), "it")
    gaps = [after - before for before, after in zip(starts, starts[1:], strict=False)]
    assert all(abs(gap - 1 / rate) < 1e-9 for gap in gaps)


def test_the_key_comes_from_the_environment(fake, monkeypatch):
    monkeypatch.setenv("NCBI_API_KEY", KEY)
    monkeypatch.setenv("NCBI_EMAIL", "you@example.org")
    monkeypatch.setenv("OKRCELL_EUTILS_URL", fake.url)
    fake.fill(3)
    assert plan_pubmed("q", 10)["found"] == 3
    fields = fake.calls("esearch")[0]
    assert (fields["api_key"], fields["email"]) == (KEY, "you@example.org")


def test_unsafe_settings_are_refused_without_showing_them():
    with pytest.raises(ConfigError, match="an https address") as caught:
        Eutils("http://name:secret@example.org/x")
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError, match="NCBI_API_KEY") as caught:
        Eutils(api_key="two words")
    assert "two words" not in str(caught.value)


def test_plan_counts_before_anything_is_fetched(fake, client, store, capsys):
    fake.fill(950)
    plan = plan_pubmed("odd q", 500, client=client)
    assert {k: plan[k] for k in ("found", "to_fetch", "requests")} == {
        "found": 950,
        "to_fetch": 500,
        "requests": 4,
    }
    assert plan["minutes"] > 0
    assert "a word was left out" in capsys.readouterr().err
    assert not fake.calls("efetch")
    assert not (store / "downloads").exists()


def test_bad_queries(fake, client, store):
    with pytest.raises(ConfigError, match="empty query"):
        add_pubmed(store, " ", 10, client=client)
    with pytest.raises(ConfigError, match="--max"):
        add_pubmed(store, "q", 0, client=client)
    with pytest.raises(DataError, match="no record"):
        add_pubmed(store, "q", 10, client=client)
    with pytest.raises(DataError, match="no record"):
        plan_pubmed("q", 10, client=client)
