"""The GitHub Action: its form, which steps run whatever became of the others, and whole runs of it."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft7Validator
from support.ci_jobs import ROOT, Run, Sandbox, decide, list_variables, make_environment
from support.code_service import CodeService, serving
from support.descendants import write_descendants

from sw_audit import __version__

ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS = ACTION["runs"]["steps"]
EVIDENCE = ["Keep measurements", "Upload record and report", "Upload SARIF", "Comment"]


def test_the_official_schema_has_nothing_to_complain_about() -> None:
    schema = json.loads((Path(__file__).parent / "schemas" / "github-action.json").read_text())
    assert list(Draft7Validator(schema).iter_errors(ACTION)) == []
    assert list(Draft7Validator(schema).iter_errors(ACTION | {"runs": {"using": "composite"}})) != []


def test_no_expression_stands_in_a_script() -> None:
    assert [step["name"] for step in STEPS if "${{" in step.get("run", "")] == []


def test_every_name_in_an_expression_is_declared() -> None:
    text = (ROOT / "action.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"inputs\.([\w-]+)", text)) == set(ACTION["inputs"])
    assert set(re.findall(r"steps\.([\w-]+)", text)) == {step["id"] for step in STEPS if "id" in step}


def test_every_action_of_others_is_pinned_to_a_commit() -> None:
    lines = [line for line in (ROOT / "action.yml").read_text().splitlines() if "uses:" in line]
    assert len(lines) == 5
    assert [line for line in lines if not re.search(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line)] == []


@pytest.mark.parametrize(
    ("condition", "status", "runs"),
    [
        ("", "success", True),
        ("", "failure", False),
        ("inputs.a == 'x'", "success", True),
        ("inputs.a == 'x'", "failure", False),
        ("always() && inputs.a == 'y'", "failure", False),
        ("always() && inputs.a != 'y'", "cancelled", True),
        ("${{ !cancelled() && steps.s.outputs.o != '' }}", "failure", True),
        ("${{ !cancelled() && steps.s.outputs.none != '' }}", "failure", False),
        ("${{ !cancelled() }}", "cancelled", False),
        ("failure() || inputs.a == 'x'", "success", True),
    ],
)
def test_the_runner_of_these_tests_decides_as_the_service_does(condition: str, status: str, runs: bool) -> None:
    contexts = {"inputs": {"a": "x"}, "steps": {"s": {"outputs": {"o": "1"}}}}
    assert decide(condition, contexts, status) == runs


STUB = """#!/bin/bash
printf '%s\\0' "$@" "$EXTRAS" "$VERSION" "$SW_AUDIT_ARGUMENTS" "$SW_AUDIT_MODEL" "$SW_AUDIT_POLICY" "$KEY" >> told
case "$2" in
  pip) exit "$INSTALL" ;;
  sw_audit.ci.audit)
    echo "$PPID" > parent
    printf 'exit-code=%s\\nrecord=r.json\\n' "$AUDIT" >> "$GITHUB_OUTPUT"
    exit "$AUDIT"
    ;;
esac
"""


@pytest.fixture
def stubbed(tmp_path: Path) -> Sandbox:
    """A runner whose Python does nothing but end as it is told to."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python").write_text(STUB)
    (programs / "python").chmod(0o755)
    return Sandbox(tmp_path, {"PATH": f"{programs}:/usr/bin:/bin", "INSTALL": "0", "AUDIT": "0"})


def ran(run: Run) -> list[str]:
    return [name for name, step in run.steps.items() if step.outcome != "skipped"]


def test_a_gate_that_fails_fails_the_job_after_all_evidence_is_out(stubbed: Sandbox) -> None:
    stubbed.variables["AUDIT"] = "1"
    run = stubbed.run({"sarif": "true"})
    assert run.conclusion == "failure"
    assert ran(run)[-5:] == ["Audit", *EVIDENCE]
    assert run.outputs["exit-code"] == "1"


def test_what_could_not_be_installed_has_no_evidence(stubbed: Sandbox) -> None:
    stubbed.variables["INSTALL"] = "1"
    run = stubbed.run({"sarif": "true"})
    assert run.conclusion == "failure"
    assert ran(run)[-1] == "Install sw-audit"


def test_a_cancelled_run_keeps_what_it_has_and_says_nothing(stubbed: Sandbox) -> None:
    run = stubbed.run({"sarif": "true"}, cancelled_after="Audit")
    assert ran(run)[-3:] == ["Audit", "Keep measurements", "Upload record and report"]


def test_a_signal_to_the_step_reaches_the_audit_itself(stubbed: Sandbox) -> None:
    stubbed.run({})
    # The service signals the process that it started, which is no shell any more.
    assert (stubbed.workspace / "parent").read_text() == f"{os.getpid()}\n"


def test_a_service_that_takes_no_sarif_and_no_cache_does_not_fail_the_job(stubbed: Sandbox) -> None:
    stubbed.results = {"github/codeql-action/upload-sarif": None, "actions/cache/save": None}
    run = stubbed.run({"sarif": "true"})
    assert run.conclusion == "success"
    assert run.steps["Comment"].outcome == "success"


def test_an_artifact_that_is_not_taken_fails_the_job_and_is_no_reason_not_to_comment(stubbed: Sandbox) -> None:
    stubbed.results = {"actions/upload-artifact": None}
    run = stubbed.run({})
    assert run.conclusion == "failure"
    assert run.steps["Comment"].outcome == "success"


def test_what_is_not_wanted_is_left_out(stubbed: Sandbox) -> None:
    run = stubbed.run({"python-version": "", "cache": "false", "comment": "false"})
    assert ran(run) == ["Install sw-audit", "Audit", "Upload record and report"]


def test_restored_and_kept_measurements_are_the_same_and_of_this_audit(stubbed: Sandbox) -> None:
    steps = stubbed.run({"artifact": "w4"}).steps
    restored, kept = (dict(steps[name].given) for name in ("Restore measurements", "Keep measurements"))
    assert restored.pop("restore-keys") == "w4-Linux-"
    assert restored == kept == {"path": ".sw-audit/cache", "key": "w4-Linux-9-1"}


HOSTILE = (
    """$(touch pwned) `touch pwned` "; touch pwned; echo ' && touch pwned # ${{ github.token }}\n::error::\n"""
)


def test_no_input_is_code(stubbed: Sandbox) -> None:
    names = ("extras", "version", "arguments", "model", "policy", "artifact")
    hostile = {name: f"{name} {HOSTILE}" for name in names}
    assert stubbed.run(hostile).conclusion == "success"
    told = (stubbed.workspace / "told").read_text().split("\0")
    assert set(hostile.values()) <= set(told)
    assert f"sw-audit[{hostile['extras']}]=={hostile['version']}" in told
    assert f"--key={hostile['artifact']}" in told
    assert not list(stubbed.folder.rglob("pwned"))


def test_by_default_the_action_installs_itself_with_what_it_was_tested_with(stubbed: Sandbox) -> None:
    stubbed.run({"extras": "gguf", "comment": "false"})
    told = (stubbed.workspace / "told").read_text().split("\0")
    assert f"{ROOT}[gguf]" in told
    assert told.count(str(ROOT / "constraints.txt")) == 2
    stubbed.run({"torch-index": "", "comment": "false"})
    assert "--index-url" not in (stubbed.workspace / "told").read_text().split("\0")[len(told) :]


CHECKS = "--effort quick --check super-weight-retained --check perplexity-ratio"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """A runner with a Python of its own, in which nothing but pip installs sw-audit."""
    folder = tmp_path_factory.mktemp("runner")
    sandbox = Sandbox(folder, list_variables(make_environment(folder, sys.executable)))
    write_descendants(sandbox.workspace, 3)
    (sandbox.workspace / "sound.swaudit.toml").write_text('[[model]]\nsource = "tune-0"\nparent = "specimen"\n')
    sandbox.results = {"actions/upload-artifact": {"artifact-url": "https://example.org/a/1"}}
    return sandbox


@pytest.mark.slow
def test_a_sound_descendant_passes_and_then_a_broken_one_fails_with_its_evidence(real: Sandbox) -> None:
    with serving(github=True) as service:
        real.variables |= service.variables(real.folder)
        passed = real.run({"policy": "sound.swaudit.toml", "arguments": CHECKS})
        check_run(real, service, passed, "passed", "0")
        [first] = service.bodies
        assert "sw-audit: Pass" in first
        assert "[report](https://example.org/a/1)" in first
        # The version that is installed by now is the one that is asked for, so pip has nothing to fetch.
        inputs = {"model": "broken=tune-2", "parent": "specimen", "arguments": CHECKS, "sarif": "true"}
        failed = real.run(inputs | {"version": __version__})
        check_run(real, service, failed, "failed", "1")
        [second] = service.bodies
        assert "sw-audit: Fail" in second
        assert "broken" in second
        assert failed.steps["Upload SARIF"].given["sarif_file"] == "sw-audit-out/sw-audit.sarif"
        assert (real.workspace / "sw-audit-out" / "sw-audit.sarif").is_file()
        check_refusal(real, service)


def check_run(real: Sandbox, service: CodeService, run: Run, verdict: str, code: str) -> None:
    """Check what every run leaves, whatever became of it."""
    logs = "\n".join(step.log for step in run.steps.values())
    assert run.conclusion == ("success" if code == "0" else "failure"), logs
    assert (run.outputs["verdict"], run.outputs["exit-code"]) == (verdict, code)
    for output in ("record", "report"):
        assert (real.workspace / run.outputs[output]).is_file()
    assert run.steps["Upload record and report"].given["path"] == "sw-audit-out/"
    assert run.steps["Comment"].log.startswith("comment: "), logs
    assert len(service.comments) == 1
    assert real.summary.rstrip().endswith((real.workspace / "sw-audit-out" / "comment.md").read_text().rstrip())


def check_refusal(real: Sandbox, service: CodeService) -> None:
    """Check that a model that there is not fails the job, and that the comment no longer says what it said."""
    run = real.run({"model": "nowhere", "version": __version__})
    assert (run.conclusion, run.outputs["verdict"], run.outputs["exit-code"]) == ("failure", "error", "2")
    [body] = service.bodies
    assert "ended without a result" in body
