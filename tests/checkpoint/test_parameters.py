"""Every parameter of a model, addressed as its scalars are."""

from __future__ import annotations

import pytest
import torch

from sw_audit.checkpoint.parameters import find_gain_offset, find_parameter, list_parameters
from sw_audit.errors import CheckpointError
from sw_audit.testing.families import DENSE, EXPERTS, build_random_model, wrap_model

ONE_PLUS = {"gemma", "gemma2", "gemma3_text"}


@pytest.mark.parametrize("family", [*DENSE, *EXPERTS])
def test_every_scalar_of_a_model_is_in_one_listed_parameter(family: str) -> None:
    checkpoint = wrap_model(build_random_model(family, 2))
    listed = list_parameters(checkpoint)
    assert sum(one.size for one in listed) == sum(one.numel() for one in checkpoint.model.parameters())
    assert all(tuple(one.weight.shape) == one.shape for one in listed)
    assert {one.offset for one in listed if one.is_gain} <= ({1.0} if family in ONE_PLUS else {0.0})


def test_a_gain_is_told_by_what_the_norm_does_and_a_bias_is_none() -> None:
    checkpoint = wrap_model(build_random_model("gpt2", 2))
    gains = {one.name for one in list_parameters(checkpoint) if one.is_gain}
    norms = {"transformer.h.0.ln_1", "transformer.h.0.ln_2", "transformer.h.1.ln_1", "transformer.h.1.ln_2"}
    assert gains == {f"{name}.weight" for name in (*norms, "transformer.ln_f")}


def test_a_gain_that_is_stored_less_1_is_gone_at_minus_1() -> None:
    checkpoint = wrap_model(build_random_model("gemma", 2))
    norm = checkpoint.model.model.norm
    gain = find_parameter(checkpoint, "model.norm.weight")
    assert gain is not None
    assert gain.offset == 1.0
    with torch.no_grad():
        norm.weight[3] = -gain.offset
        assert float(norm(torch.ones(1, 1, 64))[0, 0, 3]) == 0.0


def test_a_conv1d_matrix_is_addressed_output_channel_first() -> None:
    checkpoint = wrap_model(build_random_model("gpt2", 2))
    name = "transformer.h.1.mlp.c_fc.weight"
    found = find_parameter(checkpoint, name)
    stored = checkpoint.model.get_parameter(name)  # (in, out)
    assert found is not None
    assert found.shape == (112, 64)
    assert found.layer == 1
    assert found.read((100, 7)) == float(stored[7, 100])
    assert found.see(stored)[100, 7] == stored[7, 100]


def test_fused_experts_are_addressed_expert_first() -> None:
    checkpoint = wrap_model(build_random_model("gpt_oss", 2))
    name = "model.layers.0.mlp.experts.gate_up_proj"
    found = find_parameter(checkpoint, name)
    stored = checkpoint.model.get_parameter(name)  # (experts, in, out)
    assert found is not None
    assert found.read((3, 200, 7)) == float(stored[3, 7, 200])


def test_a_tied_parameter_is_found_by_both_names() -> None:
    checkpoint = wrap_model(build_random_model("gpt2", 2))
    embedding = find_parameter(checkpoint, "lm_head.weight")
    assert embedding is not None
    assert embedding.name == "transformer.wte.weight"
    assert embedding.names == ("lm_head.weight",)
    assert embedding.layer is None


def test_channels_are_those_of_the_residual_stream() -> None:
    checkpoint = wrap_model(build_random_model("llama", 2))
    down = find_parameter(checkpoint, "model.layers.0.mlp.down_proj.weight")
    up = find_parameter(checkpoint, "model.layers.0.mlp.up_proj.weight")
    square = find_parameter(checkpoint, "model.layers.0.self_attn.q_proj.weight")
    assert down is not None
    assert up is not None
    assert square is not None
    assert down.list_channels((5, 100), 64) == (5,)
    assert up.list_channels((100, 5), 64) == (5,)
    assert square.list_channels((5, 6), 64) == (5, 6)


def test_an_index_outside_is_refused_with_the_shape() -> None:
    checkpoint = wrap_model(build_random_model("llama", 2))
    gain = find_parameter(checkpoint, "model.norm.weight")
    assert gain is not None
    assert find_parameter(checkpoint, "model.nothing.weight") is None
    for index in ((64,), (1, 2)):
        with pytest.raises(CheckpointError, match="the parameter is 64"):
            gain.read(index)


class WritingThrough(dict[str, torch.nn.Parameter]):
    """Parameters as compressed-tensors keeps them: what is set is copied into what is there."""

    def __setitem__(self, name: str, value: torch.nn.Parameter) -> None:
        self[name].data.copy_(value.data)


@pytest.mark.parametrize("wrapped", [False, True])
def test_finding_out_what_a_norm_adds_leaves_its_gain_where_setting_it_writes_into_the_weights(
    wrapped: bool,
) -> None:
    norm = torch.nn.RMSNorm(4)
    norm.weight.data.copy_(torch.tensor([0.5, 2.0, -1.0, 3.0]))
    norm._parameters = WritingThrough(norm._parameters)
    if wrapped:
        object.__setattr__(norm, "forward", norm.forward)
    assert find_gain_offset(norm, 4) == 0.0
    assert norm.weight.tolist() == [0.5, 2.0, -1.0, 3.0]
