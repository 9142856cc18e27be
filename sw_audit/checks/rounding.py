"""Rules on round-to-nearest with and without the super weights held out."""

from __future__ import annotations

import math

from sw_audit.checks.context import CheckContext, decide_finding, hold_where_limited
from sw_audit.checks.estimate import (
    Estimate,
    EstimateStatus,
    hold_above,
    hold_at_least,
    make_finding,
    write_number,
)
from sw_audit.policy.recipe import PerBlock, PerGroup, PerRow, PerRun, Recipe
from sw_audit.record.arm import name_rounding
from sw_audit.record.verdict import Finding, Status, Verdict

_QUALITY_KEY = "[checks.rtn-holdout-quality] maximum_ratio"


def judge_quality(case: CheckContext) -> Verdict:
    """Rule of `rtn-holdout-quality` (Yu et al. 2024, section 4.2, figure 7).

    Recipes with a limit decide, the worst one first; the others are reported as findings with status SKIPPED.
    A model without super weights has nothing to hold out, so its plain arm stands in where only that
    was measured. If no measured recipe has a limit the check does not apply.
    """
    limits = case.policy.checks.rtn_holdout_quality.maximum_ratio
    figures = {str(recipe): _compare_quality(case, recipe) for recipe in case.policy.quantization.parsed()}
    findings = hold_where_limited(figures, limits)
    gated = [finding for finding in findings if finding.limit is not None]
    if not gated:
        return case.skip(f"No recipe that is measured has a limit in `{_QUALITY_KEY}`.", findings)
    worst = decide_finding(gated, key=_exceed)
    figure = figures[worst.label]
    return case.conclude(
        worst.status,
        f"{worst.label}: {figure.words}; at most {write_number(worst.limit)} is allowed.",
        remedy=case.advise(
            worst.status,
            figure.footing,
            failed=f"Use smaller blocks or more bits than {worst.label}, or a quantizer that learns its scales; "
            f"if this loss is acceptable, raise its limit in `{_QUALITY_KEY}`.",
            key=_QUALITY_KEY,
        ),
        figure=figure,
        limit=worst.limit,
        findings=findings,
    )


def judge_gain(case: CheckContext) -> Verdict:
    """Rule of `holdout-beats-plain-rtn` (Yu et al. 2024, section 4.2, figure 7).

    Every figure is plain perplexity over hold-out perplexity on the same windows. At the coarsest recipe, the
    one whose scaling groups hold the most weights, it must exceed `minimum_gain`. At every other recipe it
    must be at least 1 / `maximum_harm`; an interval that straddles that is INCONCLUSIVE, for a guard
    that passes whatever is noisy guards nothing. A plain arm that is not finite while the hold-out is
    finite is beaten.
    """
    limits = case.policy.checks.holdout_beats_plain_rtn
    recipes = case.policy.quantization.parsed()
    if not recipes:
        return case.skip("The policy measures no recipe (`[quantization] recipes` is empty).")
    harmless = 1 / limits.maximum_harm
    coarsest = max(recipes, key=lambda recipe: _count_shared(recipe, case.evidence.model.hidden_size))
    figures = {recipe: _compare_holdout(case, recipe) for recipe in recipes}
    gain = _find_gain(coarsest, figures[coarsest], max(limits.minimum_gain, harmless))
    harms = {
        recipe: _find_harm(recipe, figure, harmless) for recipe, figure in figures.items() if recipe != coarsest
    }
    findings = [gain, *harms.values()]
    worst = decide_finding(findings, key=lambda finding: -(finding.observed or 0.0))
    recipe = coarsest
    if gain.status is not worst.status:
        recipe = next(recipe for recipe, finding in harms.items() if finding is worst)
    return _conclude_gain(case, recipe, figures[recipe], harms.get(recipe, gain), findings)


def _conclude_gain(
    case: CheckContext, recipe: Recipe, figure: Estimate, deciding: Finding, findings: list[Finding]
) -> Verdict:
    gains = deciding is findings[0]
    key = f"[checks.holdout-beats-plain-rtn] {'minimum_gain' if gains else 'maximum_harm'}"
    return case.conclude(
        deciding.status,
        f"{deciding.label}, plain over hold-out: {figure.words}; {'more than' if gains else 'at least'} "
        f"{write_number(deciding.limit)} is wanted.",
        remedy=case.advise(
            deciding.status,
            EstimateStatus.NOT_FINITE if figure.footing is EstimateStatus.NO_BASIS else figure.footing,
            failed=f"Do not pay for holding these scalars out at {recipe}: it gains nothing there or does harm; "
            f"try coarser `[quantization] recipes`, or change `{key}`.",
            key=key,
        ),
        figure=figure,
        limit=deciding.limit,
        findings=findings,
    )


def _find_gain(recipe: Recipe, figure: Estimate, limit: float) -> Finding:
    status = Status.PASS if _is_beaten(figure) else hold_above(figure, limit)
    return make_finding(f"gain at {recipe}", figure, status, limit)


def _find_harm(recipe: Recipe, figure: Estimate, limit: float) -> Finding:
    status = Status.PASS if _is_beaten(figure) else hold_at_least(figure, limit)
    return make_finding(f"no harm at {recipe}", figure, status, limit)


def _compare_quality(case: CheckContext, recipe: Recipe) -> Estimate:
    held = name_rounding(recipe, holdout=True)
    if not case.located and case.find_measurement(held) is None:
        return case.compare_perplexities(name_rounding(recipe, holdout=False))
    return case.compare_perplexities(held)


def _compare_holdout(case: CheckContext, recipe: Recipe) -> Estimate:
    return case.compare_perplexities(
        name_rounding(recipe, holdout=False), against=name_rounding(recipe, holdout=True)
    )


def _is_beaten(figure: Estimate) -> bool:
    """Whether only the plain arm is not finite."""
    return figure.footing is EstimateStatus.NOT_FINITE


def _exceed(finding: Finding) -> float:
    """How far a figure is above its own limit, so that recipes with different limits can be ranked."""
    return (finding.observed or 0.0) / (finding.limit or 1.0)


def _count_shared(recipe: Recipe, hidden_size: int) -> float:
    """How many weights share one scale; a row is taken to be as long as the residual stream is wide."""
    match recipe.granularity:
        case PerBlock(rows=rows, columns=columns):
            return rows * columns
        case PerRun(size=size) | PerGroup(size=size):
            return size
        case PerRow():
            return hidden_size
        case _:
            return math.inf
