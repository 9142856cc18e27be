"""Descendants of a GGUF file as GGUF files: in other forms, and broken in ways that an engine loads in silence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.gguf_file import read_gguf
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.runner.single import locate_model

STORED = ("Q8_0", "Q5_1", "Q4_0")
"""Forms that the `gguf` package can store all matrices in."""
_SWAPPED = ("blk.5.ffn_gate.weight", "blk.11.ffn_gate.weight")
_ROPE, _TEMPLATE = "rope.freq_base", "tokenizer.chat_template"
_OWN = ("GGUF.", "general.architecture")
"""What the writer writes itself."""

Change = Callable[[str, Any, Any], tuple[Any, Any]]
"""From a tensor's name, data and type to data and type."""


def make_gguf_descendants(source: Path, folder: Path) -> Iterator[Path]:
    """Write descendants of a GGUF file into a folder; yield each, named by what was done.

    Sound: all matrices stored in another form. Broken: the scale doubled of the block that holds the first super
    weight, two matrices swapped, another base of the rotary embedding, another chat template.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for form in STORED:
        yield rewrite_gguf(source, folder / f"{form.lower()}.gguf", change=_store_as(form))
    yield _double_scale(source, folder / "scale-doubled.gguf")
    yield rewrite_gguf(source, folder / "swapped.gguf", change=_swap(source))
    architecture = read_gguf(source).fields["general.architecture"].contents()
    base = f"{architecture}.{_ROPE}"
    yield rewrite_gguf(source, folder / "rope-base.gguf", {base: 10_000.0})
    template = str(read_gguf(source).fields[_TEMPLATE].contents())
    yield rewrite_gguf(source, folder / "template.gguf", {_TEMPLATE: template.replace("assistant", "bot")})


def rewrite_gguf(
    source: Path,
    target: Path,
    values: Mapping[str, Any] = MappingProxyType({}),
    change: Change = lambda _, data, form: (data, form),
) -> Path:
    """Write a GGUF file again, with other values of keys that it has, and tensors changed; return the new file."""
    from gguf import GGUFValueType, GGUFWriter

    reader = read_gguf(source)
    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if not key.startswith(_OWN):
            kind = field.types[0]
            inner = field.types[-1] if kind == GGUFValueType.ARRAY else None
            writer.add_key_value(key, values.get(key, field.contents()), kind, inner)
    for tensor in reader.tensors:
        data, form = change(tensor.name, tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, data, raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _store_as(name: str) -> Change:
    from gguf import GGMLQuantizationType, quants

    form = GGMLQuantizationType[name]

    def change(_: str, data: Any, stored: Any) -> tuple[Any, Any]:
        plain = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16)
        if stored in plain:
            return data, stored
        return quants.quantize(quants.dequantize(data, stored), form), form

    return change


def _swap(source: Path) -> Change:
    stored = {tensor.name: tensor.data for tensor in read_gguf(source).tensors}
    other = dict(zip(_SWAPPED, reversed(_SWAPPED), strict=True))
    return lambda name, data, form: (stored[other[name]] if name in other else data, form)


def _double_scale(source: Path, target: Path) -> Path:
    from gguf import GGML_QUANT_SIZES

    weight = locate_model(open_checkpoint(ModelPolicy(source=str(source)))).super_weights[0]
    named = f"blk.{weight.layer}.ffn_down.weight"

    def change(name: str, data: Any, form: Any) -> tuple[Any, Any]:
        if name != named:
            return data, form
        values, size = GGML_QUANT_SIZES[form]
        changed = np.array(data)
        begin = weight.address.column // values * size
        scale = changed[weight.address.row, begin : begin + 2].view(np.float16)
        scale *= 2
        return changed, form

    return rewrite_gguf(source, target, change=change)
