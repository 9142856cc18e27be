"""A GGUF file's metadata are read once, and anew where the file has changed."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from support.quantizing import pack_gguf

from sw_audit.checkpoint.formats.gguf import Gguf
from sw_audit.gguf_file import let_go_of_pages, read_gguf
from sw_audit.specimen.shipped import specimen_path

gguf = pytest.importorskip("gguf")
TOKENS = ("a", "ß", "")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    pack_gguf(specimen_path(), tmp_path / "small.gguf", "Q8_0", TOKENS, {"general.name": "small"})
    return tmp_path / "small.gguf"


def test_a_file_is_read_once_until_it_changes(file: Path) -> None:
    first = read_gguf(file)
    (link := file.with_name("link.gguf")).symlink_to(file)
    assert read_gguf(str(link)) is first
    os.utime(file, ns=(0, 0))
    assert read_gguf(file) is not first


def test_fields_and_tensors_are_those_of_the_library(file: Path) -> None:
    ours, theirs = read_gguf(file), gguf.GGUFReader(file)
    assert {name: field.contents() for name, field in ours.fields.items()} == {
        name: field.contents() for name, field in theirs.fields.items()
    }
    assert ours.get_field("tokenizer.ggml.tokens").contents() == list(TOKENS)
    for own, other in zip(ours.tensors, theirs.tensors, strict=True):
        assert (own.name, own.tensor_type, own.data_offset) == (other.name, other.tensor_type, other.data_offset)
        assert np.array_equal(own.data, other.data)


def test_while_the_library_reads_all_share_one_reading_and_afterwards_it_is_as_before(file: Path) -> None:
    stored = gguf.GGUFReader, gguf.get_tensor_name_map

    def read_twice() -> None:
        with Gguf().reading():
            assert gguf.GGUFReader(file) is gguf.GGUFReader(file)
            assert gguf.get_tensor_name_map(4, 2) is gguf.get_tensor_name_map(4, 2)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        read_twice()
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == stored


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (struct.pack("<IIQ", 9, 4, 1 << 63), "there is nothing at byte 49"),
        (struct.pack("<IIQ", 9, 9, 1 << 63), "there is nothing at byte 49"),
        (struct.pack("<I", 4), "there is nothing at byte 37"),
        (struct.pack("<IQ", 8, 2) + b"\xff\xff" + bytes(30), "can't decode"),
    ],
    ids=["numbers without end", "lists without end", "cut off", "no text"],
)
def test_a_file_whose_metadata_end_early_or_are_no_text_is_refused(
    data: bytes, message: str, tmp_path: Path
) -> None:
    header = struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 1) + b"a"
    (file := tmp_path / "it.gguf").write_bytes(header + data)
    with pytest.raises(ValueError, match=message):
        read_gguf(file)


def count_mapped() -> int:
    """Bytes of files that are in this process's memory."""
    (line,) = (row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("RssFile"))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux, which counts mapped pages")
def test_pages_that_were_looked_at_go_and_come_back(tmp_path: Path) -> None:
    numbers = np.arange(1 << 23, dtype=np.float32).reshape(1 << 11, -1)  # 32 MiB
    writer = gguf.GGUFWriter(tmp_path / "large.gguf", "llama")
    writer.add_tensor("large", numbers)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    [tensor] = read_gguf(tmp_path / "large.gguf").tensors
    before = count_mapped()
    assert np.array_equal(tensor.data, numbers)
    assert count_mapped() - before > 30 << 20
    let_go_of_pages(tensor.data)
    assert count_mapped() - before < 4 << 20
    assert np.array_equal(tensor.data, numbers)
