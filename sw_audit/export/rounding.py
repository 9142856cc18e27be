"""Rounds the matrices of an open model for good, one after the other, in place."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from sw_audit.arms.matrices import index_scalars
from sw_audit.checkpoint.matrices import DecoderLayer, Matrix
from sw_audit.policy.storage import count_bits
from sw_audit.policy.targets import is_targeted
from sw_audit.progress import Progress, ignore_progress
from sw_audit.quantize.rtn import round_to_nearest
from sw_audit.record.address import AddressGroup, WeightAddress
from sw_audit.record.arm import Quantize
from sw_audit.record.export import HeldWeight


@dataclass
class Rounded:
    """What has been rounded.

    Attributes:
        matrices: Names of the parameters, experts that are fused in one counted one by one.
        held_out: What was held out, with its values.
        bits: What the decoder's matrices take, those in full precision included.
        weights: How many weights they have.
    """

    matrices: list[str] = field(default_factory=list)
    held_out: list[HeldWeight] = field(default_factory=list)
    bits: float = 0.0
    weights: int = 0


@torch.no_grad()
def round_model_(
    layers: Sequence[DecoderLayer],
    act: Quantize,
    untouched: Collection[str] = (),
    progress: Progress = ignore_progress,
) -> Rounded:
    """Round every targeted matrix of a model in place, as the arm with this act does on the way.

    Args:
        layers: The model's decoder layers, which are changed.
        act: What is rounded and how; what is held out.
        untouched: Parameters that stay in full precision all the same.
        progress: Told after each layer.

    Raises:
        CheckpointError: If a held-out address lies outside its matrix.
    """
    done = Rounded()
    for number, layer in enumerate(layers):
        for matrix in layer.matrices:
            weight = matrix.weight
            held = _list_held(act.holdout, matrix)
            done.weights += weight.numel()
            done.held_out += _read_held(matrix, held)
            if is_targeted(matrix.parameter, act.targets, act.ignore) and matrix.parameter not in untouched:
                round_to_nearest(weight, act.recipe, index_scalars(matrix, held) if held else None, out=weight)
                done.matrices.append(matrix.parameter)
                done.bits += count_bits(act.recipe, matrix.shape, sum(map(len, held)))
            else:
                done.bits += 8 * weight.element_size() * weight.numel()
        progress("quantizing", number + 1, len(layers))
    return done


def list_missing(layers: Sequence[DecoderLayer], addresses: Sequence[WeightAddress]) -> Iterator[WeightAddress]:
    """Yield those of some addresses whose matrix no layer has."""
    for address in addresses:
        found = (layer.find_matrix(address.parameter, address.expert) for layer in layers)
        if all(matrix is None for matrix in found):
            yield address


def _list_held(holdout: Sequence[AddressGroup], matrix: Matrix) -> list[AddressGroup]:
    return [group for group in holdout if (group.parameter, group.expert) == (matrix.parameter, matrix.expert)]


def _read_held(matrix: Matrix, groups: Sequence[AddressGroup]) -> Iterator[HeldWeight]:
    for group in groups:
        rows, columns = index_scalars(matrix, [group])
        values = matrix.weight[rows, columns].tolist()
        for row, column, value in zip(group.rows, group.columns, values, strict=True):
            address = WeightAddress(parameter=group.parameter, row=row, column=column, expert=group.expert)
            yield HeldWeight(address=address, value=value)
