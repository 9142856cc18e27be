"""Rules on what a pruned model says: stop words and multiple choice."""

from __future__ import annotations

from sw_audit.checks.bootstrap import bound_mean, bound_ratio
from sw_audit.checks.context import CheckContext
from sw_audit.checks.estimate import (
    Estimate,
    EstimateStatus,
    hold_at_least,
    hold_at_most,
    write_interval,
    write_number,
)
from sw_audit.record.arm import BASELINE, PRUNED
from sw_audit.record.measurement import ChoiceAccuracy, StopWordMass
from sw_audit.record.verdict import Status, Verdict, worst_status

_MORE_ITEMS = "give more items in `[corpus] choices`"


def judge_stopwords(case: CheckContext) -> Verdict:
    """Rule of `stopword-shift` (Yu et al. 2024, section 3.3).

    The direction is not universal (Mistral-7B gives less mass to most stop words), so the policy sets no
    limit by default. Then a ratio that is finite and has an interval is a PASS, which says no more than
    that it was measured: `because` says so and `limit` stays empty. A mass that is not finite fails, a
    missing arm or too few windows is inconclusive. Where no stop words were read it is skipped.
    """
    limits = case.policy.checks.stopword_shift
    figure = _measure_shift(case)
    if figure is None:
        return case.skip("No stop words are known for this text (`[corpus] stop_words`).")
    held = [
        (status, limit, key)
        for limit, hold, key in (
            (limits.minimum_ratio, hold_at_least, "minimum_ratio"),
            (limits.maximum_ratio, hold_at_most, "maximum_ratio"),
        )
        if limit is not None
        for status in [hold(figure, limit)]
    ]
    # Without a limit any finite ratio holds: only the footing is judged.
    status = worst_status(one for one, _, _ in held) if held else hold_at_least(figure, 0.0)
    if figure.footing is EstimateStatus.NO_BASIS:
        status = Status.INCONCLUSIVE
    deciding = next(((limit, key) for one, limit, key in held if one is status), None)
    wanted = [f"{key} {write_number(limit)}" for _, limit, key in held]
    return case.conclude(
        status,
        f"{figure.words}; {' and '.join(wanted) or 'reported, no limit is set'}.",
        remedy="Give `[corpus] stop_words` of this model's own language, so that it has a mass on them."
        if figure.footing is EstimateStatus.NO_BASIS
        else case.advise(
            status,
            figure.footing,
            failed="Read the pruned model's text: its words shift otherwise than expected; if that is known for "
            "this family, change or remove the limit in `[checks.stopword-shift]`.",
            key=f"[checks.stopword-shift] {deciding[1]}" if deciding else "[checks.stopword-shift]",
        ),
        figure=figure,
        limit=deciding[0] if deciding else None,
    )


def _measure_shift(case: CheckContext) -> Estimate | None:
    baseline, pruned = case.find_measurement(BASELINE.name), case.find_measurement(PRUNED)
    if baseline is None or pruned is None:
        name = BASELINE.name if baseline is None else PRUNED
        return Estimate(EstimateStatus.MISSING, f"The arm {name!r} was not measured under this protocol")
    if baseline.stop_words is None or pruned.stop_words is None:
        return None
    return compare_masses(case, baseline.stop_words, pruned.stop_words)


def compare_masses(
    case: CheckContext,
    before: StopWordMass,
    after: StopWordMass,
    names: tuple[str, str] = ("the unpruned model", "the pruned model"),
) -> Estimate:
    """Return the mass on stop words of one model over that of another at the same tokens, with its interval.

    Args:
        case: The case.
        before: The mass below the line.
        after: The mass above it.
        names: What the two are called.
    """
    base_mean, mean = before.mean_mass, after.mean_mass
    if before.tokens != after.tokens:
        return Estimate(EstimateStatus.MISSING, "The two arms were not read at the same tokens")
    if base_mean is None or base_mean <= 0:
        return Estimate(EstimateStatus.NO_BASIS, f"The mass on stop words of {names[0]} is zero or not finite")
    if mean is None:
        return Estimate(EstimateStatus.NOT_FINITE, f"The mass on stop words of {names[1]} is not finite")
    base = [one for one in before.mass if one is not None]
    change = [one - other for one, other in zip(after.mass, base, strict=True) if one is not None]
    # 1 + change / base instead of after / base: without a change it is exactly 1 in every draw.
    ratio, low, high = (1 + part for part in bound_ratio(change, base, case.bootstrap))
    words = f"The mean mass on stop words goes from {write_number(base_mean)} to {write_number(mean)}"
    if (few := case.count_short(len(base), "windows")) is not None:
        return Estimate(EstimateStatus.TOO_FEW, f"{words}, times {write_number(ratio)}; {few}", ratio)
    figure = Estimate(EstimateStatus.MEASURED, words, ratio, low, high)
    words = f"{words}, times {write_interval(figure, case.policy.confidence)}"
    return Estimate(EstimateStatus.MEASURED, words, ratio, low, high)


def judge_accuracy(case: CheckContext) -> Verdict:
    """Rule of `accuracy-falls-to-chance` (Yu et al. 2024, table 1).

    The share (baseline - pruned) / (baseline - chance) of the accuracy above guessing is lost; the bootstrap
    pairs both arms item by item. The unpruned model must be better than guessing, by the lower end of its own
    interval, or there is no ability to lose: INCONCLUSIVE. Skipped where no items were read.
    """
    limit = case.policy.checks.accuracy_falls_to_chance.minimum_lost
    key = "[checks.accuracy-falls-to-chance] minimum_lost"
    baseline, pruned = case.find_measurement(BASELINE.name), case.find_measurement(PRUNED)
    if baseline is None or pruned is None:
        name = BASELINE.name if baseline is None else PRUNED
        words = f"The arm {name!r} was not measured under this protocol."
        remedy = case.advise(Status.INCONCLUSIVE, EstimateStatus.MISSING, failed="", key=key)
        return case.conclude(Status.INCONCLUSIVE, words, remedy=remedy)
    if baseline.choices is None or pruned.choices is None or not pruned.choices.correct:
        return case.skip("No multiple-choice items were read (`[corpus] choices`).")
    figure = _measure_lost_ability(case, baseline.choices, pruned.choices)
    status = Status.INCONCLUSIVE if figure.footing is EstimateStatus.NO_BASIS else hold_at_least(figure, limit)
    return case.conclude(
        status,
        f"{figure.words}; at least {write_number(limit)} is wanted.",
        remedy="Give items that this model can answer, or more of them, in `[corpus] choices`."
        if figure.footing is EstimateStatus.NO_BASIS
        else case.advise(
            status,
            figure.footing,
            failed="Do not call this a loss of ability: the pruned model still answers; look for further super "
            f"weights with `sw-audit locate`, or lower `{key}`.",
            key=key,
            more=_MORE_ITEMS,
        ),
        figure=figure,
        limit=limit,
    )


def _measure_lost_ability(case: CheckContext, baseline: ChoiceAccuracy, pruned: ChoiceAccuracy) -> Estimate:
    chance, count = pruned.chance, len(pruned.correct)
    words = (
        f"Accuracy goes from {write_number(baseline.accuracy)} to {write_number(pruned.accuracy)}, "
        f"guessing gives {write_number(chance)}"
    )
    if len(baseline.correct) != count:
        return Estimate(EstimateStatus.MISSING, "The two arms did not answer the same items")
    above = [right - chance for right in baseline.correct]
    lost = [right - still for right, still in zip(baseline.correct, pruned.correct, strict=True)]
    if (few := case.count_short(count, "items")) is not None:
        observed = sum(lost) / sum(above) if sum(above) > 0 else None
        return Estimate(EstimateStatus.TOO_FEW, f"{words}; {few}", observed)
    if bound_mean(above, case.bootstrap)[1] <= 0:
        return Estimate(
            EstimateStatus.NO_BASIS, f"{words}: the unpruned model is not certain to be better than guessing"
        )
    share, low, high = bound_ratio(lost, above, case.bootstrap)
    figure = Estimate(EstimateStatus.MEASURED, words, share, low, high)
    words = (
        f"{words}: of what is above guessing a share of {write_interval(figure, case.policy.confidence)} is lost"
    )
    return Estimate(EstimateStatus.MEASURED, words, share, low, high)
