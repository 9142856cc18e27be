from __future__ import annotations

import pytest
from support.descent_records import WAIVER
from support.evidence import (
    PARAMETER,
    SUPER_WEIGHT,
    make_evidence,
    make_location,
    make_none_evidence,
    make_record,
)
from sw_audit_reports.page import Cell
from sw_audit_reports.sentence import conclude_model, conclude_record, tally, tell_model, tell_record

from sw_audit.record.arm import PRUNED
from sw_audit.record.location import Outcome
from sw_audit.record.record import Record
from sw_audit.record.verdict import Status, Verdict

COORDINATE = f"{PARAMETER}[37, 211]"


def read(cells: tuple[Cell, ...]) -> str:
    return "".join(cell.text for cell in cells)


def make_collapse(status: Status, observed: float | None = 213.6) -> Verdict:
    low, high = (None, None) if observed is None else (observed - 2, observed + 2)
    return Verdict(
        check="prune-collapses",
        model="specimen",
        status=status,
        observed=observed,
        low=low,
        high=high,
        because="-",
    )


@pytest.mark.parametrize(
    ("verdict", "sentence"),
    [
        (
            make_collapse(Status.PASS),
            f"One scalar carries this model: zeroing {COORDINATE} multiplies perplexity by 213.6 [211.6, 215.6].",
        ),
        (
            make_collapse(Status.FAIL, 2.5),
            f"One super weight was located, but zeroing {COORDINATE} "
            "only multiplies perplexity by 2.5 [0.5, 4.5].",
        ),
        (
            make_collapse(Status.INCONCLUSIVE, 10.5),
            f"One super weight was located: zeroing {COORDINATE} multiplies perplexity by 10.5 [8.5, 12.5].",
        ),
        (None, f"One super weight was located: zeroing {COORDINATE} multiplies perplexity by 213.6."),
    ],
)
def test_the_sentence_follows_the_verdict_on_the_collapse(verdict: Verdict | None, sentence: str) -> None:
    assert read(tell_model(make_evidence(), [verdict] if verdict else [])) == sentence


def test_a_perplexity_that_is_not_finite_is_said_and_not_multiplied() -> None:
    evidence = make_evidence(ratios={PRUNED: None})
    told = read(tell_model(evidence, [make_collapse(Status.PASS, None)]))
    assert told == f"One scalar carries this model: zeroing {COORDINATE} leaves no finite perplexity."


def test_what_was_not_measured_is_not_claimed() -> None:
    told = read(tell_model(make_evidence(omit=(PRUNED,)), []))
    assert told == f"One super weight was located, {COORDINATE}; what zeroing it does is not known."


def test_two_scalars_are_named_and_more_are_counted() -> None:
    def tell(number: int) -> str:
        weights = tuple(SUPER_WEIGHT.model_copy(update={"row": row, "layer": row % 2}) for row in range(number))
        location = make_location().model_copy(update={"super_weights": weights})
        return read(tell_model(make_evidence(location=location), [make_collapse(Status.PASS)]))

    assert tell(2).startswith(f"Two scalars carry this model: zeroing {PARAMETER}[0, 211] and {PARAMETER}[1, 211]")
    assert tell(4).startswith("Four scalars carry this model: zeroing all of them (in layers 0 and 1) multiplies")


def test_none_and_distributed_say_why() -> None:
    assert read(tell_model(make_none_evidence(), [])).startswith("No super weight was found: no channel of")
    distributed = make_evidence(outcome=Outcome.DISTRIBUTED)
    assert "no handful of scalars explains it: six scalars" in read(tell_model(distributed, []))


def test_the_worst_model_decides_and_one_that_could_not_be_audited_fails() -> None:
    record = make_record()
    assert conclude_model(record, "specimen") is Status.PASS
    assert conclude_model(record, "broken") is Status.FAIL
    assert conclude_model(record, "gone") is Status.FAIL
    assert conclude_record(record) is Status.FAIL
    assert read(tell_record(record)) == "Of 4 models, 1 passed, 2 failed and 1 could not be audited."
    alone = record.model_copy(
        update={"models": (record.results[0].model_copy(update={"verdicts": ()}), *record.failures)}
    )
    assert conclude_record(alone) is Status.FAIL


def test_nothing_decided_is_inconclusive_and_never_a_pass() -> None:
    record = make_record()
    skipped = (
        result.model_copy(
            update={
                "verdicts": tuple(one.model_copy(update={"status": Status.SKIPPED}) for one in result.verdicts)
            }
        )
        for result in record.results
    )
    silent = record.model_copy(update={"models": tuple(skipped)})
    assert conclude_record(silent) is Status.INCONCLUSIVE
    empty = Record(tool=record.tool, created="", environment=record.environment, policy=record.policy)
    assert conclude_record(empty) is Status.INCONCLUSIVE
    assert read(tell_record(empty)) == "No model was audited."


def test_the_tally_counts_what_happened_and_leaves_out_what_did_not() -> None:
    verdicts = [
        Verdict(check="a-check", model="m", status=status, because="of a reason")
        for status in (Status.PASS, Status.SKIPPED, Status.PASS)
    ]
    assert [(badge.status, badge.word) for badge in tally(verdicts)] == [
        ("pass", "2 passed"),
        ("skipped", "1 skipped"),
    ]
    waived = Verdict(check="a-check", model="m", status=Status.FAIL, because="of a reason", waiver=WAIVER)
    assert [badge.word for badge in tally([*verdicts, waived])] == ["2 passed", "1 skipped", "1 waived"]
