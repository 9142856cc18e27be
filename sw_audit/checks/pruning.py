"""Rules on what zeroing weights does: the super weights, other outliers, matched controls."""

from __future__ import annotations

from sw_audit.checks.bootstrap import bound_ratio
from sw_audit.checks.confirmation import report_parts
from sw_audit.checks.context import CheckContext, decide_finding
from sw_audit.checks.estimate import (
    Estimate,
    EstimateStatus,
    hold_at_least,
    hold_at_most,
    make_finding,
    write_interval,
    write_number,
)
from sw_audit.record.arm import BASELINE, OTHER_OUTLIERS, PLACEBO_KINDS, PRUNED, RESTORED, name_placebo
from sw_audit.record.verdict import Status, Verdict


def judge_collapse(case: CheckContext) -> Verdict:
    """Rule of `prune-collapses` (Yu et al. 2024, section 3.1, table 1).

    A perplexity that is not finite is a collapse: PASS, without a figure. If the model is not finite even
    before pruning there is nothing that could collapse: INCONCLUSIVE. What parts of the set do, its flipped
    sign and its doses is reported and decides nothing.
    """
    limit = case.policy.checks.prune_collapses.minimum_ratio
    key = "[checks.prune-collapses] minimum_ratio"
    figure = case.compare_perplexities(PRUNED)
    if figure.footing is EstimateStatus.NOT_FINITE:
        because = f"With the super weights zeroed the model is broken beyond measure: {figure.words}."
        return case.conclude(Status.PASS, because, figure=figure, limit=limit, findings=report_parts(case))
    status = Status.INCONCLUSIVE if figure.footing is EstimateStatus.NO_BASIS else hold_at_least(figure, limit)
    return case.conclude(
        status,
        f"With the super weights zeroed, {figure.words}; at least {write_number(limit)} is wanted.",
        remedy=case.advise(
            status,
            figure.footing,
            failed="Look with `sw-audit locate` for further scalars on the same row or column, which may "
            f"stand in for these; if so mild an effect is known for this model, lower `{key}`.",
            key=key,
        ),
        figure=figure,
        limit=limit,
        findings=report_parts(case),
    )


def judge_others(case: CheckContext) -> Verdict:
    """Rule of `other-outliers-harmless` (Yu et al. 2024, table 1, third row)."""
    limits = case.policy.checks.other_outliers_harmless
    key = "[checks.other-outliers-harmless] maximum_ratio"
    figure = case.compare_perplexities(OTHER_OUTLIERS)
    status = hold_at_most(figure, limits.maximum_ratio)
    found = case.find_measurement(OTHER_OUTLIERS)
    count = sum(len(group) for group in found.arm.addressed()) if found else 0
    subject = f"With {count:,} other large weights zeroed, " if found else ""
    words = f"{subject}{figure.words}; at most {write_number(limits.maximum_ratio)} is allowed."
    return case.conclude(
        status,
        words[0].upper() + words[1:],
        remedy=case.advise(
            status,
            figure.footing,
            failed="Zero fewer weights (`[checks.other-outliers-harmless] count`) to see whether a few of them "
            f"matter: one may be a super weight that was not located; or raise `{key}`.",
            key=key,
        ),
        figure=figure,
        limit=limits.maximum_ratio,
    )


def judge_placebos(case: CheckContext) -> Verdict:
    """Rule of `placebo-harmless`: every draw of every kind must be harmless, the worst one decides."""
    limits = case.policy.checks.placebo_harmless
    key = "[checks.placebo-harmless] maximum_ratio"
    figures = {
        arm: case.compare_perplexities(arm)
        for kind in PLACEBO_KINDS
        for draw in range(1, limits.draws + 1)
        for arm in [name_placebo(kind, draw)]
    }
    findings = [
        make_finding(arm, figure, hold_at_most(figure, limits.maximum_ratio), limits.maximum_ratio)
        for arm, figure in figures.items()
    ]
    worst = decide_finding(findings, key=lambda finding: finding.observed or 0.0)
    figure = figures[worst.label]
    return case.conclude(
        worst.status,
        f"Of {len(findings)} matched controls the worst is {worst.label}: {figure.words}; "
        f"at most {write_number(limits.maximum_ratio)} is allowed.",
        remedy=case.advise(
            worst.status,
            figure.footing,
            failed="Do not lay the damage to the super weights alone: controls that share their row, column or "
            f"size do harm too; draw more of them (`[checks.placebo-harmless] draws`) or raise `{key}`.",
            key=key,
        ),
        figure=figure,
        limit=limits.maximum_ratio,
        findings=findings,
    )


def judge_healing(case: CheckContext) -> Verdict:
    """Rule of `restored-activation-heals` (Yu et al. 2024, section 3.2, table 1, last row).

    The share is (pruned - restored) / (pruned - baseline), each in nats summed over the same windows, so the
    bootstrap pairs all three arms. Where pruning does no certain damage there is nothing to heal:
    INCONCLUSIVE. So too where the pruned arm is not finite, for no share can be had of an infinite loss.
    """
    limit = case.policy.checks.restored_activation_heals.minimum_share
    key = "[checks.restored-activation-heals] minimum_share"
    figure = _measure_healing(case)
    status = Status.INCONCLUSIVE if figure.footing is EstimateStatus.NO_BASIS else hold_at_least(figure, limit)
    return case.conclude(
        status,
        f"{figure.words}; at least {write_number(limit)} is wanted.",
        remedy="Look at `prune-collapses` first: without a finite damage there is nothing to heal."
        if figure.footing is EstimateStatus.NO_BASIS
        else case.advise(
            status,
            figure.footing,
            failed="Look for a second path: the super weights act on this model through more than the one "
            f"super activation; if that is known, lower `{key}`.",
            key=key,
        ),
        figure=figure,
        limit=limit,
    )


def _measure_healing(case: CheckContext) -> Estimate:
    damage = case.compare_perplexities(PRUNED)
    remaining = case.compare_perplexities(RESTORED)
    for figure in (damage, remaining):
        if figure.footing is EstimateStatus.MISSING:
            return Estimate(EstimateStatus.MISSING, f"No share was measured: {figure.words}")
    if damage.footing in (EstimateStatus.NO_BASIS, EstimateStatus.NOT_FINITE):
        return Estimate(EstimateStatus.NO_BASIS, f"The damage has no measure: {damage.words}")
    if remaining.footing is EstimateStatus.NOT_FINITE:
        return Estimate(EstimateStatus.NOT_FINITE, f"Nothing is healed: {remaining.words}")
    # Finite losses of one protocol, as the comparisons above have established.
    pruned, restored, baseline = (_list_nats(case, arm) for arm in (PRUNED, RESTORED, BASELINE.name))
    gained = [before - after for before, after in zip(pruned, restored, strict=True)]
    lost = [after - before for after, before in zip(pruned, baseline, strict=True)]
    if damage.interval is not None and damage.interval[0] <= 1:
        return Estimate(
            EstimateStatus.NO_BASIS, f"Pruning does no certain damage ({damage.words}), so none is healed"
        )
    if sum(lost) <= 0:
        return Estimate(EstimateStatus.NO_BASIS, f"Pruning does no damage ({damage.words}), so none is healed")
    share, low, high = bound_ratio(gained, lost, case.bootstrap)
    if (few := case.count_short(len(pruned), "windows")) is not None:
        return Estimate(
            EstimateStatus.TOO_FEW, f"A share of {write_number(share)} of the loss is healed; {few}", share
        )
    figure = Estimate(EstimateStatus.MEASURED, "", share, low, high)
    words = f"Of the lost nats a share of {write_interval(figure, case.policy.confidence)} is recovered"
    return Estimate(EstimateStatus.MEASURED, words, share, low, high)


def _list_nats(case: CheckContext, arm: str) -> list[float]:
    found = case.find_measurement(arm)
    return [] if found is None else [one for one in found.loss.nats if one is not None]
