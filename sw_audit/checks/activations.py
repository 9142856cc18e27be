"""Rules on quantized activations, as they are and with the super activation held out."""

from __future__ import annotations

from sw_audit.checks.bootstrap import bound_ratio
from sw_audit.checks.context import CheckContext, decide_finding, hold_where_limited, report_figure
from sw_audit.checks.estimate import (
    Estimate,
    EstimateStatus,
    hold_at_least,
    make_finding,
    write_interval,
    write_number,
)
from sw_audit.policy.scheme import HELD_OUT, NAIVE, SEARCHED, SMOOTHED, Scheme, Way, name_scheme
from sw_audit.record.arm import BASELINE
from sw_audit.record.verdict import Finding, Status, Verdict

_QUALITY_KEY = "[checks.activation-holdout-quality] maximum_ratio"
_SHARE_KEY = "[checks.holdout-closes-gap] minimum_share"


def judge_activation_quality(case: CheckContext) -> Verdict:
    """Rule of `activation-holdout-quality` (Yu et al. 2024, section 4.1, tables 3 and 4).

    Schemes with a limit decide, the worst one first; the others are reported as findings with status SKIPPED. A
    model without super weights has no super activation to hold out, so its naive arm stands in where only that
    was measured.
    """
    if (reason := _explain_skipped(case)) is not None:
        return case.skip(reason)
    limits = case.policy.checks.activation_holdout_quality.maximum_ratio
    figures = {str(scheme): _compare_quality(case, scheme) for scheme in case.policy.activations.parsed()}
    findings = hold_where_limited(figures, limits)
    gated = [finding for finding in findings if finding.limit is not None]
    if not gated:
        return case.skip(f"No scheme that is measured has a limit in `{_QUALITY_KEY}`.", findings)
    worst = decide_finding(gated, key=lambda finding: (finding.observed or 0.0) / (finding.limit or 1.0))
    figure = figures[worst.label]
    return case.conclude(
        worst.status,
        f"{worst.label}: {figure.words}; at most {write_number(worst.limit)} is allowed.",
        remedy=_advise_text(case, figure)
        or case.advise(
            worst.status,
            figure.footing,
            failed=f"Give activations or weights more bits than {worst.label}, weights a scale per row "
            f"(`[activations] weights`), or use SmoothQuant; if this loss is acceptable, raise its limit in "
            f"`{_QUALITY_KEY}`.",
            key=_QUALITY_KEY,
        ),
        figure=figure,
        limit=worst.limit,
        findings=findings,
    )


def judge_gap(case: CheckContext) -> Verdict:
    """Rule of `holdout-closes-gap` (Yu et al. 2024, section 4.1, tables 3 and 4).

    The share is (naive - hold-out) / (naive - full precision), each in nats summed over the same windows, so the
    bootstrap pairs all three arms. A scheme counts where naive rounding does certain harm: the lower end of its
    perplexity ratio's interval is at least `minimum_harm`. Elsewhere there is no gap to close; where no scheme
    does such harm, the check is skipped. SmoothQuant's share of the same gap is reported and decides nothing. A
    naive arm that is not finite while the hold-out is finite is closed.
    """
    if (reason := _explain_skipped(case)) is not None:
        return case.skip(reason)
    limit = case.policy.checks.holdout_closes_gap.minimum_share
    figures: dict[str, Estimate] = {}
    findings: list[Finding] = []
    for scheme in case.policy.activations.parsed():
        naive = case.compare_perplexities(name_scheme(scheme, NAIVE))
        label = name_scheme(scheme, HELD_OUT)
        if naive.interval is not None and naive.interval[0] < case.policy.checks.holdout_closes_gap.minimum_harm:
            findings.append(report_figure(name_scheme(scheme, NAIVE), naive))
            continue
        figures[label] = _measure_share(case, scheme, HELD_OUT, naive)
        findings.append(make_finding(label, figures[label], _hold(figures[label], limit), limit))
        findings += _report_smoothquant(case, scheme, naive)
    gated = [finding for finding in findings if finding.limit is not None]
    if not gated:
        return case.skip(_say_no_gap(case), findings)
    worst = decide_finding(gated, key=lambda finding: -(finding.observed or 0.0))
    figure = figures[worst.label]
    return case.conclude(
        worst.status,
        f"{worst.label}: {figure.words}; at least {write_number(limit)} is wanted"
        f"{_compare_smoothquant(worst, findings)}.",
        remedy=_advise_text(case, figure)
        or case.advise(
            worst.status,
            figure.footing,
            failed="Do not count on the super activation alone: other outliers, or the weights, cost this model "
            f"more; try SmoothQuant, or weights per row (`[activations] weights`), or lower `{_SHARE_KEY}`.",
            key=_SHARE_KEY,
        ),
        figure=figure,
        limit=limit,
        findings=findings,
    )


def _explain_skipped(case: CheckContext) -> str | None:
    """Say why activations were not to be quantized; `None` if they were."""
    if not case.policy.activations.enabled:
        return "Activations are not quantized (`[activations] enabled` is false)."
    if not case.policy.activations.schemes:
        return "The policy measures no scheme (`[activations] schemes` is empty)."
    setup = case.evidence.activations
    if setup is not None and setup.unroundable is not None:
        return f"This model's activations cannot be quantized: {setup.unroundable}."
    return None


def _compare_quality(case: CheckContext, scheme: Scheme) -> Estimate:
    held = name_scheme(scheme, HELD_OUT)
    if not case.located and case.find_measurement(held) is None:
        held = name_scheme(scheme, NAIVE)
    return _mind_calibration(case, case.compare_perplexities(held))


def _measure_share(case: CheckContext, scheme: Scheme, way: Way, naive: Estimate) -> Estimate:
    """Return the part of the loss by naive rounding that another way saves."""
    remaining = case.compare_perplexities(name_scheme(scheme, way))
    for figure in (naive, remaining):
        if figure.footing in (EstimateStatus.MISSING, EstimateStatus.NO_BASIS):
            return _mind_calibration(case, figure)
    if remaining.footing is EstimateStatus.NOT_FINITE:
        return Estimate(EstimateStatus.NOT_FINITE, f"nothing is saved: {remaining.words}")
    if naive.footing is EstimateStatus.NOT_FINITE:
        words = f"{naive.words}, while with the super activation held out {remaining.words}"
        return Estimate(EstimateStatus.MEASURED, words, 1.0, 1.0, 1.0)
    before, after, base = (
        _list_nats(case, arm) for arm in (name_scheme(scheme, NAIVE), name_scheme(scheme, way), BASELINE.name)
    )
    saved = [one - other for one, other in zip(before, after, strict=True)]
    lost = [one - other for one, other in zip(before, base, strict=True)]
    if naive.footing is EstimateStatus.TOO_FEW:
        share = sum(saved) / sum(lost) if sum(lost) > 0 else None
        few = case.count_short(len(before), "windows")
        return Estimate(
            EstimateStatus.TOO_FEW, f"a share of {write_number(share)} of the loss is saved; {few}", share
        )
    share, low, high = bound_ratio(saved, lost, case.bootstrap)
    figure = Estimate(EstimateStatus.MEASURED, "", share, low, high)
    span = write_interval(figure, case.policy.confidence)
    words = f"{naive.words} naively; of the nats lost a share of {span} is saved"
    return Estimate(EstimateStatus.MEASURED, words, share, low, high)


def _hold(figure: Estimate, limit: float) -> Status:
    # Full precision that is not finite leaves nothing to compare with: nobody's fault here.
    return Status.INCONCLUSIVE if figure.footing is EstimateStatus.NO_BASIS else hold_at_least(figure, limit)


def _report_smoothquant(case: CheckContext, scheme: Scheme, naive: Estimate) -> list[Finding]:
    setup = case.evidence.activations
    label = name_scheme(scheme, SMOOTHED)
    if setup is not None and setup.unsmoothable is not None:
        reason = f"SmoothQuant does not apply: {setup.unsmoothable}"
        return [report_figure(label, Estimate(EstimateStatus.MISSING, reason))]
    alpha = case.policy.activations.alpha
    found = [report_figure(f"{label}, alpha {alpha:g}", _measure_share(case, scheme, SMOOTHED, naive))]
    chosen = None if setup is None else setup.chosen(str(scheme))
    if chosen is not None and chosen != alpha:
        share = _measure_share(case, scheme, SEARCHED, naive)
        found.append(report_figure(f"{label}, alpha {chosen:g} as searched", share))
    return found


def _compare_smoothquant(worst: Finding, findings: list[Finding]) -> str:
    scheme = worst.label.removesuffix(HELD_OUT)
    shares = [
        f"{one.label.removeprefix(scheme)} {write_number(one.observed)}"
        for one in findings
        if one.label.startswith(f"{scheme}{SMOOTHED}") and one.observed is not None
    ]
    return f" ({'; '.join(shares)})" if shares else ""


def _say_no_gap(case: CheckContext) -> str:
    limit = write_number(case.policy.checks.holdout_closes_gap.minimum_harm)
    return f"There is no gap to close: no scheme, rounded naively, is certain to grow perplexity {limit} times."


def _mind_calibration(case: CheckContext, figure: Estimate) -> Estimate:
    """Say that an arm is missing for want of calibration text, where that is so."""
    setup = case.evidence.activations
    if figure.footing is not EstimateStatus.MISSING or setup is None or setup.calibration_windows:
        return figure
    return Estimate(
        EstimateStatus.MISSING, f"{figure.words}: no calibration text is left beyond the scored windows"
    )


def _advise_text(case: CheckContext, figure: Estimate) -> str | None:
    setup = case.evidence.activations
    if figure.footing is not EstimateStatus.MISSING or setup is None or setup.calibration_windows:
        return None
    return (
        "Give a longer text in `[corpus] source`, fewer `[corpus] windows`, or scales per token "
        "(`[activations] scale`)."
    )


def _list_nats(case: CheckContext, arm: str) -> list[float]:
    found = case.find_measurement(arm)
    return [] if found is None else [one for one in found.loss.nats if one is not None]
