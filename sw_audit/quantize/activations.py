"""Activations rounded to integers and back, a few scalars kept as they are, and SmoothQuant's scales for them.

Symmetric, as in SmoothQuant's simulation (Xiao et al. 2023, released `fake_quant.py`):
`x' = step * round(x / step)`, `step = max|x| / (2 ** (bits - 1) - 1)`, halves to even. The maximum is that of each
token (the last dimension), or a given one, learned on other text; what lies beyond a given one is clipped.

A scalar that is kept (the paper's hold-out) is replaced by the median before ranges are taken, and put back bit
for bit after (Yu et al. 2024, section 4.1). The paper does not say over what the median is taken: here over the
other channels of the scalar's own token. Any median of values that share a range lies within that range, and what
is rounded in the scalar's place is thrown away, so the choice changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Kept = tuple[Tensor, Tensor]
"""Rows and channels of scalars that are kept, int64 [scalars] each."""


def round_activations(x: Tensor, bits: int, largest: float | None = None, keep: Kept | None = None) -> Tensor:
    """Round activations to a symmetric integer grid and back.

    Args:
        x: [..., channels], any floating dtype; computed in float32 at least.
        bits: 2 to 8.
        largest: The magnitude that the largest level stands for; by default each token's own largest.
        keep: Scalars that are kept, in `x` seen as [tokens, channels].

    Returns:
        A new tensor of the same shape and dtype.

    Raises:
        ValueError: If there are not 2 to 8 bits, or x is not floating.
    """
    if not 2 <= bits <= 8 or not x.is_floating_point():
        raise ValueError(f"floating activations and 2 to 8 bits are wanted, not {x.dtype} and {bits}")
    levels = 2 ** (bits - 1) - 1
    rows = x.reshape(-1, x.shape[-1])  # [tokens, channels]
    wide = rows.to(torch.promote_types(x.dtype, torch.float32))
    # Where all is 0, any step gives 0 again.
    step = _find_largest(wide, largest, keep).div_(levels)
    step.masked_fill_(step == 0, 1.0)
    grid = wide.div(step).round_()
    if largest is not None:
        grid.clamp_(-levels, levels)
    rounded = grid.mul_(step).to(x.dtype)
    if keep is not None:
        rounded[keep] = rows[keep]
    return rounded.reshape(x.shape)


def _find_largest(rows: Tensor, largest: float | None, keep: Kept | None) -> Tensor:
    """Return what the largest level stands for: each token's largest magnitude, [tokens, 1], or the given one."""
    if largest is not None:
        return torch.tensor(largest, dtype=rows.dtype, device=rows.device)
    largest_of = _find_magnitudes(rows)
    if keep is not None:
        tokens, places = torch.unique(keep[0], return_inverse=True)
        largest_of[tokens] = _find_magnitudes(replace_by_median_(rows[tokens], (places, keep[1])))
    return largest_of


def _find_magnitudes(rows: Tensor) -> Tensor:
    # Twice as fast as the maximum of the magnitudes: nothing of the input's size is written.
    return torch.maximum(rows.amax(-1, keepdim=True), rows.amin(-1, keepdim=True).neg_())


def find_largest_tokens(x: Tensor, length: int, channels: Tensor) -> Kept:
    """Find where each of some channels is largest, once per sequence.

    `x` is [..., channels], the tokens of one sequence after those of the other; channels are int64 [channels]. Of
    equal ones the first counts. Rows are those of `x` seen as [tokens, channels].
    """
    sequences = x.reshape(-1, length, x.shape[-1])[:, :, channels]  # [sequences, tokens, channels]
    tokens = sequences.abs().argmax(1)  # [sequences, channels]
    first = torch.arange(len(sequences), device=x.device)[:, None] * length
    return (tokens + first).flatten(), channels.repeat(len(sequences))


def replace_by_median_(x: Tensor, keep: Kept) -> Tensor:
    """Replace scalars by the median of the other channels of their own token, in place.

    Of an even number of channels it is the lower of the two in the middle; scalars kept together do not count. `x`
    is [tokens, channels].
    """
    rows, places = torch.unique(keep[0], return_inverse=True)
    tokens = x[rows]  # [few, channels]
    tokens[places, keep[1]] = torch.nan
    # Where all channels of a token are kept there is nothing else to be within the range of.
    x[keep] = tokens.nanmedian(-1).values[places].nan_to_num(0.0)
    return x


SMALLEST = 1e-5
"""Weights' maxima and scales are at least this, as in the released code: channels may be silent."""


def find_smoothing_scales(largest: Tensor, weights: Sequence[Tensor], alpha: float) -> Tensor:
    """Return SmoothQuant's scales of the channels that some matrices read together.

    `y = W x = (W diag(s)) (diag(1 / s) x)`, with `s_j = max|x_j| ** alpha / max|W_j| ** (1 - alpha)` (Xiao et al.
    2023, section 4, equation 4, and the released `smooth.py`).

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
