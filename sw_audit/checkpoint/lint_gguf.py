"""What is wrong with a GGUF file: where its tensors lie, the scales of their blocks, and its tokenizer.

llama.cpp wants tensors one after the other, each aligned, and an embedding row for each token; the layouts of
blocks are those of its `ggml-common.h`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sw_audit.checkpoint.surroundings import find_reach
from sw_audit.gguf_file import read_gguf
from sw_audit.record.checkpoint import Flaw

_EMBEDDING = "token_embd.weight"
_TOKENS = "tokenizer.ggml.tokens"
# An entry for each token.
_LISTS = ("tokenizer.ggml.token_type", "tokenizer.ggml.scores")
# Without these a text does not end, or does not begin; an id that is out of range is ignored by llama.cpp.
_NEEDED = ("bos", "eos", "eot")
_NO_TOKEN = 0xFFFFFFFF
_IMATRIX = ("quantize.imatrix.entries_count", "quantize.imatrix.chunks_count")


# Where a block has its scale, a float16, and the bytes of its codes that are all alike where all its weights are:
# sound blocks of zeros have a scale of zero, too. Further bits of codes stand elsewhere in some.
_BLOCKS: dict[str, tuple[int, slice]] = {
    **dict.fromkeys(("Q4_0", "IQ4_NL"), (0, slice(2, 18))),
    "Q4_1": (0, slice(4, 20)),
    "Q5_0": (0, slice(6, 22)),
    "Q5_1": (0, slice(8, 24)),
    "Q8_0": (0, slice(2, 34)),
    "Q2_K": (80, slice(16, 80)),
    "Q3_K": (108, slice(32, 96)),
    "Q4_K": (0, slice(16, 144)),
    "Q5_K": (0, slice(48, 176)),
    "Q6_K": (208, slice(0, 128)),
    "IQ4_XS": (0, slice(8, 136)),
    "TQ1_0": (52, slice(0, 48)),
    "TQ2_0": (64, slice(0, 64)),
}


def lint_layout(path: Path) -> Iterator[Flaw]:
    """Yield what the metadata of a file that reads shows, without reading a weight."""
    reader = read_gguf(path)
    kind = _get(reader, "general.type")
    if kind not in (None, "model"):
        yield Flaw(kind="gguf-layout", where=path.name, found=f"it says that it is no model, but {kind!r:.40}")
    yield from _lint_extents(reader, path)
    yield from _lint_tokenizer(reader, path)
    for key in _IMATRIX:
        count = _get(reader, key)
        if isinstance(count, int) and count <= 0:
            found = f"{key} = {count}: the importance matrix that it was quantized with was empty"
            yield Flaw(kind="degenerate-scale", where=path.name, found=found, serious=False)
    template = _get(reader, "tokenizer.chat_template")
    if isinstance(template, str) and (reached := find_reach(template)) is not None:
        yield Flaw(kind="template-reach", where=path.name, found=reached, serious=False)


def scan_blocks(path: Path) -> Iterator[Flaw]:
    """Yield tensors that have blocks with a scale of zero though their codes differ: these weights are lost."""
    from gguf import GGML_QUANT_SIZES

    for tensor in read_gguf(path).tensors:
        if tensor.tensor_type.name not in _BLOCKS:
            continue
        start, codes = _BLOCKS[tensor.tensor_type.name]
        raw = np.asarray(tensor.data).view(np.uint8)
        size = GGML_QUANT_SIZES[tensor.tensor_type][1]
        blocks = raw.reshape(-1, raw.shape[-1] // size, size)  # [rows, blocks, bytes]
        scales = np.ascontiguousarray(blocks[..., start : start + 2]).view(np.float16)[..., 0]  # [rows, blocks]
        dead = scales == 0
        if not dead.any():
            continue
        lost = np.zeros_like(dead)
        lost[dead] = (blocks[dead][:, codes] != blocks[dead][:, codes][:, :1]).any(axis=1)
        # Rows that are too small for a float16 as a whole are those of tokens and channels that nobody uses.
        inside = int((lost & ~dead.all(axis=1, keepdims=True) & ~dead.all(axis=0, keepdims=True)).sum())
        if lost.any():
            found = f"{int(lost.sum())} of {scales.size} blocks have a scale of zero, though their codes differ"
            if inside:
                found += f", {inside} of them in rows and columns of blocks that have not"
            yield Flaw(kind="degenerate-scale", where=tensor.name, found=found, serious=bool(inside))


def _lint_extents(reader: Any, path: Path) -> Iterator[Flaw]:
    alignment, size = int(reader.alignment), path.stat().st_size
    reached = int(reader.data_offset)
    for tensor in sorted(reader.tensors, key=lambda tensor: int(tensor.data_offset)):
        begin, end = int(tensor.data_offset), int(tensor.data_offset) + int(tensor.n_bytes)
        if (begin - int(reader.data_offset)) % alignment:
            found = f"it begins at byte {begin}, which is not aligned to {alignment}"
            yield Flaw(kind="gguf-layout", where=tensor.name, found=found)
        if begin < reached:
            found = f"its {end - begin} bytes begin {reached - begin} before the tensor ahead of it ends"
            yield Flaw(kind="gguf-layout", where=tensor.name, found=found)
        elif begin >= reached + alignment:
            found = f"{begin - reached} bytes before it belong to no tensor"
            yield Flaw(kind="gguf-layout", where=tensor.name, found=found, serious=False)
        if end > size:
            found = f"it ends at byte {end}, and the file at {size}"
            yield Flaw(kind="gguf-layout", where=tensor.name, found=found)
        reached = max(reached, end)
    if size >= reached + alignment:
        found = f"{size - reached} bytes after its last tensor belong to none"
        yield Flaw(kind="gguf-layout", where=path.name, found=found, serious=False)


def _lint_tokenizer(reader: Any, path: Path) -> Iterator[Flaw]:
    model, field = _get(reader, "tokenizer.ggml.model"), reader.get_field(_TOKENS)
    if model is None or field is None:  # its tokenizer may lie beside it; where there is none, opening says so
        return
    tokens = len(field.data)
    embedding = next((tensor for tensor in reader.tensors if tensor.name == _EMBEDDING), None)
    rows = tokens if embedding is None or not len(embedding.shape) else int(embedding.shape[-1])
    if rows != tokens:
        found = f"its tokenizer has {tokens} tokens, its embedding {rows} rows"
        yield Flaw(kind="gguf-tokenizer", where=path.name, found=found)
    for key in _LISTS:
        entries = reader.get_field(key)
        if entries is not None and len(entries.data) != tokens:
            found = f"{key} has {len(entries.data)} entries for {tokens} tokens"
            yield Flaw(kind="gguf-tokenizer", where=path.name, found=found)
    for key in (key for key in reader.fields if key.startswith("tokenizer.ggml.") and key.endswith("_token_id")):
        number = _get(reader, key)
        if isinstance(number, int) and number >= tokens and number != _NO_TOKEN:
            name = key.removeprefix("tokenizer.ggml.").removesuffix("_token_id")
            found = f"{key} = {number}, and there are {tokens} tokens"
            yield Flaw(kind="gguf-tokenizer", where=path.name, found=found, serious=name in _NEEDED)
    if model == "gpt2" and reader.get_field("tokenizer.ggml.merges") is None:
        found = "its tokenizer has no merges, so that llama.cpp cannot read it"
        yield Flaw(kind="gguf-tokenizer", where=path.name, found=found, serious=False)


def _get(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()
