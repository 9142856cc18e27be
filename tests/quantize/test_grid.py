"""The grid itself: what its points are, and that it keeps to them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rounding import DTYPES, draw_matrix, normal_recipes, recipes

from sw_audit.policy.recipe import NF4, Recipe, find_levels, parse_recipe
from sw_audit.quantize.grid import Grid
from sw_audit.quantize.rtn import round_to_nearest


def test_nf4_worked_by_hand() -> None:
    # The largest magnitude is 2, so 1.2 is 0.6 of it: between the levels 0.5626 and 0.7230, middle 0.6428.
    weight = torch.tensor([[-2.0, 1.2, 1.3, 0.07, 0.09]], dtype=torch.float64)
    rounded = round_to_nearest(weight, parse_recipe("nf4/row"))
    assert rounded.tolist() == [[-2.0, 2 * NF4[13], 2 * NF4[14], 0.0, 2 * NF4[8]]]


def test_nf3_worked_by_hand() -> None:
    # Levels -1 -0.535 -0.247 0 0.183 0.382 0.623 1.
    rounded = round_to_nearest(torch.tensor([[1.0, -0.7, -0.8, 0.5, 0.09, 0.1]]), parse_recipe("nf3/row"))
    expected = [[1.0, -0.535023, -1.0, 0.381994, 0.0, 0.183337]]
    assert rounded.tolist() == [pytest.approx(row, abs=1e-6) for row in expected]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bits", [3, 4])
def test_normal_floats_are_the_nearest_levels_also_next_to_the_middle_between_two(
    bits: int, dtype: torch.dtype
) -> None:
    levels = torch.tensor(find_levels(bits), dtype=torch.float64)
    middles = ((levels[1:] + levels[:-1]) / 2).to(dtype)
    beside = (torch.nextafter(middles, middles - 1), middles, torch.nextafter(middles, middles + 1))
    evenly = torch.linspace(-1, 1, 100_001, dtype=dtype)
    numbers = torch.cat((*beside, evenly))[None]
    rounded = round_to_nearest(numbers, parse_recipe(f"nf{bits}/row"))[0]
    lower, upper = levels[:-1].to(dtype), levels[1:].to(dtype)
    below, at, above = rounded[: 3 * len(middles)].view(3, -1)
    assert torch.equal(below, lower)
    assert torch.equal(at, lower)
    assert torch.equal(above, upper)
    distances = (evenly[:, None].double() - levels).abs()
    own = (rounded[3 * len(middles) :].double() - evenly.double()).abs()
    assert (own <= distances.amin(1) + 1e-7).all()


@given(recipe=recipes, seed=st.integers(0, 1000), dtype=st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=100, deadline=None)
def test_what_lies_on_a_grid_stays_there(recipe: Recipe, seed: int, dtype: torch.dtype) -> None:
    numbers = draw_matrix((5, 40), seed, dtype)
    low = numbers.amin(1, keepdim=True) / 3
    high = numbers.amax(1, keepdim=True) / 3
    grid = Grid(recipe, low, high, clipped=True)
    once = grid.snap_(numbers.clone())
    assert once.min() >= -max(-low.min(), high.max()) - 1e-6
    scale = once.abs().max()
    assert (grid.snap_(once.clone()) - once).abs().max() <= 4 * torch.finfo(dtype).eps * scale
    for row in once:
        # The same grid point comes out with different rounding errors: what is closer than that is one.
        points = row.sort().values.diff() > 1e-4 * scale
        assert int(points.sum()) + 1 <= 2**recipe.bits


@given(recipe=normal_recipes, seed=st.integers(0, 100), dtype=st.sampled_from(DTYPES))
@settings(max_examples=30, deadline=None)
def test_what_is_not_a_number_spoils_its_own_group_and_no_other(
    recipe: Recipe, seed: int, dtype: torch.dtype
) -> None:
    weight = draw_matrix((6, 8), seed, dtype)
    recipe = Recipe(bits=recipe.bits, levels="normal-float", granularity=parse_recipe("nf4/row").granularity)
    spoilt = weight.clone()
    spoilt[2, 3] = torch.nan
    rounded = round_to_nearest(spoilt, recipe)
    assert rounded[2].isnan().all()
    others = torch.arange(6) != 2
    assert torch.equal(rounded[others], round_to_nearest(weight, recipe)[others])


@pytest.mark.parametrize("notation", ["int2/row", "int4/row", "int4/row/symmetric", "nf4/row", "int8/row"])
def test_subnormal_weights_take_no_more_levels_than_there_are(notation: str) -> None:
    # 20 subnormal steps in 15: the step itself is rounded to one, which would make 20 levels of it.
    weight = (torch.arange(21) * 2.0**-149)[None]
    rounded = round_to_nearest(weight, parse_recipe(notation))
    assert len(rounded.unique()) <= 2 ** parse_recipe(notation).bits
    assert (rounded - weight).abs().max() <= 20 * 2.0**-149
