"""bitsandbytes: NF4 and FP4 in blocks along the flattened matrix, LLM.int8 with a scale per row."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from sw_audit.checkpoint.formats.format import Decoded, Format, Headers, Packing, join_words, register
from sw_audit.checkpoint.formats.scales import Scale
from sw_audit.record.checkpoint import Flaw, QuantizedModule

if TYPE_CHECKING:
    from torch import Tensor

    from sw_audit.checkpoint.folder import CheckpointFolder
    from sw_audit.checkpoint.stored import StoredTensors


@register
class Bitsandbytes(Format):
    """Modules of bitsandbytes."""

    method = "bitsandbytes"
    packages = ("bitsandbytes", "accelerate")
    extra = "bitsandbytes"
    packings = (
        Packing(".weight", ".weight.absmax", needs_scales=False),
        Packing(".weight", ".SCB", needs_scales=False),
    )
    names_in_transformers = ("bitsandbytes_4bit", "bitsandbytes_8bit")
    skip_keys = ("llm_int8_skip_modules", *Format.skip_keys)
    module_packages = ("bitsandbytes.",)
    loggers = ("bitsandbytes",)

    def recognizes(self, folder: CheckpointFolder) -> bool:
        """Tell by the method, or by the keys of a configuration from before there was one."""
        settings = folder.quantization
        named = settings.get("quant_method") == self.method
        return named or bool(settings.get("load_in_4bit") or settings.get("load_in_8bit"))

    def finish_(self, model: Any) -> None:  # noqa: ARG002
        """Silence, for good, what the library says at every single call of an int8 layer about the dtype."""
        logging.getLogger("bitsandbytes.autograd._functions").addFilter(_is_news)

    def decode(self, weight: str, stored: StoredTensors, settings: Mapping[str, Any]) -> Decoded | None:  # noqa: ARG002
        """Let the library decode: 4 bits by the state of the weight, 8 by the scales of its rows."""
        headers, module = stored.headers, weight.removesuffix(".weight")
        if find_spec("bitsandbytes") is None:
            return None
        if f"{module}.SCB" in headers:
            form = f"{module}.weight_format"
            told = stored.read(form) if form in headers else None
            # Older versions could store layouts of single kernels.
            plain = told is None or not bool(told.any())
            return Decoded(partial(_decode_rows, module, stored), headers[weight].shape) if plain else None
        parts = [name for name in headers if name.startswith(f"{weight}.")]
        state = next((name for name in parts if ".quant_state." in name), None)
        told = None if state is None else stored.read(state)
        if told is None:
            return None
        try:
            shape = tuple(int(size) for size in json.loads(bytes(told.tolist()))["shape"])
        except (ValueError, KeyError, TypeError):
            return None
        return Decoded(partial(_decode_blocks, weight, parts, stored), shape)

    def rounds_activations(self, stored: StoredTensors, settings: Mapping[str, Any]) -> bool:  # noqa: ARG002
        """LLM.int8 does."""
        return bool(settings.get("load_in_8bit") or settings.get("_load_in_8bit"))

    def lint_shapes(self, settings: Mapping[str, Any], headers: Headers) -> Iterator[Flaw]:
        """Hold the kind of codes, and whether scales are rounded themselves, against the configuration."""
        four = bool(settings.get("load_in_4bit") or settings.get("_load_in_4bit"))
        if not (four or settings.get("load_in_8bit") or settings.get("_load_in_8bit")):
            return
        double = bool(settings.get("bnb_4bit_use_double_quant"))
        asked = settings.get("bnb_4bit_quant_type", "fp4") if four else "int8"
        for name in headers:
            module, _, kind = name.partition(".quant_state.bitsandbytes__")
            if kind and kind != asked:
                found = f"it is stored as {kind}, and config.json says {asked}"
                yield Flaw(kind="mismatched-tensor", where=module, found=found)
            elif kind and (f"{module}.nested_absmax" in headers) is not double:
                said = "are to be rounded as well" if double else "are to be plain numbers"
                found = f"config.json says that its scales {said}, and they are not"
                yield Flaw(kind="mismatched-tensor", where=module, found=found)
            elif name.endswith(".SCB") and four:
                found = f"it is stored as int8, and config.json says {asked}"
                yield Flaw(kind="mismatched-tensor", where=name.removesuffix("SCB") + "weight", found=found)

    def describe_settings(self, settings: Mapping[str, Any], modules: Iterable[QuantizedModule]) -> str:  # noqa: ARG002
        """Say which of its kinds it is."""
        if settings.get("load_in_8bit"):
            threshold = settings.get("llm_int8_threshold", 6.0)
            return f"LLM.int8, columns of inputs beyond {threshold:g} in 16 bits"
        double = "double quantized" if settings.get("bnb_4bit_use_double_quant") else ""
        return join_words(str(settings.get("bnb_4bit_quant_type", "fp4")), double)

    def describe_module(self, name: str, module: Any, settings: Mapping[str, Any]) -> QuantizedModule | None:
        """Describe a module by the state of its weight."""
        if (state := getattr(module._parameters.get("weight"), "quant_state", None)) is not None:
            return QuantizedModule(module=name, bits=4, group=state.blocksize)
        if settings.get("load_in_8bit"):
            return QuantizedModule(module=name, bits=8, activations=8)
        return None

    def find_scale(self, module: Any, row: int, column: int, shape: tuple[int, int]) -> Scale | None:
        """Find the scale of a block, or of a row."""
        weight = module._parameters.get("weight")
        if (state := getattr(weight, "quant_state", None)) is not None:
            return _find_block_scale(state, row, column, shape[1])
        scales = getattr(weight, "SCB", None)
        scales = scales if scales is not None else getattr(getattr(module, "state", None), "SCB", None)
        return None if scales is None else Scale(float(scales[row]) / 127)


def _decode_rows(module: str, stored: StoredTensors) -> Tensor | None:
    from bitsandbytes.functional import int8_vectorwise_dequant

    codes, scales = stored.read(f"{module}.weight"), stored.read(f"{module}.SCB")
    if codes is None or scales is None:
        return None
    weight: Tensor = int8_vectorwise_dequant(codes, scales.float())
    return weight


def _decode_blocks(weight: str, parts: Iterable[str], stored: StoredTensors) -> Tensor | None:
    from bitsandbytes.functional import QuantState, dequantize_4bit

    codes, read = stored.read(weight), {name: stored.read(name) for name in parts}
    if codes is None:
        return None
    held = {name: one for name, one in read.items() if one is not None}
    state = QuantState.from_dict(held, device=codes.device)
    # The dtype that the weight had once: what codes stand for is rounded to it, as a module does it.
    decoded: Tensor = dequantize_4bit(codes, state)
    return decoded.float()


def _find_block_scale(state: Any, row: int, column: int, width: int) -> Scale:
    scales = state.absmax
    if state.nested:
        from bitsandbytes.functional import dequantize_blockwise

        scales = dequantize_blockwise(state.absmax, state.state2) + state.offset
    levels = state.code.float().sort().values.cpu().numpy()
    # On a CPU that multiplies bfloat16 the library packs anew at the first call: (blocks of a row, rows).
    if scales.ndim == 2:
        return Scale(float(scales[column // state.blocksize, row]), levels)
    return Scale(float(scales[(row * width + column) // state.blocksize]), levels)


def _is_news(record: logging.LogRecord) -> bool:
    return "inputs will be cast" not in record.msg
