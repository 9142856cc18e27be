"""torchao: weight-only int8 and int4.

Its `Int4WeightOnlyConfig` has kernels for GPUs alone (torchao 0.18 asks for the package mslk or for CUDA), so
int4 is `IntxWeightOnlyConfig`, which rounds to the same grid and keeps a byte per weight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sw_audit.backends.method import GROUP, Method, Packed, register


def pack_int8(linear: nn.Linear) -> Packed:
    """Quantize to 8 bits, symmetric, one scale per row."""
    from torchao.quantization import Int8WeightOnlyConfig

    return _quantize(linear, Int8WeightOnlyConfig())


def pack_int4(linear: nn.Linear) -> Packed:
    """Quantize to 4 bits, symmetric, 64 weights of a row to a scale."""
    from torchao.quantization import IntxWeightOnlyConfig, PerGroup

    if linear.in_features % GROUP:
        raise ValueError(f"groups of {GROUP} do not divide {linear.in_features} input channels")
    kind = torch.int4  # type: ignore[attr-defined]  # it is there, torch's stubs do not say so
    return _quantize(linear, IntxWeightOnlyConfig(weight_dtype=kind, granularity=PerGroup(GROUP)))


def _quantize(linear: nn.Linear, config: Any) -> Packed:
    from torchao.quantization import quantize_

    # It puts another weight into the modules below the one that it is given.
    holder = nn.Sequential(linear)
    quantize_(holder, config)
    return Packed(linear, (linear.weight.data,))


register(
    Method(
        "torchao-int8",
        "torchao",
        "0.15",
        order=20,
        what="int8, weights only",
        settings="Int8WeightOnlyConfig, one scale per row",
        pack=pack_int8,
    ),
    Method(
        "torchao-int4",
        "torchao",
        "0.15",
        order=20,
        what="int4, weights only",
        settings=f"IntxWeightOnlyConfig, groups of {GROUP}, a byte per weight (the 4-bit kernels are for GPUs)",
        pack=pack_int4,
    ),
)
