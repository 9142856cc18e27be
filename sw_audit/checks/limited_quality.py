"""Quality under several recipes or schemes, each of which may have a limit, by the size of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sw_audit.checks.context import CheckContext, Held, decide_finding, report_estimate
from sw_audit.checks.estimate import Estimate, hold_at_most, make_finding
from sw_audit.record.verdict import Finding, Verdict

SMALL = 1_000_000_000
"""A model of fewer decoder weights is small. Below it lie the measured SmolLM2-135M and specimen, which differ
widely, and the published OPT-125M; from it on, the published OPT-1.3B to Llama-2-70B, which lose alike."""


def is_small(context: CheckContext) -> bool:
    """Whether the model has fewer decoder weights than `SMALL`; all its weights, where these were not counted."""
    return (context.result.decoder_weights or context.result.model.parameters) < SMALL


def judge_limited_quality(
    context: CheckContext,
    estimates: Mapping[str, Estimate],
    limits: Mapping[str, float],
    *,
    kind: str,
    failed: Callable[[str], str],
    remedy: Callable[[Estimate], str | None] = lambda _: None,
    more: Sequence[Finding] = (),
) -> Verdict:
    """Judge the worst of those that have a limit, by how far it is above its own; the others are reported.

    Args:
        context: The check.
        estimates: Perplexity ratio to full precision by recipe or scheme.
        limits: The largest that is allowed, by the same.
        kind: What they are, `recipe` or `scheme`.
        failed: What to do if one is above its limit.
        remedy: What to do otherwise, if not what `CheckContext.advise` says.
        more: What else is reported.
    """
    held = {
        label: Held(estimate, make_finding(label, estimate, hold_at_most(estimate, limits[label]), limits[label]))
        for label, estimate in estimates.items()
        if label in limits
    }
    findings = [
        held[label].finding if label in held else report_estimate(label, estimate)
        for label, estimate in estimates.items()
    ] + [*more]
    key = context.key("maximum_ratio")
    if not held:
        return context.skip(f"No {kind} that is measured has a limit in `{key}`.", findings)
    deciding = decide_finding(
        [one.finding for one in held.values()],
        key=lambda finding: (finding.observed or 0.0) / (finding.limit or 1.0),
    )
    name = deciding.label
    worst = held[name].estimate
    return context.judge(
        worst,
        limits[name],
        status=deciding.status,
        subject=f"{name}: ",
        key=key,
        failed=failed(name),
        remedy=remedy(worst),
        findings=findings,
    )
