"""Where the cells come from, told in a sentence of tissue and one of the donors."""

from __future__ import annotations

import re
from dataclasses import dataclass

from okrcell.enrich.definitions import appositive
from okrcell.enrich.draft import Citation, Facet, Sentence
from okrcell.enrich.wording import joined

__all__ = ["Term", "donor_sentences", "tissue_sentences"]

_AGE = re.compile(r"(\d+)-(year|month)-old(?: (?:human )?stage)?")
_GROWN = re.compile(r"(?:human )?adult(?: stage)?")
_SEXES = ("female", "male")
_LONGEST = 40  # words of a disease's definition


@dataclass(frozen=True)
class Term:
    """A facet's own term as an offered passage has it: label and definition, verbatim."""

    snippet_id: str
    label: str
    definition: tuple[str, ...]
    is_normal: bool = False

    def name(self) -> Citation:
        """Return the citation of the label."""
        return Citation(snippet_id=self.snippet_id, quote=self.label)

    def defined(self) -> Citation:
        """Return the citation of the label and the definition's first sentence."""
        quote = f"{self.label}: {self.definition[0]}" if self.definition else self.label
        return Citation(snippet_id=self.snippet_id, quote=quote)


def tissue_sentences(tissue: Term) -> list[Sentence]:
    """Return the sentence that names the tissue, then a longer form that says what it is."""
    name = tissue.label if re.match("the ", tissue.label, re.I) else f"the {tissue.label}"
    plain = Sentence(
        text=f"The cells come from {name}.", facet="tissue", citations=(tissue.name(),)
    )
    what = appositive(tissue.label, tissue.definition[0]) if tissue.definition else ""
    if not what:
        return [plain]
    text = f"The cells come from {name}, {what}."
    return [plain, Sentence(text=text, facet="tissue", citations=(tissue.defined(),))]


def donor_sentences(terms: dict[Facet, Term]) -> list[Sentence]:
    """Return the sentence on disease, stage and sex, then a form that also defines the disease.

    Parameters
    ----------
    terms
        Of the facets that have evidence.
    """
    disease, stage, sex = (terms.get(f) for f in ("disease", "development_stage", "sex"))
    known = [(f, terms[f]) for f in ("disease", "development_stage", "sex") if f in terms]
    if not known:
        return []
    traits = [sex.label if sex.label in _SEXES else f"of the sex {sex.label}"] if sex else []
    noun = ""
    if stage and _GROWN.fullmatch(stage.label):
        noun = "adults"
    elif stage:
        traits.append(_at_stage(stage.label))
    lead = (
        f"The donors are {' '.join([*traits, noun])}"
        if noun
        else f"The donors are {joined(traits)}"
    )
    if not traits and not noun:
        lead = "The donors"
    facet: Facet = known[0][0]
    names = tuple(term.name() for _, term in known)
    if disease is None:
        return [Sentence(text=f"{lead}.", facet=facet, citations=names)]
    if disease.is_normal:
        health = f"in {disease.label} condition, with no known disease"
        link = "" if noun else " and" if len(traits) == 1 else ","
        text = f"{lead} {health}." if not traits and noun else f"{lead}{link} {health}."
        if lead == "The donors":
            text = f"The donors are {health}."
        return [Sentence(text=text, facet=facet, citations=names)]
    text = f"{lead} with {disease.label}"
    if lead == "The donors":
        text = f"The donors have {disease.label}"
    elif not noun:
        text = f"{lead} and have {disease.label}"
    sentences = [Sentence(text=f"{text}.", facet=facet, citations=names)]
    what = appositive(disease.label, disease.definition[0]) if disease.definition else ""
    if what and len(what.split()) <= _LONGEST:
        cited = (disease.defined(), *names[1:])
        sentences.append(Sentence(text=f"{text}, {what}.", facet=facet, citations=cited))
    return sentences


def _at_stage(label: str) -> str:
    """Return a stage as what a donor is: "26 years old", "at the fetal stage"."""
    age = _AGE.fullmatch(label)
    if age:
        return f"{age[1]} {age[2]}{'' if age[1] == '1' else 's'} old"
    if label.startswith("Carnegie"):
        return f"at {label}"
    return f"at the {label}" if "stage" in label or "decade" in label else f"at the stage {label}"
