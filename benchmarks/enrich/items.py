"""Evaluation items for the citation check: clean sentences, and sentences that went wrong in one way.

``python benchmarks/enrich/items.py`` prints the counts and three examples of each kind. Clean items are
the verbatim source sentences and the hand-written paraphrases of ``paraphrases.tsv``; corrupted ones are
made from both by the rules below, or stand in ``corrupted.tsv``, written by hand. Everything is a
function of the seed. The module is long because the rules and their word tables belong together.

Sentences are numbered after a split at white space that follows ``.``, ``!`` or ``?`` and precedes a
capital letter. A note's running text is the note without headings and empty lines.
"""

from __future__ import annotations

import csv
import hashlib
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

from okrcell.corpus.ontology import ancestors, get_term, terms

__all__ = ["CORRUPTIONS", "Item", "make_items", "sentences", "split_of"]

CORRUPTIONS = (
    "wrong_id",
    "altered_quote",
    "negation",
    "swapped_cell_type",
    "swapped_marker",
    "wrong_tissue",
    "invented_number",
    "sex_or_stage",
)
HERE = Path(__file__).resolve().parent
NOTES = HERE.parents[1] / "examples" / "notes"
MOST = 170  # items of one kind that rules make; the rest are left out by hash
FIELDS = ("cell_type", "tissue", "sex", "development_stage", "disease")

Snippet = tuple[str, str, str, str]
T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """One sentence with its citations, as a checker gets it, and what is wrong with it.

    Attributes
    ----------
    kind
        ``verbatim`` or ``paraphrase`` where the sentence is right, else one of ``CORRUPTIONS``.
    split
        ``tune`` or ``test``; all items of a source are in one.
    subject
        Labels and ontology ids of the profile that the sentence is about; empty where unknown.
    citations
        Pairs of snippet id and quote.
    offered
        Snippet id, document id, source and text of what was shown with the request.
    base_id
        The clean item that this one was made from; empty for clean ones.
    by_hand
        Whether the corrupted sentence was written by hand.
    """

    item_id: str
    kind: str
    split: str
    subject: dict[str, str] = field(hash=False)
    text: str
    facet: str
    citations: tuple[tuple[str, str], ...]
    offered: tuple[Snippet, ...]
    base_id: str = ""
    by_hand: bool = False


def number(*parts: object) -> int:
    """Return a number that depends on the parts alone, for choices that stay as rows are added."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def pick(options: Sequence[T], *key: object) -> T:
    return options[number(*key) % len(options)]


def split_of(source_id: str) -> str:
    """Return the half that a source belongs to."""
    return ("tune", "test")[hashlib.sha256(source_id.encode()).digest()[0] % 2]


# --- sources -----------------------------------------------------------------------------------

_BREAK = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
# Definitions end in references such as "[GO]." or "(CUMBO)."; they are left out of quotes.
_REFERENCE = re.compile(r"\s*(?:\[[^\[\]]*\]|\((?:CUMBO|MM)\))\.?\s*$")


@cache
def paragraphs(stem: str) -> tuple[str, ...]:
    """Return what stands below each heading of a note."""
    text = (NOTES / f"{stem}.md").read_text(encoding="utf-8")
    parts = re.split(r"(?m)^#.*$", text)
    return tuple(part.strip() for part in parts if part.strip())


@cache
def sentences(source_id: str) -> tuple[str, ...]:
    """Return the sentences of a definition or a note, numbered as in the tables."""
    if source_id.startswith("NOTE:"):
        lines = [s for p in paragraphs(source_id[5:]) for s in _BREAK.split(p)]
        return tuple(lines)
    term = get_term(source_id)
    if term is None:
        raise KeyError(f"{source_id}: no bundled term has this id")
    return tuple(_BREAK.split(term.definition))


def snippet_id(doc_id: str, part: int) -> str:
    return hashlib.sha256(f"{doc_id}#{part}".encode()).hexdigest()[:16]


def snippets_of(source_id: str) -> list[Snippet]:
    if source_id.startswith("NOTE:"):
        return [
            (snippet_id(source_id, n), source_id, "notes", text)
            for n, text in enumerate(paragraphs(source_id[5:]))
        ]
    term = get_term(source_id)
    if term is None or not term.definition:
        return []
    text = f"{term.label}: {term.definition}"
    return [(snippet_id(source_id, 0), source_id, term.ontology, text)]


def whole(source_id: str) -> str:
    return " ".join(s[3] for s in snippets_of(source_id))


@cache
def children() -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for term in terms("cl"):
        for parent in term.parents:
            found[parent].append(term.term_id)
    return found


@cache
def defined() -> tuple[str, ...]:
    return tuple(t.term_id for t in terms("cl") if len(t.definition) > 60)


def offered(source_id: str, quote: str, seed: int) -> tuple[Snippet, ...]:
    """Return 4 to 8 snippets in random order: the true one, related ones and unrelated ones."""
    chance = random.Random(number(seed, "offered", source_id, quote))
    true = [s for s in snippets_of(source_id) if quote in s[3]][:1]
    related: list[str] = []
    term = get_term(source_id)
    if source_id.startswith("NOTE:"):
        cell = NOTE_CELLS[source_id[5:]]
        related = [cell, *list(ancestors(cell))[:3], *children().get(cell, [])[:3]]
    elif term is not None:
        siblings = [s for p in term.parents for s in children().get(p, []) if s != source_id]
        chance.shuffle(siblings)
        related = [*term.parents, *siblings[:4]]
    others = [r[0] for r in table("paraphrases.tsv") if r[0] != source_id]
    unrelated = [*chance.sample(others, 4), *chance.sample(defined(), 2)]
    chance.shuffle(related)
    size = chance.randint(4, 8)
    found = list(true)
    if source_id.startswith("NOTE:"):
        found += [s for s in chance.sample(snippets_of(source_id), 2) if s not in found][:1]
    for name in (*related[: size // 2], *unrelated):
        made = snippets_of(name)
        new = [s for s in made if s not in found]
        if new and len(found) < size:
            found.append(chance.choice(new))
    chance.shuffle(found)
    return tuple(found)


@cache
def table(name: str) -> tuple[tuple[str, ...], ...]:
    with (HERE / name).open(encoding="utf-8", newline="") as handle:
        rows = list(csv.reader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))
    return tuple(tuple(row) for row in rows[1:])


# --- subjects ----------------------------------------------------------------------------------

NOTE_CELLS = {
    "b_cell": "CL:0000236",
    "blood_and_pbmc": "CL:2000001",
    "cd4_memory_t_cell": "CL:0000897",
    "cd4_naive_t_cell": "CL:0000895",
    "cd8_cytotoxic_t_cell": "CL:0000794",
    "cd8_naive_t_cell": "CL:0000900",
    "classical_monocyte": "CL:0000860",
    "dendritic_cell": "CL:0000451",
    "droplet_3prime_scrnaseq": "CL:0000624",
    "hematopoietic_stem_progenitor": "CL:0000037",
    "natural_killer_cell": "CL:0000623",
    "regulatory_t_cell": "CL:0000815",
    "sex_and_age_in_blood": "CL:0000738",
    "t_cell_lineage_overview": "CL:0000084",
}
# Sentences of a note whose subject is another cell type than the note's.
NOTE_SUBJECTS = {
    ("b_cell", 16): "CL:0000784",
    ("cd4_naive_t_cell", 17): "CL:0000576",
    ("cd8_cytotoxic_t_cell", 14): "CL:0000623",
    ("classical_monocyte", 17): "CL:0000775",
    ("dendritic_cell", 6): "CL:0000784",
    ("dendritic_cell", 10): "CL:0000784",
    ("dendritic_cell", 16): "CL:0000623",
    ("hematopoietic_stem_progenitor", 16): "CL:0000115",
    ("t_cell_lineage_overview", 18): "CL:0001065",
}
GENERIC = ("CL:0000084", "CL:0000235", "CL:0000057", "CL:0000066", "CL:0000115")
FEMALE, MALE = "PATO:0000383", "PATO:0000384"
SEXES = {FEMALE: "female", MALE: "male"}
ADULT, FETAL, NEWBORN = "HsapDv:0000258", "HsapDv:0000037", "HsapDv:0000262"
STAGES = {ADULT: "adult stage", FETAL: "fetal stage", NEWBORN: "newborn stage (0-28 days)"}

FEMALE_WORD = re.compile(
    r"\b(?:females?|women|ovar\w+|oocytes?|ova|ovum|oogonial|egg|uter\w+|placenta\w*|pregnan\w+|"
    r"granulosa|theca|luteal|lute\w+|trophoblast\w*|\w+trophoblast|gestation|endometri\w+|mother|"
    r"maternal|Turner|follicular phase|fallopian|oviduct|hCG|cumulus)\b",
    re.IGNORECASE,
)
MALE_WORD = re.compile(
    r"\b(?:males?|men|test[ie]s|sperm\w*|sertoli|leydig|prostate|seminiferous|epididymis|"
    r"blood-testis)\b",
    re.IGNORECASE,
)
EARLY_WORD = re.compile(
    r"\b(?:embryo\w*|fet\w+|newborns?|blastocyst|primordial germ|trophoblast\w*|\w*trophoblast|"
    r"gonadal ridge|neural crest|mesoderm|development\w*|child\w*|infan\w+|early)\b",
    re.IGNORECASE,
)

# Surface form, UBERON id: the tissue of a profile is set where the source names it.
TISSUES = {
    "bone marrow": "UBERON:0002371",
    "thymus": "UBERON:0002370",
    "spleen": "UBERON:0002106",
    "liver": "UBERON:0002107",
    "kidney": "UBERON:0002113",
    "lung": "UBERON:0002048",
    "lymph node": "UBERON:0000029",
    "pancrea": "UBERON:0001264",
    "islets of langerhans": "UBERON:0000006",
    "stomach": "UBERON:0000945",
    "small intestin": "UBERON:0002108",
    "large intestin": "UBERON:0000059",
    "retina": "UBERON:0000966",
    "cornea": "UBERON:0000964",
    "cerebellar": "UBERON:0002037",
    "cerebral cortex": "UBERON:0000956",
    "spinal cord": "UBERON:0002240",
    "testis": "UBERON:0000473",
    "ovar": "UBERON:0000992",
    "uter": "UBERON:0000995",
    "epidermis": "UBERON:0001003",
    "thyroid": "UBERON:0002046",
    "heart": "UBERON:0000948",
    "alveol": "UBERON:0002048",
    "brain": "UBERON:0000955",
    "blood": "UBERON:0000178",
}


def label(term_id: str) -> str:
    term = get_term(term_id)
    return term.label if term else ""


def subject_of(source_id: str, sentence: str, seed: int) -> dict[str, str]:
    """Return the profile that a sentence is written for: never one that the source contradicts."""
    text = f"{whole(source_id)}".lower()
    ids = dict.fromkeys(FIELDS, "")
    key = (seed, "subject", source_id)
    if source_id.startswith("CL:"):
        ids["cell_type"] = source_id
    elif source_id.startswith("NOTE:"):
        stem, place = source_id[5:], sentences(source_id).index(sentence)
        ids["cell_type"] = NOTE_SUBJECTS.get((stem, place), NOTE_CELLS[stem])
        ids["tissue"] = "UBERON:0000178"
    else:
        ids["cell_type"] = pick(GENERIC, *key, "cell")
    if source_id.startswith("UBERON:"):
        ids["tissue"] = source_id
    if source_id.startswith("MONDO:"):
        ids["disease"] = source_id
    elif number(*key, "disease") % 3 == 0:
        ids["disease"] = "PATO:0000461"
    if not ids["tissue"]:
        named = [v for k, v in TISSUES.items() if k in text]
        ids["tissue"] = named[0] if named else ""
    local = f"{label(source_id)} {sentence}"
    is_note = source_id.startswith("NOTE:")
    female, male = (bool(w.search(local if is_note else text)) for w in (FEMALE_WORD, MALE_WORD))
    if female != male:
        ids["sex"] = FEMALE if female else MALE
    elif not female:
        ids["sex"] = pick((FEMALE, MALE, MALE, FEMALE, ""), *key, sentence, "sex")
    if not EARLY_WORD.search(local if is_note else text):
        ids["development_stage"] = pick((ADULT, ADULT, ADULT, ""), *key, sentence, "stage")
    elif re.search(r"\bfet(?:al|us)\b|\bembryo", sentence, re.IGNORECASE):
        ids["development_stage"] = FETAL
    made: dict[str, str] = {}
    for name in FIELDS:
        known = SEXES | STAGES | {"PATO:0000461": "normal"}
        made[name] = known.get(ids[name]) or (label(ids[name]) if ids[name] else "")
        made[f"{name}_ontology_term_id"] = ids[name]
    return made


# --- words of the field ------------------------------------------------------------------------

# Families of markers; each entry is the names of one protein or gene. A marker is replaced by one of its
# own family, so that the sentence stays plausible.
_SURFACE = """CD1c/CD1C CD2 CD3/CD3E CD4 CD5 CD7 CD8 CD8A CD9 CD10/MME CD11b/ITGAM CD11c/ITGAX CD13/ANPEP
CD14 CD15 CD16/FCGR3A CD19 CD20/MS4A1 CD21/CR2 CD22 CD23/FCER2 CD24 CD25/IL2RA CD27 CD28 CD31/PECAM1
CD32/FCGR2A CD33 CD34 CD36 CD38 CD43/SPN CD44 CD45 CD45RA CD45RO CD49a CD49d CD56/NCAM1 CD57 CD58
CD62L/SELL CD64 CD68 CD69 CD71/TFRC CD73/NT5E CD77 CD80 CD83 CD84 CD86 CD90/THY1 CD95/FAS CD103/ITGAE
CD105/ENG CD115/CSF1R CD117/KIT/Kit CD122/IL2RB CD123/IL3RA CD127/IL7R CD133/PROM1 CD135/FLT3/Flt3
CD138/SDC1 CD150/SLAMF1 CD161/KLRB1 CD163 CD169/SIGLEC1 CD181 CD182 CD191 CD193 CD200R3 CD203c CD206
CD207 CD209 CD1d CD303 F4/80 MARCO TIGIT ICOS PD1/PDCD1 CTLA4/CTLA-4"""
FAMILIES: tuple[tuple[tuple[str, ...], ...], ...] = tuple(
    tuple((entry,) if entry == "F4/80" else tuple(entry.split("/")) for entry in family.split())
    for family in (
        _SURFACE,
        "CCR2 CCR4 CCR5 CCR6 CCR7 CXCR3 CXCR5 CXCR6 CX3CR1 XCR1 CXCR2 S1PR1 CXCR4 CCR9 CCR10",
        "PAX5 EBF1 BCL6 TBX21/T-bet EOMES GATA1/GATA-1/Gata1 GATA2/Gata2 GATA3/GATA-3 FOXP3/FoxP3 RORC "
        "TCF7 LEF1 RUNX3 IRF4 IRF7 IRF8 BATF3 SPI1/PU.1/Pu.1 KLF4 ZBTB7B TCF4 BCL11B POU2F3 IKZF2 HLF "
        "MEIS1 XBP1 KLF1 ID2 ZBTB16 SOX4 CEBPA MYF5/Myf5 ATOH1/Atoh1",
        "GZMA GZMB GZMH GZMK GNLY PRF1 NKG7 CST7 FGFBP2 KLRD1 KLRF1 KLRG1 XCL1 XCL2 SPON2 CCL5 TYROBP "
        "FCER1G",
        "LYZ S100A8 S100A9 S100A12 VCAN FCN1 MNDA CST3 MS4A7 CDKN1C CLEC9A CLEC4C CLEC10A LILRA4 FCER1A "
        "THBD CADM1 NRP1 SIRPA FCGR3B LGALS1 ANXA1",
        "CD79A CD79B BANK1 BLK IGHM IGHD IGKC TCL1A JCHAIN MZB1 AICDA",
        "HLA-DRA HLA-DPB1 HLA-DQA1",
        "CD3D CD3G CD8B TRAC TRDC LTB MAL IL32 NOSIP FHIT NELL2 LRRN3 LINC02446 SLC4A10",
        "AVP CRHBP SPINK2 MLLT3 CDK6 PROM1 THY1",
        "MPO ELANE AZU1 PRTN3",
        "PF4 PPBP GP9 ITGA2B",
        "HBB HBA1 HBG1 HBG2 HBD HBE1",
        "XIST RPS4Y1 DDX3Y EIF1AY KDM5D UTY KDM6A DDX3X ZFX",
        "VWF CDH5 CLDN5 KDR TEK",
        "COL10A1 COL2A1 COL1A1 COL4A1",
        "EPCAM ITGA6 KRT5 TP63",
        "TNFRSF9 TNFRSF4 TNFRSF13B",
        "BEST4 CFTR ANO1 SCNN1A",
        "MYH1 MYH2 MYH7",
        "TRPV1 TRPM8 SCN11A SCN10A",
        "CYTL1 FRZB CLEC3A S100B PRG4 ACAN",
        "PAX6 LHX6 ADARB2",
        "PTPRC PTPN6 ITGB2",
        "NOTCH1 NOTCH3 LRP6",
        "IL-4/interleukin-4 IL-10/interleukin-10 IL-17/interleukin-17 IL-2/interleukin-2 IL-13/interleukin-13 "
        "IL-22 IL-9 IL-6/interleukin-6 IL-15/interleukin-15 IL-7/interleukin-7 IL-5/interleukin-5 "
        "IFN-gamma/interferon-gamma TGF-beta",
        "IgM IgD IgG IgE IgA",
        "TLR2 TLR4 TLR7 TLR9 TLR3 TLR5",
        "RAG1/Rag1 RAG2/Rag2 TdT/DNTT",
        "CD40 OX40 GITR",
        "MARCO SR-A SIGN-R1 SIGNR1 Dectin2 Dectin-1 sialoadhesin MERTK",
        "insulin glucagon somatostatin gastrin ghrelin secretin",
        "testosterone progesterone oestrogen cortisol aldosterone",
        "histamine serotonin dopamine acetylcholine glutamate GABA glycine",
    )
)
_ALIKE = (  # further names of the same thing that stand in two families or in words
    {"CD3", "CD3E", "CD3D", "CD3G"},
    {"CD8", "CD8A", "CD8B"},
    {"CD45", "PTPRC", "CD45RA", "CD45RO"},
    {"RORC", "RORgt", "RORgamma-t"},
    {"IFN-gamma", "interferon-gamma", "interferon gamma"},
    {"CD169", "SIGLEC1", "sialoadhesin"},
    {"SIGN-R1", "SIGNR1", "CD209"},
    {"CD16", "FCGR3A", "FCGR3B"},
    {"serotonin", "5-hydroxytryptamine"},
    {"CD133", "PROM1"},
    {"CD90", "THY1"},
    {"IgM", "IGHM"},
    {"IgD", "IGHD"},
    {"CD79A", "CD79B"},
    {"GITR", "TNFRSF18"},
    {"CLEC4C", "CD303"},
    {"THBD", "CD141"},
    {"CD1c", "CD1C", "CD1d"},
)
ENTRIES = [(family, entry) for family in FAMILIES for entry in family]
_TOKENS = sorted({n for _, e in ENTRIES for n in e}, key=len, reverse=True)
MARKER = re.compile(
    r"(?<![\w/.-])(" + "|".join(map(re.escape, _TOKENS)) + r")(?![\w/])"
    r"(?!-(?:alpha|beta|secreting|encoding|derived)|[ -](?:epsilon|alpha|beta|ligand|binding|receptor|"
    r"coreceptor|T\b|T-|memory|naive|effector|secreting|helper|subunit|interneurons?|neurons?|and CD8 double))"
)

# Groups of cell types that are not each other's ancestors; singular forms.
CELL_GROUPS: tuple[tuple[str, ...], ...] = tuple(
    tuple(name.strip() for name in group.split(","))
    for group in (
        "T cell, B cell, natural killer cell, monocyte",
        "T lymphocyte, B lymphocyte",
        "NK cell, B cell, mast cell, monocyte",
        "Treg, Th17 cell, Th2 cell",
        "Th1 cell, Th2 cell, Th9 cell, Th17 cell",
        "CD4 T cell, CD8 T cell",
        "CD4-positive T cell, CD8-positive T cell",
        "CD4 memory T cell, CD8 naive T cell",
        "naive CD4 T cell, regulatory T cell, CD8 memory T cell",
        "naive CD8 T cell, regulatory T cell, CD4 memory T cell",
        "CD8 cytotoxic T cell, regulatory T cell, naive CD4 T cell",
        "cytotoxic CD8 T cell, regulatory T cell, naive CD4 T cell",
        "regulatory T cell, CD8 cytotoxic T cell, gamma-delta T cell",
        "alpha-beta T cell, gamma-delta T cell",
        "memory B cell, naive B cell, plasma cell",
        "memory T cell, regulatory T cell, naive T cell",
        "naive T cell, regulatory T cell, memory T cell",
        "plasma cell, mast cell, dendritic cell",
        "plasmablast, immature B cell",
        "classical monocyte, non-classical monocyte, conventional dendritic cell",
        "monocyte, neutrophil, B cell, mast cell",
        "macrophage, neutrophil, mast cell, eosinophil",
        "neutrophil, eosinophil, basophil, mast cell",
        "basophil, neutrophil, eosinophil",
        "eosinophil, neutrophil, basophil",
        "plasmacytoid dendritic cell, classical monocyte, B cell",
        "conventional dendritic cell, classical monocyte, plasmacytoid dendritic cell",
        "dendritic cell, neutrophil, mast cell, natural killer cell",
        "innate lymphoid cell, dendritic cell, B cell",
        "innate lymphocyte, granulocyte",
        "lymphocyte, granulocyte, monocyte, megakaryocyte",
        "leukocyte, erythrocyte, platelet",
        "white blood cell, red blood cell",
        "red blood cell, white blood cell",
        "red cell, platelet, monocyte",
        "erythrocyte, platelet, neutrophil",
        "platelet, erythrocyte, lymphocyte",
        "megakaryocyte, erythroblast, neutrophil",
        "hematopoietic stem cell, mesenchymal stem cell, common lymphoid progenitor",
        "HSC, plasma cell, B cell",
        "mesenchymal stem cell, hematopoietic stem cell, satellite cell",
        "neural stem cell, mesenchymal stem cell",
        "osteoblast, osteoclast, adipocyte, chondrocyte",
        "osteoclast, osteoblast, adipocyte",
        "osteocyte, chondrocyte, adipocyte",
        "chondrocyte, osteocyte, adipocyte",
        "chondroblast, osteoclast, melanocyte",
        "adipocyte, chondrocyte, hepatocyte",
        "myocyte, hepatocyte, melanocyte",
        "fibroblast, macrophage, endothelial cell, keratinocyte",
        "myofibroblast, adipocyte, chondrocyte",
        "smooth muscle cell, endothelial cell, skeletal muscle cell",
        "pericyte, mast cell, endothelial cell",
        "endothelial cell, epithelial cell, fibroblast",
        "epithelial cell, endothelial cell, fibroblast",
        "keratinocyte, melanocyte, fibroblast",
        "melanocyte, keratinocyte, Merkel cell",
        "hepatocyte, hepatic stellate cell, cholangiocyte",
        "hepatic stellate cell, hepatocyte, Kupffer cell",
        "Kupffer cell, hepatocyte, hepatic stellate cell",
        "astrocyte, oligodendrocyte, microglial cell",
        "oligodendrocyte, astrocyte, microglial cell",
        "microglial cell, astrocyte, oligodendrocyte",
        "interneuron, pyramidal neuron",
        "motor neuron, sensory neuron",
        "Purkinje cell, granule cell, basket cell",
        "basket cell, Purkinje cell",
        "pyramidal neuron, Purkinje cell, granule cell",
        "radial glial cell, microglial cell",
        "glial cell, endothelial cell",
        "rod, bipolar cell, cone",
        "cone, bipolar cell, rod",
        "inner hair cell, supporting cell",
        "outer hair cell, supporting cell",
        "retinal ganglion cell, amacrine cell, bipolar cell",
        "goblet cell, enterocyte, Paneth cell",
        "enterocyte, goblet cell, Paneth cell",
        "Paneth cell, goblet cell, enterocyte",
        "club cell, goblet cell, basal cell",
        "ciliated cell, goblet cell",
        "parietal cell, goblet cell, enterocyte",
        "peptic cell, parietal cell, goblet cell",
        "chromaffin cell, Leydig cell",
        "Sertoli cell, Leydig cell, granulosa cell",
        "Leydig cell, Sertoli cell, spermatogonium",
        "granulosa cell, theca cell, Sertoli cell",
        "theca cell, granulosa cell",
        "podocyte, mesangial cell, endothelial cell",
        "mesangial cell, podocyte",
        "spermatid, spermatogonium, oocyte",
        "oocyte, spermatocyte, granulosa cell",
        "primary spermatocyte, spermatid",
        "spermatocyte, oocyte",
        "trophoblast cell, endothelial cell",
        "melanocyte, fibroblast",
        "thymocyte, plasma cell, monocyte",
        "myoblast, adipocyte",
        "Schwann cell, oligodendrocyte, astrocyte",
        "parafollicular cell, follicular cell",
        "type 1 alveolar cell, goblet cell, club cell",
        "type 2 alveolar cell, goblet cell, club cell",
        "reticulocyte, platelet, megakaryocyte",
        "erythroblast, megakaryocyte, myeloblast",
        "promonocyte, erythroblast, promyelocyte",
        "germ cell, stromal cell",
        "Langerhans cell, Merkel cell, melanocyte",
        "M2 macrophage, M1 macrophage, mast cell",
        "M1 macrophage, M2 macrophage, mast cell",
        "M0 macrophage, mast cell, neutrophil",
    )
)
_PLURAL = {"spermatogonium": "spermatogonia", "microglial cell": "microglial cells"}


def plural(name: str) -> str:
    return _PLURAL.get(name, f"{name}s")


SWAPS: dict[str, tuple[str, ...]] = {}
for _group in CELL_GROUPS:
    for _form in (str, plural):
        SWAPS.setdefault(_form(_group[0]).lower(), tuple(_form(n) for n in _group[1:]))
for _pair in (("CD4-positive T cell", "CD8-positive T cell"), ("CD4 T cell", "CD8 T cell")):
    for _form in (str, plural):
        SWAPS[_form(_pair[1]).lower()] = (_form(_pair[0]),)
CELL = re.compile(
    r"(?<![\w-])("
    + "|".join(re.escape(n) for n in sorted(SWAPS, key=len, reverse=True))
    + r")(?![\w-])(?! (?:receptors?|lineages?|identity|follicles?|selection|development|production|"
    r"proliferation|differentiation|types?|subsets?|barcode|precursors?|progenitors?|stage|mass|"
    r"immunity|mediated|responses?|help|fate|death|output|pool|processes|neoplasm|gene|mucosa|"
    r"activation|origin|factor|loss|adhesion|counts?|layer|bodies|line|cells?|surface)\b)",
    re.IGNORECASE,
)
# A generic name after one of these is the tail of a longer name, which a swap would garble.
_QUALIFIED = re.compile(
    r"(?:CD\d\w*(?:[-+]\w*)?|CD8\+|alpha-beta|gamma-delta|helper|regulatory|cytotoxic|memory|naive|NK|NKT|MAIT|"
    r"follicular|center|pre-B-II|pro-B|conventional|plasmacytoid|killer|innate|conducting|type|stem|mononuclear|"
    r"MAIT|white|brown|beige|foam|satellite|antigen|Bm3|switched|hypertrophic|marginal zone|hair|"
    r"pit|granular|transitional|double-positive|DN3|epidermal|smooth|ganglion|columnar|band form|"
    r"primary|secondary|neutrophilic|eosinophilic|myeloid|non-classical|classical|Th\d+|skeletal|"
    r"tissue-resident|tip|tuft|brush|islet|large|umbrella|cumulus|corneal|sinusoidal|capillary|"
    r"lymphatic|BEST4-positive|chief|D|G|H)\s*$",
    re.IGNORECASE,
)

# Groups of places; a place is replaced by another of its group.
PLACE_GROUPS = tuple(
    tuple(name.strip() for name in group.split(","))
    for group in (
        "bone marrow, spleen, thymus, liver",
        "thymus, spleen, bone marrow, tonsil",
        "spleen, thymus, liver, kidney",
        "liver, kidney, pancreas, lung",
        "kidney, liver, lung, pancreas",
        "lungs, kidneys, adrenal glands",
        "lung, liver, kidney",
        "pancreas, stomach, liver",
        "stomach, colon, gallbladder",
        "duodenum, colon, esophagus",
        "small intestine, stomach, esophagus",
        "large intestine, small intestine, stomach",
        "terminal ileum, duodenum, stomach",
        "digestive tract, respiratory tract, urinary tract",
        "airway, bile duct, ureter",
        "airways, bile ducts, ureters",
        "lymph node, tonsil, Peyer's patch",
        "lymph nodes, tonsils, Peyer's patches",
        "secondary lymph nodes, tonsils",
        "testis, prostate, adrenal gland",
        "uterus, urinary bladder, stomach",
        "ovary, adrenal gland, pituitary gland",
        "epididymis, prostate, bladder",
        "retina, cornea, cochlea",
        "cornea, retina, lens",
        "cerebral cortex, spinal cord, cerebellum",
        "cerebellar cortex, cerebral cortex, olfactory bulb",
        "cerebral hemispheres, spinal cord, cerebellum",
        "neocortex, cerebellum, thalamus",
        "hippocampus, cerebellum, thalamus",
        "amygdala, cerebellum, thalamus",
        "substantia nigra, thalamus, cerebellum",
        "spinal cord, retina, cerebral cortex",
        "brain, retina, heart",
        "epidermis, lung, colon",
        "skin, liver, lung",
        "adrenal medulla, adrenal cortex, thyroid",
        "thyroid, pancreas, adrenal cortex",
        "gastric mucosa, colonic mucosa, tracheal mucosa",
        "lamina propria, epidermis, pleura",
        "islets of Langerhans, adrenal cortex, parathyroid glands",
        "glomerulus, hepatic sinusoid, islet",
        "afferent arteriole, efferent arteriole, renal vein",
        "tracheobronchial epithelium, colonic epithelium, bladder urothelium",
        "alveolar surface, bronchial surface, pleural surface",
        "perisinusoidal space, bile canaliculus, portal vein",
        "peritoneum, pleura",
        "odontogenic papilla, hair follicle",
        "articular cartilage, tracheal cartilage",
        "dorsal root ganglia, sympathetic ganglia",
        "inner plexiform layer, outer plexiform layer",
        "organ of Corti, olfactory epithelium",
        "bloodstream, lymph nodes, spleen",
        "synovial membranes, pleural membranes",
        "intestinal lumen, bladder lumen",
        "gut lumen, bladder lumen",
        "hair follicle, nail bed",
        "hair follicles, nail beds",
        "nail plate, hair shaft",
        "bladder, stomach",
        "neuromuscular junction, dorsal root ganglion",
        "seminiferous tubules, collecting ducts",
        "central nervous system, peripheral nervous system",
        "peripheral nervous system, central nervous system",
        "CNS, peripheral nervous system",
        "yolk sac, placenta",
        "mucosal tissues, connective tissues",
        "placenta, spleen",
        "digestive tract, urinary tract",
        "blood, lymph, synovial fluid, cerebrospinal fluid",
        "germinal center, marginal zone",
    )
)
PLACES: dict[str, tuple[str, ...]] = {}
for _places in PLACE_GROUPS:
    PLACES.setdefault(_places[0].lower(), _places[1:])
PLACE = re.compile(
    r"(?<![\w-])("
    + "|".join(re.escape(n) for n in sorted(PLACES, key=len, reverse=True))
    + r")(?![\w-])(?! (?:vessels?|cells?|plasma|glucose|pressure|clotting|coagulation|flow|cancer|fibrosis|"
    r"disease|infection|pH|production|formation|capillar\w+|medulla|leukocytes that|barrier|development|"
    r"gland\b|stem|lymphocytes|leukocytes|monocytes|follicles|T cells|lineages|parenchyma|tissue|transplantation|supply|muscle|endotheli\w+|sinusoids?))",
    re.IGNORECASE,
)
ADDED_PLACES = (
    ("in the kidney", "kidney renal"),
    ("in the liver", "liver hepatic"),
    ("in the pancreas", "pancreas pancreatic islet"),
    ("in the lung", "lung pulmonary alveolar airway"),
    ("in the skin", "skin epiderm keratin nail"),
    ("in the thyroid", "thyroid"),
)
_BOUND = re.compile(
    r"alveolar|pancrea|hepat|Kupffer|kidney|renal|Purkinje|Bergmann|retina|rod|cone|cochlea|Leydig|Sertoli|"
    r"podocyte|parietal|peptic|paneth|enterocyte|club|brush|luteal|granulosa|theca|islet|choroid|cornea|"
    r"pinealo|astrocyte|oligodendro|microgl|ependym|splenic|umbrella|thymus|thymic|thymocyte|stomach|"
    r"intestin|odonto|amelo|osteo|chondro|onycho|interneuron|hair cell|gonad|oocyte|sperm|oogonial|"
    r"trophoblast|cortex|cerebell|neural stem|motor neuron|peg cell|germinal",
    re.IGNORECASE,
)
_ODD_PLACE = re.compile(r"ventricle|pulp|corneal endothelium|of mucosae|brain region")
_NO_ADDED_PLACE = re.compile(
    r"PBMC|blood cells|chromosome|\bdata\b|gene for|encode|\b(?:in|within|between|than|humans|mice|from|to)\b"
    r"[^,]{0,40}\.$|counts"
)


# --- rules -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clean:
    """What a rule gets: the clean item, its source and the choice of options."""

    item: Item
    source_id: str
    quote: str
    seed: int

    @property
    def text(self) -> str:
        return self.item.text

    @property
    def source(self) -> str:
        return whole(self.source_id)

    def pick(self, options: Sequence[T], *key: object) -> T:
        return pick(options, self.seed, self.item.item_id, *key)

    def order(self, options: Sequence[T], *key: object) -> list[T]:
        made = list(options)
        random.Random(number(self.seed, self.item.item_id, *key)).shuffle(made)
        return made


def has_word(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


def put(text: str, found: re.Match[str], new: str, group: int = 1) -> str:
    """Replace a match; keep a capital at the start, and fit the article before it."""
    start, end = found.span(group)
    if start == 0 and new[0].islower():
        new = new[0].upper() + new[1:]
    before = text[:start]
    article = re.search(r"\b(an?) $", before, re.IGNORECASE)
    if article:
        first = new.split()[0].split("-")[0]
        letters = first.isupper() or bool(re.match(r"[A-Z]+\d", first))
        vowel = new[0].lower() in ("aefhilmnorsx" if letters else "aeiou")
        form = "an" if vowel else "a"
        form = form.capitalize() if article[1][0].isupper() else form
        before = before[: article.start(1)] + form + " "
    return before + new + text[end:]


def tail(text: str, phrase: str) -> str:
    """Put a phrase before the full stop."""
    return f"{text[:-1]}{phrase}." if text.endswith(".") else f"{text}{phrase}."


_VERBS = """express carry secrete release produce contain display form bear make line store contact cover
arise lie mature occur receive regulate respond recognise recognize kill engulf enter exit differentiate
divide synthesize surround nourish connect support transport filter use reside develop migrate affect
result involve circulate survive combine resemble share retain keep lose encode require need drive mark
detect sense depend play act take help go adhere stick possess serve give become come belong consist
react control stem derive originate descend remove clear show sit destroy arise strike begin start bind
participate lead separate guide link hold grow neutralize populate lack_ fuse shrink decline proliferate
flatten expand pair establish commit silence promote rearrange impose coordinate move project measure
rank employ constitute undergo build join steer enlarge prove restrict create transcribe present excel
outnumber interact function serve conduct fill maintain generate set restore rebuild""".split()
VERBS = sorted({v for v in _VERBS if not v.endswith("_")}, key=len, reverse=True)


def third(verb: str) -> str:
    if verb.endswith(("s", "x", "ch", "sh")) or verb == "go":
        return f"{verb}es"
    return f"{verb[:-1]}ies" if verb.endswith("y") and verb[-2] not in "aeiou" else f"{verb}s"


_THIRD = {third(v): v for v in VERBS}
_VERB_FORMS = "|".join(_THIRD)
_SINGULAR_VERB = re.compile(r"\b(" + "|".join(_THIRD) + r")\b(?!-)")
_PLURAL_VERB = re.compile(
    r"(?<=[a-z+] )(?<!\bto )(?<!\bcan )(?<!\bmay )(?<!\band )(?<!\bor )(?<!\bnot )(?<!\bthe )(?<!\ba )"
    r"(?<!\bof )(?<!\bin )(?<!\blonger )(?<!\bcannot )(?<!\bthat they )(?<!\bfor )(?<!\bwith )"
    r"(?<!\bneither )(?<!\bnor )(?<!\bby )(?<!\bthan )(?<!\bno )(?<!\bmuch )(?<!\bis )(?<!\bare )"
    r"(?<!\bhas )(?<!\bhave )(?<!\btype )(?<!\balso )(?<!\bfurther )(?<!\bsubsequently )(?<!\boften )"
    r"(?!stem cell|present (?:in|on|only|transient))"
    r"(" + "|".join(VERBS) + r")\b(?!-)(?! of\b)"
)
_IS = re.compile(
    r"\b(is|are|was|were)\b(?! (?:not|no|neither|without|free|devoid|absent|often|also|usually|called|"
    r"known|mostly|negative|missing|rarely|less|fewer|low|necessary to|poorly|needed by)\b)"
)
# Removing a negation: pattern and what to put; the predicate's polarity turns round.
_REMOVALS: tuple[tuple[str, str], ...] = (
    (r"\b(?:do|does) not yet (?=\w)", "already "),
    (r"\bhave not yet finished\b", "have already finished"),
    (r"\bhas not yet undergone\b", "has already undergone"),
    (r"\bhas not yet met\b", "has already met"),
    (r"\bnot yet exposed\b", "already exposed"),
    (r"\bhave yet to be\b", "have already been"),
    (r"\bhave yet to meet\b", "have already met"),
    (r"\bis still\b", "is no longer"),
    (r"\bbut not yet\b", "but already"),
    (r"\bmissing from PBMC\b", "present in PBMC"),
    (r"\babsent from PBMC\b", "present in PBMC"),
    (r"\bdo not (?=[a-z])", ""),
    (r"\bdid not (?=[a-z])", ""),
    (r"\bcannot\b", "can"),
    (r"\bare not\b(?! only)", "are"),
    (r"\bis not\b(?! only)", "is"),
    (r"\bhas not\b", "has"),
    (r"\bhave not\b", "have"),
    (r"\bnot (?=capable|cytotoxic|proliferating|completed)", ""),
    (r"\bno longer (?=divide)", "continue to "),
    (r"\bnon-cytotoxic\b", "cytotoxic"),
    (r"\blacks\b(?= )", "carries"),
    (r"\blacks expression of\b", "shows expression of"),
    (r"\black expression of\b", "show expression of"),
    (r"\band lack of\b", "as well as"),
    (r"(?<=, )and lack\b(?! of)|\band lack\b(?! of)", "and carry"),
    (r"(?<!and )\black\b(?! of)", "carry"),
    (r"\blacking\b", "carrying"),
    (
        r"\b(express|carry|carry surface|with|of|are|had|have|show) neither (\S+(?: \S+){0,3}?) nor\b",
        r"\1 both \2 and",
    ),
    (r"\bbut neither (\S+) nor\b", r"as well as \1 and"),
    (r"\bhave neither (.+?) nor\b", r"have both \1 and"),
    (r"\babsent from\b", "present on"),
    (r"\bmissing from\b", "present on"),
    (r"\bare devoid of\b", "are rich in"),
    (r"\bare free of\b", "are rich in"),
    (r"\bexpress none of\b", "express all of"),
    (r"\bbut not\b", "and also"),
    (r"\bbut no\b(?! longer)", "as well as"),
    (r"\band no (?=CD|CCR|hema|lineage|CD3D)", "and "),
    (r"\bhave no (?=surface|CD|IgM)", "have "),
    (r"\bbear no IgM\b", "still bear IgM"),
    (r"\bwithout (?=CD|rearranged|a rearranged|hema|IgD|MYF5)", "with "),
    (r"\bbear no relation to\b", "are closely related to"),
    (r"\bunrelated to\b", "closely related to"),
    (r"\bfails to\b", "is able to"),
    (r"\banucleate\b", "nucleated"),
    (r"\bnon-nucleated\b", "nucleated"),
    (r", without dividing again\b", " after dividing again"),
    (r"\bspares\b", "affects"),
)
_PHENOTYPE = re.compile(r"\b[A-Za-z][\w/.]*(?:[- ][\w/]+)?[- ](positive|negative)\b")
_PARTICIPLE = re.compile(
    r"\b(found|located|derived|capable|characterized|characterised|responsible|committed|specialized|"
    r"specialised|associated|restricted|involved|lined|composed) (in|of|from|by|for|to|with|on|throughout)\b"
)


def negated(clean: Clean) -> Iterator[str]:
    """Yield the text with the polarity of a predicate turned round."""
    text = clean.text
    if "not only" in text or re.match(r"(?:Some|Many|That|What|Roughly|About|Between) ", text):
        return
    removals = [
        (re.compile(pattern), new) for pattern, new in _REMOVALS if re.search(pattern, text)
    ]
    for pattern, new in removals:
        made = pattern.sub(new, text, count=1)
        at = next(n for n, (a, b) in enumerate(zip(made, text, strict=False)) if a != b)
        # "no A or B" becomes "A and B".
        made = made[:at] + made[at:].replace(" or ", " and ", 1)
        yield made.replace(" but do express", " and also express")
    inserted: list[str] = []
    phenotype = list(_PHENOTYPE.finditer(text))
    if phenotype:
        found = clean.pick(phenotype, "phenotype")
        new = "negative" if found[1] == "positive" else "positive"
        inserted.append(put(text, found, new))
    modal = re.search(r"\bcan\b(?! also| be motile)", text)
    if modal:
        inserted.append(put(text, modal, "cannot", 0))
    also = re.search(r"\b(can|may) also\b", text)
    if also and also[1] == "can":
        inserted.append(put(text, also, "cannot", 0))
    places = [_SINGULAR_VERB.search(text), _PLURAL_VERB.search(text), _IS.search(text)]
    first = min((p for p in places if p), key=lambda p: p.start(), default=None)
    if first is not None:
        word = first[1]
        if first is places[0]:
            form = clean.pick(("does not {}", "does not {}", "fails to {}"), "verb")
            rest = text[first.end() :]
            # "secretes and stores" becomes "does not secrete or store".
            chain = re.match(rf"(?:,? ({_VERB_FORMS}))?,? and ({_VERB_FORMS})\b", rest)
            verb = _THIRD[word]
            if chain:
                others = [_THIRD[w] for w in chain.groups() if w]
                verb = ", ".join([verb, *others[:-1]]) + f" or {others[-1]}"
                rest = rest[chain.end() :]
            lead = text[: first.start()]
            adverb = re.search(r"\b(?!usually|typically)(\w+ly) $", lead)
            if adverb:
                lead, verb = lead[: adverb.start()], f"{adverb[1]} {verb}"
            inserted.append(lead + form.format(verb) + rest)
        elif first is places[1]:
            form = clean.pick(("do not {}", "do not {}", "fail to {}", "never {}"), "verb")
            if first.start() > 1 and re.search(
                r"\b(?:usually|often|mostly) $", text[: first.start()]
            ):
                form = "do not {}"
            inserted.append(put(text, first, form.format(word)))
        else:
            inserted.append(put(text, first, f"{word} not"))
    elif part := _PARTICIPLE.search(text):
        inserted.append(put(text, part, f"not {part[1]}"))
    yield from inserted


def names_of(source_id: str) -> set[str]:
    """Return the names of a source's term and of all above it, in lower case."""
    ids = [source_id, *ancestors(source_id)] if ":" in source_id else []
    found = {n.lower() for i in ids if (t := get_term(i)) for n in (t.label, *t.synonyms)}
    return found


def cell_swapped(clean: Clean) -> Iterator[str]:
    text, above = clean.text, names_of(clean.source_id)
    for found in clean.order(list(CELL.finditer(text)), "where"):
        before = text[: found.start()]
        if before.endswith(("effector ", "central ", "stem ")):
            continue
        if _QUALIFIED.search(before.rstrip()) and " " not in found[1].replace(" cell", ""):
            continue
        if re.match(r"\(|'s\b", text[found.end() :]):
            continue
        for other in clean.order(SWAPS[found[1].lower()], "which"):
            single = re.sub(r"s$", "", other).lower()
            if single in above or has_word(text, single) or has_word(text, other):
                continue
            roots = {w[:8].lower() for w in single.split() if len(w) > 7}
            if any(root in text.lower() for root in roots):
                continue
            if has_word(clean.quote, single) or has_word(clean.quote, other):
                continue
            yield put(text, found, other)


def alike(name: str) -> set[str]:
    found = {n for _, entry in ENTRIES if name in entry for n in entry} | {name}
    for group in _ALIKE:
        if found & group:
            found |= group
    return found


def form_of(name: str) -> str:
    if name.startswith("CD") and re.fullmatch(r"CD\d\w*", name) and name not in ("CD79A", "CD79B"):
        return "antigen"
    if re.fullmatch(r"[A-Z][A-Z0-9]+(?:-[A-Z]+\d*)?|C\d+orf\d+", name):
        return "gene"
    return "mouse" if re.fullmatch(r"[A-Z][a-z]+\d+[A-Za-z]?", name) else "word"


_LINEAGE = re.compile(
    r"(?:-positive,? (?:T|alpha|regulatory|cytotoxic|helper)| lineage| (?:cytotoxic|T)\b)"
)


def marker_swapped(clean: Clean) -> Iterator[str]:
    text = clean.text
    for found in clean.order(list(MARKER.finditer(text)), "where"):
        family = next(f for f, e in ENTRIES if found[1] in e)
        form = "antigen" if found[1] == "F4/80" else form_of(found[1])
        is_lineage = _LINEAGE.match(text[found.end() :]) is not None
        for entry in clean.order(family, "which"):
            forms = [n for n in entry if form_of(n) == form]
            if not forms or (is_lineage and entry[0] not in ("CD4", "CD8")):
                continue
            new = forms[0]
            close = alike(new)
            if close & alike(found[1]) or any(has_word(clean.source, n) for n in close):
                continue
            if any(has_word(text, n) for n in close):
                continue
            made = put(text, found, new)
            # "CD127 (IL7R)" would betray the swap: the second name goes.
            end = found.start(1) + len(new)
            rest = re.match(r" \((\S+?)\)", made[end:])
            if rest and rest[1] in alike(found[1]):
                made = made[:end] + made[end + rest.end() :]
            before = re.search(r"(\S+) \($", made[: found.start(1)])
            if before and before[1] in alike(found[1]):
                continue
            yield made


def place_swapped(clean: Clean) -> Iterator[str]:
    text, source = clean.text, clean.source
    for found in clean.order(list(PLACE.finditer(text)), "where"):
        before = text[: found.start()]
        if _ODD_PLACE.search(text) or re.search(
            r"(?:under the|red|white|cord|peripheral|arterial|maternal|that lines|T cells,) $",
            before,
            re.I,
        ):
            continue
        for other in clean.order(PLACES[found[1].lower()], "which"):
            if has_word(clean.quote, other) or has_word(text, other):
                continue
            yield put(text, found, other)
    # A place is added only where the cell is bound to another one, or the profile is of blood.
    if clean.source_id.startswith("CL:"):
        if not _BOUND.search(label(clean.source_id)):
            return
    elif not clean.source_id.startswith("NOTE:") or number(clean.item.item_id) % 2:
        return
    if PLACE.search(text) or _NO_ADDED_PLACE.search(text):
        return
    for phrase, words in clean.order(ADDED_PLACES, "added"):
        if not any(w in f"{label(clean.source_id)} {source}".lower() for w in words.split()):
            yield tail(text, f" {phrase}")


_NUMBER = re.compile(
    r"(?<![\w.,/+'-])(?<!coronavirus )(?<!type )(?<!Type )(?<!layers )(?<!layer )(?<!class )(?<!grade )"
    r"(?<!group )(?<!meiosis )(?<!receptor type )(?<!keratins )(?<!factor )(?<!chain )(?<!al., )(?<!receptor )(?<!Diabetes )(?<!subunit )"
    r"(\d+(?:\.\d+)?)(?![\w.]*\w)(?!-positive|-negative)(?!')"
)
_WORDS = (
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "twelve",
    "twenty",
)
_NUMBER_WORD = re.compile(
    r"\b(two|three|four|five|six|eight|ten|twice|twofold)\b(?! of\b| sorts| in ten)|\b(single)\b(?= layer| axon)"
    r"|\b(one) (?=axon|large|percent)",
    re.IGNORECASE,
)


_HEAD = re.compile(
    r"((?:[A-Z][\w/+-]*)(?: [\w/+-]+){0,4}? (?:cells|neurons|progenitors)|"
    r"[A-Z][a-z]+(?:cytes|blasts|phages|clasts|phils)) "
    r"(?=express|carry|lack|secrete|release|bear|have|contain|are |produce|show|make|display)"
)
_QUANTIFIED = ("The ", "Most ", "Some ", "All ", "In ", "About ", "Only ", "Although ", "By ")
_KEEPS_CAPITAL = re.compile(
    r"[A-Z]{2}|[A-Z]\w*\d|[A-Z] |Th\d|Bm\d|Purkinje|Kupffer|Leydig|Sertoli|Merkel|Paneth|Schwann|Bergmann|"
    r"Langerhans|Long-term HSC"
)
_FRAGMENT = re.compile(
    r"An? [^,.;]*?\b(?:cell|neuron|monocyte|macrophage|fibroblast|astrocyte|adipocyte|thymocyte|oocyte)"
    r" (?:that|which) (?!is part)[^.;]*\.$"
)


def renumbered(clean: Clean) -> Iterator[str]:
    """Yield the text with a number changed, or with one that the source does not have."""
    text = clean.text
    for found in clean.order(list(_NUMBER.finditer(text)), "where"):
        value = float(found[1])
        if 1900 < value < 2100:
            continue
        percent = re.match(r"(?:[- ]to[- ]\d+|-\d+)?\s*(?:%|percent)", text[found.end() :])
        options = [value * 2, value * 3, value + 10, value / 2]
        if percent or re.search(r"\d(?: to | and |-)$", text[: found.start()]):
            options = [o for o in options if o < 100]
        for option in clean.order(options, "value"):
            shown = f"{option:g}" if value % 1 or option >= 10 else f"{max(1, round(option))}"
            if "." in shown and not value % 1:
                continue
            upper = re.match(r"(?: to | and |-)(\d+)", text[found.end() :])
            if upper and float(shown) >= float(upper[1]):
                continue
            lower = re.search(r"(\d+)(?: to | and |-)$", text[: found.start()])
            if lower and float(shown) <= float(lower[1]):
                continue
            if shown != found[1] and not has_word(clean.quote, shown):
                yield put(text, found, shown)
    for word in clean.order(list(_NUMBER_WORD.finditer(text)), "words"):
        group = next(n for n in (1, 2, 3) if word[n])
        old = word[group].lower()
        new = {"twice": "five times", "twofold": "fivefold", "single": "double"}.get(old, "")
        if not new:
            new = clean.pick(
                [
                    w
                    for w in _WORDS[1:8]
                    if w != old and abs(_WORDS.index(w) - _WORDS.index(old)) > 1
                ],
                "word",
            )
        if old == "one":
            if re.match(r"\S+ (?:axon|large|percent)", text[word.start() :]) is None:
                continue
            new = {"percent": "five"}.get(text[word.end() :].split()[0].strip(".,"), "")
            if not new:
                continue
        upper = re.match(r" to (\w+)", text[word.end(group) :])
        lower = re.search(r"(\w+) (?:to|in) $", text[: word.start(group)])
        if lower and lower[1] in _WORDS:
            continue
        if upper and upper[1] in _WORDS and _WORDS.index(new) >= _WORDS.index(upper[1]):
            new = _WORDS[_WORDS.index(old) - 2]
        if not has_word(clean.quote, new):
            yield put(text, word, new, group)
    if _NUMBER.search(text):
        return
    n = clean.pick((15, 30, 40, 60, 75), "percent")
    days = clean.pick((2, 3, 5, 12, 21), "days")
    genes = clean.pick((12, 35, 80, 200), "genes")
    change = r"(?<!not )(?<!to )\b(?:differentiates?|becomes?|arises?|develops?|migrates?|divides?|travel|converts?)\b"
    odd = r"\b(?:neither|not|without|no|throughout|lifelong|keep|within|days?|until|embryonic)\b"
    is_cell = clean.source_id.startswith(("CL:", "NOTE:"))
    if is_cell and re.search(change, text) and not re.search(odd, text) and len(text) < 150:
        yield tail(text, f" within {days} days")
    head = _HEAD.match(text)
    hedged = re.search(
        r"\b(?:mostly|usually|often|only|all|always|chiefly|most|germ cells are)\b", text
    )
    if head and not hedged and not text.startswith(_QUANTIFIED):
        first = head[1] if _KEEPS_CAPITAL.match(head[1]) else head[1][0].lower() + head[1][1:]
        yield f"About {n} percent of {first} {text[head.end() :]}"
    marked = len(list(MARKER.finditer(text))) > 1 and " gene" not in text and "because" not in text
    if marked and re.search(r"(?:positive|[A-Z0-9]{3,})\.$", text):
        yield tail(text, f", together with about {genes} further genes")
    if _FRAGMENT.match(text) and not re.search(odd, text) and len(text) < 160:
        size = clean.pick((4, 7, 18, 35, 90), "size")
        yield tail(text, f" and measures about {size} micrometers")


_SEX_PAIRS = (
    ("female", "male"),
    ("females", "males"),
    ("women", "men"),
    ("Women", "Men"),
    ("Female", "Male"),
    ("mother's", "father's"),
    ("maternal", "paternal"),
)
_STAGE_PAIRS = (
    ("fetus", "adult"),
    ("fetal", "adult"),
    ("embryo", "adult"),
    ("embryonic", "adult"),
    ("newborns", "older adults"),
    ("Newborn", "Adult"),
    ("Embryonic", "Adult"),
    ("adults", "newborns"),
    ("adult", "fetal"),
    ("Adult", "Fetal"),
    ("children", "older adults"),
    ("early", "late"),
)
SEX_TAILS = {
    MALE: (" in females", " in women", " in female donors"),
    FEMALE: (" in males", " in men", " in male donors"),
}
STAGE_TAILS = (
    " in the fetus",
    " during fetal life",
    " in the embryo",
    " in newborns",
    " before birth",
)


def sexed(clean: Clean) -> Iterator[str]:
    """Yield the text with a sex or stage that contradicts the source, the sentence or the profile."""
    text, subject = clean.text, clean.item.subject
    both = [*_SEX_PAIRS, *((b, a) for a, b in _SEX_PAIRS), *_STAGE_PAIRS]
    made = []
    for old, new in both:
        found = re.search(rf"(?<![\w-])({old})(?![\w-])", text)
        if (
            found
            and not has_word(text, new)
            and not re.search(r"\b(?:and|or) $", text[: found.start()])
        ):
            if old == "adult" and re.match(r" (?:women|men|blood|has)", text[found.end() :]):
                continue
            if (
                new == "adult"
                and old in ("fetus", "embryo")
                and not re.search(r"the $", text[: found.start()])
            ):
                continue
            if old == "children" and "younger than" in text:
                continue
            made.append(put(text, found, new))
    yield from clean.order(made, "swap")
    if re.search(
        r"\b(?:in|during|before|at|of) (?:the |an? )?(?:humans|men|women|embryo|fetus|adults?|newborns?|mice)\b",
        text,
        re.I,
    ):
        return
    if FEMALE_WORD.search(text) and MALE_WORD.search(text):
        return
    key = "sex_ontology_term_id"
    specific = FEMALE_WORD.search(text) or MALE_WORD.search(text)
    options = [] if specific else list(SEX_TAILS.get(subject[key], ()))
    if "droplet" in clean.source_id:
        return
    options = (
        options[:1] + options[2:] if clean.source_id.startswith(("CL:", "UBERON:")) else options
    )
    if subject["development_stage_ontology_term_id"] == ADULT and not EARLY_WORD.search(text):
        options += (
            STAGE_TAILS[:3] if clean.source_id.startswith("MONDO:") is False else STAGE_TAILS[3:4]
        )
    options = clean.order(options, "tail")
    head = re.match(r"(?:The |An? )?([A-Z][a-z]|[a-z])", text)
    for phrase in options:
        style = clean.pick(("end", "front", "end"), "style", phrase)
        opening = re.match(r"[A-Z][a-z]+(?: [a-z-]+)* ", text)
        if (
            style == "front"
            and opening
            and head
            and not re.match(
                r"(?:An?|In|On|By|With|The|Unlike|During|Between|Of|Among|At|More|Purkinje|Kupffer|Leydig|Sertoli|"
                r"Merkel|Paneth|Bergmann|Parkinson|Crohn|Hashimoto|Turner|Sjogren|Langerhans|Golgi|Peyer|Schwann|Graves)\b",
                text,
            )
            and text[1].islower()
        ):
            lead = phrase.strip()
            yield f"{lead[0].upper()}{lead[1:]}, {text[0].lower()}{text[1:]}"
        else:
            yield tail(text, phrase)


_QUOTE_WORDS = tuple(
    tuple(pair.split("/"))
    for pair in (
        "secretes/releases produces/makes expresses/displays lacks/contains gives/give mature/immature "
        "large/small high/low low/high most/few derived/distinct rapidly/slowly "
        "usually/always often/rarely mainly/only sole/main inner/outer inhibitory/excitatory more/less "
        "fewer/more little/much anterior/posterior acute/chronic chronic/acute rare/common common/rare "
        "male/female female/male positive/negative negative/positive abundant/scarce strong/weak "
        "capable/incapable located/scattered resident/circulating "
        "progressive/stable essential/dispensable minimal/excessive autoimmune/infectious "
        "contains/holds carry/have express/contain develop/originate typically/invariably "
        "numerous/few primary/secondary elongated/rounded adult/fetal "
        "with/without"
    ).split()
)


def misquoted(clean: Clean) -> Iterator[tuple[str, str]]:
    """Yield pairs of altered quote and text; the text follows the quote in about half of them."""
    quote, text = clean.quote, clean.text
    made: list[str] = []
    for old, new in clean.order(_QUOTE_WORDS[:-1], "word"):
        if found := re.search(rf"(?<![\w-])({old})(?![\w-])", quote):
            made.append(put(quote, found, new))
            break
    for pattern, new in (
        (r"\bnot ", ""),
        (r"\bno longer\b", "still"),
        (r"\bbut no\b", "and"),
        (r"\bfound in\b", "absent from"),
        (r"\bwithout\b", "with"),
        (r"-negative\b", "-positive"),
        (r"-positive\b", "-high"),
    ):
        if re.search(pattern, quote):
            made.append(re.sub(pattern, new, quote, count=1))
            break
    if found := _NUMBER.search(quote):
        made.append(put(quote, found, f"{float(found[1]) + 1:g}"))
    if marks := list(MARKER.finditer(quote)):
        other = Clean(replace(clean.item, text=quote), clean.source_id, quote, clean.seed)
        made += list(marker_swapped(other))[:1] if marks else []
    if clean.item.kind == "paraphrase":
        made.append(text)  # a true sentence that is not the source's
    words = quote.split(" ")
    if len(words) > 8:
        cut = 2 + clean.pick(range(len(words) - 4), "cut")
        made.append(" ".join([*words[:cut], *words[cut + 1 :]]))
    shortened = made[-1:] if len(words) > 8 else []
    last = bool(clean.pick(range(3), "shortened"))
    follows = number(clean.seed, clean.item.item_id, "follows") % 2 == 0
    ordered = sorted(
        clean.order(made, "altered"), key=lambda m: (last or follows) and m in shortened
    )
    for altered in ordered:
        is_followed = follows and altered not in shortened
        yield altered, (altered.removesuffix(".") + "." if is_followed else text)


def wrong_ids(clean: Clean) -> Iterator[str]:
    """Yield ids that were not offered: of another snippet, one character off, or of another form."""
    true = clean.item.citations[0][0]
    place = clean.pick(range(len(true)), "place")
    digit = clean.pick([c for c in "0123456789abcdef" if c != true[place]], "digit")
    near = true[:place] + digit + true[place + 1 :]
    elsewhere = clean.pick(defined(), "elsewhere")
    other = snippet_id(elsewhere, 0)
    made = hashlib.sha256(f"{clean.item.item_id} invented".encode()).hexdigest()[:16]
    yield from clean.order([near, near, other, other, made, elsewhere], "id")


# --- items -------------------------------------------------------------------------------------

SEMANTIC: dict[str, Callable[[Clean], Iterator[str]]] = {
    "negation": negated,
    "swapped_cell_type": cell_swapped,
    "swapped_marker": marker_swapped,
    "wrong_tissue": place_swapped,
    "invented_number": renumbered,
    "sex_or_stage": sexed,
}


def facet_of(source_id: str, text: str, subject: dict[str, str]) -> str:
    if source_id.startswith("MONDO:"):
        return "disease"
    if source_id.startswith("UBERON:"):
        return "tissue"
    if re.search(r"\b(?:fe)?males?\b|\b(?:wo)?men\b|\bXIST\b", text):
        return "sex"
    if re.search(
        r"\b(?:newborns?|fetus|fetal|older adults|children|embryo\w*)\b", text, re.IGNORECASE
    ):
        return "development_stage"
    if MARKER.search(text):
        return "markers_function"
    if PLACE.search(text) and subject["tissue"]:
        return "tissue"
    is_start = text in sentences(source_id)[:1]
    return "identity" if is_start or number(text) % 3 == 0 else "markers_function"


def clean_items(seed: int) -> list[Clean]:
    """Return a verbatim item for each sentence in the table, and one for each paraphrase."""
    found: list[Clean] = []
    seen: set[tuple[str, str]] = set()
    # Sentences that only the corruptions by hand use have no paraphrase.
    rows = [*table("paraphrases.tsv"), *((r[0], r[1], "") for r in table("corrupted.tsv"))]
    for row, (source_id, index, paraphrase) in enumerate(rows):
        sentence = sentences(source_id)[int(index)]
        quote = _REFERENCE.sub("", sentence)
        if number(seed, source_id, index, "period") % 5 == 0:
            quote = quote.removesuffix(".")
        subject = subject_of(source_id, sentence, seed)
        shown = offered(source_id, quote, seed)
        true = next(s for s in shown if s[1] == source_id and quote in s[3])
        plain = _REFERENCE.sub("", sentence)
        texts = {"paraphrase": paraphrase, "verbatim": plain if plain[-1] == "." else f"{plain}."}
        for kind, text in texts.items():
            if not text or (source_id, text) in seen:
                continue
            seen.add((source_id, text))
            item = Item(
                item_id=f"{source_id}/{index}/{kind[0]}{row if kind == 'paraphrase' else ''}",
                kind=kind,
                split=split_of(source_id),
                subject=subject,
                text=text,
                facet=facet_of(source_id, text, subject),
                citations=((true[0], quote),),
                offered=shown,
            )
            found.append(Clean(item, source_id, quote, seed))
    return found


def corrupted(clean: Clean, kind: str, right: set[str]) -> Item | None:
    """Return the first usable corruption of a kind; None where its rules do not fit the sentence."""
    item, (true, quote) = clean.item, clean.item.citations[0]
    named = f"{item.item_id}/{kind}"
    if kind == "wrong_id":
        ids = {s[0] for s in item.offered}
        for wrong in wrong_ids(clean):
            if wrong not in ids:
                return replace(
                    item,
                    item_id=named,
                    kind=kind,
                    citations=((wrong, quote),),
                    base_id=item.item_id,
                )
    elif kind == "altered_quote":
        everywhere = [" ".join(s[3].lower().split()) for s in item.offered]
        for altered, text in misquoted(clean):
            if not any(altered.lower().rstrip(".") in shown for shown in everywhere):
                return replace(
                    item,
                    item_id=named,
                    kind=kind,
                    text=text,
                    citations=((true, altered),),
                    base_id=item.item_id,
                )
    else:
        for text in SEMANTIC[kind](clean):
            if text not in right and is_fluent(text) and not _STILL_RIGHT.search(text):
                return replace(
                    item,
                    item_id=named,
                    kind=kind,
                    text=text,
                    base_id=item.item_id,
                    facet=sex_facet(text, item) if kind == "sex_or_stage" else item.facet,
                )
    return None


def sex_facet(text: str, item: Item) -> str:
    new = set(re.findall(r"\w+", text.lower())) - set(re.findall(r"\w+", item.text.lower()))
    return (
        "sex"
        if new & {"male", "males", "female", "females", "men", "women"}
        else "development_stage"
    )


# Seen by eye: sentences that a rule made and that happen to be right, or nearly so.
_STILL_RIGHT = re.compile(
    r"asophils are (?:mostly absent|largely missing)|osinophils are (?:mostly absent|largely missing)|"
    r"does not identify a CD4|call a cell a CD4|CD8A as a CD4|(?:meiosis|oocyte|oogonial).*\b(?:fetus|fetal|embryo|birth)"
)


def is_fluent(text: str) -> bool:
    """Say whether a made sentence is free of the marks of a rule that went wrong."""
    return not re.search(
        r"\b(\w+) \1\b|  |\ba [aeiou]\w|\bnot (?:no|not)\b|\band both\b.*\bboth\b|\bcannot not\b| ,|"
        r"\bcell cell\b|\bin the [\w ]+ in the [\w ]+\.$",
        text,
    )


def hand_items(base: dict[tuple[str, int], Clean]) -> list[Item]:
    made = []
    for row, (source_id, index, kind, text) in enumerate(table("corrupted.tsv")):
        parent = base[source_id, int(index)]
        made.append(
            replace(
                parent.item,
                item_id=f"{source_id}/{index}/hand{row}/{kind}",
                kind=kind,
                text=text,
                facet=facet_of(source_id, text, parent.item.subject),
                base_id=parent.item.item_id,
                by_hand=True,
            )
        )
    return made


def make_items(seed: int = 0) -> list[Item]:
    """Return all items: clean ones, those that rules corrupted, and those corrupted by hand."""
    cleans = clean_items(seed)
    right = {c.item.text for c in cleans}
    made: list[Item] = [c.item for c in cleans]
    for kind in CORRUPTIONS:
        found = [i for c in cleans if (i := corrupted(c, kind, right)) is not None]
        found.sort(key=lambda i: number(seed, "kept", i.item_id))
        made += found[:MOST]
    first = {}
    for clean in cleans:
        if clean.item.kind == "verbatim":
            index = int(clean.item.item_id.split("/")[-2])
            first[clean.source_id, index] = clean
    made += hand_items(first)
    check(made)
    return made


def check(items: Sequence[Item]) -> None:
    """Assert what the evaluation relies on."""
    assert len({i.item_id for i in items}) == len(items)
    clean = {(i.text, i.citations) for i in items if not i.base_id}
    texts = {text for text, _ in clean}
    counts = Counter((i.kind, i.split) for i in items)
    for kind in CORRUPTIONS:
        assert sum(counts[kind, split] for split in ("tune", "test")) >= 80, kind
        assert min(counts[kind, split] for split in ("tune", "test")) >= 20, kind
    for item in items:
        shown = {s[0]: s[3] for s in item.offered}
        assert 4 <= len(shown) == len(item.offered) <= 8, item.item_id
        cited, quote = item.citations[0]
        assert (cited in shown) == (item.kind != "wrong_id"), item.item_id
        if item.kind == "altered_quote":
            assert quote not in shown[cited], item.item_id
        elif item.kind != "wrong_id":
            assert quote in shown[cited], item.item_id
        if item.kind in CORRUPTIONS:
            assert (item.text, item.citations) not in clean, item.item_id
        if item.kind in SEMANTIC:
            assert item.text not in texts, item.item_id


def main() -> None:
    items = make_items()
    counts = Counter((i.kind, i.split) for i in items)
    by_hand = Counter(i.kind for i in items if i.by_hand)
    print(f"{'kind':<20}{'tune':>6}{'test':>6}{'hand':>6}")
    for kind in ("verbatim", "paraphrase", *CORRUPTIONS):
        print(f"{kind:<20}{counts[kind, 'tune']:>6}{counts[kind, 'test']:>6}{by_hand[kind]:>6}")
    for kind in ("verbatim", "paraphrase", *CORRUPTIONS):
        print(f"\n{kind}")
        mine = [i for i in items if i.kind == kind]
        for item in random.Random(1).sample(mine, 3):
            print(f"  {item.text}\n    [{item.citations[0][0]}] {item.citations[0][1]}")


if __name__ == "__main__":
    main()
