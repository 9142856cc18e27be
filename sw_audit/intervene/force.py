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
    named = {matrix.parameter for matrix in layer.matrices}
    return any(group.parameter in named for group in arm.addressed())


@contextmanager
def arm_in_force(arm: Arm, layer: DecoderLayer) -> Iterator[None]:
    """Put an arm's acts in force on one layer, in order; undo them in reverse order on the way out.

    Scalars are written in place and their saved values written back; a rounded matrix is a second tensor
    that stands in for the first. So the layer is bit-identical afterwards, whatever happens inside.

    Args:
        arm: The condition.
        layer: The layer, whose weights are at hand.

    Raises:
        CheckpointError: If an address lies outside its matrix.
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
                for matrix in layer.matrices:
                    stack.enter_context(_matrix_rounded(act, matrix))
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
def _matrix_rounded(act: Quantize, matrix: Matrix) -> Iterator[None]:
    held = [group for group in act.holdout if group.parameter == matrix.parameter]
    rounded = round_to_nearest(matrix.weight, act.recipe, index_scalars(matrix, held) if held else None)
    stored = matrix.tensor.data
    try:
        matrix.tensor.data = rounded.T.contiguous() if matrix.transposed else rounded
        yield
    finally:
        matrix.tensor.data = stored


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
    return next((matrix for matrix in layer.matrices if matrix.parameter == group.parameter), None)


def _gather(layer: DecoderLayer, group: AddressGroup) -> tuple[Matrix, Tensor] | None:
    matrix = _find(layer, group)
    return None if matrix is None else (matrix, matrix.weight[index_scalars(matrix, [group])].clone())
