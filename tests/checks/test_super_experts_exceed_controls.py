from __future__ import annotations

from collections.abc import Mapping

from support.evidence import make_evidence, make_measurement
from support.verdicts import judge_one

from sw_audit.checks.super_experts_exceed_controls import CONTROLS, MARKED, name_expert
from sw_audit.policy.policy import ExpertsPolicy, Policy
from sw_audit.record.arm import Arm, ZeroedExpert, ZeroedExperts
from sw_audit.record.experts import ExpertAddress, ExpertStudy, Mark, RoutedLayer, TriedExpert
from sw_audit.record.verdict import Status, Verdict

CHECK = "super-experts-exceed-controls"


def name(layer: int, number: int, *marks: Mark) -> TriedExpert:
    parameter = f"model.layers.{layer}.mlp.experts.down_proj"
    address = ExpertAddress(layer=layer, number=number, parameter=parameter, expert=number)
    return TriedExpert(address=address, marks=marks, tokens=9, peak=4.5)


SUPER, CONTROL = name(2, 1, "super-weight", "output"), name(2, 3)
STUDY = ExpertStudy(experts=32, windows=4, tokens=256, marked=1, tried=(SUPER, CONTROL))
ROUTED = RoutedLayer(layer=2, tokens=(900, 1204, 7, 1300), weights=(1.0, 2.5, 0.25, 6.25), peaks=(1.0,) * 4)


def judge(
    ratios: Mapping[object, float | None], study: ExpertStudy | None = STUDY, policy: Policy | None = None
) -> Verdict:
    result = make_evidence()
    kinds = ZeroedExpert | ZeroedExperts
    baseline, *others = [one for one in result.measurements if not isinstance(one.arm.purpose, kinds)]
    zeroed = [
        make_measurement(Arm(purpose=purpose), ratio, protocol=result.protocol, seed=50 + number)
        for number, (purpose, ratio) in enumerate(ratios.items())
        if isinstance(purpose, kinds)
    ]
    routed = baseline.model_copy(update={"routing": (ROUTED,)})
    measurements = (routed, *others, *zeroed)
    return judge_one(CHECK, result.model_copy(update={"measurements": measurements, "experts": study}), policy)


def test_it_holds_where_the_marked_experts_do_more_than_their_controls() -> None:
    verdict = judge({MARKED: 8.0, CONTROLS: 1.25, name_expert(SUPER): 8.0, name_expert(CONTROL): 1.25})
    assert verdict.status is Status.PASS
    assert verdict.observed is not None
    assert abs(verdict.observed - 8.0 / 1.25) < 0.01
    assert verdict.because.startswith("1 marked of 32 experts zeroed instead of as many controls: perplexity 7.8")
    assert verdict.counts == {"experts": 32, "marked": 1, "tried": 1}
    marked, control, *_ = verdict.findings
    assert (marked.label, control.label) == ("expert/2/1", "control-expert/2/3")
    assert marked.observed is not None
    assert abs(marked.observed - 8.0) < 0.01
    # 2.5 of 10 in all is the weight that goes to expert 1.
    words = "holds a super weight, its output stands out; 1,204 tokens of the text were routed to it, 25 % of its"
    assert words in marked.because
    assert control.because.endswith("control; 1,300 tokens of the text were routed to it, 62 % of its layer's "
                                    "routing weight")  # fmt: skip


def test_it_does_not_hold_where_others_do_as_much_and_that_is_no_defect() -> None:
    verdict = judge({MARKED: 1.3, CONTROLS: 1.29})
    assert (verdict.status, verdict.limit, verdict.side) == (Status.FAIL, 1.1, "at least")
    assert verdict.remedy is not None
    assert verdict.remedy.startswith("This is a finding and no defect")


def test_where_zeroing_them_leaves_nothing_finite_it_holds_without_a_figure() -> None:
    verdict = judge({MARKED: None, CONTROLS: 1.2})
    assert (verdict.status, verdict.observed) == (Status.PASS, None)
    assert "broken beyond measure" in verdict.because


def test_where_the_controls_leave_nothing_finite_nothing_can_be_compared() -> None:
    assert judge({MARKED: 5.0, CONTROLS: None}).status is Status.INCONCLUSIVE


def test_what_was_not_measured_is_inconclusive() -> None:
    assert judge({CONTROLS: 1.2}).status is Status.INCONCLUSIVE


def test_it_is_skipped_with_its_reason() -> None:
    off = Policy(experts=ExpertsPolicy(tried=0))
    reasons = {
        "The model has no experts that tokens are routed to.": judge({}, None),
        "No expert is tried: `[experts] tried` is 0.": judge({}, None, off),
        "None of its 32 experts could be followed, or none is marked.": judge(
            {}, STUDY.model_copy(update={"tried": ()})
        ),
        "Every expert that a token was routed to is marked, so there is no control.": judge(
            {}, STUDY.model_copy(update={"tried": (SUPER,)})
        ),
    }
    for because, verdict in reasons.items():
        assert (verdict.status, verdict.because) == (Status.SKIPPED, because)
