"""Ontology files of every kind to terms, what is refused, and the table a store keeps."""

import gzip
import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okrcell.artifacts import read_manifest, writing
from okrcell.corpus import ontology
from okrcell.corpus.ontology_files import is_ontology_file, read_ontology
from okrcell.corpus.ontology_stored import from_terms
from okrcell.corpus.terms import add_ontologies
from okrcell.errors import (
    ConfigError,
    DataError,
    DuplicateNamesError,
    FileFormatError,
    ManifestError,
)
from okrcell.schemas import read_table

OBO = """format-version: 1.2
data-version: cl/releases/2030-01-02/cl.owl
ontology: cl
import: http://127.0.0.1:9/never-fetched.obo

[Term]
id: CL:0000000
name: cell
def: "A \\"thing\\" that lives." [CARO:mah, PMID:15693950, doi:10.1000/XYZ]

[Term]
id: CL:0000001
name: blood cell
synonym: "hemocyte" EXACT []
synonym: "blood thing" BROAD []
is_a: CL:0000000 ! cell
alt_id: CL:0000777

[Term]
id: CL:0000002
name: T cell
synonym: "T-cell" EXACT abbreviation [X:1]
is_a: CL:0000001 {source="x"} ! blood cell
relationship: part_of UBERON:0000178 ! blood
relationship: develops_from CL:0000003

[Term]
id: CL:0000003
name: part of a T cell
relationship: part_of CL:0000002

[Term]
id: CL:0000004
name: through another ontology
is_a: GO:0000001

[Term]
id: CL:0000005
name: left out of the file
is_a: CL:9999999

[Term]
id: CL:0000006

[Term]
id: CL:0000007
name: by its definition
intersection_of: CL:0000001
intersection_of: part_of UBERON:0000178

[Term]
id: CL:0000100
name: obsolete old T cell
is_obsolete: true
replaced_by: CL:0000101

[Term]
id: CL:0000101
name: obsolete newer T cell
is_obsolete: true
replaced_by: CL:0000002

[Term]
id: CL:0000102
name: obsolete suggestion
is_obsolete: true
consider: CL:0000001

[Term]
id: CL:0000103
name: obsolete with two suggestions
is_obsolete: true
consider: CL:0000001
consider: CL:0000002

[Term]
id: CL:0000104
name: obsolete for good
is_obsolete: true

[Term]
id: CL:0000105
name: obsolete, now elsewhere
is_obsolete: true
replaced_by: UBERON:0000178

[Term]
id: CL:0000106
name: obsolete in a circle
is_obsolete: true
replaced_by: CL:0000107

[Term]
id: CL:0000107
name: obsolete in a circle too
is_obsolete: true
replaced_by: CL:0000106

[Term]
id: GO:0000001
name: cell of the other ontology
is_a: CL:0000001

[Term]
id: GO:0000002
name: one more
is_a: GO:0000001

[Typedef]
id: part_of
name: part of
"""


def write(folder, name, text):
    path = folder / name
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def read(folder, text, name="x.obo"):
    return read_ontology(write(folder, name, text))


def by_id(file):
    return {term.term_id: term for term in file.terms}


@pytest.fixture
def store(tmp_path):
    with writing(tmp_path / "store", "store") as folder:
        return folder


# --- formats -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cl.obo", "cl.obo.gz"])
def test_obo(tmp_path, name):
    file = read(tmp_path, OBO, name)
    assert (file.name, file.prefixes, file.release) == ("cl", ("CL",), "2030-01-02")
    terms = by_id(file)
    assert list(terms) == [f"CL:000000{n}" for n in (0, 1, 2, 3, 4, 5, 7)]
    assert terms["CL:0000000"].definition == 'A "thing" that lives.'
    assert terms["CL:0000000"].xrefs == ("CARO:mah", "PMID:15693950", "DOI:10.1000/XYZ")
    assert terms["CL:0000001"].synonyms == ("hemocyte",)  # a broad name is another thing's name
    assert terms["CL:0000002"].parents == ("CL:0000001",)  # neither UBERON nor develops_from
    assert terms["CL:0000003"].parents == ("CL:0000002",)  # part_of counts, as at CELLxGENE
    assert terms["CL:0000004"].parents == ("CL:0000001",)
    assert terms["CL:0000007"].parents == ("CL:0000001",)
    assert terms["CL:0000002"].replaces == ("CL:0000100", "CL:0000101")
    assert terms["CL:0000001"].replaces == ("CL:0000102", "CL:0000777")
    assert file.counts == {
        "terms": 7,
        "obsolete": 8,
        "obsolete_replaced": 3,
        "obsolete_replaced_elsewhere": 1,
        "alternative_ids": 1,
        "without_label": 1,
        "dangling_parents": 1,
        "cycles_broken": 0,
        "other_ontologies": 2,
        "cleaned_texts": 0,
    }
    assert file.details["dangling_parents"] == [["CL:0000005", "CL:9999999"]]
    assert file.details["obsolete"]["CL:0000105"] == "UBERON:0000178"
    assert file.details["obsolete"]["CL:0000106"] == ""


def test_obo_agrees_with_fastobo(tmp_path):
    """Escapes, comments, qualifiers, quotation marks, continued lines, Windows line ends."""
    import fastobo

    frame = (
        "[Term]\nid: X:1 ! the id\n"
        'name: a \\{b\\} \\! c\\, d {x="y", z="w"} ! a comment\n'
        'def: "q \\"r\\" \\{s\\} [t], u\\nv" [PMID:12, X:3 "d, [e]", http://x.y/z_1, Y:a\\,b] {k="v"} ! c\n'
        'synonym: "one [EXACT] two" EXACT abbreviation [X:1 "a"] {k="v"}\n'
        'synonym: "\\" EXACT " BROAD []\n'
        'is_a: X:2 {source="DOID:1"} ! two\n'
        'relationship: part_of X:3 {k="v"} ! three\n'
        "relationship: has_part X:4\n"
        "alt_id: X:5\nis_obsolete: false\n"
    )
    (theirs,) = fastobo.loads(f"format-version: 1.4\n\n{frame}\n")
    found = {}
    for clause in theirs:
        found.setdefault(clause.raw_tag(), []).append(clause)
    file = read(tmp_path, "format-version: 1.4\n\n" + frame + "\n[Term]\nid: X:2\nname: two\n")
    (ours, _) = file.terms
    assert ours.label == found["name"][0].name.strip()
    assert ours.definition == " ".join(str(found["def"][0].definition).split())
    assert [str(x.id).replace("\\", "") for x in found["def"][0].xrefs] == list(ours.xrefs)
    exact = [c.synonym.desc for c in found["synonym"] if c.synonym.scope == "EXACT"]
    assert exact == list(ours.synonyms) == ["one [EXACT] two"]
    assert ours.parents == ("X:2",)
    assert file.details["dangling_parents"] == [["X:1", "X:3"]]
    assert ours.replaces == ("X:5",)

    windows = "\ufeff" + "format-version: 1.2\n\n[Term]\nid: X:1\nname: a \\\nb\n".replace(
        "\n", "\r\n"
    )
    assert read(tmp_path, windows).terms[0].label == "a b"
    # Nothing in a long line takes longer than its length.
    long = "a" * 200_000 + " " * 200_000 + "1_" * 100_000
    text = f'format-version: 1.2\n\n[Term]\nid: X:1\nname: {long}b\ndef: "x" [{long}\nalt_id: http://x/{long}!\n'
    assert len(read(tmp_path, text).terms) == 1
    # A slip where nothing is read refuses nothing.
    slip = "format-version: 1.2\n\n[Term]\nid: X:1\nname: a\nxref: {{{\nnew_tag: x\n! note\n"
    assert read(tmp_path, slip).terms[0].label == "a"


OWL = """<?xml version="1.0"?>
<!DOCTYPE rdf:RDF [ <!ENTITY obo "http://purl.obolibrary.org/obo/" > ]>
<rdf:RDF xmlns="http://purl.obolibrary.org/obo/cl.owl#" xml:base="http://purl.obolibrary.org/obo/cl.owl"
  xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:owl="http://www.w3.org/2002/07/owl#"
  xmlns:rdfs="http://www.w3.org/2000/01/rdf-schema#" xmlns:obo="http://purl.obolibrary.org/obo/"
  xmlns:oio="http://www.geneontology.org/formats/oboInOwl#">
 <owl:Ontology rdf:about="http://purl.obolibrary.org/obo/cl.owl">
  <owl:versionIRI rdf:resource="http://purl.obolibrary.org/obo/cl/releases/2030-01-02/cl.owl"/>
  <owl:imports rdf:resource="http://127.0.0.1:9/never-fetched.owl"/>
 </owl:Ontology>
 <owl:Class rdf:about="&obo;CL_0000000">
  <rdfs:label xml:lang="de">Zelle</rdfs:label><rdfs:label xml:lang="en">cell</rdfs:label>
  <obo:IAO_0000115>A thing that lives.</obo:IAO_0000115>
 </owl:Class>
 <rdf:Description rdf:about="&obo;CL_0000001">
  <rdf:type rdf:resource="http://www.w3.org/2002/07/owl#Class"/>
  <rdfs:label>blood cell</rdfs:label>
  <oio:hasExactSynonym>hemocyte</oio:hasExactSynonym>
  <oio:hasBroadSynonym>blood thing</oio:hasBroadSynonym>
  <oio:hasAlternativeId>CL:0000777</oio:hasAlternativeId>
 </rdf:Description>
 <owl:Class rdf:about="&obo;CL_0000001">
  <rdfs:subClassOf rdf:resource="&obo;CL_0000000"/>
 </owl:Class>
 <owl:Class rdf:about="&obo;CL_0000002" rdfs:label="T cell">
  <rdfs:subClassOf><owl:Class rdf:about="&obo;CL_0000001"/></rdfs:subClassOf>
  <rdfs:subClassOf><owl:Restriction>
   <owl:onProperty rdf:resource="&obo;RO_0002202"/>
   <owl:someValuesFrom rdf:resource="&obo;CL_0000003"/>
  </owl:Restriction></rdfs:subClassOf>
 </owl:Class>
 <owl:Class rdf:about="&obo;CL_0000003">
  <rdfs:label>part of a T cell</rdfs:label>
  <rdfs:subClassOf><owl:Restriction>
   <owl:onProperty rdf:resource="&obo;BFO_0000050"/>
   <owl:someValuesFrom rdf:resource="&obo;CL_0000002"/>
  </owl:Restriction></rdfs:subClassOf>
 </owl:Class>
 <owl:Class rdf:about="&obo;CL_0000007">
  <rdfs:label>by its definition</rdfs:label>
  <owl:equivalentClass><owl:Class><owl:intersectionOf rdf:parseType="Collection">
   <rdf:Description rdf:about="&obo;CL_0000001"/>
   <owl:Restriction><owl:onProperty rdf:resource="&obo;BFO_0000050"/>
   <owl:someValuesFrom rdf:resource="&obo;UBERON_0000178"/></owl:Restriction>
  </owl:intersectionOf></owl:Class></owl:equivalentClass>
 </owl:Class>
 <owl:Class rdf:about="&obo;CL_0000100">
  <rdfs:label>obsolete old T cell</rdfs:label>
  <owl:deprecated rdf:datatype="http://www.w3.org/2001/XMLSchema#boolean">true</owl:deprecated>
  <obo:IAO_0100001 rdf:resource="&obo;CL_0000002"/>
 </owl:Class>
 <owl:Axiom owl:annotatedTarget="A thing that lives.">
  <owl:annotatedSource rdf:resource="&obo;CL_0000000"/>
  <owl:annotatedProperty rdf:resource="&obo;IAO_0000115"/>
  <oio:hasDbXref>PMID:15693950</oio:hasDbXref>
 </owl:Axiom>
 <owl:Axiom>
  <owl:annotatedSource rdf:resource="&obo;CL_0000000"/>
  <owl:annotatedProperty rdf:resource="http://www.geneontology.org/formats/oboInOwl#hasExactSynonym"/>
  <oio:hasDbXref>PMID:1</oio:hasDbXref>
 </owl:Axiom>
</rdf:RDF>
"""


@pytest.mark.parametrize("name", ["cl.owl", "cl.owl.gz"])
def test_owl(tmp_path, name):
    file = read(tmp_path, OWL, name)
    assert (file.name, file.release) == ("cl", "2030-01-02")
    terms = by_id(file)
    assert [t.label for t in file.terms] == [
        "cell",
        "blood cell",
        "T cell",
        "part of a T cell",
        "by its definition",
    ]
    assert terms["CL:0000000"].xrefs == ("PMID:15693950",)
    assert terms["CL:0000001"].synonyms == ("hemocyte",)
    assert terms["CL:0000001"].replaces == ("CL:0000777",)
    assert terms["CL:0000002"].replaces == ("CL:0000100",)
    parents = {t: term.parents for t, term in terms.items()}
    assert parents == {
        "CL:0000000": (),
        "CL:0000001": ("CL:0000000",),
        "CL:0000002": ("CL:0000001",),
        "CL:0000003": ("CL:0000002",),
        "CL:0000007": ("CL:0000001",),
    }


def test_owl_that_pronto_writes_reads_as_its_obo(tmp_path):
    text = OBO.replace(
        "import: http://127.0.0.1:9/never-fetched.obo\n", "default-namespace: cell\n"
    )
    text = text.replace("is_a: CL:9999999\n", "")  # pronto stops at a parent that is not there
    path = write(tmp_path, "cl.obo", text)
    program = (
        "import sys, warnings, pronto\n"
        "warnings.simplefilter('ignore')\n"
        "with open(sys.argv[2], 'wb') as handle:\n"
        "    pronto.Ontology(sys.argv[1], import_depth=0).dump(handle, format='rdf')\n"
    )
    subprocess.run([sys.executable, "-c", program, path, tmp_path / "cl.owl"], check=True)
    from_obo, from_owl = read_ontology(path), read_ontology(tmp_path / "cl.owl")
    for ours, theirs in zip(from_obo.terms, from_owl.terms, strict=True):
        # pronto lists the expansion of a genus and an own part_of among the definition alone.
        for key in ("term_id", "label", "definition", "synonyms", "parents", "replaces", "release"):
            assert getattr(ours, key) == getattr(theirs, key), key
        assert sorted(ours.xrefs) == sorted(theirs.xrefs)


GRAPH = {
    "graphs": [
        {
            "id": "http://purl.obolibrary.org/obo/cl.owl",
            "meta": {"version": "http://purl.obolibrary.org/obo/cl/releases/2030-01-02/cl.owl"},
            "nodes": [
                {
                    "id": "http://purl.obolibrary.org/obo/CL_0000000",
                    "lbl": "cell",
                    "type": "CLASS",
                    "meta": {"definition": {"val": "It lives.", "xrefs": ["PMID:1", "doi:10.1/a"]}},
                },
                {
                    "id": "http://purl.obolibrary.org/obo/CL_0000001",
                    "lbl": "blood cell",
                    "type": "CLASS",
                    "meta": {
                        "synonyms": [
                            {"pred": "hasExactSynonym", "val": "hemocyte"},
                            {"pred": "hasRelatedSynonym", "val": "blood"},
                        ],
                        "basicPropertyValues": [
                            {
                                "pred": "http://www.geneontology.org/formats/oboInOwl#hasAlternativeId",
                                "val": "CL:0000777",
                            }
                        ],
                    },
                },
                {
                    "id": "http://purl.obolibrary.org/obo/CL_0000002",
                    "lbl": "T cell",
                    "type": "CLASS",
                },
                {
                    "id": "http://purl.obolibrary.org/obo/CL_0000100",
                    "lbl": "obsolete T cell",
                    "type": "CLASS",
                    "meta": {
                        "deprecated": True,
                        "basicPropertyValues": [
                            {
                                "pred": "http://purl.obolibrary.org/obo/IAO_0100001",
                                "val": "http://purl.obolibrary.org/obo/CL_0000002",
                            }
                        ],
                    },
                },
                {
                    "id": "http://purl.obolibrary.org/obo/BFO_0000050",
                    "lbl": "part of",
                    "type": "PROPERTY",
                },
            ],
            "edges": [
                {
                    "sub": "http://purl.obolibrary.org/obo/CL_0000001",
                    "pred": "is_a",
                    "obj": "http://purl.obolibrary.org/obo/CL_0000000",
                },
                {
                    "sub": "http://purl.obolibrary.org/obo/CL_0000000",
                    "pred": "http://purl.obolibrary.org/obo/RO_0002202",
                    "obj": "http://purl.obolibrary.org/obo/CL_0000001",
                },
            ],
            "logicalDefinitionAxioms": [
                {
                    "definedClassId": "http://purl.obolibrary.org/obo/CL_0000002",
                    "genusIds": ["http://purl.obolibrary.org/obo/CL_0000001"],
                }
            ],
        }
    ]
}


def test_obo_graph(tmp_path):
    file = read(tmp_path, json.dumps(GRAPH), "cl.json.gz")
    assert (file.name, file.release) == ("cl", "2030-01-02")
    cell, blood, t_cell = file.terms
    assert cell.xrefs == ("PMID:1", "DOI:10.1/a")
    assert (blood.synonyms, blood.parents) == (("hemocyte",), ("CL:0000000",))
    assert blood.replaces == ("CL:0000777",)
    assert (t_cell.parents, t_cell.replaces) == (("CL:0000001",), ("CL:0000100",))


def test_guide_json_agrees_with_the_bundled_ontology(tmp_path):
    """Also where a path to an ancestor runs through another ontology's terms (EFO)."""
    raw = ontology._raw("hancestro") | {}
    file = read(tmp_path, json.dumps(raw), "HANCESTRO-ontology-v2025-10-14.json")
    assert (file.name, file.prefixes) == ("hancestro", ("HANCESTRO", "AfPO"))
    assert file.release == "v2025-10-14"
    bundled = ontology.bundled("hancestro")
    ours = from_terms("hancestro", file.release, file.prefixes, "x", file.terms)
    assert [t.term_id for t in ours.terms()] == [t.term_id for t in bundled.terms()]
    for term in bundled.terms():
        assert ours.ancestors(term.term_id) == bundled.ancestors(term.term_id)
        assert ours.get(term.term_id).replaces == term.replaces

    gap = {
        "EFO:1": {"label": "root", "ancestors": {}},
        "EFO:2": {"label": "middle", "ancestors": {"EFO:1": 2}},
        "EFO:3": {"label": "leaf", "ancestors": {"EFO:2": 2, "EFO:1": 4}},
    }
    file = read(tmp_path, json.dumps(gap), "efo.json")
    assert {t.term_id: t.parents for t in file.terms}["EFO:3"] == ("EFO:2",)
    climbed = from_terms("efo", "", ("EFO",), "x", file.terms).ancestors("EFO:3")
    assert set(climbed) == {"EFO:1", "EFO:2"}


def test_the_ontology_of_a_file_is_its_own_name_then_the_majority(tmp_path):
    entries = "".join(f"\n[Term]\nid: GO:000000{n}\nname: g{n}\n" for n in range(5))
    entries += "\n[Term]\nid: CL:0000001\nname: c\n"
    assert read(tmp_path, f"format-version: 1.2\nontology: cl\n{entries}").name == "cl"
    file = read(tmp_path, f"format-version: 1.2\n{entries}")
    assert (file.name, len(file.terms), file.counts["other_ontologies"]) == ("go", 5, 1)
    assert file.release.startswith("sha256:")


def test_long_and_forked_chains_of_replacements_are_followed_at_once(tmp_path):
    def file_of(n, clauses):
        text = "format-version: 1.2\nontology: x\n\n[Term]\nid: X:0\nname: root\n"
        for i in range(1, n):
            text += f"\n[Term]\nid: X:{i}\nname: n{i}\nis_obsolete: true\n{clauses(i)}"
        return read(tmp_path, text)

    def two_ways(i):
        return f"consider: X:{i - 1}\nconsider: X:{max(i - 2, 0)}\n"

    chain = file_of(5_000, lambda i: f"replaced_by: X:{i - 1}\n")
    assert chain.counts["obsolete_replaced"] == 4_999
    forked = file_of(200, two_ways)
    assert forked.counts["obsolete_replaced"] == 199
    circle = file_of(3, lambda i: f"replaced_by: X:{3 - i}\n")
    assert circle.counts["obsolete_replaced"] == 0


def test_a_number_without_end_in_json_is_refused(tmp_path):
    with pytest.raises(FileFormatError, match="unreadable JSON"):
        read(tmp_path, '{"CL:1": ' + "9" * 5_000 + "}", "cl.json")


def test_cycles_are_broken_and_listed(tmp_path):
    text = "format-version: 1.2\nontology: x\n"
    for child, parent in ((1, 2), (2, 3), (3, 1), (4, 4), (5, 3)):
        text += f"\n[Term]\nid: X:{child}\nname: n{child}\nis_a: X:{parent}\n"
    file = read(tmp_path, text)
    assert file.details["cycles_broken"] == [["X:3", "X:1"], ["X:4", "X:4"]]
    assert {t.term_id: t.parents for t in file.terms}["X:3"] == ()
    content = from_terms("x", "", ("X",), "", file.terms)
    assert content.ancestors("X:5") == {"X:3": 1}


def test_text_that_a_person_does_not_see_is_removed_and_counted(tmp_path):
    text = 'format-version: 1.2\n\n[Term]\nid: X:1\nname: T\u200b cell\u202e\ndef: "a  b" []\n'
    file = read(tmp_path, text)
    assert (file.terms[0].label, file.terms[0].definition) == ("T cell", "a b")
    assert file.counts["cleaned_texts"] == 1


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("format-version: 1.2\n\n[Term]\nid: X:1\nname a\n", "line 5"),
        (
            "format-version: 1.2\n\n[Term]\nid: X:1\nname: a\nname: b\n",
            "line 6.*second 'name'.*X:1",
        ),
        ("format-version: 1.2\n\n[Term]\nname: a\n\n[Term]\nid: X:1\n", "line 6.*without an 'id'"),
        ("format-version: 1.2\n\n[Term]\nid: X:1\ndef: a\n", "line 5.*quotation marks"),
        (b"format-version: 1.2\n\n[Term]\nid: X:1\nname: caf\xe9\n", "line 5: .*UTF-8"),
        ("", "0 entries"),
        ("format-version: 1.2\n\n[Term]\nid: X:1\n", "1 entries, none of them"),
    ],
)
def test_bad_obo(tmp_path, text, words):
    with pytest.raises(DataError, match=words):
        read(tmp_path, text)


def test_duplicate_ids_are_named(tmp_path):
    twice = "\n[Term]\nid: X:1\nname: a\n" * 2
    with pytest.raises(DuplicateNamesError, match="the id X:1 twice"):
        read(tmp_path, f"format-version: 1.2\n{twice}")
    with pytest.raises(DuplicateNamesError, match="the id X:1 twice"):
        read(tmp_path, '{"X:1": {"label": "a"}, "X:1": {"label": "b"}}', "x.json")
    second = OWL.replace("</rdf:RDF>", "") + (
        '<owl:Class rdf:about="&obo;CL_0000000"><rdfs:label>cell, again</rdfs:label></owl:Class></rdf:RDF>'
    )
    with pytest.raises(DuplicateNamesError, match="the id CL:0000000 twice"):
        read(tmp_path, second, "x.owl")


HEAD = '<?xml version="1.0"?>\n<!DOCTYPE rdf:RDF {}>\n<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD.format('[<!ENTITY x SYSTEM "file:///etc/passwd">]'), "external or parameter entity"),
        (HEAD.format('[<!ENTITY % x "y">]'), "external or parameter entity"),
        (HEAD.format('SYSTEM "http://127.0.0.1:9/x.dtd"'), "refers to http://127.0.0.1:9/x.dtd"),
        (HEAD.format('[<!ENTITY a "aa"><!ENTITY b "&a;&a;">]'), "entity 'b', which is nested"),
        (HEAD.format(f'[<!ENTITY a "{"a" * 2000}">]'), "entity 'a', which is nested, too long"),
        (HEAD.format("") + "&nothing;</rdf:RDF>", "unreadable XML.*line 3"),
        (OWL[:900], "unreadable XML"),
        ("<html/>", "root 'html'"),
        (HEAD.format("") + "<a>" * 100_000, "unreadable XML"),
        (HEAD.format("") + "<a>" * 100_000 + "</a>" * 100_000 + "</rdf:RDF>", "0 entries"),
        ("Ontology(<http://x>)", "unreadable XML"),
    ],
)
def test_bad_owl(tmp_path, text, words):
    with pytest.raises(DataError, match=words):
        read(tmp_path, text, "x.owl")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "unreadable JSON"),
        (b'{"X:1": "\xff"}', "unreadable JSON"),
        ("[]", "a JSON list without terms"),
        ('{"a": 1}', "keys a"),
        ('{"X:1": {"label": 3}}', "keys X:1"),
        ('{"X:1": {"label": "a", "ancestors": 3}}', "breaks off its form"),
        ('{"graphs": [{"nodes": [{"lbl": "a"}]}]}', "breaks off its form"),
        ("[" * 100_000, "unreadable JSON"),
    ],
)
def test_bad_json(tmp_path, text, words):
    with pytest.raises(FileFormatError, match=words):
        read(tmp_path, text, "x.json")


@pytest.mark.parametrize("name", ["x.obo.gz", "x.owl.gz", "x.json.gz"])
def test_damaged_and_swelling_gzip(tmp_path, name, monkeypatch):
    content = {"x.obo.gz": OBO, "x.owl.gz": OWL, "x.json.gz": json.dumps(GRAPH)}[name]
    whole = gzip.compress(content.encode() + b"\n" * 100_000)
    path = tmp_path / name
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileFormatError, match="damaged gzip"):
        read_ontology(path)
    path.write_bytes(whole[:100] + b"\0\0\0\0" + whole[104:])
    with pytest.raises(FileFormatError):
        read_ontology(path)
    monkeypatch.setattr("okrcell.corpus.ontology_files._ALWAYS_ALLOWED", 1000)
    monkeypatch.setattr("okrcell.corpus.ontology_files._MOST_TIMES", 2)
    path.write_bytes(whole)
    with pytest.raises(FileFormatError, match="unpacks to over"):
        read_ontology(path)


def test_other_files(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_ontology(tmp_path / "none.obo")
    with pytest.raises(FileFormatError, match="suffix '.txt'"):
        read(tmp_path, "x", "x.txt")
    assert is_ontology_file("some/where/x.OWL.gz")
    assert not is_ontology_file("cl")


NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=30
)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    labels=st.lists(NAMES, min_size=1, max_size=6),
    edges=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=15),
    retired=st.sets(st.integers(0, 5)),
    moved=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), max_size=6),
)
def test_any_graph_becomes_an_ontology_without_cycles(
    tmp_path_factory, labels, edges, retired, moved
):
    folder = tmp_path_factory.mktemp("any")
    entries = {
        f"X:{n}": {
            "label": label,
            "deprecated": n in retired,
            "ancestors": {f"X:{b}": 1 for a, b in edges if a == n},
            "replaced_by": [f"X:{b}" for a, b in moved if a == n],
        }
        for n, label in enumerate(labels)
    }
    live = [t for t, e in entries.items() if e["label"] and not e["deprecated"]]
    path = write(folder, "x.json", json.dumps(entries))
    if not live:
        with pytest.raises(DataError):
            read_ontology(path)
        return
    file = read_ontology(path)
    assert [t.term_id for t in file.terms] == sorted(live)
    built = from_terms("x", "", ("X",), "", file.terms)
    for term in file.terms:
        assert term.term_id not in built.ancestors(term.term_id)
        for old in term.replaces:
            assert old not in live
            assert built.get(old) == term


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.binary(max_size=200), st.sampled_from(["x.obo", "x.owl", "x.json", "x.obo.gz"]))
def test_any_bytes_are_read_or_refused(tmp_path_factory, data, name):
    path = tmp_path_factory.mktemp("bytes") / name
    path.write_bytes(data)
    with pytest.raises(DataError):
        read_ontology(path)


# --- the bundled ones --------------------------------------------------------------------------


def test_bundled_resolves_obsolete_ids_and_module_functions_keep_them():
    cl = ontology.bundled("cl")
    assert cl is ontology.bundled("cl")
    assert cl.get("CL:0000003").term_id == "CL:0000000"  # native cell, replaced by cell
    assert cl.get("CL:0000084").label == "T cell"
    assert cl.get("CL:0000002") is None  # moved to another ontology
    assert cl.get("CL:9999999") is None
    assert cl.ancestors("CL:0000084") == ontology.ancestors("CL:0000084")
    assert cl.ancestors("CL:9999999") == {}
    assert ontology.get_term("CL:0000003").label.startswith("obsolete")
    assert "CL:0000003" in ontology.get_term("CL:0000000").replaces
    assert [t.term_id for t in cl.terms()] == [t.term_id for t in ontology.terms("cl")]
    assert len(cl.fingerprint) == 64
    # A single suggestion counts where no replacement is named; several do not.
    assert cl.get("CL:0000055").term_id == "CL:0011026"
    assert cl.get("CL:0000004") is None


def test_afpo_belongs_to_hancestro():
    assert ontology.get_term("AfPO:0000422").ontology == "hancestro"
    assert ontology.bundled("hancestro").get("AfPO:0000422").label == "Fon"


def test_unknown_name_is_refused():
    with pytest.raises(ConfigError, match="unknown name"):
        ontology.bundled("xx")


def test_importing_is_light():
    code = (
        "import sys, okrcell.corpus.ontology\n"
        "print(sorted({'cellxgene_ontology_guide', 'pyarrow', 'fastobo', 'pronto'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- a store -----------------------------------------------------------------------------------


def test_a_file_takes_the_place_of_the_bundled_ontology(store, tmp_path, capsys, monkeypatch):
    path = write(tmp_path, "my.obo.gz", OBO)
    first = add_ontologies(store, ["cl", "hsapdv"])
    assert first["ontologies"]["cl"]["origin"] == "bundled"
    assert (
        first["ontologies"]["cl"]["obsolete"] > first["ontologies"]["cl"]["obsolete_replaced"] > 0
    )
    assert ontology.of_store(store, "cl") is ontology.bundled("cl")

    done = add_ontologies(store, [str(path)])
    assert not done["reused"]
    facts = done["ontologies"]["cl"]
    assert (facts["origin"], facts["file"], facts["terms"]) == ("file", "my.obo.gz", 7)
    assert "replaces the bundled copy" in capsys.readouterr().err
    assert add_ontologies(store, [str(path)]) == {"reused": True, "ontologies": {"cl": facts}}

    path.unlink()  # what was read is in the store
    cl = ontology.of_store(store, "cl")
    assert (cl.release, len(cl), cl.prefixes) == ("2030-01-02", 7, ("CL",))
    assert cl.get("CL:0000100").term_id == "CL:0000002"
    assert cl.get("CL:0000777").term_id == "CL:0000001"
    assert cl.ancestors("CL:0000003") == {"CL:0000002": 1, "CL:0000001": 2, "CL:0000000": 3}
    report = json.loads((store / "terms" / "cl" / "report.json").read_text())
    assert report["obsolete"]["CL:0000104"] == ""

    few = {name: ontology.ONTOLOGIES[name] for name in ("cl", "hsapdv", "hancestro")}
    monkeypatch.setattr("okrcell.corpus.terms.ONTOLOGIES", few)
    assert set(add_ontologies(store, [])["ontologies"]) == {"hsapdv", "hancestro"}
    back = add_ontologies(store, ["cl"])
    assert back["ontologies"]["cl"]["origin"] == "bundled"
    assert ontology.of_store(store, "cl") is ontology.bundled("cl")
    assert not (store / "terms" / "cl" / "report.json").exists()


def test_other_ontologies_are_knowledge_too(store, tmp_path):
    path = write(tmp_path, "go.obo", "format-version: 1.2\n\n[Term]\nid: GO:1\nname: a\n")
    assert "go" in add_ontologies(store, [str(path)])["ontologies"]
    assert ontology.of_store(store, "go").get("GO:1").ontology == "go"
    with pytest.raises(ConfigError, match="unknown name"):
        ontology.of_store(store, "so")


def test_refused_arguments_leave_the_store_alone(store, tmp_path):
    path = write(tmp_path, "my.obo", OBO)
    bad = write(tmp_path, "bad.obo", "nothing")
    for words, error in (
        (["cll"], ConfigError),
        (["cl", str(path)], ConfigError),
        (["hsapdv", str(tmp_path / "none.owl")], DataError),
        (["hsapdv", str(bad)], DataError),
    ):
        with pytest.raises(error):
            add_ontologies(store, words)
        assert not (store / "terms").exists()


def test_profiles_scope_keeps_the_whole_file_for_labels(store, tmp_path, monkeypatch):
    import pyarrow as pa

    from okrcell.schemas import METADATA_FIELDS

    row = {f"{name}_ontology_term_id": "" for name in METADATA_FIELDS}
    row["cell_type_ontology_term_id"] = "CL:0000100"  # obsolete: T cell
    table = pa.Table.from_pylist([row])
    monkeypatch.setattr("okrcell.corpus.cells.load_profiles", lambda _: table)
    path = write(tmp_path, "my.obo", OBO)
    facts = add_ontologies(store, [str(path)], "profiles")["ontologies"]["cl"]
    searched = read_table(store / "terms" / "cl" / "terms.parquet", "terms")["term_id"].to_pylist()
    assert searched == ["CL:0000000", "CL:0000001", "CL:0000002"]
    assert facts["terms"] == 3
    assert len(ontology.of_store(store, "cl")) == 7
    assert add_ontologies(store, [str(path)], "profiles")["reused"]
    assert not add_ontologies(store, [str(path)], "all")["reused"]


def test_a_killed_add_is_made_good_and_ends_the_same(okrcell, store, tmp_path):
    path = write(tmp_path, "my.obo", OBO)
    add_ontologies(store, [str(path)])
    whole = {p.name: p.read_bytes() for p in (store / "terms" / "cl").iterdir() if p.is_file()}
    other = tmp_path / "other"
    assert okrcell("corpus", "init", other).returncode == 0
    for rename in (2, 3):  # before the first, nothing of the file is there
        killed = okrcell("corpus", "add-ontology", other, path, kill_at=rename)
        assert killed.returncode == -9
        with pytest.raises(ManifestError):
            read_manifest(other / "terms" / "cl", "terms")
        with pytest.raises(ManifestError, match="add-ontology"):
            ontology.of_store(other, "cl")
    assert okrcell("corpus", "add-ontology", other, path).returncode == 0
    again = {p.name: p.read_bytes() for p in (other / "terms" / "cl").iterdir() if p.is_file()}
    assert again == whole
