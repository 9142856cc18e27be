from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sw_audit.errors import PolicyError
from sw_audit.facts.arm import name_placebo, name_rounding
from sw_audit.facts.recipe import PerBlock, PerRow, PerRun, PerTensor, Recipe, ZScoreClip, parse_recipe

sizes = st.integers(1, 10**7)
granularities = st.one_of(
    st.just(PerTensor()),
    st.just(PerRow()),
    st.builds(PerBlock, rows=sizes, columns=sizes),
    st.builds(PerRun, size=sizes),
)
clips = st.builds(ZScoreClip, z=st.floats(0, 1e300, exclude_min=True))
recipes = st.builds(
    Recipe,
    bits=st.integers(2, 8),
    granularity=granularities,
    symmetric=st.booleans(),
    clip=st.one_of(st.none(), clips),
)


@given(recipe=recipes)
def test_a_recipe_is_read_from_what_it_writes(recipe: Recipe) -> None:
    assert parse_recipe(str(recipe)) == recipe


@given(recipe=recipes, other=recipes)
def test_two_recipes_share_a_notation_exactly_when_they_are_equal(recipe: Recipe, other: Recipe) -> None:
    assert (str(recipe) == str(other)) == (recipe == other)


@pytest.mark.parametrize(
    ("notation", "recipe"),
    [
        ("int4/512x256", Recipe(bits=4, granularity=PerBlock(rows=512, columns=256))),
        ("INT8/Row/Symmetric", Recipe(bits=8, granularity=PerRow(), symmetric=True)),
        (" int4/tensor/z9 ", Recipe(bits=4, granularity=PerTensor(), clip=ZScoreClip(z=9))),
        (
            "int2/run16384/z0.5/symmetric",
            Recipe(bits=2, granularity=PerRun(size=16384), symmetric=True, clip=ZScoreClip(z=0.5)),
        ),
    ],
)
def test_notation_is_read(notation: str, recipe: Recipe) -> None:
    assert parse_recipe(notation) == recipe


@pytest.mark.parametrize(
    "notation",
    [
        "",
        "int4",
        "int1/row",
        "int9/row",
        "int4/column",
        "int4/0x4",
        "int4/run0",
        "int4/row/z0",
        "int4/row/z-1",
        "int4/row/symmetric/symmetric",
        "int4/row/z3/z4",
        "int4/row/fast",
        "fp4/row",
        "int4/4x",
        "int4//row",
    ],
)
def test_what_is_no_recipe_is_one_line_that_shows_the_notation(notation: str) -> None:
    with pytest.raises(PolicyError, match="write it like int4/tensor") as caught:
        parse_recipe(notation)
    assert repr(notation) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("z", "written"), [(9, "z9"), (9.5, "z9.5"), (100, "z100"), (9.1234567, "z9.1234567")])
def test_a_threshold_is_written_as_people_write_it(z: float, written: str) -> None:
    assert str(ZScoreClip(z=z)) == written


def test_arms_are_named_after_what_they_do() -> None:
    recipe = parse_recipe("int4/64x64")
    assert name_rounding(recipe, holdout=True) == "int4/64x64 hold-out"
    assert name_rounding(recipe, holdout=False) == "int4/64x64 plain"
    assert name_placebo("same-row", 1) == "placebo/same-row/1"
