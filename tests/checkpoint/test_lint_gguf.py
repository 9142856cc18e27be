"""What is told of GGUF files: extents, scales of blocks, tokenizer; each damage is planted by its bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.linting import lint, only
from support.quantizing import pack_gguf

from sw_audit.checkpoint.lint_gguf import scan_blocks
from sw_audit.specimen.shipped import specimen_path

gguf = pytest.importorskip("gguf")
TOKENS = (*map(chr, range(0x21, 0x7F)), "ab", *(f"unused{number}" for number in range(115)))
DOWN = "blk.1.ffn_down.weight"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The specimen in Q8_0 with a tokenizer of its own."""
    pack_gguf(specimen_path(), tmp_path / "it.gguf", "Q8_0", TOKENS)
    return tmp_path / "it.gguf"


def find(path: Path, name: str = DOWN) -> Any:
    return next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == name)


def spoil(path: Path, offset: int, content: bytes) -> Path:
    data = bytearray(path.read_bytes())
    data[offset : offset + len(content)] = content
    path.write_bytes(data)
    return path


def move(path: Path, by: int) -> Path:
    """Say that the down-projection lies elsewhere."""
    where = find(path).field.parts[5]
    before = int(where[0])
    header = path.read_bytes().index(DOWN.encode())
    place = path.read_bytes().index(before.to_bytes(8, "little"), header)
    return spoil(path, place, (before + by).to_bytes(8, "little"))


def set_number(path: Path, key: str, number: int) -> Path:
    content = path.read_bytes()
    return spoil(path, content.index(key.encode()) + len(key) + 4, number.to_bytes(4, "little"))


def test_a_sound_file_has_no_flaw(file: Path) -> None:
    assert lint(file).flaws == ()


DAMAGED: dict[str, tuple[Callable[[Path], object], str, str, str, bool]] = {
    "overlap": (
        lambda path: move(path, -64),
        "gguf-layout",
        DOWN,
        "bytes begin 64 before the tensor ahead of it ends",
        True,
    ),
    "alignment": (lambda path: move(path, -1), "gguf-layout", DOWN, "which is not aligned to 32", True),
    "tail": (
        lambda path: path.write_bytes(path.read_bytes() + bytes(4096)),
        "gguf-layout",
        "it.gguf",
        "4096 bytes after its last tensor belong to none",
        False,
    ),
    "start": (
        lambda path: set_number(path, "tokenizer.ggml.bos_token_id", 210),
        "gguf-tokenizer",
        "it.gguf",
        "tokenizer.ggml.bos_token_id = 210, and there are 210 tokens",
        True,
    ),
    "scale": (
        lambda path: spoil(path, find(path).data_offset + 34, bytes(2)),
        "degenerate-scale",
        DOWN,
        "blocks have a scale of zero, though their codes differ, 1 of them in rows and columns",
        True,
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_each_damage_to_the_bytes_of_a_file_is_told(case: str, file: Path) -> None:
    damage, kind, where, found, serious = DAMAGED[case]
    damage(file)
    flaws = [(flaw.kind, flaw.where, flaw.serious) for flaw in lint(file).flaws if found in flaw.found]
    assert flaws == [(kind, where, serious)]


def test_a_scale_that_is_no_number_is_told_as_weights_that_are_none(file: Path) -> None:
    spoil(file, find(file).data_offset, np.float16("nan").tobytes())
    assert only(lint(file)) == ("non-finite", DOWN, "it holds 32 NaN", True)


@pytest.mark.parametrize(
    ("texts", "kind", "found", "serious"),
    [
        ({"general.type": "imatrix"}, "gguf-layout", "it says that it is no model, but 'imatrix'", True),
        ({"tokenizer.chat_template": "{{ x.__class__ }}"}, "template-reach", "reaches for '__class__'", False),
    ],
)
def test_what_the_metadata_says_is_told(
    texts: dict[str, str], kind: str, found: str, tmp_path: Path, *, serious: bool
) -> None:
    pack_gguf(specimen_path(), tmp_path / "it.gguf", "Q8_0", TOKENS, texts)
    flaw = only(lint(tmp_path / "it.gguf"))
    assert (flaw[0], flaw[3]) == (kind, serious)
    assert found in flaw[2]


@pytest.mark.parametrize("count", [209, 211])
def test_an_embedding_has_a_row_for_each_token(count: int, tmp_path: Path) -> None:
    pack_gguf(specimen_path(), tmp_path / "it.gguf", "Q8_0", (*TOKENS, "more")[:count])
    found = f"its tokenizer has {count} tokens, its embedding 210 rows"
    assert only(lint(tmp_path / "it.gguf")) == ("gguf-tokenizer", "it.gguf", found, True)


def test_an_embedding_that_is_one_number_is_no_traceback(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "it.gguf", "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b"])
    writer.add_tensor("token_embd.weight", np.zeros((), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert not any(flaw.serious for flaw in lint(tmp_path / "it.gguf").flaws)


def test_of_a_file_without_a_tokenizer_opening_complains(tmp_path: Path) -> None:
    pack_gguf(specimen_path(), tmp_path / "it.gguf", "Q8_0")
    assert lint(tmp_path / "it.gguf").flaws == ()


@pytest.mark.parametrize(
    "kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "TQ1_0", "TQ2_0", "Q6_K", "Q4_K"]
)
def test_blocks_of_zeros_lose_nothing_and_rows_too_small_for_a_scale_are_not_serious(
    kind: str, tmp_path: Path
) -> None:
    """A block of zeros is what pruning leaves; rows of tokens that were never trained underflow as a whole."""
    path, block = tmp_path / "it.gguf", gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    weights = np.random.default_rng(3).normal(size=(8, 3 * block[0])).astype(np.float32)
    weights[2, : block[0]] = 0
    how = gguf.GGMLQuantizationType[kind]
    try:
        codes = gguf.quants.quantize(weights, how)
    except NotImplementedError:  # made by hand: random codes under a scale of one, zeros under none
        codes = np.random.default_rng(4).integers(1, 127, size=(8, 3 * block[1]), dtype=np.uint8)
        codes[2, : block[1]] = 0
        place = 208 if kind == "Q6_K" else 0
        for number in range(3):
            one = slice(number * block[1] + place, number * block[1] + place + 2)
            codes[:, one] = np.frombuffer(np.float16(1).tobytes(), dtype=np.uint8)
        codes[2, place : place + 2] = 0

    def store(change_: Callable[[Any], object]) -> list[tuple[str, bool]]:
        stored = codes.copy()
        change_(stored)
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_tensor(DOWN, stored, raw_dtype=how)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return [(flaw.found.partition(" ")[0], flaw.serious) for flaw in scan_blocks(path)]

    start = {"TQ1_0": 52, "TQ2_0": 64, "Q6_K": 208}.get(kind, 0)
    size = block[1]

    def drop_row(stored: Any) -> None:
        for number in range(3):
            stored[5, number * size + start : number * size + start + 2] = 0

    def drop_block(stored: Any) -> None:
        stored[5, size + start : size + start + 2] = 0

    assert store(lambda _: None) == []
    assert store(drop_row) == [("3", False)]
    assert store(drop_block) == [("1", True)]
