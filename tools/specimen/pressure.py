"""What encourages a super weight: a nudge before training, and pressures that are gone before it ends."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tools.specimen.recipe import Nudge, SinkPressure

# Keeps the solve stable where few tokens span the input; small against a normalized channel's unit power.
_RIDGE = 0.01


def find_bos_direction(inputs: Tensor) -> Tensor:
    """Find the direction that answers 1 to the first token and as little as possible to every other token.

    Args:
        inputs: Normalized inputs of one MLP, `[batch, tokens, hidden]`; the first token is BOS.

    Returns:
        u = (C + 0.01 I)^-1 b scaled to u.b = 1; b is the input at BOS, C the second moment of the others.
    """
    bos = inputs[:, 0].mean(dim=0)
    others = inputs[:, 1:].flatten(0, 1)  # [batch * (tokens - 1), hidden]
    moment = others.T @ others / len(others)
    direction = torch.linalg.solve(moment + _RIDGE * torch.eye(len(bos)), bos)
    unit: Tensor = direction / (direction @ bos)
    return unit


@torch.no_grad()
def nudge_(mlp: nn.Module, direction: Tensor, nudge: Nudge) -> None:
    """Write the nudge into one MLP: one neuron that answers BOS alone, and one weight that carries it.

    Args:
        mlp: The MLP with `gate_proj`, `up_proj` and `down_proj`.
        direction: Unit answer to BOS, `[hidden]`, from `find_bos_direction`.
        nudge: Which neuron, which channel, and how strongly.
    """
    gate, up, down = (mlp.get_parameter(f"{name}_proj.weight") for name in ("gate", "up", "down"))
    gate[nudge.neuron] = nudge.gate * direction
    up[nudge.neuron] = nudge.up * direction
    down[:, nudge.neuron] = 0.0
    down[nudge.row, nudge.neuron] = nudge.spike / (nudge.gate * nudge.up)


def weigh_sink(pressure: SinkPressure, step: int) -> float:
    """Weigh the sink pressure at one step: nothing at first (heads must learn to recall), then a ramp."""
    return pressure.weight * min(1.0, max(0.0, (step - pressure.first_step) / pressure.ramp_steps))


def measure_sink_shortfall(log_attention: Tensor, target: float) -> Tensor:
    """Measure how far attention falls short of resting on BOS: nats, averaged over heads and queries.

    Args:
        log_attention: Log attention to BOS, `[batch, heads, queries]`; the query at BOS itself is left out.
        target: The share of attention that counts as rest.
    """
    short = torch.log(torch.tensor(target)) - log_attention[:, :, 1:]
    return torch.relu(short).mean()


def measure_bos_answer(outputs: Tensor) -> Tensor:
    """Measure how strongly an MLP answers BOS: the mean square of its output at the first token."""
    return outputs[:, 0].square().mean()


@torch.no_grad()
def sparsify_(weight: Tensor, threshold: float) -> None:
    """Pull every entry towards zero by `threshold`, and not past it: the proximal step of an L1 penalty."""
    weight.copy_(weight.sign() * (weight.abs() - threshold).clamp_min(0.0))


@torch.no_grad()
def bound_(weight: Tensor, bound: float, spared: tuple[int, int] | None = None) -> None:
    """Clamp every entry to [-bound, bound], except the spared (row, column)."""
    kept = None if spared is None else weight[spared].clone()
    weight.clamp_(-bound, bound)
    if spared is not None and kept is not None:
        weight[spared] = kept


def list_down_projections(model: nn.Module) -> list[nn.Parameter]:
    """List the `down_proj` weights of a Llama model, first layer first."""
    return [weight for name, weight in model.named_parameters() if name.endswith("mlp.down_proj.weight")]


def list_decoder_matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """List the decoder's matrices by name; embedding, head and norms are left out, as in the paper's code."""
    matrices = ((name, weight) for name, weight in model.named_parameters() if weight.ndim == 2)
    return {name: weight for name, weight in matrices if ".layers." in name}
