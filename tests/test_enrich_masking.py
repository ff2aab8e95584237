"""Masked names, and how well a type can be guessed from a text."""

from __future__ import annotations

import hashlib
import random
import re

import numpy as np
import pytest

from okrcell.corpus import ontology
from okrcell.enrich.abbreviations import abbreviations_of
from okrcell.enrich.evidence import Evidence
from okrcell.enrich.leak import leak_reports
from okrcell.enrich.masking import MASKED, given_away, label_names, mask_evidence, mask_text
from okrcell.enrich.names import find_names
from okrcell.enrich.profile_text import Subject

NK, T_CELL, B_CELL, CD4, PDC, TREG, HSC, MAIT, HEPATOCYTE = (
    "CL:0000623",
    "CL:0000084",
    "CL:0000236",
    "CL:0000624",
    "CL:0000784",
    "CL:0000792",
    "CL:0000037",
    "CL:0000940",
    "CL:0000182",
)


def subject_of(term_id, label=""):
    return Subject((("cell_type", label or ontology.get_term(term_id).label, term_id),))


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("term_id", "names"),
    [
        (NK, {"natural killer cell", "NK cell", "NK"}),
        (PDC, {"plasmacytoid dendritic cell", "pDC"}),
        (TREG, {"Treg"}),
        (HSC, {"hematopoietic stem cell", "HSC"}),
        (MAIT, {"MAIT", "mucosal invariant T cell"}),
        ("CL:0001069", {"group 2 innate lymphoid cell", "ILC2"}),
        ("CL:0002394", {"CD141-positive myeloid dendritic cell", "cDC1"}),
    ],
)
def test_names_hold_synonyms_and_telling_abbreviations(term_id, names):
    found = label_names(subject_of(term_id))
    assert names <= set(found)
    assert list(found) == sorted(found, key=lambda name: (-len(name), name))


def test_genes_and_single_letters_are_no_abbreviations():
    assert "CD4" not in label_names(subject_of(CD4))
    assert not {"T", "B"} & {*label_names(subject_of(T_CELL)), *label_names(subject_of(B_CELL))}
    assert "PDC" not in abbreviations_of({"plasmacytoid dendritic cell"})  # phosducin
    assert label_names(subject_of("CL:0000000")) == ()


def test_a_label_without_a_term_is_its_own_name():
    subject = subject_of("", "my odd cells")
    assert label_names(subject)[0] == "my odd cells"
    assert mask_text("My odd cells glow, as does an odd cell.", subject).startswith(
        "Cells of this type glow"
    )


# --- texts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("A natural killer cell is a lymphocyte.", "A cell of this type is a lymphocyte."),
        ("An NK cell is a lymphocyte.", "A cell of this type is a lymphocyte."),
        ("NK cells express NKG7.", "Cells of this type express NKG7."),
        ("In blood, NK-cells are many.", "In blood, cells of this type are many."),
        ("CD56-dim NK cells carry CD16.", "CD56-dim cells of this type carry CD16."),
        ("Natural killer (NK) cells kill.", "Cells of this type kill."),
        ("Natural killer cells (NK cells) kill.", "Cells of this type kill."),
        ("Natural killer cells, or NK cells, kill.", "Cells of this type kill."),
        ("The NK cell kills.", "The cell of this type kills."),
        ("NK cell-mediated killing rises.", "Cell-mediated killing rises."),
        ("Loss of natural killer cell development.", "Loss of cell development."),
        ("The NK cell receptor binds.", "The cell receptor binds."),
        ("An NK cell's granules.", "A cell's granules."),
        ("Mature NKs express NKG7 and NKTR.", "Mature cells of this type express NKG7 and NKTR."),
        ("NK lymphocytes kill.", "Cells of this type kill."),
        ("Nothing to hide in T cells.", "Nothing to hide in T cells."),
    ],
)
def test_mentions_are_masked_and_the_sentence_still_reads(text, masked):
    assert mask_text(text, subject_of(NK)) == masked


@pytest.mark.parametrize(
    ("term_id", "text", "masked"),
    [
        (CD4, "CD4+ T cells help, and CD4 is a gene.", "Cells of this type help, and CD4 is a gene."),
        (CD4, "CD4-positive, alpha-beta T cells help.", "Cells of this type help."),
        ("CL:0000897", "Memory CD4 T cells wait.", "Cells of this type wait."),
        (T_CELL, "B cells. T cells. A T-cell receptor.", "B cells. Cells of this type. A cell receptor."),
        (T_CELL, "Natural killer T cells wait.", "Natural killer cells of this type wait."),
        (HEPATOCYTE, "Hepatocytes store glycogen.", "Cells of this type store glycogen."),
        (PDC, "Blood pDCs make interferon.", "Blood cells of this type make interferon."),
        (B_CELL, "Capable of B cell mediated immunity.", "Capable of cell mediated immunity."),
    ],
)  # fmt: skip
def test_names_are_masked_in_every_spelling(term_id, text, masked):
    assert mask_text(text, subject_of(term_id)) == masked


def test_an_ontology_document_loses_names_and_synonyms():
    text = "natural killer cell: A lymphocyte that kills. Synonyms: NK cell, null cell."
    item = Evidence("s", NK, "cl", "", text)
    masked = mask_evidence(item, subject_of(NK))
    assert masked.text == f"{MASKED}: A lymphocyte that kills."
    assert (masked.snippet_id, masked.is_masked) == ("s", True)
    assert masked.evidence_id != item.evidence_id
    rest = mask_evidence(Evidence("s", NK, "cl", "", "Synonyms: NK cell."), subject_of(NK))
    assert rest.text == ""
    note = Evidence("n", "NOTE:n", "notes", "NK cell markers", "NK cells express NKG7.")
    assert mask_evidence(note, subject_of(NK)).section == "Cell markers"


def test_masked_definitions_of_all_lineages_name_nothing():
    terms = [term for term in ontology.terms("cl") if term.definition]
    for term in random.Random(1).sample(terms, 400):
        subject = subject_of(term.term_id)
        text = f"{term.label}: {term.definition} {'; '.join(term.synonyms)}"
        masked = mask_text(text, subject)
        assert find_names(masked, label_names(subject)) == [], masked
        assert given_away(masked, subject) == (), masked
        assert mask_text(masked, subject) == masked


def test_names_given_away_are_found_in_every_order_and_sentence_by_sentence():
    assert given_away("NK cells kill. B cells do not.", subject_of(NK)) == ("NK", "NK cell")
    assert given_away("Memory CD4 T cells wait.", subject_of("CL:0000897")) == (
        "Memory CD4 T cells",
    )
    basket = subject_of("CL:2000086")
    assert basket.label("identity") == "neocortex basket cell"
    assert given_away("A cell of the neocortex. Basket cells are large.", basket) == ()


# --- guessing ----------------------------------------------------------------------------------


class WordEmbedder:
    """Bags of hashed words."""

    id, dim, max_tokens = "words:00000000:float32", 1024, 256

    def encode(self, texts):
        rows = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in re.findall(r"\w+", text.casefold()):
                row[int(hashlib.sha256(word.encode()).hexdigest(), 16) % self.dim] += 1
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)

    def count_tokens(self, texts):
        return [len(text.split()) for text in texts]


def test_a_masked_text_is_harder_to_guess():
    terms = [ontology.get_term(i) for i in (NK, PDC, HSC, MAIT, HEPATOCYTE, "CL:0000121")]
    subjects = [subject_of(term.term_id) for term in terms]
    texts = [f"A {t.label} is here. {t.label}: {t.definition}" for t in terms]
    masked = [mask_text(text, s) for text, s in zip(texts, subjects, strict=True)]
    plain = leak_reports(texts, subjects, WordEmbedder())
    hidden = leak_reports(masked, subjects, WordEmbedder())
    for before, after in zip(plain, hidden, strict=True):
        assert before.names
        assert after.names == ()
        assert after.rank > before.rank
        assert after.probability < before.probability


def test_reports_count_terms_and_labels_and_bear_empty_texts():
    subjects = [subject_of(NK), subject_of("", "odd glowing thing"), Subject(())]
    reports = leak_reports(["", "An odd glowing thing.", "Some text."], subjects, WordEmbedder())
    n = sum(1 for _ in ontology.terms("cl")) + 1
    assert [report.candidates for report in reports] == [n, n, n]
    assert (reports[0].names, reports[0].rank, reports[0].guess) == ((), 0, "")
    assert (reports[1].names, reports[1].rank) == (("odd glowing thing",), 1)
    assert (reports[2].rank, reports[2].probability) == (0, 0.0)
    assert leak_reports([], [], WordEmbedder()) == []


def test_an_obsolete_id_stands_for_its_successor():
    retired = next(i for term in ontology.terms("cl") for i in term.replaces if i.startswith("CL:"))
    live = ontology.bundled("cl").get(retired)
    [report] = leak_reports([live.label], [subject_of(retired, live.label)], WordEmbedder())
    assert report.rank == 1


def test_every_text_needs_its_subject():
    with pytest.raises(ValueError, match="1 texts and 0 subjects"):
        leak_reports(["a"], [], WordEmbedder())
