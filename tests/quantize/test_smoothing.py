"""SmoothQuant's scales: worked out by hand, and the law that smoothing changes no product."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sw_audit.quantize.smoothing import SMALLEST, find_smoothing_scales


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
        find_smoothing_scales(torch.tensor(largest), [torch.tensor(one) for one in weights], alpha)


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
