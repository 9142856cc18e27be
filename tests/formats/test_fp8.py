"""What small floats and their exponents stand for, worked out by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from sw_audit.checkpoint.formats.format import list_formats
from sw_audit.checkpoint.formats.scales import multiply
from sw_audit.checkpoint.headers import TensorHeader
from sw_audit.checkpoint.stored import StoredTensors, TensorFile


def decode(method: str, weight: str, tensors: dict[str, Tensor], dtypes: dict[str, str]) -> Tensor | None:
    headers = {name: TensorHeader(dtypes[name], tuple(one.shape), "file") for name, one in tensors.items()}
    known = next(known for known in list_formats() if known.method == method)
    one = known.decode(weight, StoredTensors({"file": TensorFile(headers, tensors.__getitem__)}), {})
    tensor = None if one is None else one.read()
    assert one is None or tensor is None or one.shape == tensor.shape
    return tensor


def test_two_codes_of_mxfp4_lie_in_a_byte_and_a_block_has_one_power_of_two() -> None:
    # Byte 0x21 is code 1 (0.5), then code 2 (1.0); code 9 is -0.5, code 7 is 6.0.
    blocks = torch.zeros(1, 2, 1, 16, dtype=torch.uint8)
    blocks[0, 0, 0, 0], blocks[0, 1, 0, 15] = 0x21, 0x79
    scales = torch.tensor([[[127], [129]]], dtype=torch.uint8)  # 1 and 4
    tensors = {"e.down_proj_blocks": blocks, "e.down_proj_scales": scales}
    found = decode("mxfp4", "e.down_proj", tensors, dict.fromkeys(tensors, "U8"))
    assert found is not None
    expected = torch.zeros(1, 32, 2)  # [experts, in, out]
    expected[0, 0, 0], expected[0, 1, 0], expected[0, 30, 1], expected[0, 31, 1] = 0.5, 1.0, -2.0, 24.0
    assert torch.equal(found, expected)
    short = {**tensors, "e.down_proj_scales": scales[:, :1]}
    assert decode("mxfp4", "e.down_proj", short, dict.fromkeys(tensors, "U8")) is None


def test_scales_that_are_bytes_are_exponents_of_two() -> None:
    codes = torch.tensor([[1.0, -2.0, 3.0, 4.0]])
    scaled = multiply(codes, torch.tensor([[126, 130]], dtype=torch.uint8))
    assert scaled is not None
    assert scaled.tolist() == [[0.5, -1.0, 24.0, 32.0]]
    assert multiply(codes, torch.tensor([[126, 130]])) is None
    weights = {"m.weight": codes.to(torch.float8_e4m3fn), "m.weight_scale_inv": torch.tensor([[2.0, 4.0]])}
    found = decode("fp8", "m.weight", weights, {"m.weight": "F8_E4M3", "m.weight_scale_inv": "F32"})
    assert found is not None
    assert found.tolist() == [[2.0, -4.0, 12.0, 16.0]]
