from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pytest_sw_audit.exchange import find_scope
from pytest_sw_audit.state import find_session
from pytest_sw_audit.xdist import limit_workers, tell_memory
from support.fake_runner import CHECKS, count_statuses
from support.program import heed_interrupts
from support.runs import Inner

from sw_audit import memory
from sw_audit.record.verdict import Status
from sw_audit.runner.assignments import OPTIONS_KEY, Case
from sw_audit.runner.fitting import PROGRAM

pytestmark = pytest.mark.slow  # each run starts workers

PLENTY, SCARCE = 10**12, 2 * PROGRAM + 10**7


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


@pytest.mark.parametrize(
    ("models", "free", "arguments", "started"),
    [
        (2, PLENTY, (), 2),
        (5, PLENTY, (), 4),
        (3, SCARCE, (), 2),
        (0, PLENTY, (), 4),
        (1, PLENTY, ("test_mine.py",), 4),
        (3, SCARCE, ("test_mine.py",), 2),
        (0, PLENTY, ("audit.swaudit.toml",), 2),
        (0, SCARCE, (".",), 4),
        (0, PROGRAM, (".",), 1),
    ],
    ids=[
        "models",
        "cores",
        "memory",
        "no audit",
        "other tests",
        "memory with other tests",
        "policy",
        "found",
        "less",
    ],
)
def test_so_many_workers_start_by_themselves_as_have_something_to_do_and_fit(
    inner: Inner,
    policy_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    models: int,
    free: int,
    arguments: tuple[str, ...],
    started: int,
) -> None:
    if not arguments:
        policy_file.unlink()
    monkeypatch.setattr(memory, "find_available", lambda: free)
    named = [f"--sw-audit-model=llama-{number}" for number in range(models)]
    config = inner.pytester.parseconfig(*named, *arguments)
    files = [policy_file] if policy_file.name in arguments else []
    assert limit_workers(config, 4, files) == started


def test_more_workers_than_fit_are_told_of(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "find_available", lambda: SCARCE)
    monkeypatch.setenv("PYTEST_PLUGINS", "pytest_sw_audit.plugin,xdist.plugin")
    for workers, told in ((3, "sw-audit: 3 models at once may take 1.23 GiB"), (2, ""), (0, "")):
        named = [f"--sw-audit-model=llama-{number}" for number in range(3)]
        config = inner.pytester.parseconfig(*named, "-n", str(workers))
        find_session(config).begin([])
        assert (tell_memory(config) or "").startswith(told)
        assert bool(tell_memory(config)) == bool(told)


def test_no_more_workers_start_by_themselves_than_fit_into_memory(
    separate: Inner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_XDIST_AUTO_NUM_WORKERS", "3")
    with (separate.pytester.path / "conftest.py").open("a") as file:
        file.write("\nfrom sw_audit import memory\nmemory.find_available = lambda: 950_000_000\n")
    run = separate.audit("llama-1", "llama-2", "llama-3", options=("-n", "auto"))
    run.stdout.fnmatch_lines(["created: 2/2 workers"])
    run.assert_outcomes(passed=3 * CHECKS)


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
    [failure] = separate.record().failures
    assert (failure.model, failure.message, len(failure.checks)) == ("gone", line, CHECKS)


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
