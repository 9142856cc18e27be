"""Waivers: a verdict other than PASS that somebody answers for until a day, and what becomes of it after."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from difflib import get_close_matches

from sw_audit.errors import PolicyError
from sw_audit.policy.model_policy import Waiver
from sw_audit.policy.policy import Policy
from sw_audit.record.verdict import Status, Verdict

_WAIVABLE = (Status.FAIL, Status.INCONCLUSIVE)


def apply_waivers(verdicts: Iterable[Verdict], waivers: Sequence[Waiver], today: date) -> tuple[Verdict, ...]:
    """Put waivers on the verdicts that they cover.

    A live one leaves the verdict what it is and says who answers for it; an expired one says that it has expired,
    and the verdict counts as it would without. Verdicts that pass or are skipped need none.

    Args:
        verdicts: The verdicts.
        waivers: The policy's waivers; of several live ones the one that holds longest counts.
        today: The day on which they are to hold, by UTC.
    """
    return tuple(_apply(verdict, waivers, today) for verdict in verdicts)


def examine_waivers(policy: Policy, checks: Sequence[str]) -> None:
    """Refuse waivers about what there is not, which would excuse nothing in silence.

    Args:
        policy: The policy.
        checks: Ids of all checks that there are.

    Raises:
        PolicyError: If one names a check that there is not, or a model that the policy does not name.
    """
    models = ["*", *(model.id for model in policy.models)]
    for number, waiver in enumerate(policy.waivers):
        for what, name, known in (("check", waiver.check, checks), ("model", waiver.model, models)):
            if name not in known:
                near = get_close_matches(name, known, 1)
                remedy = f"write {near[0]!r}" if near else f"choose among {', '.join(known)}"
                raise PolicyError(f"waiver[{number}].{what}", f"there is no {what} {name!r}", remedy)


def _apply(verdict: Verdict, waivers: Sequence[Waiver], today: date) -> Verdict:
    covering = [waiver for waiver in waivers if waiver.covers(verdict.check, verdict.model)]
    if verdict.status not in _WAIVABLE or not covering:
        return verdict
    last = max(covering, key=lambda waiver: waiver.until)
    if last.until >= today:
        return verdict.model_copy(update={"waiver": last})
    expired = f"The waiver of {last.owner} expired on {last.until.isoformat()} ({last.reason})."
    remedy = f"{verdict.remedy or ''} Or have somebody answer for it anew: set `until` of the waiver.".strip()
    return verdict.model_copy(update={"because": f"{expired} {verdict.because}", "remedy": remedy})
