"""Rules on whether the super weights cause the damage: their rank among placebos, and the dose of what is left."""

from __future__ import annotations

import itertools
import math

from sw_audit.checks.context import CheckContext, decide_finding, report_figure
from sw_audit.checks.estimate import Estimate, EstimateStatus, hold_at_most, make_finding, write_number
from sw_audit.record.address import WeightAddress, list_addresses
from sw_audit.record.arm import BASELINE, FLIPPED, PLACEBO_KINDS, PRUNED, name_dose, name_placebo
from sw_audit.record.subset import SUBSET_KINDS
from sw_audit.record.verdict import Finding, Status, Verdict

_RANKED_PARTS = (*(f"{kind}/" for kind in SUBSET_KINDS), FLIPPED)
_PARTS = (*_RANKED_PARTS, "dose/")
_RANKED = {PRUNED: "zeroing the super weights", FLIPPED: "flipping their sign"}
_RANK_KEY = "[checks.effect-exceeds-placebos] maximum_p"
_DOSE_KEY = "[checks.damage-follows-dose] maximum_rebound"
_WIDER = 'Load the model with `dtype = "float32"`, and see whether the arms are finite then.'
_DRAWS = "raise `[checks.placebo-harmless] draws`"


def report_parts(case: CheckContext) -> tuple[Finding, ...]:
    """Report the perplexity ratio of every part of the set, of its flipped sign and of every dose measured."""
    names = [found.arm.name for found in case.evidence.measurements if found.arm.name.startswith(_PARTS)]
    return tuple(report_figure(name, case.compare_perplexities(name)) for name in names)


def judge_rank(case: CheckContext) -> Verdict:
    """Rule of `effect-exceeds-placebos`: an exact one-sided randomization test.

    The p-value is (1 + placebos whose perplexity is at least that of the pruned arm) / (1 + placebos): had
    the set been drawn as its placebos are, it would be so high up as rarely as that (Phipson and Smyth 2010).
    Placebos that hold the same scalars count once. A perplexity that is not finite is above all others, and
    ties with the next that is not. So few placebos that no rank could pass decide nothing: INCONCLUSIVE.

    Where parts of the set and its flipped sign were measured, their rank is reported. They stand among the same
    placebos, which hold as many scalars as the whole set: a part's p-value is rather too high than too low.
    """
    limit = case.policy.checks.effect_exceeds_placebos.maximum_p
    figure = _rank_effect(case, PRUNED)
    few = figure.footing is EstimateStatus.TOO_FEW
    status = Status.INCONCLUSIVE if figure.footing is EstimateStatus.NO_BASIS else hold_at_most(figure, limit)
    return case.conclude(
        status,
        f"{figure.words}; at most {write_number(limit)} is wanted.",
        remedy=f"Draw more controls ({_DRAWS}), or change `{_RANK_KEY}`."
        if few
        else case.advise(
            status,
            figure.footing,
            failed="Do not lay the damage to these scalars: weights drawn from their row, column or size do as "
            f"much; locate again with another prompt, or {_DRAWS} to see whether it was chance.",
            key=_RANK_KEY,
        ),
        # A count is exact: the verdict shows no interval.
        figure=Estimate(figure.footing, figure.words, figure.observed),
        limit=limit,
        findings=_rank_parts(case),
    )


def _rank_parts(case: CheckContext) -> tuple[Finding, ...]:
    names = [found.arm.name for found in case.evidence.measurements if found.arm.name.startswith(_RANKED_PARTS)]
    ranks = {name: _rank_effect(case, name) for name in names}
    return tuple(
        report_figure(name, Estimate(figure.footing, figure.words, figure.observed))
        for name, figure in ranks.items()
    )


def _rank_effect(case: CheckContext, arm: str) -> Estimate:
    draws = case.policy.checks.placebo_harmless.draws
    names = [name_placebo(kind, draw) for kind in PLACEBO_KINDS for draw in range(1, draws + 1)]
    found = {name: case.find_measurement(name) for name in (BASELINE.name, arm, *names)}
    missing = [name for name, measured in found.items() if measured is None]
    if missing:
        return Estimate(
            EstimateStatus.MISSING,
            f"No rank was taken: the arm {missing[0]!r} was not measured under this protocol",
        )
    effects = {
        name: math.inf if (nats := measured.loss.mean_nats) is None else nats
        for name, measured in found.items()
        if measured is not None
    }
    if math.isinf(effects[BASELINE.name]):
        return Estimate(
            EstimateStatus.NO_BASIS, "No rank was taken: the perplexity of the model as it is is not finite"
        )
    distinct: dict[frozenset[WeightAddress], float] = {}
    for name in names:
        if (measured := found[name]) is not None:
            distinct[frozenset(list_addresses(measured.arm.addressed()))] = effects[name]
    above = sum(effect >= effects[arm] for effect in distinct.values())
    least, p = 1 / (1 + len(distinct)), (1 + above) / (1 + len(distinct))
    words = (
        f"Of {len(distinct)} different matched controls {above or 'none'} {'do' if above > 1 else 'does'} as much "
        f"harm as {_RANKED.get(arm, f'the arm {arm!r}')}: p = {write_number(p)}, where so many controls allow "
        f"{write_number(least)} at best"
    )
    if least > case.policy.checks.effect_exceeds_placebos.maximum_p:
        return Estimate(EstimateStatus.TOO_FEW, words, p)
    return Estimate(EstimateStatus.MEASURED, words, p, p, p)


def judge_dose(case: CheckContext) -> Verdict:
    """Rule of `damage-follows-dose`: between zeroed and whole, more left of the set must not mean more harm.

    Each pair of neighbouring factors from 0 to 1 is compared; the worst one decides. Factors above 1 are
    measured and reported only, for the published curves are flat there (Yu et al. 2024, figure 6). Where a
    collapsed arm is not finite nothing is lost with it; where the arm with more left is not finite, the pair
    fails unless both are, which says nothing.
    """
    if not case.policy.confirmation.enabled:
        return case.skip("The policy does not scale the super weights (`[confirmation] enabled`).")
    limit = case.policy.checks.damage_follows_dose.maximum_rebound
    baseline = case.find_measurement(BASELINE.name)
    if baseline is not None and baseline.loss.perplexity is None:
        words = "The perplexity of the model as it is is not finite, so no dose can be compared with it."
        return case.conclude(Status.INCONCLUSIVE, words, remedy=_WIDER)
    inside = sorted({0.0, 1.0, *(dose for dose in case.policy.confirmation.doses if dose < 1)})
    figures = {
        f"{_name(more)} over {_name(less)}": _compare_doses(case, more, less)
        for less, more in itertools.pairwise(inside)
    }
    # The last step ends at the model as it is, which is finite: at least that one can be compared.
    known = {label: figure for label, figure in figures.items() if figure is not None}
    findings = [
        make_finding(label, figure, hold_at_most(figure, limit), limit, figure.words)
        for label, figure in known.items()
    ]
    worst = decide_finding(findings, key=lambda finding: finding.observed or 0.0)
    figure = known[worst.label]
    return case.conclude(
        worst.status,
        f"Of {len(findings)} steps from zeroed to whole the worst is {worst.label}: {figure.words}; at most "
        f"{write_number(limit)} is allowed.",
        remedy=case.advise(
            worst.status,
            figure.footing,
            failed="Look at the dose curve in the report: where less is left and less harm is done, another "
            f"weight answers to the same super activation; if the model has collapsed on both sides, raise "
            f"`{_DOSE_KEY}`.",
            key=_DOSE_KEY,
        ),
        figure=figure,
        limit=limit,
        findings=findings,
    )


def _compare_doses(case: CheckContext, more: float, less: float) -> Estimate | None:
    figure = case.compare_perplexities(name_dose(more), name_dose(less))
    if figure.footing is not EstimateStatus.NO_BASIS:
        return figure
    above = case.find_measurement(name_dose(more))
    if above is None or above.loss.perplexity is None:
        return None
    words = f"with less left the perplexity is not finite, with more it is {write_number(above.loss.perplexity)}"
    return Estimate(EstimateStatus.MEASURED, words, 0.0, 0.0, 0.0)


def _name(factor: float) -> str:
    return {0.0: "zeroed", 1.0: "whole"}.get(factor) or f"{factor:g}"
