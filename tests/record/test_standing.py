from __future__ import annotations

import pytest
from support.descent_pages import WAIVER
from support.many import BROKEN, make_many

from sw_audit.record.record import ModelFailure
from sw_audit.record.standing import conclude_model, find_deciding, list_open, rank_worst_first
from sw_audit.record.verdict import Status, Verdict


def test_the_worst_come_first_those_not_audited_before_all_and_alike_ones_in_their_order() -> None:
    models = make_many().models
    ranked = [models[place].id for place in rank_worst_first(models)]
    sound = [f"tuned-{place}" for place in (0, 1, 3, 4, 6, 7)]
    assert ranked == ["gone", *BROKEN, "alone", *sound]


def judge(*verdicts: tuple[str, Status, float | None]) -> ModelFailure:
    made = (
        Verdict(check=check, model="m", status=status, because="so", observed=observed, limit=observed and 1.0)
        for check, status, observed in verdicts
    )
    return ModelFailure(model="m", message="so", verdicts=tuple(made))


@pytest.mark.parametrize(
    ("verdicts", "deciding"),
    [
        ([("a", Status.INCONCLUSIVE, 2.0), ("b", Status.FAIL, None), ("c", Status.FAIL, 2.0)], "c"),
        ([("a", Status.INCONCLUSIVE, None), ("b", Status.FAIL, None), ("c", Status.FAIL, None)], "b"),
        ([("a", Status.PASS, 2.0), ("b", Status.INCONCLUSIVE, 2.0)], "b"),
        ([("a", Status.PASS, 2.0), ("b", Status.SKIPPED, None)], None),
        ([], None),
    ],
)
def test_a_failed_gate_decides_before_a_doubt_and_one_with_a_figure_before_one_without(
    verdicts: list[tuple[str, Status, float | None]], deciding: str | None
) -> None:
    decided = find_deciding(judge(*verdicts))
    assert (decided and decided.check) == deciding


def test_what_is_waived_keeps_no_model_from_passing() -> None:
    failure = judge(("a", Status.FAIL, 2.0))
    waived = failure.verdicts[0].model_copy(update={"waiver": WAIVER})
    held = failure.model_copy(update={"verdicts": (waived,)})
    assert list_open(held) == []
    assert conclude_model(failure) is Status.FAIL
    assert conclude_model(held) is not Status.FAIL
