"""Rules on a descendant's loss and its stop words beside its parent's, and what putting parts back recovers."""

from __future__ import annotations

from collections.abc import Sequence

from sw_audit.checks.advice import paste_ignore, write_ignore
from sw_audit.checks.context import CheckContext, decide_finding, report_figure
from sw_audit.checks.estimate import Estimate, EstimateStatus, hold_at_most, write_number
from sw_audit.checks.pairs import Pair, Recovery, advise_pair, hold_texts, measure_recoveries, pair_up
from sw_audit.checks.text import compare_masses
from sw_audit.record.descent import DESCENDANT, PARENT
from sw_audit.record.verdict import Status, Verdict

_MORE_BITS = "give weights more bits or smaller groups, prune less, or train more gently and on text like this one"


def judge_perplexity(case: CheckContext) -> Verdict:
    """Rule of `perplexity-ratio`: non-inferiority on every text, the worst one decides.

    PASS where the upper end of the paired interval is within the margin, FAIL where the lower end is beyond it.
    A descendant that is not finite fails; by a parent that is not finite nothing can be told. What putting parts
    of the parent back recovers is reported, where there is a certain loss, and decides nothing.
    """
    limit, key = case.policy.checks.perplexity_ratio.maximum_ratio, "[checks.perplexity-ratio] maximum_ratio"
    pairs = {pair.label: pair for pair in pair_up(case)}
    figures = {label: pair.compare(case) for label, pair in pairs.items()}
    held = hold_texts(figures, hold_at_most, limit)
    worst = decide_finding(held, key=lambda finding: finding.observed or 0.0)
    recoveries = {label: measure_recoveries(case, pair) for label, pair in pairs.items()}
    reported = [
        report_figure(f"{label}, {one.subject} put back", one.figure)
        for label, found in recoveries.items()
        for one in found
    ]
    telling = recoveries[worst.label] or next((found for found in recoveries.values() if found), [])
    modules = _choose_modules(telling)
    figure = figures[worst.label]
    told = "" if worst.status is Status.PASS else _tell_recovery(telling)
    return case.conclude(
        worst.status,
        f"{worst.label}: {figure.words}; at most {write_number(limit)} is allowed{told}.",
        remedy=advise_pair(
            case, worst.status, figure.footing, failed=_advise_loss(telling, modules, key), key=key
        ),
        paste=paste_ignore(modules) if worst.status is Status.FAIL else (),
        figure=figure,
        limit=limit,
        findings=[*held, *reported],
        protocol=pairs[worst.label].text.protocol.signature,
    )


def judge_drift_to_stopwords(case: CheckContext) -> Verdict:
    """Rule of `stopwords-not-raised` (Yu et al. 2024, section 3.3): the mass on stop words over the parent's.

    Skipped where no stop words were read on any text. That the mass falls is reported and fails nothing: in some
    families it does when super weights are lost, and other checks see that.
    """
    limit = case.policy.checks.stopwords_not_raised.maximum_ratio
    key = "[checks.stopwords-not-raised] maximum_ratio"
    pairs = {pair.label: pair for pair in pair_up(case)}
    measured = {label: _measure_mass(case, pair) for label, pair in pairs.items()}
    figures = {label: figure for label, figure in measured.items() if figure is not None}
    if not figures:
        return case.skip("No stop words are known for this text (`[corpus] stop_words`).")
    findings = hold_texts(figures, hold_at_most, limit)
    worst = decide_finding(findings, key=lambda finding: finding.observed or 0.0)
    figure = figures[worst.label]
    return case.conclude(
        worst.status,
        f"{worst.label}: {figure.words}; at most {write_number(limit)} is allowed.",
        remedy=advise_pair(
            case,
            worst.status,
            figure.footing,
            failed="Read its continuations (`generation-sane`) and look at `super-weight-retained`: falling back "
            f"on words without meaning is what a model does that lost these scalars; or raise `{key}`.",
            key=key,
        ),
        figure=figure,
        limit=limit,
        findings=findings,
        protocol=pairs[worst.label].text.protocol.signature,
    )


def _choose_modules(recoveries: Sequence[Recovery]) -> tuple[str, ...]:
    """Choose the modules to leave out: those of the first part that heals, else of all that certainly help."""
    healing = [one for one in recoveries if one.heals][:1]
    chosen = healing or [one for one in recoveries if one.helps]
    return tuple(dict.fromkeys(module for one in chosen for module in one.modules))


def _tell_recovery(recoveries: Sequence[Recovery]) -> str:
    """Tell what the super weights recover, and the best of the modules where these do not heal."""
    told = [one for one in recoveries[:2] if one is recoveries[0] or not recoveries[0].heals]
    return "".join(f"; with {one.subject} put back {one.figure.words}" for one in told)


def _advise_loss(recoveries: Sequence[Recovery], modules: Sequence[str], key: str) -> str:
    if modules:
        advice = write_ignore(modules)
        return f"{advice[0].upper()}{advice[1:]}; or, if it was trained, put the parent's values back there."
    advice = f"{_MORE_BITS}; or, if this loss is acceptable, raise `{key}`."
    if recoveries:
        return f"No part that was put back accounts for the loss: {advice}"
    return f"{advice[0].upper()}{advice[1:]}"


def _measure_mass(case: CheckContext, pair: Pair) -> Estimate | None:
    parent, descendant = pair.measured(PARENT), pair.measured(DESCENDANT)
    if parent is None or descendant is None:
        name = PARENT if parent is None else DESCENDANT
        return Estimate(EstimateStatus.MISSING, f"the arm {name!r} was not measured under this protocol")
    if parent.stop_words is None or descendant.stop_words is None:
        return None
    if descendant.stop_words.mean_mass is None:
        return Estimate(EstimateStatus.NOT_FINITE, "the mass on stop words of the descendant is not finite")
    return compare_masses(case, parent.stop_words, descendant.stop_words, ("the parent", "the descendant"))
