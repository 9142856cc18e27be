"""Small floats that transformers opens dequantized (FP8, MXFP8, MXFP4 of gpt-oss), and FP8 as FBGEMM stores it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sw_audit.checkpoint.formats.format import (
    Decoded,
    Description,
    Format,
    Headers,
    OpenModel,
    Packing,
    count_dtypes,
    hold_shape,
    register,
)
from sw_audit.checkpoint.formats.scales import E4M3, Scale, multiply, pick_scale
from sw_audit.checkpoint.headers import TensorHeader
from sw_audit.record.checkpoint import Flaw, QuantizedModule

if TYPE_CHECKING:
    from torch import Tensor

    from sw_audit.checkpoint.stored import StoredTensors

_CODES = ("F8_E4M3", "F8_E5M2")
_SCALES = ("_scale_inv", "_scale")
_WEIGHT_SCALE = Packing(".weight", ".weight_scale", needs_scales=False, exponents=True)


@register
class Fp8(Format):
    """Codes under the name of the weight, with a scale per block (DeepSeek)."""

    method = "fp8"
    packages = ("accelerate",)
    extra = "fp8"
    dequantized = True
    packings: tuple[Packing, ...] = (Packing(".weight", ".weight_scale_inv", needs_scales=False), _WEIGHT_SCALE)

    def lint_shapes(self, settings: Mapping[str, Any], headers: Headers) -> Iterator[Flaw]:
        """Hold scales against the size of a block."""
        block = settings.get("weight_block_size")
        if not (
            isinstance(block, list | tuple) and len(block) == 2 and all(isinstance(one, int) for one in block)
        ):
            return
        for name, header in headers.items():
            scales = headers.get(f"{name}_scale_inv")
            if header.dtype in _CODES and scales is not None and len(header.shape) == len(scales.shape) == 2:
                expected = [-(-size // length) for size, length in zip(header.shape, block, strict=True)]
                yield from hold_shape(f"{name}_scale_inv", scales.shape, expected, f"weight_block_size = {block}")

    def decode(self, weight: str, stored: StoredTensors, settings: Mapping[str, Any]) -> Decoded | None:  # noqa: ARG002
        """Multiply small floats by the scales of their blocks."""
        scale = next((weight + ends for ends in _SCALES if weight + ends in stored.headers), None)
        header = stored.headers.get(weight)
        if scale is None or header is None or header.dtype not in _CODES:
            return None

        def read() -> Tensor | None:
            codes, scales = stored.read(weight), stored.read(scale)
            return None if codes is None or scales is None else multiply(codes, scales)

        return Decoded(read, header.shape)

    def describe(self, model: OpenModel) -> Description | None:
        """Describe what the files say, for nothing of it is left in the model."""
        headers, block = model.stored.headers, model.folder.quantization.get("weight_block_size")
        modules, scales = {}, {}
        for name, header in headers.items():
            if header.dtype in _CODES and name.endswith(".weight"):
                module = name.removesuffix(".weight")
                scale = next((name + ends for ends in _SCALES if name + ends in headers), None)
                group = _find_group(header, headers.get(scale or ""))
                size = int(block[1]) if isinstance(block, Sequence) else group
                modules[module] = QuantizedModule(module=module, bits=8, group=size)
                if scale is not None:
                    scales[module] = scale

        def find_scale(module: str, row: int, column: int, shape: tuple[int, int]) -> Scale | None:
            held = model.stored.read(scales[module]) if module in scales else None
            return None if held is None or held.ndim != 2 else Scale(pick_scale(held, row, column, shape), E4M3)

        words = count_dtypes(header.dtype for name, header in headers.items() if not name.endswith(_SCALES))
        return Description(modules, words, find_scale)


@register
class Mxfp8(Fp8):
    """Groups of 32 that share a power of two."""

    method = "mxfp8"
    packings = ()


@register
class FbgemmFp8(Format):
    """FP8 with a scale per row, which transformers opens with FBGEMM's own package."""

    method = "fbgemm_fp8"
    packings = (_WEIGHT_SCALE,)


def _find_group(codes: TensorHeader, scales: TensorHeader | None) -> int | None:
    if scales is None or len(scales.shape) != 2 or scales.shape[1] == 1:
        return None
    return -(-codes.shape[1] // scales.shape[1])


@register
class Mxfp4(Format):
    """Blocks of codes and their exponents."""

    method = "mxfp4"
    packages = ("accelerate",)
    extra = "fp8"
    dequantized = True
    packings = (Packing("_blocks", "_scales", exponents=True),)

    def lint_shapes(self, settings: Mapping[str, Any], headers: Headers) -> Iterator[Flaw]:  # noqa: ARG002
        """Hold exponents against blocks, of which each has one."""
        for name, header in headers.items():
            scales = headers.get(name.removesuffix("_blocks") + "_scales")
            if name.endswith("_blocks") and scales is not None:
                yield from hold_shape(
                    name.removesuffix("_blocks") + "_scales", scales.shape, header.shape[:-1], "one scale a block"
                )

    def decode(self, weight: str, stored: StoredTensors, settings: Mapping[str, Any]) -> Decoded | None:  # noqa: ARG002
        """Let transformers decode: blocks [experts, out, blocks of the input, bytes] become [experts, in, out]."""
        blocks, scales = (stored.headers.get(f"{weight}_{part}") for part in ("blocks", "scales"))
        if blocks is None or scales is None or len(blocks.shape) != 4 or scales.shape != blocks.shape[:-1]:
            return None

        def read() -> Tensor | None:
            import torch
            from transformers.integrations import mxfp4

            library: Any = mxfp4
            parts = [stored.read(f"{weight}_{part}") for part in ("blocks", "scales")]
            if any(part is None for part in parts):
                return None
            decoded: Tensor = library.convert_moe_packed_tensors(*parts, dtype=torch.float32)
            return decoded

        experts, outputs, count, size = blocks.shape
        return Decoded(read, (experts, 2 * count * size, outputs))

    def describe(self, model: OpenModel) -> Description | None:
        """Describe what the files say, for nothing of it is left in the model."""
        headers = model.stored.headers
        names = [name.removesuffix("_blocks") for name in headers if name.endswith("_blocks")]
        modules = {name: QuantizedModule(module=name, bits=4, group=32) for name in names}
        words = count_dtypes(header.dtype for header in headers.values())
        return Description(modules, words, lambda *_: None)
