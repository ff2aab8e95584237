"""Readers of literature, the batches they are written to, and how batches become one table."""

import errno
import functools
import gzip
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from okrcell.artifacts import commit, writing
from okrcell.corpus import archives, literature, literature_inputs, xml_stream
from okrcell.corpus.clean import BROKEN_TEXT, HIDDEN_TEXT, clean_text, scrub
from okrcell.corpus.documents import (
    Document,
    DocumentWriter,
    Rejected,
    compose,
    open_documents,
    work_id,
)
from okrcell.corpus.jats import read_jats
from okrcell.corpus.jsonl import read_jsonl
from okrcell.corpus.licence import licence_name
from okrcell.corpus.literature import add_literature
from okrcell.corpus.medline import read_medline
from okrcell.corpus.notes import read_note
from okrcell.errors import (
    ConfigError,
    DataError,
    FileFormatError,
    LockedError,
    ManifestError,
    StorageError,
    UserError,
)

PROPERTIES = settings(
    derandomize=True,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def citation(
    pmid, *, title="A title.", abstract="<AbstractText>Cells divide.</AbstractText>", **more
):
    revised = more.get("revised", "2020-01-05")
    year, month, day = revised.split("-")
    return (
        f'<MedlineCitation Status="MEDLINE"><PMID Version="1">{pmid}</PMID>'
        f"<DateRevised><Year>{year}</Year><Month>{month}</Month><Day>{day}</Day></DateRevised>"
        f"<Article><Journal><JournalIssue><PubDate>{more.get('date', '<Year>2019</Year>')}</PubDate>"
        f"</JournalIssue></Journal><ArticleTitle>{title}</ArticleTitle>"
        + (f"<Abstract>{abstract}</Abstract>" if abstract else "")
        + "<AuthorList><Author><LastName>Nobody</LastName></Author></AuthorList>"
        f"{more.get('article', '')}</Article>{more.get('rest', '')}</MedlineCitation>"
    )


def medline(*records, extra=""):
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE MedlineCitationSet PUBLIC "-//NLM//DTD" '
        '"https://www.nlm.nih.gov/x.dtd">\n<MedlineCitationSet>\n'
        + "\n".join(records)
        + f"{extra}\n</MedlineCitationSet>\n"
    ).encode()


def article(pmc, body="<p>Text.</p>", *, meta="", kind="research-article", tail=""):
    ids = f'<article-id pub-id-type="pmc">{pmc}</article-id>' if pmc else ""
    return (
        '<!DOCTYPE article PUBLIC "-//NLM//DTD JATS" "JATS-archivearticle1.dtd">\n'
        '<article xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'xmlns:mml="http://www.w3.org/1998/Math/MathML" article-type="{kind}">'
        f"<front><article-meta>{ids}<title-group><article-title>On <italic>T</italic> cells"
        f"</article-title></title-group>{meta}</article-meta></front><body>{body}</body>{tail}</article>"
    ).encode()


def documents(reader, content, *rest):
    return list(reader(io.BytesIO(content), "file", "s", *rest))


def one(reader, content, *rest) -> Document:
    (found,) = documents(reader, content, *rest)
    assert isinstance(found, Document), found
    return found


def pieces(document):
    return [(s.name, document.text[s.start : s.end]) for s in document.sections]


@pytest.fixture
def fresh(tmp_path) -> Path:
    path = tmp_path / "store"
    with writing(path, "store"):
        pass
    return path


@pytest.fixture
def put(tmp_path):
    def put(name, content) -> Path:
        path = tmp_path / "input" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return put


def rows(store) -> dict[str, dict]:
    found = [row for table in open_documents(store).tables() for row in table.to_pylist()]
    assert len({row["doc_id"] for row in found}) == len(found)
    return {row["doc_id"]: row for row in found}


def tree(folder) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != ".lock"
    }


# --- cleaning --------------------------------------------------------------------------------------


def test_hidden_characters_go_and_are_flagged():
    assert scrub("a\u200bb\u202ec\x00d\U000e0041") == ("abcd", (HIDDEN_TEXT,))
    assert scrub("x\U000e0100y") == ("xy", (HIDDEN_TEXT,))
    assert scrub("syl\u00adlable e\u0301 \r\n\u2028z") == ("syllable \u00e9 \n\nz", ())
    assert scrub("lone \ud800 half") == ("lone \ufffd half", (BROKEN_TEXT,))
    assert scrub("thin\u2009space, CD4\u207a \u03b3\u03b4") == (
        "thin\u2009space, CD4\u207a \u03b3\u03b4",
        (),
    )


@PROPERTIES
@given(
    st.text(st.characters(), max_size=60) | st.text("ab\r\n\u200b\ud800\u0301\u00ad", max_size=30)
)
def test_cleaning_is_final_and_keeps_places(text):
    clean, flags = scrub(text)
    assert scrub(clean)[0] == clean
    clean.encode()
    assert not any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in clean)
    placed, _ = scrub(text, compose=False)
    if HIDDEN_TEXT not in flags and not set("\u00ad") & set(text) and placed != text:
        odd = "\r\n\x0b\x0c\x85\u2028\u2029"
        if not any("\ufe00" <= c <= "\ufe0f" for c in text):
            assert len(placed) == len(text)
            assert all(
                a == b or a in odd or "\ud800" <= a <= "\udfff"
                for a, b in zip(text, placed, strict=True)
            )


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@PROPERTIES
@given(st.lists(st.tuples(st.sampled_from(["A", "B"]), st.sampled_from(["", "Head"]), TEXTS)))
def test_sections_slice_back_to_their_pieces(parts):
    text, sections, _ = compose(parts)
    assert all(0 <= s.start < s.end <= len(text) for s in sections)
    assert all(a.end <= b.start for a, b in zip(sections, sections[1:], strict=False))
    kept = [(name, clean_text(body)) for name, _, body in parts if clean_text(body).strip()]
    inside = "".join(text[s.start : s.end] for s in sections)
    assert all(body in inside for _, body in kept)
    assert {s.name for s in sections} == {name for name, _ in kept}


def test_ids_have_one_spelling():
    assert work_id("PMID", "PMID: 0123") == "PMID:123"
    assert work_id("PMC", "PMC3166277.1") == work_id("PMC", "3166277") == "PMC:3166277"
    assert work_id("DOI", "https://doi.org/10.1000/AbC.") == "DOI:10.1000/abc"
    assert work_id("PMID", "12a") is work_id("DOI", "x") is work_id("PMC", None) is None


# --- MEDLINE ---------------------------------------------------------------------------------------


def test_medline_record_in_full():
    content = medline(
        citation(
            17,
            title="Ca<sup>2+</sup> in 10<sup>6</sup> CD8<sup>+</sup> cells",
            abstract='<AbstractText Label="METHODS" NlmCategory="METHODS">We used\n  &alpha;&nbsp;H<sub>2</sub>O.'
            '</AbstractText><AbstractText Label="UNLABELLED">Then &unheard; more.</AbstractText>'
            "<CopyrightInformation>&#169; X. CC BY 4.0.</CopyrightInformation>",
            date="<MedlineDate>2015 Oct-Dec</MedlineDate>",
            article='<ELocationID EIdType="doi" ValidYN="Y">10.1001/A</ELocationID>'
            '<ELocationID EIdType="doi" ValidYN="N">10.1001/wrong</ELocationID>'
            "<PublicationTypeList><PublicationType>Retracted Publication</PublicationType>"
            "</PublicationTypeList>",
            rest='<OtherID Source="NLM">PMC44 [Available on 05/01/16]</OtherID>'
            '<OtherID Source="NLM">NIHMS5</OtherID><OtherAbstract Language="fre"><AbstractText>Non.'
            '</AbstractText></OtherAbstract><OtherAbstract Type="plain-language-summary" Language="eng">'
            "<AbstractText>Simply said.</AbstractText></OtherAbstract>",
        )
    )
    found = one(read_medline, content)
    assert found.doc_id == "PMID:17"
    assert found.ids == ("PMID:17", "DOI:10.1001/a", "PMC:44")
    assert found.title == "Ca2+ in 10^6 CD8+ cells"
    assert pieces(found) == [
        ("Title", "Ca2+ in 10^6 CD8+ cells"),
        ("METHODS", "We used \u03b1\u00a0H2O."),
        ("Abstract", "Then &unheard; more."),
        ("Other abstract (plain-language-summary)", "Simply said."),
    ]
    assert (found.year, found.revision, found.licence) == (2015, "2020-01-05", "CC-BY-4.0")
    assert found.is_retracted
    assert found.flags == ("retracted-publication",)


def links(**named):
    inner = "".join(
        f'<CommentsCorrections RefType="{kind}"><RefSource>J</RefSource><PMID>{pmid}</PMID>'
        "</CommentsCorrections>"
        for kind, pmid in named.items()
    )
    return f"<CommentsCorrectionsList>{inner}</CommentsCorrectionsList>"


def test_notices_of_medline():
    content = medline(
        citation(1, rest=links(RetractionIn=2, Cites=9)),
        citation(2, abstract="", rest=links(RetractionOf=1, CommentOn=7)),
        citation(3, abstract="", rest=links(ErratumFor=4, ExpressionOfConcernFor=5)),
        citation(4, rest=links(ErratumIn=3)),
        citation(5, title="RETRACTED: Cells of note."),
        citation(6, title="Retraction in the eye: an abstract of clots"),
    )
    found = documents(read_medline, content)
    assert [d.is_retracted for d in found] == [True, False, False, False, True, False]
    assert found[1].retracts == ("PMID:1",)
    assert found[1].flags == ("title-only",)
    assert found[2].flags == ("corrects:PMID:4", "doubts:PMID:5", "title-only")
    assert found[3].flags == ("corrected",)
    assert "PMID:9" not in str(found)


def test_pubmed_articles_and_books():
    content = (
        "<PubmedArticleSet><PubmedArticle>" + citation(7) + "<PubmedData><ArticleIdList>"
        '<ArticleId IdType="pmc">PMC70</ArticleId><ArticleId IdType="doi">10.1007/x</ArticleId>'
        "</ArticleIdList><ReferenceList><Reference><ArticleIdList>"
        '<ArticleId IdType="pubmed">99</ArticleId></ArticleIdList></Reference></ReferenceList>'
        "</PubmedData></PubmedArticle><PubmedBookArticle><BookDocument><PMID>8</PMID>"
        "<Book><BookTitle>The book</BookTitle><PubDate><Year>2001</Year></PubDate></Book>"
        "<ArticleTitle>A chapter</ArticleTitle><Abstract><AbstractText>On genes.</AbstractText>"
        "</Abstract></BookDocument></PubmedBookArticle><PubmedBookArticle><BookDocument>"
        "<PMID>9</PMID></BookDocument></PubmedBookArticle>"
        "<PubmedArticle><Other/></PubmedArticle></PubmedArticleSet>"
    ).encode()
    first, book, empty, odd = documents(read_medline, content)
    assert first.ids == ("PMID:7", "PMC:70", "DOI:10.1007/x")
    assert (book.doc_id, book.title, book.year) == ("PMID:8", "A chapter", 2001)
    assert empty == Rejected("PMID:9", "no title and no abstract")
    assert odd.reason == "no citation in the record"


def test_skipped_elements_may_hold_their_own_kind():
    reference = '<Reference><ArticleIdList><ArticleId IdType="pubmed">99</ArticleId></ArticleIdList></Reference>'
    nested = f"<ReferenceList><Title>R</Title>{reference}</ReferenceList>"
    deep = f"<ReferenceList>{nested}{nested}<ReferenceList>{nested}</ReferenceList>{reference}</ReferenceList>"
    ids = '<ArticleIdList><ArticleId IdType="pmc">PMC70</ArticleId></ArticleIdList>'
    content = (
        f"<PubmedArticleSet><PubmedArticle>{citation(7)}<PubmedData>{deep}{ids}</PubmedData>"
        f"</PubmedArticle><PubmedArticle>{citation(8)}<PubmedData>{nested}</PubmedData>"
        "</PubmedArticle></PubmedArticleSet>"
    ).encode()
    assert [d.ids for d in documents(read_medline, content)] == [
        ("PMID:7", "PMC:70"),
        ("PMID:8",),
    ]
    back = "<back><ref-list><ref>Cited <ref><ref/>work</ref> of <ref/>old</ref></ref-list><sec><p>End.</p></sec></back>"
    found = one(read_jats, article(1, "<sec><sec><sec><p>In.</p></sec></sec></sec>", tail=back))
    assert found.text == "On T cells\n\nIn.\n\nEnd."
    authors = "<AuthorList><AuthorList></AuthorList></AuthorList>"  # no DTD allows that
    with pytest.raises(FileFormatError, match="inside an element of that name"):
        documents(read_medline, medline(citation(1, rest=authors)))


@pytest.mark.parametrize(
    "revised",
    ["99999-01-01", "2020-13-45", "2021-02-29", "9999-01-01", "0000-01-01", "20x0-1-1", "--"],
)
def test_days_that_no_calendar_has_are_no_revision(revised, fresh, put):
    impossible = citation(1, title="Stale", revised=revised)
    found = one(read_medline, medline(impossible))
    assert (found.doc_id, found.revision) == ("PMID:1", "")
    year, month, day = revised.split("-")
    stated = f"<day>{day}</day><month>{month}</month><year>{year}</year>"
    meta = f'<history><date date-type="corrected">{stated}</date></history>'
    assert one(read_jats, article(1, meta=meta)).revision == ""
    assert one(read_jsonl, jsonl({"id": 1, "text": "x", "revision": revised})).revision == ""
    add_literature(fresh, [put("1.xml", medline(citation(1, title="Real", revised="2020-01-01")))])
    add_literature(fresh, [put("2.xml", medline(impossible))])
    assert rows(fresh)["PMID:1"]["title"] == "Real"


def test_years_are_plausible_or_none():
    for stated, year in (
        ("99999", None),
        ("2999", None),
        ("0999", None),
        ("2200", 2200),
        ("1500", 1500),
    ):
        found = one(read_medline, medline(citation(1, date=f"<Year>{stated}</Year>")))
        assert found.year == year, stated
        date = f"<pub-date><year>{stated}</year></pub-date>"
        assert one(read_jats, article(1, meta=date)).year == year, stated
        for value in (stated, int(stated)):
            assert one(read_jsonl, jsonl({"id": 1, "text": "x", "year": value})).year == year
    fallback = "<DateCompleted><Year>2011</Year><Month>2</Month><Day>3</Day></DateCompleted>"
    found = one(read_medline, medline(citation(1, revised="2020-13-01", rest=fallback)))
    assert found.revision == "2011-02-03"


# --- JATS ------------------------------------------------------------------------------------------

BODY = (
    "<p>Lead.</p><sec><title>Results</title><p>Own words<sup><xref ref-type='bibr'>3</xref></sup>."
    "<fig id='f'><label>Figure 1.</label><caption><title>Cells</title><p>(A) Left.</p><p>(B) Right."
    "</p></caption><graphic/></fig> After.</p><sec><label>2.1</label><title>T cells</title>"
    "<p>Where <inline-formula><alternatives><mml:math><mml:mfrac><mml:mi>a</mml:mi><mml:mrow>"
    "<mml:mi>b</mml:mi><mml:mo>+</mml:mo><mml:mn>1</mml:mn></mml:mrow></mml:mfrac></mml:math>"
    "<tex-math>no</tex-math></alternatives></inline-formula> holds.</p><list><list-item><p>One."
    "</p></list-item></list><disp-formula><tex-math>\\begin{document}$$x^2$$\\end{document}"
    "</tex-math></disp-formula></sec><table-wrap><label>Table 1</label><caption><p>Counts.</p>"
    "</caption><table><tr><td>123456</td></tr></table></table-wrap><p>Last.</p></sec>"
)


def test_jats_sections_captions_and_formulas():
    tail = (
        "<back><ack><p>Thanks.</p></ack><app-group><app><title>Appendix</title><p>Extra.</p></app>"
        "</app-group><ref-list><ref><mixed-citation>Cited work</mixed-citation></ref></ref-list></back>"
        "<floats-group><fig><label>Figure 2</label><caption><p>Afloat.</p></caption></fig>"
        "</floats-group><sub-article><body><p>Review.</p></body></sub-article>"
    )
    meta = (
        "<abstract><sec><title>Background</title><p>Why.</p></sec></abstract>"
        "<abstract abstract-type='toc'><p>Short.</p></abstract>"
        "<trans-abstract xml:lang='fr'><p>Pourquoi.</p></trans-abstract>"
    )
    found = one(read_jats, article(5, BODY, meta=meta, tail=tail))
    assert pieces(found) == [
        ("Title", "On T cells"),
        ("Abstract > Background", "Why."),
        ("Abstract (toc)", "Short."),
        ("Body", "Lead."),
        ("Results", "Own words[3]. After."),
        ("Results > Figure 1", "Cells.\n(A) Left.\n(B) Right."),
        ("Results > T cells", "Where a/(b+1) holds.\n\nOne.\n\nx^2"),
        ("Results > Table 1", "Counts."),
        ("Results", "Last."),
        ("Figure 2", "Afloat."),
        ("Appendix", "Extra."),
    ]
    assert "2.1 T cells" in found.text  # a heading stands in the text, outside the sections
    assert not any(
        word in found.text for word in ("Cited", "Thanks", "Review", "123456", "Pourquoi")
    )


def test_jats_ids_dates_and_notices():
    meta = (
        '<article-id pub-id-type="doi">10.1005/N</article-id><pub-date pub-type="epub"><year>2012</year>'
        '</pub-date><pub-date pub-type="ppub"><year>2013</year></pub-date><history>'
        '<date date-type="corrected"><day>3</day><month>4</month><year>2014</year></date></history>'
        '<related-article related-article-type="retracted-article" ext-link-type="pubmed" '
        'xlink:href="12"/><related-article related-article-type="retracted-article" '
        'ext-link-type="doi" xlink:href="10.1005/OLD"/>'
        '<related-article related-article-type="corrected-article" ext-link-type="pmc" xlink:href="PMC3"/>'
    )
    notice = one(read_jats, article("", meta=meta, kind="retraction"), "PMC0099")
    assert notice.ids == ("DOI:10.1005/n",)  # no name that PMC would give
    assert one(read_jats, article("", meta=meta), "PMC99").ids == ("PMC:99", "DOI:10.1005/n")
    assert notice.retracts == ("PMID:12", "DOI:10.1005/old")
    assert notice.flags == ("corrects:PMC:3", "retraction-notice")
    assert (notice.year, notice.revision, notice.is_retracted) == (2012, "2014-04-03", False)
    forward = '<related-article related-article-type="retraction-forward"/>'
    assert one(read_jats, article(1, meta=forward)).is_retracted
    assert documents(read_jats, b"<articles><article><body/></article></articles>") == [
        Rejected("file byte 11", "no article-meta in the article")
    ]
    assert documents(read_jats, article(""))[0].reason == "no PMC id, PMID or DOI"


@pytest.mark.parametrize("prefix", ["j", "nlm-jats"])
def test_jats_with_prefixes_reads_as_without(prefix):
    meta = (
        '<related-article related-article-type="retracted-article" ext-link-type="pubmed" '
        'xlink:href="12"/><permissions><license xlink:href="http://creativecommons.org/licenses/by/4.0/">'
        "<license-p>Open</license-p></license></permissions>"
    )
    back = "<back><ref-list><ref><mixed-citation>Cited</mixed-citation></ref></ref-list></back>"
    plain = article(5, BODY, meta=meta, tail=back)
    expected = one(read_jats, plain)
    assert (expected.licence, expected.retracts) == ("CC-BY-4.0", ("PMID:12",))
    _, _, bare = plain.decode().partition("\n")
    named = re.sub(r"<(/?)(?!mml:)(?=[a-z])", rf"<\1{prefix}:", bare)
    named = named.replace("xlink:", "lnk:").replace(":xlink=", ":lnk=").replace("mml:", "m:")
    named = named.replace(":mml=", f':m="x" xmlns:{prefix}=')
    assert f"<{prefix}:article " in named
    assert one(read_jats, named.encode()) == expected
    assert one(read_jats, f"<{prefix}:articles>{named}</{prefix}:articles>".encode()) == expected


def test_text_outside_paragraphs_is_kept():
    body = (
        "Loose <bold>start</bold>.<p>A paragraph.</p><sec><title>Results</title>Cells "
        "<italic>divide</italic> in 10<sup>6</sup> wells<xref>1</xref>.<p>Then.</p> Between. "
        "<fig><label>F1</label><caption>Said <italic>bare</italic>.<p>More.</p></caption></fig>"
        "<list><list-item>An item.</list-item></list>After.</sec>"
        "<table-wrap><label>T1</label><caption><p>Counts.</p></caption><table-wrap-foot><fn>"
        "<p>Footnote.</p></fn></table-wrap-foot></table-wrap>"
    )
    meta = "<abstract>Bare abstract.</abstract>"
    assert pieces(one(read_jats, article(1, body, meta=meta)))[1:] == [
        ("Abstract", "Bare abstract."),
        ("Body", "Loose start.\n\nA paragraph."),
        ("Results", "Cells divide in 10^6 wells1.\n\nThen.\n\nBetween."),
        ("Results > F1", "Said bare.\nMore."),
        ("Results", "An item.\n\nAfter."),
        ("T1", "Counts."),
    ]


LICENCES = [
    ('<license xlink:href="http://creativecommons.org/licenses/by/2.0"><p>Open</p></license>', "CC-BY-2.0"),
    (
        '<license license-type="openaccess"><p>Creative Commons Attribution Non-Commercial License ('
        '<ext-link xlink:href="http://creativecommons.org/licenses/by-nc/2.0/uk/"/>)</p></license>',
        "CC-BY-NC-2.0-UK",
    ),
    (
        "<license><license-p>distributed under the Creative Commons Attribution License, which"
        "</license-p></license>",
        "CC-BY",
    ),
    (
        "<license><p>Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International License"
        "</p></license>",
        "CC-BY-NC-SA-4.0",
    ),
    (
        '<license xmlns:ali="http://www.niso.org/schemas/ali/1.0/"><ali:license_ref>'
        "https://creativecommons.org/publicdomain/zero/1.0/</ali:license_ref></license>",
        "CC0-1.0",
    ),
    ('<license xlink:href="http://creativecommons.org/publicdomain/mark/1.0/"/>', "public domain"),
    ("<license><p>the Creative Commons Public Domain declaration which</p></license>", "public domain"),
    (
        "<copyright-statement>verbatim copying and redistribution of this article are permitted"
        "</copyright-statement>",
        "open access, verbatim with notice",
    ),
    (
        "<license><p>under the terms of the Public Library of Science Open-Access License</p></license>",
        "PLoS open access",
    ),
    ('<license license-type="open-access"/>', "open access"),
    ("<copyright-statement>\u00a9 2011 Elsevier. All rights reserved.</copyright-statement>",
     "\u00a9 2011 Elsevier. All rights reserved."),
    ("", ""),
]  # fmt: skip


@pytest.mark.parametrize(("stated", "name"), LICENCES)
def test_licences(stated, name):
    assert one(read_jats, article(1, meta=f"<permissions>{stated}</permissions>")).licence == name


def test_licence_words():
    assert (
        licence_name((), "This is open access under the CC BY-NC-ND license 4.0") == "CC-BY-NC-ND"
    )
    assert licence_name((), "CC0") == "CC0"
    assert len(licence_name((), "word " * 300)) == 500


# --- JSON lines and notes --------------------------------------------------------------------------


def jsonl(*records):
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def test_jsonl_keeps_offsets():
    text = "Title\r\n\r\nA cell\u2009is e\u0301 here.\n"
    found = one(read_jsonl, jsonl({"pmid": "5", "pmcid": "PMC6", "title": "T", "text": text}))
    assert found.doc_id == "PMC:6"
    assert found.ids == ("PMC:6", "PMID:5")
    assert len(found.text) == len(text)
    assert found.text.index("cell") == text.index("cell")
    assert [(s.start, s.end) for s in found.sections] == [(0, len(text))]


def test_jsonl_sections_move_with_hidden_characters():
    text = "ab\u200bcd EF\u200bGH"
    record = {
        "id": "x-1",
        "text": text,
        "year": "2011",
        "license": "CC BY 4.0",
        "revision": "2020-02-03T1",
    }
    record["sections"] = [
        {"name": "one", "start": 0, "end": 5},
        {"name": "two", "start": 6, "end": 11},
    ]
    found = one(read_jsonl, jsonl(record))
    assert pieces(found) == [("one", "abcd"), ("two", "EFGH")]
    assert (found.doc_id, found.year, found.licence) == ("JSONL:x-1", 2011, "CC-BY-4.0")
    assert (found.flags, found.revision) == ((HIDDEN_TEXT,), "2020-02-03")
    listed = {
        "id": "PMID:3",
        "sections": [{"name": "A", "text": "one"}, {"name": "B", "text": "two"}],
    }
    assert pieces(one(read_jsonl, jsonl(listed))) == [("A", "one"), ("B", "two")]


def test_jsonl_takes_no_truth_values_for_numbers():
    whole = {"name": "one", "start": 0, "end": 1}
    lines = [
        {"id": True, "text": "abc"},
        {"pmid": True, "text": "abc"},
        {"id": 1, "text": "abc", "sections": [{**whole, "start": False}]},
        {"id": 2, "text": "abc", "sections": [{**whole, "end": True}]},
        {"id": 3, "text": "abc", "sections": [whole], "year": True, "revision": True},
    ]
    *left, kept = documents(read_jsonl, jsonl(*lines))
    assert [item.reason for item in left] == [
        *["no id, pmid, pmcid or doi"] * 2,
        *["sections whose offsets are not in order within the text"] * 2,
    ]
    assert (kept.doc_id, kept.year, kept.revision) == ("JSONL:3", None, "")


def test_ids_are_one_line_of_visible_characters():
    lines = [
        {"id": "a\u202e\n b\t\u200b", "text": "x"},
        {"id": " \u200b\n", "text": "x"},
        {"id": "\u2066", "pmid": "5", "doi": "10.1000/a\u202eb\u200b", "text": "x"},
    ]
    first, nameless, third = documents(read_jsonl, jsonl(*lines))
    assert first.ids == ("JSONL:a b",)
    assert nameless == Rejected("file line 2", "no id, pmid, pmcid or doi")
    assert third.ids == ("PMID:5", "DOI:10.1000/ab")
    note = read_note(io.BytesIO(b"words"), "f", "notes", "a\n\u202e;rm  -rf\x07")
    assert (note.doc_id, note.ids, note.title) == (
        "NOTE:a ;rm -rf",
        ("NOTE:a ;rm -rf",),
        "a ;rm -rf",
    )
    assert read_note(io.BytesIO(b"words"), "f", "notes", "\u200b") == Rejected(
        "f", "a note whose name has no visible character"
    )


def test_jsonl_lines_that_lack_something_are_left_out():
    lines = [
        {"text": "x"},
        {"id": 1, "text": 5},
        {"id": 2},
        {"id": 3, "text": " "},
        {"id": 4, "text": "abc", "sections": [{"start": 2, "end": 9}]},
        {"id": 5, "text": "abc", "sections": ["x"]},
        {"id": 6, "text": "kept"},
    ]
    *left, kept = documents(read_jsonl, b"\xef\xbb\xbf" + jsonl(*lines))
    assert [item.reason for item in left] == [
        "no id, pmid, pmcid or doi",
        "a text that is not a string",
        "no text",
        "no text",
        "sections whose offsets are not in order within the text",
        "sections that are not a list of objects",
    ]
    assert left[4].where == "file line 5"
    assert kept.text == "kept"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            b'{"id": 1, "text": "caf\xe9"}',
            "line 2: found bytes that are not UTF-8 (0xe9 at byte 49)",
        ),
        (b"{broken", "line 2: found no JSON"),
        (b"[1]", "line 2: found a JSON list"),
        (b'{"id":' + b"[" * 100_000, "line 2: found"),
    ],
)
def test_damaged_jsonl_is_refused_with_its_line(line, message):
    with pytest.raises(FileFormatError) as error:
        documents(read_jsonl, b'{"id": 0, "text": "good"}\n' + line + b"\n")
    assert message in str(error.value)


def test_notes():
    text = (
        "# B cells\n\nFirst.\n\n## Where\n\nSpleen.\n```\n# code\n```\n### Empty\n## Last ##\nEnd."
    )
    found = read_note(io.BytesIO(b"\xef\xbb\xbf" + text.encode()), "file", "notes", "b_cells")
    assert (found.doc_id, found.title) == ("NOTE:b_cells", "B cells")
    assert pieces(found) == [
        ("B cells", "First."),
        ("Where", "Spleen.\n```\n# code\n```"),
        ("Last", "End."),
    ]
    assert read_note(io.BytesIO(b"plain"), "file", "notes", "n").title == "n"
    assert read_note(io.BytesIO(b" \n"), "file", "notes", "n").reason == "no text"
    with pytest.raises(FileFormatError, match="byte 4: found bytes that are not UTF-8"):
        read_note(io.BytesIO(b"abc\xff"), "file", "notes", "n")


# --- unsafe and damaged XML ------------------------------------------------------------------------

LAUGHS = (
    b'<?xml version="1.0"?>\n<!DOCTYPE article [\n<!ENTITY a "ha">\n<!ENTITY b "&a;&a;">\n]>\n'
    b"<article><front>&b;</front></article>"
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LAUGHS, "line 3: found a declaration of the entity 'a'"),
        (
            b'<!DOCTYPE article [<!ENTITY x SYSTEM "file:///etc/passwd">]><article>&x;</article>',
            "entity 'x'",
        ),
        (
            b'<!DOCTYPE article [<!ENTITY % p SYSTEM "http://127.0.0.1/x"> %p;]><article/>',
            "entity 'p'",
        ),
        (b"<article>" * 300, "more than 200 levels"),
        (b"<article>\n<p>x</q></article>", "line 2 byte 17: found mismatched tag (in the record"),
        (b"<article><p>x", "an end in the middle"),
        (b"", "found an empty file"),
        (b"<article>caf\xe9 </article>", "byte 13: found byte 0xe9, which the declared encoding"),
        (b'<?xml version="1.0" encoding="klingon"?><article/>', "unknown encoding"),
        (b'<?xml version="1.0" encoding="gb2312"?><article>x</article>', "an encoding that cannot"),
        (
            '<?xml version="1.0" encoding="ISO-8859-1"?><article>a \u2019 b</article>'.encode(),
            "byte 56: found byte 0x80, which text in the declared ISO-8859-1",
        ),
    ],
)
def test_unsafe_and_damaged_xml_is_refused(content, message):
    with pytest.raises(FileFormatError) as error:
        documents(read_jats, content)
    assert message in str(error.value)
    assert str(error.value).startswith("file line ") or "byte" in message


def test_harmless_doctypes_and_encodings_are_read():
    unparsed = (
        b'<!DOCTYPE article [<!NOTATION gif SYSTEM "g"><!ENTITY f SYSTEM "f.gif" NDATA gif>]>'
    )
    plain = article(3).partition(b"\n")[2]
    assert one(read_jats, unparsed + plain).doc_id == "PMC:3"
    assert one(read_jats, plain.replace(b"Text.", b"&beta;-cell &hellip;")).text.endswith(
        "\u03b2-cell \u2026"
    )
    utf16 = ('<?xml version="1.0" encoding="UTF-16"?>' + plain.decode()).encode("utf-16")
    assert one(read_jats, utf16).doc_id == "PMC:3"
    western = '<?xml version="1.0" encoding="windows-1252"?>' + plain.decode().replace(
        "Text", "\u2019"
    )
    assert "\u2019" in one(read_jats, western.encode("cp1252")).text


def test_records_are_bounded(monkeypatch):
    monkeypatch.setattr(xml_stream, "_MOST_BYTES", 1 << 16)
    monkeypatch.setattr(xml_stream, "_CHUNK", 1 << 12)
    for content in (article(1, "<p>" + "x" * 200_000), b"<articles>" + b"<a>" * 100_000):
        with pytest.raises(FileFormatError, match="in one record, or without any"):
            documents(read_jats, content)
    assert len(documents(read_medline, medline(*(citation(i) for i in range(1, 900))))) == 899
    monkeypatch.setattr(xml_stream, "_MOST_ELEMENTS", 50)
    with pytest.raises(FileFormatError, match="50 elements"):
        documents(read_jats, article(1, "<b/>" * 60))


WHOLE = medline(
    citation(1), citation(2, abstract="<AbstractText>&#956;g &amp; more \u00e9</AbstractText>")
)


@PROPERTIES
@given(st.integers(0, len(WHOLE) - 2))
def test_a_truncated_file_is_always_an_error(stop):
    with pytest.raises(FileFormatError, match="file line"):
        documents(read_medline, WHOLE[:stop].rstrip())


@PROPERTIES
@given(
    st.binary(max_size=80),
    st.sampled_from(
        [b"", b"<article>", b"<MedlineCitationSet><MedlineCitation><PMID>", b'{"id": 1, "text": "']
    ),
)
def test_readers_give_documents_or_typed_errors(junk, start):
    for reader in (read_medline, read_jats, read_jsonl):
        try:
            found = documents(reader, start + junk)
        except UserError:
            continue
        assert all(isinstance(item, (Document, Rejected)) for item in found)


WORDS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn"]), min_size=1, max_size=12
)


@PROPERTIES
@given(st.recursive(WORDS, lambda inner: st.lists(inner, max_size=4), max_leaves=12))
def test_no_word_of_an_article_is_lost(content):
    words = []

    def build(node):
        if isinstance(node, str):
            words.append(clean_text(node.replace("&", "and").replace("<", "less")).split())
            return f"<p>{' '.join(words[-1])}</p>"
        return f"<sec><title>T</title>{''.join(map(build, node))}</sec>"

    found = one(read_jats, article(1, build(content)))
    squeezed = "".join(found.text.split())
    assert all(clean_text("".join(part)) in squeezed for part in words)
    assert all(found.text[s.start : s.end].strip() for s in found.sections)


# --- files, folders, archives ----------------------------------------------------------------------


def test_a_folder_of_everything(fresh, put):
    put("a.xml.gz", gzip.compress(medline(citation(1), citation(2))))
    put(
        "PMC77.nxml",
        article("", "<p>Whole text.</p>", meta='<article-id pub-id-type="pmid">1</article-id>'),
    )
    put("lines.jsonl", jsonl({"id": "j", "text": "A line."}, {"text": "no id"}))
    put("deep/note.md", "# Note\n\nWords.")
    put("disguised.txt", medline(citation(3)))
    put("table.tsv", "a\tb\n")
    put("page.xml", "<html><body/></html>")
    put("empty.txt", "")
    put("photo.md.png", b"\x89PNG\r\n")
    folder = put("x.json", '{\n "laid": "out"\n}').parent
    result = add_literature(fresh, [folder])
    assert result["documents"] == {"jsonl": 1, "notes": 1, "pmc": 1, "pubmed": 3}
    assert result["skipped"] == {
        "XML of another kind (<html>)": 1,
        "an empty file": 1,
        "an unknown format (.json)": 1,
        "an unknown format (.png)": 1,
        "an unknown format (.tsv)": 1,
        "no id, pmid, pmcid or doi": 1,
    }
    assert result["examples"]["no id, pmid, pmcid or doi"].endswith("lines.jsonl line 2")
    found = rows(fresh)
    assert set(found) == {"PMID:1", "PMID:2", "PMID:3", "PMC:77", "JSONL:j", "NOTE:note"}
    assert all(
        row["text_sha256"] == hashlib.sha256(row["text"].encode()).hexdigest()
        for row in found.values()
    )
    before = tree(fresh)
    again = add_literature(fresh, [folder])
    assert (again["reused"], again["unchanged"], again["files"]) == (True, 5, 0)
    assert tree(fresh) == before
    put("new.txt", "New words.")
    assert add_literature(fresh, [folder])["documents"] == {"notes": 1}
    assert len(open_documents(fresh).inputs) == 2


def test_named_files_must_be_readable(fresh, put, tmp_path):
    for name, content, message in (
        ("t.tsv", "a\tb", "an unknown format (.tsv)"),
        ("e.xml", "", "an empty file"),
        ("h.xml", "<html/>", "XML of another kind (<html>)"),
        ("bad.xml", "<!DOCTYPE", "line 1"),
        ("bad.jsonl", "{oops", "line 1: found no JSON"),
    ):
        with pytest.raises(FileFormatError) as error:
            add_literature(fresh, [put(name, content)])
        assert message in str(error.value)
    with pytest.raises(DataError, match="no such file or folder"):
        add_literature(fresh, [tmp_path / "none"])
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="no file that can be read"):
        add_literature(fresh, [tmp_path / "bare"])
    with pytest.raises(ManifestError, match="no store"):
        add_literature(tmp_path / "nowhere", [tmp_path / "bare"])
    assert "documents" not in {p.name for p in fresh.iterdir()} or not any(
        (fresh / "documents").glob("*/*")
    )


def test_two_notes_of_one_name_and_bad_sources(fresh, put):
    put("a/same.md", "one")
    folder = put("b/same.txt", "two").parent.parent
    with pytest.raises(DataError, match="two files named 'same'"):
        add_literature(fresh, [folder])
    for name in ("cl", "CL", "a b", "-x", "", "y" * 41):
        with pytest.raises(ConfigError, match="--source"):
            add_literature(fresh, [folder / "a"], source=name)
    assert add_literature(fresh, [folder / "a"], source="lab-7")["documents"] == {"lab-7": 1}


def test_notes_whose_ids_are_the_same_when_cleaned_are_told(fresh, put):
    put("a/same\n.md", "one")
    folder = put("b/sa\u200bme.md", "two").parent.parent
    with pytest.raises(DataError, match="two files named 'same'"):
        add_literature(fresh, [folder])
    inside = put("notes.zip", zipped(**{"x y.md": "one", "x \u202ey.md": "two"}))
    with pytest.raises(DataError, match="two files named 'x y'"):
        add_literature(fresh, [inside])
    put("c/\u200b.md", "one")
    folder = put("c/\u202e.md", "two").parent
    result = add_literature(fresh, [folder])
    assert result["skipped"] == {"a note whose name has no visible character": 2}


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "device"])
def test_what_is_no_regular_file_is_refused_at_once(fresh, put, tmp_path, kind):
    pipe = tmp_path / "input" / "pipe.md"
    put("n.md", "words")
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)
    path = {"pipe": pipe, "link to a pipe": tmp_path / "link", "device": Path(os.devnull)}[kind]
    with pytest.raises(DataError, match="neither a regular file nor a folder") as error:
        add_literature(fresh, [path])
    assert error.value.where == str(path)
    assert add_literature(fresh, [pipe.parent])["documents"] == {"notes": 1}


def test_an_archive_without_anything_readable(fresh, put, tmp_path):
    nothing = "no file that can be read"
    for name, content, message in (
        ("empty.zip", zipped(), nothing),
        ("nested.zip", zipped(**{"inner.zip": zipped(a="b")}), f"{nothing} (1 x an unknown format (.zip))"),
        ("odd.tar.gz", tarred({"photo.jpg": b"\xff\xd8"}), f"{nothing} (1 x an unknown format (.jpg))"),
        ("bad.zip", zipped(**{"bad.xml": LAUGHS}), f"{nothing} (1 x a damaged or unsafe file"),
    ):  # fmt: skip
        path = put(name, content)
        for paths in ([path], [put("good.md", "words"), path]):
            with pytest.raises(FileFormatError) as error:
                add_literature(fresh, paths)
            assert message in str(error.value)
            assert error.value.where == str(path)
        assert not open_documents(fresh).inputs
    folder = put("folder/empty.zip", zipped()).parent
    with pytest.raises(DataError, match=r"no file that can be read \(1 x an archive without"):
        add_literature(fresh, [folder])
    put("folder/note.md", "words")
    result = add_literature(fresh, [folder])
    assert result["documents"] == {"notes": 1}
    assert result["skipped"] == {"an archive without a file that can be read": 1}
    assert add_literature(fresh, [folder])["reused"]


def test_no_batch_without_a_document_or_a_deletion(fresh, put, monkeypatch):
    monkeypatch.setattr(literature, "_GROUP_BYTES", 1)  # a batch per file
    folder = put("1.jsonl", jsonl({"text": "no id"})).parent
    put("2.xml", medline())
    facts = add_literature(fresh, [folder])
    assert (facts["documents"], facts["skipped"]) == ({}, {"no id, pmid, pmcid or doi": 1})
    assert list((fresh / "documents").iterdir()) == []
    put("3.xml", medline(citation(1)))
    gone = "<DeleteCitation><PMID>1</PMID></DeleteCitation>"
    put("4.xml", medline(extra=gone))
    assert add_literature(fresh, [folder])["deleted"] == 1
    assert list(open_documents(fresh).inputs) == ["0001-3", "0002-4"]
    assert open_documents(fresh).counts["documents"] == 0


def test_a_damaged_file_leaves_nothing(fresh, put):
    good = put("a.xml", medline(citation(1)))
    packed = gzip.compress(medline(*(citation(i) for i in range(2, 400))))
    for content, message in (
        (packed[:-300], "damaged or truncated data"),
        (packed + b"garbage!", "damaged or truncated data"),
        (packed[:200] + bytes(20) + packed[220:], "found"),
        (gzip.compress(medline(citation(2))[:-9]), "line"),
    ):
        bad = put("b.xml.gz", content)
        with pytest.raises(FileFormatError) as error:
            add_literature(fresh, [good, bad])
        assert message in str(error.value)
        assert "b.xml.gz" in str(error.value)
        assert open_documents(fresh).counts["documents"] == 0
    put("b.xml.gz", packed)
    assert add_literature(fresh, [good, bad])["documents"] == {"pubmed": 399}


def test_gzip_bombs_are_refused(fresh, put, monkeypatch):
    monkeypatch.setattr(archives, "_RATIO_FROM", 1 << 18)
    bomb = gzip.compress(b"<articles>" + b" " * (8 << 20))
    with pytest.raises(FileFormatError, match="unpacks to at most 250 times its size"):
        add_literature(fresh, [put("bomb.xml.gz", bomb)])


def zipped(**members):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/"), data)
    return content.getvalue()


def tarred(members, mode="w:gz"):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return content.getvalue()


def test_archives_are_read_without_unpacking(fresh, put, tmp_path):
    inner = {
        "PMC1/PMC1.nxml": article(""),
        "PMC2.xml.gz": gzip.compress(article(2)),
        "bad.xml": LAUGHS,
        "cut.xml.gz": gzip.compress(article(4))[:-20],
        "figure.jpg": b"\xff\xd8\xff",
        "inner.zip": zipped(a="b"),
    }
    for name, content in (
        ("a.zip", zipped(**{k.replace("/", "__"): v for k, v in inner.items()})),
        ("a.tar.gz", tarred(inner)),
        ("a.tar", tarred(inner, "w")),
    ):
        store = tmp_path / name
        with writing(store, "store"):
            pass
        result = add_literature(store, [put(name, content)])
        assert result["documents"] == {"pmc": 2}, name
        assert result["skipped"]["a damaged or unsafe file in an archive"] == 2
        assert "entity 'a'" in result["examples"]["a damaged or unsafe file in an archive"]
        assert set(rows(store)) == {"PMC:1", "PMC:2"}


@pytest.mark.parametrize(
    "name", ["../up.xml", "/etc/cron.xml", "a/../../b.xml", "C:\\x.xml", "..\\y.xml"]
)
def test_names_that_point_outside_are_refused(fresh, put, name):
    for path in (
        put("slip.zip", zipped(**{"good.xml": article(1), name: article(2)})),
        put("slip.tar", tarred({"good.xml": article(1), name: article(2)}, "w")),
    ):
        with pytest.raises(FileFormatError, match="points outside the archive"):
            add_literature(fresh, [path])
    assert open_documents(fresh).counts["documents"] == 0


def test_damaged_archives_are_refused(fresh, put):
    members = {
        f"m{i}.xml": medline(*(citation(i * 100 + j) for j in range(1, 90))) for i in range(9)
    }
    for name, content in (
        ("a.tar.gz", tarred(members)[:-500]),
        ("a.zip", zipped(**members)[:-30]),
        (
            "b.tar",
            tarred({"half.xml": medline(citation(1))[:-9]}, "w"),
        ),  # a record was taken already
    ):
        with pytest.raises(FileFormatError):
            add_literature(fresh, [put(name, content)])
    assert open_documents(fresh).counts["documents"] == 0


# --- many batches as one ---------------------------------------------------------------------------


def test_the_newest_revision_wins(fresh, put):
    add_literature(fresh, [put("1.xml", medline(citation(1, title="Old", revised="2020-01-01"),
                                                citation(2, title="New", revised="2021-01-01")))])  # fmt: skip
    update = medline(
        citation(1, title="Newer", revised="2020-06-01"),
        citation(2, title="Stale", revised="2019-01-01"),
        citation(1, title="Newest", revised="2022-01-01"),
        citation(3),
    )
    assert add_literature(fresh, [put("2.xml", update)])["duplicates"] == 1
    found = rows(fresh)
    assert [found[f"PMID:{i}"]["title"] for i in (1, 2, 3)] == ["Newest", "New", "A title."]
    assert open_documents(fresh).counts == {
        "documents": 3, "sources": {"pubmed": 3}, "records": 6, "duplicates": 3, "deleted": 0,
        "retracted": 0, "corrected": 0, "concern": 0,
    }  # fmt: skip


def test_an_edited_note_replaces_the_old_one_and_back(fresh, put):
    for text in ("one", "two", "one"):
        result = add_literature(fresh, [put("n.md", text)])
        assert not result["reused"]
        assert rows(fresh)["NOTE:n"]["text"] == text
    assert add_literature(fresh, [put("copy/n.md", "one")])["reused"]


def test_files_of_one_name_in_two_folders_are_two_files(fresh, put):
    pages = [put(f"query{i}/page-1.xml", medline(citation(i))) for i in (1, 2)]
    assert [add_literature(fresh, [page])["reused"] for page in pages * 2] == [
        False,
        False,
        True,
        True,
    ]
    assert add_literature(fresh, [page.parent for page in pages])["reused"]


def test_xml_beats_json_lines_of_the_same_call(fresh, put):
    put("a.nxml", article(9, "<p>From XML.</p>"))
    folder = put("b.jsonl", jsonl({"pmcid": "PMC9", "text": "From JSON."})).parent
    add_literature(fresh, [folder])
    assert rows(fresh)["PMC:9"]["source"] == "pmc"


def test_deleted_citations_go_and_may_come_back(fresh, put):
    add_literature(fresh, [put("1.xml", medline(citation(1), citation(2)))])
    gone = "<DeleteCitation><PMID>1</PMID><PMID>77</PMID></DeleteCitation>"
    assert add_literature(fresh, [put("2.xml", medline(citation(3), extra=gone))])["deleted"] == 2
    assert set(rows(fresh)) == {"PMID:2", "PMID:3"}
    assert open_documents(fresh).counts["deleted"] == 1
    add_literature(fresh, [put("3.xml", medline(citation(1, revised="1999-01-01")))])
    assert set(rows(fresh)) == {"PMID:1", "PMID:2", "PMID:3"}


def test_notices_reach_works_by_any_id_in_any_batch(fresh, put):
    both = '<article-id pub-id-type="pmid">1</article-id><article-id pub-id-type="doi">10.1001/x</article-id>'
    add_literature(fresh, [put("1.nxml", article(50, meta=both)), put("2.nxml", article(51))])
    add_literature(
        fresh, [put("l.jsonl", jsonl({"id": "extract", "doi": "10.1001/X", "text": "Part."}))]
    )
    notices = medline(
        citation(8, abstract="", rest=links(RetractionOf=1)),
        citation(9, abstract="", rest=links(ErratumFor=2)),
        citation(2),
        citation(3, article='<ELocationID EIdType="doi">10.1001/other</ELocationID>'),
    )
    add_literature(fresh, [put("3.xml", notices)])
    found = rows(fresh)
    assert {name for name, row in found.items() if row["is_retracted"]} == {
        "PMC:50",
        "JSONL:extract",
    }
    assert found["PMID:2"]["flags"] == ["corrected"]
    counts = open_documents(fresh).counts
    assert (counts["retracted"], counts["corrected"], counts["concern"]) == (2, 1, 0)


RECORDS = st.lists(
    st.tuples(
        st.integers(0, 4),  # the id
        st.sampled_from(["", "2020-01-01", "2021-01-01"]),
        st.booleans(),  # retracted
        st.lists(st.integers(0, 6), max_size=2),  # retracts
        st.lists(st.integers(5, 6), max_size=1),  # another id of the work
        st.integers(0, 5),  # 0: a deletion
    ),
    max_size=6,
)


@settings(PROPERTIES, max_examples=60)
@given(st.lists(RECORDS, max_size=3))
def test_merging_agrees_with_a_plain_model(tmp_path_factory, batches):
    store = tmp_path_factory.mktemp("model")
    model: dict[str, Document] = {}
    for number, records in enumerate(batches):
        folder = store / "documents" / f"{number + 1:04d}-x"
        folder.mkdir(parents=True)
        with DocumentWriter(folder / "documents.parquet") as writer:
            for key, revision, out, names, more, alive in records:
                own = f"X:{key}"
                if not alive:
                    writer.add(Document.deletion(own, "s"))
                    model.pop(own, None)
                    continue
                ids, retracts = (own, *(f"X:{i}" for i in more)), tuple(f"X:{i}" for i in names)
                new = Document(
                    own, f"{number}", "t", "s", (), None, "", revision, ids, retracts, out
                )
                writer.add(new)
                if own not in model or revision >= model[own].revision:
                    model[own] = new
        files = {"documents.parquet": writer.total}
        commit(folder, "documents", config={}, inputs={}, files=files)
    out = {i for d in model.values() for i in (*d.retracts, *(d.ids if d.is_retracted else ()))}
    while True:
        wider = out | {i for d in model.values() if out & set(d.ids) for i in d.ids}
        if wider == out:
            break
        out = wider
    found = rows(store)
    assert {k: (r["title"], r["revision"]) for k, r in found.items()} == {
        k: (d.title, d.revision) for k, d in model.items()
    }
    assert {k for k, r in found.items() if r["is_retracted"]} == {
        k for k, d in model.items() if out & set(d.ids)
    }


def test_tables_are_small_and_stable(fresh, put):
    add_literature(fresh, [put("big.xml", medline(*(citation(i) for i in range(1, 4_500))))])
    add_literature(fresh, [put("more.xml", medline(citation(2, revised="2030-01-01")))])
    found = open_documents(fresh)
    sizes = [table.num_rows for table in found.tables()]
    assert sizes == [1999, 2000, 499, 1]
    first, second = ([t["doc_id"].to_pylist() for t in found.tables()] for _ in range(2))
    assert first == second
    assert first[-1] == ["PMID:2"]
    assert list(open_documents(fresh.parent / "nothing").tables()) == []


def test_hidden_text_is_flagged_in_every_format(fresh, put):
    put(
        "a.xml",
        medline(citation(1, abstract="<AbstractText>cell&#x200b;s &#xE0041; x</AbstractText>")),
    )
    put("b.nxml", article(2, "<p>cell&#x202e;s</p>"))
    put("c.jsonl", jsonl({"id": "j", "text": "cell\u2066s"}))
    folder = put("d.md", "cell\u200ds").parent
    add_literature(fresh, [folder])
    found = rows(fresh)
    assert len(found) == 4
    for row in found.values():
        assert row["flags"] == [HIDDEN_TEXT]
        assert "cells" in row["text"]


def test_a_full_disk_is_told_and_leaves_nothing(fresh, put, monkeypatch):
    from pyarrow.parquet import ParquetWriter

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    note = put("n.md", "words")
    with monkeypatch.context() as patch:
        patch.setattr(ParquetWriter, "write_table", full)
        with pytest.raises(StorageError, match="no space left"):
            add_literature(fresh, [note])
    assert open_documents(fresh).counts["documents"] == 0
    assert add_literature(fresh, [note])["documents"] == {"notes": 1}


def test_a_second_writer_is_told(fresh, put, monkeypatch):
    monkeypatch.setattr(literature, "writing", functools.partial(writing, timeout_s=0.1))
    with writing(fresh, "store"), pytest.raises(LockedError):
        add_literature(fresh, [put("n.md", "words")])


def test_a_killed_call_continues_and_ends_with_the_same_bytes(put, tmp_path, monkeypatch):
    monkeypatch.setattr(literature, "_GROUP_BYTES", 1)  # a batch per file
    folder = put("1.xml", medline(*(citation(i) for i in range(1, 40)))).parent
    put("2.xml", medline(citation(50), citation(51)))
    put("3.md", "# Three\n\nWords.")
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "left = int(sys.argv[3])\n"
        "real = os.replace\n"
        "def replace(*args, **kwargs):\n"
        "    global left\n"
        "    left -= 1\n"
        "    if left == 0:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(*args, **kwargs)\n"
        "os.replace = replace\n"
        "from okrcell.artifacts import commit, writing\n"
        "from okrcell.corpus import literature\n"
        "literature._GROUP_BYTES = 1\n"
        "store = Path(sys.argv[1])\n"
        "with writing(store, 'store'):\n"
        "    pass\n"
        "literature.add_literature(store, [Path(sys.argv[2])])\n"
    )

    def killed(store, kill_at):
        words = [sys.executable, "-c", program, store, folder, kill_at]
        return subprocess.run(list(map(str, words)), env=os.environ, check=False).returncode

    def call(store):
        with writing(store, "store"):
            pass
        add_literature(store, [folder])
        return tree(store)

    whole = call(tmp_path / "whole")
    assert len([name for name in whole if name.endswith("manifest.json")]) == 3
    # One rename for the marker, then two for each batch: the table and the manifest.
    for kill_at, kept in ((2, 0), (3, 0), (6, 40)):
        store = tmp_path / f"killed{kill_at}"
        assert killed(store, kill_at) == -signal.SIGKILL
        assert open_documents(store).counts["documents"] == kept
        assert call(store) == whole


def test_batches_are_cut_in_the_same_places(put, monkeypatch):
    entries = [
        literature_inputs.Input(f"{i}", put(f"{i}.txt", "x" * size), False)
        for i, size in enumerate((5, 6, 3, 9, 1))
    ]
    monkeypatch.setattr(literature, "_GROUP_BYTES", 10)
    groups = [[e.name for e in group] for group in literature._groups(entries)]
    assert groups == [["0", "1"], ["2", "3"], ["4"]]
    assert [[e.name for e in g] for g in literature._groups(entries[2:])] == groups[1:]
