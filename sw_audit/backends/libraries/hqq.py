"""HQQ: half-quadratic quantization (Badri and Shaji 2023), in its own layer and on its pure torch backend."""

from __future__ import annotations

from torch import nn

from sw_audit.backends.method import GROUP, Method, Packed, register


def pack_int4(linear: nn.Linear) -> Packed:
    """Quantize to 4 bits, asymmetric, 64 weights to a scale and a zero point, both found by its optimizer."""
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    module = HQQLinear(
        linear,
        BaseQuantizeConfig(nbits=4, group_size=GROUP, axis=1),
        compute_dtype=linear.weight.dtype,
        device=str(linear.weight.device),
        del_orig=False,
    )
    return Packed(module.eval(), (module.W_q.data, module.meta["scale"], module.meta["zero"]))


register(
    Method(
        "hqq-int4",
        "hqq",
        "0.2.8",
        order=30,
        what="half-quadratic quantization",
        settings=f"HQQLinear, 4 bits, groups of {GROUP}, its optimizer on",
        pack=pack_int4,
    ),
)
