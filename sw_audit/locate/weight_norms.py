"""A second opinion, without a forward pass: which row and column of a down-projection the weights point at.

A neuron `i` whose gate and up rows are long can be driven far; a down-projection entry `W[k, i]` carries that
into channel `k`. So the score of row `k` is

    ||U_k|| = sqrt( sum_i  W[k, i]^2 * ||gate_i||^2 * ||up_i||^2 )

and the part of column `i` in it is its term of the sum. A census of models (Georgakopoulos-Soares lab) found the
published row first of 4096 by this score in Llama-7B, Mistral-7B and OLMo-7B, 27 to 38 times the median, and in
it the published column first with 0.89 to 0.99 of the sum. Where one matrix leads inward, its rows' norms stand
for both factors. The score knows nothing of what a model does with a prompt: it supports or questions what was
located, and never overrules it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from sw_audit.checkpoint.matrices import DecoderLayer, DownProjection, Matrix
from sw_audit.record.location import Location, PredictedWeight, SuperWeight, WeightNormPrediction

_ROWS_AT_ONCE = 64
"""Rows of a matrix that are brought to float32 at a time: few enough to stay in a processor's cache."""


def predict_from_weights(layers: Sequence[DecoderLayer], location: Location) -> Location:
    """Return a location with what the weights alone say of each of its super weights.

    Only the layers that hold one are read, one after the other. Outcome and super weights stay as they are.
    """
    by_layer = {layer.index: layer for layer in layers}
    located: dict[int, list[SuperWeight]] = {}
    for weight in location.super_weights:
        located.setdefault(weight.layer, []).append(weight)
    holding = sorted(located.keys() & by_layer.keys())
    predicted = [entry for index in holding for entry in predict_layer(by_layer[index], located[index])]
    prediction = _conclude(len(location.super_weights), predicted)
    return location.model_copy(update={"weight_norm_prediction": prediction})


def predict_layer(layer: DecoderLayer, weights: Sequence[SuperWeight]) -> tuple[PredictedWeight, ...]:
    """Ask one layer's weights about the super weights located in it.

    One entry per super weight whose matrices can be read; packed and unloaded ones cannot.
    """
    predicted = []
    for down in layer.down_projections:
        own = (down.parameter, down.expert)
        located = [weight for weight in weights if (weight.parameter, weight.expert) == own]
        inward = find_inward_matrices(layer, down) if located else ()
        if not inward or any(matrix.weight.is_meta for matrix in (down, *inward)):
            continue
        drive = measure_drive(down, inward)
        scores = score_rows(down, drive)
        predicted += [_predict_weight(down, drive, scores, weight, located) for weight in located]
    return tuple(predicted)


def _conclude(located: int, predicted: Sequence[PredictedWeight]) -> WeightNormPrediction | None:
    if not located:
        return None
    if missing := located - len(predicted):
        agrees, because = None, f"the matrices around {missing} of {located} super weights cannot be read"
    else:
        agreeing = sum(prediction.agrees for prediction in predicted)
        agrees = agreeing == located
        because = f"from the weights alone, {agreeing} of {located} stand first in their layer"
    return WeightNormPrediction(agrees=agrees, because=because, weights=tuple(predicted))


def find_inward_matrices(layer: DecoderLayer, down: DownProjection) -> tuple[Matrix, ...]:
    """Find the matrices that lead from the residual stream into a down-projection: gate and up, or one.

    They are those of its expert, if it has one, with as many rows as the down-projection has columns, or
    twice as many where gate and up are one matrix, and nearest to it in the tree of modules.
    """
    hidden, inner = down.shape
    fitting = [
        matrix
        for matrix in layer.matrices
        if matrix.expert == down.expert
        and matrix.parameter != down.parameter
        and matrix.shape[1] == hidden
        and matrix.shape[0] in (inner, 2 * inner)
    ]
    module = down.parameter
    while "." in module:
        module = module.rpartition(".")[0]
        if near := [matrix for matrix in fitting if matrix.parameter.startswith(f"{module}.")]:
            # A neighbour's own parameter comes before what lies deeper, as attention beside OPT's fc1 and fc2.
            nearest = min(matrix.parameter.count(".") for matrix in near)
            return tuple(matrix for matrix in near if matrix.parameter.count(".") == nearest)
    return ()


def list_rows(matrix: Matrix, down: DownProjection, neuron: int) -> list[int]:
    """List the rows of an inward matrix that may lead into a neuron of a down-projection.

    Gate and up may be one matrix, stacked or alternating: all rows that may belong to it are meant.
    """
    inner = down.shape[1]
    if matrix.shape[0] == inner:
        return [neuron]
    return sorted({neuron, neuron + inner, 2 * neuron, 2 * neuron + 1})


def measure_drive(down: DownProjection, inward: Sequence[Matrix]) -> Tensor:
    """Measure how far each neuron can be driven: the product of its inward rows' squared norms.

    The down-projection is [hidden, inner], each inward matrix [inner or 2 * inner, hidden]; the drive is [inner],
    float64 on the CPU.
    """
    inner = down.shape[1]
    drive = torch.ones(inner, dtype=torch.float64)
    for matrix in inward:
        squared = torch.cat([part.square().sum(dim=1).double().cpu() for part in _read_parts(matrix)])
        if len(squared) == inner:
            drive *= squared
        elif _is_interleaved(down, inner):
            drive *= squared[0::2] * squared[1::2]
        else:
            drive *= squared[:inner] * squared[inner:]
    return drive


def find_strongest(layer: DecoderLayer, down: DownProjection) -> tuple[int, int] | None:
    """Find row and column of a down-projection that the weights alone point at; `None` if they cannot be read."""
    inward = find_inward_matrices(layer, down)
    if not inward or any(matrix.weight.is_meta for matrix in (down, *inward)):
        return None
    drive = measure_drive(down, inward)
    row = int(score_rows(down, drive).argmax())
    return row, int((down.weight[row].double().cpu().square() * drive).argmax())


def score_rows(down: Matrix, drive: Tensor) -> Tensor:
    """Score each row of a down-projection, as in the head of this file, given the drive; float64 on the CPU."""
    # Scaled to at most 1, so that float32, which is much faster, does not overflow.
    largest = drive.max().clamp_min(torch.finfo(torch.float64).tiny)
    scaled = (drive / largest).float()
    sums = [part.cpu().square() @ scaled for part in _read_parts(down)]
    return (torch.cat(sums).double() * largest).sqrt()


def _predict_weight(
    down: DownProjection, drive: Tensor, scores: Tensor, weight: SuperWeight, together: Sequence[SuperWeight]
) -> PredictedWeight:
    terms = down.weight[weight.row].double().cpu().square() * drive  # [inner]
    median = float(scores.median())
    total = float(terms.sum())
    row_rank = 1 + int((scores > scores[weight.row]).sum())
    column_rank = 1 + int((terms > terms[weight.column]).sum())
    # Siblings share the first places: with two located columns in a row, the second one is second by right.
    rows = len({located.row for located in together})
    columns = len({located.column for located in together if located.row == weight.row})
    return PredictedWeight(
        **weight.address.model_dump(),
        layer=weight.layer,
        row_rank=row_rank,
        rows=len(scores),
        column_rank=column_rank,
        columns=len(terms),
        row_ratio=float(scores[weight.row]) / median if median > 0 else None,
        largest_ratio=float(scores.max()) / median if median > 0 else None,
        share=float(terms[weight.column]) / total if total > 0 else None,
        agrees=row_rank <= rows and column_rank <= columns,
    )


def _read_parts(matrix: Matrix) -> Iterable[Tensor]:
    weight = matrix.weight  # read once: where layers are paged, each look maps the file anew
    return (weight[begin : begin + _ROWS_AT_ONCE].float() for begin in range(0, len(weight), _ROWS_AT_ONCE))


@torch.no_grad()
def _is_interleaved(down: DownProjection, inner: int) -> bool:
    """Tell whether gate and up alternate in the one matrix that holds both, by trying it out.

    Dense families stack the one on the other. Fused experts do either; which, their own activation tells.
    """
    if down.fused is None:
        return False
    states = torch.ones(1, 2 * inner)
    before = down.fused.activate([states])
    states[0, 1] = 2.0
    return bool((down.fused.activate([states]) != before)[0, 0])
