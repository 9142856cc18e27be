"""The section that holds a model beside its parent: what is lost, what brings it back, what both go on with."""

from __future__ import annotations

import pytest
from support.descent import make_descent as make_made_up
from support.descent import make_descent_evidence, make_descent_policy, make_text
from support.descent_pages import MODULE, OTHER_MODULE, make_descent, make_descent_record, make_verdicts
from support.evidence import make_evidence
from support.pages import parse_page
from support.sections import BuiltSection, build_section, make_context, plain, summarize
from sw_audit_reports.html import render_html
from sw_audit_reports.sections.descent import (
    SO_FAR,
    THE_PARENT,
    describe_kept,
    list_noise,
    list_peaks,
    list_recovered,
)

from sw_audit.checks.judging import judge_result
from sw_audit.policy.policy import Policy
from sw_audit.record.arm import DESCENDANT, RESTORED_WEIGHTS
from sw_audit.record.descent import Descent, LayerError, RetainedWeight
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Finding, Status, Verdict

RECOVERED = "Parts of the parent put back"


def compare(descent: Descent) -> ModelResult:
    return make_evidence().model_copy(update={"descent": descent})


def build(*, kept: bool, finite: bool = True) -> BuiltSection:
    verdicts = make_verdicts("m", kept=kept)
    return build_section("descent", make_context(compare(make_descent(kept=kept, finite=finite)), verdicts))


def say(descent: Descent, *, kept: bool) -> str:
    return summarize("descent", make_context(compare(descent), make_verdicts("m", kept=kept)))


def test_the_sentence_says_what_was_lost_and_that_one_scalar_brings_it_back_or_that_it_is_kept() -> None:
    assert say(make_descent(kept=False), kept=False) == (
        "Its perplexity is 118.4 [112.9, 124.7] times its parent's; model.layers.1.mlp.down_proj.weight[37, 211] "
        "has gone from -1.927 to -0.03854; putting back its parent's super weight recovers 99.6 % "
        "[99.2 %, 99.9 %] of the loss."
    )
    assert say(make_descent(kept=True), kept=True) == (
        "Its perplexity is 1.0160 [1.011, 1.022] times its parent's; its super weight is kept."
    )


def test_a_ratio_is_of_as_much_of_the_text_as_its_interval() -> None:
    verdicts = [
        verdict.model_copy(
            update={"findings": tuple(one.model_copy(update={"observed": 1.013}) for one in verdict.findings)}
        )
        for verdict in make_verdicts("m", kept=True)
    ]
    sentence = summarize("descent", make_context(compare(make_descent(kept=True)), verdicts))
    assert sentence.startswith("Its perplexity is 1.0130 [1.011, 1.022] times")


def test_what_only_files_show_is_said_where_quality_is_kept() -> None:
    words = 'config.hidden_act decides what is computed: "gelu" here, "silu" in the parent.'
    static = Verdict(check="settings-as-parent", model="m", status=Status.FAIL, because=words, quantity="settings")
    kept, lost = (
        summarize(
            "descent", make_context(compare(make_descent(kept=kept)), [*make_verdicts("m", kept=kept), static])
        )
        for kept in (True, False)
    )
    assert kept.endswith(f"; its super weight is kept. {words}")
    assert words not in lost


def test_nothing_finite_is_said_and_drawn_as_such() -> None:
    descent = make_descent(kept=False, finite=False)
    assert say(descent, kept=False).startswith("Its perplexity is not finite; model.layers.1")
    assert "to what is not finite" in say(descent, kept=False)
    section = build(kept=False, finite=False)
    assert section.rows("The parent's super weights")[0][2:4] == ["not finite", "-"]
    assert section.rows("On the text specimen")[1][2:4] == ["not finite", "not finite"]
    # Parent and what has parts of it are still drawn; the parent's activation stands alone.
    assert {row["series"] for row in list_peaks(descent)} == {THE_PARENT}
    assert {row["value"] for row in list_noise(descent) if row["series"] == SO_FAR} == {None}
    assert any("A triangle" in chart.caption for chart in section.charts)


def test_each_part_that_was_put_back_has_its_share_with_its_interval() -> None:
    assert build(kept=False).rows(RECOVERED) == [
        ["Super weights", "-", "1.0210", "99.6 %", "[99.2 %, 99.9 %]"],
        [OTHER_MODULE, "-", "117.6", "0.1 %", "[-0.3 %, 0.4 %]"],
    ]
    assert not build(kept=True).has_table(RECOVERED)
    # A record whose verdicts say nothing of shares still has the ratios.
    assert [one.share for one in list_recovered(make_descent(kept=False), ())] == [None, None]


def search_parts(ratios: dict[str, float]) -> tuple[Descent, tuple[Verdict, ...]]:
    """Return a descendant of 8 times its parent's perplexity of which parts were looked for, and what is said."""
    descent = make_made_up(
        make_text({DESCENDANT.name: 8.0, RESTORED_WEIGHTS.name: 6.0}),
        recovery=make_text({DESCENDANT.name: 8.0, **ratios}, windows=8),
        modules=56,
    )
    evidence = make_descent_evidence().model_copy(update={"descent": descent})
    return descent, judge_result(evidence, make_descent_policy(), ["perplexity-ratio"])


def test_what_was_put_back_together_is_listed_step_by_step_and_what_needs_the_fewest_modules_last() -> None:
    kind, module = "parent-kind/mlp.up_proj", "parent-module/model.layers.2.mlp.up_proj"
    first, small = f"{kind} + {RESTORED_WEIGHTS.name}", f"{module} + {RESTORED_WEIGHTS.name}"
    ratios = {RESTORED_WEIGHTS.name: 6.0, kind: 2.0, module: 3.0, "parent-layers": 1.0, first: 1.1, small: 1.2}
    descent, verdicts = search_parts(ratios)
    section = build_section("descent", make_context(compare(descent), verdicts))
    where = "specimen, 8 windows of 64 tokens"
    every, one = "Every mlp.up_proj", "model.layers.2.mlp.up_proj"
    names = (every, f"{every} + Super weights", f"{one} + Super weights")
    rows = section.rows("Put back together")
    assert [row[:4] for row in rows] == [
        [where, names[0], "8", "2.0000"],
        [where, names[1], "8", "1.1000"],
        [where, names[2], "1", "1.2000"],
    ]
    assert [row[4] for row in rows] == ["66.7 %", "95.4 %", "91.2 %"]
    assert [row[1] for row in section.rows(RECOVERED)] == [
        "Super weights",
        names[0],
        one,
        "All decoder layers",
        "Super weights",
    ]
    sentence = summarize("descent", make_context(compare(descent), verdicts))
    assert "; putting back its parent's super weight recovers 13.8 % [" in sentence
    assert "; putting back its parent's model.layers.2.mlp.up_proj + Super weights recovers 91.2 % [" in sentence


def test_of_single_parts_there_is_no_second_table() -> None:
    descent, verdicts = search_parts({RESTORED_WEIGHTS.name: 6.0, "parent-layers": 1.0})
    section = build_section("descent", make_context(compare(descent), verdicts))
    assert not section.has_table("Put back together")
    sentence = summarize("descent", make_context(compare(descent), verdicts))
    assert sentence.count("putting back") == 1


def test_a_share_belongs_to_its_own_text() -> None:
    descent = make_descent(kept=False)
    twice = descent.model_copy(update={"texts": descent.texts * 2})
    [verdict] = [one for one in make_verdicts("m", kept=False) if one.check == "perplexity-ratio"]
    other = Finding(
        label="specimen (2), the parent's super weight put back",
        status=Status.SKIPPED,
        observed=0.5,
        arm=RESTORED_WEIGHTS.name,
        text="specimen (2)",
        because="recovered",
    )
    both = verdict.model_copy(update={"findings": (*verdict.findings, other)})
    shares = {(one.text, one.part): one.share and one.share.observed for one in list_recovered(twice, [both])}
    assert shares["specimen", "Super weights"] == 0.9956
    assert shares["specimen (2)", "Super weights"] == 0.5
    assert shares["specimen (2)", OTHER_MODULE] is None


def test_tables_and_charts_say_what_was_kept_and_lost() -> None:
    sound, broken = build(kept=True), build(kept=False)
    assert broken.rows("The parent's super weights")[0][1:] == ["-1.9268", "-0.038536", "-98 %", "4.1 %", "5.2 %"]
    activation = ["37", "0", "1 to 6", "-412.5", "-8.663", "0.021", "0 of 6", "87.1 % → 14.2 %"]
    assert broken.rows("The parent's super activations") == [activation]
    # Of exponential divergences around 0.004 the median is about ln 2 times that, the 99th percentile ln 100.
    tail = ["0.00282", "0.0194"]
    ours = ["This model", "2,016", "6.35", "1.0160", "[1.011, 1.022]", "0.0162", *tail]
    assert sound.rows("On the text specimen")[1][: len(ours)] == ours
    assert broken.rows("Zero-shot tasks")[0][1:6] == ["100", "80 %", "30 %", "70", "20"]
    assert broken.rows("Modules whose weights") == [[MODULE, "41.3 %"], [OTHER_MODULE, "9.4 %"]]
    quality, peaks, noise = broken.charts
    assert all(list(chart.drawings) == ["wide", "narrow"] for chart in (quality, peaks, noise))
    assert "This model: 740 [705.6, 779.4]" in quality.drawings["wide"]
    assert "Layer 1, this model: 8.663" in peaks.drawings["wide"]
    assert "after layer 1" in noise.caption


def test_a_layer_that_is_the_parents_to_the_last_bit_has_no_noise_to_draw() -> None:
    layers = tuple(LayerError(layer=layer, signal=1.0, noise=0.0, own_noise=0.0) for layer in range(3))
    descent = make_descent(kept=True).model_copy(update={"layers": layers})
    assert list_noise(descent) == []
    assert len(build_section("descent", make_context(compare(descent))).charts) == 2


def test_the_noise_of_a_tenth_of_the_signal_is_minus_ten_decibels() -> None:
    layers = (LayerError(layer=0, signal=50.0, noise=5.0), LayerError(layer=1, signal=50.0, noise=None))
    rows = list_noise(make_descent(kept=True).model_copy(update={"layers": layers}))
    assert [row["value"] for row in rows] == [pytest.approx(-10.0), None]


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


def test_the_page_shows_descendants_waivers_advice_and_what_could_not_be_opened() -> None:
    page = parse_page(render_html(make_descent_record()))
    assert page.mistakes == []
    for words in (
        "Beside its parent",
        "What it goes on with",
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
    assert build_section("descent", make_context(make_evidence())).elements == []
    assert summarize("descent", make_context(make_evidence())) == ""
