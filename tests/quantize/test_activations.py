"""Activations are rounded as the formulas say, and smoothed as SmoothQuant does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sw_audit.quantize.activations import (
    SMALLEST,
    find_largest_tokens,
    find_smoothing_scales,
    replace_by_median_,
    round_activations,
)

Place = tuple[list[int], list[int]]


def hold(rows: list[int], channels: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(rows), torch.tensor(channels)


def test_each_token_has_the_step_that_its_largest_magnitude_asks_for() -> None:
    # 3 bits: levels -3 to 3. First token: step 6 / 3 = 2. Second: step 0.75 / 3 = 0.25.
    x = torch.tensor([[-6.0, 2.9, 1.1, 0.9], [0.75, -0.3, 0.1, 0.38]])
    expected = torch.tensor([[-6.0, 2.0, 2.0, 0.0], [0.75, -0.25, 0.0, 0.5]])
    assert torch.equal(round_activations(x, 3), expected)


def test_halves_go_to_the_even_level() -> None:
    # 2 bits: levels -1, 0, 1; step 4. 2 is half a step and goes to 0, -2 too.
    assert torch.equal(round_activations(torch.tensor([[4.0, 2.0, -2.0]]), 2), torch.tensor([[4.0, 0.0, 0.0]]))


def test_with_a_given_range_all_tokens_share_a_step_and_what_lies_beyond_is_clipped() -> None:
    # 3 bits up to 3: step 1.
    x = torch.tensor([[9.0, 1.4, -0.6], [-7.5, 2.5, 0.2]])
    expected = torch.tensor([[3.0, 1.0, -1.0], [-3.0, 2.0, 0.0]])
    assert torch.equal(round_activations(x, 3, largest=3.0), expected)


def test_a_held_out_scalar_comes_back_and_its_token_is_rounded_as_if_it_were_not_there() -> None:
    # Without the 600, the first token's largest is 6, as in the first test; the second token is as it was.
    x = torch.tensor([[-6.0, 2.9, 600.123, 0.9], [0.75, -0.3, 0.1, 0.38]])
    expected = torch.tensor([[-6.0, 2.0, 600.123, 0.0], [0.75, -0.25, 0.0, 0.5]])
    assert torch.equal(round_activations(x, 3, keep=hold([0], [2])), expected)
    assert not torch.equal(round_activations(x, 3)[0, :2], expected[0, :2])


def test_the_median_is_that_of_the_other_channels_of_the_same_token() -> None:
    x = torch.tensor([[1.0, 900.0, 3.0, 7.0], [5.0, 800.0, 2.0, 700.0]])
    # Token 0: 1, 3, 7 -> 3. Token 1, two held out: 5, 2 -> the lower.
    replaced = replace_by_median_(x, hold([0, 1, 1], [1, 1, 3]))
    assert replaced.tolist() == [[1.0, 3.0, 3.0, 7.0], [5.0, 2.0, 2.0, 2.0]]
    assert replaced is x


def test_a_token_all_of_whose_channels_are_held_out_comes_back() -> None:
    x = torch.tensor([[3.3, -8.1], [1.0, 0.4]])
    rounded = round_activations(x, 2, keep=hold([0, 0], [0, 1]))
    assert rounded.tolist() == [x[0].tolist(), [1.0, 0.0]]


def test_the_largest_token_of_each_sequence_is_found_channel_by_channel() -> None:
    # Two sequences of three tokens; channels 0 and 2.
    x = torch.tensor([[1.0, 9, 2], [-5, 9, 2], [3, 9, -4], [0, 9, 1], [0, 9, 1], [-2, 9, 0]])
    rows, channels = find_largest_tokens(x.view(2, 3, 3), 3, torch.tensor([0, 2]))
    # Of two that are equal, the first.
    assert list(zip(rows.tolist(), channels.tolist(), strict=True)) == [(1, 0), (2, 2), (5, 0), (3, 2)]
    flat = find_largest_tokens(x, 3, torch.tensor([0, 2]))
    assert torch.equal(flat[0], rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_dtype_stays_and_zeros_stay_zero(dtype: torch.dtype) -> None:
    x = torch.zeros(2, 3, 5, dtype=dtype)
    rounded = round_activations(x, 8)
    assert rounded.dtype is dtype
    assert rounded.shape == x.shape
    assert torch.equal(rounded, x)


@pytest.mark.parametrize(("bits", "dtype"), [(1, torch.float32), (9, torch.float32), (8, torch.int32)])
def test_what_cannot_be_rounded_is_refused(bits: int, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="2 to 8 bits"):
        round_activations(torch.ones(2, 2, dtype=dtype), bits)


@st.composite
def activations(draw: st.DrawFn) -> torch.Tensor:
    tokens, channels = draw(st.integers(1, 6)), draw(st.integers(2, 9))
    size = draw(st.sampled_from([1e-6, 1.0, 3e4]))
    chance = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    x = torch.randn(tokens, channels, generator=chance, dtype=torch.float64) * size
    if draw(st.booleans()):
        x[draw(st.integers(0, tokens - 1)), draw(st.integers(0, channels - 1))] *= 1e4
    return x


@given(x=activations(), bits=st.integers(2, 8))
@settings(max_examples=80, deadline=None)
def test_the_error_is_at_most_half_a_step_and_a_second_rounding_changes_nothing(
    x: torch.Tensor, bits: int
) -> None:
    rounded = round_activations(x, bits)
    step = x.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    assert bool(((rounded - x).abs() <= step / 2 * (1 + 1e-9)).all())
    torch.testing.assert_close(round_activations(rounded, bits), rounded, rtol=1e-12, atol=0.0)


@given(x=activations(), bits=st.integers(2, 8), data=st.data())
@settings(max_examples=80, deadline=None)
def test_held_out_scalars_come_back_bit_for_bit_whatever_the_median_is_taken_over(
    x: torch.Tensor, bits: int, data: st.DataObject
) -> None:
    row = data.draw(st.integers(0, len(x) - 1))
    channel = data.draw(st.integers(0, x.shape[1] - 1))
    rounded = round_activations(x, bits, keep=hold([row], [channel]))
    assert torch.equal(rounded[row, channel], x[row, channel])
    # Any other value within the range of the rest in its place gives the same everywhere else.
    rest = torch.cat([x[row, :channel], x[row, channel + 1 :]])
    for other in (rest.min(), rest.max(), rest.mean()):
        put = x.clone()
        put[row, channel] = other
        expected = round_activations(put, bits)
        expected[row, channel] = x[row, channel]
        assert torch.equal(rounded, expected)


@given(x=activations(), bits=st.integers(2, 7), largest=st.floats(0.1, 1e4))
@settings(max_examples=60, deadline=None)
def test_with_a_given_range_nothing_leaves_it(x: torch.Tensor, bits: int, largest: float) -> None:
    rounded = round_activations(x, bits, largest=largest)
    assert float(rounded.abs().max()) <= largest * (1 + 1e-9)
    inside = x.abs() <= largest
    step = largest / (2 ** (bits - 1) - 1)
    assert bool(((rounded - x).abs()[inside] <= step / 2 * (1 + 1e-9)).all())


def test_scales_are_the_activations_range_over_the_weights_each_to_its_power() -> None:
    largest = torch.tensor([16.0, 4.0, 1.0])
    first = torch.tensor([[-4.0, 1.0, 0.25], [1.0, 0.5, 0.125]])
    second = torch.tensor([[2.0, -1.0, 4.0]])
    # Columns' maxima over both matrices: 4, 1, 4. At 0.5: sqrt(16 / 4), sqrt(4 / 1), sqrt(1 / 4).
    scales = find_smoothing_scales(largest, [first, second], 0.5)
    assert scales.tolist() == [2.0, 2.0, 0.5]


def test_alpha_moves_all_of_the_activations_range_or_all_of_the_weights() -> None:
    largest, weight = torch.tensor([8.0, 2.0]), torch.tensor([[0.5, -4.0]])
    assert find_smoothing_scales(largest, [weight], 1.0).tolist() == [8.0, 2.0]
    assert find_smoothing_scales(largest, [weight], 0.0).tolist() == [2.0, 0.25]


def test_silent_channels_have_a_small_scale_and_not_zero() -> None:
    scales = find_smoothing_scales(torch.tensor([0.0, 3.0]), [torch.tensor([[1.0, 0.0]])], 0.5)
    assert scales[0] == pytest.approx(SMALLEST)
    # sqrt(3 / 1e-5)
    assert float(scales[1]) == pytest.approx(547.7226, rel=1e-6)


@pytest.mark.parametrize(
    ("largest", "weights", "alpha"),
    [
        ([1.0], [], 0.5),
        ([1.0], [[[1.0]]], 1.5),
        ([float("inf")], [[[1.0]]], 0.5),
        ([1.0], [[[float("nan")]]], 0.5),
    ],
)
def test_what_has_no_scale_is_refused(
    largest: list[float], weights: list[list[list[float]]], alpha: float
) -> None:
    with pytest.raises(ValueError, match=r"matrices|finite"):
        find_smoothing_scales(torch.tensor(largest), [torch.tensor(weight) for weight in weights], alpha)


@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 6),
    columns=st.integers(1, 8),
    alpha=st.floats(0, 1),
    hot=st.floats(1, 1e4),
)
@settings(max_examples=60, deadline=None)
def test_divided_activations_and_multiplied_weights_give_the_same_product(
    seed: int, rows: int, columns: int, alpha: float, hot: float
) -> None:
    chance = torch.Generator().manual_seed(seed)
    x = torch.randn(5, columns, generator=chance, dtype=torch.float64)
    x[:, 0] *= hot
    weight = torch.randn(rows, columns, generator=chance, dtype=torch.float64)
    scales = find_smoothing_scales(x.abs().amax(0), [weight], alpha).double()
    assert bool((scales > 0).all())
    torch.testing.assert_close((x / scales) @ (weight * scales).T, x @ weight.T, rtol=1e-9, atol=1e-9)
    if alpha == 1 and bool((x.abs().amax(0) > SMALLEST).all()):
        torch.testing.assert_close((x / scales).abs().amax(0), torch.ones(columns, dtype=torch.float64))
