"""The rule on zero-shot tasks, item by item beside the parent."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

from sw_audit.checks.context import CheckContext, decide_finding
from sw_audit.checks.estimate import (
    Estimate,
    EstimateStatus,
    hold_at_most,
    make_finding,
    write_interval,
    write_number,
)
from sw_audit.record.descent import TaskResult
from sw_audit.record.verdict import Status, Verdict

_BISECTIONS = 60


def judge_tasks(case: CheckContext) -> Verdict:
    """Rule of `task-accuracy`: non-inferiority on every task, the worst one decides.

    The figure is the accuracy lost, a share of all items, with Tango's score interval for the difference of two
    paired proportions. A bootstrap over items would be certain of no loss where the two happen to agree on every
    item, however few there are; the score interval is not. Skipped where no tasks are asked for.
    """
    asked = case.policy.descent.lm_eval
    if not asked:
        return case.skip("No tasks are asked for (`[descent] lm_eval`).")
    limit, key = case.policy.checks.task_accuracy.maximum_loss, "[checks.task-accuracy] maximum_loss"
    results = {f"{one.task}, {one.metric}": one for one in case.descent.tasks}
    figures = {label: _measure_loss(case, one) for label, one in results.items()}
    if not figures:
        figures = {", ".join(asked): Estimate(EstimateStatus.MISSING, "no items were answered")}
    findings = [
        make_finding(label, figure, hold_at_most(figure, limit), limit) for label, figure in figures.items()
    ]
    worst = decide_finding(findings, key=lambda finding: finding.observed or -math.inf)
    figure = figures[worst.label]
    return case.conclude(
        worst.status,
        f"{worst.label}: {figure.words}; a loss of at most {write_number(limit)} is allowed.",
        remedy=_advise(case, worst.status, figure, key),
        figure=figure,
        limit=limit,
        findings=findings,
        measured=False,
    )


def bound_paired_difference(
    only_first: int, only_second: int, items: int, confidence: float
) -> tuple[float, float]:
    """Return the score interval for the difference of two paired proportions.

    The ends are the differences that a score test would just not reject (Tango 1998, Statistics in Medicine 17,
    pages 891 to 908): with z the normal quantile, those where (b - c - n d)^2 = z^2 (n (2 q + d (1 - d))), q being
    the likeliest chance of the second discordant cell under the difference d.

    Args:
        only_first: Items that only the first has right, b.
        only_second: Items that only the second has right, c.
        items: All items, n.
        confidence: Coverage of the two-sided interval.

    Returns:
        Lower and upper end of (b - c) / n.
    """
    quantile = NormalDist().inv_cdf((1 + confidence) / 2)
    observed = (only_first - only_second) / items

    def score(difference: float) -> float:
        """Return the score statistic of a difference; it falls as that rises."""
        gap = only_first - only_second - items * difference
        linear = -only_first - only_second + (2 * items - only_first + only_second) * difference
        constant = -only_second * difference * (1 - difference)
        chance = (math.sqrt(max(linear**2 - 8 * items * constant, 0.0)) - linear) / (4 * items)
        variance = items * (2 * chance + difference * (1 - difference))
        return math.copysign(math.inf, gap) if variance <= 0 and gap else gap / math.sqrt(variance) if gap else 0.0

    low = _bisect(-1.0, observed, lambda one: score(one) > quantile)
    high = _bisect(observed, 1.0, lambda one: score(one) > -quantile)
    return low, high


def _bisect(low: float, high: float, before: Callable[[float], bool]) -> float:
    """Return where a condition that holds on the left ends."""
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if before(middle) else (low, middle)
    return (low + high) / 2


def _measure_loss(case: CheckContext, result: TaskResult) -> Estimate:
    count = len(result.parent)
    if not count or len(result.descendant) != count:
        return Estimate(EstimateStatus.MISSING, "the two did not answer the same items")
    right = sum(result.parent), sum(result.descendant)
    pairs = list(zip(result.parent, result.descendant, strict=True))
    only_parent, only_descendant = pairs.count((True, False)), pairs.count((False, True))
    loss = (only_parent - only_descendant) / count
    words = (
        f"of {count} items the parent has {right[0]} right, the descendant {right[1]} "
        f"({only_parent} lost, {only_descendant} won)"
    )
    if (few := case.count_short(count, "items")) is not None:
        return Estimate(EstimateStatus.TOO_FEW, f"{words}; {few}", loss)
    low, high = bound_paired_difference(only_parent, only_descendant, count, case.policy.confidence)
    span = write_interval(Estimate(EstimateStatus.MEASURED, "", loss, low, high), case.policy.confidence)
    return Estimate(EstimateStatus.MEASURED, f"{words}, a loss of {span}", loss, low, high)


def _advise(case: CheckContext, status: Status, figure: Estimate, key: str) -> str:
    return case.advise(
        status,
        figure.footing,
        failed="Look at `perplexity-ratio` for what the loss comes from; a task alone that suffers points to its "
        f"own kind of text, so calibrate on such; or, if this loss is acceptable, raise `{key}`.",
        key=key,
        more="raise `[descent] lm_eval_limit`, or choose tasks with more items",
    )
