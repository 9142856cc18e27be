"""An arm in force on one decoder layer; afterwards, also after an exception, every bit is as before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from sw_audit.checkpoint.matrices import DecoderLayer, Matrix
from sw_audit.errors import CheckpointError
from sw_audit.facts.address import AddressGroup
from sw_audit.facts.arm import Act, Arm, Quantize, RestoreActivation, Scale, SetTo
from sw_audit.intervene.restoration import restored_activation
from sw_audit.quantize.rtn import round_to_nearest


def touches(arm: Arm, layer: DecoderLayer) -> bool:
    """Tell whether an arm changes anything in a layer."""
    if any(isinstance(act, Quantize) for act in arm.acts):
        return True
    return any(layer.find_matrix(group.parameter, group.expert) is not None for group in arm.addressed())


@contextmanager
def arm_in_force(arm: Arm, layer: DecoderLayer) -> Iterator[None]:
    """Put an arm's acts in force on one layer, in order; undo them in reverse order on the way out.

    Scalars are written in place and their saved values written back; a rounded matrix is a second tensor
    that stands in for the first. So the layer is bit-identical afterwards, whatever happens inside.

    Args:
        arm: The condition.
        layer: The layer, whose weights are at hand.

    Raises:
        CheckpointError: If an address lies outside its matrix, or names an expert that there is not.
    """
    with ExitStack() as stack:
        original = {
            group: _gather(layer, group)
            for act in arm.acts
            if isinstance(act, RestoreActivation)
            for group in act.addresses
        }
        for act in arm.acts:
            stack.enter_context(_act_in_force(act, layer, original))
        yield


@contextmanager
def _act_in_force(
    act: Act, layer: DecoderLayer, original: dict[AddressGroup, tuple[Matrix, Tensor] | None]
) -> Iterator[None]:
    with ExitStack() as stack:
        match act:
            case Scale() | SetTo():
                for group in act.addresses:
                    stack.enter_context(_scalars_written(act, layer, group))
            case Quantize():
                for matrices in _group_by_parameter(layer):
                    stack.enter_context(_parameter_rounded(act, matrices))
            case RestoreActivation():
                for group in act.addresses:
                    found = original[group]
                    if found is not None:
                        matrix, weights = found
                        stack.enter_context(restored_activation(layer, matrix, group, weights))
        yield


@contextmanager
def _scalars_written(act: Scale | SetTo, layer: DecoderLayer, group: AddressGroup) -> Iterator[None]:
    matrix = _find(layer, group)
    if matrix is None:
        yield
        return
    weight, place = matrix.weight, index_scalars(matrix, [group])
    saved = weight[place].clone()
    try:
        weight[place] = saved * act.factor if isinstance(act, Scale) else torch.full_like(saved, act.value)
        yield
    finally:
        weight[place] = saved


@contextmanager
def _parameter_rounded(act: Quantize, matrices: Sequence[Matrix]) -> Iterator[None]:
    """Let a rounded tensor stand in for a parameter: one matrix, or all experts that are fused in it."""
    parameter = matrices[0].tensor
    stored = parameter.data
    try:
        parameter.data = _round(act, matrices)
        yield
    finally:
        parameter.data = stored


def _round(act: Quantize, matrices: Sequence[Matrix]) -> Tensor:
    """Return the rounded parameter in the layout in which it is stored."""
    if matrices[0].expert is None:
        return _round_matrix(act, matrices[0])
    whole = torch.empty_like(matrices[0].tensor.data)
    for matrix in matrices:
        whole[matrix.expert] = _round_matrix(act, matrix)
    return whole


def _round_matrix(act: Quantize, matrix: Matrix) -> Tensor:
    own = (matrix.parameter, matrix.expert)
    held = [group for group in act.holdout if (group.parameter, group.expert) == own]
    rounded = round_to_nearest(matrix.weight, act.recipe, index_scalars(matrix, held) if held else None)
    return rounded.T.contiguous() if matrix.transposed else rounded


def _group_by_parameter(layer: DecoderLayer) -> list[list[Matrix]]:
    found: dict[str, list[Matrix]] = {}
    for matrix in layer.matrices:
        found.setdefault(matrix.parameter, []).append(matrix)
    return list(found.values())


def index_scalars(matrix: Matrix, groups: Sequence[AddressGroup]) -> tuple[Tensor, Tensor]:
    """Turn address groups of one matrix into index tensors: rows and columns, int64, [scalars].

    Raises:
        CheckpointError: If an address lies outside the matrix.
    """
    rows = torch.tensor([row for group in groups for row in group.rows], dtype=torch.long)
    columns = torch.tensor([column for group in groups for column in group.columns], dtype=torch.long)
    height, width = matrix.weight.shape
    if rows.numel() and (int(rows.max()) >= height or int(columns.max()) >= width):
        raise CheckpointError(
            f"address [{int(rows.max())}, {int(columns.max())}] of {matrix.parameter}",
            f"the matrix is {height} x {width}",
            "give row (output channel) before column (input channel), both counted from 0",
        )
    device = matrix.tensor.device
    return rows.to(device), columns.to(device)


def _find(layer: DecoderLayer, group: AddressGroup) -> Matrix | None:
    return layer.find_matrix(group.parameter, group.expert)


def _gather(layer: DecoderLayer, group: AddressGroup) -> tuple[Matrix, Tensor] | None:
    matrix = _find(layer, group)
    return None if matrix is None else (matrix, matrix.weight[index_scalars(matrix, [group])].clone())
