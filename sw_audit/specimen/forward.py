"""The specimen's forward pass, written out so that it trains, compiles and shows what its layers do."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm, silu

from sw_audit.fact import Fact

_OUTER = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
_LAYER = (
    "input_layernorm",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "post_attention_layernorm",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


class Shape(Fact):
    """The shape of the specimen and of its control; `context` is the number of tokens of a training sequence."""

    layers: int = 6
    hidden: int = 64
    heads: int = 4
    context: int = 128
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-6


def collect_weights(find: Callable[[str], Tensor], layers: int) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Collect a Llama model's parameters: embedding, last norm, head, then nine a layer in order of use."""
    names = [[f"model.layers.{layer}.{name}.weight" for name in _LAYER] for layer in range(layers)]
    return [find(name) for name in _OUTER], [[find(name) for name in layer] for layer in names]


def make_rotation(shape: Shape) -> tuple[Tensor, Tensor]:
    """Make the cosines and sines of the rotary embedding, `[context, head]` each."""
    head = shape.hidden // shape.heads
    inverse = shape.rope_theta ** (-torch.arange(0, head, 2).float() / head)
    angles = torch.arange(shape.context).float()[:, None] * inverse[None, :]  # [context, head / 2]
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def run_layers(
    shape: Shape,
    outer: list[Tensor],
    layers: list[list[Tensor]],
    tokens: Tensor,
    rotation: tuple[Tensor, Tensor],
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    """Run all layers on token ids `[batch, tokens]`.

    Returns:
        The logits, and for every layer the log attention to BOS `[batch, heads, queries]`, the normalized
        input and the output of the MLP `[batch, tokens, hidden]`.
    """
    batch, length = tokens.shape
    mask = torch.full((length, length), float("-inf")).triu(1)
    hidden = outer[0][tokens]
    to_bos: list[Tensor] = []
    mlp_inputs: list[Tensor] = []
    mlp_outputs: list[Tensor] = []
    for before, query, key, value, output, after, gate, up, down in layers:
        normal = _normalize(hidden, before, shape.norm_epsilon)
        q, k, v = (
            linear(normal, weight)
            .view(batch, length, shape.heads, -1)
            .transpose(1, 2)  # [batch, heads, tokens, head]
            for weight in (query, key, value)
        )
        q, k = _rotate(q, *rotation), _rotate(k, *rotation)
        scores = torch.log_softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + mask, dim=-1)
        to_bos.append(scores[..., 0])
        hidden = hidden + linear((scores.exp() @ v).transpose(1, 2).reshape(batch, length, -1), output)
        normal = _normalize(hidden, after, shape.norm_epsilon)
        answer = linear(silu(linear(normal, gate)) * linear(normal, up), down)
        mlp_inputs.append(normal)
        mlp_outputs.append(answer)
        hidden = hidden + answer
    return linear(_normalize(hidden, outer[1], shape.norm_epsilon), outer[2]), to_bos, mlp_inputs, mlp_outputs


def _normalize(hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return rms_norm(hidden, (hidden.shape[-1],), weight, epsilon)


def _rotate(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = states.chunk(2, dim=-1)
    return states * cosine + torch.cat((-second, first), dim=-1) * sine
