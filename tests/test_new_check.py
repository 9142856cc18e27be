"""A check of another package, written in one file, is there wherever checks are shown, read or run."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.new_check import EIGHT_LAYERS, install_check
from support.program import Program

from sw_audit.checks.registry import find_checks
from sw_audit.policy.writing import commented_policy

POLICY = f"""
[corpus]
windows = 2

[[model]]
source = "specimen"

[checks.{EIGHT_LAYERS}]
layers = 99
"""


@pytest.fixture(autouse=True)
def new_check(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install the package for this process and for those that it starts."""
    install_check(tmp_path_factory.mktemp("package"), monkeypatch)
    find_checks.cache_clear()
    yield
    find_checks.cache_clear()


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """The program, in an empty folder."""
    return Program(tmp_path)


def test_init_shows_its_table_with_its_limit_and_what_it_says() -> None:
    text = commented_policy()
    table = text.partition(f"[checks.{EIGHT_LAYERS}]\n")[2].partition("\n[")[0]
    assert "# Eight layers. A rule of ours.\n" in text
    assert "# How many layers there have to be." in table
    shown = re.sub(r"^#(?! )", "", table, flags=re.MULTILINE)
    assert tomllib.loads(shown) == {"enabled": True, "level": "gate", "layers": 8}


def test_the_schema_of_policies_knows_its_limit(program: Program) -> None:
    schema = json.loads(program.start("schema", "policy").out)
    tables = next(kind for kind in schema["$defs"].values() if EIGHT_LAYERS in kind.get("properties", {}))
    limit = tables["properties"][EIGHT_LAYERS]["properties"]["layers"]
    assert (limit["type"], limit["default"]) == ("integer", 8)


def test_the_run_judges_it_by_the_policys_limit_and_shows_it_in_every_output(program: Program) -> None:
    (program.folder / "eight.swaudit.toml").write_text(POLICY, encoding="utf-8")
    ending = program.start("audit", "eight.swaudit.toml", "--check", EIGHT_LAYERS)
    assert ending.code == 1, ending.err

    record = program.record()
    (verdict,) = record.verdicts
    layers = record.find_model("specimen").model.layers
    assert (verdict.check, verdict.status, verdict.observed) == (EIGHT_LAYERS, "fail", layers)
    assert (verdict.side, verdict.limit, verdict.quantity) == ("at least", 99, "layers of the decoder")

    rows = [line.split() for line in ending.out.splitlines()]
    assert ["specimen", EIGHT_LAYERS, "FAIL", str(layers), "99"] in rows
    assert f"FAIL specimen {EIGHT_LAYERS}: layers of the decoder {layers}, limit 99" in ending.out
    assert "Add some." in ending.out

    cases = ElementTree.parse(program.folder / "sw-audit-out/junit.xml").iter("testcase")  # noqa: S314 - our own
    (case,) = [case for case in cases if case.get("name") == EIGHT_LAYERS]
    failure = case.find("failure")
    assert failure is not None
    assert "layers of the decoder" in f"{failure.get('message')}{failure.text}"

    page = (program.folder / "sw-audit-out/report.html").read_text(encoding="utf-8")
    for words in ("Eight layers", "A rule of ours.", "Layers of the decoder", "at least 99", "Add some."):
        assert words in page
