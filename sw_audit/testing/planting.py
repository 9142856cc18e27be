"""Plants super weights into a model: neurons that answer to one token, and scalars that make a spike of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sw_audit.checkpoint.matrices import DecoderLayer, DownProjection
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.locate.probe import probe_prompt
from sw_audit.testing.inward import list_inward

HUSHED = 0.01
"""What the ordinary weights on a row are multiplied by before a norm's weight raises that row."""


@dataclass(frozen=True)
class Stem:
    """One scalar to be planted.

    Attributes:
        row: Channel of the residual stream.
        column: Neuron.
        height: What its product is to add to the residual stream; the sign counts.
    """

    row: int
    column: int
    height: float


@dataclass(frozen=True)
class View:
    """What one prompt showed of the places that planting needs; float32.

    Attributes:
        residual: Output of each decoder layer, [layers, tokens, hidden].
        inputs: What enters each module that was asked for, [tokens, channels].
        order: The modules in the order in which they ran.
    """

    residual: Tensor
    inputs: dict[torch.nn.Module, Tensor]
    order: tuple[torch.nn.Module, ...]


@torch.no_grad()
def look(checkpoint: Checkpoint, token_ids: Sequence[int], modules: Sequence[torch.nn.Module] = ()) -> View:
    """Run the model once and keep what enters the modules and leaves the decoder layers."""
    residual: dict[int, Tensor] = {}
    inputs: dict[torch.nn.Module, Tensor] = {}

    def keep_output(index: int, _: object, __: object, output: Any) -> None:
        residual[index] = (output if isinstance(output, Tensor) else output[0]).float().reshape(len(token_ids), -1)

    def keep_input(module: torch.nn.Module, given: tuple[Tensor, ...]) -> None:
        inputs[module] = given[0].float().reshape(-1, given[0].shape[-1]).clone()

    handles = [module.register_forward_pre_hook(keep_input) for module in modules]
    handles += [
        layer.module.register_forward_hook(partial(keep_output, layer.index)) for layer in checkpoint.layers
    ]
    try:
        checkpoint.model(input_ids=torch.tensor([list(token_ids)]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return View(torch.stack([residual[index] for index in range(len(checkpoint.layers))]), inputs, tuple(inputs))


def plant_stems_(
    checkpoint: Checkpoint,
    token_ids: Sequence[int],
    position: int,
    down: DownProjection,
    stems: Sequence[Stem],
    drive: float = 3.0,
    quiet: float | None = None,
) -> None:
    """Plant scalars into a down-projection.

    The rows that lead into each neuron are set so that it answers to the prompt's token at that position and
    to no other one. The scalars out of it are scaled until the residual stream really holds what is asked:
    where a norm stands between the MLP and the residual stream, its weight in that channel is raised, as it is
    in published models of such families.

    Args:
        checkpoint: The model, in float32; it is changed.
        token_ids: The prompt.
        position: Position in it.
        down: The down-projection; an expert's must serve that position, see `choose_down`.
        stems: The scalars; their neurons are taken over.
        drive: What the neurons' pre-activations are at that token.
        quiet: What the neurons' ordinary weights together may add to the residual stream's other channels, as a
            standard deviation: they are made smaller where they would add more. In published models they are some
            hundred times smaller than the super weight on their column (Llama-7B: 0.02 beside 1.93).

    Raises:
        ValueError: If the down-projection does not serve the token.
    """
    home = checkpoint.layers[down.layer]
    columns = sorted({stem.column for stem in stems})
    drive_neurons_(checkpoint, token_ids, position, down, columns, drive)
    with torch.no_grad():
        for stem in stems:
            down.weight[stem.row, stem.column] = 0.0
        before = probe_prompt(checkpoint, token_ids)
        seen = next(one for one in before.observed_in(down.layer) if one.down is down)
        x = seen.input_at(position)  # [inner]
        if x is None:
            raise ValueError(f"{down.parameter} does not serve position {position}")
        if quiet is not None:
            hush_columns_(down, columns, x, quiet / math.sqrt(len(columns)))
        norm = find_tail_norm(home, "mlp")
        if norm is not None:
            # The norm's weight, raised for these rows, would make spikes of what other tokens leave there.
            down.weight[sorted({stem.row for stem in stems})] *= HUSHED
        # Behind a norm the spike must fill its vector; elsewhere the height is right but for a multiplier.
        rest = float((down.weight.float() @ x).norm()) + 1.0
        tallest = max(abs(stem.height) for stem in stems)
        for stem in stems:
            wanted = stem.height if norm is None else 4.0 * rest * stem.height / tallest
            down.weight[stem.row, stem.column] = wanted / x[stem.column]
        after = look(checkpoint, token_ids)
        for row in sorted({stem.row for stem in stems}):
            wanted = sum(stem.height for stem in stems if stem.row == row)
            reached = float(after.residual[down.layer, position, row] - before.residual[down.layer, position, row])
            if norm is not None:
                scale_norm_(norm, row, wanted / reached)
            else:
                for stem in (stem for stem in stems if stem.row == row):
                    down.weight[row, stem.column] *= wanted / reached


def hush_columns_(down: DownProjection, columns: Sequence[int], inputs: Tensor, quiet: float) -> None:
    """Make the weights on columns smaller where their products' standard deviation is more than `quiet`."""
    for column in columns:
        loud = float((down.weight[:, column].float() * inputs[column]).std())
        if loud > quiet:
            down.weight[:, column] *= quiet / loud


def drive_neurons_(
    checkpoint: Checkpoint,
    token_ids: Sequence[int],
    position: int,
    down: DownProjection,
    columns: Sequence[int],
    drive: float,
) -> None:
    """Let neurons answer to one token of a prompt: their pre-activation is `drive` there and 0 elsewhere."""
    inward = list_inward(checkpoint.layers[down.layer], down)
    module = inward[0].module
    entered = look(checkpoint, token_ids, [module]).inputs[module]
    # Llama 4 gives all tokens to each expert, one expert after the other.
    entered = entered.reshape(-1, len(token_ids), down.weight.shape[0])
    states = entered[down.expert or 0 if len(entered) > 1 else 0]  # [tokens, hidden]
    wanted = torch.zeros(len(token_ids))
    wanted[position] = drive
    # A little ridge: two tokens that look alike must not ask for huge weights.
    gram = states @ states.T
    gram += 1e-3 * gram.diagonal().mean() * torch.eye(len(gram))
    direction = states.T @ torch.linalg.solve(gram, wanted)  # [hidden]
    with torch.no_grad():
        for one in inward:
            for column in columns:
                one.weight[one.rows_of(column)] = direction.to(one.weight.dtype)


def choose_down(
    checkpoint: Checkpoint, layer: int, token_ids: Sequence[int] = (), position: int = 0
) -> DownProjection:
    """Choose the down-projection of a layer to plant into: the only one, or that of an expert that serves a token.

    Args:
        checkpoint: The model.
        layer: Decoder layer.
        token_ids: The prompt.
        position: Position of the token in it.

    Raises:
        ValueError: If the layer has none.
    """
    home = checkpoint.layers[layer]
    if home.down_projection is not None:
        return home.down_projection
    observed = probe_prompt(checkpoint, token_ids).observed_in(layer)
    serving = [one for one in observed if one.down.expert is not None and one.scale_at(position)]
    if not serving:
        raise ValueError(f"layer {layer} has no down-projection for that token")
    return max(serving, key=lambda one: abs(one.scale_at(position) or 0.0)).down


def find_tail_norm(layer: DecoderLayer, block: str) -> torch.nn.Module | None:
    """Find the norm between a block's output and the residual stream, if the family has one.

    Args:
        layer: A decoder layer of a model built here.
        block: `mlp` or `attention`.
    """
    names = {
        "mlp": ("post_feedforward_layernorm", "post_mlp_layernorm"),
        "attention": ("post_self_attn_layernorm", "post_attention_layernorm"),
    }
    children = dict(layer.module.named_children())
    if not any(name in children for name in names["mlp"]):
        return None  # elsewhere `post_attention_layernorm` is what stands before the MLP
    return next(children[name] for name in names[block] if name in children)


def scale_norm_(norm: torch.nn.Module, channel: int, factor: float) -> None:
    """Multiply what a norm does to one channel."""
    weight: Any = norm.weight
    offset = 1.0 if type(norm).__name__.startswith("Gemma") else 0.0  # Gemma stores it less one
    with torch.no_grad():
        weight[channel] = (weight[channel] + offset) * factor - offset
