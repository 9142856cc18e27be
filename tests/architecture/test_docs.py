"""The documents: what they show can be pasted, and what there is they name."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from sw_audit.policy.reading import parse_policy
from tools.check_tables import PAGES as CHECK_TABLES
from tools.check_tables import fill_pages

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/gate.md", "docs/ci.md")


@pytest.mark.parametrize("page", PAGES)
def test_every_policy_that_is_shown_is_one(page: str) -> None:
    shown = re.findall(r"^```toml\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert shown
    for text in shown:
        parse_policy(tomllib.loads(text), page)


def test_the_tables_of_the_checks_are_those_of_the_checks_themselves() -> None:
    for name, text in fill_pages().items():
        message = f"{name} is not current: run `python -m tools.check_tables`"
        assert text == (ROOT / name).read_text(encoding="utf-8"), message
        assert text.count("<!-- end of checks -->") == len(CHECK_TABLES[name])


@pytest.mark.parametrize("page", PAGES)
def test_links_to_files_lead_somewhere(page: str) -> None:
    file = ROOT / page
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", file.read_text(encoding="utf-8"))
    assert [link for link in links if not (file.parent / link).exists()] == []
