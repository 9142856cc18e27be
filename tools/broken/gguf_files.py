"""GGUF files, written again with a change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

ChangeTensor = Callable[[str, Any, Any], tuple[Any, Any]]
"""From a tensor's name, data and type to data and type."""


def rewrite_gguf(file: Path, change_: Callable[[dict[str, Any]], object], **tensors: Callable[[Any], Any]) -> None:
    """Write a GGUF file again with other metadata, or other bytes of some tensors (`_` stands for a dot)."""

    def change(name: str, data: Any, form: Any) -> tuple[Any, Any]:
        changed = tensors.get(name.replace(".", "_"))
        return (data if changed is None else changed(data.copy())), form

    draft = file.with_suffix(".draft")
    copy_gguf(file, draft, change_, change)
    draft.replace(file)


def copy_gguf(
    source: Path,
    target: Path,
    change_: Callable[[dict[str, Any]], object] = lambda _: None,
    change: ChangeTensor = lambda _, data, form: (data, form),
) -> Path:
    """Write a GGUF file to another place with other metadata and tensors; return the new one."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter

    reader = GGUFReader(source)
    fields = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    values = {key: field.contents() for key, field in fields.items()}
    change_(values)
    writer = GGUFWriter(target, values.pop("general.architecture"))
    for key, value in values.items():
        kind = fields[key].types[0] if key in fields else GGUFValueType.get_type(value)
        inner = fields[key].types[-1] if key in fields and kind == GGUFValueType.ARRAY else None
        writer.add_key_value(key, value, kind, inner)
    for tensor in reader.tensors:
        data, form = change(tensor.name, tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, data, raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
