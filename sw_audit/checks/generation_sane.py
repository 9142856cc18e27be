"""What a descendant goes on with, greedily, beside its parent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import takewhile

from pydantic import Field

from sw_audit.checks.context import CheckContext
from sw_audit.checks.estimate import Estimate, EstimateStatus, write_number
from sw_audit.checks.layer_error import layer_error
from sw_audit.checks.limits import Limits, Share
from sw_audit.checks.registry import Need, check
from sw_audit.checks.super_weight_retained import super_weight_retained
from sw_audit.record.descent import Continuation
from sw_audit.record.verdict import Finding, Status, Verdict

# Of fewer tokens neither a loop nor a dominant token can be told.
_ENOUGH = 16


_RUN = 4


_QUOTED = 60


class GenerationSaneLimits(Limits):
    """Limits of `generation-sane`.

    Attributes:
        maximum_repetition: Largest share of 4-grams that came before, where the parent's is below it. The
            specimen's sound copies repeat up to 0.45 in 144 tokens, one that lost its super weight 0.93 and more.
        maximum_dominance: Largest share of one token, where the parent's is below it: sound up to 0.24, without
            the super weight 0.97 and more.
        maximum_failures: So many continuations may fall apart.
    """

    maximum_repetition: Share = 0.6
    maximum_dominance: Share = 0.6
    maximum_failures: int = Field(default=0, ge=0)


@check(
    id="generation-sane",
    order=230,
    title="Greedy continuations do not fall apart",
    meaning="Looping, one token over and over, or garbage past a kernel's boundary: perplexity sees none of "
    "these.",
    quantity="prompts that fell apart",
    fails="one loops, is ruled by one token, ends at once or is not finite, where the parent's is none of these",
    limits=GenerationSaneLimits,
    level="gate",
    unit="count",
    side="at most",
    scope="descendant",
    needs=frozenset({Need.GENERATION}),
)
def generation_sane(context: CheckContext) -> Verdict:
    """Rule of `generation-sane`: how many of the continuations fall apart, exactly.

    One falls apart where logits are not finite, where so large a share of its 4-grams came before that it loops,
    where one token makes so large a share of it, or where it ends at once and the parent's does not. A loop or a
    dominant token counts only where the parent's own continuation has none; prompts after which both have are
    reported, and if there are no others the check is inconclusive. Where the two part ways is reported.
    """
    limits, continuations = context.limits(GenerationSaneLimits), context.descent.continuations
    if not continuations:
        return context.conclude(
            Status.INCONCLUSIVE,
            "Nothing was generated.",
            remedy="Run the audit again with this check selected.",
        )
    findings = [_follow(continuation, limits) for continuation in continuations]
    broken = [finding for finding in findings if finding.status is Status.FAIL]
    silent = all(finding.status is Status.SKIPPED for finding in findings)
    status = Status.FAIL if len(broken) > limits.maximum_failures else Status.PASS
    if silent:
        status = Status.INCONCLUSIVE
    first = (broken or findings)[0]
    words = f"{len(broken)} of {len(findings)} continuations fall apart"
    return context.conclude(
        status,
        f"{words}; at most {limits.maximum_failures} may. {first.label}: {first.because}.",
        remedy="The parent falls apart as well: give prompts that it can go on with, by another text in "
        "`[corpus] source` or longer `[descent] prompt_tokens`."
        if silent
        else _advise(context),
        figure=Estimate(EstimateStatus.MEASURED, "", float(len(broken))),
        limit=float(limits.maximum_failures),
        findings=[*findings, *(_part(continuation) for continuation in continuations)],
        measured=False,
    )


def _advise(context: CheckContext) -> str:
    return (
        "Read the continuations, and see what those that fall apart have in common, short prompts or many new "
        "tokens: a kernel's boundary, a cache or a scale that depends on length is what perplexity does not see. "
        f"Then look at `{super_weight_retained.id}` and `{layer_error.id}`; or change the limits in "
        f"`[checks.{context.check.id}]`."
    )


def measure_repetition(tokens: Sequence[int]) -> float:
    """Return the share of 4-grams that came before; 0 where there is none."""
    runs = [tuple(tokens[start : start + _RUN]) for start in range(len(tokens) - _RUN + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def measure_dominance(tokens: Sequence[int]) -> float:
    """Return the share of the most frequent token; 0 where there is none."""
    return max(Counter(tokens).values()) / len(tokens) if tokens else 0.0


def _follow(continuation: Continuation, limits: GenerationSaneLimits) -> Finding:
    faults = _list_faults(continuation.descendant, limits)
    inherited = _list_faults(continuation.parent, limits)
    label = continuation.label
    here, there = _quote(continuation.descendant_text), _quote(continuation.parent_text)
    quoted = f"it goes on with {here}, the parent with {there}"
    if not continuation.finite:
        because = f"after {len(continuation.descendant)} tokens its logits are not finite"
        return Finding(label=label, status=Status.FAIL, because=because)
    if not continuation.descendant and len(continuation.parent) >= _ENOUGH:
        because = f"it ends at once, the parent goes on with {there}"
        return Finding(label=label, status=Status.FAIL, because=because)
    if min(len(continuation.descendant), len(continuation.parent)) < _ENOUGH:
        because = f"one of the two ends after fewer than {_ENOUGH} tokens, of which nothing can be told; {quoted}"
        return Finding(label=label, status=Status.SKIPPED, because=because)
    own = [fault for fault in faults if fault not in inherited]
    if own:
        words = " and ".join(faults[fault][1] for fault in own)
        return Finding(
            label=label,
            status=Status.FAIL,
            observed=faults[own[0]][0],
            limit=getattr(limits, own[0]),
            because=f"{words}; {quoted}",
        )
    if inherited:
        because = f"the parent's own falls apart, so nothing can be told; {quoted}"
        return Finding(label=label, status=Status.SKIPPED, because=because)
    return Finding(
        label=label,
        status=Status.PASS,
        observed=measure_repetition(continuation.descendant),
        limit=limits.maximum_repetition,
        because=quoted,
    )


def _list_faults(tokens: Sequence[int], limits: GenerationSaneLimits) -> dict[str, tuple[float, str]]:
    """Return what is wrong with a continuation, by the key of the limit."""
    repetition, dominance = measure_repetition(tokens), measure_dominance(tokens)
    faults = {}
    if repetition > limits.maximum_repetition:
        faults["maximum_repetition"] = (
            repetition,
            f"it loops: a share of {write_number(repetition)} of its {_RUN}-grams came before",
        )
    if dominance > limits.maximum_dominance:
        faults["maximum_dominance"] = (
            dominance,
            f"one token makes a share of {write_number(dominance)} of it",
        )
    return faults


def _part(continuation: Continuation) -> Finding:
    """Report how far the two go on alike."""
    both = zip(continuation.parent, continuation.descendant, strict=False)
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], both))
    longest = max(len(continuation.parent), len(continuation.descendant))
    words = "they never part" if alike == longest else f"they part after {alike} of {longest} new tokens"
    return Finding(
        label=f"{continuation.label}, as the parent", status=Status.SKIPPED, observed=alike, because=words
    )


def _quote(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= _QUOTED else f"{line[:_QUOTED]}...")
