"""Every expert is a matrix of its own, whatever parameter it is stored in, and its products can be followed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.checkpoints import DEEPSEEK, EXPERTS, HIDDEN, LAYERS, Family
from support.experts import make_experts, take_experts_apart_

from sw_audit.checkpoint.experts import (
    ExpertPass,
    FusedExperts,
    check_passes,
    find_fused_experts,
    follow_experts,
    match_rows,
)
from sw_audit.checkpoint.families import find_decoder_layers
from sw_audit.errors import CheckpointError

MIXTRAL = EXPERTS[0]
BY_NAME = {str(family): family for family in (*EXPERTS, *DEEPSEEK)}
TRANSPOSED = {"gpt_oss", "llama4_text"}
WITH_SHARED = {"qwen2_moe", "llama4_text", "deepseek_v2", "deepseek_v3"}
PROMPT = torch.tensor([[1, 4, 5, 6, 7, 9, 9, 12]])

families = pytest.mark.parametrize("name", BY_NAME)


@families
def test_each_expert_has_its_down_projection_and_every_scalar_is_in_one_matrix(name: str) -> None:
    model = make_experts(BY_NAME[name])
    parameters = dict(model.named_parameters())
    layers = find_decoder_layers(model)
    for layer in layers:
        linears = [module for module in layer.module.modules() if isinstance(module, torch.nn.Linear)]
        fused = [parameter for parameter in layer.module.parameters() if parameter.ndim == 3]
        expected = sum(weight.numel() for weight in (*(linear.weight for linear in linears), *fused))
        assert sum(matrix.weight.numel() for matrix in layer.matrices) == expected
        named = {(matrix.parameter, matrix.expert) for matrix in layer.matrices}
        assert len(named) == len(layer.matrices)
        assert {(down.parameter, down.expert) for down in layer.down_projections} <= named
    layer = layers[-1]
    shared = [down for down in layer.down_projections if down.expert is None]
    assert len(shared) == (name in WITH_SHARED)
    for down in shared:
        assert "shared" in down.parameter
        assert down.tensor is parameters[down.parameter]
    experts = [down for down in layer.down_projections if down.expert is not None]
    assert [down.expert for down in experts] == [0, 1, 2, 3]
    for down in experts:
        stored = parameters[down.parameter]
        assert down.parameter.endswith("experts.down_proj")
        assert down.weight.shape[0] == HIDDEN
        assert torch.equal(down.weight, stored[down.expert].T if name in TRANSPOSED else stored[down.expert])
        down.weight[3, 5] = 123.0
        assert (stored[down.expert, 5, 3] if name in TRANSPOSED else stored[down.expert, 3, 5]) == 123.0


def watch(model: Any, fused: FusedExperts) -> tuple[tuple[ExpertPass, ...], torch.Tensor]:
    seen: list[tuple[tuple[ExpertPass, ...], torch.Tensor]] = []

    def keep(_: Any, inputs: tuple[Any, ...], named: dict[str, Any], output: torch.Tensor) -> None:
        seen.append((follow_experts(fused, inputs, named), output.clone()))

    handle = fused.module.register_forward_hook(keep, with_kwargs=True)
    with torch.no_grad():
        model(PROMPT)
    handle.remove()
    return seen[0]


IMPLEMENTATIONS = [(name, how) for name in ("mixtral", "gpt_oss") for how in ("eager", "batched_mm", "grouped_mm")]


@pytest.mark.parametrize(("name", "implementation"), [*((name, None) for name in BY_NAME), *IMPLEMENTATIONS])
def test_outputs_times_routing_weights_add_up_to_the_modules_own_output(
    name: str, implementation: str | None
) -> None:
    model = make_experts(BY_NAME[name], implementation)
    for layer in find_decoder_layers(model):
        for fused in layer.fused_experts:
            passes, output = watch(model, fused)
            by_hand = torch.zeros_like(output)
            for served in passes:
                matrix, bias = fused.matrix(fused.down, served.expert), fused.bias(fused.down, served.expert)
                for place, scale, x in zip(served.places, served.scales, served.inputs, strict=True):
                    by_hand[place] += scale * ((matrix * x).sum(1) + (0 if bias is None else bias))
            torch.testing.assert_close(by_hand, output, rtol=1e-4, atol=1e-5)
            assert output.abs().max() > 0.01
            check_passes(fused, passes, output)
            with pytest.raises(CheckpointError, match=rf"experts {fused.name}: their output is not the sum"):
                check_passes(fused, passes, output * 1.01)
            *others, _ = sorted(passes, key=lambda served: float((served.outputs * served.scales[:, None]).norm()))
            with pytest.raises(CheckpointError, match="is not the sum"):
                check_passes(fused, others, output)


@families
def test_a_changed_scalar_changes_the_output_by_its_product_and_nothing_else(name: str) -> None:
    model = make_experts(BY_NAME[name])
    layer = find_decoder_layers(model)[-1]
    [fused] = layer.fused_experts
    passes, before = watch(model, fused)
    served = max(passes, key=lambda served: len(served.tokens))
    down = next(down for down in layer.down_projections if down.expert == served.expert)
    down.weight[7, 11] += 2.0
    _, after = watch(model, fused)
    expected = before.clone()
    expected[served.places, 7] += served.scales * 2.0 * served.inputs[:, 11]
    torch.testing.assert_close(after, expected)
    assert not torch.allclose(after, before)


def test_experts_that_are_called_in_another_way_are_refused_in_one_line() -> None:
    [fused] = find_decoder_layers(make_experts(MIXTRAL))[0].fused_experts
    states, index = torch.ones(6, HIDDEN), torch.zeros(6, 2, dtype=torch.long)
    for call in ((states[:5],), (states, index), (states, index, torch.ones(6, 3))):
        with pytest.raises(CheckpointError, match="cannot be followed") as caught:
            follow_experts(fused, call, {})
        assert "\n" not in str(caught.value)


def test_the_index_past_the_last_expert_is_none_and_weights_may_be_given_for_all() -> None:
    [fused] = find_decoder_layers(make_experts(MIXTRAL))[0].fused_experts
    states, index = torch.ones(2, HIDDEN), torch.tensor([[1], [4]])
    [served] = follow_experts(fused, (states,), {"index": index, "weights": torch.ones(2, 1)})
    assert (served.expert, served.tokens.tolist()) == (1, [0])
    every = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    [served] = follow_experts(fused, (states[:1], index[:1], every), {})
    assert served.scales.tolist() == pytest.approx([0.2])


@pytest.mark.parametrize("inner", [HIDDEN, HIDDEN // 2, 20])
@pytest.mark.parametrize("transposed", [False, True])
def test_the_layout_is_read_off_the_shapes_where_the_module_does_not_say(transposed: bool, inner: int) -> None:
    module = torch.nn.Module()
    shapes = {"gate_up_proj": (2 * inner, HIDDEN), "down_proj": (HIDDEN, inner)}
    for name, (out, into) in shapes.items():
        size = (into, out) if transposed else (out, into)
        module.register_parameter(name, torch.nn.Parameter(torch.zeros(4, *size)))
    fused = find_fused_experts(module, "experts", HIDDEN)
    assert fused is not None
    assert (fused.down, fused.inward) == ("down_proj", ("gate_up_proj",))
    assert (fused.transposed, fused.count) == (transposed, 4)
    assert fused.matrix("down_proj", 0).shape == (HIDDEN, inner)


def test_a_convolution_is_no_experts() -> None:
    assert find_fused_experts(torch.nn.Conv1d(4, 4, 3), "conv", 4) is None


def test_experts_side_by_side_in_a_list_each_have_their_own_down_projection() -> None:
    model = make_experts(MIXTRAL)
    take_experts_apart_(model)
    layers = find_decoder_layers(model)
    assert [layer.down_projection for layer in layers] == [None] * LAYERS
    downs = layers[1].down_projections
    assert [down.parameter for down in downs] == [f"model.layers.1.mlp.experts.{e}.w2.weight" for e in range(4)]
    for number, down in enumerate(downs):
        assert (down.expert, down.fused) == (None, None)
        assert down.expert_module is model.model.layers[1].mlp.experts[number]
        assert down.module is model.model.layers[1].mlp.experts[number].w2


def test_a_list_of_single_matrices_is_no_list_of_experts_with_down_projections() -> None:
    model = make_experts(MIXTRAL)
    block = model.model.layers[1].mlp
    block.experts = torch.nn.ModuleList(torch.nn.Linear(HIDDEN, HIDDEN) for _ in range(2))
    assert find_decoder_layers(model)[1].down_projections == ()


def test_rows_are_found_again_in_order_and_equal_ones_each_once() -> None:
    among = torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0], [5.0, 6.0]])
    assert match_rows(among[[0, 2, 3]], among).tolist() == [0, 2, 3]
    with pytest.raises(CheckpointError, match="not what enters its MLP"):
        match_rows(among[[0, 0, 0]], among)


@pytest.mark.parametrize("family", [MIXTRAL, BY_NAME["gpt_oss"]], ids=str)
def test_experts_on_the_meta_device_are_read_as_well(family: Family) -> None:
    with torch.device("meta"):
        layers = find_decoder_layers(make_experts(family))
    assert [len(layer.down_projections) for layer in layers] == [4] * LAYERS
    assert [len(layer.matrices) for layer in layers] == [4 + 2 * 4] * LAYERS


def test_an_address_of_an_expert_that_is_not_there_is_one_clear_line() -> None:
    layer = find_decoder_layers(make_experts(MIXTRAL))[0]
    down = layer.down_projections[2]
    found = layer.find_matrix(down.parameter, 2)
    assert found is not None
    assert torch.equal(found.weight, down.weight)
    assert layer.find_matrix("model.layers.1.mlp.experts.down_proj", 2) is None
    for expert in (4, None):
        with pytest.raises(CheckpointError, match="it fuses 4 experts; count experts from 0"):
            layer.find_matrix(down.parameter, expert)
    with pytest.raises(CheckpointError, match="no parameter that fuses experts"):
        layer.find_matrix("model.layers.0.self_attn.q_proj.weight", 0)
