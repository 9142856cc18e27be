"""Whether the parent's critical scalars are still there, by figures worked out by hand."""

from __future__ import annotations

import pytest
from support.critical import EMBEDDING, LOCATED, NORM, make_scalar, make_search
from support.critical import GAIN as GAIN_OF_LAYER
from support.descent import judge_descent, make_descent_evidence, make_text
from support.evidence import SUPER_WEIGHT

from sw_audit.checks.critical_scalars_retained import critical_scalars_retained
from sw_audit.policy.policy import Policy
from sw_audit.record.address import ScalarAddress
from sw_audit.record.arm import DESCENDANT, RestoredScalars
from sw_audit.record.descent import ComparedText, RetainedScalar
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Status, Verdict

CHECK = critical_scalars_retained.id
GAIN = ScalarAddress(parameter=NORM, index=(17,))
ENTRY = ScalarAddress(parameter=EMBEDDING, index=(5131, 199))
SEARCH = make_search(
    make_scalar(NORM, 17, ratio=22.3, value=2.0),
    make_scalar(LOCATED.parameter, *LOCATED.index, ratio=6.6, value=2.0, layer=1, located=True),
    make_scalar(EMBEDDING, 5131, 199, ratio=1.9, value=2.0),
)


def kept(address: ScalarAddress = GAIN, factor: float | None = 1.0, **facts: object) -> RetainedScalar:
    value = None if factor is None else 2.0 * factor
    return RetainedScalar.model_validate({"address": address, "parent": 2.0, "value": value, **facts})


def make_result(*scalars: RetainedScalar, text: ComparedText | None = None, **facts: object) -> ModelResult:
    texts = () if text is None else (text,)
    return make_descent_evidence(*texts, **{"critical": SEARCH, "critical_scalars": scalars, **facts})


def judge(*scalars: RetainedScalar, **facts: object) -> Verdict:
    return judge_descent(CHECK, make_result(*scalars, **facts))


@pytest.mark.parametrize(
    ("factor", "status"),
    [
        (1.0, Status.PASS),
        (0.7500001, Status.PASS),
        (1.2499999, Status.PASS),
        (0.7499, Status.FAIL),
        (1.2501, Status.FAIL),
        (0.0, Status.FAIL),
        (-1.0, Status.FAIL),
    ],
)
def test_a_gain_may_be_off_by_a_quarter(factor: float, status: Status) -> None:
    verdict = judge(kept(factor=factor))
    assert verdict.status is status
    assert verdict.observed == pytest.approx(abs(factor - 1))
    assert ("its sign has turned" in verdict.because) is (factor < 0)
    assert verdict.protocol is None


def test_of_several_that_moved_the_costliest_is_told_and_of_none_the_one_that_is_furthest_off() -> None:
    moved = judge(kept(factor=0.5), kept(ENTRY, 0.0))
    assert moved.observed == 0.5
    assert moved.because.startswith(str(GAIN))
    assert judge(kept(factor=0.9), kept(ENTRY, 0.8)).observed == pytest.approx(0.2)


def test_the_limit_is_its_own() -> None:
    policy = Policy.model_validate({"checks": {CHECK: {"maximum_error": 0.6}}})
    assert judge_descent(CHECK, make_result(kept(factor=0.5)), policy).status is Status.PASS


def test_a_finding_tells_both_values_and_what_the_scalar_costs_in_the_parent() -> None:
    verdict = judge(kept(factor=0.5), kept(ENTRY, 0.9))
    gain, entry = verdict.findings
    assert (gain.label, entry.label) == (str(GAIN), str(ENTRY))
    assert gain.because == (
        "was 2 and is 1, -50 percent off; zeroed alone it multiplies the parent's perplexity by 22.3"
    )
    assert entry.because.endswith("perplexity by 1.9")
    assert verdict.because.startswith("model.norm.weight[17] was 2 and is 1, ")
    assert [one.status for one in verdict.findings] == [Status.FAIL, Status.PASS]


def test_what_cannot_be_read_is_inconclusive_and_what_is_not_finite_fails() -> None:
    unread = judge(kept(factor=None), kept(ENTRY))
    assert unread.status is Status.INCONCLUSIVE
    assert "cannot be read" in unread.because
    broken = judge(kept(factor=None, finite=False))
    assert (broken.status, broken.observed) == (Status.FAIL, None)
    assert "not finite" in broken.because


def test_where_nobody_searched_it_is_skipped_and_where_nothing_matters_it_passes_with_words() -> None:
    skipped = judge(critical=None)
    assert skipped.status is Status.SKIPPED
    assert "was not searched" in skipped.because
    assert judge().status is Status.INCONCLUSIVE
    empty = judge(critical=make_search())
    assert empty.status is Status.PASS
    assert "none of 128 scalars that were tried" in empty.because


def test_a_search_is_not_asked_for_where_only_the_quick_gates_are() -> None:
    quick = judge_descent(CHECK, make_result(kept(factor=0.0)), Policy(effort="quick"))
    assert quick.status is Status.SKIPPED
    assert 'effort = "quick"' in quick.because


def test_the_share_that_putting_one_back_recovers_is_told_of_each() -> None:
    ratios = {
        DESCENDANT.name: 8.0,
        RestoredScalars(scalar=GAIN).name: 2.0,
        RestoredScalars(scalar=ENTRY).name: 6.0,
        RestoredScalars().name: 1.6,
    }
    verdict = judge(kept(factor=0.5), kept(ENTRY, 0.5), text=make_text(ratios))
    gain, entry = verdict.findings
    # (ln 8 - ln 2) / ln 8 = 66.7 %, (ln 8 - ln 6) / ln 8 = 13.8 %, (ln 8 - ln 1.6) / ln 8 = 77.4 %.
    assert "with it put back 66.7 % [" in gain.because
    assert "with it put back 13.8 % [" in entry.because
    assert "; 1 more of 2 likewise; " in verdict.because
    assert "This alone will not do: with the parent's critical scalars put back 77.4 % [" in (verdict.remedy or "")
    healed = judge(kept(factor=0.5), text=make_text({**ratios, RestoredScalars().name: 1.1}))
    assert "alone will not do" not in (healed.remedy or "")


def test_the_remedy_names_what_to_freeze_and_which_matrix_to_leave_out_of_quantization() -> None:
    inside = make_search(make_scalar(GAIN_OF_LAYER, 5, layer=3))
    assert judge(kept(address=inside.scalars[0].address, factor=0.5), critical=inside).paste == ()
    gain = judge(kept(factor=0.5))
    assert "Put the parent's values back (model.norm.weight[17] = 2.0)" in (gain.remedy or "")
    assert "freeze model.norm.weight while training, and leave it out of merging and pruning" in (
        gain.remedy or ""
    )
    assert "quantization" not in (gain.remedy or "")
    assert gain.paste == ()
    module = SUPER_WEIGHT.parameter.removesuffix(".weight")
    matrix = judge(kept(LOCATED, 0.5))
    assert f"leave {module} out of quantization" in (matrix.remedy or "")
    assert any(module in paste.text for paste in matrix.paste)


def test_of_a_gain_that_is_stored_less_1_the_stored_value_is_put_back() -> None:
    search = make_search(make_scalar(NORM, 17, ratio=None, value=1.0, applied=2.0))
    verdict = judge(kept(factor=0.5), critical=search)
    assert "model.norm.weight[17] = 1.0" in (verdict.remedy or "")
    assert "zeroed alone it leaves the parent's perplexity not finite" in verdict.because
