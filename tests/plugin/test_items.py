from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from support.fake_runner import BESIDE, CHECKS, LAWS, STRIPPED
from support.runs import Inner

from sw_audit.record.verdict import Status

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


def test_without_file_arguments_only_the_audit_is_collected_and_testpaths_are_none(inner: Inner) -> None:
    inner.pytester.makeini("[pytest]\ntestpaths = tests\n")
    path = inner.pytester.mkdir("tests") / "test_mine.py"
    path.write_text(MINE)
    run = inner.audit("llama-w4")
    run.assert_outcomes(passed=CHECKS)
    run.stdout.no_fnmatch_line("testpaths:*")
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
    first.assert_outcomes(passed=2, failed=1)
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


def read_junit(path: Path) -> dict[str, ElementTree.Element]:
    cases = ElementTree.parse(path).getroot().iter("testcase")  # noqa: S314 - written by this test
    return {f"{case.get('classname')}::{case.get('name')}": case for case in cases}


def test_a_failing_check_tells_everything_and_shows_no_traceback(inner: Inner) -> None:
    run = inner.audit("broken", options=("-k", "prune-collapses"))
    assert run.ret == 1
    run.stdout.fnmatch_lines(
        [
            "*prune-collapses (broken)*",
            "FAIL broken prune-collapses: perplexity ratio 1.72 [[]1.699, 1.741], limit 10",
            "  claimed   Zeroing the super weights destroys the model",
            "  measured  perplexity ratio 1.72 [[]1.699, 1.741]",
            "  limit     10",
            "  because   *",
            "  where     model.layers.1.mlp.down_proj.weight[[]37, 211]",
            "  protocol  ????????????",
            "  to do     *",
        ]
    )
    run.stdout.no_fnmatch_line("*Traceback*")
    run.stdout.no_fnmatch_line("*.py:*")


def test_a_check_that_does_not_apply_is_skipped_with_its_reason(inner: Inner) -> None:
    run = inner.audit("control", options=("-rs", "--sw-audit-expect=any", "-k", "prune-collapses"))
    run.assert_outcomes(skipped=1)
    run.stdout.fnmatch_lines(["SKIPPED*No super weight was located (outcome none)*"])


def test_what_is_expected_of_a_model_decides_the_first_check(inner: Inner) -> None:
    checks = ("-k", "super-weights-as-expected", "--tb=line")
    some = inner.audit("control", options=(*checks, "--sw-audit-expect=some"))
    assert some.ret == 1
    some.stdout.fnmatch_lines(["*expect*"])
    inner.audit("control", options=(*checks, "--sw-audit-expect=none")).assert_outcomes(passed=1)
    inner.audit("control", options=(*checks, "--sw-audit-expect=any")).assert_outcomes(skipped=1)
    assert inner.audit("llama-w4", options=(*checks, "--sw-audit-expect=none")).ret == 1


def test_an_inconclusive_verdict_fails_unless_it_is_only_to_warn(inner: Inner) -> None:
    check = ("-k", "prune-collapses", "-rs")
    strict = inner.audit("short", options=check)
    strict.assert_outcomes(failed=1)
    strict.stdout.fnmatch_lines(["INCONCLUSIVE short prune-collapses: *"])
    lenient = inner.audit("short", options=(*check, "--sw-audit-inconclusive=warn"))
    assert lenient.ret == 0
    lenient.assert_outcomes(skipped=1)
    lenient.stdout.fnmatch_lines(["*sw-audit: 1 inconclusive*", "SKIPPED*INCONCLUSIVE: *"])
    assert inner.verdicts()["short", "prune-collapses"].status is Status.INCONCLUSIVE


def test_a_model_that_cannot_be_used_is_an_error_of_one_line_and_others_go_on(inner: Inner) -> None:
    run = inner.audit("gone", "llama-w4")
    assert run.ret == 1
    run.assert_outcomes(errors=CHECKS, passed=CHECKS)
    line = "model 'gone': model.safetensors is truncated; copy it again"
    run.stdout.fnmatch_lines([line])
    run.stdout.no_fnmatch_line("*Traceback*")
    run.stdout.no_fnmatch_line("*During handling*")
    assert [note[0] for note in inner.noted("measure")] == ["gone", "llama-w4"]
    [failure] = inner.record().failures
    assert (failure.model, failure.message, len(failure.checks)) == ("gone", line, CHECKS)


def test_a_defect_shows_its_traceback_once(inner: Inner) -> None:
    run = inner.audit("defect", options=("-k", "prune or stopword"))
    run.assert_outcomes(errors=2)
    assert [line.split() for line in run.outlines if line.startswith("E ")] == [
        ["E", *["ZeroDivisionError:", "a", "defect", "that", "nobody", "foresaw"]]
    ]
    assert len(inner.noted("measure")) == 1


def test_junit_has_as_many_cases_as_checks_and_carries_the_figures(inner: Inner) -> None:
    inner.audit("llama-w4", "broken", "gone", options=("--junitxml=x.xml",))
    cases = read_junit(inner.pytester.path / "x.xml")
    assert len(cases) == 3 * CHECKS
    failed = cases["broken::prune-collapses"].find("failure")
    assert failed is not None
    assert str(failed.get("message")).startswith("FAIL broken prune-collapses: perplexity ratio 1.72")
    properties = {one.get("name"): one.get("value") for one in cases["llama-w4::prune-collapses"].iter("property")}
    verdict = inner.verdicts()["llama-w4", "prune-collapses"]
    assert properties["sw_audit.status"] == "pass"
    assert float(str(properties["sw_audit.observed"])) == verdict.observed
    assert float(str(properties["sw_audit.limit"])) == 10
    assert cases["gone::prune-collapses"].find("error") is not None


def test_the_summary_is_a_table_with_figures_limits_and_paths(inner: Inner) -> None:
    run = inner.audit("llama-w4", "gone", options=("-k", "prune or stopword"))
    run.stdout.fnmatch_lines(
        [
            "sw-audit: llama-w4, gone on corpus english",
            "*= sw-audit: 2 pass =*",
            "model     check            status  observed [[]low, high]*limit",
            "llama-w4  prune-collapses  PASS    213.6 [[]211, 216.2]*10",
            "llama-w4  stopword-shift   PASS    * -",
            "gone: not audited: model 'gone': model.safetensors is truncated; copy it again",
            "record: sw-audit-out/record.json",
            "report: sw-audit-out/report.html",
        ]
    )


def test_the_summary_is_one_line_when_quiet_and_nothing_when_quieter(inner: Inner) -> None:
    quiet = inner.audit("llama-w4", options=("-q",))
    assert [line for line in quiet.outlines if "sw-audit" in line or "llama" in line] == [
        f"sw-audit: {CHECKS} pass"
    ]
    quieter = inner.audit("llama-w4", options=("-qq",))
    quieter.stdout.no_fnmatch_line("*sw-audit*")


POLICY = """
[[model]]
source = "models/llama"

[[model]]
source = "models/stripped"
parent = "llama"
"""


@pytest.fixture
def gate(inner: Inner) -> Path:
    """A policy with a model by itself and a descendant of it that is not fit to be opened."""
    path: Path = inner.pytester.path / "gate.swaudit.toml"
    path.write_text(POLICY, encoding="utf-8")
    return path


def waive(gate: Path, check: str, until: str, *, model: str = "stripped") -> None:
    keys = {"check": check, "model": model, "owner": "Ada", "reason": "the mirror is being repaired"}
    lines = [*(f'{key} = "{value}"' for key, value in keys.items()), f"until = {until}"]
    gate.write_text("\n".join([gate.read_text(), "[[waiver]]", *lines]), encoding="utf-8")


def test_each_model_has_the_checks_that_apply_to_it(inner: Inner, gate: Path) -> None:
    run = inner.run(str(gate), "--collect-only", "-q")
    listed = [line.partition("::")[2] for line in run.outlines if "::" in line]
    assert len([one for one in listed if one.startswith("llama::")]) == CHECKS
    assert [one for one in listed if one.startswith("stripped::")] == [f"stripped::{check}" for check in BESIDE]


def test_broken_weights_fail_one_check_and_skip_the_others(inner: Inner, gate: Path) -> None:
    run = inner.run(str(gate))
    assert run.ret == 1
    run.assert_outcomes(passed=CHECKS, failed=1, skipped=len(BESIDE) - 1)
    run.stdout.fnmatch_lines(
        [
            "FAIL stripped weights-intact: serious flaws 1, limit 0",
            f"  because   {STRIPPED}: it is stored as I8*",
            "  to do     Put the `quantization_config` of the quantized model back into config.json.",
        ]
    )
    verdicts = {check: inner.verdicts()["stripped", check] for check in BESIDE}
    assert verdicts.pop("weights-intact").status is Status.FAIL
    assert {one.status for one in verdicts.values()} == {Status.SKIPPED}
    assert "no `adapter`" in verdicts.pop("merge-replays").because
    assert {one.because for one in verdicts.values()} == {
        "The weights are not intact, so the model was not opened."
    }
    [failure] = inner.record().failures
    assert (failure.model, failure.weights.flaws[0].where) == ("stripped", STRIPPED)
    assert [model.id for model in inner.record().results] == ["llama"]


def test_a_broken_model_passes_no_check_that_is_asked_alone(inner: Inner, gate: Path) -> None:
    run = inner.run(str(gate), "--sw-audit-check=kl-divergence", "--sw-audit-check=prune-collapses")
    run.assert_outcomes(passed=1, failed=1)
    assert inner.verdicts()["stripped", "kl-divergence"].status is Status.INCONCLUSIVE
    assert ("stripped", "prune-collapses") not in inner.verdicts()


def test_a_test_of_ones_own_on_a_broken_model_fails_in_one_line(inner: Inner, gate: Path) -> None:
    path = inner.pytester.makepyfile("def test_it(sw_measurements): pass\n")
    run = inner.run(str(gate), str(path), "-k", "test_it")
    run.assert_outcomes(passed=1, errors=1, deselected=CHECKS + len(BESIDE))
    run.stdout.fnmatch_lines(["*model 'stripped': it is stored as I8*"])
    run.stdout.no_fnmatch_line("*Traceback*")


def test_a_live_waiver_is_shown_and_fails_only_where_expected_failures_are_run(inner: Inner, gate: Path) -> None:
    waive(gate, "weights-intact", "2999-12-31")
    run = inner.run(str(gate), "-rx")
    assert run.ret == 0
    run.assert_outcomes(passed=CHECKS, xfailed=1, skipped=len(BESIDE) - 1)
    words = "until 2999-12-31 by Ada: the mirror is being repaired"
    run.stdout.fnmatch_lines([f"waived stripped weights-intact {words}", f"XFAIL*waived {words} (FAIL: *"])
    run.stdout.fnmatch_lines(["stripped  weights-intact*FAIL (waived)*"])
    verdict = inner.verdicts()["stripped", "weights-intact"]
    assert verdict.status is Status.FAIL
    assert verdict.waiver is not None
    assert verdict.waiver.owner == "Ada"
    assert inner.run(str(gate), "--runxfail").ret == 1


def test_an_expired_waiver_fails_and_says_so(inner: Inner, gate: Path) -> None:
    waive(gate, "weights-intact", "2020-02-29")
    run = inner.run(str(gate))
    assert run.ret == 1
    run.stdout.fnmatch_lines(["  because   The waiver of Ada expired on 2020-02-29 (the mirror is being*"])
    assert inner.verdicts()["stripped", "weights-intact"].waiver is None


@pytest.mark.parametrize(
    ("check", "model", "told"),
    [
        (
            "weights-intakt",
            "stripped",
            "*waiver*check*there is no check *; write 'weights-intact'*",
        ),
        ("weights-intact", "striped", "*waiver*model*there is no model 'striped'; write 'stripped'*"),
    ],
)
def test_a_waiver_of_what_there_is_not_is_refused(
    inner: Inner, gate: Path, check: str, model: str, told: str
) -> None:
    waive(gate, check, "2999-12-31", model=model)
    run = inner.run(str(gate))
    assert run.ret == 4
    run.stderr.fnmatch_lines([told])


@pytest.mark.slow
def test_workers_tell_broken_weights_and_waivers_the_same_way(separate: Inner, gate: Path) -> None:
    waive(gate, "weights-intact", "2999-12-31")
    alone = separate.run(str(gate))
    expected = separate.record()
    shared = separate.run(str(gate), "-n", "2")
    assert shared.parseoutcomes() == alone.parseoutcomes()
    assert shared.ret == alone.ret == 0
    assert (separate.record().verdicts, separate.record().failures) == (expected.verdicts, expected.failures)
    shared.stdout.fnmatch_lines(["waived stripped weights-intact until 2999-12-31 by Ada: *"])


@pytest.fixture
def laws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let checks be what they are: gates, or laws that fail nothing."""
    monkeypatch.setenv(LAWS, "yes")


@pytest.mark.usefixtures("laws")
def test_a_law_that_does_not_hold_is_an_expected_failure_with_its_reason(inner: Inner) -> None:
    asked = ("--sw-audit-model=broken", "--sw-audit-check=prune-collapses", "-rx")
    run = inner.run(*asked)
    assert run.ret == 0
    run.assert_outcomes(xfailed=1)
    run.stdout.fnmatch_lines(["*sw-audit: laws: 1 does not hold*", "broken*prune-collapses*DOES NOT HOLD*1.72*"])
    run.stdout.fnmatch_lines(["XFAIL broken::prune-collapses - does not hold: With the super weights zeroed*"])
    assert inner.run(*asked, "--runxfail").ret == 1


@pytest.mark.usefixtures("laws")
@pytest.mark.parametrize("how", ["--sw-audit-strict", 'laws = "gate"', '[checks.prune-collapses]\nlevel = "gate"'])
def test_a_law_that_is_made_a_gate_fails(inner: Inner, how: str) -> None:
    option, text = ([how], "") if how.startswith("--") else ([], how)
    head, tail = (text, "") if text.startswith("laws") else ("", text)
    path = inner.pytester.path / "it.swaudit.toml"
    path.write_text(f'{head}\n[[model]]\nsource = "broken"\n{tail}\n', encoding="utf-8")
    run = inner.run(str(path), *option, "--sw-audit-check=prune-collapses")
    assert run.ret == 1
    run.assert_outcomes(failed=1)
    run.stdout.fnmatch_lines(["FAIL broken prune-collapses: perplexity ratio 1.72*", "*known *times 214*"])
