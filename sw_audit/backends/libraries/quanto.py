"""quanto: int8 and int4 weights, in its own layer.

Its int4 layer unpacks its codes by an extension in C++ that it compiles at the first call, for minutes. The
codes are unpacked here without it, and a Linear multiplies by what they stand for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sw_audit.backends.method import Method, Packed, register


def pack_int8(linear: nn.Linear) -> Packed:
    """Quantize to 8 bits, symmetric, one scale per row."""
    from optimum import quanto

    module = _freeze(linear, quanto.qint8)
    return Packed(module, (module.weight,))


def pack_int4(linear: nn.Linear) -> Packed:
    """Quantize to 4 bits, asymmetric, groups of 128 or what fits; a plain Linear multiplies."""
    from optimum import quanto

    weight = _freeze(linear, quanto.qint4).weight
    unpacked = nn.Linear(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
    unpacked.weight = nn.Parameter(_dequantize(weight), requires_grad=False)
    unpacked.bias = linear.bias
    return Packed(unpacked.eval(), (weight,))


def _freeze(linear: nn.Linear, kind: Any) -> Any:
    from optimum import quanto

    module = quanto.QLinear.from_module(linear, weights=kind)
    module.freeze()
    return module.eval().requires_grad_(False)


def _dequantize(weight: Any) -> Tensor:
    """Return what a packed weight stands for, [out, in], as its `dequantize` would after compiling."""
    from optimum.quanto.tensor.grouped import ungroup

    packed = weight._data._data  # two codes a byte: the upper half of the rows in the upper four bits
    codes = torch.cat([packed & 15, packed >> 4])[: weight._data.shape[0]]
    values: Tensor = ungroup(weight._scale * codes - weight._shift, axis=weight.axis, orig_shape=weight.shape)
    return values.contiguous()


register(
    Method(
        "quanto-int8",
        "optimum-quanto",
        "0.2.7",
        order=40,
        what="int8, weights only",
        settings="QLinear, qint8, one scale per row",
        pack=pack_int8,
    ),
    Method(
        "quanto-int4",
        "optimum-quanto",
        "0.2.7",
        order=40,
        what="int4, weights only",
        settings="QLinear, qint4, groups of 128 or what fits, unpacked without its C++ extension",
        pack=pack_int4,
    ),
)
