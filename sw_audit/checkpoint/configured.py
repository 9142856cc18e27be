"""What a checkpoint's configuration says of quantization, held against what is found in the open model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sw_audit.checkpoint.dequantized import StoredCodes, read_codes, read_gguf
from sw_audit.checkpoint.described import describe_module, find_scale
from sw_audit.checkpoint.effective import is_opaque
from sw_audit.checkpoint.formats import (
    find_base,
    find_format,
    find_gguf,
    find_quantization,
    is_adapter,
    name_method,
)
from sw_audit.checkpoint.inspection import list_weight_files
from sw_audit.checkpoint.matrices import Matrix, is_conv1d
from sw_audit.checkpoint.opening import Checkpoint, require_folder
from sw_audit.checkpoint.patterns import Pattern, count_matches, is_left_out, list_patterns
from sw_audit.checkpoint.stored import open_stored
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.record.location import SuperWeight
from sw_audit.record.quantized import HeldScalar, QuantizationReport, QuantizedModule

# Beyond this part of an output, what differs from the product is more than the rounding of a dtype.
_ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-3}
_HALF_ROUNDING = 8e-3
# Down-projections that are tried for what they do to activations where no super weight names one.
_TRIED = 2


@dataclass(frozen=True)
class _Quantization:
    """A quantized checkpoint: its settings, its files, and how each module is stored."""

    method: str
    settings: Mapping[str, Any]
    files: tuple[Path, ...]
    modules: Mapping[str, QuantizedModule]
    codes: StoredCodes | None


def describe_quantization(
    checkpoint: Checkpoint, wanted: ModelPolicy, parent_super_weights: Sequence[SuperWeight] = ()
) -> QuantizationReport | None:
    """Describe how an open checkpoint is quantized, and what became of its parent's super weights.

    Args:
        checkpoint: The model, open.
        wanted: What it was opened by.
        parent_super_weights: The parent's, with their values there.

    Returns:
        `None` if nothing is quantized; of an adapter, what holds of its base.
    """
    folder = require_folder(wanted)
    if is_adapter(folder):
        wanted = find_base(folder, wanted)
        folder = require_folder(wanted)
    found = _find_quantization(checkpoint, folder, wanted)
    if found is None:
        return None
    patterns = list_patterns(found.settings)
    modules = dict(checkpoint.model.named_modules())
    projections = {name: one for name, one in modules.items() if _multiplies(one)}
    stored = {name.rpartition(".")[0] for name in open_stored(found.files).shapes}
    error = _measure_error(checkpoint, parent_super_weights)
    allowed = _ROUNDING.get(checkpoint.model.dtype, _HALF_ROUNDING)
    exact = error is None or error <= allowed
    return QuantizationReport(
        method=found.method,
        described=_describe(found),
        patterns=count_matches(patterns, modules, projections, stored),
        quantized=tuple(found.modules.values()),
        unquantized=tuple(_list_unquantized(checkpoint, found, patterns, modules)),
        exact=exact,
        because="" if exact or error is None else _tell_error(error),
        super_weights=tuple(_hold(checkpoint, found, one) for one in parent_super_weights),
    )


def _find_quantization(checkpoint: Checkpoint, folder: Path, wanted: ModelPolicy) -> _Quantization | None:
    gguf = find_gguf(folder, wanted)
    if gguf is not None:
        codes = read_gguf(folder / gguf, checkpoint.model.config.model_type, checkpoint.layers)
        return _Quantization("gguf", {}, (folder / gguf,), codes.modules, codes) if codes.modules else None
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings, stored = find_quantization(config), find_format(config)
    if settings is None or stored is None:
        return None
    files = list_weight_files(folder, wanted)
    if stored.dequantized:
        codes = read_codes(files, settings)
        return _Quantization(name_method(settings), settings, files, codes.modules, codes)
    described = {}
    for name, module in checkpoint.model.named_modules():
        # What an adapter is put on has a name of its own below the adapter's; the adapter's is the model's.
        if is_opaque(module) and ".base_layer" not in name and ".lora_" not in name:
            one = describe_module(name, module, settings)
            if one is not None:
                described[name] = one
    return _Quantization(name_method(settings), settings, files, described, None)


def _list_unquantized(
    checkpoint: Checkpoint, found: _Quantization, patterns: Sequence[Pattern], modules: Mapping[str, nn.Module]
) -> Iterator[str]:
    """Yield the decoder matrices that are stored as they were though no pattern leaves them out."""
    names = dict.fromkeys(one.parameter for layer in checkpoint.layers for one in layer.matrices)
    for parameter in names:
        name = parameter.removesuffix(".weight")
        module = modules.get(name)
        experts = name.rpartition(".")[0]
        # Experts that are fused in the model may lie apart in the files.
        coded = name in found.modules or (module is None and any(one.startswith(experts) for one in found.modules))
        if not coded and not is_left_out(patterns, name, module):
            yield parameter


def _hold(checkpoint: Checkpoint, found: _Quantization, weight: SuperWeight) -> HeldScalar:
    """Find out how one of the parent's super weights is stored, and what is left of it."""
    name = weight.parameter.removesuffix(".weight")
    module = found.modules.get(name)
    held = HeldScalar(address=weight.address, module=module, parent=weight.value, value=None)
    try:
        matrix = checkpoint.matrix(weight.parameter, weight.expert)
    except KeyError:
        return held
    rows, columns = matrix.shape
    if weight.row >= rows or weight.column >= columns:
        return held
    place = (torch.tensor([weight.row], device=matrix.device), torch.tensor([weight.column], device=matrix.device))
    value = float(matrix.read_scalars(*place)[0])
    step = _find_step(found, name, matrix, weight, value) if module is not None and math.isfinite(value) else None
    return held.model_copy(update={"value": value if math.isfinite(value) else None, "step": step})


def _find_step(found: _Quantization, name: str, matrix: Matrix, weight: SuperWeight, value: float) -> float | None:
    place = (weight.row, weight.column, matrix.shape)
    if found.codes is not None:
        scaled = found.codes.find_scale(name, *place)
    else:
        scaled = None if matrix.probed is None else find_scale(matrix.probed.module, *place)
    return None if scaled is None else scaled.step(value)


def _measure_error(checkpoint: Checkpoint, weights: Sequence[SuperWeight]) -> float | None:
    """Measure how far the modules that matter are from their matrices; `None` where none is packed."""
    named = {weight.parameter for weight in weights}
    downs = [one for layer in checkpoint.layers for one in layer.down_projections if one.probed is not None]
    chosen = [one for one in downs if one.parameter in named] or downs[:_TRIED]
    return max((one.probed.measure_error() for one in chosen if one.probed is not None), default=None)


def _tell_error(error: float) -> str:
    return (
        "what enters its modules is rounded as well: on random input their outputs are off by "
        f"{100 * error:.2g} % of what the weights alone give; changing a scalar changes that rounding with it"
    )


def _describe(found: _Quantization) -> str:
    """Say in a few words what a configuration asks for."""
    settings = found.settings
    words: list[str] = []
    if found.method == "bitsandbytes":
        if settings.get("load_in_8bit"):
            words = [
                "LLM.int8",
                f"columns of inputs beyond {settings.get('llm_int8_threshold', 6.0):g} in 16 bits",
            ]
        else:
            double = "double quantized" if settings.get("bnb_4bit_use_double_quant") else ""
            words = [str(settings.get("bnb_4bit_quant_type", "fp4")), double]
    elif found.codes is not None:
        words = [found.codes.words]
    else:
        kind = (settings.get("quant_type") or {}).get("default") if found.method == "torchao" else None
        words = [
            str(kind.get("_type")) if isinstance(kind, Mapping) else "",
            str(settings.get("format") or ""),
            _count_bits(found.modules.values()),
        ]
    return ", ".join(word for word in words if word)


def _count_bits(modules: Any) -> str:
    kinds = sorted({(one.bits, one.group, one.activations) for one in modules}, key=str)
    told = []
    for bits, group, activations in kinds:
        size = "" if group is None else f" in groups of {group}"
        entering = "" if activations is None else f", activations in {activations}"
        told.append(f"{'unknown' if bits is None else f'{bits:g}'} bits{size}{entering}")
    return " and ".join(told)


def _multiplies(module: nn.Module) -> bool:
    return is_opaque(module) or isinstance(module, nn.Linear) or is_conv1d(module)
