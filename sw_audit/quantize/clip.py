"""Where outliers are clipped before a range is taken."""

from __future__ import annotations

import torch

from sw_audit.facts.recipe import ZScoreClip
from sw_audit.quantize.groups import Region


def find_threshold(region: Region, clip: ZScoreClip, absent: torch.Tensor | None) -> torch.Tensor:
    """Return each group's clipping threshold, mean(|w|) + z * std(|w|) (the paper's released code).

    The standard deviation is the population's, so that a group of one weight has one.

    Args:
        region: The groups; absent weights are 0 in it.
        clip: Number of standard deviations.
        absent: Bool, the shape of the region's view: the weights that do not count.

    Returns:
        Shaped to broadcast against the region's view; not below the smallest, so that a range is left.
    """
    magnitudes = region.view.abs()
    counts: torch.Tensor | int = region.size
    missing: torch.Tensor | int = 0
    if absent is not None:
        missing = absent.sum(region.inner, keepdim=True)
        counts = (region.size - missing).clamp_(min=1)
    mean = magnitudes.sum(region.inner, keepdim=True) / counts
    # Absent weights are 0, so each adds mean ** 2 to the squares, which is taken off again.
    squares = magnitudes.sub_(mean).square_().sum(region.inner, keepdim=True) - missing * mean.square()
    return mean + clip.z * (squares / counts).clamp_(min=0).sqrt_()
