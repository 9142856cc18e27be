from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from sw_audit.checks.waivers import apply_waivers, examine_waivers
from sw_audit.errors import PolicyError
from sw_audit.policy.model_policy import Waiver
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.policy.reading import parse_policy
from sw_audit.record.verdict import Status, Verdict

TODAY = date(2026, 11, 22)


def make_waiver(until: date, check: str = "perplexity-ratio", model: str = "it") -> Waiver:
    return Waiver(check=check, model=model, until=until, owner="Ada", reason="a kernel is being repaired")


def make_verdict(status: Status = Status.FAIL, check: str = "perplexity-ratio") -> Verdict:
    return Verdict(check=check, model="it", status=status, because="It is 1.4.", remedy="Quantize again.")


@pytest.mark.parametrize("until", [TODAY, date(2027, 1, 1)])
@pytest.mark.parametrize("status", [Status.FAIL, Status.INCONCLUSIVE])
def test_a_live_waiver_leaves_the_verdict_what_it_is_and_says_who_answers(until: date, status: Status) -> None:
    waiver, verdict = make_waiver(until), make_verdict(status)
    [waived] = apply_waivers([verdict], [waiver], TODAY)
    assert waived == verdict.model_copy(update={"waiver": waiver})
    assert str(waiver) == f"until {until} by Ada: a kernel is being repaired"


def test_a_waiver_expires_after_its_last_day_and_says_so() -> None:
    [verdict] = apply_waivers([make_verdict()], [make_waiver(date(2026, 11, 21))], TODAY)
    assert (verdict.status, verdict.waiver) == (Status.FAIL, None)
    assert verdict.because == ("The waiver of Ada expired on 2026-11-21 (a kernel is being repaired). It is 1.4.")


@pytest.mark.parametrize("status", [Status.PASS, Status.SKIPPED])
@pytest.mark.parametrize("until", [date(2020, 1, 1), date(2030, 1, 1)])
def test_what_needs_no_waiver_is_left_alone(status: Status, until: date) -> None:
    verdict = make_verdict(status)
    assert apply_waivers([verdict], [make_waiver(until)], TODAY) == (verdict,)


def test_a_waiver_covers_its_check_and_its_model_alone_or_every_model() -> None:
    later = date(2030, 1, 1)
    others = [make_waiver(later, check="kl-divergence"), make_waiver(later, model="other")]
    assert apply_waivers([make_verdict()], others, TODAY) == (make_verdict(),)
    [waived] = apply_waivers([make_verdict()], [*others, make_waiver(later, model="*")], TODAY)
    assert waived.waiver == make_waiver(later, model="*")


def test_of_several_waivers_the_one_that_holds_longest_counts() -> None:
    expired, live = make_waiver(date(2020, 1, 1)), make_waiver(date(2030, 1, 1))
    for waivers in ([expired, live], [live, expired]):
        [verdict] = apply_waivers([make_verdict()], waivers, TODAY)
        assert verdict.waiver == live


@pytest.mark.parametrize(
    ("waiver", "told"),
    [
        (make_waiver(TODAY, check="perplexity-ration"), r"waiver\[0\].check: there is no check .*; write 'perpl"),
        (make_waiver(TODAY, model="its"), r"waiver\[0\].model: there is no model 'its'; write 'it'"),
    ],
)
def test_a_waiver_of_what_there_is_not_is_one_clear_line(waiver: Waiver, told: str) -> None:
    policy = Policy(models=(ModelPolicy(source="it"),), waivers=(waiver,))
    with pytest.raises(PolicyError, match=told):
        examine_waivers(policy, ["perplexity-ratio", "kl-divergence"])


def test_the_last_day_is_a_date_in_the_policy_as_text_too() -> None:
    keys = {"check": "perplexity-ratio", "model": "*", "owner": "Ada", "reason": "why"}
    for until in (date(2026, 12, 31), "2026-12-31"):
        policy = parse_policy({"waiver": [{**keys, "until": until}]}, "it")
        assert policy.waivers[0].until == date(2026, 12, 31)
        # Read back from a record, and put under options, it is the same.
        assert Policy.model_validate(policy.model_dump(mode="json", by_alias=True)) == policy


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"until": datetime(2026, 12, 31, tzinfo=UTC)}, "waiver[0].until"),
        ({"until": "soon"}, "waiver[0].until"),
        ({"owner": ""}, "waiver[0].owner"),
        ({"reason": None}, "waiver[0].reason"),
        ({"untill": date(2026, 12, 31)}, "write 'until'"),
        ({"owner": date(2026, 12, 31)}, "waiver[0].owner"),
    ],
)
def test_a_waiver_that_does_not_say_all_is_refused(change: dict[str, object], told: str) -> None:
    waiver = {"check": "a", "model": "*", "until": date(2026, 12, 31), "owner": "Ada", "reason": "why", **change}
    with pytest.raises(PolicyError) as caught:
        parse_policy({"waiver": [waiver]}, "it")
    assert told in str(caught.value)
