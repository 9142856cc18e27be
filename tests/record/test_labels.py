"""What arms and granularities are called."""

from __future__ import annotations

from sw_audit.policy.recipe import parse_recipe
from sw_audit.record.address import AddressGroup
from sw_audit.record.arm import (
    BASELINE,
    OTHER_OUTLIERS,
    Arm,
    Quantize,
    QuantizeActivations,
    Scale,
    name_placebo,
    name_rounding,
)
from sw_audit.record.labels import TIMES, label_arm, label_granularity


def test_arms_have_names_that_need_no_glossary() -> None:
    recipe = parse_recipe("int4/64x64")
    others = (AddressGroup(parameter="p", rows=(1, 2, 3), columns=(4, 5, 6)),)
    named = {
        BASELINE: "Model as it is",
        Arm(name=OTHER_OUTLIERS, acts=(Scale(addresses=others, factor=0),)): "3 other outliers zeroed",
        Arm(name=name_placebo("same-row", 2)): "Placebo, same row",
        Arm(name=name_rounding(recipe, holdout=True), acts=(Quantize(recipe=recipe),)): "int4/64x64, held out",
        Arm(name="w8a8 hold-out", acts=(QuantizeActivations(bits=8),)): "W8A8, super activation held out",
        Arm(name="w16a4 smoothquant", acts=(QuantizeActivations(bits=4),)): "W16A4, SmoothQuant",
        Arm(name="placebo/of-another-kind/1"): "placebo/of-another-kind/1",
        Arm(name="mine"): "mine",
    }
    assert [label_arm(arm) for arm in named] == list(named.values())


def test_a_granularity_is_named_for_an_axis() -> None:
    notations = ("int4/tensor", "int4/row", "int4/8x16", "int4/run16384")
    names = [label_granularity(parse_recipe(notation)) for notation in notations]
    assert names == ["whole matrix", "row", f"8 {TIMES} 16", "run of 16,384"]
