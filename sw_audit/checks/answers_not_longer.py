"""How long a descendant's answers are beside the parent's."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sw_audit.checks.context import CheckContext, Held, decide_finding
from sw_audit.checks.estimate import (
    Estimate,
    EstimateStatus,
    hold_at_most,
    make_finding,
    write_interval,
    write_number,
)
from sw_audit.checks.generation_sane import generation_sane
from sw_audit.checks.kl_divergence import kl_divergence
from sw_audit.checks.limits import Limits, Ratio, Share
from sw_audit.checks.registry import Need, check
from sw_audit.checks.settings_as_parent import settings_as_parent
from sw_audit.checks.statistics import bound_median, bound_paired_difference
from sw_audit.record.descent import AnswerLength
from sw_audit.record.verdict import Finding, Sample, Status, Verdict

_QUANTILES = {"median": 0.5, "95th percentile": 0.95}
_LISTED = 8
_RUN_ON = "prompts more that it runs on after"


class AnswersNotLongerLimits(Limits):
    """Limits of `answers-not-longer`.

    They were set on descendants of SmolLM2-135M-Instruct, 32 prompts, at most 128 tokens. The specimen has no chat
    template and says nothing of them.

    Attributes:
        maximum_ratio: Largest median, over prompts, of the descendant's tokens to the end over the parent's.
            Greedy answers part soon, so single lengths differ much. Int8 in groups of 64: 1 (95 % interval 0.985
            to 1.375); int4 in groups of 32: 1 to 1; int4 in groups of 128: 0.773 (0.15 to 1.167). Int4, symmetric,
            in groups of 64: 1.025 (0.286 to 2.72), so undecided.
        maximum_run_on: So large a share of the prompts may be added to those after which the answer does not end
            within the limit of tokens. The upper ends of the same four: 0.107, 0.107, 0.117 and 0.218. With fewer
            than 12 prompts nothing is shown to be below it.
    """

    maximum_ratio: Ratio = 1.5
    maximum_run_on: Share = 0.25


@check(
    id="answers-not-longer",
    order=235,
    title="Answers are not longer than the parent's",
    meaning="A model that cannot find the end costs more tokens per answer, at the same perplexity and accuracy.",
    quantity="tokens to the end over the parent's, median of prompts",
    fails="the answers to chat prompts are certainly more than 1.5 times as long, in the median of prompts, or "
    "certainly a quarter of them more run on to the limit of tokens",
    limits=AnswersNotLongerLimits,
    level="gate",
    side="at most",
    scope="descendant",
    needs=frozenset({Need.LENGTHS}),
)
def answers_not_longer(context: CheckContext) -> Verdict:
    """Rule of `answers-not-longer`: how many tokens both take to the end of an answer, prompt by prompt.

    Quantized models that reason think longer at nearly the same accuracy (arXiv 2606.00206). Two figures decide.
    The first is the median over prompts of the ratio of tokens to the end, with the interval of order statistics:
    the ratios that a sign test would not reject, exact whatever the lengths look like. An answer that reaches the
    limit of tokens is known to be at least so long, and its ratio as far; prompts after which both reach it tell
    nothing of which is longer, and are left out of that figure. The second is the share of prompts after which
    the descendant alone reaches the limit, less the share after which the parent alone does, with Tango's
    interval for paired proportions. The median and the 95th percentile of both models are told, as "at least"
    where they fall on answers that do not end. Answers whose logits are not finite fail.

    Greedy answers of sound descendants differ much, and the prompts that ship may be too few to tell: where an
    interval has the limit inside it, the figures are told and nothing is judged.
    """
    limits, answers = context.limits(AnswersNotLongerLimits), context.descent.answers
    if not answers:
        return _explain_none(context)
    quantiles = [_tell_quantile(name, share, answers) for name, share in _QUANTILES.items()]
    if not any(one.parent_ends for one in answers):
        longest = max(one.limit for one in answers)
        return context.skip(
            f"None of the parent's answers to {len(answers)} prompts ends within {longest} tokens.", quantiles
        )
    held = [
        _hold("tokens to the end", measure_ratio(context, answers), limits.maximum_ratio),
        _hold("answers that run on", measure_run_on(context, answers), limits.maximum_run_on),
    ]
    worst = decide_finding([one.finding for one in held], key=lambda finding: finding is held[0].finding)
    decides = next(one for one in held if one.finding is worst)
    ratio = decides is held[0]
    findings = [*(one.finding for one in held), *quantiles, *_list_run_on(answers)]
    if worst.status is Status.INCONCLUSIVE:  # what is not finite fails, and the parent's answers end
        more = "`[descent] answer_prompts` or `answer_tokens` ask for more"
        return context.skip(f"{worst.label}: {worst.because}: too few answers to tell; {more}.", findings)
    return context.judge(
        decides.estimate,
        limits.maximum_ratio if ratio else limits.maximum_run_on,
        status=worst.status,
        subject=f"{worst.label}: ",
        key=context.key("maximum_ratio" if ratio else "maximum_run_on"),
        failed=f"Read the answers; see whether an end token or the chat template is another "
        f"(`{settings_as_parent.id}`), whether answers loop (`{generation_sane.id}`), and how far the "
        f"distributions are (`{kl_divergence.id}`); quantize less, or calibrate on chats that end; or, if longer "
        "answers are acceptable, raise the limit in "
        f"`[checks.{context.check.id}]`.",
        findings=findings,
        measured=False,
        quantity=None if ratio else _RUN_ON,
    )


def measure_ratio(context: CheckContext, answers: Sequence[AnswerLength]) -> Estimate:
    """Return the median over prompts of the ratio of tokens to the end, and its interval."""
    broken = [one for one in answers if not one.finite]
    if broken:
        words = f"after {len(broken)} of {len(answers)} prompts the logits of the descendant are not finite"
        return Estimate(EstimateStatus.NOT_FINITE, words)
    ended = [one for one in answers if one.parent_ends or one.descendant_ends]
    both = f" ({len(answers) - len(ended)} more reach the limit in both)" if len(ended) < len(answers) else ""
    shorter, longer = (sum(sign * (one.descendant - one.parent) > 0 for one in ended) for sign in (-1, 1))
    words = f"of {len(ended)} answers{both} {longer} are longer than the parent's and {shorter} shorter"
    sample = Sample(count=len(ended), unit="items")
    pairs = [one.descendant / one.parent for one in ended]
    lows = [ratio if one.parent_ends else 0.0 for ratio, one in zip(pairs, ended, strict=True)]
    highs = [ratio if one.descendant_ends else math.inf for ratio, one in zip(pairs, ended, strict=True)]
    ratio, low, high = bound_median(pairs, lows, highs, context.confidence)
    if (few := context.count_short(len(ended), "prompts")) is not None:
        return Estimate(EstimateStatus.TOO_FEW, f"{words}; {few}", ratio, sample=sample)
    told = Estimate(EstimateStatus.MEASURED, "", ratio, low, high)
    words += f", the median {write_interval(told, context.policy.confidence)} times as long"
    return Estimate(EstimateStatus.MEASURED, words, ratio, low, high, sample=sample)


def measure_run_on(context: CheckContext, answers: Sequence[AnswerLength]) -> Estimate:
    """Return the share of prompts that were added to those after which the answer reaches the limit."""
    count = len(answers)
    added = sum(one.parent_ends and not one.descendant_ends for one in answers)
    gone = sum(one.descendant_ends and not one.parent_ends for one in answers)
    ended = sum(one.parent_ends for one in answers)
    words = (
        f"{added} of {ended} answers that the parent ends reach the limit, {gone} of {count - ended} others end"
    )
    sample, share = Sample(count=count, unit="items"), (added - gone) / count
    if (few := context.count_short(count, "prompts")) is not None:
        return Estimate(EstimateStatus.TOO_FEW, f"{words}; {few}", share, sample=sample)
    low, high = bound_paired_difference(added, gone, count, context.confidence)
    told = Estimate(EstimateStatus.MEASURED, "", share, low, high)
    words += f", a share of {write_interval(told, context.policy.confidence)} of all prompts more"
    return Estimate(EstimateStatus.MEASURED, words, share, low, high, sample=sample)


def find_quantile(lengths: Sequence[tuple[int, bool]], share: float) -> tuple[int, bool]:
    """Return the smallest length that at least a share of all do not exceed, and whether it is known.

    Args:
        lengths: Of each answer how long it is, and whether it ends; one that does not is at least so long.
        share: Such as 0.5 of the median.

    Returns:
        The length, in tokens; where it is not known, the quantile is at least that.
    """
    rank = max(1, math.ceil(share * len(lengths) - 1e-9)) - 1
    least = sorted(length for length, _ in lengths)[rank]
    most = sorted(length if ends else math.inf for length, ends in lengths)[rank]
    return least, most == least


def write_length(length: int, known: bool) -> str:
    """Write a number of tokens, with "at least" where an answer did not end."""
    return f"{length}" if known else f"at least {length}"


def _hold(label: str, estimate: Estimate, limit: float) -> Held:
    return Held(estimate, make_finding(label, estimate, hold_at_most(estimate, limit), limit))


def _tell_quantile(name: str, share: float, answers: Sequence[AnswerLength]) -> Finding:
    there, there_known = find_quantile([(one.parent, one.parent_ends) for one in answers], share)
    here, here_known = find_quantile([(one.descendant, one.descendant_ends) for one in answers], share)
    ratio = here / there
    bound = {(True, True): "", (True, False): "at least ", (False, True): "at most "}
    times = bound.get((there_known, here_known))
    words = f"{write_length(here, here_known)} tokens to the end, the parent {write_length(there, there_known)}"
    words += ", of which the ratio is not known" if times is None else f": {times}{write_number(ratio)} times"
    known = there_known and here_known
    return Finding(label=name, status=Status.SKIPPED, observed=ratio if known else None, because=words)


def _list_run_on(answers: Sequence[AnswerLength]) -> list[Finding]:
    """List answers that the descendant alone does not end, those that the parent ends first at the front."""
    alone = sorted(
        (one for one in answers if one.parent_ends and not one.descendant_ends), key=lambda one: one.parent
    )
    return [
        Finding(
            label=f"to {one.prompt!r}",
            status=Status.SKIPPED,
            observed=one.descendant,
            because=f"it does not end within {one.limit} tokens, the parent takes {one.parent}; it is at "
            f"{one.tail!r}",
        )
        for one in alone[:_LISTED]
    ]


def _explain_none(context: CheckContext) -> Verdict:
    if not context.policy.descent.answer_prompts:
        return context.skip("No chat prompts are asked for (`[descent] answer_prompts`).")
    if context.descent.unasked:
        return context.skip(f"No chat prompt was answered: {context.descent.unasked}.")
    return context.conclude(
        Status.INCONCLUSIVE, "Nothing was answered.", remedy="Run the audit again with this check selected."
    )
