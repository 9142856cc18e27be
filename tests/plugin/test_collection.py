from __future__ import annotations

from pathlib import Path

import pytest
from support.fake_runner import CHECKS
from support.runs import Inner

MINE = "def test_mine(): pass\n"


def test_in_any_folder_there_is_one_item_per_check_with_a_readable_id(inner: Inner) -> None:
    run = inner.audit("llama-w4", options=("--collect-only", "-q"))
    assert run.ret == 0
    ids = [line for line in run.outlines if "::" in line]
    assert len(ids) == CHECKS
    assert "llama-w4::prune-collapses" in ids
    assert inner.noted("measure") == []


def test_every_model_is_an_item_of_its_own_per_check_and_measured_once(inner: Inner) -> None:
    run = inner.audit("llama-w4", "llama-w8")
    run.assert_outcomes(passed=2 * CHECKS)
    assert [note[0] for note in inner.noted("measure")] == ["llama-w4", "llama-w8"]


def test_without_file_arguments_only_the_audit_is_collected(inner: Inner) -> None:
    inner.pytester.makepyfile(MINE)
    inner.audit("llama-w4").assert_outcomes(passed=CHECKS)


def test_testpaths_are_no_file_arguments(inner: Inner) -> None:
    inner.pytester.makeini("[pytest]\ntestpaths = tests\n")
    tests = inner.pytester.mkdir("tests")
    (tests / "test_mine.py").write_text(MINE)
    run = inner.audit("llama-w4")
    run.assert_outcomes(passed=CHECKS)
    run.stdout.no_fnmatch_line("testpaths:*")


def test_with_a_file_argument_ones_own_tests_run_too(inner: Inner) -> None:
    path = inner.pytester.makepyfile(MINE)
    inner.audit("llama-w4", options=(str(path),)).assert_outcomes(passed=CHECKS + 1)


def test_a_keyword_selects_checks_and_only_what_they_need_is_measured(inner: Inner) -> None:
    run = inner.audit("llama-w4", "llama-w8", options=("-k", "prune-collapses and w8"))
    run.assert_outcomes(passed=1, deselected=2 * CHECKS - 1)
    measured = inner.noted("measure")
    assert [(note[0], note[2:]) for note in measured] == [("llama-w8", ["prune-collapses"])]


def test_a_marker_expression_selects_checks(inner: Inner) -> None:
    path = inner.pytester.makepyfile(MINE)
    options = (str(path), "--strict-markers", "-m", "sw_audit(check='prune-collapses')")
    inner.audit("llama-w4", options=options).assert_outcomes(passed=1, deselected=CHECKS)
    inner.audit("llama-w4", options=(str(path), "-m", "not sw_audit")).assert_outcomes(passed=1, deselected=CHECKS)


def test_a_node_id_of_a_model_given_by_option_can_be_copied_onto_the_command_line(inner: Inner) -> None:
    inner.pytester.makepyfile(MINE)
    inner.audit("llama-w4", options=("llama-w4::prune-collapses",)).assert_outcomes(
        passed=1, deselected=CHECKS - 1
    )
    inner.audit("llama-w4", "llama-w8", options=("llama-w8",)).assert_outcomes(passed=CHECKS)


def test_a_check_can_be_deselected_by_its_node_id(inner: Inner) -> None:
    run = inner.audit("llama-w4", options=("--deselect", "llama-w4::stopword-shift"))
    run.assert_outcomes(passed=CHECKS - 1, deselected=1)


def test_a_check_that_is_asked_for_by_name_is_the_only_one(inner: Inner) -> None:
    run = inner.audit(
        "llama-w4", options=("--sw-audit-check=stopword-shift", "--sw-audit-check", "prune-collapses")
    )
    run.assert_outcomes(passed=2)
    assert [note[2:] for note in inner.noted("measure")] == [["prune-collapses", "stopword-shift"]]


def test_a_check_that_does_not_exist_is_one_line_that_names_the_nearest(inner: Inner) -> None:
    run = inner.audit("llama-w4", options=("--sw-audit-check=prune-collapse",))
    assert run.ret == 4
    run.stderr.fnmatch_lines(["ERROR: check 'prune-collapse': there is no such check; *'prune-collapses'*"])


def test_a_check_that_the_policy_leaves_out_runs_when_it_is_named(inner: Inner) -> None:
    inner.pytester.makefile(".toml", policy="[checks.prune-collapses]\nenabled = false\n")
    inner.audit("llama-w4", options=("--sw-audit-policy=policy.toml",)).assert_outcomes(passed=CHECKS - 1)
    named = ("--sw-audit-policy=policy.toml", "--sw-audit-check=prune-collapses")
    inner.audit("llama-w4", options=named).assert_outcomes(passed=1)


def test_x_stops_at_the_first_failure_and_lf_runs_what_failed(inner: Inner) -> None:
    first = inner.audit("broken", "llama-w4", options=("-x",))
    first.assert_outcomes(passed=1, failed=1)
    assert [note[0] for note in inner.noted("measure")] == ["broken"]
    again = inner.audit("broken", "llama-w4", options=("--lf", "-v"))
    again.assert_outcomes(failed=1, deselected=2 * CHECKS - 1)
    again.stdout.fnmatch_lines(["broken::super-activation-persists FAILED*"])


def test_a_policy_file_is_collected_and_its_checks_can_be_addressed(inner: Inner, policy_file: Path) -> None:
    run = inner.run("--collect-only", "-q", str(policy_file))
    assert "audit.swaudit.toml::llama-w4::prune-collapses" in run.outlines
    one = inner.run("audit.swaudit.toml::broken::prune-collapses", "--tb=no")
    one.assert_outcomes(failed=1)
    inner.run("audit.swaudit.toml::llama-w4").assert_outcomes(passed=CHECKS)


@pytest.mark.usefixtures("policy_file")
def test_a_policy_file_is_found_in_a_folder_like_any_test(inner: Inner) -> None:
    inner.pytester.makepyfile(MINE)
    run = inner.run("-k", "prune-collapses or mine", "--tb=no")
    run.assert_outcomes(passed=2, failed=1, deselected=2 * CHECKS - 2)


@pytest.mark.usefixtures("policy_file")
def test_lf_runs_what_failed_in_a_policy_file(inner: Inner) -> None:
    failed = inner.run("--tb=no").parseoutcomes()["failed"]
    again = inner.run("--lf", "--tb=no")
    assert again.parseoutcomes() == {"failed": failed, "deselected": 2 * CHECKS - failed}


def test_a_broken_policy_file_is_one_line_and_the_rest_can_go_on(inner: Inner, policy_file: Path) -> None:
    (policy_file.parent / "worse.swaudit.toml").write_text('[[model]]\nsouce = "x"\n')
    run = inner.run("--continue-on-collection-errors", "-k", "prune-collapses and llama")
    run.assert_outcomes(passed=1, errors=1, deselected=2 * CHECKS - 1)
    run.stdout.fnmatch_lines(["*worse.swaudit.toml*souce*"])
    run.stdout.no_fnmatch_line("*Traceback*")
    named = inner.run("worse.swaudit.toml")
    assert named.ret == 4
    assert [line for line in named.errlines if line] == [line for line in named.errlines if "souce" in line]


def test_a_policy_file_without_a_model_says_so(inner: Inner) -> None:
    inner.pytester.makefile(".swaudit.toml", audit="seed = 1\n")
    run = inner.run("audit.swaudit.toml")
    assert run.ret == 4
    run.stderr.fnmatch_lines(["ERROR: policy *audit.swaudit.toml: it names no model; *"])


def test_nothing_happens_where_no_audit_is_asked_for(inner: Inner) -> None:
    inner.pytester.makepyfile(MINE)
    inner.pytester.makepyprojecttoml('[[tool.sw_audit.model]]\nsource = "models/llama-w4"\n')
    run = inner.run()
    run.assert_outcomes(passed=1)
    run.stdout.no_fnmatch_line("sw-audit:*")
    assert inner.noted("measure") == []
    assert not (inner.pytester.path / "sw-audit-out").exists()


def test_it_works_without_the_terminal_and_without_the_cache(inner: Inner) -> None:
    run = inner.audit("broken", options=("-p", "no:terminal", "-p", "no:cacheprovider"))
    assert run.ret == 1
    assert run.outlines == []
    assert len(inner.verdicts()) == CHECKS
    assert not (inner.pytester.path / ".pytest_cache").exists()


def test_listing_markers_fixtures_and_help_asks_for_nothing(inner: Inner) -> None:
    run = inner.run("--markers")
    run.stdout.fnmatch_lines(["@pytest.mark.sw_audit(model=None, check=None):*"])
    fixtures = inner.run("--fixtures")
    fixtures.stdout.fnmatch_lines(["sw_model*", "*open checkpoint*"])
    helped = inner.audit("llama-w4", options=("--help",))
    helped.stdout.fnmatch_lines(["sw-audit*", "*--sw-audit-model=SOURCE*"])
    assert inner.noted("measure") == []
