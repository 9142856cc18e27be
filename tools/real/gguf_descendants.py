"""Descendants of a GGUF file as GGUF files: in other forms, and broken in ways that an engine loads in silence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sw_audit.gguf_file import read_gguf
from sw_audit.record.location import SuperWeight
from tools.broken.gguf_files import ChangeTensor, copy_gguf

STORED = ("Q8_0", "Q5_1", "Q4_0")
"""Forms that the `gguf` package can store all matrices in."""
_SWAPPED = ".ffn_gate.weight"
"""Two of these change places, a third of the way from either end."""
_TEMPLATE = "tokenizer.chat_template"


def make_gguf_descendants(source: Path, folder: Path, weight: SuperWeight) -> Iterator[Path]:
    """Write descendants of a GGUF file into a folder; yield each, named by what was done.

    All matrices stored in another form; and broken: the scale doubled of the block that holds a super weight,
    two matrices swapped, another base of the rotary embedding, another chat template.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for form in STORED:
        yield copy_gguf(source, folder / f"{form.lower()}.gguf", change=_store_as(form))
    yield copy_gguf(source, folder / "scale-doubled.gguf", change=_double_scale(weight))
    yield copy_gguf(source, folder / "swapped.gguf", change=_swap(source))
    yield copy_gguf(source, folder / "rope-base.gguf", _turn_slower)
    yield copy_gguf(source, folder / "template.gguf", _rename_role)


def _turn_slower(values: dict[str, Any]) -> None:
    values[f"{values['general.architecture']}.rope.freq_base"] /= 10


def _rename_role(values: dict[str, Any]) -> None:
    values[_TEMPLATE] = values[_TEMPLATE].replace("assistant", "bot")


def _store_as(name: str) -> ChangeTensor:
    from gguf import GGMLQuantizationType, quants

    form = GGMLQuantizationType[name]

    def change(_: str, data: Any, stored: Any) -> tuple[Any, Any]:
        plain = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16)
        if stored in plain:
            return data, stored
        return quants.quantize(quants.dequantize(data, stored), form), form

    return change


def _swap(source: Path) -> ChangeTensor:
    stored = {tensor.name: tensor.data for tensor in read_gguf(source).tensors}
    alike = [name for name in stored if name.endswith(_SWAPPED)]
    pair = alike[len(alike) // 3], alike[-1 - len(alike) // 3]
    other = dict(zip(pair, reversed(pair), strict=True))
    return lambda name, data, form: (stored[other[name]] if name in other else data, form)


def _double_scale(weight: SuperWeight) -> ChangeTensor:
    from gguf import GGML_QUANT_SIZES

    def change(name: str, data: Any, form: Any) -> tuple[Any, Any]:
        if name != f"blk.{weight.layer}.ffn_down.weight":
            return data, form
        values, size = GGML_QUANT_SIZES[form]
        changed, begin = np.array(data), weight.address.column // values * size
        scale = changed[weight.address.row, begin : begin + 2].view(np.float16)
        scale *= 2
        return changed, form

    return change
