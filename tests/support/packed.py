"""A projection that keeps its weight packed, in a way that nobody but itself knows how to unpack."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class PackedLinear(nn.Module):
    """Multiplies by codes of 8 bits times a scale per row.

    Args:
        weight: What to pack, [out, in].
        bias: What is added, [out].
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        scales = weight.float().abs().amax(1) / 127
        self.register_buffer("codes", (weight.float() / scales[:, None]).round().to(torch.int8))
        self.register_buffer("scales", scales)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    def unpacked(self) -> Tensor:
        """Return the matrix that the codes stand for, float32 [out, in]."""
        codes: Any = self.codes
        scales: Any = self.scales
        found: Tensor = codes.float() * scales[:, None]
        return found

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.unpacked().to(x.dtype), self.bias)


def pack_projections_(model: nn.Module, ends: str = "_proj") -> nn.Module:
    """Put packed projections in the place of a model's own, and return the model."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name.endswith(ends):
            above, _, last = name.rpartition(".")
            setattr(model.get_submodule(above), last, PackedLinear(module.weight.detach(), module.bias))
    return model


def unpack_projections_(model: nn.Module) -> nn.Module:
    """Put plain projections with the same effective weights in the place of packed ones, and return the model."""
    for name, module in list(model.named_modules()):
        if isinstance(module, PackedLinear):
            above, _, last = name.rpartition(".")
            plain = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
            plain.weight = nn.Parameter(module.unpacked(), requires_grad=False)
            if module.bias is not None:
                plain.bias = module.bias
            setattr(model.get_submodule(above), last, plain)
    return model
