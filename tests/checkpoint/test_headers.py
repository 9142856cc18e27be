"""Headers that do not agree with themselves: the library refuses them, and what is wrong is said in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sw_audit.checkpoint.headers import DamagedFileError, TensorHeader, read_header


def write(path: Path, tensors: dict[str, tuple[str, list[int], list[int]]], data: int) -> Path:
    header = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": span}
        for name, (dtype, shape, span) in tensors.items()
    }
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))
    return path


def test_a_header_says_dtypes_and_shapes_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", {"b": ("U8", [4], [0, 4]), "a": ("F32", [2, 1], [4, 12])}, 12)
    header = read_header(path)
    assert list(header) == ["b", "a"]
    assert header["a"] == TensorHeader("F32", (2, 1), "m.safetensors")


@pytest.mark.parametrize(
    ("tensors", "data", "said"),
    [
        ({"a": ("U8", [4], [0, 4]), "b": ("U8", [8], [8, 16])}, 16, "a gap or an overlap before tensor 'b'"),
        ({"a": ("F32", [3], [0, 8])}, 8, "gives tensor 'a' another length than its shape"),
        ({"a": ("U8", [4], [0, 4])}, 3, "is cut off: its header promises 4 bytes of weights, there are 3"),
        ({"a": ("U8", [4], [0, 4])}, 5, "is too long: its header promises 4 bytes of weights, there are 5"),
        ({"a": ("F3", [4], [0, 4])}, 4, "does not read .*F3"),
    ],
)
def test_a_header_that_does_not_add_up_is_damaged(
    tensors: dict[str, tuple[str, list[int], list[int]]], data: int, said: str, tmp_path: Path
) -> None:
    with pytest.raises(DamagedFileError, match=said):
        read_header(write(tmp_path / "m.safetensors", tensors, data))


ODD = (
    "[" * 100_000,
    '{"a":' * 100_000,
    "[]",
    '{"a": {"dtype": "U8", "shape": [null, 64], "data_offsets": [0, 4]}}',
    '{"a": {"dtype": [], "shape": [4], "data_offsets": [0, 4]}}',
    '{"a": {"dtype": "U8", "shape": 4, "data_offsets": [0, 4]}}',
    '{"a": {"dtype": "U8", "shape": [4], "data_offsets": [0]}}',
    '{"a": {"dtype": "U8", "shape": [4], "data_offsets": ["x", null]}}',
    '{"a": {"dtype": "U8", "shape": [1e400], "data_offsets": [0, 4]}}',
    '{"a": {"dtype": "U8", "shape": [%s], "data_offsets": [0, 4]}}' % ("9" * 5000),
    '{"a": null, "__metadata__": 3}',
)


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_a_header_of_the_wrong_kind_is_damaged_and_no_traceback(text: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text.encode() + bytes(4))
    with pytest.raises(DamagedFileError, match=r"m\.safetensors is not a safetensors file"):
        read_header(path)
