"""Chooses what super weights are compared with: the largest other weights, and matched controls."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from random import Random

import torch

from sw_audit.checkpoint.matrices import DecoderLayer, Matrix
from sw_audit.record.address import WeightAddress


def find_largest_weights(
    layers: Sequence[DecoderLayer], count: int, excluded: Iterable[WeightAddress]
) -> tuple[WeightAddress, ...]:
    """Find the weights of largest magnitude in the decoder's matrices, as the paper's released code does.

    Embeddings, head and norms are no part of the decoder's matrices, and excluded weights do not count. Largest
    magnitude first; fewer than `count` if the decoder has fewer.
    """
    if count == 0:
        return ()
    left_out: dict[tuple[str, int | None], list[WeightAddress]] = {}
    for address in excluded:
        left_out.setdefault((address.parameter, address.expert), []).append(address)
    matrices = list_matrices(layers)
    values, owners, places = torch.empty(0), torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long)
    for number, matrix in enumerate(matrices):
        magnitude = matrix.weight.abs()
        for address in left_out.get((matrix.parameter, matrix.expert), ()):
            magnitude[address.row, address.column] = -1.0
        magnitude = magnitude.flatten()
        # Models of many experts have tens of thousands of matrices: what cannot count is not looked at.
        floor = float(values[-1]) if len(values) == count else -1.0
        if float(magnitude.max()) <= floor:
            continue
        top = magnitude.topk(min(count, magnitude.numel()))
        counts = (top.values > floor).cpu()
        larger = top.values.float().cpu()[counts]
        values, order = torch.cat([values, larger]).sort(descending=True, stable=True)
        owners = torch.cat([owners, torch.full_like(larger, number, dtype=torch.long)])[order][:count]
        places = torch.cat([places, top.indices.cpu()[counts]])[order][:count]
        values = values[:count]
    return tuple(
        _address(matrices[owner], *divmod(place, matrices[owner].shape[1]))
        for owner, place in zip(owners.tolist(), places.tolist(), strict=True)
    )


def draw_placebos(
    layers: Sequence[DecoderLayer], super_weights: Sequence[WeightAddress], kind: str, seed: str
) -> tuple[WeightAddress, ...]:
    """Draw one matched control for each super weight, never a super weight itself.

    Kinds are `same-row` (another column), `same-column` (another row), `same-magnitude` (the weight that has the
    same rank by magnitude in another layer's down-projection), and `random` (any decoder matrix). There is one
    address per super weight, all different where the matrices allow it.

    Raises:
        ValueError: If the kind is not one of these.
    """
    random = Random(seed)  # noqa: S311 - a reproducible draw, not a secret
    taken = set(super_weights)
    drawn = []
    for target in super_weights:
        # A draw can hit what is taken; in the smallest matrices nothing else may be left.
        for _ in range(100):
            address = _draw(layers, target, kind, random)
            if address not in taken:
                taken.add(address)
                drawn.append(address)
                break
    return tuple(drawn)


def count_weights(layers: Sequence[DecoderLayer]) -> int:
    """Count the scalars of the decoder's matrices."""
    return sum(math.prod(matrix.shape) for matrix in list_matrices(layers))


def list_matrices(layers: Sequence[DecoderLayer]) -> tuple[Matrix, ...]:
    """List the matrices of all layers, layer by layer."""
    return tuple(matrix for layer in layers for matrix in layer.matrices)


def _draw(layers: Sequence[DecoderLayer], target: WeightAddress, kind: str, random: Random) -> WeightAddress:
    matrices = list_matrices(layers)
    key = (target.parameter, target.expert)
    own = next(matrix for matrix in matrices if (matrix.parameter, matrix.expert) == key)
    match kind:
        case "same-row":
            return _address(own, target.row, random.randrange(own.shape[1]))
        case "same-column":
            return _address(own, random.randrange(own.shape[0]), target.column)
        case "same-magnitude":
            return _match_rank(layers, own, target, random)
        case "random":
            matrix = random.choices(matrices, weights=[math.prod(matrix.shape) for matrix in matrices])[0]
            return _address(matrix, random.randrange(matrix.shape[0]), random.randrange(matrix.shape[1]))
    raise ValueError(f"no such kind of placebo: {kind!r}")


def _match_rank(
    layers: Sequence[DecoderLayer], own: Matrix, target: WeightAddress, random: Random
) -> WeightAddress:
    rank = int((own.weight.abs() > own.weight[target.row, target.column].abs()).sum())
    others = [
        down
        for layer in layers
        if not any(down.parameter == target.parameter for down in layer.down_projections)
        for down in layer.down_projections
    ]
    # A rank means the same only among as many weights.
    alike = [down for down in others if down.shape == own.shape]
    matrix = random.choice(alike or others) if others else own
    magnitude = matrix.weight.abs().flatten()
    place = int(magnitude.topk(min(rank + 1, magnitude.numel())).indices[-1])
    return _address(matrix, *divmod(place, matrix.shape[1]))


def _address(matrix: Matrix, row: int, column: int) -> WeightAddress:
    return WeightAddress(parameter=matrix.parameter, row=row, column=column, expert=matrix.expert)
