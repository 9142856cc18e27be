"""How far a descendant's next-token distributions are from its parent's."""

from __future__ import annotations

from pydantic import Field

from sw_audit.checks.context import CheckContext, decide_finding
from sw_audit.checks.distributions import (
    conclude_over_tokens,
    find_agreement,
    look_for_the_difference,
    measure_mean_divergence,
)
from sw_audit.checks.estimate import (
    Estimate,
    EstimateStatus,
    doubt_without_reference,
    hold_at_most,
    make_finding,
    write_number,
)
from sw_audit.checks.limits import Limits, Nonnegative
from sw_audit.checks.pairs import Pair, advise_parent, pair_up
from sw_audit.checks.registry import check
from sw_audit.checks.statistics import bound_token_quantile
from sw_audit.record.arm import PARENT_DEQUANTIZED
from sw_audit.record.verdict import Finding, Status, Verdict

_MEAN, _MEDIAN, _P99, _MAXIMUM = "Mean KLD", "Median KLD", "99.0% KLD", "Maximum KLD"
_FLOOR = "Floor"
_SHARES = {_MEDIAN: 0.5, _P99: 0.99}
_WORDS = "{} nats per token"
_KEYS = {_MEAN: "maximum_mean", _MEDIAN: "maximum_median", _P99: "maximum_p99"}


class KlDivergenceLimits(Limits):
    """Limits of `kl-divergence`, in nats per token.

    Attributes:
        maximum_mean: Largest mean. The specimen's sound copies are at 0.09 and below, the mildest harmful ones at
            0.12 to 0.15 (4 bits for the whole tensor, a third of the weights pruned), three bits at 0.9.
        maximum_median: Largest median; only reported without.
        maximum_p99: Largest 99th percentile; only reported without.
    """

    maximum_mean: Nonnegative = 0.1
    maximum_median: Nonnegative | None = Field(default=None, examples=[0.05])
    maximum_p99: Nonnegative | None = Field(default=None, examples=[2.0])


@check(
    id="kl-divergence",
    order=210,
    title="Next-token distributions are close to the parent's",
    meaning="Two models can share a perplexity and still say different things.",
    quantity="mean KL divergence, nats per token",
    fails="the mean is certainly above 0.1 nats per token; median, 99th percentile and maximum are told",
    limits=KlDivergenceLimits,
    level="gate",
    unit="nats",
    side="at most",
    spread=0.71,
    scope="descendant",
)
def kl_divergence(context: CheckContext) -> Verdict:
    """Rule of `kl-divergence`, of the parent's next-token distribution from the descendant's, in nats per token.

    The figures have the names that llama.cpp's `llama-perplexity --kl-divergence` gives them (which reads the
    second half of every window alone). Mean, median and percentile have intervals; the largest is of these tokens
    and says nothing of others, so it is told alone.
    """
    limits = context.limits(KlDivergenceLimits)
    spread = {_MEDIAN: limits.maximum_median, _P99: limits.maximum_p99}
    findings: list[Finding] = []
    sources: dict[str, tuple[Pair, EstimateStatus, str]] = {}
    for pair in pair_up(context):
        estimate = _measure_divergence(context, pair)
        status = doubt_without_reference(estimate, hold_at_most(estimate, limits.maximum_mean))
        held = {_MEAN: [make_finding(f"{pair.label}: {_MEAN}", estimate, status, limits.maximum_mean)]}
        held |= {name: _hold_quantile(context, pair, name, limit) for name, limit in spread.items()}
        held[_MAXIMUM] = _report_maximum(pair)
        held[_FLOOR] = _report_floor(pair)
        for name, named in held.items():
            findings += named
            sources |= {finding.label: (pair, estimate.status, name) for finding in named}
    gated = [finding for finding in findings if finding.limit is not None]
    worst = decide_finding(gated, key=lambda finding: (finding.observed or 0.0) / (finding.limit or 1.0))
    pair, rests_on, quantity = sources[worst.label]
    key = context.key(_KEYS[quantity])
    return context.conclude(
        worst.status,
        f"{worst.label} is {worst.because}; at most {write_number(worst.limit)} is allowed.",
        remedy=advise_parent(rests_on)
        or context.advise(worst.status, rests_on, failed=f"{look_for_the_difference()} raise `{key}`.", key=key),
        figure=worst,
        limit=worst.limit,
        findings=findings,
        quantity=f"{quantity}, nats per token",
        protocol=pair.text.protocol.signature,
    )


def _measure_divergence(context: CheckContext, pair: Pair) -> Estimate:
    agreement = find_agreement(pair)
    if isinstance(agreement, Estimate):
        return agreement
    return measure_mean_divergence(context, agreement)


def _report_floor(pair: Pair) -> list[Finding]:
    """Tell what two programs differ by on the parent itself, where an engine tells the likeliest tokens alone."""
    measured = pair.measured(PARENT_DEQUANTIZED)
    floor = None if measured is None else measured.agreement.mean_divergence
    if floor is None:
        return []
    words = f"{_WORDS.format(write_number(floor))} between the parent in its engine and in transformers"
    label = f"{pair.label}: {_FLOOR}"
    return [Finding(label=label, status=Status.SKIPPED, observed=floor, limit=None, because=words)]


def _hold_quantile(context: CheckContext, pair: Pair, name: str, limit: float | None) -> list[Finding]:
    """Hold a quantile against its limit, or report it; where it is missing, only if it has a limit."""
    estimate = _measure_quantile(context, pair, _SHARES[name])
    if estimate.observed is None and limit is None:
        return []
    status = Status.SKIPPED if limit is None else doubt_without_reference(estimate, hold_at_most(estimate, limit))
    return [make_finding(f"{pair.label}: {name}", estimate, status, limit)]


def _measure_quantile(context: CheckContext, pair: Pair, share: float) -> Estimate:
    agreement = find_agreement(pair)
    if isinstance(agreement, Estimate):
        return agreement
    nats = [one for one in agreement.token_divergence if one is not None]
    if nats:
        bounds = bound_token_quantile(nats, agreement.tokens, share, context.confidence)
        return conclude_over_tokens(context, bounds, len(agreement.tokens), _WORDS)
    if agreement.spread is None:
        return Estimate(EstimateStatus.MISSING, "not measured")
    told = agreement.spread.median if share == _SHARES[_MEDIAN] else agreement.spread.p99
    words = f"{_WORDS.format(write_number(told))}, without an interval, for its tokens were not kept"
    return Estimate(EstimateStatus.MISSING, words, told)


def _report_maximum(pair: Pair) -> list[Finding]:
    agreement = find_agreement(pair)
    if isinstance(agreement, Estimate) or agreement.tail is None:
        return []
    words, largest = _WORDS.format(write_number(agreement.tail.maximum)), agreement.tail.maximum
    label = f"{pair.label}: {_MAXIMUM}"
    return [Finding(label=label, status=Status.SKIPPED, observed=largest, limit=None, because=words)]
