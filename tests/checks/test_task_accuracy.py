from __future__ import annotations

import pytest
from support.descent import judge_descent, make_descent_evidence, make_descent_policy

from sw_audit.record.descent import TaskResult
from sw_audit.record.verdict import Status, Verdict

CHECK = "task-accuracy"


def make_result(both: int, lost: int, won: int, neither: int, task: str = "arc_easy") -> TaskResult:
    cells = [(True, True)] * both + [(True, False)] * lost + [(False, True)] * won + [(False, False)] * neither
    return TaskResult(
        task=task,
        version="1.0",
        metric="acc",
        parent=tuple(parent for parent, _ in cells),
        descendant=tuple(descendant for _, descendant in cells),
    )


def judge(*results: TaskResult) -> Verdict:
    return judge_descent(CHECK, make_descent_evidence(tasks=results), make_descent_policy(lm_eval=("arc_easy",)))


@pytest.mark.parametrize(
    ("cells", "status"),
    [
        ((800, 5, 5, 190), Status.PASS),  # nothing lost on balance
        ((800, 90, 10, 100), Status.FAIL),  # eight points lost
        ((80, 3, 1, 16), Status.INCONCLUSIVE),  # two points of a hundred items
        ((800, 10, 90, 100), Status.PASS),  # eight points won
    ],
)
def test_a_loss_must_be_certain_to_be_within_the_margin(cells: tuple[int, int, int, int], status: Status) -> None:
    verdict = judge(make_result(*cells))
    assert verdict.status is status
    assert verdict.observed == pytest.approx((cells[1] - cells[2]) / sum(cells))
    assert verdict.limit == 0.02


def test_agreement_on_a_few_items_is_no_proof_that_nothing_is_lost() -> None:
    # Without a differing item the ends are at z^2 / (n + z^2): 0.0188 of 200 items, 0.037 of 100.
    assert judge(make_result(60, 0, 0, 40)).status is Status.INCONCLUSIVE
    assert judge(make_result(160, 0, 0, 40)).status is Status.PASS


def test_the_worst_task_decides_and_all_are_told() -> None:
    verdict = judge(make_result(800, 5, 5, 190), make_result(800, 90, 10, 100, "piqa"))
    assert verdict.status is Status.FAIL
    assert verdict.because.startswith("piqa, acc: of 1000 items the parent has 890 right, the descendant 810")
    assert [one.label for one in verdict.findings] == ["arc_easy, acc", "piqa, acc"]


def test_without_tasks_it_does_not_apply_and_without_answers_it_is_inconclusive() -> None:
    assert judge_descent(CHECK, make_descent_evidence()).status is Status.SKIPPED
    missing = judge()
    assert missing.status is Status.INCONCLUSIVE
    assert "arc_easy" in missing.because


def test_answers_to_different_items_are_not_compared() -> None:
    result = make_result(60, 0, 0, 40).model_copy(update={"descendant": (True,) * 99})
    assert judge(result).status is Status.INCONCLUSIVE


def test_a_handful_of_items_gives_no_interval() -> None:
    verdict = judge(make_result(1, 2, 0, 0))
    assert verdict.status is Status.INCONCLUSIVE
    assert "3 items give no interval" in verdict.because
