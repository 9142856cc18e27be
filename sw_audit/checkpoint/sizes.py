"""How large a checkpoint is, on disk and in memory, from the headers of its files alone."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sw_audit.checkpoint.formats import find_base, find_format, find_gguf, is_adapter
from sw_audit.checkpoint.headers import FLOATS, SIZES, DamagedFileError
from sw_audit.checkpoint.inspection import list_weight_files
from sw_audit.checkpoint.source import find_folder, quote_source
from sw_audit.checkpoint.stored import Shape, open_stored
from sw_audit.errors import BrokenWeightsError
from sw_audit.policy.model_policy import ModelPolicy

_LAYER = re.compile(r"(?:layers|h|blocks|blk)\.(\d+)\.")
_WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Size:
    """How large a checkpoint is.

    Attributes:
        method: How its weights are stored: `plain`, `gguf`, `lora`, or the `quant_method` of its configuration.
        files: Number of weight files; of an adapter its base's too.
        stored: Their bytes.
        memory: Bytes of the weights in memory.
        layer: Bytes of the largest decoder layer in memory.
        hidden: Width of the residual stream; `None` if the configuration does not say.
        width: Bytes of one number of the residual stream.
        positions: Tokens that the model takes at once; `None` if the configuration does not say.
    """

    method: str
    files: int
    stored: int
    memory: int
    layer: int
    hidden: int | None
    width: int
    positions: int | None


def size_checkpoint(wanted: ModelPolicy) -> Size | None:
    """Say how large a checkpoint is; nothing is fetched and no weight is read.

    Codes count as they are stored, for most libraries keep them so; what transformers turns into plain numbers
    when it loads (GGUF, fine-grained FP8, MXFP4) counts as those.

    Args:
        wanted: The model.

    Returns:
        Its size; `None` for a hub repository that has not been fetched.

    Raises:
        CheckpointError: If there is no such checkpoint, or it is damaged.
    """
    folder = find_folder(wanted, fetch=False)
    if folder is None:
        return None
    try:
        files = list_weight_files(folder, wanted)
        shapes = open_stored(files).shapes
    except DamagedFileError as error:
        raise BrokenWeightsError(quote_source(wanted), error.found, error.remedy, where=error.where) from error
    config = _read_config(folder)
    width = _find_width(config, wanted, shapes)
    found = find_format(config)
    method = "gguf" if find_gguf(folder, wanted) else found.method if found else "plain"
    dequantized = method == "gguf" or (found is not None and found.dequantized)
    sizes = {name: _measure(shape, width, dequantized=dequantized) for name, shape in shapes.items()}
    layers: Counter[str] = Counter()
    for name, size in sizes.items():
        if (match := _LAYER.search(name)) is not None:
            layers[match[1]] += size
    text = config.get("text_config") or config
    own = Size(
        method=method,
        files=len(files),
        stored=sum(path.stat().st_size for path in files),
        memory=sum(sizes.values()),
        layer=max(layers.values(), default=0),
        hidden=next((text[key] for key in ("hidden_size", "n_embd", "d_model") if key in text), None),
        width=width,
        positions=text.get("max_position_embeddings"),
    )
    return _add_base(own, folder, wanted) if is_adapter(folder) else own


def _add_base(own: Size, folder: Path, wanted: ModelPolicy) -> Size | None:
    """Count an adapter with the model that it is put on."""
    base = size_checkpoint(find_base(folder, wanted))
    if base is None:
        return None
    return Size(
        method="lora",
        files=base.files + own.files,
        stored=base.stored + own.stored,
        memory=base.memory + own.memory,
        layer=base.layer + own.layer,
        hidden=base.hidden,
        width=base.width,
        positions=base.positions,
    )


def _measure(shape: Shape, width: int, *, dequantized: bool) -> int:
    """Return the bytes that a tensor takes in memory."""
    plain = shape.dtype in FLOATS or dequantized
    return shape.count * (width if plain else SIZES.get(shape.dtype, 1))


def _find_width(config: Mapping[str, Any], wanted: ModelPolicy, shapes: Mapping[str, Shape]) -> int:
    """Return the bytes of a number: by the dtype that is asked for, or else by configuration or files."""
    text = config.get("text_config") or {}
    keys = ("dtype", "torch_dtype")
    declared = next((part[key] for part in (config, text) for key in keys if part.get(key)), "")
    asked = declared if wanted.dtype == "auto" else wanted.dtype
    if asked in _WIDTHS:
        return _WIDTHS[str(asked)]
    floats = Counter(shape.dtype for shape in shapes.values() if shape.dtype in FLOATS)
    return FLOATS[floats.most_common(1)[0][0]] if floats else 4


def _read_config(folder: Path) -> dict[str, Any]:
    """Read config.json; nothing where there is none, as beside an adapter or a GGUF file."""
    path = folder / "config.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content if isinstance(content, dict) else {}
