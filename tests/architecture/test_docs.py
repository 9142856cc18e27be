"""The documents: what they show can be pasted, and what there is they name."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from sw_audit.checks.registry import find_checks
from sw_audit.policy.reading import parse_policy

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/gate.md", "docs/ci.md")


@pytest.mark.parametrize("page", PAGES)
def test_every_policy_that_is_shown_is_one(page: str) -> None:
    shown = re.findall(r"^```toml\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert shown
    for text in shown:
        parse_policy(tomllib.loads(text), page)


def test_the_page_on_the_gate_names_every_check_of_a_descendant_and_of_a_baseline() -> None:
    text = (ROOT / "docs" / "gate.md").read_text(encoding="utf-8")
    assert [
        check.id for check in find_checks().values() if check.scope != "model" and f"| `{check.id}` |" not in text
    ] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_to_files_lead_somewhere(page: str) -> None:
    file = ROOT / page
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", file.read_text(encoding="utf-8"))
    assert [link for link in links if not (file.parent / link).exists()] == []
