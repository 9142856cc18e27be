"""How far a descendant's next-token distributions are from its parent's."""

from __future__ import annotations

from pydantic import Field

from sw_audit.checks.context import CheckContext, decide_finding
from sw_audit.checks.distributions import bound_over_tokens, find_agreement, look_for_the_difference
from sw_audit.checks.estimate import (
    Estimate,
    EstimateStatus,
    doubt_without_reference,
    hold_at_most,
    hold_exactly,
    make_finding,
    write_number,
)
from sw_audit.checks.limits import Limits, Nonnegative
from sw_audit.checks.pairs import Pair, advise_parent, pair_up
from sw_audit.checks.registry import check
from sw_audit.record.arm import DESCENDANT
from sw_audit.record.verdict import Finding, Status, Verdict

_MEAN, _MEDIAN, _P99, _MAXIMUM = "Mean KLD", "Median KLD", "99.0% KLD", "Maximum KLD"


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
    scope="descendant",
)
def kl_divergence(context: CheckContext) -> Verdict:
    """Rule of `kl-divergence`, of the parent's next-token distribution from the descendant's, in nats per token.

    The figures have the names that llama.cpp's `llama-perplexity --kl-divergence` gives them (which reads the
    second half of every window alone). The mean has an interval; median, percentile and maximum are of all tokens
    together and have none, so a limit on them is held against the figure itself.
    """
    limits = context.limits(KlDivergenceLimits)
    spread = {_MEDIAN: limits.maximum_median, _P99: limits.maximum_p99, _MAXIMUM: None}
    findings: list[Finding] = []
    sources: dict[str, tuple[Pair, EstimateStatus, str]] = {}
    for pair in pair_up(context):
        estimate = _measure_divergence(context, pair)
        status = doubt_without_reference(estimate, hold_at_most(estimate, limits.maximum_mean))
        held = {_MEAN: [make_finding(f"{pair.label}: {_MEAN}", estimate, status, limits.maximum_mean)]}
        held |= {name: _follow_spread(pair, estimate, status, name, limit) for name, limit in spread.items()}
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
    sums = [nats for nats in agreement.divergence if nats is not None]
    return bound_over_tokens(context, sums, agreement.tokens, "{} nats per token")


def _follow_spread(pair: Pair, mean: Estimate, status: Status, name: str, limit: float | None) -> list[Finding]:
    """Hold a figure without an interval, or report it; where it is missing, only if it has a limit."""
    label = f"{pair.label}: {name}"
    descendant = pair.measured(DESCENDANT)
    spread = None if descendant is None else descendant.agreement.spread
    if mean.status not in (EstimateStatus.MEASURED, EstimateStatus.TOO_FEW):
        return [] if limit is None else [Finding(label=label, status=status, limit=limit, because=mean.words)]
    if spread is None:
        missing = Finding(label=label, status=Status.INCONCLUSIVE, limit=limit, because="not measured")
        return [] if limit is None else [missing]
    observed = {_MEDIAN: spread.median, _P99: spread.p99, _MAXIMUM: spread.maximum}[name]
    words = f"{write_number(observed)} nats per token"
    held = Status.SKIPPED if limit is None else hold_exactly(observed, high=limit)
    return [Finding(label=label, status=held, observed=observed, limit=limit, because=words)]
