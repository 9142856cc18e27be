"""Whether a quantization reached every expert of a mixture."""

from __future__ import annotations

import math
from collections.abc import Iterator

from sw_audit.checks.context import StaticContext
from sw_audit.checks.estimate import hold_exactly, keep_finite, write_number
from sw_audit.checks.limits import Limits, Nonnegative, Share
from sw_audit.checks.registry import Need, check
from sw_audit.record.experts import ComparedExperts, ExpertScale, SiblingExperts
from sw_audit.record.verdict import Finding, Status, Verdict

_AGAIN = "Run the audit again with this check selected."
_CALIBRATE = (
    "Calibrate on more text, or send every token through every expert while calibrating "
    "(`calibrate_all_experts` in llm-compressor), and quantize again"
)
# So many are listed; all of them are counted.
_LISTED = 20


class ExpertsQuantizedAlikeLimits(Limits):
    """Limits of `experts-quantized-alike`.

    Attributes:
        maximum_times: How many times the usual error of its siblings an expert's may be, weights beside the
            parent's. Round-to-nearest of planted mixtures, one expert of which holds a super weight, comes to 1.0
            in groups of 32, 2.1 by row and 2.9 in blocks of 16 x 16; a lost expert of 4 bits to 10.
        floor: An error below this share of the weights counts as this: eight bits leave 0.01, and a fine-tune may
            train a few experts only.
    """

    maximum_times: Nonnegative = 4.0
    floor: Share = 0.03


@check(
    id="experts-quantized-alike",
    order=172,
    title="Every expert was quantized as its siblings were",
    meaning="An expert that calibration never reached is broken in silence, and the text may not reach it either.",
    quantity="error of the worst expert over its siblings' usual one",
    fails="one is plain among codes, a scale of what enters it was never set, or its error is 4 times the usual",
    limits=ExpertsQuantizedAlikeLimits,
    level="gate",
    unit="ratio",
    side="at most",
    scope="descendant",
    needs=frozenset({Need.EXPERTS}),
    static=True,
    reads_files=True,
)
def experts_quantized_alike(context: StaticContext) -> Verdict:
    """Rule of `experts-quantized-alike`.

    Each matrix of an expert is compared with the same matrix of the other experts of its layer. FAIL where one is
    stored as plain numbers though most are codes and no pattern of the configuration leaves it out, where the
    stored scale of what enters it is zero, not finite or a thousand times off the median, or where its error
    beside the parent is not finite or more than `maximum_times` the median. Figures of files have no interval.
    Skipped of a dense model.
    """
    files = context.result.files
    if files is None or files.experts is None:
        return context.conclude(Status.INCONCLUSIVE, "Nobody compared the experts.", remedy=_AGAIN)
    experts, limits = files.experts, context.limits(ExpertsQuantizedAlikeLimits)
    if not experts.experts:
        return context.conclude(Status.SKIPPED, f"{_say(experts.because or 'its files hold no experts')}.")
    ratios = {one.name: _hold_worst(one, limits) for one in experts.siblings}
    over = [finding for findings in ratios.values() for finding in findings if finding.status is Status.FAIL]
    failing = [*_list_plain(experts), *map(_describe_scale, experts.scales), *over]
    known = [finding for findings in ratios.values() for finding in findings if finding.observed is not None]
    worst = max(known, key=lambda finding: finding.observed or 0.0, default=None)
    if not failing and not experts.compared:
        because = f"None of its {experts.experts} experts could be held against the parent's"
        return context.conclude(Status.SKIPPED, f"{because}: their codes cannot be read from files here.")
    told = f"{experts.compared} matrices of {experts.experts} experts were held against the parent's"
    if failing:
        others = f" (and {len(failing) - 1} more)" if len(failing) > 1 else ""
        told = f"{failing[0].label}: {failing[0].because}{others}"
    elif worst is not None:
        told += f"; the largest error is {worst.label}'s, {write_number(worst.observed)} times the usual"
    left_out = [one for one in experts.siblings if one.left_out]
    listed = failing[:_LISTED] or ([worst] if worst else [])
    return context.conclude(
        Status.FAIL if failing else Status.PASS,
        f"{told}.",
        remedy=f"{_CALIBRATE}; or raise `[checks.experts-quantized-alike] maximum_times`.",
        observed=None if worst is None else worst.observed,
        limit=limits.maximum_times,
        findings=[*listed, *map(_describe_left_out, left_out[:_LISTED])],
    )


def _hold_worst(siblings: SiblingExperts, limits: ExpertsQuantizedAlikeLimits) -> list[Finding]:
    """Hold the largest errors of some siblings against their median."""
    usual = max(siblings.usual or 0.0, limits.floor)
    return [_hold(siblings, expert, error, usual, limits.maximum_times) for expert, error in siblings.worst]


def _hold(siblings: SiblingExperts, expert: int, error: float | None, usual: float, limit: float) -> Finding:
    times, words = None, "its weights are not finite, or the parent's are zero"
    if error is not None:
        times = error / usual if usual else math.inf if error else 0.0
        told = "not known" if siblings.usual is None else write_number(siblings.usual)
        words = f"its error is {write_number(error)} of the parent's weights, its siblings' usual one {told}"
    return Finding(
        label=_name(siblings, expert),
        status=hold_exactly(times, high=limit),
        observed=keep_finite(times),
        limit=limit,
        because=words,
    )


def _name(siblings: SiblingExperts, expert: int) -> str:
    if "*" in siblings.name:
        return siblings.name.replace("*", str(expert))
    return f"{siblings.name}[{expert}]"


def _list_plain(experts: ComparedExperts) -> Iterator[Finding]:
    for one in experts.siblings:
        for expert in one.unquantized:
            words = f"it is stored as plain numbers, and most of its {one.count - 1} siblings as codes"
            yield Finding(label=_name(one, expert), status=Status.FAIL, because=words)


def _describe_scale(scale: ExpertScale) -> Finding:
    usual = write_number(scale.usual)
    words = f"it is {write_number(scale.value)}, as if no token had set it; its siblings' is {usual}"
    return Finding(label=scale.name, status=Status.FAIL, observed=scale.value, because=words)


def _describe_left_out(siblings: SiblingExperts) -> Finding:
    numbers = ", ".join(map(str, siblings.left_out))
    words = f"The configuration leaves out experts {numbers} of {siblings.count}."
    return Finding(label=siblings.name, status=Status.SKIPPED, because=words)


def _say(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}"
