from __future__ import annotations

from collections.abc import Sequence

from sw_audit.record.verdict import Evidence, Finding, Status, Verdict
from sw_audit.runner.steps import (
    list_open_arms,
    list_waiting,
    waits_for_items,
)


def make_verdict(status: Status, evidence: Evidence | None = None, findings: Sequence[Finding] = ()) -> Verdict:
    return Verdict(check="a", model="m", status=status, because="so", evidence=evidence, findings=tuple(findings))


def make_finding(status: Status, *arms: str) -> Finding:
    return Finding(label="one", status=status, because="so", arms=arms)


def test_only_doubts_that_rest_on_a_sample_go_on() -> None:
    sample = Evidence(count=4, arms=("pruned",))
    open_one = make_verdict(Status.INCONCLUSIVE, sample)
    verdicts = [
        make_verdict(Status.PASS, sample),
        make_verdict(Status.FAIL, sample),
        make_verdict(Status.INCONCLUSIVE),
        make_verdict(Status.SKIPPED),
        open_one,
    ]
    assert list_waiting(verdicts) == [open_one]
    assert list_open_arms([open_one]) == {"pruned"}


def test_of_several_figures_only_the_arms_of_those_in_doubt_go_on() -> None:
    findings = [
        make_finding(Status.PASS, "int8/row hold-out", "baseline"),
        make_finding(Status.INCONCLUSIVE, "int4/group64 hold-out", "baseline"),
        make_finding(Status.SKIPPED, "int4/tensor hold-out", "baseline"),
    ]
    verdict = make_verdict(Status.INCONCLUSIVE, Evidence(count=4, arms=("int8/row hold-out",)), findings)
    assert list_open_arms([verdict]) == {"int4/group64 hold-out", "baseline"}


def test_items_go_on_only_where_a_doubt_rests_on_items() -> None:
    doubt = make_verdict(Status.INCONCLUSIVE, Evidence(count=32, unit="items"))
    assert waits_for_items([doubt])
    assert not waits_for_items([make_verdict(Status.INCONCLUSIVE, Evidence(count=32))])
