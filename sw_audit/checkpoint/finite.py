"""Weights that are no numbers."""

from __future__ import annotations

import torch

from sw_audit.checkpoint.source import quote_source
from sw_audit.errors import BrokenWeightsError
from sw_audit.policy.policy import ModelPolicy


def refuse_non_finite(name: str, tensor: torch.Tensor, wanted: ModelPolicy) -> None:
    """Refuse a tensor that holds NaN or an infinity.

    Args:
        name: Its qualified name.
        tensor: The tensor; one that is no floating tensor passes.
        wanted: The model it belongs to.

    Raises:
        BrokenWeightsError: Naming the tensor and what it holds.
    """
    if tensor.numel() == 0 or not tensor.is_floating_point():
        return
    # One pass without a mask as large as the tensor: a NaN or an infinity always reaches an extreme.
    low, high = torch.aminmax(tensor.detach())
    if not torch.isfinite(low + high * 0):
        kind = "NaN" if torch.isnan(low) else "an infinity"
        found = f"tensor {name!r} holds {kind}"
        remedy = "repair the weights or take an earlier checkpoint"
        raise BrokenWeightsError(quote_source(wanted), found, remedy, kind="non-finite", where=name)
