"""Rules on how far a descendant's next-token distributions are from its parent's."""

from __future__ import annotations

from collections.abc import Sequence

from sw_audit.checks.bootstrap import bound_ratio
from sw_audit.checks.context import CheckContext, decide_finding
from sw_audit.checks.estimate import (
    Estimate,
    EstimateStatus,
    hold_at_least,
    hold_at_most,
    hold_exactly,
    make_finding,
    write_interval,
    write_number,
)
from sw_audit.checks.pairs import Pair, advise_pair, hold_texts, pair_up, settle_basis
from sw_audit.record.descent import DESCENDANT, PARENT
from sw_audit.record.measurement import Agreement
from sw_audit.record.verdict import Finding, Status, Verdict

_MEAN, _MEDIAN, _P99, _MAXIMUM = "Mean KLD", "Median KLD", "99.0% KLD", "Maximum KLD"
_KEYS = {_MEAN: "maximum_mean", _MEDIAN: "maximum_median", _P99: "maximum_p99"}
_LOOK = (
    "Look at `perplexity-ratio` and `layer-error` for what makes the difference; if the model is meant to say "
    "other things than its parent,"
)


def judge_divergence(case: CheckContext) -> Verdict:
    """Rule of `kl-divergence`, of the parent's next-token distribution from the descendant's, in nats per token.

    The figures have the names that llama.cpp's `llama-perplexity --kl-divergence` gives them (which reads the
    second half of every window alone). The mean has an interval; median, percentile and maximum are of all tokens
    together and have none, so a limit on them is held against the figure itself.
    """
    limits = case.policy.checks.kl_divergence
    spread = {_MEDIAN: limits.maximum_median, _P99: limits.maximum_p99, _MAXIMUM: None}
    findings: list[Finding] = []
    sources: dict[str, tuple[Pair, EstimateStatus]] = {}
    for pair in pair_up(case):
        figure = _measure_divergence(case, pair)
        status = settle_basis(figure, hold_at_most(figure, limits.maximum_mean))
        found = [make_finding(f"{pair.label}: {_MEAN}", figure, status, limits.maximum_mean)]
        found += [
            one for name, limit in spread.items() for one in _follow_spread(pair, figure, status, name, limit)
        ]
        findings += found
        sources |= {one.label: (pair, figure.footing) for one in found}
    gated = [finding for finding in findings if finding.limit is not None]
    worst = decide_finding(gated, key=lambda finding: (finding.observed or 0.0) / (finding.limit or 1.0))
    pair, footing = sources[worst.label]
    quantity = worst.label.removeprefix(f"{pair.label}: ")
    key = f"[checks.kl-divergence] {_KEYS[quantity]}"
    return case.conclude(
        worst.status,
        f"{worst.label} is {worst.because}; at most {write_number(worst.limit)} is allowed.",
        remedy=advise_pair(case, worst.status, footing, failed=f"{_LOOK} raise `{key}`.", key=key),
        figure=worst,
        limit=worst.limit,
        findings=findings,
        quantity=f"{quantity}, nats per token",
        protocol=pair.text.protocol.signature,
    )


def judge_agreement(case: CheckContext) -> Verdict:
    """Rule of `top1-agreement`, llama.cpp's `Same top p`: at how many tokens both find the same one likeliest."""
    limit, key = case.policy.checks.top1_agreement.minimum_share, "[checks.top1-agreement] minimum_share"
    pairs = {pair.label: pair for pair in pair_up(case)}
    figures = {label: _measure_agreement(case, pair) for label, pair in pairs.items()}
    findings = hold_texts(figures, hold_at_least, limit)
    worst = decide_finding(findings, key=lambda finding: -(finding.observed or 0.0))
    figure = figures[worst.label]
    return case.conclude(
        worst.status,
        f"{worst.label}: {figure.words}; at least {write_number(limit)} is wanted.",
        remedy=advise_pair(case, worst.status, figure.footing, failed=f"{_LOOK} lower `{key}`.", key=key),
        figure=figure,
        limit=limit,
        findings=findings,
        protocol=pairs[worst.label].text.protocol.signature,
    )


def _measure_divergence(case: CheckContext, pair: Pair) -> Estimate:
    found = _find_agreement(pair)
    if isinstance(found, Estimate):
        return found
    sums = [one for one in found.divergence if one is not None]
    return _bound(case, sums, found.tokens, "{} nats per token")


def _measure_agreement(case: CheckContext, pair: Pair) -> Estimate:
    found = _find_agreement(pair)
    if isinstance(found, Estimate):
        return found
    return _bound(case, found.same_top, found.tokens, "both find the same token likeliest at {} of the tokens")


def _find_agreement(pair: Pair) -> Agreement | Estimate:
    """Return the descendant's agreement with its parent, or a figure that says why there is none."""
    parent, descendant = pair.measured(PARENT), pair.measured(DESCENDANT)
    if parent is None or descendant is None:
        name = PARENT if parent is None else DESCENDANT
        return Estimate(
            EstimateStatus.MISSING, f"not known: the arm {name!r} was not measured under this protocol"
        )
    found = descendant.agreement
    if found.tokens != parent.loss.tokens or not sum(found.tokens):
        return Estimate(EstimateStatus.MISSING, "not known: the two were not read at the same tokens")
    if descendant.loss.mean_nats is None:
        return Estimate(EstimateStatus.NOT_FINITE, "not finite: the descendant's own loss is not")
    if parent.loss.mean_nats is None:
        return Estimate(EstimateStatus.NO_BASIS, "not known: the parent's own loss is not finite")
    if found.mean_divergence is None:
        return Estimate(
            EstimateStatus.NOT_FINITE, "not finite: the descendant gives no chance to what its parent expects"
        )
    return found


def _bound(case: CheckContext, sums: Sequence[float], tokens: Sequence[int], words: str) -> Estimate:
    observed, low, high = bound_ratio(sums, tokens, case.bootstrap)
    if (few := case.count_short(len(tokens), "windows")) is not None:
        return Estimate(EstimateStatus.TOO_FEW, f"{words.format(write_number(observed))}; {few}", observed)
    span = write_interval(Estimate(EstimateStatus.MEASURED, "", observed, low, high), case.policy.confidence)
    return Estimate(EstimateStatus.MEASURED, words.format(span), observed, low, high)


def _follow_spread(pair: Pair, mean: Estimate, status: Status, name: str, limit: float | None) -> list[Finding]:
    """Hold a figure without an interval, or report it; where it is missing, only if it has a limit."""
    label = f"{pair.label}: {name}"
    descendant = pair.measured(DESCENDANT)
    spread = None if descendant is None else descendant.agreement.spread
    if mean.footing not in (EstimateStatus.MEASURED, EstimateStatus.TOO_FEW):
        return [] if limit is None else [Finding(label=label, status=status, limit=limit, because=mean.words)]
    if spread is None:
        missing = Finding(label=label, status=Status.INCONCLUSIVE, limit=limit, because="not measured")
        return [] if limit is None else [missing]
    observed = {_MEDIAN: spread.median, _P99: spread.p99, _MAXIMUM: spread.maximum}[name]
    words = f"{write_number(observed)} nats per token"
    held = Status.SKIPPED if limit is None else hold_exactly(observed, high=limit)
    return [Finding(label=label, status=held, observed=observed, limit=limit, because=words)]
