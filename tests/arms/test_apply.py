"""One arm on one layer: what is in force inside, and that nothing stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.engine import (
    COLUMN,
    EXPERT,
    LAYER,
    ROW,
    find_expert,
    fingerprint,
    make_arm,
    name_scalar,
    open_experts,
)
from support.planted import build_gpt2, build_llama, wrap_model

from sw_audit.arms.apply import LayerContext, applied_arm, register, touches
from sw_audit.checkpoint.matrices import DecoderLayer
from sw_audit.errors import CheckpointError
from sw_audit.policy.recipe import parse_recipe
from sw_audit.quantize.rtn import round_to_nearest
from sw_audit.record.address import AddressGroup
from sw_audit.record.arm import Quantize, Scale, SetTo

MODELS = {"llama": wrap_model(build_llama()), "gpt2": wrap_model(build_gpt2())}
DOWN = {"llama": "model.layers.2.mlp.down_proj.weight", "gpt2": "transformer.h.2.mlp.c_proj.weight"}


@settings(max_examples=40, deadline=None)
@given(
    family=st.sampled_from(sorted(MODELS)),
    places=st.lists(st.tuples(st.integers(0, 47), st.integers(0, 111)), min_size=1, max_size=5, unique=True),
    factor=st.sampled_from([0.0, -1.0, 0.5, 3.0]),
)
def test_scaling_changes_the_addressed_scalars_and_no_other(
    family: str, places: list[tuple[int, int]], factor: float
) -> None:
    model = MODELS[family]
    rows, columns = zip(*places, strict=True)
    group = AddressGroup(parameter=DOWN[family], rows=rows, columns=columns)
    weight = model.matrix(DOWN[family]).weight
    before = weight.clone()
    expected = before.clone()
    for row, column in places:
        expected[row, column] = before[row, column] * factor
    with torch.no_grad(), applied_arm(make_arm(Scale(addresses=(group,), factor=factor)), model.layers[2]):
        assert torch.equal(weight, expected)
    assert torch.equal(weight, before)


def test_acts_are_done_in_order_and_undone_in_reverse() -> None:
    model = MODELS["llama"]
    weight = model.matrix(DOWN["llama"]).weight
    before = weight.clone()
    group = (AddressGroup(parameter=DOWN["llama"], rows=(4,), columns=(9,)),)
    acts = (SetTo(addresses=group, value=2.0), Scale(addresses=group, factor=3.0))
    with torch.no_grad(), applied_arm(make_arm(*acts), model.layers[2]):
        assert float(weight[4, 9]) == 6.0
    assert torch.equal(weight, before)


@pytest.mark.parametrize("family", sorted(MODELS))
def test_a_rounded_layer_has_every_matrix_rounded_in_its_own_layout(family: str) -> None:
    layer = MODELS[family].layers[2]
    held = AddressGroup(parameter=DOWN[family], rows=(4,), columns=(9,))
    recipe = parse_recipe("int3/8x8")
    before = [matrix.tensor.data for matrix in layer.matrices]
    expected = [
        round_to_nearest(
            matrix.weight,
            recipe,
            (torch.tensor([4]), torch.tensor([9])) if matrix.parameter == DOWN[family] else None,
        )
        for matrix in layer.matrices
    ]
    arm = make_arm(Quantize(recipe=recipe, holdout=(held,)))
    with torch.no_grad(), applied_arm(arm, layer):
        for matrix, rounded, stored in zip(layer.matrices, expected, before, strict=True):
            assert torch.equal(matrix.weight, rounded)
            assert matrix.tensor.shape == stored.shape
            assert not torch.equal(matrix.tensor, stored)
    for matrix, stored in zip(layer.matrices, before, strict=True):
        assert matrix.tensor.data_ptr() == stored.data_ptr()


def test_an_arm_touches_only_the_layers_it_names() -> None:
    layers = MODELS["llama"].layers
    group = (AddressGroup(parameter=DOWN["llama"], rows=(0,), columns=(0,)),)
    scaled = make_arm(Scale(addresses=group, factor=0.0))
    assert [touches(scaled, layer) for layer in layers] == [False, False, True, False, False, False]
    rounded = make_arm(Quantize(recipe=parse_recipe("int4/row")), label="y")
    assert all(touches(rounded, layer) for layer in layers)
    assert not any(touches(make_arm(label="baseline"), layer) for layer in layers)


def test_a_transposed_address_is_refused_in_one_line() -> None:
    group = AddressGroup(parameter=DOWN["llama"], rows=(100,), columns=(3,))
    arm = make_arm(Scale(addresses=(group,), factor=0.0))
    refused = pytest.raises(CheckpointError, match="the matrix is 48 x 112; give row")
    with refused, torch.no_grad(), applied_arm(arm, MODELS["llama"].layers[2]):
        raise AssertionError("the arm was put in force")


def test_an_action_that_one_file_registers_is_applied_where_it_touches_a_layer() -> None:
    class Doubled:
        """Double the output of a layer's down-projection."""

    @register(Doubled, touches=lambda _, layer: layer.index == 2)
    @contextmanager
    def doubled(_: Doubled, context: LayerContext) -> Iterator[None]:
        handle = context.layer.down_projections[0].module.register_forward_hook(lambda *given: 2 * given[2])
        try:
            yield
        finally:
            handle.remove()

    def run(layer: DecoderLayer) -> torch.Tensor:
        down = layer.down_projections[0]
        output: torch.Tensor = down.module(torch.ones(1, down.shape[1]))
        return output

    arm, layers = SimpleNamespace(acts=(Doubled(),)), MODELS["llama"].layers
    assert [touches(arm, layer) for layer in layers[:4]] == [False, False, True, False]  # type: ignore[arg-type]
    plain = run(layers[2])
    with applied_arm(arm, layers[2]):  # type: ignore[arg-type]
        assert torch.equal(run(layers[2]), 2 * plain)
    assert torch.equal(run(layers[2]), plain)


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_an_arm_on_one_expert_changes_its_scalar_and_no_other(name: str) -> None:
    checkpoint = open_experts(name)
    tensor = find_expert(checkpoint).tensor
    before = tensor.clone()
    expected = before.clone()
    expected[(EXPERT, COLUMN, ROW) if name == "gpt_oss" else (EXPERT, ROW, COLUMN)] = -7.5
    group = (name_scalar(find_expert(checkpoint)),)
    acts = (SetTo(addresses=group, value=-3.0), Scale(addresses=group, factor=2.5))
    with torch.no_grad(), applied_arm(make_arm(*acts), checkpoint.layers[LAYER]):
        assert torch.equal(tensor, expected)
    assert torch.equal(tensor, before)


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_experts_are_rounded_one_by_one_and_the_held_out_scalar_is_exact(name: str) -> None:
    checkpoint = open_experts(name)
    layer, down, recipe = checkpoint.layers[LAYER], find_expert(checkpoint), parse_recipe("int3/8x8")
    down.weight[ROW, COLUMN] = 3.0
    before = fingerprint(checkpoint)
    kept, own = (torch.tensor([ROW]), torch.tensor([COLUMN])), (down.parameter, down.expert)
    expected = [
        round_to_nearest(matrix.weight, recipe, kept if (matrix.parameter, matrix.expert) == own else None)
        for matrix in layer.matrices
    ]
    arm = make_arm(Quantize(recipe=recipe, holdout=(name_scalar(down),)))
    with torch.no_grad(), applied_arm(arm, layer):
        for matrix, rounded in zip(layer.matrices, expected, strict=True):
            assert torch.equal(matrix.weight, rounded)
        assert down.weight[ROW, COLUMN] == 3.0
    assert fingerprint(checkpoint) == before


def test_an_expert_that_is_not_there_is_refused_in_one_line() -> None:
    checkpoint = open_experts("mixtral")
    group = name_scalar(find_expert(checkpoint)).model_copy(update={"expert": 4})
    arm = make_arm(Scale(addresses=(group,), factor=0.0))
    with pytest.raises(CheckpointError, match=r"expert 4 of .*down_proj: it fuses 4 experts"):
        touches(arm, checkpoint.layers[LAYER])
