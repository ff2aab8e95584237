"""Where the cells come from, told in a sentence of tissue and one of the donors."""

from __future__ import annotations

import re

from okrcell.enrich.definitions import appositive
from okrcell.enrich.draft import Facet, Sentence
from okrcell.enrich.own_terms import Term
from okrcell.enrich.wording import joined

__all__ = ["donor_sentences", "tissue_sentences"]

_AGE = re.compile(r"(\d+)-(year|month)-old(?: (?:human )?stage)?")
_GROWN = re.compile(r"(?:human )?adult(?: stage)?")
_SEXES = ("female", "male")
_LONGEST = 40  # words of a disease's definition


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
    is_adult = stage is not None and _GROWN.fullmatch(stage.label) is not None
    if stage and not is_adult:
        traits.append(_at_stage(stage.label))
    facet: Facet = known[0][0]
    names = tuple(term.name() for _, term in known)
    if is_adult:
        who = f"The donors are {' '.join([*traits, 'adults'])}"
    elif disease and len(traits) > 1:
        who = f"The donors, {joined(traits)},"
    else:
        who = f"The donors are {joined(traits)}" if traits else "The donors"
    if disease is None:
        return [Sentence(text=f"{who}.", facet=facet, citations=names)]
    if disease.is_normal:
        link = " " if is_adult else " and " if len(traits) == 1 else " are "
        # Not "healthy" or "without disease": the label says no more than this.
        text = f"{who}{link}in {disease.label} condition."
        return [Sentence(text=text, facet=facet, citations=names)]
    link = " with " if is_adult else " and have " if len(traits) == 1 else " have "
    text = f"{who}{link}{disease.label}"
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
    older = re.fullmatch(r"(\d+) year-old and over stage", label)
    if older:
        return f"aged {older[1]} years and over"
    decade = re.fullmatch(r"(\w+ decade) stage", label)
    if decade:
        return f"in the {decade[1]} of life"
    if label.startswith("Carnegie"):
        return f"at {label}"
    return f"at the {label}" if "stage" in label else f"at the stage {label}"
