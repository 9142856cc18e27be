"""GPTQ, AWQ and auto-round: integers packed into words of 32 bits, along the input or along the output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sw_audit.checkpoint.formats.format import Format, Headers, Packing, hold_shape, register
from sw_audit.checkpoint.formats.patterns import ModulePattern, flatten
from sw_audit.checkpoint.formats.scales import Scale
from sw_audit.record.checkpoint import Flaw


@register
class Gptq(Format):
    """Words along the input."""

    method = "gptq"
    packages: tuple[str, ...] = ("gptqmodel", "optimum", "accelerate")
    extra = "gptq"
    packings: tuple[Packing, ...] = (Packing(".qweight", ".scales"),)
    select_keys = ("modules_in_block_to_quantize", *Format.select_keys)
    module_packages: tuple[str, ...] = ("gptqmodel.", "optimum.")
    loggers: tuple[str, ...] = ("gptqmodel", "optimum")
    packed_along_input = True

    def list_patterns(self, settings: Mapping[str, Any]) -> tuple[ModulePattern, ...]:
        """List also GPTQModel's `dynamic`: `-:` leaves out, `+:` and nothing choose other settings."""
        dynamic = [
            ModulePattern(
                "dynamic", text, "skip" if text.startswith("-:") else "adjust", expression=text.lstrip("+-:")
            )
            for text in flatten(settings.get("dynamic"))
        ]
        return (*super().list_patterns(settings), *dynamic)

    def lint_shapes(self, settings: Mapping[str, Any], headers: Headers) -> Iterator[Flaw]:
        """Hold shapes of codes and scales against bits and group size."""
        bits, group = settings.get("bits"), settings.get("group_size")
        # Libraries that set bits module by module say so under these keys.
        mixed = any(settings.get(key) for key in ("dynamic", "extra_config", "modules_in_block_to_quantize"))
        # Kernels other than the usual ones have layouts of their own.
        layout = str(settings.get("version") or settings.get("checkpoint_format") or "").lower()
        if not isinstance(bits, int) or mixed or layout.startswith(("gemv", "marlin")):
            return
        for name, header in headers.items():
            scales = headers.get(name.removesuffix(".qweight") + ".scales")
            if not name.endswith(".qweight") or header.dtype != "I32" or scales is None or len(header.shape) != 2:
                continue
            # Scales are (groups, outputs) in both.
            rows, columns = header.shape
            per_word = 32 / bits
            inputs, outputs = (rows * per_word, columns) if self.packed_along_input else (rows, columns * per_word)
            groups = -(-inputs // group) if isinstance(group, int) and group > 0 else 1
            if scales.shape != (groups, outputs):
                found = (
                    f"shape {list(header.shape)} and scales {list(scales.shape)} do not go with bits = {bits}, "
                    f"group_size = {group}"
                )
                yield Flaw(kind="mismatched-tensor", where=name, found=found)
            zeros = headers.get(name.removesuffix(".qweight") + ".qzeros")
            if zeros is None and settings.get("sym") is False:
                found = "config.json says sym = false, and zero points are missing"
                yield Flaw(kind="missing-tensor", where=name.removesuffix(".qweight") + ".qzeros", found=found)
            elif zeros is not None and 32 % bits == 0 and scales.shape == (groups, outputs):
                said = f"bits = {bits}, group_size = {group}"
                yield from hold_shape(
                    name.removesuffix(".qweight") + ".qzeros",
                    zeros.shape,
                    (int(groups), int(outputs * bits) // 32),
                    said,
                )

    def find_scale(self, module: Any, row: int, column: int, shape: tuple[int, int]) -> Scale | None:
        """Find the scale of a group of inputs, which may be in another order than inputs are."""
        scales, order = getattr(module, "scales", None), getattr(module, "g_idx", None)
        if scales is None or scales.ndim != 2 or scales.shape[1] != shape[0]:
            return None
        group = column * scales.shape[0] // shape[1]
        if order is not None and len(order) == shape[1]:
            group = int(order[column])
        return Scale(float(scales[group, row]))


@register
class Awq(Gptq):
    """Words along the output."""

    method = "awq"
    packages = ("gptqmodel", "accelerate")
    packed_along_input = False


@register
class AutoRound(Gptq):
    """Words along the input, with settings module by module."""

    method = "auto-round"
    packages = ("auto_round", "accelerate")
    extra = "auto-round"
    packings = (Packing(".qweight", ".scales"), Packing(".weight_packed", ".weight_scale", exponents=True))
    module_packages = ("auto_round.",)
    loggers = ("auto_round",)

    def list_patterns(self, settings: Mapping[str, Any]) -> tuple[ModulePattern, ...]:
        """List also the settings by name; 16 bits and more leave a module as it is."""
        named = [
            ModulePattern(
                "extra_config",
                text,
                "skip" if isinstance(own, Mapping) and (own.get("bits") or 0) >= 16 else "adjust",
            )
            for text, own in (settings.get("extra_config") or {}).items()
        ]
        return (*super().list_patterns(settings), *named)

    def lint_shapes(self, settings: Mapping[str, Any], headers: Headers) -> Iterator[Flaw]:  # noqa: ARG002
        """Claim nothing: its layouts differ by version and by target."""
        return iter(())
