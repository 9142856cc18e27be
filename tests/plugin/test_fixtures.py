from __future__ import annotations

import inspect
import textwrap

import pytest
import pytest_sw_audit.fixtures
from support.fake_runner import CHECKS
from support.runs import Inner

USES = """
def test_location(sw_location): assert sw_location.super_weights
def test_policy(sw_policy): assert sw_policy.models
def test_verdicts(sw_verdicts): assert sw_verdicts["prune-collapses"].status == "pass"
def test_measured(sw_measurements): assert sw_measurements["baseline"].loss.perplexity
def test_model(sw_model): assert sw_model.identity.id
"""


def test_tests_run_once_per_model_and_share_its_measuring_pass_with_the_checks(inner: Inner) -> None:
    path = inner.pytester.makepyfile(USES)
    run = inner.audit("llama-w4", "llama-w8", options=(str(path), "-v"))
    run.assert_outcomes(passed=2 * CHECKS + 2 * 5)
    run.stdout.fnmatch_lines(["*::test_location[[]llama-w4[]] PASSED*", "*::test_location[[]llama-w8[]] PASSED*"])
    assert [note[0] for note in inner.noted("measure")] == ["llama-w4", "llama-w8"]


def test_one_model_is_open_at_a_time(inner: Inner) -> None:
    path = inner.pytester.makepyfile(
        """
        import gc, types

        def test_first(sw_model): alone(sw_model)
        def test_second(sw_model): alone(sw_model)

        def alone(checkpoint):
            gc.collect()
            spaces = [one for one in gc.get_objects() if type(one) is types.SimpleNamespace]
            assert [one for one in spaces if hasattr(one, "identity")] == [checkpoint]
        """
    )
    run = inner.audit("llama-w4", "llama-w8", options=(str(path), "-m", "not sw_audit"))
    run.assert_outcomes(passed=4, deselected=2 * CHECKS)
    assert [note[0] for note in inner.noted("open")] == ["llama-w4", "llama-w8"]


def test_without_a_model_the_tests_are_skipped_and_told_why(inner: Inner) -> None:
    inner.pytester.makepyfile(USES)
    run = inner.run("-rs")
    run.assert_outcomes(skipped=5)
    run.stdout.fnmatch_lines(["SKIPPED*no model to audit: give one with --sw-audit-model,*"])


def test_the_models_of_pyproject_serve_the_fixtures_without_an_audit_of_their_own(inner: Inner) -> None:
    inner.pytester.makepyprojecttoml('[[tool.sw_audit.model]]\nsource = "hub/llama-w4"\n')
    inner.pytester.makepyfile(USES)
    inner.run().assert_outcomes(passed=5)
    assert not (inner.pytester.path / "sw-audit-out").exists()


def test_a_broken_table_in_pyproject_fails_the_tests_that_need_it_in_one_line(inner: Inner) -> None:
    inner.pytester.makepyprojecttoml('sede = 1\n[[tool.sw_audit.model]]\nsuorce = "hub/llama-w4"\n')
    inner.pytester.makepyfile(USES)
    run = inner.run()
    run.assert_outcomes(errors=1)
    run.stdout.fnmatch_lines(["*[[]tool.sw_audit[]]*suorce*"])
    run.stdout.no_fnmatch_line("*Traceback*")


@pytest.mark.usefixtures("policy_file")
def test_a_policy_file_named_on_the_command_line_serves_the_fixtures(inner: Inner) -> None:
    path = inner.pytester.makepyfile(
        "def test_policy(sw_policy, sw_location): assert len(sw_policy.models) == 2\n"
    )
    run = inner.run("audit.swaudit.toml", str(path), "-v", "-k", "test_policy")
    run.stdout.fnmatch_lines(["*::test_policy[[]llama-w4[]] PASSED*", "*::test_policy[[]broken[]] PASSED*"])


@pytest.mark.usefixtures("policy_file")
def test_models_of_one_name_are_told_apart_by_their_policy(inner: Inner) -> None:
    path = inner.pytester.makepyfile("def test_policy(sw_policy): pass\n")
    run = inner.audit("llama-w4", options=("audit.swaudit.toml", str(path), "-v", "-k", "test_policy"))
    run.stdout.fnmatch_lines(
        ["*[[]models:llama-w4[]] PASSED*", "*[[]audit:llama-w4[]] PASSED*", "*[[]broken[]] PASSED*"]
    )


def test_the_marker_restricts_models_and_checks(inner: Inner) -> None:
    inner.pytester.makepyfile(
        """
        import pytest

        @pytest.mark.sw_audit(model="llama-w8", check=["stopword-shift"])
        def test_one(sw_verdicts): assert list(sw_verdicts) == ["stopword-shift"]

        @pytest.mark.sw_audit(model=("other",))
        def test_none(sw_verdicts): pass
        """
    )
    run = inner.audit(
        "llama-w4", "llama-w8", options=(".", "-m", "sw_audit", "-k", "test_one or test_none", "-rs")
    )
    run.assert_outcomes(passed=1, skipped=1, deselected=2 * CHECKS)
    run.stdout.fnmatch_lines(["SKIPPED*no model of this run is among other"])
    assert [(note[0], note[2:]) for note in inner.noted("measure")] == [("llama-w8", ["stopword-shift"])]


@pytest.mark.parametrize(
    ("marker", "told"),
    [
        ("modle='x'", "marker sw_audit does not know modle; it takes model=... and check=..."),
        ("'x'", "marker sw_audit does not know 'x'; *"),
        ("model=3", "marker sw_audit has model=3; give an id or a list of ids"),
    ],
)
@pytest.mark.parametrize("argument", ["sw_policy", ""])
def test_a_marker_that_says_what_it_cannot_is_refused(inner: Inner, marker: str, told: str, argument: str) -> None:
    inner.pytester.makepyfile(f"import pytest\n@pytest.mark.sw_audit({marker})\ndef test_it({argument}): pass\n")
    run = inner.run()
    assert run.ret != 0
    run.stdout.fnmatch_lines([f"*{told}"])


def test_a_model_that_cannot_be_opened_fails_a_test_in_one_line(inner: Inner) -> None:
    path = inner.pytester.makepyfile("def test_model(sw_model): pass\ndef test_verdicts(sw_verdicts): pass\n")
    run = inner.audit("gone", options=(str(path), "-m", "not sw_audit"))
    run.assert_outcomes(errors=2, deselected=CHECKS)
    run.stdout.fnmatch_lines(["model 'gone': model.safetensors is truncated; copy it again"])
    run.stdout.no_fnmatch_line("*Traceback*")


def test_the_documented_example_runs(inner: Inner) -> None:
    text = inspect.getdoc(pytest_sw_audit.fixtures) or ""
    path = inner.pytester.makepyfile(textwrap.dedent(text.partition("For instance::\n")[2]))
    run = inner.audit("llama-w4", options=(str(path), "-m", "not sw_audit or sw_audit(check='prune-collapses')"))
    assert "failed" not in run.parseoutcomes()
    run.stdout.fnmatch_lines([f"*5 passed, {CHECKS - 1} deselected*"])
