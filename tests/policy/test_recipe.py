"""Recipes: their notation, their bounds, and what they cost in storage."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from support.rounding import label_groups, recipes, shapes

from sw_audit.errors import PolicyError
from sw_audit.policy.recipe import (
    NF4,
    IqrClip,
    PerBlock,
    PercentileClip,
    PerGroup,
    PerRow,
    PerRun,
    PerTensor,
    Recipe,
    SearchClip,
    ZScoreClip,
    construct_levels,
    count_bits,
    count_groups,
    explain_holdout,
    find_levels,
    find_survivors,
    parse_recipe,
)
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
every_recipe = st.one_of(integers, normal_floats)


@given(recipe=every_recipe)
def test_a_recipe_is_read_from_what_it_writes(recipe: Recipe) -> None:
    assert parse_recipe(str(recipe)) == recipe


@given(recipe=every_recipe, other=every_recipe)
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
            "nf3/row/search",
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
        ("int4/row/search-weights", Recipe(bits=4, granularity=PerRow(), clip=SearchClip(on="weights"))),
    ],
)
def test_notation_is_read(notation: str, recipe: Recipe) -> None:
    assert parse_recipe(notation) == recipe


def test_the_former_name_of_a_search_is_understood_and_not_written() -> None:
    assert str(parse_recipe("int4/row/search-corpus")) == "int4/row/search"


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
    ("fields", "words"),
    [({"bits": 5}, "of 3 and 4 bits, not of 5"), ({"bits": 4, "symmetric": False}, "have no zero point")],
)
def test_impossible_normal_floats_are_refused(fields: dict[str, int], words: str) -> None:
    whole = {"levels": "normal-float", "granularity": {"kind": "row"}, **fields}
    with pytest.raises(ValidationError, match=words):
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


@given(shape=shapes, recipe=recipes)
def test_there_are_as_many_groups_as_the_definition_makes(shape: tuple[int, int], recipe: Recipe) -> None:
    assert count_groups(recipe, shape) == len(numpy.unique(label_groups(shape, recipe)))


@pytest.mark.parametrize(
    ("notation", "shape", "held", "bits"),
    [
        # 64 weights of 4 bits and one scale of 16: 4.25 bits per weight; with a lower end 4.5.
        ("nf4/group64", (1, 64), 0, 272),
        ("int4/group64/symmetric", (1, 64), 0, 272),
        ("int4/group64", (1, 64), 0, 288),
        # 100 columns are a group of 64 and one of 36 in each of 2 rows.
        ("int3/group64/symmetric/search", (2, 100), 0, 3 * 200 + 4 * 16),
        # 5 x 5 in blocks of 2 x 2 are 3 x 3 blocks.
        ("int8/2x2", (5, 5), 0, 8 * 25 + 9 * 32),
        # The places of 4096 x 11008 weights need 26 bits, a value 16.
        ("int4/tensor", (4096, 11008), 3, 4 * 4096 * 11008 + 32 + 3 * 42),
        ("int4/run10/z9", (3, 7), 0, 4 * 21 + 3 * 32),
        ("int2/row", (0, 7), 0, 0),
    ],
)
def test_bits_worked_by_hand(notation: str, shape: tuple[int, int], held: int, bits: int) -> None:
    assert count_bits(parse_recipe(notation), shape, held) == bits


def test_coarse_blocks_cost_almost_nothing_beside_the_codes() -> None:
    weights = 4096 * 11008
    fine, coarse = (
        count_bits(parse_recipe(name), (4096, 11008), 6) / weights for name in ("int4/8x8", "int4/512x512")
    )
    assert fine == pytest.approx(4.5, abs=1e-4)
    assert coarse == pytest.approx(4 + 8 * 22 * 32 / weights, abs=1e-5)


@pytest.mark.parametrize(
    ("notation", "survivors", "words"),
    [
        ("int4/row/symmetric", "largest", "keeps its value, held out or not"),
        ("nf3/group64", "largest", "keeps its value, held out or not"),
        ("int4/512x512", "ends", "an end of its range"),
        ("int4/row/z9", "none", "clipping may cut off"),
        ("nf4/row/search", "none", "clipping may cut off"),
        ("int4/1x1", "all", "changes nothing"),
        ("int4/group1/z9", "all", "changes nothing"),
        ("int4/run1", "all", "changes nothing"),
    ],
)
def test_it_is_said_where_holding_out_is_a_no_op(notation: str, survivors: str, words: str) -> None:
    assert find_survivors(parse_recipe(notation)) == survivors
    assert words in explain_holdout(parse_recipe(notation))
