"""Reading the matrix of a module that keeps it packed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from support.checkpoints import GPT2, HIDDEN, INTERMEDIATE, LLAMA, make_model
from support.packed import PackedLinear, pack_projections_
from torch import Tensor, nn

from sw_audit.checkpoint.effective import Probed, ProbedMemory, answered_by, find_sizes, is_opaque
from sw_audit.checkpoint.families import find_decoder_layers


@pytest.fixture
def packed() -> PackedLinear:
    generator = torch.Generator().manual_seed(4)
    weight, bias = torch.randn(5, 700, generator=generator), torch.randn(5, generator=generator)
    return PackedLinear(weight, bias)


def probe(module: nn.Module, dtype: torch.dtype = torch.float32) -> Probed:
    sizes = find_sizes(module)
    assert sizes is not None
    return Probed(module, sizes, dtype)


def test_a_packed_matrix_is_read_column_by_column_without_its_bias(packed: PackedLinear) -> None:
    # More columns than are asked for at once.
    assert torch.allclose(probe(packed).read(), packed.unpacked(), atol=1e-6)
    rows, columns = torch.tensor([4, 0, 2]), torch.tensor([699, 3, 3])
    scalars = probe(packed).read_scalars(rows, columns)
    assert torch.allclose(scalars, packed.unpacked()[rows, columns], atol=1e-6)


def test_reading_in_half_precision_gives_what_the_module_computes_with(packed: PackedLinear) -> None:
    module = PackedLinear(packed.unpacked()).to(torch.bfloat16)
    module.scales = packed.scales
    assert torch.equal(probe(module, torch.bfloat16).read(), module.unpacked().bfloat16())


def test_what_is_opaque_and_what_is_not() -> None:
    plain = nn.Linear(3, 4)
    assert not is_opaque(plain)
    assert not is_opaque(nn.Embedding(3, 4))
    assert is_opaque(PackedLinear(torch.randn(4, 3)))
    codes = nn.Linear(3, 4)
    codes.weight = nn.Parameter(torch.ones(4, 3, dtype=torch.int8), requires_grad=False)
    assert is_opaque(codes)
    bare = nn.Linear(3, 4)
    del bare._parameters["weight"]
    assert is_opaque(bare)
    wrapped: Any = nn.Linear(3, 4)
    wrapped.forward = lambda x: x
    assert is_opaque(wrapped)

    class Own(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as torch calls it
            return input @ self.weight.T

    assert not is_opaque(Own(3, 4))


@pytest.mark.parametrize("family", [LLAMA, GPT2], ids=str)
def test_no_module_of_a_plain_model_is_opaque(family: Any) -> None:
    assert not any(is_opaque(module) for module in make_model(family).modules())


def test_a_packed_model_has_the_matrices_of_the_plain_one() -> None:
    model = make_model(LLAMA)
    plain = find_decoder_layers(model)
    layers = find_decoder_layers(pack_projections_(copy.deepcopy(model)))
    for before, layer in zip(plain, layers, strict=True):
        expected = [(matrix.parameter, matrix.shape) for matrix in before.matrices]
        assert [(matrix.parameter, matrix.shape) for matrix in layer.matrices] == expected
        down = layer.down_projection
        assert down is not None
        assert down.shape == (HIDDEN, INTERMEDIATE)
        assert isinstance(down.module, PackedLinear)
        assert torch.allclose(down.weight, down.module.unpacked(), atol=1e-6)
        assert down.weight is down.weight, "it was probed again"


class Shown(nn.Linear):
    """Rounds what enters it to 8 bits, token by token, as dynamic quantization does."""

    off = 0.0

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as torch calls it
        scale = input.abs().amax(-1, keepdim=True).clamp_min(1e-9) / 127.5
        rounded = (input / scale).round().clamp(-128, 127) * scale
        return nn.functional.linear(rounded, self.weight + self.off, self.bias)


def test_a_weight_that_is_shown_is_believed_where_only_activations_are_rounded() -> None:
    module = Shown(64, 8, bias=False).requires_grad_(False)
    # 1.0 becomes 127 / 127.5, so that probing alone is off by 0.4 %.
    asked = probe(module)._ask(range(64))
    assert torch.allclose(asked, module.weight * 127 / 127.5, rtol=1e-5)
    assert torch.equal(probe(module).read(), module.weight)
    assert probe(module).measure_error() > 1e-3
    module.off = 0.01
    assert probe(module).find_shown() is None
    assert torch.allclose(probe(module).read(), (module.weight + 0.01) * 127 / 127.5, rtol=1e-4, atol=1e-6)


def test_an_answer_in_a_modules_place_is_read_and_not_kept(packed: PackedLinear) -> None:
    probed = probe(packed)
    before = probed.read()
    with answered_by(packed, lambda x: 2 * PackedLinear.forward(packed, x)):
        assert torch.allclose(probed.read(), 2 * before, atol=1e-5)
        scalar = probed.read_scalars(torch.tensor([1]), torch.tensor([2]))
        assert float(scalar) == pytest.approx(2 * float(before[1, 2]), rel=1e-5)
    assert "forward" not in packed.__dict__
    assert probed.read() is before


def test_memory_lets_go_of_what_was_used_longest_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sw_audit.checkpoint.effective._KEPT_BYTES", 100)
    memory = ProbedMemory()
    first, second, third = (nn.Identity() for _ in range(3))
    for module in (first, second):
        memory.keep(module, torch.zeros(12))
    memory.get(first)
    memory.keep(third, torch.zeros(12))
    assert [memory.get(module) is None for module in (first, second, third)] == [False, True, False]
    memory.keep(second, torch.zeros(1000))
    assert memory.get(second) is not None, "the last one stays, however large"
