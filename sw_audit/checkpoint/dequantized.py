"""Formats that are opened as the numbers their codes stand for: what the files say of bits, groups and scales."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sw_audit.checkpoint.described import Scaled, list_levels, pick_scale
from sw_audit.checkpoint.matrices import DecoderLayer
from sw_audit.checkpoint.stored import Shape, open_stored
from sw_audit.record.quantized import QuantizedModule

_FP8 = ("F8_E4M3", "F8_E5M2")
_SCALES = ("_scale_inv", "_scale")
_GGUF_FLOATS = {"F32", "F16", "BF16", "F64"}


@dataclass(frozen=True)
class StoredCodes:
    """What the files of a dequantized model say.

    Attributes:
        modules: How each module is stored that is stored as codes, by its name in the model, or in the files.
        words: The same in a few words.
        scales: By name and scalar, how to find a scale; read when asked for.
    """

    modules: Mapping[str, QuantizedModule]
    words: str
    files: Sequence[Path] = ()
    names: Mapping[str, str] = field(default_factory=dict)

    def find_scale(self, module: str, row: int, column: int, shape: tuple[int, int]) -> Scaled | None:
        """Find the scale of one scalar's group; `None` where that is not known.

        Args:
            module: Name of the module.
            row: Output channel.
            column: Input channel.
            shape: Of its matrix, (out, in).
        """
        name = self.names.get(module)
        if name is None:
            return None
        if self.files[0].suffix == ".gguf":
            return _find_gguf_scale(self.files[0], name, row * shape[1] + column)
        held = open_stored(self.files).read(name)
        if held is None or held.ndim != 2:
            return None
        return Scaled(pick_scale(held, row, column, shape), list_levels(torch.float8_e4m3fn))


def read_codes(files: Sequence[Path], settings: Mapping[str, Any]) -> StoredCodes:
    """Read from safetensors files which modules are stored as FP8 or MXFP4 codes.

    Args:
        files: The files.
        settings: The configuration's quantization.
    """
    shapes = open_stored(files).shapes
    block = settings.get("weight_block_size")
    modules, names = {}, {}
    for name, shape in shapes.items():
        if name.endswith("_blocks"):
            module = name.removesuffix("_blocks")
            modules[module] = QuantizedModule(module=module, bits=4, group=32)
        elif shape.dtype in _FP8 and name.endswith(".weight"):
            module = name.removesuffix(".weight")
            size = int(block[1]) if isinstance(block, Sequence) else _find_group(name, shapes)
            modules[module] = QuantizedModule(module=module, bits=8, group=size)
            if (scales := next((name + ends for ends in _SCALES if name + ends in shapes), None)) is not None:
                names[module] = scales
    return StoredCodes(modules, _count_words(_name_dtypes(shapes)), tuple(files), names)


def read_gguf(file: Path, architecture: str, layers: Sequence[DecoderLayer]) -> StoredCodes:
    """Read from a GGUF file how each decoder matrix is stored.

    Args:
        file: The file.
        architecture: The model's `model_type`.
        layers: The decoder layers, whose matrices have other names there.
    """
    from gguf import GGML_QUANT_SIZES, MODEL_ARCH_NAMES, GGUFReader, get_tensor_name_map

    tensors = {one.name: one for one in GGUFReader(file).tensors}
    words = _count_words(one.tensor_type.name for one in tensors.values())
    found = next((arch for arch, name in MODEL_ARCH_NAMES.items() if name == architecture), None)
    if found is None:
        return StoredCodes({}, words)
    names = get_tensor_name_map(found, len(layers))
    modules, stored = {}, {}
    for matrix in (one for layer in layers for one in layer.matrices):
        module = matrix.parameter.removesuffix(".weight")
        name = names.get_name(matrix.parameter, try_suffixes=(".weight",))
        kind = tensors[name].tensor_type if name in tensors else None
        if name is None or kind is None or kind.name in _GGUF_FLOATS:
            continue
        count, size = GGML_QUANT_SIZES[kind]
        modules[module] = QuantizedModule(module=module, bits=8 * size / count, group=count)
        stored[module] = name
    return StoredCodes(modules, words, (file,), stored)


def _find_gguf_scale(file: Path, name: str, place: int) -> Scaled | None:
    """Read the scale of one block of the two simplest kinds; others nest scales in scales."""
    import numpy
    from gguf import GGML_QUANT_SIZES, GGUFReader

    tensor = next(one for one in GGUFReader(file).tensors if one.name == name)
    if tensor.tensor_type.name not in ("Q8_0", "Q4_0"):
        return None
    count, size = GGML_QUANT_SIZES[tensor.tensor_type]
    data = numpy.asarray(tensor.data).reshape(-1).view(numpy.uint8)
    begin = place // count * size
    return Scaled(float(data[begin : begin + 2].view(numpy.float16)[0]))


def _find_group(name: str, shapes: Mapping[str, Shape]) -> int | None:
    scales = next((shapes[name + ends] for ends in _SCALES if name + ends in shapes), None)
    if scales is None or len(scales.shape) != 2 or scales.shape[1] == 1:
        return None
    return -(-shapes[name].shape[1] // scales.shape[1])


def _name_dtypes(shapes: Mapping[str, Shape]) -> Iterable[str]:
    return (shape.dtype for name, shape in shapes.items() if not name.endswith(_SCALES))


def _count_words(kinds: Iterable[str]) -> str:
    counts = Counter(kinds)
    return ", ".join(f"{count} tensors as {kind}" for kind, count in counts.most_common())
