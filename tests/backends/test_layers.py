from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from support.backends import WIDE, probe, require
from support.checkpoints import GPT2, Family, make_model

from sw_audit.backends.costs import count_stored_bits
from sw_audit.backends.layers import LayerQuantizer
from sw_audit.backends.method import Method
from sw_audit.backends.registry import METHODS, find_methods
from sw_audit.checkpoint.families import find_decoder_layers
from sw_audit.checkpoint.matrices import is_conv1d

PACKING = [method for method in METHODS if method.pack]
# Per method: the columns that share a scale in a matrix of 128 columns (all, where it is the row), the largest
# error as a part of the largest magnitude in them, and the bits per weight of a matrix of 64 x 128.
# NF4: half of its widest gap, from -1 to -0.6962. int8: half of 1/127, and in
# bitsandbytes what half precision rounds off. torchao's int4: its grid ends at 7 of 7.5
# steps. HQQ and quanto's int4: from the smallest to the largest, at most twice the magnitude, half of 1/15 of it,
# which HQQ's optimizer may exceed in favour of the rest, but not by more than another step.
CODEBOOK = 16 * 32 / (64 * 128)
TRUTH = {
    "bitsandbytes-nf4": (64, 0.1520, 4 + 32 / 64 + CODEBOOK),
    "bitsandbytes-int8": (128, 0.5 / 127 + 2**-11, 8 + 32 / 128),
    "torchao-int8": (128, 0.5 / 127, 8 + (32 + 8) / 128),
    "torchao-int4": (64, 1 / 15, 8 + (32 + 8) / 64),
    "hqq-int4": (64, 2 * 1.5 / 15, 4 + 64 / 64),
    "quanto-int8": (128, 0.5 / 127, 8 + 32 / 128),
    "quanto-int4": (128, 2 * 0.5 / 15, 4 + 64 / 128),
}


def name_method(method: Method) -> str:
    return method.name


@pytest.mark.parametrize("method", PACKING, ids=name_method)
def test_a_stand_in_is_within_the_methods_step_of_the_weights(method: Method, llama: Any) -> None:
    quantizer = LayerQuantizer(require(method))
    layer = find_decoder_layers(llama)[1]
    weight = layer.down_projections[0].weight.clone()
    module: Any = quantizer(layer)
    assert quantizer.failure is None
    effective = probe(module.mlp.down_proj, 128)
    group, share, bits = TRUTH[method.name]
    largest = weight.view(64, -1, group).abs().amax(-1, keepdim=True)
    error = (effective - weight).view(64, -1, group).abs()
    assert not torch.equal(effective, weight)
    # Where the processor has bfloat16 some libraries multiply in it.
    assert bool((error <= (share + 2**-8) * largest).all()), float((error / largest).max())
    plain = [row for row in range(64) if row != 3]
    # Where there is no outlier the rest is resolved as well, to a tenth of its own spread or so.
    assert float((effective - weight)[plain].std()) < 0.15 * float(weight[plain].std())
    assert method.pack is not None
    packed = method.pack(torch.nn.Linear(128, 64, bias=False).requires_grad_(False))
    assert count_stored_bits(packed.tensors) / (64 * 128) == pytest.approx(bits)


@pytest.mark.parametrize("method", PACKING, ids=name_method)
def test_the_layer_itself_stays_as_it_is_and_every_projection_is_replaced(method: Method, llama: Any) -> None:
    quantizer = LayerQuantizer(require(method))
    layer = find_decoder_layers(llama)[0]
    before = copy.deepcopy(layer.module.state_dict())
    modules = list(layer.module.modules())
    stand_in = quantizer(layer)
    assert stand_in is not layer.module
    assert list(layer.module.modules()) == modules
    after = layer.module.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    for matrix in layer.matrices:
        place = matrix.parameter.removeprefix(f"{layer.name}.").removesuffix(".weight")
        assert stand_in.get_submodule(place) is not layer.module.get_submodule(place)
    assert quantizer.weights == sum(matrix.tensor.numel() for matrix in layer.matrices)
    assert quantizer.left == 0
    assert 0 < quantizer.bits < 32 * quantizer.weights
    assert quantizer.seconds > 0
    # It cannot do with less than the codes that it returns.
    assert quantizer.peak_bytes >= quantizer.weights / 2


@pytest.mark.parametrize("method", PACKING, ids=name_method)
def test_a_conv1d_is_quantized_like_the_linear_it_stands_for(method: Method) -> None:
    quantizer = LayerQuantizer(require(method))
    model = make_model(GPT2, n_embd=64, n_inner=128).requires_grad_(False)
    layer = find_decoder_layers(model)[0]
    stand_in: Any = quantizer(layer)
    assert quantizer.failure is None
    assert not any(is_conv1d(module) for module in stand_in.modules())
    hidden = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(1))
    expected = layer.module.mlp.c_fc(hidden)
    computed = stand_in.mlp.c_fc(hidden)
    assert computed.shape == expected.shape
    assert float((computed - expected).abs().max()) < 0.3 * float(expected.abs().max())


def test_fused_experts_are_left_alone_and_counted_in_full() -> None:
    (method,) = find_methods(["bitsandbytes-nf4"])
    quantizer = LayerQuantizer(require(method))
    settings = {"vocab_size": 60, "num_hidden_layers": 1}
    model = make_model(Family("mixtral", settings={**settings, **WIDE, "num_local_experts": 4}))
    (layer,) = find_decoder_layers(model.requires_grad_(False))
    quantizer(layer)
    fused = sum(matrix.shape[0] * matrix.shape[1] for matrix in layer.matrices if matrix.expert is not None)
    assert quantizer.left == 4 * len({matrix.parameter for matrix in layer.matrices if matrix.expert is not None})
    assert quantizer.bits > 32 * fused
    assert quantizer.bits < 32 * fused + 6 * (quantizer.weights - fused)


def test_a_method_that_fails_says_so_in_one_line_and_returns_the_layer() -> None:
    (method,) = find_methods(["torchao-int4"])
    quantizer = LayerQuantizer(require(method))
    narrow = make_model(GPT2).requires_grad_(False)
    first, second, *_ = find_decoder_layers(narrow)
    assert quantizer(first) is first.module
    assert quantizer.failure == "ValueError: groups of 64 do not divide 32 input channels"
    assert quantizer(second) is second.module


def test_a_kernel_that_gives_nonsense_is_found_out(llama: Any) -> None:
    (method,) = find_methods(["quanto-int8"])
    quantizer = LayerQuantizer(require(method))
    layer = find_decoder_layers(llama)[0]
    layer.down_projections[0].weight[0, 0] = float("inf")
    quantizer(layer)
    assert quantizer.failure is not None
    assert "down_proj" in quantizer.failure
