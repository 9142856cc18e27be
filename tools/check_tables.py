"""Write the tables of the checks in README.md and docs/gate.md from the checks themselves.

python -m tools.check_tables
"""

from __future__ import annotations

import re
from pathlib import Path

from sw_audit.checks.registry import Scope, find_checks

ROOT = Path(__file__).parents[1]
PAGES: dict[str, tuple[Scope, ...]] = {"README.md": ("model",), "docs/gate.md": ("descendant", "baseline")}


def write_table(scope: Scope) -> str:
    """Write the checks of one scope as a Markdown table, gates first."""
    checks = [check for check in find_checks().values() if check.is_about(scope)]
    checks.sort(key=lambda check: check.level)
    rows = [f"| `{check.id}` | {check.level} | {check.title} | {check.fails} |" for check in checks]
    head = "| check | level | claim | by default it fails, or does not hold, when |"
    return "\n".join([head, "|---|---|---|---|", *rows])


def fill_page(text: str, scope: Scope) -> str:
    """Return a page with the table of one scope between its marks.

    Raises:
        ValueError: If the page does not have the marks exactly once.
    """
    begin, end = f"<!-- checks: {scope} -->", "<!-- end of checks -->"
    filled, count = re.subn(
        f"{re.escape(begin)}\n.*?{re.escape(end)}",
        lambda _: f"{begin}\n{write_table(scope)}\n{end}",
        text,
        flags=re.DOTALL,
    )
    if count != 1:
        raise ValueError(f"the marks {begin} and {end} stand {count} times")
    return filled


def fill_pages() -> dict[str, str]:
    """Return every page with its tables, by its path below the root."""
    pages = {}
    for name, scopes in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        for scope in scopes:
            text = fill_page(text, scope)
        pages[name] = text
    return pages


def main() -> None:
    """Write the tables into the pages."""
    for name, text in fill_pages().items():
        (ROOT / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
