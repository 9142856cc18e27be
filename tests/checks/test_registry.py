from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.evidence import (
    make_arms,
    make_evidence,
    make_failing_evidence,
    make_none_evidence,
    make_policy,
    make_record,
)
from support.new_check import EIGHT_LAYERS, install_check

from sw_audit.checks.judging import judge_result, list_checks
from sw_audit.checks.limits import CheckLimits
from sw_audit.checks.prune_collapses import PruneCollapsesLimits
from sw_audit.checks.registry import find_checks
from sw_audit.errors import PolicyError
from sw_audit.policy.policy import Policy
from sw_audit.record.codec import decode_record, encode_record
from sw_audit.record.location import Outcome
from sw_audit.record.verdict import Status

MODEL_CHECKS = [check.id for check in find_checks().values() if check.scope == "model"]
TEMPLATE = make_record(windows=8, items=8)
ARMS = tuple(arm.name for arm in make_arms(make_policy()))


@pytest.fixture(autouse=True)
def forget_checks() -> Iterator[None]:
    """Let every test find the checks anew."""
    find_checks.cache_clear()
    yield
    find_checks.cache_clear()


def test_every_check_says_everything_about_itself_and_stands_in_the_file_of_its_name() -> None:
    assert len(find_checks()) == 30
    for name, check in find_checks().items():
        assert check.id == name
        assert check.rule.__module__ == f"sw_audit.checks.{name.replace('-', '_')}"
        assert check.limits.__module__ == check.rule.__module__
        assert all((check.title, check.meaning, check.quantity, check.fails))
        assert check.side is not None or name == "stopword-shift"
    assert len({check.order for check in find_checks().values()}) == 30


def test_a_healthy_model_passes_every_check_in_their_order() -> None:
    verdicts = judge_result(make_evidence(), make_policy())
    assert [verdict.check for verdict in verdicts] == MODEL_CHECKS
    assert {verdict.status for verdict in verdicts} == {Status.PASS}
    assert {verdict.model for verdict in verdicts} == {"specimen"}


def test_without_a_super_weight_the_checks_that_need_one_are_skipped_with_the_reason() -> None:
    evidence = make_none_evidence()
    statuses = {one.check: one for one in judge_result(evidence, make_policy("control"))}
    needing = {check.id for check in find_checks().values() if check.needs_super_weight}
    skipped = {name for name, one in statuses.items() if one.status is Status.SKIPPED}
    assert skipped == needing | {"matches-published-index"}
    for name in needing:
        assert evidence.location.because in statuses[name].because
        assert statuses[name].remedy is None


@given(
    changed=st.dictionaries(
        st.sampled_from(ARMS), st.one_of(st.none(), st.floats(0.01, 1e6, exclude_min=True)), max_size=6
    ),
    omitted=st.lists(st.sampled_from(ARMS), max_size=3),
    outcome=st.sampled_from(Outcome),
    windows=st.sampled_from([3, 8, 20]),
    limit=st.floats(0.1, 1000),
)
@settings(max_examples=8, deadline=None)
def test_stored_verdicts_are_had_again_from_the_stored_evidence_and_policy(
    changed: Mapping[str, float | None], omitted: list[str], outcome: Outcome, windows: int, limit: float
) -> None:
    checks = CheckLimits({"prune-collapses": PruneCollapsesLimits(minimum_ratio=limit)})
    policy = make_policy().model_copy(update={"checks": checks, "resamples": 200})
    evidence = make_evidence(ratios=changed, omit=tuple(omitted), outcome=outcome, windows=windows, items=windows)
    template = TEMPLATE
    verdicts = judge_result(evidence, policy)
    judged = evidence.model_copy(update={"verdicts": verdicts})
    record = template.model_copy(update={"models": (judged,), "policy": policy})
    again = decode_record(encode_record(record))
    assert again == record
    assert judge_result(again.find_model("specimen"), again.policy) == verdicts
    for verdict in verdicts:
        assert verdict.because
        assert (verdict.remedy is not None) == (verdict.status in (Status.FAIL, Status.INCONCLUSIVE))


def test_every_verdict_on_every_model_of_a_record_is_had_again() -> None:
    record = decode_record(encode_record(make_record()))
    again = [one for result in record.results for one in judge_result(result, record.policy)]
    assert tuple(again) == record.verdicts


def test_what_fails_says_what_to_do_in_one_sentence_or_two() -> None:
    for verdict in judge_result(make_failing_evidence(), make_policy("broken")):
        if verdict.status is Status.FAIL:
            assert verdict.remedy is not None
            assert verdict.remedy.endswith((".", "ones."))
            assert verdict.coordinates


def test_a_disabled_check_is_not_judged_unless_it_is_asked_for() -> None:
    policy = Policy(checks=CheckLimits({"prune-collapses": PruneCollapsesLimits(enabled=False)}))
    assert "prune-collapses" not in [one.check for one in judge_result(make_evidence(), policy)]
    assert "prune-collapses" not in [check.id for check in list_checks(policy)]
    (verdict,) = judge_result(make_evidence(), policy, ["prune-collapses"])
    assert verdict.status is Status.PASS


def test_an_unknown_check_is_one_line_that_names_the_nearest() -> None:
    with pytest.raises(PolicyError, match="write 'prune-collapses'") as caught:
        judge_result(make_evidence(), make_policy(), ["prune-colapses"])
    assert "\n" not in str(caught.value)
    with pytest.raises(PolicyError, match="choose among super-weight-located"):
        judge_result(make_evidence(), make_policy(), ["zzz"])


def test_another_package_brings_a_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_check(tmp_path, monkeypatch)
    verdicts = judge_result(make_evidence(), make_policy())
    assert [one.check for one in verdicts] == [*MODEL_CHECKS, EIGHT_LAYERS]
    assert verdicts[-1].status is Status.PASS
    assert list_checks(make_policy())[-1].id == EIGHT_LAYERS
    assert [one.check for one in judge_result(make_evidence(), make_policy(), [EIGHT_LAYERS])] == [EIGHT_LAYERS]


def test_an_extra_check_that_needs_a_super_weight_is_skipped_like_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_check(tmp_path, monkeypatch, needs=True)
    (verdict,) = judge_result(make_none_evidence(), make_policy(), [EIGHT_LAYERS])
    assert verdict.status is Status.SKIPPED


@pytest.mark.parametrize(
    ("target", "words"),
    [("taken", "this id is taken"), ("NO_CHECK", "is a int"), ("MISSING", "cannot be loaded")],
)
def test_an_extra_check_that_cannot_be_used_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, words: str
) -> None:
    install_check(tmp_path, monkeypatch, target)
    with pytest.raises(PolicyError, match=words) as caught:
        find_checks()
    assert "\n" not in str(caught.value)


def test_judging_needs_no_torch() -> None:
    program = "import sys, sw_audit.checks, sw_audit.record, sw_audit.policy; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
