"""What the CELLxGENE schema allows in a field, and how authors write it: sexes, ages, health, assays."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from okrcell.corpus.ontology import Ontology, Term

__all__ = ["allowed_terms", "spelled_out"]

_SEX = "PATO:0001894"
_NORMAL = "PATO:0000461"

_ALIASES = {
    "sex": {
        "m": "male", "f": "female", "man": "male", "woman": "female", "men": "male",
        "women": "female", "boy": "male", "girl": "female",
    },
    "disease": dict.fromkeys(
        (
            "healthy", "healthy control", "healthy donor", "healthy volunteer", "control", "ctrl",
            "non-diseased", "nondiseased", "no disease", "disease-free", "unaffected",
        ),
        "normal",
    ),
    "assay": {
        "10x v1": "10x 3' v1", "10xv1": "10x 3' v1", "10x v2": "10x 3' v2", "10xv2": "10x 3' v2",
        "10x v3": "10x 3' v3", "10xv3": "10x 3' v3", "10x v4": "10x 3' v4", "10xv4": "10x 3' v4",
        "10x chromium v2": "10x 3' v2", "10x chromium v3": "10x 3' v3", "ss2": "Smart-seq2",
        "smartseq2": "Smart-seq2", "smart-seq 2": "Smart-seq2", "dropseq": "Drop-seq",
        "indrops": "inDrop", "celseq2": "CEL-seq2", "10x multiome v1": "10x multiome",
    },
}  # fmt: skip
_AGE = re.compile(
    r"(?:age[ :]*)?(\d{1,3})[- ]*(?:years?|yrs?|yo|y)?(?:[- /.]*o(?:ld)?)?", re.IGNORECASE
)
_MONTHS = re.compile(r"(\d{1,2})[- ]*(?:months?|mo)(?:[- ]*old)?", re.IGNORECASE)


def spelled_out(field: str, label: str) -> str:
    """Return a label as the field's ontologies write it where authors have a usual short form.

    ``M`` is male, ``healthy`` normal, ``42 y`` a 42-year-old stage; anything else stays as it is.
    """
    known = _ALIASES.get(field, {}).get(" ".join(label.casefold().split()))
    if known:
        return known
    if field == "development_stage":
        for pattern, unit in ((_AGE, "year"), (_MONTHS, "month")):
            age = pattern.fullmatch(label.strip())
            if age and int(age.group(1)) > 0:
                return f"{int(age.group(1))}-{unit}-old stage"
    return label


def allowed_terms(field: str, ontologies: Sequence[Ontology]) -> Iterator[Term]:
    """Yield the terms that a field may have: of PATO the sexes, or ``normal`` for a disease."""
    for ontology in ontologies:
        for term in ontology.terms():
            if ontology.name == "pato" and field == "sex":
                if _SEX not in ontology.ancestors(term.term_id):
                    continue
            elif ontology.name == "pato" and field == "disease" and term.term_id != _NORMAL:
                continue
            yield term
