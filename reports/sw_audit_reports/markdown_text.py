"""Any text made safe in Markdown as GitHub and GitLab render it: it is shown as it is, and does nothing.

No library escapes for both. A backslash before a sign keeps it from being markup, but not from being found by what
turns names, numbers and addresses into links after Markdown is rendered: a space of no width stands in these.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from sw_audit.printable import LONGEST, printable, printable_lines
from sw_audit_reports.elements import Cell
from sw_audit_reports.text import NOTHING

_APART = "&#8203;"
_MARKUP = re.compile(r"[\\`*\[\]<>|&~$]|(?<![^\W_])_|_(?![^\W_])")
# In a table, the only escapes of these two that hold everywhere.
_ENTITIES = {"|": "&#124;", "\\": "&#92;"}
# `@name`, `#12`, `!12` and their like, addresses, `:name:`, `[name:12]`, `www.`, `GH-12`; a list or heading.
_REFERRING = re.compile(
    r"""(?<=[@#!%~$&^])(?=[\w"])|(?<=:)(?=//|[\w+-]+:)|(?<=\[)(?=[\w-]+:)|(?<=www)(?=\.)|(?<=gh-)(?=\d)"""
    r"""|\A(?=\s*([#+=-]|\d+[.)]))""",
    re.IGNORECASE,
)
_TICKS = re.compile("`+")


def escape(text: str, longest: int = LONGEST) -> str:
    """Write a text so that it is shown as it is, on one line."""
    apart = _REFERRING.sub("\0", printable(text, longest))
    return _MARKUP.sub(lambda sign: _ENTITIES.get(sign[0], f"\\{sign[0]}"), apart).replace("\0", _APART)


def write_code(text: str, longest: int = LONGEST) -> str:
    """Write a text as code within a line."""
    shown = printable(text, longest).strip() or NOTHING
    ticks = "`" * (_find_longest(shown) + 1)
    beside = " " if "`" in shown else ""
    return f"{ticks}{beside}{shown}{beside}{ticks}"


def write_words(cells: Iterable[Cell], longest: int = LONGEST) -> str:
    """Write a sentence of plain text and code, of which at most so many characters are shown."""
    written, left = "", longest
    for cell in cells:
        if left > 0 and cell.text:
            piece = write_code(cell.text, left) if cell.code else escape(cell.text, left)
            # Two runs of backticks that meet would be one.
            written += f" {piece}" if written.endswith("`") and piece.startswith("`") else piece
            left -= len(cell.text)
    return written


def write_fence(text: str) -> str:
    """Write lines as a block of code that no line of them can end."""
    shown = printable_lines(text).strip("\n")
    ticks = "`" * max(3, _find_longest(shown) + 1)
    return f"{ticks}\n{shown}\n{ticks}\n"


def write_name(text: str, longest: int = 100) -> str:
    """Write a name as code that may stand in a table."""
    shown = printable(text, longest).strip() or NOTHING
    return f"<code>{escape(shown)}</code>" if re.search(r"[`|\\]", shown) else f"`{shown}`"


def write_row(cells: Iterable[str]) -> str:
    """Write cells that are Markdown already as a row of a table."""
    return f"| {' | '.join(cells)} |\n"


def _find_longest(text: str) -> int:
    return max(map(len, _TICKS.findall(text)), default=0)
