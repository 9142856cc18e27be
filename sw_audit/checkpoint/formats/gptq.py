"""GPTQ, AWQ and auto-round: integers packed into words of 32 bits, along the input or along the output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from sw_audit.checkpoint.formats.format import Decoded, Format, Headers, Packing, hold_shape, register
from sw_audit.checkpoint.formats.patterns import ModulePattern, flatten
from sw_audit.checkpoint.formats.scales import Scale
from sw_audit.checkpoint.formats.words import add_one, unpack_words
from sw_audit.record.checkpoint import Flaw

if TYPE_CHECKING:
    from torch import Tensor

    from sw_audit.checkpoint.stored import StoredTensors

# Rows whose scales are spread out at once.
_AT_ONCE = 1024
# In which order AWQ packs eight neighbours of 4 bits into a word.
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)


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

    def decode(self, weight: str, stored: StoredTensors, settings: Mapping[str, Any]) -> Decoded | None:
        """Multiply codes less their zero points by the scales of their groups.

        Bits are those that the shapes tell, for they may differ module by module.
        """
        layout = self.find_layout(settings)
        module, headers = weight.removesuffix(".weight"), stored.headers
        codes, zeros, scales = (headers.get(f"{module}.{part}") for part in ("qweight", "qzeros", "scales"))
        if layout is None or codes is None or zeros is None or scales is None:
            return None
        if {codes.dtype, zeros.dtype} != {"I32"} or {len(one.shape) for one in (codes, zeros, scales)} != {2}:
            return None
        groups, outputs = scales.shape
        bits = 32 * zeros.shape[1] // outputs if outputs else 0
        if not 2 <= bits <= 8 or zeros.shape != (groups, outputs * bits // 32) or (layout == "gemm" and bits != 4):
            return None
        inputs = codes.shape[0] if layout == "gemm" else codes.shape[0] * 32 // bits
        return Decoded(partial(_decode, module, stored, bits, layout), (outputs, inputs))

    def find_layout(self, settings: Mapping[str, Any]) -> str | None:
        """Find how codes lie in words: `gptq` and `gptq_v2` along the input, `gemm` along the output.

        The first version stores zero points less one. `None` is any other, such as those of single kernels.
        """
        named = str(settings.get("checkpoint_format") or settings.get("format") or self.method).lower()
        return named if named in ("gptq", "gptq_v2") else None

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

    def find_layout(self, settings: Mapping[str, Any]) -> str | None:
        """Find the one layout that is known."""
        named = (settings.get(key) for key in ("version", "checkpoint_format", "format"))
        return "gemm" if all(str(one).lower() in ("gemm", "awq") for one in named if one) else None


@register
class AutoRound(Gptq):
    """Words along the input, with settings module by module."""

    method = "auto-round"
    packages = ("auto_round", "accelerate")
    extra = "auto-round"
    packings = (Packing(".qweight", ".scales"), Packing(".weight_packed", ".weight_scale", exponents=True))
    module_packages = ("auto_round.",)
    loggers = ("auto_round",)

    def find_layout(self, settings: Mapping[str, Any]) -> str | None:
        """Find the layouts that it takes over from the others."""
        return {"auto_round:auto_gptq": "gptq", "auto_round:auto_awq": "gemm"}.get(
            str(settings.get("packing_format"))
        )

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


def _decode(module: str, stored: StoredTensors, bits: int, layout: str) -> Tensor | None:
    codes, zeros, scales = (stored.read(f"{module}.{part}") for part in ("qweight", "qzeros", "scales"))
    if codes is None or zeros is None or scales is None:
        return None
    if layout == "gemm":
        # Along the output, [in, words], and so are the zero points.
        numbers, offsets = (_reorder(unpack_words(words.T.contiguous(), bits)) for words in (codes, zeros))
        numbers = numbers.T.contiguous()
    else:
        carried = layout == "gptq" and 32 % bits == 0
        numbers = unpack_words(codes, bits)
        offsets = unpack_words((add_one(zeros, bits) if carried else zeros).T.contiguous(), bits)
        if layout == "gptq" and not carried:
            offsets = (offsets + 1) & (2**bits - 1)
    # [in, out], [out, groups], [groups, out]
    name = f"{module}.g_idx"
    order = stored.read(name) if name in stored.headers else None
    if order is not None and len(order) != len(numbers):
        return None
    weight = numbers.float()
    size = -(-len(weight) // len(scales))
    groups = weight.new_tensor(range(len(weight))).long() // size if order is None else order.long()
    if int(groups.min()) < 0 or int(groups.max()) >= len(scales):
        return None
    offsets, factors = offsets.T.contiguous(), scales.float()
    for begin in range(0, len(weight), _AT_ONCE):
        group = groups[begin : begin + _AT_ONCE]
        weight[begin : begin + _AT_ONCE].sub_(offsets[group]).mul_(factors[group])
    return weight.T


def _reorder(numbers: Tensor) -> Tensor:
    """Put every eight neighbours along the first axis into the order that they stand for."""
    eights = numbers.reshape(-1, len(_AWQ_ORDER), numbers.shape[1])
    return eights[:, list(_AWQ_ORDER)].reshape(numbers.shape)
