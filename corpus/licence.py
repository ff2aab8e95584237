"""A short name for the licence that an article states in a link or in words."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["licence_name"]

_LINK = re.compile(
    r"creativecommons\.org/(licenses|publicdomain)/([a-z0-9-]+)(?:/(\d\.\d))?(?:/([a-z]{2,3})\b)?",
    re.IGNORECASE,
)
_SHORT = re.compile(r"\bCC[- ](BY(?:-(?:NC|ND|SA))*|0)\b(?:[- ]?(\d\.\d))?", re.IGNORECASE)
_WORDS = re.compile(
    r"creative\s+commons\s*,?\s+attribution"
    r"(?P<nc>[\s\W_]*non[\s-]*commercial)?(?P<nd>[\s\W_]*no[\s-]*deriv\w*(?:\s+works)?)?"
    r"(?P<sa>[\s\W_]*share[\s-]*alike)?"
    r"(?:[\s\W]*(?:\d\.\d\s+)?(?:international|generic|unported|public|license|licence)\b)*"
    r"(?:[\s(,]*(?:version\s*)?(?P<version>\d\.\d))?",
    re.IGNORECASE,
)
_VERSION_INSIDE = re.compile(r"\b([1-4]\.0)\b")
# In words, most telling first; names that no list of licences has stay readable.
_PHRASES = (
    (re.compile(r"creative\s+commons\s+(?:cc0|zero)|\bcc0\b", re.IGNORECASE), "CC0"),
    (
        re.compile(
            r"public\s+domain\s+(?:declaration|dedication)|(?:in|into)\s+the\s+public\s+domain"
            r"|public\s+domain\s+and",
            re.IGNORECASE,
        ),
        "public domain",
    ),
    (
        re.compile(
            r"public\s+library\s+of\s+science\s+open[\s-]*access\s+licen[cs]e", re.IGNORECASE
        ),
        "PLoS open access",
    ),
    (
        re.compile(r"verbatim\s+copying\s+and\s+redistribution", re.IGNORECASE),
        "open access, verbatim with notice",
    ),
)
_TYPES = {"public-domain": "public domain", "cc0": "CC0", "open-access": "open access"}
_MOST_CHARACTERS = 500


def licence_name(links: Iterable[str], text: str, kind: str = "") -> str:
    """Return a short name such as ``CC-BY-2.0``, else what the file says, else "".

    Parameters
    ----------
    links
        Addresses in the statement; one of Creative Commons settles the matter.
    text
        The statement in words.
    kind
        Its type, as JATS has it (``license-type``); used where there is nothing else.
    """
    for link in [*links, text]:
        named = _LINK.search(link)
        if named:
            return _from_link(*named.groups())
    short = _SHORT.search(text)
    if short:
        return "-".join(
            ["CC0" if short[1] == "0" else f"CC-{short[1].upper()}", *filter(None, [short[2]])]
        )
    words = _WORDS.search(text)
    if words:
        parts = ["CC-BY", *(p.upper() for p in ("nc", "sa", "nd") if words[p])]
        version = words["version"] or next(iter(_VERSION_INSIDE.findall(words[0])), None)
        return "-".join([*parts, *([version] if version else [])])
    for phrase, name in _PHRASES:
        if phrase.search(text):
            return name
    if text:
        return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 3] + "..."
    kind = kind.strip().lower()
    return _TYPES.get(kind, f"CC-{kind[3:].upper()}" if kind.startswith("cc-by") else kind)


def _from_link(family: str, name: str, version: str | None, port: str | None) -> str:
    tail = "".join(f"-{part.upper()}" for part in (version, port) if part and part != "deed")
    if family.lower() == "publicdomain":
        return f"CC0{tail}" if name.lower() == "zero" else "public domain"
    return f"CC-{name.upper()}{tail}"
