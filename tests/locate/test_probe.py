"""A super weight in one expert of many is found there, by what its expert's routing weight lets through."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.checkpoints import Family
from support.engine import MIXED
from support.experts import find_block, find_router, make_experts, take_experts_apart_
from support.planted import wrap_model

from sw_audit.checkpoint.matrices import DownProjection, copy_rows, take_states
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.errors import CheckpointError
from sw_audit.locate.controls import count_weights, draw_placebos, find_largest_weights
from sw_audit.locate.locator import locate_super_weights
from sw_audit.locate.probe import DownObservation, Probe, probe_prompt, probe_prompts
from sw_audit.record.address import WeightAddress
from sw_audit.record.arm import CONTROL_KINDS
from sw_audit.record.location import Outcome
from sw_audit.testing.families import Numerals, build_random_model

LAYERS, LAYER, EXPERT, ROW, COLUMN = 6, 1, 2, 17, 11
PROMPT = [1, 5, 7, 11, 13, 5, 9]


def open_experts(family: Family, **settings: Any) -> Checkpoint:
    settings["num_hidden_layers"] = LAYERS
    if str(family) == "gpt_oss":
        settings["layer_types"] = ["full_attention"] * LAYERS
    model = make_experts(family, **settings)
    for layer in model.model.layers:
        for parameter in layer.parameters():
            if parameter.ndim == 3:
                parameter.data *= 0.3  # so that random experts make no spikes of their own
    return wrap_model(model, tokenizer=Numerals())


def observe(probe: Probe, down: DownProjection) -> DownObservation:
    return next(seen for seen in probe.observed_in(down.layer) if seen.down is down)


def plant_(checkpoint: Checkpoint, down: DownProjection, spike: float = 40.0) -> None:
    """Plant a super weight in one expert: its router sends it the BOS token, and one neuron answers to it."""
    layer = checkpoint.layers[down.layer]
    block = find_block(layer.module, down)
    entering: list[torch.Tensor] = []
    handle = block.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0]))
    checkpoint.model(input_ids=torch.tensor([PROMPT]), use_cache=False)
    handle.remove()
    h = entering[0].reshape(-1, entering[0].shape[-1])[0]
    along = h / h.square().sum()
    if down.expert is not None:
        find_router(block, down.fused.count).weight[down.expert] = 12.0 * along
        for name in down.fused.inward:
            leading = down.fused.matrix(name, down.expert)
            # Gate and up are one matrix: two halves, or (gpt-oss) row by row in turn.
            inner = len(leading) // 2
            in_turn = checkpoint.identity.family == "gpt_oss"
            for row in (2 * COLUMN, 2 * COLUMN + 1) if in_turn else (COLUMN, COLUMN + inner):
                leading[row] = 3.0 * along
    else:
        home = checkpoint.model.get_submodule(down.parameter.rsplit(".", 2)[0])
        for module in home.children():
            if isinstance(module, torch.nn.Linear) and module is not down.module:
                module.weight[COLUMN] = 3.0 * along
    seen = observe(probe_prompt(checkpoint, PROMPT), down)
    said, scale = seen.input_at(0), seen.scale_at(0)
    down.weight[ROW, COLUMN] = spike / float(said[COLUMN] * scale)


SHARING = ("qwen2_moe", "llama4_text", "deepseek_v2", "deepseek_v3")
"""Families with an MLP beside the experts that serves every token."""


@pytest.mark.parametrize(
    ("name", "expert"), [*((name, EXPERT) for name in MIXED), *((name, None) for name in SHARING)]
)
def test_a_super_weight_in_one_expert_or_in_what_all_tokens_share_is_found_there(
    name: str, expert: int | None
) -> None:
    checkpoint = open_experts(MIXED[name])
    down = next(down for down in checkpoint.layers[LAYER].down_projections if down.expert == expert)
    plant_(checkpoint, down)
    location = locate_super_weights(checkpoint, " ".join(map(str, PROMPT[1:])))
    assert location.outcome is Outcome.LOCATED, location.because
    [located] = location.super_weights
    assert located.address == WeightAddress(parameter=down.parameter, row=ROW, column=COLUMN, expert=expert)
    assert (located.layer, located.value) == (LAYER, float(down.weight[ROW, COLUMN]))
    assert located.share == pytest.approx(1.0, abs=0.1)
    if expert is not None:
        candidate = next(candidate for candidate in location.candidates if candidate.layer == LAYER)
        place = (candidate.expert, candidate.row, candidate.column, candidate.accepted)
        assert place == (EXPERT, ROW, COLUMN, True)


@pytest.mark.parametrize("name", MIXED)
def test_ordinary_experts_have_no_super_weight(name: str) -> None:
    location = locate_super_weights(open_experts(MIXED[name]), " ".join(map(str, PROMPT[1:])))
    assert (location.outcome, location.super_weights) == (Outcome.NONE, ())


@pytest.mark.parametrize("name", MIXED)
def test_what_experts_deliver_adds_up_to_what_their_block_gives(name: str) -> None:
    checkpoint = open_experts(MIXED[name])
    layer = checkpoint.layers[2]
    leaving: list[torch.Tensor] = []
    block = find_block(layer.module, layer.down_projections[-1])
    block.register_forward_hook(lambda _, __, output: leaving.append(copy_rows(take_states(output))))
    probe = probe_prompt(checkpoint, PROMPT)
    total = torch.zeros_like(leaving[0])
    for seen in probe.observed_in(2):
        bias = 0 if seen.down.bias is None else seen.down.bias
        for token in seen.tokens.tolist():
            total[token] += seen.scale_at(token) * (seen.down.weight @ seen.input_at(token) + bias)
    torch.testing.assert_close(total, leaving[0], rtol=1e-3, atol=1e-5)
    assert leaving[0].abs().max() > 1e-3


def test_the_gate_of_a_shared_expert_is_its_scale() -> None:
    checkpoint = open_experts(MIXED["qwen2_moe"])
    block = checkpoint.model.model.layers[2].mlp
    entering: list[torch.Tensor] = []
    block.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0][0]))
    probe = probe_prompt(checkpoint, PROMPT)
    shared = next(seen for seen in probe.observed_in(2) if seen.down.expert is None)
    expected = torch.sigmoid(entering[0] @ block.shared_expert_gate.weight[0])
    torch.testing.assert_close(shared.scales, expected, rtol=1e-3, atol=1e-4)


def test_experts_apart_are_observed_as_fused_ones_are() -> None:
    fused = open_experts(MIXED["mixtral"])
    model = make_experts(MIXED["mixtral"], num_hidden_layers=LAYERS)
    model.load_state_dict(fused.model.state_dict())
    take_experts_apart_(model)
    apart = wrap_model(model, tokenizer=Numerals())
    of_fused, of_apart = probe_prompt(fused, PROMPT), probe_prompt(apart, PROMPT)
    assert len(of_apart.observations) == len(of_fused.observations)
    for apart_seen, fused_seen in zip(of_apart.observations, of_fused.observations, strict=True):
        assert (
            apart_seen.down.parameter
            == f"model.layers.{fused_seen.layer}.mlp.experts.{fused_seen.down.expert}.w2.weight"
        )
        assert apart_seen.tokens.tolist() == fused_seen.tokens.tolist()
        torch.testing.assert_close(apart_seen.inputs, fused_seen.inputs, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(apart_seen.scales, fused_seen.scales, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("apart", [False, True])
def test_a_block_that_computes_something_else_is_refused_in_one_line(apart: bool) -> None:
    model = make_experts(MIXED["mixtral"])
    if apart:
        take_experts_apart_(model)
    block = model.model.layers[1].mlp
    target = block if apart else block.experts
    forward = target.forward
    target.forward = lambda *inputs: forward(*inputs).square()
    with pytest.raises(CheckpointError, match="cannot be followed") as caught:
        probe_prompt(wrap_model(model), PROMPT)
    assert "\n" not in str(caught.value)
    assert "layers.1" in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "qwen2_moe", "llama4_text"])
def test_half_precision_experts_are_followed(name: str, dtype: torch.dtype) -> None:
    # The library's grouped product of halves asks for rows of a multiple of 16 bytes.
    wide = {"moe_intermediate_size": 24} if name == "qwen2_moe" else {}
    checkpoint = wrap_model(make_experts(MIXED[name], **wide).to(dtype))
    probe = probe_prompt(checkpoint, PROMPT)
    assert {seen.layer for seen in probe.observations} == {0, 1, 2}


def test_the_largest_weights_and_placebos_are_named_with_their_expert() -> None:
    checkpoint = open_experts(MIXED["gpt_oss"])
    layers = checkpoint.layers
    layers[3].down_projections[1].weight[4, 9] = 99.0
    target = WeightAddress(parameter=layers[3].down_projections[1].parameter, row=4, column=9, expert=1)
    assert find_largest_weights(layers, 1, ()) == (target,)
    every = torch.cat([matrix.weight.abs().flatten() for layer in layers for matrix in layer.matrices])
    assert count_weights(layers) == len(every)
    values = [
        abs(float(checkpoint.matrix(address.parameter, address.expert).weight[address.row, address.column]))
        for address in find_largest_weights(layers, 500, (target,))
    ]
    assert values == every.topk(501).values[1:].tolist()
    for kind in CONTROL_KINDS:
        [drawn] = draw_placebos(layers, [target], kind, "seed")
        assert drawn != target
        matrix = checkpoint.matrix(drawn.parameter, drawn.expert)
        assert drawn.row < matrix.weight.shape[0]
        if kind in ("same-row", "same-column"):
            assert (drawn.parameter, drawn.expert) == (target.parameter, 1)
        if kind == "same-magnitude":
            assert drawn.parameter != target.parameter
            assert drawn.expert is not None
            # The largest, or the next where the weights alone point at the largest.
            assert (
                abs(float(matrix.weight[drawn.row, drawn.column])) in matrix.weight.abs().flatten().topk(2).values
            )


@pytest.mark.parametrize(
    "family", ["llama", "gpt2", "opt", "bloom", "mixtral", "qwen3_moe", "gpt_oss", "llama4_text"]
)
def test_a_prompt_beside_longer_and_shorter_ones_shows_what_it_shows_alone(family: str) -> None:
    checkpoint = wrap_model(build_random_model(family, layers=3))
    prompts = [PROMPT, PROMPT[:2], [1, *PROMPT, 9, 12]]
    for prompt, beside in zip(prompts, probe_prompts(checkpoint, prompts), strict=True):
        alone = probe_prompt(checkpoint, prompt)
        assert alone.residual.shape == beside.residual.shape == (3, len(prompt), alone.residual.shape[2])
        torch.testing.assert_close(beside.residual, alone.residual, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(beside.embedded, alone.embedded)
        assert [seen.down for seen in beside.observations] == [seen.down for seen in alone.observations]
        for one, other in zip(alone.observations, beside.observations, strict=True):
            assert one.tokens.tolist() == other.tokens.tolist()
            torch.testing.assert_close(one.delivered, other.delivered, rtol=1e-3, atol=1e-4)
        took = beside.take(take_states(beside.calls[1](checkpoint.layers[1].module, beside.entries[1].clone())))
        torch.testing.assert_close(took, beside.residual[1], rtol=1e-4, atol=1e-4)
