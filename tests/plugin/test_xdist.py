from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pytest_sw_audit.exchange import find_scope
from support.fake_runner import CHECKS, count_statuses
from support.program import heed_interrupts
from support.runs import Inner

from sw_audit.record.record import ModelFailure
from sw_audit.record.verdict import Status
from sw_audit.runner.assignments import OPTIONS_KEY, Case

pytestmark = pytest.mark.slow  # each run starts workers


@pytest.mark.parametrize(
    ("nodeid", "scope"),
    [
        ("llama::prune-collapses", "llama"),
        ("llama-w4::prune-collapses", "llama-w4"),
        ("test_mine.py::test_it[llama]", "llama"),
        ("test_mine.py::test_it[llama-w4]", "llama-w4"),
        ("test_mine.py::TestIt::test_it[3-llama-w4-x]", "llama-w4"),
        ("test_mine.py::test_it[other]", "deep/audit.swaudit.toml::other"),
        ("deep/audit.swaudit.toml::other::prune-collapses", "deep/audit.swaudit.toml::other"),
        ("found.swaudit.toml::new::prune-collapses", "found.swaudit.toml::new"),
        ("test_mine.py::test_it[unllama]", "test_mine.py::test_it[unllama]"),
        ("test_mine.py::test_it", "test_mine.py::test_it"),
        ("llama/test_mine.py::test_it", "llama/test_mine.py::test_it"),
    ],
)
def test_what_belongs_to_a_model_stays_together_and_nothing_else_does(
    tmp_path: Path, nodeid: str, scope: str
) -> None:
    labels = {
        "llama": Case(OPTIONS_KEY, "llama"),
        "llama-w4": Case(OPTIONS_KEY, "llama-w4"),
        "other": Case(str(tmp_path / "deep" / "audit.swaudit.toml"), "other"),
    }
    assert find_scope(nodeid, labels, tmp_path) == scope


def test_two_workers_give_the_verdicts_of_one_process(separate: Inner) -> None:
    options = ("--junitxml=x.xml", "--tb=no", "-n", "2")
    alone = separate.audit("llama-w4", "broken", options=options[:2])
    expected = separate.record()
    shared = separate.audit("llama-w4", "broken", options=options)
    assert shared.parseoutcomes() == alone.parseoutcomes()
    record = separate.record()
    assert record.models == expected.models
    assert (separate.pytester.path / "x.xml").read_text().count("<testcase") == 2 * CHECKS
    found = count_statuses("llama-w4") + count_statuses("broken")
    shared.stdout.fnmatch_lines([f"*= sw-audit: {found[Status.PASS]} pass, {found[Status.FAIL]} fail =*"])


def test_one_model_goes_to_one_worker_with_the_tests_on_it(separate: Inner) -> None:
    path = separate.pytester.makepyfile("def test_it(sw_measurements): pass\ndef test_mine(): pass\n")
    run = separate.audit("llama-w4", "llama-w8", "llama-w2", options=("-n", "2", str(path)))
    run.assert_outcomes(passed=3 * CHECKS + 3 + 1)
    measured = separate.noted("measure")
    assert sorted(note[0] for note in measured) == ["llama-w2", "llama-w4", "llama-w8"]
    assert len({note[1] for note in measured}) == 2


def test_a_policy_file_that_is_only_found_by_collecting_goes_to_one_worker(
    separate: Inner, policy_file: Path
) -> None:
    folder = separate.pytester.mkdir("deep")
    policy_file.rename(folder / policy_file.name)
    run = separate.run("-n", "2", "--tb=no")
    found = count_statuses("llama-w4") + count_statuses("broken")
    assert run.parseoutcomes()["passed"] == found[Status.PASS]
    assert sorted(note[0] for note in separate.noted("measure")) == ["broken", "llama-w4"]
    assert len(separate.record().verdicts) == 2 * CHECKS


def test_a_model_that_cannot_be_used_is_told_the_same_way(separate: Inner) -> None:
    run = separate.audit("gone", "llama-w4", options=("-n", "2"))
    run.assert_outcomes(errors=CHECKS, passed=CHECKS)
    line = "model 'gone': model.safetensors is truncated; copy it again"
    run.stdout.fnmatch_lines([line, f"gone: not audited: {line}"])
    assert separate.record().failures == (ModelFailure(model="gone", message=line),)


def test_stopping_at_a_failure_leaves_the_record_of_what_was_measured(separate: Inner) -> None:
    run = separate.audit("broken", options=("-n", "2", "-x", "--tb=no"))
    assert run.ret != 0
    assert len(separate.record().verdicts) == CHECKS


def test_another_way_of_distributing_is_left_as_the_user_wants_it(separate: Inner) -> None:
    run = separate.audit("llama-w4", options=("-n", "2", "--dist=loadscope", "-v"))
    run.assert_outcomes(passed=CHECKS)
    run.stdout.fnmatch_lines(["scheduling tests via LoadScopeScheduling"])
    assert len(separate.noted("measure")) == 1


def test_without_an_audit_the_usual_scheduling_stays(separate: Inner) -> None:
    separate.pytester.makepyfile("def test_mine(): pass\n")
    separate.run("-n", "2", "-v").stdout.fnmatch_lines(["scheduling tests via LoadScheduling"])


def test_a_bad_model_list_is_told_before_any_worker_starts(separate: Inner) -> None:
    run = separate.audit("a/llama", "b/llama", options=("-n", "2"))
    assert run.ret == 4
    run.stdout.no_fnmatch_line("*workers*")


@pytest.mark.parametrize("verbose", [[], ["-v"]])
def test_workers_tell_each_stage_when_they_are_verbose(separate: Inner, verbose: list[str]) -> None:
    run = separate.audit("llama-w4", "llama-w8", options=("-n", "2", *verbose))
    told = {line.partition("] ")[2] for line in run.errlines if line.startswith("[0")}
    stages = {f"{model}: {stage}" for model in ("llama-w4", "llama-w8") for stage in ("digesting", "measuring")}
    assert told == (stages if verbose else set())


@pytest.mark.parametrize("options", [[], ["-n", "2"]], ids=["alone", "shared"])
def test_ctrl_c_leaves_a_record_of_what_was_measured(separate: Inner, options: list[str]) -> None:
    waiting = separate.pytester.path / "waiting"
    with (separate.pytester.path / "conftest.py").open("a") as conftest:
        conftest.write(
            "\nimport pathlib, time\n"
            "def pytest_runtest_call(item):\n"
            "    if 'stopword' in item.nodeid:\n"
            f"        pathlib.Path({str(waiting)!r}).touch()\n"
            "        time.sleep(60)\n"
        )
    command = [sys.executable, "-m", "pytest", "--sw-audit-model=llama-w4", *options]
    run = subprocess.Popen(
        command,
        cwd=separate.pytester.path,
        stdout=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )
    deadline = time.monotonic() + 120
    while not waiting.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGINT)
    out, _ = run.communicate(timeout=60)
    assert waiting.exists()
    assert run.returncode == 2
    assert [len(model.verdicts) for model in separate.record().models] == [CHECKS]
    assert b"sw-audit: the run was stopped by Ctrl-C; what is not decided is inconclusive" in out
    assert b"Traceback" not in out
