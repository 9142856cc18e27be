"""Which tensor of a descendant is which of its parent's, whatever the two files call and how they store it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sw_audit.checkpoint.folder import CheckpointFolder, one_line_damage
from sw_audit.checkpoint.formats.format import Decoded
from sw_audit.checkpoint.names import match_names
from sw_audit.checkpoint.stored import open_stored
from sw_audit.gguf_file import read_gguf

_EMBEDDINGS = (
    "embed_tokens.weight",
    "wte.weight",
    "embed_in.weight",
    "word_embeddings.weight",
    "token_embd.weight",
)
_HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|blk)\.(\d+)\.")
EXPERT = re.compile(r"\.experts\.(\d+)\.")

Read = Callable[[], Tensor | None]


@dataclass(frozen=True)
class TensorPair:
    """One tensor of a descendant and its own in the parent; `None` as `theirs` where the parent has none.

    Attributes:
        name: What the descendant's files call it.
        parent: What the parent's files call it.
        ours: Reads it as numbers; `None` comes back where nobody here can.
        theirs: Reads the parent's, in the layout of `ours`.
    """

    name: str
    parent: str
    ours: Read
    theirs: Read | None


@dataclass(frozen=True)
class PairedTensors:
    """The tensors of a descendant beside its parent's.

    Attributes:
        pairs: Those that both have, in the order of the descendant's files.
        extra: Those of the descendant's alone.
        missing: Those of the parent's alone, what reads each by its name.
        crossed: Whether one of the two is GGUF and the other is not.
    """

    pairs: tuple[TensorPair, ...]
    extra: tuple[TensorPair, ...]
    missing: dict[str, Read]
    crossed: bool


def find_layer(name: str) -> int | None:
    """Return the number of the layer that a tensor belongs to, by its name; `None` outside of layers."""
    match = _LAYER.search(name)
    return None if match is None else int(match[1])


def pair_tensors(model: CheckpointFolder, parent: CheckpointFolder) -> PairedTensors:
    """Find each tensor's own in the parent by name; prefixes may differ, heads may be tied in one of the two.

    Raises:
        CheckpointError: If a file cannot be read.
    """
    ours, theirs = _list_readers(model), _list_readers(parent)
    crossed = (model.format.method == "gguf") is not (parent.format.method == "gguf")
    if crossed and model.format.method == "gguf":
        ours = _name_as(ours, theirs, model)
    elif crossed:
        theirs = _name_as(theirs, ours, parent)
    names = dict(match_names(ours, theirs))
    pairs = [TensorPair(name, other, ours[name], theirs[other]) for name, other in names.items()]
    extra = [TensorPair(name, "", read, None) for name, read in ours.items() if name not in names]
    missing = {name: read for name, read in theirs.items() if name not in set(names.values())}
    # Of a tied pair the head is the embedding.
    embedding, head = _find(ours, _EMBEDDINGS), _find(missing, _HEADS)
    if head is not None and embedding is not None and _find(ours, _HEADS) is None:
        pairs.append(TensorPair(head, head, ours[embedding], theirs[head]))
        del missing[head]
    embedding, own = _find(theirs, _EMBEDDINGS), next((one for one in extra if one.name.endswith(_HEADS)), None)
    if own is not None and embedding is not None and _find(theirs, _HEADS) is None:
        pairs.append(TensorPair(own.name, embedding, own.ours, theirs[embedding]))
        extra.remove(own)
    return PairedTensors(tuple(pairs), tuple(extra), missing, crossed)


def _find(names: Iterable[str], ends: tuple[str, ...]) -> str | None:
    return next((name for name in names if name.endswith(ends)), None)


def _list_readers(folder: CheckpointFolder) -> dict[str, Read]:
    """List a checkpoint's weights by name, each with what reads it as numbers."""
    with one_line_damage(folder):
        stored = open_stored(folder)
    tensors = folder.format.list_tensors(stored, folder.quantization)
    return {name: _read(decoded) for name, decoded in tensors.items()}


def _read(decoded: Decoded | None) -> Read:
    def read() -> Tensor | None:
        tensor = None if decoded is None else decoded.read()
        return tensor if tensor is not None and tensor.is_floating_point() else None

    return read


def _name_as(readers: dict[str, Read], others: Iterable[str], folder: CheckpointFolder) -> dict[str, Read]:
    """Name the tensors of a GGUF file as transformers does, and read them in its layout.

    The names are gguf's own table, the layouts those that transformers gives each architecture when it opens one.
    """
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

    (path,) = folder.weight_files
    file = read_gguf(path)

    def find(key: str) -> Any:
        field = file.get_field(key)
        value = None if field is None else field.contents()
        return value[0] if isinstance(value, list) and len(set(value)) == 1 else value

    kind = find("general.architecture")
    arch = next((arch for arch, name in MODEL_ARCH_NAMES.items() if name == kind), None)
    if arch is None:
        return readers
    heads = find(f"{kind}.attention.head_count")
    config = {
        "num_attention_heads": heads,
        "num_key_value_heads": find(f"{kind}.attention.head_count_kv") or heads,
        "n_head": heads,
        "hidden_size": find(f"{kind}.embedding_length"),
    }
    table = get_tensor_name_map(arch, int(find(f"{kind}.block_count") or 0))
    processor: Any = TENSOR_PROCESSORS.get(kind, TensorProcessor)
    processor = processor(config=config)

    def adapt(stored: str, expert: int | None) -> Read:
        def read() -> Tensor | None:
            tensor = readers[stored]()
            if tensor is None or expert is not None:
                return tensor if tensor is None else tensor[expert]
            try:
                done = processor.process(tensor.numpy(), stored, tensor_key_mapping={}, parsed_parameters={})
                return torch.from_numpy(done.weights.copy())
            except Exception:  # layouts that fuse several tensors are made of more than this one
                return None

        return read

    named, used = dict[str, Read](), set[str]()
    for other in others:
        match = EXPERT.search(other)
        whole = other if match is None else other.replace(match[0], ".experts.")
        stored = table.get_name(_shorten(whole), try_suffixes=(".weight", ".bias"))
        if stored in readers:
            named[other] = adapt(stored, None if match is None else int(match[1]))
            used.add(stored)
    return {**named, **{name: read for name, read in readers.items() if name not in used}}


def _shorten(name: str) -> str:
    """Return a tensor's name as a model of text alone has it."""
    return name.replace("language_model.model.", "model.").replace("model.language_model.", "model.")
