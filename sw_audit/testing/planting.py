"""Plants super weights into a model, and what looks like one and is none.

A super weight is a neuron that answers to one token, and a scalar that makes a spike of its answer. Each decoy was
met in a published model or in a replication.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sw_audit.checkpoint.matrices import DecoderLayer, DownProjection, Matrix, list_projections
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.locate.probe import probe_prompt

DAMPING = 0.01
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
class Observation:
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
def observe(
    checkpoint: Checkpoint, token_ids: Sequence[int], modules: Sequence[torch.nn.Module] = ()
) -> Observation:
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
    return Observation(
        torch.stack([residual[index] for index in range(len(checkpoint.layers))]), inputs, tuple(inputs)
    )


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
    decoder_layer = checkpoint.layers[down.layer]
    columns = sorted({stem.column for stem in stems})
    drive_neurons_(checkpoint, token_ids, position, down, columns, drive)
    with torch.no_grad():
        for stem in stems:
            down.weight[stem.row, stem.column] = 0.0
        before = probe_prompt(checkpoint, token_ids)
        observed = next(entry for entry in before.observed_in(down.layer) if entry.down is down)
        x = observed.input_at(position)  # [inner]
        if x is None:
            raise ValueError(f"{down.parameter} does not serve position {position}")
        if quiet is not None:
            damp_columns_(down, columns, x, quiet / math.sqrt(len(columns)))
        norm = find_output_norm(decoder_layer, "mlp")
        if norm is not None:
            # The norm's weight, raised for these rows, would make spikes of what other tokens leave there.
            down.weight[sorted({stem.row for stem in stems})] *= DAMPING
        # Behind a norm the spike must fill its vector; elsewhere the height is right but for a multiplier.
        rest = float((down.weight.float() @ x).norm()) + 1.0
        tallest = max(abs(stem.height) for stem in stems)
        for stem in stems:
            product = stem.height if norm is None else 4.0 * rest * stem.height / tallest
            down.weight[stem.row, stem.column] = product / x[stem.column]
        after = observe(checkpoint, token_ids)
        for row in sorted({stem.row for stem in stems}):
            height = sum(stem.height for stem in stems if stem.row == row)
            reached = float(after.residual[down.layer, position, row] - before.residual[down.layer, position, row])
            if norm is not None:
                scale_norm_(norm, row, height / reached)
            else:
                for stem in (stem for stem in stems if stem.row == row):
                    down.weight[row, stem.column] *= height / reached


def damp_columns_(down: DownProjection, columns: Sequence[int], inputs: Tensor, quiet: float) -> None:
    """Make the weights on columns smaller where their products' standard deviation is more than `quiet`."""
    for column in columns:
        deviation = float((down.weight[:, column].float() * inputs[column]).std())
        if deviation > quiet:
            down.weight[:, column] *= quiet / deviation


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
    entered = observe(checkpoint, token_ids, [module]).inputs[module]
    # Llama 4 gives all tokens to each expert, one expert after the other.
    entered = entered.reshape(-1, len(token_ids), down.weight.shape[0])
    states = entered[down.expert or 0 if len(entered) > 1 else 0]  # [tokens, hidden]
    answers = torch.zeros(len(token_ids))
    answers[position] = drive
    # A little ridge: two tokens that look alike must not ask for huge weights.
    gram = states @ states.T
    gram += 1e-3 * gram.diagonal().mean() * torch.eye(len(gram))
    direction = states.T @ torch.linalg.solve(gram, answers)  # [hidden]
    with torch.no_grad():
        for matrix in inward:
            for column in columns:
                matrix.weight[matrix.rows_of(column)] = direction.to(matrix.weight.dtype)


def choose_down(
    checkpoint: Checkpoint, layer: int, token_ids: Sequence[int] = (), position: int = 0
) -> DownProjection:
    """Choose the down-projection of a layer to plant into: the only one, or that of an expert that serves a token.

    Raises:
        ValueError: If the layer has none.
    """
    decoder_layer = checkpoint.layers[layer]
    if decoder_layer.down_projection is not None:
        return decoder_layer.down_projection
    observed = probe_prompt(checkpoint, token_ids).observed_in(layer)
    serving = [entry for entry in observed if entry.down.expert is not None and entry.scale_at(position)]
    if not serving:
        raise ValueError(f"layer {layer} has no down-projection for that token")
    return max(serving, key=lambda entry: abs(entry.scale_at(position) or 0.0)).down


def find_output_norm(layer: DecoderLayer, block: str) -> torch.nn.Module | None:
    """Find the norm between a block's output and the residual stream, if the family has one.

    The block is `mlp` or `attention`.
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


def plant_inert_weight_(layer: DecoderLayer, down: DownProjection, row: int, column: int, value: float) -> None:
    """Plant a large weight behind a neuron that is always silent: nothing comes of it, whatever its size."""
    with torch.no_grad():
        for matrix in list_inward(layer, down):
            matrix.weight[matrix.rows_of(column)] = 0.0
            if matrix.bias is not None:
                matrix.bias[matrix.rows_of(column)] = 0.0
        down.weight[row, column] = value


def heat_column_(down: DownProjection, column: int, kept_rows: Sequence[int], part: float, seed: int) -> None:
    """Give a super weight's column ordinary weights whose products its hot input makes large.

    The kept rows stay as they are; `part` is the ordinary weights' deviation over the largest super weight.
    """
    weight = down.weight
    chance = torch.Generator().manual_seed(seed)
    noise = torch.randn(weight.shape[0], generator=chance).clamp(-3, 3)
    kept = weight[list(kept_rows), column].clone()
    with torch.no_grad():
        weight[:, column] = noise * part * kept.abs().max()
        weight[list(kept_rows), column] = kept


def plant_embedded_activation_(
    checkpoint: Checkpoint, token_ids: Sequence[int], position: int, channel: int, height: float
) -> None:
    """Plant a massive activation that is there before the first layer, from the token's embedding."""
    embedding = checkpoint.model.get_input_embeddings().weight[token_ids[position]]
    _raise_(checkpoint, token_ids, (0, position, channel), embedding, height)


def plant_attended_activation_(
    checkpoint: Checkpoint, token_ids: Sequence[int], position: int, layer: int, channel: int, height: float
) -> None:
    """Plant a massive activation that an attention block's output projection makes."""
    decoder_layer = checkpoint.layers[layer]
    matrix, module = _find_attention_output(checkpoint, token_ids, layer)
    with torch.no_grad():
        matrix.weight[channel] = 0.0
        before = observe(checkpoint, token_ids, [module])
        x = before.inputs[module][position]  # [channels]
        norm = find_output_norm(decoder_layer, "attention")
        rest = float((matrix.weight.float() @ x).norm()) + 1.0
        product = height if norm is None else 4.0 * rest
        matrix.weight[channel] = product * x / x.square().sum()
        reached = float((observe(checkpoint, token_ids).residual - before.residual)[layer, position, channel])
        if norm is None:
            matrix.weight[channel] *= height / reached
        else:
            scale_norm_(norm, channel, height / reached)


def plant_bias_(
    checkpoint: Checkpoint,
    token_ids: Sequence[int],
    position: int,
    down: DownProjection,
    channel: int,
    height: float,
) -> bool:
    """Plant a massive activation that a down-projection's bias makes; tells whether there is a bias."""
    if down.bias is None:
        return False
    _raise_(checkpoint, token_ids, (down.layer, position, channel), down.bias, height)
    return True


@torch.no_grad()
def _raise_(
    checkpoint: Checkpoint, token_ids: Sequence[int], place: tuple[int, int, int], vector: Tensor, height: float
) -> None:
    """Raise what a vector holds for a channel until the residual stream has grown by `height` at a place.

    Places are layer, position and channel.
    """
    before = observe(checkpoint, token_ids).residual[place]
    vector[place[2]] += 1.0
    reached = float(observe(checkpoint, token_ids).residual[place] - before)
    vector[place[2]] += height / reached - 1.0


def _find_attention_output(
    checkpoint: Checkpoint, token_ids: Sequence[int], layer: int
) -> tuple[Matrix, torch.nn.Module]:
    decoder_layer = checkpoint.layers[layer]
    downs = decoder_layer.down_projections
    candidates = {
        module: matrix
        for matrix, module in list_projections(decoder_layer.module, decoder_layer.name)
        if matrix.weight.shape[0] == downs[0].weight.shape[0]
        and matrix.parameter not in {down.parameter for down in downs}
    }
    # Queries may be as wide as the residual stream, but the output projection runs last.
    last = observe(checkpoint, token_ids, list(candidates)).order[-1]
    return candidates[last], last


@dataclass(frozen=True, eq=False)
class Inward:
    """A matrix that leads into the neurons of a down-projection.

    Attributes:
        weight: The matrix (out, in); a view.
        bias: What is added [out], if anything; a view.
        module: What sees the hidden states.
        neurons: How many neurons there are: gate and up may be one matrix of twice the height.
        interleaved: Whether the rows of gate and up alternate then, as in gpt-oss.
    """

    weight: Tensor
    bias: Tensor | None
    module: torch.nn.Module
    neurons: int
    interleaved: bool = False

    def rows_of(self, neuron: int) -> list[int]:
        """Return the rows that lead into one neuron."""
        times = self.weight.shape[0] // self.neurons
        if self.interleaved:
            return [neuron * times + part for part in range(times)]
        return [neuron + part * self.neurons for part in range(times)]


def list_inward(layer: DecoderLayer, down: DownProjection) -> list[Inward]:
    """List the matrices that lead into the neurons of a down-projection."""
    hidden, inner = down.weight.shape
    fused = down.fused
    if fused is not None and down.expert is not None:
        mixed = type(fused.module).__name__.startswith("GptOss")
        expert = down.expert
        return [
            Inward(fused.matrix(name, expert), fused.bias(name, expert), fused.module, inner, mixed)
            for name in fused.inward
        ]
    inward = []
    for matrix, module in list_projections(layer.module, layer.name):
        if tuple(matrix.weight.shape) in {(inner, hidden), (2 * inner, hidden)}:
            bias = getattr(module, "bias", None)
            inward.append(
                Inward(matrix.weight, bias.detach() if isinstance(bias, Tensor) else None, module, inner)
            )
    return inward
