"""What a model goes on with, greedily: by itself, or beside its parent."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import takewhile

from pydantic import Field

from sw_audit.checks.context import CheckContext
from sw_audit.checks.estimate import Estimate, EstimateStatus, hold_exactly, write_number
from sw_audit.checks.layer_error import layer_error
from sw_audit.checks.limits import Limits, Share
from sw_audit.checks.registry import Need, check
from sw_audit.checks.super_weight_retained import super_weight_retained
from sw_audit.record.arm import BASELINE
from sw_audit.record.descent import Continuation
from sw_audit.record.measurement import PromptContinuation
from sw_audit.record.verdict import Finding, Status, Verdict

# Of fewer tokens neither a loop nor a dominant token can be told.
_ENOUGH = 16
# Tokens of a run that is looked for again, and characters of a continuation that are quoted.
_RUN = 4
_QUOTED = 60
_LOOK = (
    "Look at the model itself: open it in float32, look at its files and its tokenizer, compare it with an "
    "earlier checkpoint, and give a text of the kind that it was trained on in `[corpus] source`; or change the "
    "limits in `[checks.{check}]`."
)


class GenerationSaneLimits(Limits):
    """Limits of `generation-sane`. The first three are those of a descendant, the others of a model by itself.

    Attributes:
        maximum_repetition: Largest share of 4-grams that came before, where the parent's is below it. The
            specimen's sound copies repeat up to 0.45 in 144 tokens, one that lost its super weight 0.93 and more.
        maximum_dominance: Largest share of one token, where the parent's is below it: sound up to 0.24, without
            the super weight 0.97 and more.
        maximum_failures: So many continuations may fall apart.
        maximum_stuck: Largest share of new tokens that are one of the two before them. The specimen, the control
            and their int8 and int4 copies reach 0.1, the specimen without its super weight 0.97 to 1.
        maximum_share: So large a share of the prompts may leave it stuck or silent. SmolLM2-135M-Instruct, which
            is sound, is stuck (0.97) after a single token, and at 0.03 or less after the four longer prompts; of
            36 short prompts of another text it was stuck after 4. The specimen without its super weight is stuck
            after all.
        maximum_excess: So many nats per token may its loss on the text be above the entropy of the tokens'
            frequencies. That entropy is too low where text is short: of the English text it is 5.2 on 512
            tokens, 6.2 on 6,144 and 6.7 on 33,524. Sound models are below it (SmolLM2-135M-Instruct by 1.4 on
            1,016 tokens, the specimen by 4.1); without their super weights they are above it, by 7.5 and 2.2.
    """

    maximum_repetition: Share = 0.6
    maximum_dominance: Share = 0.6
    maximum_failures: int = Field(default=0, ge=0)
    maximum_stuck: Share = 0.5
    maximum_share: Share = 0.75
    maximum_excess: float = Field(default=1.5, ge=0)


@check(
    id="generation-sane",
    order=230,
    title="Greedy continuations do not fall apart",
    meaning="Looping, one token over and over, or garbage past a kernel's boundary: perplexity sees none of "
    "these.",
    quantity="prompts that fell apart",
    fails="one loops, is ruled by one token, ends at once or is not finite, where the parent's is none of these; "
    "by itself: one is not finite, nearly all stick to one or two tokens or end at once, or the text is "
    "predicted worse than by token frequencies",
    limits=GenerationSaneLimits,
    level="gate",
    unit="count",
    side="at most",
    scope="any",
    needs=frozenset({Need.GENERATION}),
)
def generation_sane(context: CheckContext) -> Verdict:
    """Rule of `generation-sane`: how many of the continuations fall apart, exactly.

    Of a model by itself one falls apart where logits are not finite, where it sticks to one or two tokens, or
    where it ends at once. Sound models, small ones above all, loop when they are decoded greedily, and some
    prompts leave them stuck; so loops are reported, and the model fails only if logits are not finite, if after
    nearly all prompts it is stuck or silent, or if it predicts the text itself worse than the frequencies of its
    tokens do, for then what it generates is noise, whether or not it repeats itself.

    Beside a parent one falls apart where logits are not finite, where so large a share of its 4-grams came before
    that it loops, where one token makes so large a share of it, or where it ends at once and the parent's does
    not. A loop or a dominant token counts only where the parent's own continuation has none; prompts after which
    both have are reported, and if there are no others the check is inconclusive. Where the two part ways is
    reported.
    """
    if context.result.descent is None:
        return _judge_alone(context, context.limits(GenerationSaneLimits))
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


def _judge_alone(context: CheckContext, limits: GenerationSaneLimits) -> Verdict:
    continuations = context.result.continuations
    findings = [_follow_alone(continuation, limits) for continuation in continuations]
    broken = [finding for finding in findings if finding.status is Status.FAIL]
    told = [finding for finding in findings if finding.status is not Status.SKIPPED]
    infinite = [finding for finding, one in zip(findings, continuations, strict=True) if not one.finite]
    if not told:
        words = f"no continuation has {_ENOUGH} tokens" if findings else "nothing was generated"
        return context.conclude(
            Status.INCONCLUSIVE,
            f"{_capitalize(words)}, so nothing can be told.",
            remedy="Run the audit again with this check selected, or with longer `[descent] prompt_tokens`, "
            "another text in `[corpus] source` or more `[descent] new_tokens`.",
            findings=findings,
        )
    if (unlearned := _hold_text(context, limits)) is not None:
        findings.append(unlearned)
        if unlearned.status is Status.FAIL:
            return context.conclude(
                Status.FAIL,
                f"{_capitalize(unlearned.because)}; {write_number(limits.maximum_excess)} more is allowed.",
                remedy=_LOOK.format(check=context.check.id),
                figure=unlearned,
                limit=unlearned.limit,
                findings=findings,
                quantity="nats per token of the text",
            )
    allowed = math.floor(limits.maximum_share * len(continuations))
    failed = bool(infinite) or len(broken) > allowed
    first = (infinite or broken or told)[0]
    return context.conclude(
        Status.FAIL if failed else Status.PASS,
        f"{len(broken)} of {len(continuations)} continuations fall apart; at most {allowed} may, and none may be "
        f"not finite. {first.label}: {first.because}.",
        remedy=_LOOK.format(check=context.check.id),
        figure=Estimate(EstimateStatus.MEASURED, "", float(len(broken))),
        limit=float(allowed),
        findings=findings,
        measured=False,
    )


def _hold_text(context: CheckContext, limits: GenerationSaneLimits) -> Finding | None:
    """Hold the loss on the text against that of its tokens' frequencies; `None` if either is unknown."""
    measured, entropy = context.find_measurement(BASELINE.purpose), context.result.unigram_nats
    if measured is None or entropy is None:
        return None
    nats = measured.loss.mean_nats
    lost = "no finite number of" if nats is None else write_number(nats)
    return Finding(
        label="the text itself",
        status=hold_exactly(nats, high=entropy + limits.maximum_excess),
        observed=nats,
        limit=entropy + limits.maximum_excess,
        because=f"it loses {lost} nats per token of the text, and guessing by how frequent each token is loses "
        f"{write_number(entropy)}",
    )


def _follow_alone(one: PromptContinuation, limits: GenerationSaneLimits) -> Finding:
    quoted = f"it goes on with {_quote(one.text)}"
    if not one.finite:
        because = f"after {len(one.new_tokens)} tokens its logits are not finite"
        return Finding(label=one.label, status=Status.FAIL, because=because)
    if not one.new_tokens:
        return Finding(label=one.label, status=Status.FAIL, because="it ends at once")
    if len(one.new_tokens) < _ENOUGH:
        because = f"it ends after fewer than {_ENOUGH} tokens, of which nothing can be told; {quoted}"
        return Finding(label=one.label, status=Status.SKIPPED, because=because)
    stuck = measure_stuck(one.new_tokens)
    because = f"a share of {write_number(stuck)} of its tokens is one of the two before"
    if (repetition := measure_repetition(one.new_tokens)) > limits.maximum_repetition:
        because += f", and {write_number(repetition)} of its {_RUN}-grams came before: it loops"
    return Finding(
        label=one.label,
        status=hold_exactly(stuck, high=limits.maximum_stuck),
        observed=stuck,
        limit=limits.maximum_stuck,
        because=f"{because}; {quoted}",
    )


def _capitalize(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}"


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


def measure_stuck(tokens: Sequence[int]) -> float:
    """Return the share of tokens, from the third on, that are one of the two before; 0 where there is none."""
    return sum(tokens[at] in tokens[at - 2 : at] for at in range(2, len(tokens))) / max(len(tokens) - 2, 1)


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
