"""Text as a person sees it: no control, zero-width, bidirectional or tag characters, and a flag."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["BROKEN_TEXT", "HIDDEN_TEXT", "clean_text", "scrub", "squeeze"]

HIDDEN_TEXT = "hidden-text"
"""Flag: characters that a reader does not see were removed."""

BROKEN_TEXT = "broken-text"
"""Flag: characters that cannot be stored were replaced by U+FFFD."""

# Controls; Mongolian separator, fillers and joiners that show nothing; zero-width and bidirectional
# characters; annotation and musical controls; tag characters and the supplementary variation
# selectors, in which whole hidden texts have been written.
_HIDDEN = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)
# Hyphenation hints and the sixteen common variation selectors are typography: removed, not flagged.
_TYPOGRAPHIC = re.compile("[\u00ad\ufe00-\ufe0f]+")
_SURROGATE = re.compile("[\ud800-\udfff]")
_LINE_END = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_ODD = re.compile(
    "[\r\x0b\x0c\x85\u2028\u2029\u00ad\ufe00-\ufe0f\ud800-\udfff"  # anything that a rule below is about
    + _HIDDEN.pattern[1:-2]
    + "]"
)
_SPACE = re.compile("[ \t\r\n]{2,}|[\t\r\n]")


def clean_text(text: str) -> str:
    """Return text in NFC with Unix line ends and without control or hidden characters."""
    return scrub(text)[0]


def scrub(text: str, *, compose: bool = True) -> tuple[str, tuple[str, ...]]:
    """Return the text without what a person does not see, and flags that say what was found.

    Parameters
    ----------
    compose
        Bring the text to NFC. With False, every character that is not removed keeps its place:
        nothing is composed, and a Windows line end becomes a space and a newline. For text whose
        character offsets are known to somebody else.
    """
    if text.isascii() and (text.isprintable() or not _ODD.search(text)):
        return text, ()  # most text, and much faster
    flags = []
    if _ODD.search(text):
        text = text.replace("\r\n", "\n" if compose else " \n")
        text = _LINE_END.sub("\n", text)
        text, broken = _SURROGATE.subn("\ufffd", text)
        text = _TYPOGRAPHIC.sub("", text)
        text, hidden = _HIDDEN.subn("", text)
        flags = [HIDDEN_TEXT] * bool(hidden) + [BROKEN_TEXT] * bool(broken)
    return unicodedata.normalize("NFC", text) if compose else text, tuple(flags)


def squeeze(text: str) -> str:
    """Return text with runs of spaces, tabs and line ends as one space, as XML is laid out."""
    if "  " in text or "\n" in text or "\t" in text or "\r" in text:
        text = _SPACE.sub(" ", text)
    return text.strip(" ")
