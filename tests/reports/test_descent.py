"""The section that holds a model beside its parent: what is lost, what brings it back, what both go on with."""

from __future__ import annotations

import pytest
from support.descent_pages import MODULE, OTHER_MODULE, make_descent
from support.descent_records import make_descent_record, make_verdicts
from support.evidence import make_evidence
from support.pages import parse_page
from sw_audit_reports.continuations import pair_continuations
from sw_audit_reports.descent import build_beside, describe_kept, tell_descent
from sw_audit_reports.descent_series import list_noise, list_peaks, list_recovered
from sw_audit_reports.descent_tables import format_change
from sw_audit_reports.html import render_html
from sw_audit_reports.outline import Beside
from sw_audit_reports.page import Table
from sw_audit_reports.series import TOUCHED
from sw_audit_reports.text import MINUS, NOTHING

from sw_audit.policy.policy import Policy
from sw_audit.record.descent import Continuation, Descent, LayerError, RetainedWeight
from sw_audit.record.verdict import Finding, Status, Verdict


def build(*, kept: bool, finite: bool = True) -> Beside:
    found = build_beside(make_descent(kept=kept, finite=finite), make_verdicts("m", kept=kept), Policy(), "m")
    assert found is not None
    return found


def plain(text: str) -> str:
    """Write minus signs, and the dash of what there is not, as hyphens."""
    return text.replace(MINUS, "-").replace(NOTHING, "-")


def read(table: Table | None) -> list[list[str]]:
    assert table is not None
    return [[plain(cell.text) for cell in row] for row in table.rows]


def tell(descent: Descent, *, kept: bool) -> str:
    return plain("".join(cell.text for cell in tell_descent(descent, make_verdicts("m", kept=kept), Policy())))


def test_the_sentence_says_what_was_lost_and_that_one_scalar_brings_it_back() -> None:
    told = tell(make_descent(kept=False), kept=False)
    assert told == (
        "Its perplexity is 118.4 [112.9, 124.7] times its parent's; model.layers.1.mlp.down_proj.weight[37, 211] "
        "has gone from -1.927 to -0.03854; putting back its parent's super weight recovers 99.6 % "
        "[99.2 %, 99.9 %] of the loss."
    )


def test_the_sentence_on_a_sound_one_says_that_its_super_weight_is_kept() -> None:
    assert tell(make_descent(kept=True), kept=True) == (
        "Its perplexity is 1.0160 [1.011, 1.022] times its parent's; its super weight is kept."
    )


def test_nothing_finite_is_said_and_drawn_as_such() -> None:
    descent = make_descent(kept=False, finite=False)
    assert tell(descent, kept=False).startswith("Its perplexity is not finite; model.layers.1")
    assert "to what is not finite" in tell(descent, kept=False)
    found = build(kept=False, finite=False)
    assert read(found.weights)[0][2:4] == ["not finite", "-"]
    assert read(found.quality[0])[1][1:3] == ["not finite", "not finite"]
    # Parent and what has parts of it are still drawn; the parent's activation stands alone.
    assert {point.series for point in list_peaks(descent)} == {"intact"}
    assert all(point.decibels is None for point in list_noise(descent) if point.series == TOUCHED)
    assert any("A triangle" in figure.caption for figure in found.figures)


def test_the_change_of_a_weight_reads_alike_for_both_signs() -> None:
    pairs = {(0.5, 2.0): "-75 %", (-0.5, -2.0): "-75 %", (2.5, 2.0): "+25 %", (-2.0, 2.0): "-200 %"}
    pairs |= {(None, 2.0): "-", (1.0, 0.0): "-"}
    assert {pair: plain(format_change(*pair)) for pair in pairs} == pairs


def test_each_part_that_was_put_back_has_its_share_with_its_interval() -> None:
    assert read(build(kept=False).recovered) == [
        ["Super weights", "1.0210", "99.6 %", "[99.2 %, 99.9 %]"],
        [OTHER_MODULE, "117.6", "0.1 %", "[-0.3 %, 0.4 %]"],
    ]
    assert build(kept=True).recovered is None
    # A record whose verdicts say nothing of shares still has the ratios.
    assert [one.share for one in list_recovered(make_descent(kept=False), ())] == [None, None]


def test_a_share_belongs_to_its_own_text() -> None:
    descent = make_descent(kept=False)
    twice = descent.model_copy(update={"texts": descent.texts * 2})
    [verdict] = [one for one in make_verdicts("m", kept=False) if one.check == "perplexity-ratio"]
    other = Finding(
        label="specimen (2), the parent's super weight put back",
        status=Status.SKIPPED,
        observed=0.5,
        because="recovered",
    )
    both = verdict.model_copy(update={"findings": (*verdict.findings, other)})
    shares = {(one.text, one.part): one.share and one.share.value for one in list_recovered(twice, [both])}
    assert shares["specimen", "Super weights"] == 0.9956
    assert shares["specimen (2)", "Super weights"] == 0.5
    assert shares["specimen (2)", OTHER_MODULE] is None


def test_tables_and_charts_say_what_was_kept_and_lost() -> None:
    sound, broken = build(kept=True), build(kept=False)
    assert read(broken.weights)[0][1:] == ["-1.9268", "-0.038536", "-98 %", "4.1 %", "5.2 %"]
    activation = ["37", "0", "1 to 6", "-412.5", "-8.663", "0.021", "0 of 6", "87.1 % → 14.2 %"]
    assert read(broken.activations) == [activation]
    ours = ["This model", "6.35", "1.0160", "[1.011, 1.022]", "0.0162", "0.004", "0.036"]
    assert read(sound.quality[0])[1][: len(ours)] == ours
    assert read(broken.tasks)[0][1:6] == ["100", "80 %", "30 %", "70", "20"]
    assert read(broken.modules) == [[MODULE, "41.3 %"], [OTHER_MODULE, "9.4 %"]]
    assert [figure.title.partition(" ")[0] for figure in broken.figures] == ["Perplexity", "The", "How"]
    for figure in broken.figures:
        assert [drawing.layout for drawing in figure.drawings] == ["wide", "narrow"]
        assert all('role="img"' in drawing.markup for drawing in figure.drawings)
    assert "Layer 1, this model: 8.663" in broken.figures[1].drawings[0].markup
    assert "after layer 1" in broken.figures[2].caption


def test_a_layer_that_is_the_parents_to_the_last_bit_has_no_noise_to_draw() -> None:
    layers = tuple(LayerError(layer=layer, signal=1.0, noise=0.0, own_noise=0.0) for layer in range(3))
    descent = make_descent(kept=True).model_copy(update={"layers": layers})
    assert list_noise(descent) == ()
    found = build_beside(descent, (), Policy(), "m")
    assert found is not None
    assert len(found.figures) == 2


def test_the_noise_of_a_tenth_of_the_signal_is_minus_ten_decibels() -> None:
    layers = (LayerError(layer=0, signal=50.0, noise=5.0), LayerError(layer=1, signal=50.0, noise=None))
    points = list_noise(make_descent(kept=True).model_copy(update={"layers": layers}))
    assert [point.decibels for point in points] == [pytest.approx(-10.0), None]


@pytest.mark.parametrize(
    ("value", "finite", "kept"),
    [(1.0, True, "1 of 1 kept"), (0.7, True, "0 of 1 kept"), (None, False, "0 of 1 kept")],
)
def test_how_many_are_kept_goes_by_the_policys_own_limit(value: float | None, finite: bool, kept: str) -> None:
    descent = make_descent(kept=True)
    weight = RetainedWeight(
        address=descent.super_weights[0].address, layer=1, parent=1.0, value=value, finite=finite
    )
    assert describe_kept(descent.model_copy(update={"super_weights": (weight,)}), Policy()) == kept
    assert plain(describe_kept(descent.model_copy(update={"super_weights": ()}), Policy())) == "-"


def test_continuations_part_at_a_whole_word_and_the_fault_is_told() -> None:
    one = Continuation(
        prompt="a fox", tokens=2, parent=(1, 2, 3), descendant=(1, 2, 4),
        parent_text="in the mill", descendant_text="in the milk",
    )  # fmt: skip
    fault = Finding(label="prompt of 2 tokens, 3 new", status=Status.FAIL, because="it loops: badly; it goes on")
    verdict = Verdict(check="generation-sane", model="m", status=Status.FAIL, because="1 of 1", findings=(fault,))
    [found] = pair_continuations([one], [verdict])
    assert [(side.alike, side.apart) for side in found.sides] == [("in the ", "mill"), ("in the ", "milk")]
    assert found.told == "They part after 2 new tokens. This one falls apart: it loops: badly."
    alike = one.model_copy(update={"descendant": (1, 2, 3), "descendant_text": "in the mill"})
    [same] = pair_continuations([alike], [])
    assert (same.told, same.sides[1].apart) == ("They never part.", "")


def test_the_page_shows_descendants_waivers_advice_and_what_could_not_be_opened() -> None:
    page = parse_page(render_html(make_descent_record()))
    assert page.mistakes == []
    for words in (
        "Beside its parent",
        "What both go on with",
        "How it is quantized",
        "Fail, waived",
        "Waived until 2027-03-31 by Ada: the old kernel goes then.",
        "To paste into llm-compressor, in the modifier:",
        "Of 3 models, 1 passed, 1 failed and 1 could not be audited.",
        "0 of 1 kept",
    ):
        assert words in page.text
    assert f'ignore=["lm_head", "{MODULE}"]' in [one.text for one in page.find("code")]
    assert page.get("failure-1").text == "stripped"
    assert page.get("failure-1-weights-intact").text == "The files hold what they should"
    # What was skipped for the same reason says nothing of its own.
    assert not any(one.attributes.get("id") == "failure-1-perplexity-ratio" for one in page.elements)


def test_a_model_without_a_parent_has_no_such_section() -> None:
    assert build_beside(make_evidence().descent, (), Policy(), "m") is None
