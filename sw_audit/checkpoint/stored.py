"""The tensors of a checkpoint's files as they are stored, whatever the kind of file, and how large they are."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from sw_audit.checkpoint.dtype import choose_dtype
from sw_audit.checkpoint.folder import CheckpointFolder, one_line_damage
from sw_audit.checkpoint.headers import FLOATS, SIZES, DamagedFileError, TensorHeader
from sw_audit.gguf_file import let_go_of_pages, read_gguf
from sw_audit.policy.model_policy import ModelPolicy

_GGUF = b"GGUF"
_MAPPED_AT_ONCE = 64 << 20
"""So many bytes of a file are read before it is mapped anew."""
_NUMBERS_AT_ONCE = 1 << 20
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "I32": torch.int32,
    "I64": torch.int64,
}
"""What torch calls the commonest dtypes of safetensors."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LAYER = re.compile(r"(?:layers|h|blocks|blk)\.(\d+)\.")
_WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}


class TensorFile(NamedTuple):
    """One file of tensors: its headers by name, and what reads one, which is `None` if nobody here can."""

    headers: Mapping[str, TensorHeader]
    read: Callable[[str], Tensor | None]
    read_metadata: Callable[[], Mapping[str, str]] = dict


@dataclass
class StoredTensors:
    """The tensors of some files, the last one of a name that comes twice; `read_all` counts in `scanned`."""

    files: Mapping[str, TensorFile]
    headers: dict[str, TensorHeader] = field(default_factory=dict)
    repeated: list[str] = field(default_factory=list)
    scanned: int = 0

    def __post_init__(self) -> None:
        for file in self.files.values():
            self.repeated += [name for name in file.headers if name in self.headers]
            self.headers |= file.headers

    @property
    def all_safetensors(self) -> bool:
        """Whether all files are safetensors, whose headers say everything."""
        return all(name.endswith(".safetensors") for name in self.files)

    def read(self, name: str) -> Tensor | None:
        """Read one tensor."""
        return self.files[self.headers[name].file].read(name)

    def read_metadata(self, name: str) -> Mapping[str, str]:
        """Read what the file that a tensor is in says beside its tensors; nothing where that is no safetensors."""
        return self.files[self.headers[name].file].read_metadata()

    def read_all(self) -> Iterator[tuple[str, Tensor]]:
        """Read every tensor once, in the order of the files."""
        for name in self.headers:
            if (tensor := self.read(name)) is not None:
                self.scanned += 1
                yield name, tensor


class _OneOpenFile:
    """Keeps one file of safetensors open, and opens it anew once much of it was read.

    A file is mapped: what was read of it counts as memory of the process as long as it is open.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: Any = None
        self._read = 0

    def open(self, path: Path, size: int = 0) -> Any:
        """Return the open file, from which so many bytes will be read."""
        self._read += size
        if path != self._path or self._read > _MAPPED_AT_ONCE:
            self._file = safe_open(path, framework="pt")
            self._path, self._read = path, size
        return self._file


def open_stored(folder: CheckpointFolder) -> StoredTensors:
    """Open a checkpoint's weight files for reading; DamagedFileError if one is damaged."""
    files: dict[str, TensorFile] = {}
    opened = _OneOpenFile()
    for path in folder.weight_files:
        if path.suffix == ".safetensors":
            files[path.name] = _open_safetensors(path, folder.headers[path.name], opened)
        else:
            files[path.name] = _open_gguf(path) if path.suffix == ".gguf" else _open_pickle(path)
    return StoredTensors(files)


def _open_safetensors(path: Path, headers: Mapping[str, TensorHeader], opened: _OneOpenFile) -> TensorFile:
    def read(name: str) -> Tensor | None:
        header = headers[name]
        size = math.prod(header.shape) * SIZES.get(header.dtype, 1)
        try:
            tensor: Tensor = opened.open(path, size).get_tensor(name)
        except Exception:  # a dtype that torch has not; the library has errors of its own for that
            return None
        return tensor

    return TensorFile(headers, read, cache(lambda: opened.open(path).metadata() or {}))


def _open_pickle(path: Path) -> TensorFile:
    """Open a file of torch; only tensors are read from it, and no code runs."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    except Exception as error:  # pickles fail in every way there is
        found = f"{path.name} does not read as a file of tensors ({type(error).__name__})"
        raise DamagedFileError(found, "convert it to safetensors where it was made", path.name) from error
    headers = {
        name: TensorHeader(_NAMES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape), path.name)
        for name, tensor in tensors.items()
    }
    return TensorFile(headers, tensors.__getitem__)


def _open_gguf(path: Path) -> TensorFile:
    """Open a file of llama.cpp, to be read as numbers; without the package `gguf` nothing of it is read."""
    with path.open("rb") as file:
        if file.read(len(_GGUF)) != _GGUF:
            raise DamagedFileError(f"{path.name} is not a GGUF file", "download it again", path.name)
    if find_spec("gguf") is None:  # of which opening complains
        return TensorFile({}, lambda _: None)
    from gguf.quants import dequantize

    try:
        tensors = {tensor.name: tensor for tensor in read_gguf(path).tensors}
    except Exception as error:  # numpy complains of a file that is cut off, in its own words
        found = f"{path.name} is cut off or damaged ({type(error).__name__})"
        raise DamagedFileError(found, "download it again", path.name) from error
    headers = {
        name: TensorHeader(tensor.tensor_type.name, tuple(int(size) for size in reversed(tensor.shape)), path.name)
        for name, tensor in tensors.items()
    }

    def read(name: str) -> Tensor | None:
        stored, numbers = tensors[name], torch.empty(headers[name].shape)
        if not numbers.numel():
            return numbers
        # By some rows at a time, for what is made on the way is several times as large as the numbers.
        made = numbers.view(-1, numbers.shape[-1] if numbers.ndim else 1).numpy()
        rows, at_once = stored.data.reshape(len(made), -1), max(1, _NUMBERS_AT_ONCE // made.shape[1])
        try:
            # What is not finite is told once, and not by a warning of numpy.
            with np.errstate(all="ignore"):
                for first in range(0, len(rows), at_once):
                    part = slice(first, first + at_once)
                    made[part] = dequantize(rows[part], stored.tensor_type)
        except NotImplementedError:
            return None
        let_go_of_pages(stored.data)
        return numbers

    return TensorFile(headers, read)


@dataclass(frozen=True)
class Size:
    """How large a checkpoint is.

    Attributes:
        method: How its weights are stored: `plain`, `gguf`, `lora`, or the `quant_method` of its configuration.
        files: Number of weight files; of an adapter its base's too.
        stored: Their bytes.
        memory: Bytes of the weights in memory.
        layer: Bytes of the largest decoder layer in memory.
        layers: Bytes of all decoder layers in memory.
        hidden: Width of the residual stream; `None` if the configuration does not say.
        width: Bytes of one number of the residual stream.
        positions: Tokens that the model takes at once; `None` if the configuration does not say.
        inner: Channels of the MLP; `None` if the configuration does not say.
        vocabulary: Tokens that it knows; `None` if the configuration does not say.
    """

    method: str
    files: int
    stored: int
    memory: int
    layer: int
    layers: int
    hidden: int | None
    width: int
    positions: int | None
    inner: int | None = None
    vocabulary: int | None = None


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
    memory, layers = 0, Counter[str]()
    for name, header in tensors.headers.items():
        plain = header.dtype in FLOATS or method.dequantized
        size = math.prod(header.shape) * (width if plain else SIZES.get(header.dtype, 1))
        memory += size
        if (match := _LAYER.search(name)) is not None:
            layers[match[1]] += size
    text = folder.declared.get("text_config") or folder.declared
    own = Size(
        method=method.method,
        files=len(folder.weight_files),
        stored=sum(path.stat().st_size for path in folder.weight_files),
        memory=memory,
        layer=max(layers.values(), default=0),
        layers=sum(layers.values()),
        hidden=next((text[key] for key in ("hidden_size", "n_embd", "d_model") if key in text), None),
        width=width,
        positions=text.get("max_position_embeddings"),
        inner=next((text[key] for key in ("intermediate_size", "n_inner", "ffn_dim") if text.get(key)), None),
        vocabulary=text.get("vocab_size"),
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
        layers=base.layers + own.layers,
    )


def _find_width(folder: CheckpointFolder, tensors: StoredTensors) -> int:
    """Return the bytes of a number in the dtype that it would be opened in, or else in its files."""
    if (dtype := choose_dtype(folder)) == "auto":
        dtype = folder.find_dtype() or ""
    if dtype in _WIDTHS:
        return _WIDTHS[dtype]
    floats = Counter(header.dtype for header in tensors.headers.values() if header.dtype in FLOATS)
    return FLOATS[floats.most_common(1)[0][0]] if floats else 4
