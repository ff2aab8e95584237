"""The first sentence of a definition, told of the thing that it defines.

Ontologies write "natural killer cell: A lymphocyte that ...", "Any cell that ...", "Neuron with ...",
"Basket cells are ...", "This cell type produces ...". Each becomes a sentence whose subject is the name,
or nothing where that cannot be done safely.
"""

from __future__ import annotations

import re

from okrcell.enrich.names import tokenise
from okrcell.enrich.wording import capital, closed, lowered, plural, tidy, with_article

__all__ = ["appositive", "is_about_the_term", "shortest", "spoken", "tell"]

_SPECIES = re.compile(r" \((?:Mmus|Hsap|Primate|Homo sapiens|Mus musculus|[Hh]uman|[Mm]ouse)\)$")
_BEHIND = re.compile(
    r"^(.*), (human|mouse|terminally differentiated|[\w-]+-(?:positive|negative|low|high|dim|bright))$"
)

_LINK = (
    r"that|which|who|whose|where|when|with|without|within|of|in|on|from|for|to|at|by|located|found|derived|"
    r"formed|forming|lining|resident|residing|resembling|capable|destined|rich|not|is|are|was|has|have|"
    r"contained|associated|characteri[sz]ed|being|arising|occurring|producing|secreting|produced|committed|"
    r"expressing|containing|involved|responsible|specialized|adjacent|present"
)
_HEAD_END = re.compile(rf"[;:(]|,(?! (?:alpha|gamma))| (?:{_LINK})\b|$")
_NOUN = re.compile(
    r"(?:cells?|neurons?|cytes?|blasts?|clasts?|phages?|phils?|precursors?|progenitors?|types?|subsets?|"
    r"subtypes?|lymphocytes?|fibers?|glia|astrocytes?|myocytes?|cytoplasm|heterochromatin|ectoderm|"
    r"interneurons?|tanycytes?|spores?|tissues?|organs?|glands?|muscles?|structures?|regions?|portions?|"
    r"layers?|membranes?|parts?|stages?|fluid|vessels?|bones?|ducts?|joints?|disorders?|diseases?|"
    r"syndromes?|neoplasms?|tumou?rs?|carcinomas?|conditions?|forms?|infections?|inflammation|lymphomas?|"
    r"leuka?emias?|clusters?|zones?|epitheli(?:um|a)|cartilages?|process(?:es)?|lobes?|nodes?|nucle(?:us|i)|"
    r"cort(?:ex|ices)|arter(?:y|ies)|veins?|nerves?|cavit(?:y|ies)|deficienc(?:y|ies)|abnormalit(?:y|ies))$",
    re.I,
)
_DETERMINED = re.compile(r"(?:An?|The|One|Two|Either|Each|Any of|Some)\b ?")
_CLAUSE = re.compile(r"^(?:an? |the )?[^,;:()]{2,80}?(?:\([^()]*\) ?)? (is|are) (?!that\b)", re.I)
_RELATIVE = re.compile(rf" (?:{_LINK})\b.*")
_VERB = re.compile(
    r"(?:Supports|Forms|Secretes|Produces|Expresses|Innervates|Contains|Provides|Lines|Synthesizes) "
)
_PARTICIPLE = re.compile(r"(?:Located|Found|Derived|Characterized|Responsible|Involved) ")
_THIS = re.compile(r"This (?:type of )?(?:cell(?: type|-type)?|neuron(?: type)?)(?= )")
_CUT = re.compile(
    r"(?:,? (?:that|which|whose|who|where)\b|[;:]|, (?:and|located|characterized|with)\b).*"
)
_NEXT = re.compile(r"(?<=[a-z]{3})(?<!subsp)(?<!approx)\.(?: (?=[a-z])|nn(?=[A-Z]))")
_FOREIGN = re.compile(r"^(?:In|During|Among|Within|Upon|At|Under|When|After|Most generally) ")


def tell(name: str, definition: str) -> str:
    """Return the first sentence of a definition as one about ``name``, or "" where it cannot be told."""
    subject, plain = spoken(name), _first(definition)
    if not plain or len(plain.split()) < 2:
        return ""
    own = _led_by(name, subject, plain)
    if own is not None:
        return own
    this = _THIS.match(plain)
    if this:
        return closed(capital(f"{with_article(subject)}{plain[this.end() :]}"))
    if _VERB.match(plain):
        return closed(capital(f"{with_article(subject)} {lowered(plain)}"))
    if _PARTICIPLE.match(plain) and " this " not in plain:
        return closed(capital(f"{with_article(subject)} is {lowered(plain)}"))
    if _FOREIGN.match(plain):
        return closed(plain) if is_about_the_term(plain, name) else ""
    clause = _CLAUSE.match(plain)
    if clause and not _RELATIVE.search(clause[0][: clause.start(1)].rstrip()):
        return _of_clause(subject, plain, clause)
    if is_about_the_term(plain, name):
        # "An inhibitory neuron, the Purkinje cell's soma is ..." goes on with another sentence.
        plain = re.sub(rf", (?:an?|the) {re.escape(name)}(?:'s)?\b.*", "", plain)
    phrase = _phrase(plain)
    if not phrase or tokenise(phrase) == tokenise(with_article(subject)):
        return ""
    if _is_plural(plain):
        return closed(capital(f"{plural(subject)} are {phrase}"))
    return closed(capital(f"{with_article(subject)} is {phrase}"))


def appositive(name: str, definition: str) -> str:
    """Return a definition as it may follow ``name`` and a comma, or ""."""
    plain = _first(definition)
    if any(form.match(plain) for form in (_FOREIGN, _THIS, _VERB)) or ";" in plain:
        return ""
    clause = _CLAUSE.match(plain)
    if clause and not _RELATIVE.search(clause[0][: clause.start(1)].rstrip()):
        return ""
    words = tokenise(re.sub(r"^(?:An?|The) ", "", plain))
    named = tokenise(re.sub(r"\(.*?\)", "", name))
    return "" if words[: len(named)] == named else _phrase(plain)


def _first(definition: str) -> str:
    """Return the first sentence without its full stop; the next may begin with a small letter."""
    return _NEXT.split(tidy(definition))[0].rstrip(" .;,")


def shortest(sentence: str) -> str:
    """Return a told definition without what follows its first noun phrase."""
    verb = re.search(r" (?:is|are) ", sentence)
    if not verb:
        return ""
    cut = _CUT.sub("", sentence[verb.end() :]).rstrip(" .,;")
    good = len(cut.split()) >= 2 and cut.count("(") == cut.count(")")
    return closed(sentence[: verb.end()] + cut) if good else ""


def is_about_the_term(text: str, name: str) -> bool:
    """Whether a text names a term."""
    return f" {' '.join(tokenise(name))} " in f" {' '.join(tokenise(text))} "


def spoken(name: str) -> str:
    """Return a label as it reads in a sentence: "ILC1, human" is "human ILC1"."""
    behind = _BEHIND.match(name)
    return f"{behind[2]} {behind[1]}" if behind else _SPECIES.sub("", name)


def _led_by(name: str, subject: str, plain: str) -> str | None:
    """Return a sentence that begins with the name itself; None for any other."""
    words = [re.escape(word) for word in subject.split()]
    for first in range(len(words)):
        if first and len(words) - first < 2:
            break
        names = r"\s+".join(words[first:])
        match = re.match(rf"(?P<article>An? |The )?{names}(?P<s>s|es)?(?P<rest> .*)$", plain, re.I)
        if not match:
            continue
        rest = match["rest"].lstrip()
        if re.match(r"(?:\([^()]*\) )?(?:is|are|has|have|can|comprises?|do|does)\b", rest) or (
            match["s"] and not re.match(rf"(?:{_LINK})\b|[,;(]", rest)
        ):
            if first and not match["s"]:
                return closed(capital(f"{with_article(subject)} {rest}"))
            lead = "" if match["article"] or match["s"] else with_article("").strip()
            text = plain if not lead else f"{with_article(lowered(plain))}"
            return closed(capital(text))
        if first or match["s"]:
            continue
        that = re.match(
            r"that ((?:is|has|can|[a-z]{3,}[^s]s) .*)|(?:with|of) (the phenotype .*|an? .*)", rest
        )
        if that:
            verb = that[1] or f"has {that[2]}"
            return closed(capital(f"{with_article(subject)} {verb}"))
        if name != subject:  # the species tells the two apart
            return closed(capital(f"{with_article(name)} is {lowered(plain)}"))
        return ""  # "A zygote in a plant or an animal" says nothing of a zygote
    return None


def _of_clause(subject: str, plain: str, clause: re.Match[str]) -> str:
    """Tell "Hair cell is a receptor" of the sensory hair cell."""
    rest = plain[clause.start(1) :]
    if clause[1] == "are":
        return closed(capital(plain))
    return closed(capital(f"{with_article(subject)} {rest}"))


def _head(plain: str) -> str:
    """Return a definition up to its head noun, "" where there is no noun that we know."""
    for end in _HEAD_END.finditer(plain):
        head = plain[: end.start()].strip()
        if _NOUN.search(head):
            return head
        if not re.match(r" \w+(?:ing|ed)\b", plain[end.start() :]):
            return ""  # but "Hormone secreting cell" goes on
    return ""


def _is_plural(plain: str) -> bool:
    head = _head(plain)
    single = _DETERMINED.match(capital(plain)) and not plain.startswith(("The ", "Two ", "the "))
    return head.endswith("s") and not head.endswith(("us", "is", "ss")) and not single


def _phrase(plain: str) -> str:
    """Return a definition as a noun phrase with an article, or "" where it is none."""
    anyone = re.match(r"Any (?!of\b)(.*)", plain)
    if anyone:
        return with_article(anyone[1])
    start = capital(plain)
    if _DETERMINED.match(start):
        return lowered(start)
    if not _head(plain):
        return ""
    return lowered(plain) if _is_plural(plain) else with_article(lowered(plain))
