"""GGUF files, written again with a change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def rewrite_gguf(file: Path, change_: Callable[[dict[str, Any]], object], **tensors: Callable[[Any], Any]) -> None:
    """Write a GGUF file again with other metadata, or other bytes of some tensors (`_` stands for a dot)."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter

    reader = GGUFReader(file)
    fields = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    values = {key: field.contents() for key, field in fields.items()}
    change_(values)
    draft = file.with_suffix(".draft")
    writer = GGUFWriter(draft, values.pop("general.architecture"))
    for key, value in values.items():
        kind = fields[key].types[0] if key in fields else GGUFValueType.get_type(value)
        inner = fields[key].types[-1] if key in fields and kind == GGUFValueType.ARRAY else None
        writer.add_key_value(key, value, kind, inner)
    for tensor in reader.tensors:
        data = tensors.get(tensor.name.replace(".", "_"), lambda data: data)(tensor.data.copy())
        writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    draft.replace(file)
