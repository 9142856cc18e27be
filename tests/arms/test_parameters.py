"""Scalars of any parameter in a decoder layer: what is set, what is refused, and that nothing stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import LLAMA, make_model, save_checkpoint
from support.engine import collect, fingerprint, make_arm
from support.packed import pack_projections_, unpack_projections_
from support.planted import build_gpt2, wrap_model
from torch import nn

from sw_audit.arms.apply import applied_arm, restrict, touches
from sw_audit.arms.parameters import place_scalars
from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.checkpoint.streaming import open_streaming
from sw_audit.errors import CheckpointError
from sw_audit.policy.policy import ModelPolicy
from sw_audit.policy.recipe import parse_recipe
from sw_audit.record.address import ScalarAddress
from sw_audit.record.arm import BASELINE, Quantize, SetScalars
from sw_audit.testing.families import build_random_model

LAYER = 1


def set_to(values: dict[tuple[str, tuple[int, ...]], float]) -> SetScalars:
    scalars = tuple(ScalarAddress(parameter=name, index=index) for name, index in values)
    return SetScalars(scalars=scalars, values=tuple(values.values()))


def open_random(family: str) -> Checkpoint:
    return wrap_model(build_random_model(family, layers=3))


@pytest.mark.parametrize(
    ("family", "name", "index", "stored"),
    [
        ("llama", "model.layers.1.self_attn.k_proj.weight", (3, 7), (3, 7)),
        ("llama", "model.layers.1.input_layernorm.weight", (5,), (5,)),
        ("gpt2", "transformer.h.1.attn.c_attn.weight", (150, 7), (7, 150)),
        ("gpt2", "transformer.h.1.attn.c_attn.bias", (150,), (150,)),
        ("mixtral", "model.layers.1.mlp.experts.gate_up_proj", (2, 100, 9), (2, 100, 9)),
        ("mixtral", "model.layers.1.mlp.gate.weight", (3, 7), (3, 7)),
        ("gpt_oss", "model.layers.1.mlp.experts.gate_up_proj", (2, 100, 9), (2, 9, 100)),
        ("gpt_oss", "model.layers.1.mlp.experts.gate_up_proj_bias", (2, 100), (2, 100)),
        ("gpt_oss", "model.layers.1.self_attn.sinks", (3,), (3,)),
    ],
)
@pytest.mark.parametrize("fails", [False, True])
def test_a_scalar_is_set_where_its_parameter_stores_it_and_no_other(
    family: str, name: str, index: tuple[int, ...], stored: tuple[int, ...], fails: bool
) -> None:
    checkpoint = open_random(family)
    tensor = checkpoint.model.get_parameter(name)
    expected = tensor.clone()
    expected[stored] = -7.5
    before = fingerprint(checkpoint)
    arm = make_arm(set_to({(name, index): -7.5}))
    assert [touches(arm, layer) for layer in checkpoint.layers] == [False, True, False]
    try:
        with torch.no_grad(), applied_arm(arm, checkpoint.layers[LAYER]):
            assert torch.equal(tensor, expected)
            if fails:
                raise RuntimeError("power cut")
    except RuntimeError:
        pass
    assert fingerprint(checkpoint) == before


def test_a_single_number_is_addressed_as_a_vector_of_one() -> None:
    checkpoint = open_random("llama")
    module: Any = checkpoint.layers[LAYER].module
    module.scale = nn.Parameter(torch.tensor(2.0), requires_grad=False)
    with applied_arm(make_arm(set_to({("model.layers.1.scale", (0,)): 3.0})), checkpoint.layers[LAYER]):
        assert module.scale == 3.0
    assert module.scale == 2.0


def test_in_a_layer_an_act_is_what_it_does_there() -> None:
    layers = open_random("llama").layers
    gain, other = "model.layers.{}.input_layernorm.weight", (("model.norm.weight", (1,)), 0.5)
    both = {(gain.format(0), (4,)): 1.0, (gain.format(2), (4,)): 2.0, other[0]: other[1]}
    arm = make_arm(set_to(both))
    assert restrict(arm, layers[0]) == (set_to({(gain.format(0), (4,)): 1.0}),)
    assert restrict(arm, layers[1]) == ()
    assert restrict(arm, layers[2]) == (set_to({(gain.format(2), (4,)): 2.0}),)


def test_a_scalar_that_is_named_twice_has_the_last_value_and_then_its_own() -> None:
    checkpoint = open_random("llama")
    weight = checkpoint.model.get_parameter("model.layers.1.mlp.up_proj.weight")
    before = weight.clone()
    scalar = ScalarAddress(parameter="model.layers.1.mlp.up_proj.weight", index=(3, 4))
    arm = make_arm(SetScalars(scalars=(scalar, scalar), values=(5.0, 6.0)))
    with applied_arm(arm, checkpoint.layers[LAYER]):
        assert weight[3, 4] == 6.0
    assert torch.equal(weight, before)


def test_after_rounding_a_scalar_is_set_in_what_was_rounded() -> None:
    checkpoint = open_random("gpt2")
    name = "transformer.h.1.mlp.c_proj.weight"
    arm = make_arm(Quantize(recipe=parse_recipe("int3/row")), set_to({(name, (3, 4)): 6.0}))
    rounded = make_arm(Quantize(recipe=parse_recipe("int3/row")))
    before = fingerprint(checkpoint)
    with torch.no_grad(), applied_arm(rounded, checkpoint.layers[LAYER]):
        expected = checkpoint.model.get_parameter(name).clone()
    expected[4, 3] = 6.0
    with torch.no_grad(), applied_arm(arm, checkpoint.layers[LAYER]):
        assert torch.equal(checkpoint.model.get_parameter(name), expected)
    assert fingerprint(checkpoint) == before


@pytest.mark.parametrize("count", [3, 30], ids=["few rows", "many rows"])
def test_scalars_of_a_packed_matrix_are_set_as_those_of_a_plain_one(count: int) -> None:
    packed = wrap_model(pack_projections_(make_model(LLAMA)))
    plain = wrap_model(unpack_projections_(pack_projections_(make_model(LLAMA))))
    name = "model.layers.1.mlp.down_proj.weight"
    own = {(name, (row, row % 7 + shift)): 1.5 - row / 5 for row in range(count) for shift in range(row % 2 + 1)}
    act = set_to({**own, ("model.layers.1.input_layernorm.weight", (5,)): 3.0})
    before = [collect(checkpoint, [BASELINE])[0, 0] for checkpoint in (packed, plain)]
    changed, expected = (collect(one, [BASELINE, make_arm(act)])[0, 1] for one in (packed, plain))
    assert torch.allclose(changed, expected, atol=2e-5)
    assert not torch.allclose(changed, before[0], atol=1e-3)
    assert torch.equal(collect(packed, [BASELINE])[0, 0], before[0])


UNKNOWN = "the model has no parameter of that name; name one of its own, such as "


@pytest.mark.parametrize(
    ("family", "name", "index", "said"),
    [
        ("llama", "model.layers.1.mlp.down.weight", (1, 1), UNKNOWN + "model.layers.1.mlp.down_proj.weight"),
        ("llama", "model.layers.3.mlp.down_proj.weight", (1, 1), UNKNOWN),
        ("llama", "model.nrm.weight", (1,), UNKNOWN + "model.norm.weight"),
        (
            "llama",
            "model.norm.weight",
            (64,),
            r"scalar model.norm.weight\[64\]: the parameter is 64; give as many",
        ),
        ("llama", "model.norm.weight", (1, 2), "the parameter is 64;"),
        ("llama", "model.embed_tokens.weight", (101, 3), "the parameter is 101 x 64;"),
        (
            "llama",
            "model.layers.1.mlp.down_proj.weight",
            (3, 112),
            "the parameter is 64 x 112; .* output channel first",
        ),
        ("llama", "model.layers.1.mlp.down_proj.weight", (3,), "the parameter is 64 x 112;"),
        ("llama", "model.layers.1.mlp.down_proj.weight", (0, 3, 3), "it is no parameter that fuses experts"),
        ("llama", "model.layers.1.input_layernorm.weight", (64,), "the parameter is 64;"),
        ("gpt2", "transformer.h.1.mlp.c_proj.weight", (64, 3), "the parameter is 64 x 112;"),
        ("mixtral", "model.layers.1.mlp.experts.down_proj", (4, 3, 3), "it fuses 4 experts"),
        ("mixtral", "model.layers.1.mlp.experts.down_proj", (3, 3), "it fuses 4 experts"),
        ("mixtral", "model.layers.1.mlp.experts.down_proj", (3, 3, 112), "the parameter is 4 x 64 x 112;"),
    ],
)
def test_a_scalar_that_is_not_there_is_refused_in_one_line_before_anything_runs(
    family: str, name: str, index: tuple[int, ...], said: str
) -> None:
    checkpoint = open_random(family)
    checkpoint.model.register_forward_pre_hook(lambda *_: pytest.fail("the model was run"))
    with pytest.raises(CheckpointError, match=said) as refused:
        collect(checkpoint, [BASELINE, make_arm(set_to({(name, index): 0.0}))])
    assert "\n" not in str(refused.value)


def test_scalars_of_a_layer_that_is_read_as_it_runs_are_set_while_it_is_there(tmp_path: Path) -> None:
    policy = ModelPolicy(source=str(save_checkpoint(tmp_path / "model", LLAMA)))
    arms = [
        make_arm(set_to({(name, index): 9.0}))
        for name, index in (
            ("model.layers.1.mlp.down_proj.weight", (1, 1)),
            ("model.layers.1.input_layernorm.weight", (1,)),
            ("model.norm.weight", (3,)),
        )
    ]
    whole, streamed = (
        collect(opened, [BASELINE, *arms]) for opened in (open_checkpoint(policy), open_streaming(policy))
    )
    assert all(torch.equal(whole[place], streamed[place]) for place in whole)
    assert not any(torch.equal(whole[0, 0], whole[0, arm]) for arm in (1, 2, 3))


def test_a_layer_that_is_not_there_is_not_written_to(tmp_path: Path) -> None:
    checkpoint = open_streaming(ModelPolicy(source=str(save_checkpoint(tmp_path / "model", LLAMA))))
    act = set_to({("model.layers.1.input_layernorm.weight", (1,)): 0.0})
    with (
        pytest.raises(ValueError, match="only while they are in memory"),
        applied_arm(make_arm(act), checkpoint.layers[1]),
    ):
        pass


def test_a_packed_parameter_outside_of_the_layers_is_refused() -> None:
    checkpoint = open_random("llama")
    checkpoint.model.lm_head.weight = nn.Parameter(torch.zeros(101, 64, dtype=torch.int8), requires_grad=False)
    arm = make_arm(set_to({("lm_head.weight", (1, 1)): 0.0}))
    with pytest.raises(CheckpointError, match="the parameter is packed: its values are int8; give the checkpoint"):
        place_scalars([arm], checkpoint.model, checkpoint.layers)


def test_a_scalar_that_two_layers_share_is_set_in_both_also_transposed() -> None:
    checkpoint = wrap_model(build_gpt2(layers=3))
    blocks: Any = [layer.module for layer in checkpoint.layers]
    blocks[2].mlp.c_proj.weight = blocks[0].mlp.c_proj.weight
    shared = wrap_model(checkpoint.model)
    weight = blocks[0].mlp.c_proj.weight
    name = "transformer.h.{}.mlp.c_proj.weight"
    for named in (0, 2):
        [(placed, outside)] = place_scalars(
            [make_arm(set_to({(name.format(named), (3, 100)): 9.0}))], shared.model, shared.layers
        )
        assert outside == ()
        assert [touches(placed, layer) for layer in shared.layers] == [True, False, True]
        for layer in (shared.layers[0], shared.layers[2]):
            before = weight.clone()
            with applied_arm(placed, layer):
                assert weight[100, 3] == 9.0
            assert torch.equal(weight, before)
