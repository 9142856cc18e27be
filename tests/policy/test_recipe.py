from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sw_audit.errors import PolicyError
from sw_audit.policy.clip import IqrClip, PercentileClip, SearchClip, ZScoreClip
from sw_audit.policy.levels import NF4, construct_levels, find_levels
from sw_audit.policy.recipe import PerBlock, PerGroup, PerRow, PerRun, PerTensor, Recipe, parse_recipe
from sw_audit.record.arm import Placebo, Rounding

sizes = st.integers(1, 10**7)
granularities = st.one_of(
    st.just(PerTensor()),
    st.just(PerRow()),
    st.builds(PerGroup, size=sizes),
    st.builds(PerBlock, rows=sizes, columns=sizes),
    st.builds(PerRun, size=sizes),
)
scopes = st.sampled_from(("group", "tensor"))
positive = st.floats(0, 1e300, exclude_min=True)
clips = st.one_of(
    st.builds(ZScoreClip, z=positive, of=st.sampled_from(("magnitude", "signed")), scope=scopes),
    st.builds(PercentileClip, percent=st.floats(0, 100, exclude_min=True, exclude_max=True), scope=scopes),
    st.builds(IqrClip, factor=positive, scope=scopes),
    st.builds(SearchClip, on=st.sampled_from(("weights", "corpus"))),
)
integers = st.builds(
    Recipe,
    bits=st.integers(2, 8),
    granularity=granularities,
    symmetric=st.booleans(),
    clip=st.one_of(st.none(), clips),
)
normal_floats = st.builds(
    Recipe,
    bits=st.integers(3, 4),
    levels=st.just("normal-float"),
    granularity=granularities,
    clip=st.one_of(st.none(), clips),
)
recipes = st.one_of(integers, normal_floats)


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
        (
            "nf4/group64",
            Recipe(bits=4, levels="normal-float", granularity=PerGroup(size=64), symmetric=True),
        ),
        (
            "nf3/row/search-corpus",
            Recipe(bits=3, levels="normal-float", granularity=PerRow(), clip=SearchClip(on="corpus")),
        ),
        (
            "int4/group128/symmetric/z9-signed-tensor",
            Recipe(
                bits=4,
                granularity=PerGroup(size=128),
                symmetric=True,
                clip=ZScoreClip(z=9, of="signed", scope="tensor"),
            ),
        ),
        (
            "int4/row/p99.9-tensor",
            Recipe(bits=4, granularity=PerRow(), clip=PercentileClip(percent=99.9, scope="tensor")),
        ),
        ("int4/row/iqr3", Recipe(bits=4, granularity=PerRow(), clip=IqrClip(factor=3))),
        ("int4/row/search", Recipe(bits=4, granularity=PerRow(), clip=SearchClip())),
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
        "int4/group0",
        "int4/row/p0",
        "int4/row/p100",
        "int4/row/iqr0",
        "int4/row/search-tensor",
        "int4/row/p99-signed",
        "int4/row/z3/search",
        "nf2/row",
        "nf5/row",
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
    assert Rounding(recipe=recipe, keep=True).name == "int4/64x64 hold-out"
    assert Rounding(recipe=recipe, keep=False).name == "int4/64x64 plain"
    assert Placebo(control="same-row", draw=1).name == "placebo/same-row/1"


def test_what_goes_without_saying_is_refused() -> None:
    with pytest.raises(PolicyError, match="normal floats are always symmetric, so it goes without saying"):
        parse_recipe("nf4/group64/symmetric")


@pytest.mark.parametrize(
    ("fields", "told"),
    [({"bits": 5}, "of 3 and 4 bits, not of 5"), ({"bits": 4, "symmetric": False}, "have no zero point")],
)
def test_impossible_normal_floats_are_refused(fields: dict[str, int], told: str) -> None:
    whole = {"levels": "normal-float", "granularity": {"kind": "row"}, **fields}
    with pytest.raises(ValidationError, match=told):
        Recipe.model_validate(whole)


def test_recipes_written_before_there_were_other_levels_and_clips_are_read() -> None:
    written = (
        '{"bits": 4, "granularity": {"kind": "row"}, "symmetric": false, "clip": {"kind": "z-score", "z": 9.0}}'
    )
    assert Recipe.model_validate_json(written) == parse_recipe("int4/row/z9")
    assert parse_recipe("int4/row/z9").clip == ZScoreClip(z=9, of="magnitude", scope="group")


def test_the_construction_gives_the_published_code_book() -> None:
    # Published as float32, from float32 probabilities.
    assert construct_levels(4) == pytest.approx(NF4, abs=5e-7)
    assert find_levels(4) == NF4


def test_the_eight_levels_worked_by_hand() -> None:
    # Probabilities from 1 - (1 / 16 + 1 / 14) / 2 = 0.93304: four above zero, at distances of a quarter of the way
    # to one half, three below at thirds; normal quantiles from a table, divided by that of 0.93304.
    quantiles = {0.93304: 1.4987, 0.82478: 0.9337, 0.71652: 0.5725, 0.60826: 0.2748}
    quantiles |= {0.78869: 0.8018, 0.64435: 0.3701}
    one = quantiles[0.93304]
    above = [quantiles[place] / one for place in (0.60826, 0.71652, 0.82478, 0.93304)]
    below = [-quantiles[place] / one for place in (0.93304, 0.78869, 0.64435)]
    assert find_levels(3) == pytest.approx([*below, 0.0, *above], abs=1e-4)
