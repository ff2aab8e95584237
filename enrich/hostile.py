"""Text that speaks to a model or a reader instead of about cells, and characters that nobody sees.

Passages and answers are untrusted. ``is_hostile`` says which passages are not offered to a writer;
``intrusion`` holds a written sentence to the stricter rule that it is plain prose about biology.
What is refused in error costs one passage or sentence, what slips through reaches an export.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

__all__ = ["intrusion", "is_hostile", "strip_hidden"]

# Typesetting leaves these in honest text; in a row they carry a message of their own.
_FAINT = "\u00ad\u200b\u200c\u200d\u2060\ufeff"
_SMUGGLED = re.compile(
    f"[{_FAINT}]{{4,}}"
    "|[\u202a-\u202e\u2066-\u2069]"  # order of reading reversed
    "|[\U000e0000-\U000e01ef]"  # tags and variation selectors, invisible twins of letters
)
_LOOKALIKE = str.maketrans("аеорсухіјѕԁһВЕКМНОРСТАХ", "aeopcyxijsdhBEKMHOPCTAX")
_MIXED = re.compile(r"[A-Za-z][\u0400-\u04ff]|[\u0400-\u04ff][A-Za-z]")

_AGENT = r"(?:ai|llms?|(?:large )?language models?|assistant|chatbot|chatgpt|gpt|claude|model)"
_ORDERS = re.compile(
    r"\b(?:ignor\w*|disregard\w*|forget|overrid\w*|bypass\w*|do not (?:follow|obey|trust))\b"
    r".{0,60}\b(?:instructions?|prompts?|rules|guidelines|above|previous|system message"
    r"|(?:other|all|earlier) (?:passages?|snippets?|sources?|documents?|evidence))\b"
    r"|\b(?:system|developer) (?:prompt|message|instructions?)\b"
    rf"|\byou are (?:now )?(?:an?|the) (?:\w+ )?{_AGENT}\b"
    rf"|\bas an? (?:ai|{_AGENT})\b(?=,| I\b| you\b)"
    rf"|\b(?:dear|attention,?|hey|hello|note (?:to|for) (?:the |any |all )?) ?{_AGENT}\b"
    rf"|\b(?:any|every|all|the) {_AGENT} (?:reading|processing|summari[sz]ing|that reads|must|should)\b"
    r"|\byou (?:must|should|shall|will|have to|need to|are (?:required|asked|told|instructed|to)\b)"
    r"|\bin your (?:answer|response|reply|output|summary|description|text)\b"
    r"|\byour (?:instructions?|task|answer|response|output|prompt|training|guidelines|system)\b"
    r"|\b(?:new|updated|revised|special|additional|hidden|secret|important) instructions?\b"
    r"|\binstructions?:|\bfollow (?:these|the following|my|new) instructions?\b"
    r"|\b(?:cite|quote|reference|copy|use) (?:only |always |instead )?(?:the )?"
    r"(?:snippet|passage|source|document|id|evidence)s?\b"
    r"|\b(?:cite|citing) (?:it |this |them )?(?:as|with) (?:id|snippet|passage)\b"
    r"|\b(?:api|secret|access|private|your)[ _-]?keys?\b|\w_API_KEY\b|\bpasswords?\b|\bcredentials\b"
    r"|\benvironment variables?\b"
    r"|\b(?:answer|respond|reply|write|output|return)\b.{0,20}\b(?:in|with|as) "
    r"(?:json|html|markdown|xml|base64)\b"
    r"|\b(?:output|print|say|write|reply|respond|answer|repeat)(?: only| exactly| with| just)+ ?"
    r"[\"'\u2018\u201c:]"
    r"|\bjailbreak|\bprompt injection\b|\bend of (?:data|context|documents?|passages?|snippets?)\b",
    re.IGNORECASE | re.DOTALL,
)
_TEMPLATE = re.compile(
    r"<\|[^|<>]{1,40}\|>|\[/?INST\]|<</?SYS>>|^\s*#{2,}\s*(?:instruction|system|user|assistant)"
    r"|^\s*(?:system|assistant|developer|user)\s*:|\bDATA[-_ ]?\w{0,40} (?:BEGIN|END)\b"
    r"|\b(?:BEGIN|END)[-_ ]DATA\b",
    re.IGNORECASE | re.MULTILINE,
)
_ACTIVE = re.compile(
    r"<!--|<!\[CDATA|</?(?:script|iframe|img|svg|object|embed|style|link|meta|form|a|input|button"
    r"|html|body|head|div|video|audio|base|template)\b[^>]{0,200}>?"
    r"|\bjavascript:|\bdata:text/|\bon(?:error|load|click|mouseover)\s*=|!\[[^\]]*\]\(",
    re.IGNORECASE,
)

# --- stricter, for what a writer wrote ---------------------------------------------------------

_ADDRESS = re.compile(
    r"\b(?:you|your|yours|yourself|please)\b"
    r"|^\W*(?:ignore|disregard|forget|cite|print|output|reveal|send|write|respond|reply|say|repeat"
    r"|click|visit|download|buy|subscribe|remember|execute|run|delete|do not|don't|never|always)\b",
    re.IGNORECASE,
)
_APPARATUS = re.compile(
    r"\bsnippets?\b|\bsnippet_id\b|\bquot(?:e|es|ed) (?:above|below|verbatim)\b"
    r"|\b(?:the|this|these|that|each|cited|offered|provided|given|above) "
    r"(?:passages?|evidence|excerpts?|context|sources?|texts?|documents?)"
    r"(?: \w+)? (?:states?|says?|describes?|mentions?|reports?|indicates?|shows?|provided|offered|above"
    r"|below|does not|do not|given)\b"
    r"|\baccording to (?:the |this |these )?(?:passages?|evidence|excerpts?|context|sources?|texts?)\b"
    r"|\b(?:passage|source|document|excerpt) (?:id|no\.?|number|#)\b|\bas an? (?:ai|language model)\b"
    r"|\bDATA\b(?=[-_ :]*\w*\d|\s+(?:BEGIN|END))",
    re.IGNORECASE,
)
_MARKUP = re.compile(
    r"</?[A-Za-z][^<>]*>|&(?:#\d+|#x[0-9a-f]+|[a-z]{2,8});|\*\*|__|```|\[[^\]]*\]\([^)]*\)|^\s*#|[{}\\|]"
    r"|\$\(|=>|==|\bfunction\s*\(",
    re.IGNORECASE,
)
_ADDRESSES = re.compile(
    r"\b[a-z][a-z0-9+.-]*://|\bwww\.|\bmailto:|[\w.+-]+@[\w-]+\.\w"
    r"|\b[\w-]{2,}\.(?:com|org|net|io|gov|edu|info|ru|cn|co|ai|dev)\b",
    re.IGNORECASE,
)
_SECRET = re.compile(
    r"\b(?:sk|pk|ghp|hf|xox[abp])[-_][A-Za-z0-9_-]{8,}"
    r"|\b(?=[A-Za-z0-9_]*\d)(?=[A-Za-z0-9_]*[A-Za-z])[A-Za-z0-9_]{24,}\b|\b[0-9a-f]{16,}\b"
)
_RULES = (
    ("markup, code or a template", _MARKUP),
    ("an address on the web", _ADDRESSES),
    ("something like a key", _SECRET),
    ("an address to the reader", _ADDRESS),
    ("talk about passages instead of cells", _APPARATUS),
)


def strip_hidden(text: str) -> str:
    """Return text without characters that nobody sees (format and control), white space kept."""
    return "".join(c for c in text if c.isspace() or unicodedata.category(c) not in {"Cf", "Cc"})


@lru_cache(maxsize=65536)
def is_hostile(text: str) -> bool:
    """Whether a passage gives orders to a model, carries active markup or hides a message."""
    return _attack(text) != ""


def _attack(text: str) -> str:
    if _SMUGGLED.search(text):
        return "hidden characters"
    seen = strip_hidden(unicodedata.normalize("NFKC", text))
    if _MIXED.search(seen):
        return "words of mixed alphabets"
    seen = seen.translate(_LOOKALIKE)
    for found, pattern in (
        ("an instruction", _ORDERS),
        ("a chat template", _TEMPLATE),
        ("active markup", _ACTIVE),
    ):
        if pattern.search(seen):
            return found
    return ""


def intrusion(text: str, ids: tuple[str, ...] = ()) -> str:
    """Return what in a written sentence is not plain prose about biology, or "".

    Parameters
    ----------
    ids
        Ids of passages, which no sentence may spell out.
    """
    attack = _attack(text)
    if attack:
        return attack
    if strip_hidden(text) != text:
        return "hidden characters"
    if any(len(key) >= 6 and key in text for key in ids):
        return "the id of a passage"
    plain = unicodedata.normalize("NFKC", text)
    return next((found for found, pattern in _RULES if pattern.search(plain)), "")
