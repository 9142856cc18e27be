"""How super activations ride through the model, whatever the prompt."""

from __future__ import annotations

import statistics
from typing import Annotated

from pydantic import BeforeValidator, Field

from sw_audit.checks.context import CheckContext, decide_finding
from sw_audit.checks.estimate import write_number
from sw_audit.checks.limits import Limits, Share
from sw_audit.checks.registry import Need, check
from sw_audit.record.location import PromptTrace, SuperActivation
from sw_audit.record.verdict import Finding, Status, Verdict

# A model has up to four massive channels (Sun et al. 2024, section 2), so three others may be larger.
_OTHER_MASSIVE_CHANNELS = 3


_SEARCH = "search"


_LONGEST_QUOTE = 80


class SuperActivationPersistsLimits(Limits):
    """Limits of `super-activation-persists`.

    Attributes:
        tolerance: Largest relative deviation from the median magnitude, over layers and prompts. With BOS
            the value is constant; without it replications see 5 to 30 percent.
        examples: How many more prompts, of random tokens, runs of the vocabulary, one token over and over, are
            tried in search of one that breaks the law; the shortest that does fails the check. 0 is no search.
    """

    tolerance: Share = 0.3
    examples: Annotated[int, BeforeValidator(lambda value: 50 if value is None else value)] = Field(
        # Records of 0.1.0 hold null for the default.
        default=50,
        ge=0,
        le=10_000,
    )


@check(
    id="super-activation-persists",
    order=20,
    title="The super activation keeps channel, token and magnitude",
    meaning="Whatever the prompt, the same channel carries the same value from layer to layer.",
    quantity="largest relative deviation",
    fails="it deviates by more than 30 %, or one random prompt breaks it; the shortest that does is shown",
    limits=SuperActivationPersistsLimits,
    measured=frozenset({"tolerance", "examples"}),
    level="law",
    known="1,360 from layer 3 to layer 29 of 32 for Llama-7B (Yu et al. 2024, figure 4)",
    unit="share",
    side="at most",
    needs_super_weight=True,
    needs=frozenset({Need.PERSISTENCE}),
)
def super_activation_persists(context: CheckContext) -> Verdict:
    """Rule of `super-activation-persists` (Yu et al. 2024, section 3.2; Sun et al. 2024).

    Per super activation, between its first and last layer and on every prompt: its channel peaks at one
    token, at most three other massive channels (or the other super activations) are larger there, and its
    value stays within `tolerance` of its median over all prompts and layers, relative to that median. The
    deviation is exact, there is no interval. Fewer than two prompts prove no "whatever the prompt". Neither do
    many: a search among random ones, where one was made, adds the shortest that breaks it, which fails.
    """
    activations = context.result.location.super_activations
    limit = context.limits(SuperActivationPersistsLimits).tolerance
    if not activations:
        return context.conclude(
            Status.INCONCLUSIVE,
            "No super activation was recorded beside the super weights.",
            remedy="Run the audit again, so that the super activations are traced.",
        )
    findings = [_follow_activation(context, activation, limit) for activation in activations]
    deciding = decide_finding(findings, key=lambda finding: finding.observed or 0.0)
    words = f"{deciding.label}: {deciding.because}"
    remedy = {
        Status.FAIL: "Compare the trace with the parent's: quantization, pruning or a fine-tune has disturbed "
        f"this channel; if it is meant to vary so much, raise `{context.key('tolerance')}`.",
        Status.INCONCLUSIVE: "Run the audit again with at least two `prompts`, so that the channel is traced "
        "on each.",
    }.get(deciding.status)
    searched = _judge_search(context, limit)
    if searched is not None:
        findings.append(searched)
        words = f"{words}; {searched.because}"
        if searched.status is Status.FAIL and deciding.status is not Status.FAIL:
            deciding = searched
            words = f"{searched.because[0].upper()}{searched.because[1:]}"
            remedy = (
                "Run the parent on this prompt too: if its super activation stays, this model has lost it; if no "
                f"text can hold such a prompt, set `{context.key('examples')} = 0`, which leaves the "
                "fixed prompts."
            )
    return context.conclude(
        deciding.status,
        f"{words}.",
        remedy=remedy,
        figure=deciding,
        limit=limit,
        findings=findings,
        measured=False,
    )


def _follow_activation(context: CheckContext, activation: SuperActivation, limit: float) -> Finding:
    label = f"channel {activation.channel}"
    traces = [trace for trace in context.result.persistence if trace.channel == activation.channel]
    span = slice(activation.first_layer, activation.last_layer + 1)
    length = activation.last_layer + 1 - activation.first_layer
    if len(traces) < 2 or any(len(trace.values[span]) != length for trace in traces):
        because = f"{len(traces)} prompts were traced through its layers, at least two are needed"
        return Finding(label=label, status=Status.INCONCLUSIVE, limit=limit, because=because)
    values = [value for trace in traces for value in trace.values[span]]
    finite = [value for value in values if value is not None]
    if len(finite) < len(values):
        because = f"its value is not finite at {len(values) - len(finite)} of {len(values)} places"
        return Finding(label=label, status=Status.FAIL, limit=limit, because=because)
    median = statistics.median(finite)
    if median == 0:
        because = "its median value is 0: there is no super activation on these prompts"
        return Finding(label=label, status=Status.FAIL, limit=limit, because=because)
    deviation = max(abs(value - median) for value in finite) / abs(median)
    others = max(len(context.result.location.super_activations) - 1, _OTHER_MASSIVE_CHANNELS)
    strayed = next((stray for trace in traces if (stray := _find_stray(trace, span, others))), None)
    within = deviation <= limit
    because = (
        f"its value is {write_number(median)} in the median over {len(traces)} prompts and layers "
        f"{activation.first_layer} to {activation.last_layer}, and deviates from that by at most "
        f"{write_number(deviation)}, with {write_number(limit)} allowed"
    )
    return Finding(
        label=label,
        status=Status.PASS if within and strayed is None else Status.FAIL,
        observed=deviation,
        limit=limit,
        because=because if strayed is None else f"{strayed}; {because}",
    )


def _find_stray(trace: PromptTrace, span: slice, others: int) -> str | None:
    """Say at which layer the channel leaves its token or is not among the largest, if it does."""
    home = trace.peaks[span.start]
    for layer in range(span.start, span.stop):
        if trace.peaks[layer] != home:
            return (
                f"on the prompt {trace.prompt!r} it moves from token {home} to token {trace.peaks[layer]} "
                f"at layer {layer}"
            )
        if trace.ranks[layer] > others:
            return (
                f"on the prompt {trace.prompt!r} {trace.ranks[layer]} other channels are larger at layer "
                f"{layer}, at most {others} may be"
            )
    return None


def _judge_search(context: CheckContext, limit: float) -> Finding | None:
    """Hold what a search came to against the tolerance, which need not be the one that it was made with."""
    search = context.result.prompt_search
    if search is None:
        return None
    if search.omitted is not None:
        return _report_search(f"no other prompt was tried: {search.omitted}")
    if search.stopped is not None:
        because = f"the search for a prompt that breaks the law ended on one where {search.stopped}"
        return Finding(label=_SEARCH, status=Status.FAIL, limit=limit, because=because)
    if search.found is None:
        words = f"none of up to {search.examples} random prompts breaks the law"
        if search.tolerance > limit:
            return _report_search(f"{words} by more than {write_number(search.tolerance)}, which is less strict")
        return Finding(label=_SEARCH, status=Status.PASS, because=words)
    breaking = search.found
    channels = {one.channel: one for one in context.result.location.super_activations}
    known = [(trace, channels[trace.channel]) for trace in breaking.traces if trace.channel in channels]
    deviations = [_measure_deviation(*one) for one in known]
    finite = [part for part in deviations if part is not None]
    deviation = max(finite) if finite and len(finite) == len(deviations) else None
    if deviation is not None and deviation <= limit and not any(_leaves_token(*one) for one in known):
        return _report_search(
            f"the search, within {write_number(search.tolerance)}, found none that breaks this limit"
        )
    count = len(breaking.token_ids)
    return Finding(
        label=_SEARCH,
        status=Status.FAIL,
        observed=deviation,
        limit=limit,
        because=f"{breaking.because} on the prompt {_quote(breaking.prompt)} "
        f"({count} token{'s' if count > 1 else ''}), the shortest found to break the law",
    )


def _quote(prompt: str) -> str:
    return repr(prompt if len(prompt) <= _LONGEST_QUOTE else f"{prompt[:_LONGEST_QUOTE]}…")


def _report_search(because: str) -> Finding:
    return Finding(label=_SEARCH, status=Status.SKIPPED, because=because)


def _measure_deviation(trace: PromptTrace, activation: SuperActivation) -> float | None:
    """Return the largest deviation from the located value, relative to it; `None` where a value is not finite."""
    values = trace.values[activation.first_layer : activation.last_layer + 1]
    finite = [value for value in values if value is not None]
    if len(finite) < len(values) or not activation.value:
        return None
    return max((abs(value - activation.value) for value in finite), default=0.0) / abs(activation.value)


def _leaves_token(trace: PromptTrace, activation: SuperActivation) -> bool:
    return len(set(trace.peaks[activation.first_layer : activation.last_layer + 1])) > 1
