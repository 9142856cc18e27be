"""Actions on packed matrices do the same as on a plain model with the same effective weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.checkpoints import LLAMA, make_model
from support.engine import make_arm
from support.packed import PackedLinear, pack_projections_, unpack_projections_
from torch import Tensor

from sw_audit.arms.apply import applied_arm
from sw_audit.checkpoint.families import find_decoder_layers
from sw_audit.checkpoint.matrices import DecoderLayer
from sw_audit.errors import CheckpointError
from sw_audit.policy.recipe import parse_recipe
from sw_audit.record.address import AddressGroup
from sw_audit.record.arm import Act, Quantize, RestoreActivation, Scale, SetTo

DOWN = "model.layers.1.mlp.down_proj.weight"
ONE = AddressGroup(parameter=DOWN, rows=(3,), columns=(5,))
SAME_ROW = AddressGroup(parameter=DOWN, rows=(3, 3, 8), columns=(5, 9, 2))
MANY = AddressGroup(parameter=DOWN, rows=tuple(range(30)), columns=tuple(range(5, 35)))
ACTS: dict[str, tuple[Act, ...]] = {
    "pruned": (Scale(addresses=(ONE,), factor=0.0),),
    "flipped": (Scale(addresses=(SAME_ROW,), factor=-1.0),),
    "many": (Scale(addresses=(MANY,), factor=0.0),),
    "set": (SetTo(addresses=(SAME_ROW,), value=1.5),),
    "many set": (SetTo(addresses=(MANY,), value=0.5),),
    "one after the other": (
        SetTo(addresses=(ONE,), value=1.5),
        Scale(addresses=(SAME_ROW,), factor=0.5),
        SetTo(addresses=(AddressGroup(parameter=DOWN, rows=(3,), columns=(9,)),), value=-2.0),
    ),
    "restored": (Scale(addresses=(ONE,), factor=0.0), RestoreActivation(addresses=(ONE,))),
    "rounded": (Quantize(recipe=parse_recipe("int4/row")),),
    "rounded with hold-out": (Quantize(recipe=parse_recipe("int3/tensor"), holdout=(ONE, SAME_ROW)),),
    "rounded, then pruned": (
        Quantize(recipe=parse_recipe("int4/row")),
        Scale(addresses=(ONE,), factor=0.0),
    ),
}


@pytest.fixture
def pair() -> tuple[Any, Any]:
    """A packed model and a plain one with the same effective weights."""
    packed = pack_projections_(make_model(LLAMA)).requires_grad_(False)
    return packed, unpack_projections_(pack_projections_(make_model(LLAMA))).requires_grad_(False)


@torch.no_grad()
def run(model: Any, layer: DecoderLayer, acts: tuple[Act, ...]) -> Tensor:
    tokens = torch.arange(3, 15).view(2, 6)
    with applied_arm(make_arm(*acts, label="tried"), layer):
        logits: Tensor = model(tokens, use_cache=False).logits
    return logits


@pytest.mark.parametrize("name", ACTS)
def test_an_act_does_to_a_packed_model_what_it_does_to_a_plain_one(name: str, pair: tuple[Any, Any]) -> None:
    packed, plain = pair
    acts = ACTS[name]
    first, second = find_decoder_layers(packed)[1], find_decoder_layers(plain)[1]
    before = run(packed, first, ())
    assert torch.allclose(before, run(plain, second, ()), atol=1e-5)
    changed, expected = run(packed, first, acts), run(plain, second, acts)
    assert torch.allclose(changed, expected, atol=2e-5)
    assert not torch.allclose(changed, before, atol=2e-5), "the act does nothing"
    assert torch.equal(run(packed, first, ()), before)


def test_other_rows_are_bit_for_bit_what_they_were(pair: tuple[Any, Any]) -> None:
    packed, _ = pair
    layer = find_decoder_layers(packed)[1]
    down = layer.down_projection
    x = torch.randn(2, 6, down.shape[1], generator=torch.Generator().manual_seed(2))
    before = down.module(x)
    with applied_arm(make_arm(*ACTS["pruned"], label="pruned"), layer):
        pruned = down.module(x)
        assert float(down.weight[3, 5]) == 0.0
        assert float(down.read_scalars(torch.tensor([3]), torch.tensor([5]))) == 0.0
    changed = (pruned != before).any(0).any(0)
    assert changed.nonzero().flatten().tolist() == [3]


def test_in_half_precision_nothing_cancels(pair: tuple[Any, Any]) -> None:
    # A column 4,000 times as loud as the others: subtracting its product from a bfloat16 sum would leave noise.
    packed, _ = pair
    layer = find_decoder_layers(packed)[1]
    down = layer.down_projection
    module: Any = down.module
    x = torch.randn(1, 4, down.shape[1], generator=torch.Generator().manual_seed(2)).bfloat16()
    silent = x.clone()
    x[..., 5], silent[..., 5] = 4000.0, 0.0
    with applied_arm(make_arm(*ACTS["pruned"], label="pruned"), layer):
        pruned = module(x)
    assert torch.equal(pruned[..., 3], module(silent)[..., 3])


def test_an_address_outside_of_a_packed_matrix_is_one_clear_line(pair: tuple[Any, Any]) -> None:
    packed, _ = pair
    group = AddressGroup(parameter=DOWN, rows=(99,), columns=(5,))
    arm = make_arm(Scale(addresses=(group,), factor=0.0), label="outside")
    with (
        pytest.raises(CheckpointError, match="the matrix is 32 x 40"),
        applied_arm(arm, find_decoder_layers(packed)[1]),
    ):
        pytest.fail("it went in")


def test_after_an_exception_a_packed_module_answers_as_before(pair: tuple[Any, Any]) -> None:
    packed, _ = pair
    layer = find_decoder_layers(packed)[1]
    for acts in ACTS.values():
        with (
            pytest.raises(RuntimeError, match="midway"),
            applied_arm(make_arm(*acts, label="tried"), layer),
        ):
            raise RuntimeError("midway")
    assert all("forward" not in module.__dict__ for module in packed.modules() if isinstance(module, PackedLinear))
