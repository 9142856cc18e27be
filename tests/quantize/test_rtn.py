from __future__ import annotations

import itertools

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rounding import (
    DTYPES,
    GRANULARITIES,
    bound_by_hand,
    draw_matrix,
    label_groups,
    measure_step,
    recipes,
    round_by_hand,
    shapes,
)

from sw_audit.policy.recipe import Recipe, find_survivors, parse_recipe
from sw_audit.quantize.batches import CACHE_SIZED
from sw_audit.quantize.rtn import round_to_nearest

ROW, COLUMN = 5, 9
PLACE = (torch.tensor([ROW]), torch.tensor([COLUMN]))
LEVELS = ("int3/{}", "int4/{}", "int4/{}/symmetric", "int8/{}/symmetric", "nf3/{}", "nf4/{}")
COARSE = ("tensor", "row", "group16", "8x8", "32x32", "run64")
CLIPPED = ("z2", "z2-signed", "z2-tensor", "p95", "p99-tensor", "iqr3")


def test_four_weights_on_a_two_bit_grid_worked_by_hand() -> None:
    # min -1, max 2, three steps of 1: grid -1, 0, 1, 2.
    weight = torch.tensor([[-1.0, 0.4, 0.6, 2.0]])
    assert round_to_nearest(weight, parse_recipe("int2/tensor")).tolist() == [[-1.0, 0.0, 1.0, 2.0]]


def test_a_symmetric_grid_is_centred_on_zero_worked_by_hand() -> None:
    # max|w| 3, 2 ** 2 - 1 = 3 steps to each side, of 1: there is no -4.
    weight = torch.tensor([[-3.0, -0.6, 0.2, 1.7]])
    assert round_to_nearest(weight, parse_recipe("int3/tensor/symmetric")).tolist() == [[-3.0, -1.0, 0.0, 2.0]]


def test_zero_is_a_grid_point_only_by_chance() -> None:
    # min -1, max 0.5, three steps of 0.5 hold zero; of max 2.5 and steps of 7/6 they do not.
    assert 0.0 in round_to_nearest(torch.tensor([[-1.0, 0.1, 0.5]]), parse_recipe("int2/tensor"))
    rounded = round_to_nearest(torch.tensor([[-1.0, 0.0, 2.5]]), parse_recipe("int2/tensor"))
    assert rounded[0, 1].item() == pytest.approx(-1 + 7 / 6)


def test_a_flat_run_is_what_the_released_code_computes() -> None:
    # Runs of 4 over the flattened matrix cross its rows: [0 1 2 | 9], [3 | 6 7 8].
    weight = torch.tensor([[0.0, 1.0, 2.0], [9.0, 3.0, 6.0], [7.0, 8.0, 5.0]])
    rounded = round_to_nearest(weight, parse_recipe("int2/run4"))
    # First run: steps of 3 from 0. Second: 5/3 from 3, so 3, 4.67, 6.33, 8. The last run is 5 alone.
    expected = [[0.0, 0.0, 3.0], [9.0, 3.0, 3 + 10 / 3], [3 + 10 / 3, 8.0, 5.0]]
    assert rounded.tolist() == [pytest.approx(row) for row in expected]


def test_halves_round_to_even() -> None:
    weight = torch.tensor([[0.0, 0.5, 1.5, 2.5, 3.0]])
    assert round_to_nearest(weight, parse_recipe("int2/tensor")).tolist() == [[0.0, 0.0, 2.0, 2.0, 3.0]]


@given(shape=shapes, recipe=recipes, seed=st.integers(0, 1000))
@settings(max_examples=150, deadline=None)
def test_every_granularity_equals_a_loop_over_its_groups(
    shape: tuple[int, int], recipe: Recipe, seed: int
) -> None:
    weight = draw_matrix(shape, seed, torch.float64)
    expected = round_by_hand(weight.numpy(), recipe)
    assert numpy.allclose(round_to_nearest(weight, recipe).numpy(), expected, rtol=0, atol=1e-12)


@given(shape=shapes, recipe=recipes, seed=st.integers(0, 1000), dtype=st.sampled_from(DTYPES))
@settings(max_examples=150, deadline=None)
def test_no_weight_moves_by_more_than_half_a_step(
    shape: tuple[int, int], recipe: Recipe, seed: int, dtype: torch.dtype
) -> None:
    weight = draw_matrix(shape, seed, dtype)
    error = (round_to_nearest(weight, recipe).double() - weight.double()).abs().numpy()
    # A half dtype rounds the result once more, to its own grid.
    slack = (0.5 * torch.finfo(dtype).eps + 1e-6) * weight.double().abs().max().item()
    assert (error <= measure_step(weight, recipe) / 2 + slack).all()


@given(
    shape=shapes,
    granularity=st.sampled_from(GRANULARITIES),
    symmetric=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_more_bits_never_make_a_weight_worse_where_one_grid_holds_the_other(
    shape: tuple[int, int], granularity: str, symmetric: bool, seed: int
) -> None:
    # The range is the data's whatever the bits, so the grid of n steps is part of that of a multiple of n steps.
    weight = draw_matrix(shape, seed, torch.float64)
    errors = {}
    for bits in range(2, 9):
        recipe = parse_recipe(f"int{bits}/{granularity}{'/symmetric' if symmetric else ''}")
        errors[2 ** (bits - symmetric) - 1] = (round_to_nearest(weight, recipe) - weight).abs()
    nested = [(few, many) for few in errors for many in errors if few < many and many % few == 0]
    assert len(nested) >= 4
    for few, many in nested:
        assert (errors[many] <= errors[few] + 1e-12).all()


@given(shape=shapes, granularity=st.sampled_from(GRANULARITIES), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_every_bit_more_than_halves_the_worst_error_that_is_possible(
    shape: tuple[int, int], granularity: str, seed: int
) -> None:
    weight = draw_matrix(shape, seed, torch.float64)
    bounds = []
    for bits in range(2, 9):
        recipe = parse_recipe(f"int{bits}/{granularity}")
        error = (round_to_nearest(weight, recipe) - weight).abs().numpy()
        bound = measure_step(weight, recipe) / 2
        assert (error <= bound + 1e-12).all()
        bounds.append(bound)
    assert all((fine <= coarse / 2).all() for coarse, fine in itertools.pairwise(bounds))


def test_more_bits_can_make_a_single_weight_worse_so_no_law_says_otherwise() -> None:
    # On three steps 1/3 is a grid point, on seven the nearest are 2/7 and 3/7.
    weight = torch.tensor([[0.0, 1 / 3, 1.0]], dtype=torch.float64)
    two, three = (round_to_nearest(weight, parse_recipe(f"int{bits}/row")) for bits in (2, 3))
    assert (two - weight).abs().max() < 1e-15
    assert (three - weight).abs().max() > 0.04


@given(shape=shapes, recipe=recipes, seed=st.integers(0, 1000), dtype=st.sampled_from(DTYPES))
@settings(max_examples=100, deadline=None)
def test_rounding_again_changes_nothing(
    shape: tuple[int, int], recipe: Recipe, seed: int, dtype: torch.dtype
) -> None:
    once = round_to_nearest(draw_matrix(shape, seed, dtype), recipe)
    twice = round_to_nearest(once, recipe)
    scale = once.double().abs().max().item()
    assert torch.allclose(twice.double(), once.double(), rtol=0, atol=4 * torch.finfo(dtype).eps * scale)


@given(
    shape=shapes,
    recipe=recipes,
    seed=st.integers(0, 1000),
    dtype=st.sampled_from(DTYPES),
    places=st.lists(st.tuples(st.integers(0, 16), st.integers(0, 22)), max_size=8),
)
@settings(max_examples=100, deadline=None)
def test_holdout_is_bit_exact_and_out_of_the_range(
    shape: tuple[int, int],
    recipe: Recipe,
    seed: int,
    dtype: torch.dtype,
    places: list[tuple[int, int]],
) -> None:
    weight = draw_matrix(shape, seed, dtype)
    rows = torch.tensor([row % shape[0] for row, _ in places], dtype=torch.int64)
    columns = torch.tensor([column % shape[1] for _, column in places], dtype=torch.int64)
    spoilt = weight.clone()
    spoilt[rows, columns] = 999.0
    first = round_to_nearest(weight, recipe, (rows, columns))
    second = round_to_nearest(spoilt, recipe, (rows, columns))
    assert torch.equal(first[rows, columns], weight[rows, columns])
    assert torch.equal(second[rows, columns], spoilt[rows, columns])
    others = torch.ones(shape, dtype=torch.bool)
    others[rows, columns] = False
    assert torch.equal(first[others], second[others])


def test_one_outlier_spoils_its_group_and_holding_it_out_heals_it() -> None:
    weight = draw_matrix((64, 64), 3).clamp_(-1, 1)
    weight[5, 9] = 80.0
    recipe = parse_recipe("int4/tensor")
    place = (torch.tensor([5]), torch.tensor([9]))
    plain = (round_to_nearest(weight, recipe) - weight).abs().mean()
    held = (round_to_nearest(weight, recipe, place) - weight).abs().mean()
    assert plain > 10 * held


@pytest.mark.parametrize(
    "notation",
    [
        "int4/tensor",
        "int4/2x2/symmetric",
        "int2/run3/z9",
        "int8/row/symmetric/z1",
        "nf4/group3",
        "nf3/row/p50",
        "int4/row/iqr1",
        "int4/tensor/z1-tensor",
        "int4/row/search-weights",
        "int3/group3/z1-signed",
        "nf4/row/search-weights",
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0.1, -0.3, 0.0, 1e-30, 7.7])
def test_equal_weights_stay_exact(notation: str, dtype: torch.dtype, value: float) -> None:
    weight = torch.full((5, 7), value, dtype=torch.float64).to(dtype)
    assert torch.equal(round_to_nearest(weight, parse_recipe(notation)), weight)


@pytest.mark.parametrize(
    "notation",
    [
        "int4/tensor",
        "int4/2x2",
        "int4/row/symmetric",
        "int4/run5/z2",
        "nf4/row",
        "int4/row/p50",
        "int4/tensor/iqr1",
        "int4/row/z1-tensor",
        "int4/4x3/search-weights",
    ],
)
def test_a_group_that_is_held_out_altogether_stays_exact(notation: str) -> None:
    weight = draw_matrix((4, 6), 2)
    rows, columns = (
        places.reshape(-1) for places in torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
    )
    assert torch.equal(round_to_nearest(weight, parse_recipe(notation), (rows, columns)), weight)


@given(recipe=recipes, seed=st.integers(0, 100), dtype=st.sampled_from(DTYPES))
@settings(max_examples=40, deadline=None)
def test_strides_do_not_matter(recipe: Recipe, seed: int, dtype: torch.dtype) -> None:
    stored = draw_matrix((11, 26), seed, dtype)
    view = stored.T[::2]  # [13, 11], strided in both dimensions
    place = (torch.tensor([2]), torch.tensor([7]))
    expected = round_to_nearest(view.contiguous(), recipe, place)
    assert torch.equal(round_to_nearest(view, recipe, place), expected)
    untouched = stored.T[1::2].clone()
    assert round_to_nearest(view, recipe, place, out=view) is view
    assert torch.equal(view, expected)
    assert torch.equal(stored.T[1::2], untouched)


def test_the_argument_is_left_alone_and_a_parameter_can_be_rounded_in_place() -> None:
    parameter = torch.nn.Parameter(draw_matrix((8, 8), 1))
    before = parameter.detach().clone()
    rounded = round_to_nearest(parameter, parse_recipe("int3/row"))
    assert torch.equal(parameter.detach(), before)
    assert not rounded.requires_grad
    assert rounded.data_ptr() != parameter.data_ptr()
    round_to_nearest(parameter, parse_recipe("int3/row"), out=parameter)
    assert torch.equal(parameter.detach(), rounded)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
@pytest.mark.parametrize("granularity", ["tensor", "row", "group2", "2x2", "run3"])
def test_an_empty_matrix_stays_empty(shape: tuple[int, int], granularity: str) -> None:
    assert round_to_nearest(torch.empty(shape), parse_recipe(f"int4/{granularity}")).shape == shape


@pytest.mark.parametrize("weight", [torch.zeros(3), torch.zeros(2, 2, 2), torch.zeros(2, 2, dtype=torch.int8)])
def test_what_is_no_floating_matrix_is_refused(weight: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="a floating matrix is wanted"):
        round_to_nearest(weight, parse_recipe("int4/row"))


# One piece is 2 ** 19 weights: a group of more, a band of groups of more, and everything else there is to cut.
@pytest.mark.parametrize("shape", [(3, 200_000), (1500, 400), (2, 2 * CACHE_SIZED + 10)])
@pytest.mark.parametrize("notation", ["int4/tensor", "int4/row", "int4/group64", "int4/640x640", "int4/7x9"])
def test_matrices_of_several_pieces_equal_one_computation_on_the_whole(
    shape: tuple[int, int], notation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = draw_matrix(shape, 3)
    rounded = round_to_nearest(weight, parse_recipe(notation))
    monkeypatch.setattr("sw_audit.quantize.batches.CACHE_SIZED", 2**24)
    assert torch.equal(rounded, round_to_nearest(weight, parse_recipe(notation)))


@given(
    shape=shapes,
    recipe=recipes,
    clip=st.sampled_from(["", "/z1", "/z1-signed-tensor", "/p70", "/p70-tensor", "/iqr1", "/search-weights"]),
    seed=st.integers(0, 1000),
    limit=st.integers(1, 60),
    held=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_it_does_not_matter_how_a_matrix_is_cut(
    shape: tuple[int, int], recipe: Recipe, clip: str, seed: int, limit: int, held: bool
) -> None:
    weight = draw_matrix(shape, seed, torch.float64)
    recipe = parse_recipe(f"{recipe}{clip}")
    place = (torch.tensor([seed % shape[0]]), torch.tensor([seed % shape[1]])) if held else None
    whole = round_to_nearest(weight, recipe, place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sw_audit.quantize.batches.CACHE_SIZED", limit)
        assert torch.allclose(round_to_nearest(weight, recipe, place), whole, rtol=0, atol=1e-12)


def test_a_matrix_is_rounded_into_a_tensor_of_any_strides_and_no_other_shape_or_dtype() -> None:
    weight, recipe = draw_matrix((12, 10), 4), parse_recipe("int3/run7")
    stored = torch.zeros(10, 12)
    assert round_to_nearest(weight, recipe, out=stored.T).data_ptr() == stored.data_ptr()
    assert torch.equal(stored.T, round_to_nearest(weight, recipe))
    for target in (torch.zeros(10, 12), torch.zeros(12, 10, dtype=torch.float64)):
        with pytest.raises(ValueError, match="does not go into"):
            round_to_nearest(weight, recipe, out=target)


def measure_peak(recipe: Recipe, weight: torch.Tensor, place: tuple[torch.Tensor, torch.Tensor] | None) -> int:
    """Return the most bytes that are allocated at one time while a matrix is rounded in place."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        round_to_nearest(weight, recipe, place, out=weight)
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


@pytest.mark.slow
@pytest.mark.parametrize("hold", [False, True])
@pytest.mark.parametrize(
    "notation",
    ["int4/tensor", "int4/64x64", "int4/run16384", "int4/96x96/z3", "nf4/group64", "int4/row"],
)
def test_rounding_in_place_takes_a_few_pieces_of_memory_and_a_bool_per_weight(notation: str, hold: bool) -> None:
    weight = draw_matrix((2048, 4096), 0).bfloat16()
    place = (torch.tensor([5]), torch.tensor([9])) if hold else None
    peak = measure_peak(parse_recipe(notation), weight, place)
    assert 4 * CACHE_SIZED <= peak <= 30 * CACHE_SIZED + (weight.numel() if hold else 0)
    assert peak < 2.2 * weight.nbytes


# What keeping a super weight changes, and where it changes nothing by construction.


def plant(value: float, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """Return weights between -1 and 1 with one super weight."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.rand(32, 32, generator=generator).mul_(2).sub_(1).to(dtype)
    weight[ROW, COLUMN] = value
    return weight


def find_neighbours(notation: str) -> torch.Tensor:
    """Return which weights share the super weight's group, itself left out."""
    labels = torch.from_numpy(label_groups((32, 32), parse_recipe(notation)))
    inside = labels == labels[ROW, COLUMN]
    inside[ROW, COLUMN] = False
    return inside


@pytest.mark.parametrize("value", [40.0, -40.0])
@pytest.mark.parametrize("notation", [levels.format(size) for levels in LEVELS for size in COARSE])
def test_without_a_clip_the_super_weight_survives_plain_rounding_and_its_neighbours_do_not(
    notation: str, value: float
) -> None:
    recipe = parse_recipe(notation)
    weight, inside = plant(value), find_neighbours(str(recipe))
    plain, held = round_to_nearest(weight, recipe), round_to_nearest(weight, recipe, PLACE)
    assert find_survivors(recipe) in ("largest", "ends")
    # Writing it back after plain rounding would change no bit,
    assert plain[ROW, COLUMN] == weight[ROW, COLUMN] == held[ROW, COLUMN]
    # but holding it out heals the others of its group, and no other weight hears of it. (The factor is least for
    # NF3, where plain rounding makes zeros of them, an error of 1 / 3, and whose widest gap is 0.47.)
    spoilt, healed = ((rounded - weight)[inside].float().square().mean() for rounded in (plain, held))
    assert spoilt > 30 * healed
    outside = ~inside
    outside[ROW, COLUMN] = False
    assert torch.equal(plain[outside], held[outside])


@pytest.mark.parametrize("clip", CLIPPED)
@pytest.mark.parametrize("granularity", COARSE)
@pytest.mark.parametrize("levels", LEVELS)
def test_with_a_clip_only_holding_out_keeps_the_super_weight(levels: str, granularity: str, clip: str) -> None:
    recipe = parse_recipe(f"{levels.format(granularity)}/{clip}")
    weight = plant(40.0, torch.float64)
    assert find_survivors(recipe) == "none"
    assert round_to_nearest(weight, recipe, PLACE)[ROW, COLUMN] == 40.0
    assert recipe.clip is not None
    inside = find_neighbours(str(recipe))
    inside[ROW, COLUMN] = True
    _, bound = bound_by_hand(weight.numpy() if clip.endswith("tensor") else weight[inside].numpy(), recipe.clip)
    assert bound < 40 or clip == "p95"
    plain = round_to_nearest(weight, recipe)[ROW, COLUMN].item()
    # An asymmetric grid ends in the bound, a symmetric one and normal floats in the larger of both.
    assert plain == pytest.approx(min(bound, 40.0))


def test_a_search_cuts_off_one_weight_for_the_sake_of_all_others() -> None:
    # The widest range makes zeros of 1,023 others, which costs 1 / 3 each; cutting 14 down to 7 costs 49.
    weight = plant(14.0, torch.float64)
    plain = round_to_nearest(weight, parse_recipe("int3/tensor/symmetric/search-weights"))
    assert plain[ROW, COLUMN] < 8.0
    held = round_to_nearest(weight, parse_recipe("int3/tensor/symmetric/search-weights"), PLACE)
    assert held[ROW, COLUMN] == 14.0


@given(
    seed=st.integers(0, 1000),
    granularity=st.sampled_from(COARSE),
    levels=st.sampled_from(LEVELS),
)
@settings(max_examples=60, deadline=None)
def test_the_survivors_that_are_named_do_survive(seed: int, granularity: str, levels: str) -> None:
    recipe = parse_recipe(levels.format(granularity))
    weight = draw_matrix((32, 32), seed, torch.float64)
    moved = (round_to_nearest(weight, recipe) - weight).abs()
    labels = torch.from_numpy(label_groups((32, 32), recipe))
    for label in labels.unique():
        group, movement = weight[labels == label], moved[labels == label]
        assert movement[group.abs().argmax()] < 1e-12
        if find_survivors(recipe) == "ends":
            assert max(movement[group.argmin()], movement[group.argmax()]) < 1e-12


@pytest.mark.parametrize(
    "notation", ["int4/1x1", "int4/group1/z9", "int3/run1/symmetric", "nf4/group1/search-weights"]
)
def test_in_groups_of_one_weight_nothing_ever_changes(notation: str) -> None:
    weight, recipe = plant(40.0), parse_recipe(notation)
    assert torch.equal(round_to_nearest(weight, recipe), weight)
    assert torch.equal(round_to_nearest(weight, recipe, PLACE), weight)


def test_holding_out_a_weight_that_is_no_end_of_its_range_changes_that_weight_alone() -> None:
    weight, recipe = plant(0.123), parse_recipe("int3/row")
    plain, held = round_to_nearest(weight, recipe), round_to_nearest(weight, recipe, PLACE)
    assert (plain != held).nonzero().tolist() == [[ROW, COLUMN]]
    assert held[ROW, COLUMN] == weight[ROW, COLUMN]
