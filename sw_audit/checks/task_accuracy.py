"""Zero-shot tasks, item by item beside the parent."""

from __future__ import annotations

from sw_audit.checks.context import CheckContext
from sw_audit.checks.estimate import (
    Estimate,
    EstimateStatus,
    write_interval,
)
from sw_audit.checks.limits import Limits, Share
from sw_audit.checks.perplexity_ratio import perplexity_ratio
from sw_audit.checks.registry import Need, check
from sw_audit.checks.statistics import bound_paired_difference
from sw_audit.record.descent import TaskResult
from sw_audit.record.verdict import Sample, Verdict


class TaskAccuracyLimits(Limits):
    """Limits of `task-accuracy`.

    Attributes:
        maximum_loss: Margin of non-inferiority: accuracy lost, a share of all items, the upper end of the
            interval. Sound 4-bit models lose a point or less on zero-shot tasks. To show a loss below two points
            takes some 200 items even where not one answer differs.
    """

    maximum_loss: Share = 0.02


@check(
    id="task-accuracy",
    order=250,
    title="Zero-shot tasks are answered as well as by the parent",
    meaning="What the model is used for, item by item beside the parent.",
    quantity="accuracy lost, worst task",
    fails="accuracy is certainly lower by more than 2 points; runs where `[descent] lm_eval` names tasks",
    limits=TaskAccuracyLimits,
    level="gate",
    unit="share",
    side="at most",
    scope="descendant",
    needs=frozenset({Need.TASKS}),
)
def task_accuracy(context: CheckContext) -> Verdict:
    """Rule of `task-accuracy`: non-inferiority on every task, the worst one decides.

    The figure is the accuracy lost, a share of all items, with Tango's score interval for the difference of two
    paired proportions. An interval of the mean would be certain of no loss where the two happen to agree on every
    item, however few there are; the score interval is not. Skipped where no tasks are asked for.
    """
    asked = context.policy.descent.lm_eval
    if not asked:
        return context.skip("No tasks are asked for (`[descent] lm_eval`).")
    limit, key = context.limits(TaskAccuracyLimits).maximum_loss, context.key("maximum_loss")
    results = {one.label: one for one in context.descent.tasks}
    estimates = {label: _measure_loss(context, one) for label, one in results.items()}
    if not estimates:
        estimates = {", ".join(asked): Estimate(EstimateStatus.MISSING, "no items were answered")}
    held = context.hold_each(estimates, limit)
    worst = context.decide(held)
    return context.judge(
        worst.estimate,
        limit,
        subject=f"{worst.finding.label}: ",
        wanted="a loss of at most {} is allowed",
        key=key,
        failed=f"Look at `{perplexity_ratio.id}` for what the loss comes from; a task alone that suffers points "
        "to its own kind of text, so calibrate on such; or, if this loss is acceptable, raise "
        f"`{key}`.",
        more="raise `[descent] lm_eval_limit`, or choose tasks with more items",
        findings=[one.finding for one in held],
        measured=False,
    )


def _measure_loss(context: CheckContext, result: TaskResult) -> Estimate:
    count = len(result.parent)
    if not count or len(result.descendant) != count:
        return Estimate(EstimateStatus.MISSING, "the two did not answer the same items")
    right = sum(result.parent), sum(result.descendant)
    pairs = list(zip(result.parent, result.descendant, strict=True))
    only_parent, only_descendant = pairs.count((True, False)), pairs.count((False, True))
    loss, sample = (only_parent - only_descendant) / count, Sample(count=count, unit="items")
    words = (
        f"of {count} items the parent has {right[0]} right, the descendant {right[1]} "
        f"({only_parent} lost, {only_descendant} won)"
    )
    if (few := context.count_short(count, "items")) is not None:
        return Estimate(EstimateStatus.TOO_FEW, f"{words}; {few}", loss, sample=sample)
    low, high = bound_paired_difference(only_parent, only_descendant, count, context.confidence)
    span = write_interval(Estimate(EstimateStatus.MEASURED, "", loss, low, high), context.policy.confidence)
    return Estimate(EstimateStatus.MEASURED, f"{words}, a loss of {span}", loss, low, high, sample=sample)
