"""What a quantized checkpoint needs beyond asking transformers for it, and what must be true of it afterwards."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sw_audit.checkpoint.effective import find_sizes, is_opaque
from sw_audit.checkpoint.formats import StoredFormat
from sw_audit.checkpoint.source import quote_source
from sw_audit.checkpoint.suppress_output import quiet_calls, suppress_output
from sw_audit.errors import BrokenWeightsError
from sw_audit.policy.model_policy import ModelPolicy

# No dtype that a model computes in takes fewer bytes.
_LEAST = 2
_AGAIN = "quantize again, or take an earlier checkpoint"


def choose_settings(stored: StoredFormat | None, config: Any, device: torch.device) -> dict[str, Any]:
    """Choose what else transformers is told when it loads weights.

    Args:
        stored: How they are stored; `None` if plainly.
        config: The configuration, which is told to dequantize where that is how a format is read.
        device: Where the model goes; quantized weights are made there, for some cannot be moved.
    """
    if stored is None:
        return {}
    if stored.dequantized and isinstance(getattr(config, "quantization_config", None), dict):
        config.quantization_config["dequantize"] = True
    # Left to itself a library takes any accelerator that it finds.
    return {"device_map": {"": str(device)}} if stored.mapped or device.type != "cpu" else {}


def unpack_(model: Any, stored: StoredFormat, wanted: ModelPolicy) -> None:
    """Bring a quantized model into the state that it computes in, and see that it is quantized at all.

    Args:
        model: The model, just loaded; changed.
        stored: How its weights are stored.
        wanted: What it is called, and the dtype to have it in.

    Raises:
        BrokenWeightsError: If nothing is quantized though its configuration says so, or codes are left over.
    """
    if hasattr(model, "ct_decompress_hook"):
        # compressed-tensors unpacks at the first call of the whole model, which may never come.
        with suppress_output():
            model.hf_quantizer.compressor.decompress_model(model)
    if stored.dequantized:
        for name, parameter in model.named_parameters():
            if parameter.dtype.itemsize < _LEAST:
                found = f"tensor {name!r} has codes and no scales"
                raise BrokenWeightsError(quote_source(wanted), found, _AGAIN, kind="missing-tensor", where=name)
        if wanted.dtype != "auto":
            model.to(getattr(torch, wanted.dtype))
        return
    for module in model.modules():
        _match_dtype_(module, model.dtype)
    quiet_calls()
    if not any(is_opaque(module) for module in model.modules()):
        found = f"config.json says {stored.method}, and no module of the model is quantized"
        remedy = "write the checkpoint again with the library that quantized it"
        raise BrokenWeightsError(
            quote_source(wanted), found, remedy, kind="config-without-codes", where="config.json"
        )


def refuse_noise(model: nn.Module, wanted: ModelPolicy) -> None:
    """Refuse packed weights that stand for anything not finite: every opaque module is called once.

    Raises:
        BrokenWeightsError: Naming the first module whose output is not finite.
    """
    dtype: torch.dtype = getattr(model, "dtype", torch.float32)
    for name, module in model.named_modules():
        if not is_opaque(module):
            continue
        _, columns = find_sizes(module) or (0, 0)
        device = next((one.device for one in (*module.parameters(), *module.buffers())), torch.device("cpu"))
        with torch.no_grad():
            output = module.forward(torch.ones(1, 2, columns, dtype=dtype, device=device))
        if not bool(output.isfinite().all()):
            found = f"module {name!r} gives outputs that are not finite"
            raise BrokenWeightsError(quote_source(wanted), found, _AGAIN, kind="non-finite", where=name)


def count_parameters(model: nn.Module) -> int:
    """Count a model's parameters, those that are packed as many as they stand for, scales and codebooks not."""
    count, inside = 0, set[int]()
    for module in model.modules():
        # What an opaque module is made of, such as the matrices of an adapter, is counted with it.
        if id(module) not in inside and is_opaque(module):
            rows, columns = find_sizes(module) or (0, 0)
            bias = getattr(module, "bias", None)
            count += rows * columns + (bias.numel() if isinstance(bias, torch.Tensor) else 0)
            inside |= {id(one) for part in module.modules() for one in (part, *part.parameters(recurse=False))}
    return count + sum(one.numel() for one in model.parameters() if id(one) not in inside)


def _match_dtype_(module: nn.Module, dtype: torch.dtype) -> None:
    """Bring a weight that was unpacked into one dtype (NVFP4: bfloat16) to the one that the model computes in."""
    weight = module._parameters.get("weight")
    unpacked = isinstance(module, nn.Linear) and "forward" in module.__dict__ and type(weight) is nn.Parameter
    if unpacked and weight is not None and weight.is_floating_point() and weight.dtype != dtype:
        weight.data = weight.data.to(dtype)
