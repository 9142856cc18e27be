"""What arms and granularities are called."""

from __future__ import annotations

from sw_audit.policy.recipe import parse_recipe
from sw_audit.policy.scheme import parse_scheme
from sw_audit.record.address import AddressGroup
from sw_audit.record.arm import (
    BASELINE,
    OTHER_OUTLIERS,
    ActivationRounding,
    Arm,
    Custom,
    Placebo,
    Quantize,
    Rounding,
    Scale,
    Subset,
)
from sw_audit.record.labels import TIMES, label_arm, label_granularity


def test_arms_have_names_that_need_no_glossary() -> None:
    recipe = parse_recipe("int4/64x64")
    others = (AddressGroup(parameter="p", rows=(1, 2, 3), columns=(4, 5, 6)),)
    named = {
        BASELINE: "Model as it is",
        Arm(purpose=OTHER_OUTLIERS, acts=(Scale(addresses=others, factor=0),)): "3 other outliers zeroed",
        Arm(purpose=Placebo(control="same-row", draw=2)): "Placebo, same row",
        Arm(purpose=Rounding(recipe=recipe, keep=True), acts=(Quantize(recipe=recipe),)): "int4/64x64, held out",
        Arm(
            purpose=ActivationRounding(scheme=parse_scheme("w8a8"), treatment="hold-out")
        ): "W8A8, super activation held out",
        Arm(
            purpose=ActivationRounding(scheme=parse_scheme("w16a4"), treatment="smoothquant")
        ): "W16A4, SmoothQuant",
        Arm(purpose=Subset(part="without", number=2)): "All but 2 zeroed",
        Arm(purpose=Custom(label="mine")): "mine",
    }
    assert [label_arm(arm) for arm in named] == list(named.values())


def test_a_granularity_is_named_for_an_axis() -> None:
    notations = ("int4/tensor", "int4/row", "int4/8x16", "int4/run16384")
    names = [label_granularity(parse_recipe(notation)) for notation in notations]
    assert names == ["whole matrix", "row", f"8 {TIMES} 16", "run of 16,384"]
