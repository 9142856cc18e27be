"""torchao: weights that are tensor subclasses, whole rows or groups, with or without rounded activations."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from sw_audit.checkpoint.formats.format import (
    Decoded,
    Format,
    Headers,
    Packing,
    count_bits,
    hold_shape,
    join_words,
    register,
)
from sw_audit.checkpoint.formats.scales import E4M3, E5M2, Scale, pick_scale
from sw_audit.record.checkpoint import Flaw, QuantizedModule

if TYPE_CHECKING:
    from torch import Tensor

    from sw_audit.checkpoint.stored import StoredTensors

_UNPACKED = ("I8", "F8_E4M3", "F8_E5M2")
# What a tensor says of how activations are rounded, or scaled, before they meet it.
_ENTERING = ("act_quant_kwargs", "activation_quantization", "act_quant_scale", "act_pre_scale")
_LEVELS = {"torch.float8_e4m3fn": E4M3, "torch.float8_e5m2": E5M2}


@register
class Torchao(Format):
    """Weights of torchao."""

    method = "torchao"
    packages = ("torchao",)
    extra = "torchao"
    packings = (Packing("._weight_qdata", "._weight_scale", exponents=True),)
    module_packages = ("torch.ao.",)
    loggers = ("torchao", "torch.utils._pytree")

    def decode(self, weight: str, stored: StoredTensors, settings: Mapping[str, Any]) -> Decoded | None:  # noqa: ARG002
        """Let the library put the tensor together, by what the file says of it, and dequantize it."""
        begin = weight.removesuffix("weight") + "_weight_"
        parts = [name for name in stored.headers if name.startswith(begin)]
        told = stored.read_metadata(parts[0]).get(weight)
        if told is None or find_spec("torchao") is None:
            return None
        codes = stored.headers.get(f"{begin}qdata")
        # Others pack several codes into one entry, and tell the shape when they are put together.
        shape = codes.shape if codes is not None and codes.dtype in _UNPACKED else None
        return Decoded(partial(_decode, weight, told, parts, stored), shape)

    def rounds_activations(self, stored: StoredTensors, settings: Mapping[str, Any]) -> bool:  # noqa: ARG002
        """Tell by what the files say of each tensor."""
        told = {text for name in stored.headers for text in stored.read_metadata(name).values()}
        return any(_read_attributes(text).get(key) is not None for text in told for key in _ENTERING)

    def lint_shapes(self, settings: Mapping[str, Any], headers: Headers) -> Iterator[Flaw]:
        """Hold codes and scales against the one kind that the configuration names, where codes are not packed."""
        kinds = settings.get("quant_type") or {}
        known = (kinds["default"].get("_data") or {}) if list(kinds) == ["default"] else {}
        grain = (known.get("granularity") or {}).get("_data") or {}
        size = grain.get("group_size") or known.get("group_size")
        kind = str((known.get("weight_dtype") or {}).get("_data") or "")
        asymmetric = (known.get("mapping_type") or {}).get("_data") == "ASYMMETRIC"
        for name, header in headers.items():
            module = name.removesuffix("._weight_qdata")
            scales = headers.get(f"{module}._weight_scale")
            if module == name or scales is None or header.dtype not in _UNPACKED:
                continue
            if kind and kind.startswith("float") is not header.dtype.startswith("F"):
                found = f"it is stored as {header.dtype}, and config.json says {kind}"
                yield Flaw(kind="mismatched-tensor", where=name, found=found)
            elif isinstance(size, int) and len(header.shape) == 2 and header.shape[1] % size == 0:
                expected = (header.shape[0], header.shape[1] // size)
                yield from hold_shape(f"{module}._weight_scale", scales.shape, expected, f"group_size = {size}")
            if asymmetric and f"{module}._weight_zero_point" not in headers:
                found = (
                    f"config.json says that {module} is rounded asymmetrically, and its zero points are missing"
                )
                yield Flaw(kind="missing-tensor", where=f"{module}._weight_zero_point", found=found)

    def describe_settings(self, settings: Mapping[str, Any], modules: Iterable[QuantizedModule]) -> str:
        """Say which configuration object it was made with."""
        kind = (settings.get("quant_type") or {}).get("default")
        name = str(kind.get("_type")) if isinstance(kind, Mapping) else ""
        return join_words(name, str(settings.get("format") or ""), count_bits(modules))

    def describe_module(self, name: str, module: Any, settings: Mapping[str, Any]) -> QuantizedModule | None:
        """Describe a module by what its weight says of itself."""
        weight = module._parameters.get("weight")
        if not hasattr(weight, "__tensor_flatten__") or not hasattr(weight, "dequantize"):
            return super().describe_module(name, module, settings)
        codes = getattr(weight, "qdata", None)
        target = getattr(weight, "target_dtype", None) or getattr(codes, "dtype", None)
        digits = re.search(r"\d+", str(target))
        block = getattr(weight, "block_size", None)
        return QuantizedModule(
            module=name,
            bits=float(digits.group()) if digits else None,
            group=int(block[-1]) if block is not None and int(block[-1]) < weight.shape[-1] else None,
            activations=8 if getattr(weight, "act_quant_kwargs", None) is not None else None,
        )

    def find_scale(self, module: Any, row: int, column: int, shape: tuple[int, int]) -> Scale | None:
        """Find the scale of a row or group among those that the weight holds."""
        weight = module._parameters.get("weight")
        scales, codes = getattr(weight, "scale", None), getattr(weight, "qdata", None)
        if scales is None or not hasattr(weight, "dequantize"):
            return None
        if codes is None or not codes.is_floating_point():
            return Scale(pick_scale(scales, row, column, shape))
        levels = _LEVELS.get(str(codes.dtype))
        return None if levels is None else Scale(pick_scale(scales, row, column, shape), levels)


def _decode(weight: str, told: str, parts: Iterable[str], stored: StoredTensors) -> Tensor | None:
    from torchao.prototype.safetensors.safetensors_support import unflatten_tensor_state_dict

    read = {name: stored.read(name) for name in parts}
    made, _ = unflatten_tensor_state_dict(
        {name: one for name, one in read.items() if one is not None},
        {weight: told, "tensor_names": json.dumps([weight])},
    )
    decoded: Tensor | None = made[weight].dequantize().float() if weight in made else None
    return decoded


def _read_attributes(text: str) -> Mapping[str, Any]:
    try:
        told = json.loads(text)
    except ValueError:
        return {}
    attributes = told.get("_data") if isinstance(told, dict) else None
    return attributes if isinstance(attributes, dict) else {}
