"""What changed from one record to another: pairs, verdicts, scalars, limits; and what of it is worse."""

from __future__ import annotations

from datetime import date

import pytest
from support.evidence import SUPER_ACTIVATION, SUPER_WEIGHT, compose, make_evidence, make_record

from sw_audit.policy.model_policy import Waiver
from sw_audit.policy.policy import Policy
from sw_audit.record.identity import FileDigest
from sw_audit.record.location import Outcome
from sw_audit.record.record import ModelFailure, ModelResult, Record
from sw_audit.record.verdict import Status, Verdict
from sw_audit.runner.diff import Change, compare_records, pair_models

WHOLE = make_record()
WAIVER = Waiver(check="c", model="*", until=date(2027, 1, 1), owner="lab", reason="known")


def make(*models: ModelResult | ModelFailure, verdicts: tuple[Verdict, ...] = (), **more: object) -> Record:
    judged = (
        model.model_copy(update={"verdicts": tuple(verdict for verdict in verdicts if verdict.model == model.id)})
        for model in models
    )
    return compose(*judged, **more)


def conclude(status: Status, observed: float | None = None, *, waived: bool = False, model: str = "a") -> Verdict:
    waiver = WAIVER if waived else None
    return Verdict(check="c", model=model, status=status, observed=observed, because="so", waiver=waiver)


def place(value: float | None = SUPER_WEIGHT.value, loud: float = SUPER_ACTIVATION.value) -> ModelResult:
    """Return evidence whose super weight and activation have these values; without a value none is located."""
    evidence = make_evidence("a")
    weights = () if value is None else (SUPER_WEIGHT.model_copy(update={"value": value}),)
    activations = (SUPER_ACTIVATION.model_copy(update={"value": loud}),)
    location = evidence.location.model_copy(update={"super_weights": weights, "super_activations": activations})
    return evidence.model_copy(update={"location": location})


def test_a_record_and_itself_differ_in_nothing() -> None:
    assert compare_records(WHOLE, WHOLE.model_copy()) == ()


def test_models_are_paired_by_id_or_as_the_only_ones() -> None:
    assert pair_models(make(make_evidence("a")), make(make_evidence("b"))) == (("a", "b"),)
    two = make(make_evidence("a"), make_evidence("b"))
    assert pair_models(two, make(make_evidence("b"))) == (("b", "b"),)
    assert pair_models(make(make_evidence("c")), two) == ()


W, F, D, S = Status.PASS, Status.FAIL, Status.INCONCLUSIVE, Status.SKIPPED


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [
        (W, F, True), (W, D, True), (W, S, True), (S, D, True), (S, F, True), (D, F, True),
        (F, W, False), (F, D, False), (F, S, False), (D, W, False), (D, S, False), (S, W, False),
    ],
)  # fmt: skip
def test_a_verdict_that_falls_is_worse_and_one_that_rises_is_better(
    before: Status, after: Status, worse: bool
) -> None:
    evidence = make_evidence("a")
    old, new = (make(evidence, verdicts=(conclude(status),)) for status in (before, after))
    [change] = compare_records(old, new)
    assert change == Change("a", "check c", before.upper(), after.upper(), worse)


def test_a_figure_that_moves_within_its_status_is_told_and_is_no_worse() -> None:
    evidence = make_evidence("a")
    old, new = (make(evidence, verdicts=(conclude(W, figure),)) for figure in (1.02, 1.05))
    assert compare_records(old, new) == (Change("a", "check c", "PASS 1.02", "PASS 1.05", None),)


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [((W, False), (F, True), None), ((F, True), (F, False), True), ((F, False), (F, True), False)],
)
def test_a_live_waiver_counts_as_a_pass_and_one_that_is_gone_does_not(
    before: tuple[Status, bool], after: tuple[Status, bool], worse: bool | None
) -> None:
    evidence = make_evidence("a")
    old, new = (make(evidence, verdicts=(conclude(s, waived=w),)) for s, w in (before, after))
    assert [change.worse for change in compare_records(old, new)] == [worse]


@pytest.mark.parametrize(
    ("verdict", "worse"),
    [(conclude(F), True), (conclude(D), True), (conclude(W), None), (conclude(S), None),
     (conclude(F, waived=True), None), (conclude(F).model_copy(update={"level": "law"}), None)],
)  # fmt: skip
def test_a_verdict_that_did_not_pass_and_is_gone_is_worse_and_a_new_one_is_told(
    verdict: Verdict, worse: bool | None
) -> None:
    evidence = make_evidence("a")
    with_it, without = make(evidence, verdicts=(verdict,)), make(evidence)
    assert [change.worse for change in compare_records(without, with_it)] == [None]
    assert [(change.after, change.worse) for change in compare_records(with_it, without)] == [(None, worse)]


def test_failing_verdicts_of_a_model_that_is_gone_are_worse() -> None:
    failing = conclude(F, model="b")
    failure = ModelFailure(model="b", message="broken", verdicts=(failing,))
    for before in (make_evidence("b"), failure):
        both, one = make(make_evidence("a"), before, verdicts=(failing,)), make(make_evidence("a"))
        worse = [change.what for change in compare_records(both, one) if change.worse]
        assert worse == ["check c"]
    passing = make(make_evidence("a"), make_evidence("b"), verdicts=(conclude(W, model="b"),))
    assert not any(change.worse for change in compare_records(passing, make(make_evidence("a"))))


def test_files_policy_program_environment_and_date_are_told_where_they_differ() -> None:
    file = FileDigest(path="model.safetensors", size=1, sha256="a" * 64)
    evidence = make_evidence("a")
    models = [
        evidence.model_copy(update={"model": evidence.model.model_copy(update={"files": (one,)})})
        for one in (file, file.model_copy(update={"sha256": "b" * 64}))
    ]
    before, after = map(make, models)
    after = after.model_copy(
        update={
            "tool": after.tool.model_copy(update={"version": "9.9"}),
            "created": "2031-01-01T00:00:00Z",
            "environment": after.environment.model_copy(update={"threads": 77}),
            "policy": after.policy.model_copy(update={"confidence": 0.9}),
        }
    )
    changes = {change.what: (change.after, change.worse) for change in compare_records(before, after)}
    assert changes == {
        "policy confidence": ("0.9", None),
        "version of the program": (f"{after.tool.name} 9.9", None),
        "date": ("2031-01-01T00:00:00Z", None),
        "environment threads": ("77", None),
        "file model.safetensors": ("b" * 12, None),
    }


@pytest.mark.parametrize(
    ("factor", "worse"), [(0.76, None), (1.25, None), (0.74, True), (1.26, True), (-1.0, True), (0.0, True)]
)
def test_a_super_weight_may_drift_by_what_the_later_policy_allows(factor: float, worse: bool | None) -> None:
    value = SUPER_WEIGHT.value
    [change] = compare_records(make(place()), make(place(value * factor)))
    assert change.what == "super weight layer 1 [37, 211]"
    assert change.worse is worse
    strict = Policy.model_validate({"checks": {"super-weight-unmoved": {"maximum_drift": 0.0}}})
    changes = compare_records(make(place()), make(place(value * factor), policy=strict))
    assert [one.worse for one in changes if one.what.startswith("super")] == [True]
    assert [one.what for one in changes if one.model == "*"] == ["limit super-weight-unmoved maximum_drift"]


def test_a_lost_super_weight_is_worse_and_a_new_one_is_told() -> None:
    [lost] = compare_records(make(place()), make(place(None)))
    assert (lost.before, lost.after, lost.worse) == (f"{SUPER_WEIGHT.value:.6g}", None, True)
    [new] = compare_records(make(place(None)), make(place()))
    assert (new.before, new.worse) == (None, None)


@pytest.mark.parametrize(("factor", "worse"), [(0.8, None), (0.7, True), (1.4, True), (-1.0, True)])
def test_a_super_activation_may_move_by_what_the_policy_allows(factor: float, worse: bool | None) -> None:
    limits = {"super-activation-unmoved": {"minimum_ratio": 0.75, "maximum_ratio": 1.33}}
    policy = Policy.model_validate({"checks": limits})
    after = make(place(loud=factor * SUPER_ACTIVATION.value), policy=policy)
    [change] = compare_records(make(place(), policy=policy), after)
    assert change.what == "super activation channel 37, token 0"
    assert change.worse is worse


def test_other_weights_and_another_protocol_are_told_with_what_differs() -> None:
    evidence = make_evidence("a")
    other = evidence.model_copy(
        update={
            "model": evidence.model.model_copy(update={"digest": "f" * 64}),
            "protocol": evidence.protocol.model_copy(update={"window": 128}),
        }
    )
    changes = {change.what: change for change in compare_records(make(evidence), make(other))}
    assert changes["weights"].after == "f" * 12
    assert "protocol (window 64 then, 128 now)" in changes
    assert all(change.worse is None for change in changes.values())


def test_a_model_that_can_be_audited_no_more_is_worse_and_one_that_is_left_out_is_told() -> None:
    both = make(make_evidence("a"), make_evidence("b"))
    failed = make(make_evidence("a"), ModelFailure(model="b", message="truncated"))
    assert compare_records(both, failed) == (Change("b", "model", "audited", "truncated", True),)
    assert compare_records(failed, both) == (Change("b", "model", None, "audited", False),)
    assert compare_records(both, make(make_evidence("a"), make_evidence("c"))) == (
        Change("b", "model", "audited", None),
        Change("c", "model", None, "audited"),
    )
    assert compare_records(failed, failed) == ()
    otherwise = make(make_evidence("a"), ModelFailure(model="b", message="gone"))
    assert compare_records(failed, otherwise) == (Change("b", "model", "truncated", "gone"),)


def test_another_outcome_of_locating_is_told() -> None:
    changes = compare_records(make(make_evidence("a")), make(make_evidence("a", outcome=Outcome.NONE)))
    assert "outcome of locating" in [change.what for change in changes]
    assert any(change.worse for change in changes)
