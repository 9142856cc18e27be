from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from support.fake_runner import CHECKS
from support.runs import Inner

from sw_audit.record.record import ModelFailure
from sw_audit.record.verdict import Status


def read_junit(path: Path) -> dict[str, ElementTree.Element]:
    cases = ElementTree.parse(path).getroot().iter("testcase")  # noqa: S314 - written by this test
    return {f"{case.get('classname')}::{case.get('name')}": case for case in cases}


def test_a_failing_check_tells_everything_and_shows_no_traceback(inner: Inner) -> None:
    run = inner.audit("broken", options=("-k", "prune-collapses"))
    assert run.ret == 1
    run.stdout.fnmatch_lines(
        [
            "*prune-collapses (broken)*",
            "FAIL broken prune-collapses: perplexity ratio 1.72 [[]1.7, 1.742], limit 10",
            "  claimed   Zeroing the super weights destroys the model",
            "  measured  perplexity ratio 1.72 [[]1.7, 1.742]",
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
    checks = ("-k", "super-weight-located", "--tb=line")
    some = inner.audit("control", options=checks)
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
    assert inner.record().failures == (ModelFailure(model="gone", message=line),)


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
            "sw-audit: llama-w4, gone on corpus specimen",
            "*= sw-audit: 2 pass =*",
            "model     check            status  observed [[]low, high]*limit",
            "llama-w4  prune-collapses  PASS    213.6 [[]211.1, 216.3]*10",
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
