"""Descendants in a run: they have checks of their own, and one with broken weights fails by `weights-intact`."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.fake_runner import BESIDE, CHECKS, STRIPPED
from support.runs import Inner

from sw_audit.record.verdict import Status

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


def test_a_live_waiver_is_shown_and_does_not_fail(inner: Inner, gate: Path) -> None:
    waive(gate, "weights-intact", "2999-12-31")
    run = inner.run(str(gate), "-rx")
    assert run.ret == 0
    run.assert_outcomes(passed=CHECKS, xfailed=1, skipped=len(BESIDE) - 1)
    told = "until 2999-12-31 by Ada: the mirror is being repaired"
    run.stdout.fnmatch_lines([f"waived stripped weights-intact {told}", f"XFAIL*waived {told} (FAIL: *"])
    run.stdout.fnmatch_lines(["stripped  weights-intact*FAIL (waived)*"])
    verdict = inner.verdicts()["stripped", "weights-intact"]
    assert verdict.status is Status.FAIL
    assert verdict.waiver is not None
    assert verdict.waiver.owner == "Ada"


def test_a_waived_verdict_fails_where_expected_failures_are_run(inner: Inner, gate: Path) -> None:
    waive(gate, "weights-intact", "2999-12-31")
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
