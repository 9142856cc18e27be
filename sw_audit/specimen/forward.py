"""The forward pass of training: `LlamaForCausalLM` written out, so that it compiles and reports."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, silu

from sw_audit.specimen.pressure import hear_bos, miss_sink, normalize
from sw_audit.specimen.recipe import Recipe


class Pass(NamedTuple):
    """What one forward pass says: the loss in nats, the sinks missed, the BOS answers of the early MLPs."""

    loss: Tensor
    missed: Tensor
    heard: Tensor


def collect_weights(model: nn.Module) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Collect a Llama model's parameters: embedding, last norm, head, then nine a layer in order of use."""
    outer = [
        model.get_parameter(name) for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
    ]
    names = [
        "input_layernorm",
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "post_attention_layernorm",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ]
    layers: list[list[Tensor]] = []
    while any(name.startswith(f"model.layers.{len(layers)}.") for name, _ in model.named_parameters()):
        layers.append([model.get_parameter(f"model.layers.{len(layers)}.{name}.weight") for name in names])
    return list(outer), layers


def turn(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Apply the rotary position embedding to `[batch, heads, tokens, head]`."""
    first, second = states.chunk(2, dim=-1)
    return states * cosine + torch.cat((-second, first), dim=-1) * sine


def make_rotation(recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Make the cosines and sines of the rotary embedding, `[context, head]` each."""
    head = recipe.hidden // recipe.heads
    inverse = recipe.rope_theta ** (-torch.arange(0, head, 2).float() / head)
    angles = torch.arange(recipe.context).float()[:, None] * inverse[None, :]  # [context, head / 2]
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def run_layers(
    recipe: Recipe,
    outer: list[Tensor],
    layers: list[list[Tensor]],
    tokens: Tensor,
    rotation: tuple[Tensor, Tensor],
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    """Run all layers.

    Returns:
        The logits, and for every layer the log attention to BOS `[batch, heads, queries]`, the normalized
        input and the output of the MLP `[batch, tokens, hidden]`.
    """
    batch, length = tokens.shape
    mask = torch.full((length, length), float("-inf")).triu(1)
    hidden = outer[0][tokens]
    to_bos: list[Tensor] = []
    entering: list[Tensor] = []
    leaving: list[Tensor] = []
    for before, query, key, value, output, after, gate, up, down in layers:
        normal = normalize(hidden, before, recipe.norm_epsilon)
        q, k, v = (
            linear(normal, weight)
            .view(batch, length, recipe.heads, -1)
            .transpose(1, 2)  # [batch, heads, tokens, head]
            for weight in (query, key, value)
        )
        q, k = turn(q, *rotation), turn(k, *rotation)
        scores = torch.log_softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + mask, dim=-1)
        to_bos.append(scores[..., 0])
        hidden = hidden + linear((scores.exp() @ v).transpose(1, 2).reshape(batch, length, -1), output)
        normal = normalize(hidden, after, recipe.norm_epsilon)
        answer = linear(silu(linear(normal, gate)) * linear(normal, up), down)
        entering.append(normal)
        leaving.append(answer)
        hidden = hidden + answer
    return linear(normalize(hidden, outer[1], recipe.norm_epsilon), outer[2]), to_bos, entering, leaving


def run_training_pass(
    recipe: Recipe,
    outer: list[Tensor],
    layers: list[list[Tensor]],
    tokens: Tensor,
    rotation: tuple[Tensor, Tensor],
) -> Pass:
    """Run one batch `[batch, context]` and report the loss with everything the pressures ask about."""
    logits, to_bos, _, leaving = run_layers(recipe, outer, layers, tokens, rotation)
    loss = cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    missed = heard = loss.new_zeros(())
    if recipe.sink is not None:
        pressed = to_bos[recipe.sink.first_layer :]
        missed = torch.stack([miss_sink(one, recipe.sink.target) for one in pressed]).mean()
    if recipe.nudge is not None and recipe.silence and recipe.nudge.layer:
        heard = torch.stack([hear_bos(one) for one in leaving[: recipe.nudge.layer]]).mean()
    return Pass(loss, missed, heard)
