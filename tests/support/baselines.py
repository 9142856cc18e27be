"""Made-up evidence on a model that is held against a baseline."""

from __future__ import annotations

from support.evidence import SUPER_ACTIVATION, SUPER_WEIGHT, make_evidence, make_location, make_loss

from sw_audit.checks.judging import judge_result
from sw_audit.policy.policy import Policy
from sw_audit.record.baseline import Baseline, HeldActivation, HeldWeight
from sw_audit.record.identity import Protocol, Tool
from sw_audit.record.location import Location
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Status, Verdict

BEFORE = SUPER_WEIGHT.value  # -1.9268
POLICY = Policy(compare="main")


def hold(
    value: float | None = BEFORE,
    activation: float | None = SUPER_ACTIVATION.value,
    *,
    perplexity: float | None = 6.25,
    protocol: Protocol | None = None,
    then: Location | None = None,
    now: Location | None = None,
    **identity: object,
) -> ModelResult:
    """Return evidence on a model of perplexity 6.25 held against a baseline of the given perplexity."""
    evidence = make_evidence(location=now)
    protocol = protocol or evidence.protocol
    unedited = evidence.unedited
    assert unedited is not None
    then = then or make_location()
    baseline = Baseline(
        name="main",
        created="2026-01-01T00:00:00+00:00",
        tool=Tool(version="0"),
        model=evidence.model.model_copy(update=identity),
        protocol=protocol,
        location=then,
        measurement=unedited.model_copy(
            update={"protocol": protocol.signature, "loss": make_loss(perplexity, seed=2)}
        ),
        weights=tuple(
            HeldWeight(address=one.address, layer=one.layer, before=one.value, value=value)
            for one in then.super_weights
        ),
        activations=tuple(
            HeldActivation(channel=one.channel, token=one.token, before=one.value, value=activation)
            for one in then.super_activations
        ),
    )
    return evidence.model_copy(update={"baseline": baseline})


def judge(check: str, evidence: ModelResult, policy: Policy = POLICY) -> Verdict:
    """Return what one check says; a remedy is there exactly where one is needed."""
    [verdict] = judge_result(evidence, policy, [check])
    assert (verdict.remedy is not None) == (verdict.status in (Status.FAIL, Status.INCONCLUSIVE))
    return verdict
