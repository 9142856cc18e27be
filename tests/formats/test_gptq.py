"""What GPTQ and AWQ store, worked out by hand for a few numbers; no library of theirs is needed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from formats.test_words import pack
from torch import Tensor

from sw_audit.checkpoint.formats.format import Format, list_formats
from sw_audit.checkpoint.headers import TensorHeader
from sw_audit.checkpoint.stored import StoredTensors, TensorFile

INPUTS, OUTPUTS, GROUP = 32, 16, 8
GROUPS = INPUTS // GROUP
CODES = torch.randint(16, (INPUTS, OUTPUTS), generator=torch.Generator().manual_seed(0))
ZEROS = torch.randint(1, 15, (GROUPS, OUTPUTS), generator=torch.Generator().manual_seed(1))
SCALES = (torch.rand(GROUPS, OUTPUTS, generator=torch.Generator().manual_seed(2)) + 0.5).half()
ORDER = torch.randperm(INPUTS, generator=torch.Generator().manual_seed(3)) // GROUP


def find(method: str) -> Format:
    return next(known for known in list_formats() if known.method == method)


def along(numbers: Tensor, axis: int, bits: int = 4) -> Tensor:
    """Pack along an axis."""
    turned = numbers.T if axis == 0 else numbers
    words = torch.tensor([pack(line.tolist(), bits) for line in turned], dtype=torch.int32)
    return words.T.contiguous() if axis == 0 else words


def decode(method: str, tensors: dict[str, Tensor], **settings: Any) -> Tensor | None:
    read = {f"m.{name}": tensor for name, tensor in tensors.items()}
    names = {torch.int32: "I32", torch.float16: "F16"}
    headers = {name: TensorHeader(names[one.dtype], tuple(one.shape), "file") for name, one in read.items()}
    stored = StoredTensors({"file": TensorFile(headers, read.__getitem__)})
    one = find(method).decode("m.weight", stored, settings)
    tensor = None if one is None else one.read()
    assert one is None or tensor is None or one.shape == tensor.shape
    return tensor


def expect(groups: Tensor) -> Tensor:
    return ((CODES - ZEROS[groups]).float() * SCALES.float()[groups]).T


@pytest.mark.parametrize(("layout", "less"), [("gptq", 1), ("gptq_v2", 0)])
@pytest.mark.parametrize("ordered", [False, True])
def test_gptq_packs_along_the_input_and_its_first_version_stores_zero_points_less_one(
    layout: str, less: int, ordered: bool
) -> None:
    tensors = {"qweight": along(CODES, 0), "qzeros": along(ZEROS - less, 1), "scales": SCALES}
    groups = ORDER if ordered else torch.arange(INPUTS) // GROUP
    if ordered:
        tensors["g_idx"] = ORDER.int()
    found = decode("gptq", tensors, checkpoint_format=layout)
    assert found is not None
    assert torch.equal(found, expect(groups))


def test_bits_are_those_that_the_shapes_tell() -> None:
    codes, zeros = CODES % 8, ZEROS.clamp_max(7)
    zeros, scales = zeros.repeat(1, 2), SCALES.repeat(1, 2)  # 3 bits fill words by 32 numbers
    tensors = {"qweight": along(codes.repeat(1, 2), 0, 3), "qzeros": along(zeros - 1, 1, 3), "scales": scales}
    found = decode("gptq", tensors, bits=4)
    groups = torch.arange(INPUTS) // GROUP
    assert found is not None
    assert torch.equal(found, ((codes.repeat(1, 2) - zeros[groups]).float() * scales.float()[groups]).T)


def test_awq_packs_along_the_output_in_an_order_of_its_own() -> None:
    # Number 0 lies at place 0 of a word, number 1 at place 4, number 2 at place 1, ...
    places = [0, 4, 1, 5, 2, 6, 3, 7]

    def shuffle(numbers: Tensor) -> Tensor:
        mixed = torch.empty_like(numbers)
        for column in range(OUTPUTS):
            mixed[:, column // 8 * 8 + places[column % 8]] = numbers[:, column]
        return along(mixed, 1)

    tensors = {"qweight": shuffle(CODES), "qzeros": shuffle(ZEROS), "scales": SCALES}
    found = decode("awq", tensors, version="gemm")
    assert found is not None
    assert torch.equal(found, expect(torch.arange(INPUTS) // GROUP))
    assert decode("awq", tensors, version="gemv") is None


def test_what_does_not_go_together_is_not_decoded() -> None:
    tensors = {"qweight": along(CODES, 0), "qzeros": along(ZEROS - 1, 1), "scales": SCALES}
    assert decode("gptq", tensors) is not None
    assert decode("gptq", {**tensors, "g_idx": torch.full((INPUTS,), GROUPS).int()}) is None
    assert decode("gptq", {**tensors, "g_idx": torch.zeros(5).int()}) is None
    assert decode("gptq", {**tensors, "scales": SCALES[:, :-1].contiguous()}) is None
    assert decode("gptq", {key: one for key, one in tensors.items() if key != "qzeros"}) is None
    assert decode("gptq", tensors, checkpoint_format="marlin") is None
