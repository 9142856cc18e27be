"""The GitLab component: its form, and whole jobs of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from jsonschema import Draft7Validator
from support.ci_jobs import ROOT, Job, list_variables, make_environment, read_component, run_component
from support.code_service import serving
from support.descendants import write_descendants


def test_the_official_schema_has_nothing_to_complain_about() -> None:
    schema = Draft7Validator(json.loads((Path(__file__).parent / "schemas" / "gitlab-ci.json").read_text()))
    header, jobs = read_component({})
    assert list(schema.iter_errors(header)) == []
    assert list(schema.iter_errors(jobs)) == []
    assert list(schema.iter_errors({"sw-audit": jobs["sw-audit"] | {"script": 3}})) != []


def test_no_input_of_free_text_stands_in_a_script() -> None:
    header, jobs = read_component({})
    marked = {
        name: f"input {name}"
        for name, each in header["spec"]["inputs"].items()
        if each.get("type") != "boolean" and "options" not in each
    }
    [job] = read_component(marked)[1].values()
    assert "input" not in "\n".join(job["script"] + job["after_script"])
    assert job["script"] == jobs["sw-audit"]["script"]


def test_every_variable_is_a_text() -> None:
    assert {type(value) for value in read_component({})[1]["sw-audit"]["variables"].values()} == {str}


STUB = """#!/bin/sh
printf '%s\\n' "$*" "$SW_AUDIT_ARGUMENTS" >> told
case "$2" in pip) exit "$INSTALL" ;; sw_audit.ci.audit) exit "$AUDIT" ;; esac
"""


def run_stubbed(
    folder: Path, inputs: dict[str, object], install: int = 0, audit: int = 0
) -> tuple[Job, list[str]]:
    """Run the job with a Python that does nothing but end as it is told to; return what it was asked for."""
    (folder / "bin").mkdir()
    (folder / "bin" / "python").write_text(STUB)
    (folder / "bin" / "python").chmod(0o755)
    variables = {"PATH": f"{folder}/bin:/usr/bin:/bin", "INSTALL": str(install), "AUDIT": str(audit)}
    job = run_component(inputs, folder, variables)
    return job, (folder / "told").read_text().splitlines()


def test_a_gate_that_fails_fails_the_job_and_is_commented_on(tmp_path: Path) -> None:
    job, told = run_stubbed(tmp_path, {"job": "w4"}, audit=1)
    assert job.code == 1
    assert "-m sw_audit.ci.comment sw-audit-out/comment.md --key=w4" in told


def test_a_comment_that_is_not_wanted_is_left_out(tmp_path: Path) -> None:
    job, told = run_stubbed(tmp_path, {"comment": False})
    assert job.code == 0
    assert "comment" not in "\n".join(told)


def test_what_cannot_be_installed_fails_the_job_before_the_audit(tmp_path: Path) -> None:
    job, told = run_stubbed(tmp_path, {}, install=1)
    assert job.code == 1
    assert "sw_audit.ci.audit" not in "\n".join(told)


def test_package_and_index_reach_pip_and_arguments_are_no_code(tmp_path: Path) -> None:
    inputs = {
        "package": "sw-audit[gguf] == 0.1.0",
        "torch-index": "https://x.org",
        "arguments": "$(touch pwned)",
    }
    _, told = run_stubbed(tmp_path, inputs)
    installed = [line.partition("check ")[2] for line in told if "-m pip" in line]
    assert installed == ["--no-deps --index-url https://x.org torch", "sw-audit[gguf] == 0.1.0"]
    assert "$(touch pwned)" in told
    assert not (tmp_path / "pwned").exists()


@pytest.mark.slow
def test_a_broken_descendant_fails_the_job_with_its_evidence(tmp_path: Path) -> None:
    variables = list_variables(make_environment(tmp_path, sys.executable))
    write_descendants(tmp_path, 3)
    with serving(github=False) as service:
        variables |= service.variables(tmp_path)
        inputs = {"model": "broken=tune-2", "parent": "specimen", "package": str(ROOT)}
        job = run_component(
            inputs | {"arguments": "--effort quick --check super-weight-retained"}, tmp_path, variables
        )
        assert job.code == 1, job.log
        assert "FAIL" in job.log
        assert job.after.startswith("comment: posted")
        assert "sw-audit: Fail" in service.bodies[0]
    [artifacts] = [each["artifacts"] for each in read_component({})[1].values()]
    for path in (*artifacts["paths"], artifacts["reports"]["junit"]):
        assert (tmp_path / path).exists()
