"""Any text made safe to show: on a terminal, in an XML file, on a page, in a chart.

Names come from folders, files and records that others wrote. A control character in one can drive a terminal or
forge a line, a bidirectional override can turn its end around, and what no font shows can make two names one.
"""

from __future__ import annotations

import json
import re
import unicodedata

LONGEST = 1000
"""Characters of a text that are shown at most, unless told otherwise."""

_NOT_ASCII = re.compile(r"[^\n -~]")
_JOINERS = "\u200c\u200d"
_JOINED = {"Lo", "Mn", "Mc", "So", "Sk"}
"""Letters without case, combining marks, pictures and skin tones: what joiners stand between in ordinary text."""
_BLANK = {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0}
"""Letters and marks by their category, of which nothing is seen."""


def printable(text: str, longest: int = LONGEST) -> str:
    r"""Make a text safe to show, on one line.

    Control characters, lone surrogates (of names that are not UTF-8), bidirectional overrides and isolates, what
    has no width, separators of lines and paragraphs, and what no standard assigns become visible escapes such as
    `\x1b`. Letters of all scripts, combining marks and spaces stay, and so do joiners in scripts and emoji that
    use them. What is printable already comes back as it is.

    Args:
        text: Any text.
        longest: How many characters are shown at most; from a longer text the middle is left out, and it is said
            how much.
    """
    shown = _escape(text)
    if len(shown) <= longest:
        return shown
    left_out = f" [... {len(text):,} characters in all ...] "
    kept = max(longest - len(left_out), 2)
    return f"{shown[: (kept + 1) // 2]}{left_out}{shown[len(shown) - kept // 2 :]}"


def printable_lines(text: str) -> str:
    """Make a text of several lines safe to show: line ends and tabs stay, however long it is."""
    return "\n".join("\t".join(map(_escape, line.split("\t"))) for line in text.split("\n"))


def printable_json(document: str) -> str:
    """Write what cannot be seen in the text of a JSON document as escapes of JSON: it says the same as before."""
    return _NOT_ASCII.sub(
        lambda found: found[0] if printable(found[0]) == found[0] else _quote(found[0]), document
    )


def _quote(character: str) -> str:
    return json.dumps(character)[1:-1]


def _escape(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character if _stays(text, place) else character.encode("unicode_escape").decode()
        for place, character in enumerate(text)
    )


def _stays(text: str, place: int) -> bool:
    character = text[place]
    if character in _JOINERS:
        beside = text[place - 1 : place] + text[place + 1 : place + 2]
        return len(beside) == 2 and all(unicodedata.category(one) in _JOINED for one in beside)
    if character.isprintable():
        return ord(character) not in _BLANK
    return unicodedata.category(character) == "Zs"
