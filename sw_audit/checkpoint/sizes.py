"""How large a checkpoint is, on disk and in memory, from the headers of its files alone."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checkpoint.headers import FLOATS, SIZES, TensorHeader
from sw_audit.checkpoint.inspection import one_line_damage
from sw_audit.checkpoint.stored import StoredTensors, open_stored
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


def size_checkpoint(policy: ModelPolicy) -> Size | None:
    """Say how large a checkpoint is; nothing is fetched and no weight is read.

    Codes count as they are stored, for most libraries keep them so; what transformers turns into plain numbers
    when it loads (GGUF, fine-grained FP8, MXFP4) counts as those.

    Returns:
        Its size; `None` for a hub repository that has not been fetched.

    Raises:
        CheckpointError: If there is no such checkpoint, or it is damaged.
    """
    folder = CheckpointFolder.find(policy, fetch=False)
    if folder is None:
        return None
    with one_line_damage(folder):
        tensors = open_stored(folder)
    width, method = _find_width(folder, tensors), folder.format
    sizes = {
        name: _measure(header, width, dequantized=method.dequantized) for name, header in tensors.headers.items()
    }
    layers: Counter[str] = Counter()
    for name, size in sizes.items():
        if (match := _LAYER.search(name)) is not None:
            layers[match[1]] += size
    text = folder.declared.get("text_config") or folder.declared
    own = Size(
        method=method.method,
        files=len(folder.weight_files),
        stored=sum(path.stat().st_size for path in folder.weight_files),
        memory=sum(sizes.values()),
        layer=max(layers.values(), default=0),
        hidden=next((text[key] for key in ("hidden_size", "n_embd", "d_model") if key in text), None),
        width=width,
        positions=text.get("max_position_embeddings"),
    )
    if (base_policy := method.find_base(folder)) is None:
        return own
    # An adapter counts with the model that it is put on.
    base = size_checkpoint(base_policy)
    return base and replace(
        base,
        method=method.method,
        files=base.files + own.files,
        stored=base.stored + own.stored,
        memory=base.memory + own.memory,
        layer=base.layer + own.layer,
    )


def _measure(header: TensorHeader, width: int, *, dequantized: bool) -> int:
    """Return the bytes that a tensor takes in memory."""
    plain = header.dtype in FLOATS or dequantized
    return header.count * (width if plain else SIZES.get(header.dtype, 1))


def _find_width(folder: CheckpointFolder, tensors: StoredTensors) -> int:
    """Return the bytes of a number: by the dtype that is asked for, or else by configuration or files."""
    parts = (folder.declared, folder.declared.get("text_config") or {})
    declared = next((part[key] for part in parts for key in ("dtype", "torch_dtype") if part.get(key)), "")
    asked = declared if folder.policy.dtype == "auto" else folder.policy.dtype
    if asked in _WIDTHS:
        return _WIDTHS[str(asked)]
    floats = Counter(header.dtype for header in tensors.headers.values() if header.dtype in FLOATS)
    return FLOATS[floats.most_common(1)[0][0]] if floats else 4
