"""SmoothQuant's scales: part of the activations' range is moved into the weights, channel by channel.

`y = W x = (W diag(s)) (diag(1 / s) x)`, with `s_j = max|x_j| ** alpha / max|W_j| ** (1 - alpha)` (Xiao et al.
2023, section 4, equation 4, and the released `smooth.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SMALLEST = 1e-5
"""Weights' maxima and scales are at least this, as in the released code: channels may be silent."""


def find_smoothing_scales(largest: Tensor, weights: Sequence[Tensor], alpha: float) -> Tensor:
    """Return the scales of the channels that some matrices read together.

    Args:
        largest: The largest magnitude of each channel on calibration text, [in].
        weights: The matrices, (out, in) each.
        alpha: 0 to 1: how much of the activations' range is moved.

    Returns:
        Float32 [in], positive: what activations are divided by and the matrices' columns multiplied by.

    Raises:
        ValueError: If there is no matrix, alpha lies outside of 0 to 1, or a maximum is not finite.
    """
    if not weights or not 0 <= alpha <= 1:
        raise ValueError(f"{len(weights)} matrices and alpha {alpha}: at least one is wanted, and 0 to 1")
    columns = torch.stack([weight.abs().amax(0).float() for weight in weights]).amax(0)  # [in]
    if not bool(largest.isfinite().all()) or not bool(columns.isfinite().all()):
        raise ValueError("a channel whose maximum is not finite has no scale")
    scales = largest.float() ** alpha / columns.clamp(min=SMALLEST) ** (1 - alpha)
    return scales.clamp(min=SMALLEST)
