"""bitsandbytes: QLoRA's NF4 (Dettmers et al. 2023) and LLM.int8 (Dettmers et al. 2022)."""

from __future__ import annotations

from torch import nn

from sw_audit.backends.method import GROUP, Method, Packed, register

# Features beyond this are multiplied in half precision, the weight's row of scales notwithstanding.
_OUTLIER = 6.0


def pack_nf4(linear: nn.Linear) -> Packed:
    """Quantize to 4-bit normal floats, 64 weights of the flattened matrix to a scale."""
    import bitsandbytes

    module = bitsandbytes.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        compute_dtype=linear.weight.dtype,
        compress_statistics=False,
        quant_type="nf4",
        device="meta",
    )
    device = linear.weight.device
    module.weight = bitsandbytes.nn.Params4bit(
        linear.weight.detach().clone(),
        requires_grad=False,
        blocksize=GROUP,
        compress_statistics=False,
        quant_type="nf4",
        module=module,
    ).to(device)
    module.bias = linear.bias
    state = module.weight.quant_state
    return Packed(module.eval(), (module.weight.data, state.absmax, state.code))


def pack_int8(linear: nn.Linear) -> Packed:
    """Quantize to 8 bits, one scale per row; inputs are quantized too, outlier features left out."""
    import bitsandbytes

    module = bitsandbytes.nn.Linear8bitLt(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        has_fp16_weights=False,
        threshold=_OUTLIER,
        device="meta",
    )
    device = linear.weight.device
    module.weight = bitsandbytes.nn.Int8Params(
        linear.weight.detach().clone(), requires_grad=False, has_fp16_weights=False
    ).to(device)
    module.bias = linear.bias
    return Packed(module.eval(), (module.weight.data, module.weight.SCB))


register(
    Method(
        "bitsandbytes-nf4",
        "bitsandbytes",
        "0.46",
        order=10,
        what="QLoRA's 4-bit normal floats",
        settings=f"Linear4bit, nf4, blocks of {GROUP}, no double quantization",
        pack=pack_nf4,
    ),
    Method(
        "bitsandbytes-int8",
        "bitsandbytes",
        "0.46",
        order=10,
        what="LLM.int8",
        settings=f"Linear8bitLt, outlier threshold {_OUTLIER:g}",
        pack=pack_int8,
    ),
)
