"""Plants what looks like a super weight and is none: each trap was met in a published model or replication."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sw_audit.checkpoint.matrices import DecoderLayer, DownProjection, Matrix, list_projections
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.testing.inward import list_inward
from sw_audit.testing.planting import (
    find_tail_norm,
    look,
    scale_norm_,
)


def plant_inert_weight_(layer: DecoderLayer, down: DownProjection, row: int, column: int, value: float) -> None:
    """Plant a large weight behind a neuron that is always silent: nothing comes of it, whatever its size."""
    with torch.no_grad():
        for one in list_inward(layer, down):
            one.weight[one.rows_of(column)] = 0.0
            if one.bias is not None:
                one.bias[one.rows_of(column)] = 0.0
        down.weight[row, column] = value


def heat_column_(down: DownProjection, column: int, kept_rows: Sequence[int], part: float, seed: int) -> None:
    """Give a super weight's column ordinary weights whose products its hot input makes large.

    Args:
        down: The down-projection; it is changed.
        column: The hot column.
        kept_rows: Rows of the super weights on it, which stay as they are.
        part: Standard deviation of the ordinary weights, as a part of the largest super weight.
        seed: Decides the weights.
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
    weight = checkpoint.model.get_input_embeddings().weight
    with torch.no_grad():
        before = look(checkpoint, token_ids).residual[0, position, channel]
        weight[token_ids[position], channel] += 1.0
        reached = float(look(checkpoint, token_ids).residual[0, position, channel] - before)
        weight[token_ids[position], channel] += height / reached - 1.0


def plant_attended_activation_(
    checkpoint: Checkpoint, token_ids: Sequence[int], position: int, layer: int, channel: int, height: float
) -> None:
    """Plant a massive activation that an attention block's output projection makes."""
    home = checkpoint.layers[layer]
    matrix, module = _find_attention_output(checkpoint, token_ids, layer)
    with torch.no_grad():
        matrix.weight[channel] = 0.0
        before = look(checkpoint, token_ids, [module])
        x = before.inputs[module][position]  # [channels]
        norm = find_tail_norm(home, "attention")
        rest = float((matrix.weight.float() @ x).norm()) + 1.0
        wanted = height if norm is None else 4.0 * rest
        matrix.weight[channel] = wanted * x / x.square().sum()
        reached = float((look(checkpoint, token_ids).residual - before.residual)[layer, position, channel])
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
    bias = down.bias
    if bias is None:
        return False
    place = (down.layer, position, channel)
    with torch.no_grad():
        before = look(checkpoint, token_ids).residual[place]
        bias[channel] += 1.0
        reached = float(look(checkpoint, token_ids).residual[place] - before)
        bias[channel] += height / reached - 1.0
    return True


def _find_attention_output(
    checkpoint: Checkpoint, token_ids: Sequence[int], layer: int
) -> tuple[Matrix, torch.nn.Module]:
    home = checkpoint.layers[layer]
    downs = home.down_projections
    candidates = {
        module: matrix
        for matrix, module in list_projections(home.module, home.name)
        if matrix.weight.shape[0] == downs[0].weight.shape[0]
        and matrix.parameter not in {down.parameter for down in downs}
    }
    # Queries may be as wide as the residual stream, but the output projection runs last.
    last = look(checkpoint, token_ids, list(candidates)).order[-1]
    return candidates[last], last
