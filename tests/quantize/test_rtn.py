from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sw_audit.facts.recipe import Recipe, parse_recipe
from sw_audit.quantize.rtn import round_to_nearest, round_to_nearest_

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
GRANULARITIES = ("tensor", "row", "4x4", "3x5", "64x64", "1x7", "run7", "run16", "run1000")

recipes = st.builds(
    lambda bits, granularity, symmetric: parse_recipe(f"int{bits}/{granularity}{symmetric}"),
    st.integers(2, 8),
    st.sampled_from(GRANULARITIES),
    st.sampled_from(["", "/symmetric"]),
)
shapes = st.tuples(st.integers(1, 17), st.integers(1, 23))


def draw_matrix(shape: tuple[int, int], seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(shape, generator=generator, dtype=torch.float64)
    matrix.view(-1)[seed % matrix.numel()] *= 20
    return matrix.to(dtype)


def label_groups(shape: tuple[int, int], recipe: Recipe) -> NDArray[Any]:
    """Number each weight's scaling group, by the definition of the granularity."""
    rows, columns = numpy.indices(shape)
    kind = str(recipe.granularity)
    if kind == "tensor":
        return numpy.zeros(shape, dtype=int)
    if kind == "row":
        return rows
    if kind.startswith("run"):
        return (rows * shape[1] + columns) // int(kind[3:])
    height, width = (int(part) for part in kind.split("x"))
    return (rows // height) * (shape[1] + 1) + columns // width


def round_by_hand(weight: NDArray[Any], recipe: Recipe, held: NDArray[Any] | None = None) -> NDArray[Any]:
    """Round group by group in a loop, in float64, by the formulas of the module's docstring."""
    held = numpy.zeros(weight.shape, dtype=bool) if held is None else held
    result = weight.astype(numpy.float64).copy()
    labels = label_groups(weight.shape, recipe)
    for label in numpy.unique(labels):
        inside = (labels == label) & ~held
        group = weight[inside].astype(numpy.float64)
        if not len(group):
            continue
        low, high = group.min(), group.max()
        if recipe.clip is not None and low < high:
            magnitudes = numpy.abs(group)
            threshold = magnitudes.mean() + recipe.clip.z * magnitudes.std()
            low, high = max(low, -threshold), min(high, threshold)
        if recipe.symmetric:
            levels = 2 ** (recipe.bits - 1) - 1
            step = max(abs(low), abs(high)) / levels or 1.0
            result[inside] = numpy.clip(numpy.round(group / step), -levels, levels) * step
        else:
            levels = 2**recipe.bits - 1
            step = (high - low) / levels or 1.0
            result[inside] = numpy.clip(numpy.round((group - low) / step), 0, levels) * step + low
    return result


def measure_step(weight: torch.Tensor, recipe: Recipe) -> NDArray[Any]:
    """Return each weight's grid step, by the definition."""
    values, labels = weight.double().numpy(), label_groups((weight.shape[0], weight.shape[1]), recipe)
    steps = numpy.zeros(weight.shape)
    for label in numpy.unique(labels):
        group = values[labels == label]
        if recipe.symmetric:
            steps[labels == label] = numpy.abs(group).max() / (2 ** (recipe.bits - 1) - 1)
        else:
            steps[labels == label] = (group.max() - group.min()) / (2**recipe.bits - 1)
    return steps


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


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("symmetric", ["", "/symmetric"])
def test_clipping_equals_a_loop_over_groups_with_and_without_holdout(granularity: str, symmetric: str) -> None:
    weight = draw_matrix((13, 19), 5, torch.float64)
    held = numpy.zeros(weight.shape, dtype=bool)
    rows, columns = torch.tensor([0, 3, 3, 12]), torch.tensor([0, 4, 5, 18])
    held[rows, columns] = True
    recipe = parse_recipe(f"int4/{granularity}{symmetric}/z1.5")
    plain = round_to_nearest(weight, recipe).numpy()
    assert numpy.allclose(plain, round_by_hand(weight.numpy(), recipe), rtol=0, atol=1e-12)
    kept = round_to_nearest(weight, recipe, (rows, columns)).numpy()
    assert numpy.allclose(kept, round_by_hand(weight.numpy(), recipe, held), rtol=0, atol=1e-12)


def test_clipping_moves_only_what_is_beyond_the_threshold() -> None:
    weight = torch.ones(1, 100, dtype=torch.float64)
    weight[0, ::2] = -1
    weight[0, 7] = 50.0
    # mean|w| = 1.49, std|w| = 4.8755: the threshold of z = 2 is 11.2409.
    rounded = round_to_nearest(weight, parse_recipe("int8/tensor/z2"))
    threshold = 1.49 + 2 * math.sqrt((99 * 1 + 2500) / 100 - 1.49**2)
    assert rounded[0, 7].item() == pytest.approx(threshold)
    assert (rounded[0, :7] - weight[0, :7]).abs().max() < (threshold + 1) / 255


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


@given(shape=shapes, granularity=st.sampled_from(GRANULARITIES), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_more_bits_never_widen_the_worst_error_bound(shape: tuple[int, int], granularity: str, seed: int) -> None:
    weight = draw_matrix(shape, seed, torch.float64)
    worst = []
    for bits in range(2, 9):
        recipe = parse_recipe(f"int{bits}/{granularity}")
        error = (round_to_nearest(weight, recipe) - weight).abs().max().item()
        bound = measure_step(weight, recipe).max() / 2
        assert error <= bound + 1e-12
        worst.append(bound)
    assert worst == sorted(worst, reverse=True)


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
    "notation", ["int4/tensor", "int4/2x2/symmetric", "int2/run3/z9", "int8/row/symmetric/z1"]
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0.1, -0.3, 0.0, 1e-30, 7.7])
def test_equal_weights_stay_exact(notation: str, dtype: torch.dtype, value: float) -> None:
    weight = torch.full((5, 7), value, dtype=torch.float64).to(dtype)
    assert torch.equal(round_to_nearest(weight, parse_recipe(notation)), weight)


@pytest.mark.parametrize("notation", ["int4/tensor", "int4/2x2", "int4/row/symmetric", "int4/run5/z2"])
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
    assert round_to_nearest_(view, recipe, place) is view
    assert torch.equal(view, expected)
    assert torch.equal(stored.T[1::2], untouched)


def test_the_argument_is_left_alone_and_a_parameter_can_be_rounded_in_place() -> None:
    parameter = torch.nn.Parameter(draw_matrix((8, 8), 1))
    before = parameter.detach().clone()
    rounded = round_to_nearest(parameter, parse_recipe("int3/row"))
    assert torch.equal(parameter.detach(), before)
    assert not rounded.requires_grad
    assert rounded.data_ptr() != parameter.data_ptr()
    round_to_nearest_(parameter, parse_recipe("int3/row"))
    assert torch.equal(parameter.detach(), rounded)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
@pytest.mark.parametrize("granularity", ["tensor", "row", "2x2", "run3"])
def test_an_empty_matrix_stays_empty(shape: tuple[int, int], granularity: str) -> None:
    assert round_to_nearest(torch.empty(shape), parse_recipe(f"int4/{granularity}")).shape == shape


@pytest.mark.parametrize("weight", [torch.zeros(3), torch.zeros(2, 2, 2), torch.zeros(2, 2, dtype=torch.int8)])
def test_what_is_no_floating_matrix_is_refused(weight: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="a floating matrix is wanted"):
        round_to_nearest(weight, parse_recipe("int4/row"))


@pytest.mark.slow
@pytest.mark.parametrize("notation", ["int4/tensor", "int4/64x64", "int4/run16384", "int4/96x96/symmetric"])
def test_no_more_than_two_matrices_of_memory_beside_the_argument(notation: str) -> None:
    weight = draw_matrix((512, 768), 0)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        round_to_nearest(weight, parse_recipe(notation))
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert weight.nbytes <= peak <= 2.1 * weight.nbytes
