"""Tables that are put between two marks of a page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path


def make_table(rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Yield the lines of a Markdown table; its head is the first row."""
    for number, row in enumerate(rows):
        yield f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |"
        if number == 0:
            yield f"|{'---|' * len(row)}"


def write_between(page: Path, name: str, lines: Iterable[str]) -> None:
    """Put lines between two marks of a page.

    Raises:
        ValueError: If the page does not have both.
    """
    before, begin, rest = page.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- end of {name} -->")
    if not begin or not end:
        raise ValueError(f"{page} has no marks for {name}")
    text = "\n".join(lines)
    page.write_text(f"{before}{begin}{text}\n{end}{after}", encoding="utf-8")
