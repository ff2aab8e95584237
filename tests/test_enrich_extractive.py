"""The offline writer: what its texts say, what they are carried by, and how they read."""

from __future__ import annotations

import random
import re

import pytest

from okrcell.corpus import ontology
from okrcell.enrich.definitions import appositive, tell
from okrcell.enrich.evidence import EXPRESSION, Evidence, Request
from okrcell.enrich.extractive import write_extractive
from okrcell.enrich.masking import given_away, mask_evidence
from okrcell.enrich.names import tokenise
from okrcell.enrich.passages import is_plain, leans
from okrcell.enrich.profile_text import Subject
from okrcell.enrich.sentences import split_sentences
from okrcell.enrich.wording import lowered, plural, tidy, with_article
from okrcell.errors import ProviderError

NK, CD4, CD8, DENDRITIC = "CL:0000623", "CL:0000624", "CL:0000625", "CL:0000451"
BLOOD, LUNG, BRAIN, PANCREAS = (
    "UBERON:0000178",
    "UBERON:0002048",
    "UBERON:0000955",
    "UBERON:0001264",
)
NORMAL, LUPUS = "PATO:0000461", "MONDO:0007915"
ADULT, AGED_26, CARNEGIE = "HsapDv:0000258", "HsapDv:0000120", "HsapDv:0000022"
FEMALE, MALE = "PATO:0000383", "PATO:0000384"
FIELDS = ("cell_type", "tissue", "disease", "development_stage", "sex")
NOTES = (
    "Natural killer cells share NKG7 with cytotoxic T cells but lack CD3D.\n"
    "Natural killer cells strongly express NKG7, GNLY and KLRD1.\n"
    "They also carry CD16.\n"
    "Moreover, NK cells release perforin from cytotoxic granules (Smith et al., 2019).\n"
    "We found that natural killer cells express KLRF1.\n"
    "Natural killer cells (see Fig. 1 are many.\n"
    "Do natural killer cells rest?\n"
    "B cells carry CD19."
)
MEASURED = (
    "In the training cells of this profile, the genes most specific against 5 other cell types of blood "
    "are GNLY (detected in 95 % of cells against 12 % of the others), HLA-A (90 % against 20 %), "
    "NKG7 (97 % against 20 %), PRF1 (80 % against 9 %), GZMB (70 % against 5 %) and "
    "KLRD1 (60 % against 4 %). This compares 31 cells."
)


def document(term_id):
    """Return an ontology term as the store offers it."""
    term = ontology.get_term(term_id)
    text = f"{term.label}: {term.definition}" if term.definition else term.label
    if term.synonyms:
        text = f"{text.rstrip('. ')}. Synonyms: {', '.join(term.synonyms)}."
    return Evidence(f"s-{term_id}", term_id, term.ontology, "", text)


def request_of(*ids, notes="", measured="", mask=False, near=2):
    """Return a request on a profile: ids of cell type, tissue, disease, stage and sex, "" if unknown."""
    known = [(field, i) for field, i in zip(FIELDS, ids, strict=False) if i]
    subject = Subject(tuple((field, ontology.get_term(i).label, i) for field, i in known))
    parents = sorted(
        (steps, i)
        for i, steps in ontology.ancestors(ids[0]).items()
        if i.startswith("CL:") and ontology.get_term(i).definition
    )[:near]
    groups = {"identity": [document(i) for i in (ids[0], *(i for _, i in parents))]}
    passages = [Evidence("n", "NOTE:n", "notes", "Markers", notes)] if notes else []
    if measured:
        passages.append(Evidence("x", "EXPR:d", EXPRESSION, "specific genes", measured))
    if passages:
        groups["markers_function"] = passages
    groups |= {field: [document(i)] for field, i in known[1:]}
    offered = tuple(
        (group, tuple(mask_evidence(item, subject) if mask else item for item in items))
        for group, items in groups.items()
    )
    return Request("key", subject, offered, (), mask)


def told(request, words=150):
    return [sentence.text for sentence in write_extractive(request, words).sentences]


# --- what a text says --------------------------------------------------------------------------


def test_a_text_reads_as_an_entry():
    request = request_of(NK, BLOOD, NORMAL, ADULT, FEMALE, notes=NOTES)
    assert told(request) == [
        "A natural killer cell is a lymphocyte that can spontaneously kill a variety of target cells "
        "without prior antigenic activation via germline encoded activation receptors and also "
        "regulate immune responses via cytokine release and direct contact with other cells.",
        "The natural killer cell is a kind of group 1 innate lymphoid cell, an innate lymphoid cell that "
        "is capable of producing the type 1 cytokine IFN-gamma, but not Th2 or Th17 cell-associated "
        "cytokines.",
        "The natural killer cell is also called NK cell.",
        "Natural killer cells strongly express NKG7, GNLY and KLRD1.",
        "NK cells release perforin from cytotoxic granules.",
        "Natural killer cells share NKG7 with cytotoxic T cells but lack CD3D.",
        "The cells come from the blood, a fluid that is composed of blood plasma and erythrocytes.",
        "The donors are female adults in normal condition.",
    ]


def test_a_joined_sentence_cites_each_of_its_terms():
    request = request_of(NK, BLOOD, LUPUS, AGED_26, MALE)
    donors = write_extractive(request, 150).sentences[-1]
    assert donors.text.startswith(
        "The donors, male and 26 years old, have systemic lupus erythematosus, an autoimmune"
    )
    assert donors.snippet_ids == (f"s-{LUPUS}", f"s-{AGED_26}", f"s-{MALE}")
    assert donors.quotes[1:] == ("26-year-old stage", "male")


@pytest.mark.parametrize(
    ("disease", "stage", "sex", "expected"),
    [
        (NORMAL, "", "", "The donors are in normal condition."),
        (NORMAL, AGED_26, "", "The donors are 26 years old and in normal condition."),
        (NORMAL, CARNEGIE, MALE, "The donors, male and at Carnegie stage 15, are in normal condition."),
        ("", ADULT, FEMALE, "The donors are female adults."),
        ("", "HsapDv:0000240", "", "The donors are in the sixth decade of life."),
        ("", "HsapDv:0000095", MALE, "The donors are male and aged 80 years and over."),
        ("MONDO:0005812", "", "", "The donors have influenza."),
        ("MONDO:0005812", ADULT, "", "The donors are adults with influenza."),
        ("MONDO:0005812", "", FEMALE, "The donors are female and have influenza."),
    ],
)  # fmt: skip
def test_donors_are_told_in_one_sentence(disease, stage, sex, expected):
    assert told(request_of(NK, "", disease, stage, sex))[-1] == expected


def test_expression_is_shortened_to_genes_and_whole_where_there_is_room():
    short = write_extractive(request_of(DENDRITIC, BLOOD, measured=MEASURED), 90)
    [sentence] = [s for s in short.sentences if s.facet == "markers_function"]
    assert sentence.text.endswith("of blood are GNLY, HLA-A, NKG7, PRF1 and GZMB.")
    assert sentence.quotes[0].endswith("GZMB (70 % against 5 %)")
    whole = write_extractive(request_of(NK, BLOOD, measured=MEASURED), 300)
    [sentence] = [s for s in whole.sentences if s.facet == "markers_function"]
    assert sentence.text == split_sentences(MEASURED)[0]


def test_profiles_that_differ_have_texts_that_differ():
    cells, tissues, diseases = (NK, CD4, CD8), (BLOOD, LUNG), (NORMAL, LUPUS)
    for words in (40, 60, 150):
        texts = {
            " ".join(told(request_of(cell, tissue, disease, stage), words))
            for cell in cells
            for tissue in tissues
            for disease in diseases
            for stage in (ADULT, AGED_26)
        }
        assert len(texts) == 24


def test_reference_marks_leave_the_text_and_stay_in_the_quote():
    draft = write_extractive(request_of(NK, PANCREAS), 200)
    [sentence] = [s for s in draft.sentences if s.facet == "tissue"]
    assert sentence.text.endswith("regulating hormones.")
    assert sentence.quotes[0].endswith("regulating hormones[GO].")


def test_a_passage_says_what_a_type_is_that_no_ontology_defines():
    subject = Subject((("cell_type", "odd cell", ""),))
    item = Evidence("n", "NOTE:n", "notes", "", "The odd cell is a cell that glows at night.")
    request = Request("key", subject, (("passages", (item,)),))
    assert told(request) == ["The odd cell is a cell that glows at night."]


def test_passages_of_the_single_query_serve_every_facet():
    subject = Subject((("cell_type", "natural killer cell", NK), ("tissue", "blood", BLOOD)))
    offered = (document(NK), document(BLOOD), Evidence("n", "NOTE:n", "notes", "", NOTES))
    texts = told(Request("key", subject, (("passages", offered),)))
    assert "Natural killer cells strongly express NKG7, GNLY and KLRD1." in texts
    assert len(set(texts)) == len(texts)
    assert any("come from the blood" in text for text in texts)


def test_without_anything_to_tell_the_fault_is_named():
    subject = Subject((("cell_type", "odd cell", ""),))
    item = Evidence("n", "NOTE:n", "notes", "", "B cells carry CD19.")
    with pytest.raises(ProviderError, match="odd cell"):
        write_extractive(Request("key", subject, (("identity", (item,)),)), 150)


# --- definitions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "definition", "expected"),
    [
        ("B cell", "A lymphocyte of B lineage.", "A B cell is a lymphocyte of B lineage."),
        ("ILC1, human", "An ILC1 cell in the human.", "A human ILC1 is an ILC1 cell in the human."),
        ("salivary gland cell", "Any cell in a salivary gland.", "A salivary gland cell is a cell in a salivary gland."),
        ("unipolar neuron", "Neuron with one neurite.", "A unipolar neuron is a neuron with one neurite."),
        ("amacrine cell", "Interneuron of the vertebrate retina. [PMID:1]", "An amacrine cell is an interneuron of the vertebrate retina."),
        ("basket cell", "Basket cells are interneurons of the brain.", "Basket cells are interneurons of the brain."),
        ("Langerhans cell", "Langerhans cell is a dendritic cell.", "A Langerhans cell is a dendritic cell."),
        ("sensory hair cell", "Hair cell is a mechanoreceptor cell.", "A sensory hair cell is a mechanoreceptor cell."),
        ("pinealocyte", "This cell type secretes melatonin.", "A pinealocyte secretes melatonin."),
        ("pore cell", "Forms the end of the duct.", "A pore cell forms the end of the duct."),
        ("glycinergic neuron", "The neurons that utilize glycine.", "Glycinergic neurons are the neurons that utilize glycine."),
        ("brush cell", "A(n) cell that is part of a(n) epithelium.", "A brush cell is a cell that is part of an epithelium."),
        ("immature microglial cell", "An immature microglial cell with a ramified morphology.", "An immature microglial cell has a ramified morphology."),
        ("Purkinje cell", "A neuron of the cortex, the Purkinje cell's soma is small.", "A Purkinje cell is a neuron of the cortex."),
        ("Purkinje cell (Mmus)", "A Purkinje cell of the Mus musculus brain.", "A Purkinje cell (Mmus) is a Purkinje cell of the Mus musculus brain."),
        ("zygote", "A zygote in a plant or an animal.", ""),
        ("vestibular cell", "Bottle-shaped with narrow neck; broad.", ""),
        ("type S cell", "Scattered in mucosa, this cell secretes secretin.", ""),
    ],
)  # fmt: skip
def test_a_definition_becomes_a_sentence(name, definition, expected):
    assert tell(name, definition) == expected


@pytest.mark.parametrize(
    ("name", "definition", "expected"),
    [
        ("lung", "Respiration organ that develops as an outpocketing.", "a respiration organ that develops as an outpocketing"),
        ("spleen", "The organ that functions to filter blood.", "the organ that functions to filter blood"),
        ("brain", "The brain is the center of the nervous system.", ""),
        ("gland", "Releases its product; no part is lost.", ""),
    ],
)  # fmt: skip
def test_a_definition_follows_a_name_where_it_can(name, definition, expected):
    assert appositive(name, definition) == expected


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("natural killer cell", "a"), ("epithelial cell", "an"), ("NK cell", "an"), ("B cell", "a"),
        ("MHC-II-low monocyte", "an"), ("CD4-positive cell", "a"), ("ILC2", "an"), ("LAMP5 neuron", "a"),
        ("unipolar neuron", "a"), ("unmyelinated axon", "an"), ("uterine cell", "a"), ("hour", "an"),
        ("Fc-high cell", "an"), ("510 nm-cone", "a"), ("8-cell embryo", "an"), ("cDC1", "a"), ("M cell", "an"),
    ],
)  # fmt: skip
def test_articles_follow_the_sound(phrase, expected):
    assert with_article(phrase) == f"{expected} {phrase}"


def test_words_keep_their_case_where_they_are_names():
    assert lowered("Purkinje cell") == "Purkinje cell"
    assert lowered("T cell") == "T cell"
    assert lowered("A lymphocyte") == "a lymphocyte"
    assert lowered("GABAergic interneuron") == "GABAergic interneuron"
    assert plural("epithelial cell of appendix") == "epithelial cells of appendix"
    assert plural("cell body") == "cell bodies"


def test_marks_and_slips_are_tidied():
    assert tidy("A cell (Ji et al., 2018; Raut et al.,2025) of  a upper organ [PMID:1] .") == (
        "A cell of an upper organ."
    )
    assert tidy("Vitamin A and hepatitis A in layer 4a of [Ca2+] cells.") == (
        "Vitamin A and hepatitis A in layer 4a of [Ca2+] cells."
    )


@pytest.mark.parametrize(
    "sentence",
    [
        "Note that this class is old.",
        "See also the entry on T cells.",
        "Reference transcriptomic data can be found in the dataset.",
        "Kimmel et al, 1995.",
        "In this study we describe mast cells.",
        "Mast cells (see below are many.",
        "mast cells are many and large.",
        "Mast cells.",
        "Mast cells are found at https://a.b here.",
    ],
)
def test_remarks_and_fragments_are_not_plain(sentence):
    assert not is_plain(sentence)


def test_sentences_that_lean_on_another_are_known():
    assert leans("It expresses KIT.")
    assert leans("These cells are large.")
    assert leans("In the gut they are many.")
    assert not leans("Mast cells are large.")
    assert not leans("Cells of this type express KIT.")


# --- every kind of cell type -------------------------------------------------------------------


TISSUES = (BLOOD, LUNG, BRAIN, PANCREAS, "UBERON:0002107", "UBERON:0000945", "UBERON:0002097")
DISEASES = (NORMAL, LUPUS, "MONDO:0100096", "MONDO:0018177", "MONDO:0004975", "")
STAGES = (ADULT, AGED_26, CARNEGIE, "HsapDv:0000053", "HsapDv:0000271", "")
SLIPS = {
    "two spaces": r"  ",
    "article": r"\ba an?\b|\ban a\b|\b[Aa]n? [Tt]he\b|\ba [aeio]\w+ing\b|\ba [AaEe]\b(?!-)|\ba\(n\)",
    "stops": r"\.\.|,\.|;\.|,,|;;",
    "space before a stop": r" [,.;:)]|\( ",
    "reference": r"\[|\]|PMID|https?:|\bet al\b",
    "remark": r"\b(?:Note that|See also|Editor|Reference transcriptomic)\b",
    "line": r"\n|\t",
}


FRAME = set(
    "a an the is are be has have kind of in and or with at also called cell come from donor adult normal "
    "condition year month old aged over life".split()
)


def unsaid(sentence):
    """Return words of a sentence that neither its quotes nor the frame around them have."""
    quoted = {word for quote in sentence.quotes for word in tokenise(f"{quote} {tidy(quote)}")}
    return {word for word in tokenise(sentence.text) if word not in quoted | FRAME}


def lint(text):
    """Return what is wrong with a sentence."""
    wrong = [name for name, slip in SLIPS.items() if re.search(slip, text)]
    if not re.match(r"[A-Z0-9]|\w+[A-Z0-9]", text):
        wrong.append("beginning")
    if not re.search(r"[^.!?]\.$", text):
        wrong.append("end")
    wrong += [pair for pair in ("()", "[]") if text.count(pair[0]) != text.count(pair[1])]
    return wrong


@pytest.fixture(scope="module")
def subjects():
    """Ids of 300 profiles: cell types of all lineages in many tissues."""
    rng = random.Random(20)
    cells = rng.sample([term.term_id for term in ontology.terms("cl")], 300)
    return [
        (cell, rng.choice(TISSUES), rng.choice(DISEASES), rng.choice(STAGES), rng.choice((FEMALE, "")))
        for cell in cells
    ]  # fmt: skip


@pytest.mark.parametrize("mask", [False, True], ids=["named", "masked"])
@pytest.mark.parametrize("words", [40, 150])
def test_texts_of_all_lineages_hold_together(subjects, words, mask):
    wrong = {}
    for ids in subjects:
        request = request_of(*ids, mask=mask)
        draft = write_extractive(request, words)
        texts = [sentence.text for sentence in draft.sentences]
        assert sum(len(text.split()) for text in texts) <= words, ids
        assert len(set(texts)) == len(texts), ids
        for sentence in draft.sentences:
            assert sentence.citations
            for citation in sentence.citations:
                assert citation.quote in request.offered[citation.snippet_id].text, ids
            if faults := lint(sentence.text):
                wrong[sentence.text] = faults
            assert not unsaid(sentence), (sentence, unsaid(sentence))
            if mask:
                assert not given_away(sentence.text, request.subject), sentence.text
        assert write_extractive(request_of(*ids, mask=mask), words) == draft
    assert not wrong


def test_nearly_all_types_are_told_by_their_definition(subjects):
    named = [
        told(request_of(*ids))[0]
        for ids in subjects
        if ontology.get_term(ids[0]).definition
    ]  # fmt: skip
    told_by_kind = sum(re.match(r"The .* is a kind of ", text) is not None for text in named)
    assert told_by_kind + sum(text.startswith("The cells ") for text in named) <= 0.03 * len(named)
