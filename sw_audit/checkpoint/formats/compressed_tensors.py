"""compressed-tensors, which llm-compressor writes: integers and small floats, activations rounded or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from sw_audit.checkpoint.formats.format import Decoded, Format, Headers, Packing, hold_shape, register
from sw_audit.checkpoint.formats.patterns import ModulePattern, flatten
from sw_audit.checkpoint.formats.scales import E2M1, E4M3, Scale, pick_scale
from sw_audit.checkpoint.headers import FLOATS, SIZES
from sw_audit.record.checkpoint import Flaw, QuantizedModule

if TYPE_CHECKING:
    from torch import Tensor

    from sw_audit.checkpoint.stored import StoredTensors


# The dtypes of codes, by how they are called, type and bits.
_DTYPES = {
    (".weight", "int", 8): ("I8",),
    (".weight", "float", 8): ("F8_E4M3", "F8_E5M2"),
    **{(".weight_packed", "int", bits): ("I32",) for bits in (4, 8)},
    (".weight_packed", "float", 4): ("U8",),
}


@register
class CompressedTensors(Format):
    """Modules with a scheme of compressed-tensors."""

    method = "compressed-tensors"
    packages = ("compressed_tensors",)
    extra = "compressed-tensors"
    packings = (
        Packing(".weight_packed", ".weight_scale", exponents=True),
        Packing(".compressed", "", needs_scales=False),
        Packing(".weight", ".weight_scale", needs_scales=False, exponents=True),
    )

    def finish_(self, model: Any) -> None:
        """Unpack, which the library does at the first call of the whole model, and that may never come."""
        if hasattr(model, "ct_decompress_hook"):
            model.hf_quantizer.compressor.decompress_model(model)
        # The library unpacks some kinds (NVFP4) into bfloat16, whatever the model computes in.
        for module in model.modules():
            weight = module._parameters.get("weight")
            unpacked = "forward" in module.__dict__ and hasattr(module, "quantization_scheme")
            if unpacked and weight is not None and weight.is_floating_point() and weight.dtype != model.dtype:
                weight.data = weight.data.to(model.dtype)

    def decode(self, weight: str, stored: StoredTensors, settings: Mapping[str, Any]) -> Decoded | None:
        """Let the library decode, by the group of the configuration that a module is in; the dtype is its own."""
        module, headers = weight.removesuffix(".weight"), stored.headers
        scheme = _find_scheme(module, settings)
        packed, scales = headers.get(f"{weight}_packed"), headers.get(f"{weight}_scale")
        # Neither another order of inputs nor sparse ones, which the library unpacks elsewhere.
        if scheme is None or scales is None or f"{weight}_g_idx" in headers:
            return None
        shape: tuple[int, ...] | None = headers[weight].shape if weight in headers else None
        if packed is not None:
            told = stored.read(f"{weight}_shape") if f"{weight}_shape" in headers else None
            shape = (packed.shape[0], 2 * packed.shape[1]) if told is None else tuple(told.tolist())
        return Decoded(partial(_decode, weight, scheme, stored), shape)

    def rounds_activations(self, stored: StoredTensors, settings: Mapping[str, Any]) -> bool:  # noqa: ARG002
        """Tell by the groups of the configuration."""
        return any(group.get("input_activations") for group in _list_groups(settings))

    def list_patterns(self, settings: Mapping[str, Any]) -> tuple[ModulePattern, ...]:
        """List what is left out and the targets of each group; both may be names of classes."""
        ignored = [
            ModulePattern("ignore", text, "skip", matches_classes=True) for text in flatten(settings.get("ignore"))
        ]
        targets = [
            ModulePattern(f"config_groups.{name}.targets", text, "select", matches_classes=True)
            for name, group in (settings.get("config_groups") or {}).items()
            for text in flatten(group.get("targets"))
        ]
        others = [pattern for pattern in super().list_patterns(settings) if pattern.key != "ignore"]
        return (*ignored, *others, *targets)

    def lint_shapes(self, settings: Mapping[str, Any], headers: Headers) -> Iterator[Flaw]:
        """Hold codes, scales and zero points against the group of the configuration, if there is but one.

        Of several groups only the classes of modules tell which one a module is in.
        """
        groups = list((settings.get("config_groups") or {}).values())
        known = (groups[0].get("weights") or {}) if len(groups) == 1 else {}
        bits, strategy, size = known.get("num_bits"), known.get("strategy"), known.get("group_size")
        if not isinstance(bits, int):
            return
        for name, header in headers.items():
            ends = next((ends for ends in (".weight_packed", ".weight") if name.endswith(ends)), None)
            module = name.removesuffix(ends or "")
            scales = headers.get(f"{module}.weight_scale")
            # Of frozen ones that were not packed the numbers are plain, scales or not.
            if ends is None or scales is None or len(header.shape) != 2 or header.dtype in FLOATS:
                continue
            said = f"{bits} bits by {strategy}" + (f" of {size}" if size else "")
            wanted = _DTYPES.get((ends, str(known.get("type")), bits))
            if wanted is not None and header.dtype not in wanted:
                found = f"it is stored as {header.dtype}, and config.json says {known['type']} of {bits} bits"
                yield Flaw(kind="mismatched-tensor", where=name, found=found)
                continue
            per_entry = 8 * SIZES[header.dtype] // bits if ends == ".weight_packed" else 1
            rows, columns = header.shape[0], header.shape[1] * per_entry
            counts: dict[Any, tuple[int, ...]] = {"tensor": (1,), "channel": (rows, 1)}
            if isinstance(size, int) and size > 0 and 32 % bits == 0 and columns % size == 0:
                counts |= dict.fromkeys(("group", "tensor_group"), (rows, columns // size))
            if strategy in counts:
                yield from hold_shape(f"{module}.weight_scale", scales.shape, counts[strategy], said)
            if known.get("symmetric") is False and f"{module}.weight_zero_point" not in headers:
                found = (
                    f"config.json says that {module} is rounded asymmetrically, and its zero points are missing"
                )
                yield Flaw(kind="missing-tensor", where=f"{module}.weight_zero_point", found=found)

    def describe_module(self, name: str, module: Any, settings: Mapping[str, Any]) -> QuantizedModule | None:
        """Describe a module by its scheme."""
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is None or scheme.weights is None:
            return super().describe_module(name, module, settings)
        size, entering = scheme.weights.group_size, scheme.input_activations
        return QuantizedModule(
            module=name,
            bits=scheme.weights.num_bits,
            group=size if size and size > 0 else None,
            activations=None if entering is None else entering.num_bits,
        )

    def find_scale(self, module: Any, row: int, column: int, shape: tuple[int, int]) -> Scale | None:
        """Find the scale of a row, group or tensor, and where there is one the scale of scales."""
        scheme, scales = getattr(module, "quantization_scheme", None), getattr(module, "weight_scale", None)
        if scheme is None or scheme.weights is None or scales is None:
            return None
        factor = pick_scale(scales, row, column, shape)
        if scheme.weights.type == "int":
            return Scale(factor)
        if scheme.weights.num_bits == 8:
            return Scale(factor, E4M3)
        whole = getattr(module, "weight_global_scale", None)
        if whole is not None:
            factor /= float(whole.flatten()[0])
        elif scales.element_size() == 1 and not scales.is_floating_point():
            factor = 2.0 ** (factor - 127)
        return Scale(factor, E2M1)


def _list_groups(settings: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list((settings.get("config_groups") or {}).values())


def _find_scheme(module: str, settings: Mapping[str, Any]) -> Any:
    """Find the group that a module is in, as the library's own object with its format; `None` if it is not told.

    Of several groups, those that name modules come before the one that names their class.
    """
    if find_spec("compressed_tensors") is None:
        return None
    from compressed_tensors.quantization import QuantizationScheme

    groups = _list_groups(settings)
    named = [
        group
        for group in groups
        if any(ModulePattern("", text, "select").matches(module) for text in flatten(group.get("targets")))
    ]
    group = next(iter(named or groups), None)
    if group is None or (not named and len(groups) > 1):
        return None
    try:
        return QuantizationScheme.model_validate({"format": settings.get("format"), **group})
    except ValueError:
        return None


def _decode(weight: str, scheme: Any, stored: StoredTensors) -> Tensor | None:
    from compressed_tensors.compressors import BaseCompressor

    parts = [name for name in stored.headers if name == weight or name.startswith(f"{weight}_")]
    read = {name.rpartition(".")[2]: stored.read(name) for name in parts}
    if any(part is None for part in read.values()):
        return None
    try:
        made = BaseCompressor.get_value_from_registry(str(scheme.format)).decompress(read, scheme)
    except Exception:  # what does not fit together is told by others
        return None
    decoded: Tensor = made["weight"]
    return decoded.float()
