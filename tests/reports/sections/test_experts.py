"""The experts: where tokens went, what was zeroed, and what a quantization left out."""

from __future__ import annotations

from support.descent import make_descent_evidence
from support.evidence import make_evidence, make_measurement, make_none_evidence, make_policy
from support.sections import BuiltSection, build_section, make_context, plain, read_rows

from sw_audit.checks.judging import judge_result
from sw_audit.record.arm import Arm, ZeroedExpert, ZeroedExperts
from sw_audit.record.experts import (
    ComparedExperts,
    ExpertAddress,
    ExpertStudy,
    Mark,
    RoutedLayer,
    SiblingExperts,
    TriedExpert,
)
from sw_audit.record.files import ComparedFiles

CHECK = "super-experts-exceed-controls"


def route(layer: int, *tokens: int) -> RoutedLayer:
    weights = tuple(float(count) for count in tokens)
    return RoutedLayer(layer=layer, tokens=tokens, weights=weights, peaks=tuple(count or None for count in tokens))


def name(layer: int, number: int, *marks: Mark) -> TriedExpert:
    address = ExpertAddress(layer=layer, number=number, parameter=f"layers.{layer}.down", expert=number)
    return TriedExpert(address=address, marks=marks, tokens=9, peak=210.0 if marks else 3.5)


STUDY = ExpertStudy(
    experts=8,
    windows=4,
    tokens=256,
    percentile=17.5,
    largest=210.0,
    last_layer=1,
    marked=1,
    tried=(name(1, 2, "super-weight", "output"), name(1, 3)),
    calibration=(route(1, 5, 0, 2, 1),),
)
ROUTING = (route(1, 30, 0, 10, 60), route(2, 25, 25, 25, 25))


def build(study: ExpertStudy | None = STUDY, *routing: RoutedLayer) -> BuiltSection:
    result = make_evidence()
    kinds = ZeroedExpert | ZeroedExperts
    baseline, *others = [one for one in result.measurements if not isinstance(one.arm.purpose, kinds)]
    zeroed = {
        ZeroedExpert(layer=1, number=2): 8.0,
        ZeroedExpert(layer=1, number=3, control=True): 1.25,
        ZeroedExperts(): 8.0,
        ZeroedExperts(control=True): 1.25,
    }
    arms = [
        make_measurement(Arm(purpose=purpose), ratio, protocol=result.protocol, seed=40 + place)
        for place, (purpose, ratio) in enumerate(zeroed.items())
    ]
    routed = baseline.model_copy(update={"routing": routing or ROUTING})
    result = result.model_copy(update={"measurements": (routed, *others, *arms), "experts": study})
    return build_section("experts", make_context(result, judge_result(result, make_policy(), [CHECK])))


def test_the_map_has_a_cell_for_each_expert_a_frame_for_the_marked_and_an_empty_one_for_the_unreached() -> None:
    [chart] = build().charts
    caption = plain(chart.caption)
    assert "An empty frame marks where no token came: 1 of 8 experts." in caption
    assert "Framed in colour are the marked experts that were zeroed." in caption
    for drawing in chart.drawings.values():
        assert "layer 1" in drawing
        assert "layer 2" in drawing
        assert drawing.count('stroke="#c0450f"') == 1
    [without] = build(None).charts
    assert "Framed" not in without.caption
    assert all('stroke="#c0450f"' not in drawing for drawing in without.drawings.values())


def test_more_experts_than_fit_share_cells() -> None:
    tokens = [4] * 255 + [0]
    [chart] = build(None, route(1, *tokens)).charts
    assert "A cell stands for 2 experts, on average." in plain(chart.caption)
    assert "1 of 256 experts" in plain(chart.caption)


def test_each_tried_expert_is_listed_with_what_it_costs_and_how_much_was_routed_to_it() -> None:
    section = build()
    marked, control = read_rows(section.table("Experts zeroed"))
    assert marked[:2] == ["Layer 1, expert 2 zeroed", "8.0000"]
    assert control[1] == "1.2500"
    assert "-" not in (marked[2], control[2])
    # 10 of 100 in all is the weight that goes to expert 2.
    assert marked[3:] == ["super weight and output stands out", "10", "10 %", "210"]
    assert control[0] == "Control, layer 1, expert 3 zeroed"
    assert control[3:] == ["control", "60", "60 %", "3.5"]
    assert "1 expert of 8 is marked" in plain(section.text)
    assert "up to layer 1" in section.text
    assert "learned on reached all but 1 of 4 experts." in section.text


def test_unreached_experts_are_listed_layer_by_layer() -> None:
    assert read_rows(build().table("Experts that no token")) == [["1", "4", "1", "1"]]


def test_of_a_descendant_the_worst_of_its_experts_comes_first() -> None:
    sound = SiblingExperts(name="a.*.w", count=8, usual=0.1, worst=((3, 0.11),))
    bad = SiblingExperts(name="b.*.w", count=8, usual=0.1, worst=((5, 0.5),))
    plain_one = SiblingExperts(name="c.*.w", count=8, usual=0.1, worst=((1, 0.1),), unquantized=(2, 4))
    experts = ComparedExperts(experts=24, compared=24, siblings=(sound, bad, plain_one))
    result = make_descent_evidence().model_copy(update={"files": ComparedFiles(experts=experts)})
    rows = read_rows(build_section("experts", make_context(result)).table("Experts beside the parent's"))
    assert [row[0] for row in rows] == ["c.*.w", "b.*.w", "a.*.w"]
    assert rows[1][2:] == ["0.1", "5", "0.5", "-"]
    assert rows[0][-1] == "2, 4"


def test_of_a_dense_model_the_section_is_left_out() -> None:
    for evidence in (make_none_evidence(), make_descent_evidence()):
        assert build_section("experts", make_context(evidence)).elements == []
