"""The documents: what they show can be pasted, and what there is they name."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from sw_audit.policy.reading import parse_policy
from tools.check_tables import PAGES as CHECK_TABLES
from tools.check_tables import fill_pages

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/gate.md", "docs/ci.md")


def list_blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_every_policy_that_is_shown_is_one(page: str) -> None:
    shown = list_blocks(page, "toml")
    assert shown
    for text in shown:
        parse_policy(tomllib.loads(text), page)


@pytest.mark.parametrize("page", ["README.md", "docs/ci.md"])
def test_every_workflow_and_pipeline_that_is_shown_is_one_and_names_inputs_that_there_are(page: str) -> None:
    workflow, pipeline = map(yaml.safe_load, list_blocks(page, "yaml"))
    workflow["on"] = workflow.pop(True)  # which YAML 1.1 takes for a truth value, and GitHub does not
    assert list(read_schema("github-workflow").iter_errors(workflow)) == []
    assert list(read_schema("gitlab-ci").iter_errors(pipeline)) == []
    [*_, action] = workflow["jobs"]["audit"]["steps"]
    assert set(action["with"]) <= set(yaml.safe_load((ROOT / "action.yml").read_text())["inputs"])
    header, _ = yaml.safe_load_all((ROOT / "templates" / "audit.yml").read_text())
    assert set(pipeline["include"][0]["inputs"]) <= set(header["spec"]["inputs"])


def read_schema(name: str) -> Any:
    return Draft7Validator(json.loads((ROOT / "tests" / "ci" / "schemas" / f"{name}.json").read_text()))


def test_every_input_of_the_action_is_told() -> None:
    told = "".join(line for line in (ROOT / "docs/ci.md").read_text().splitlines() if line.startswith("| `"))
    for name in yaml.safe_load((ROOT / "action.yml").read_text())["inputs"]:
        assert f"`{name}`" in told


def test_the_tables_of_the_checks_are_those_of_the_checks_themselves() -> None:
    for name, text in fill_pages().items():
        message = f"{name} is not current: run `python -m tools.check_tables`"
        assert text == (ROOT / name).read_text(encoding="utf-8"), message
        assert text.count("<!-- end of checks -->") == len(CHECK_TABLES[name])


@pytest.mark.parametrize("page", [*PAGES, "docs/evidence.md"])
def test_links_to_files_lead_somewhere(page: str) -> None:
    file = ROOT / page
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", file.read_text(encoding="utf-8"))
    assert [link for link in links if not (file.parent / link).exists()] == []
