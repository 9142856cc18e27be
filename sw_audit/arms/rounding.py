"""`Quantize`: rounded tensors stand in for a layer's own, in memory that is used again for the next.

Arms that round alike share what is rounded, but for a matrix of which one keeps a scalar: they follow each other.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from sw_audit.arms.apply import LayerContext, register
from sw_audit.arms.matrices import index_scalars, keep_scalars_of, packed_matrix_replaced
from sw_audit.checkpoint.matrices import DecoderLayer, Matrix
from sw_audit.policy.recipe import count_bits
from sw_audit.policy.targets import is_targeted
from sw_audit.quantize.calibration import Calibration, weigh_columns
from sw_audit.quantize.rtn import round_to_nearest
from sw_audit.record.arm import Arm, Quantize


def _rounds_something(action: Quantize, layer: DecoderLayer) -> bool:
    return any(is_targeted(matrix.parameter, action.targets, action.ignore) for matrix in layer.matrices)


def _restrict(action: Quantize, layer: DecoderLayer) -> Quantize:
    return (
        action.model_copy(update={"holdout": keep_scalars_of(action.holdout, layer)}) if action.holdout else action
    )


def count_stored_bits(action: Quantize, layers: Iterable[DecoderLayer]) -> tuple[float, int]:
    """Count what would be stored for the decoder's matrices if they were rounded by an action.

    Returns:
        Bits over the number of weights, scales and held-out scalars included (see `count_bits`); what is not among
        the targets counts with the bits of its dtype. And how many matrices these are.
    """
    held = Counter((group.parameter, group.expert) for group in action.holdout for _ in group.rows)
    bits, weights, left = 0.0, 0, 0
    for matrix in (matrix for layer in layers for matrix in layer.matrices):
        size = math.prod(matrix.shape)
        weights += size
        if is_targeted(matrix.parameter, action.targets, action.ignore):
            bits += count_bits(action.recipe, matrix.shape, held[matrix.parameter, matrix.expert])
        else:
            bits, left = bits + 8 * size * matrix.tensor.element_size(), left + 1
    return bits / weights, left


@register(Quantize, touches=_rounds_something, restrict=_restrict)
@contextmanager
def rounded_parameters(action: Quantize, context: LayerContext) -> Iterator[None]:
    """Let rounded tensors stand in for the parameters of a layer that are among an action's targets.

    Raises:
        CorpusError: If a clip is searched and nothing was calibrated on.
        CheckpointError: If the address of a scalar kept in full precision lies outside its matrix.
    """
    stored: list[tuple[torch.nn.Parameter, Tensor]] = []
    taken: list[tuple[Hashable, Tensor]] = []
    packed = ExitStack()
    groups = _group_by_parameter(action, context.layer)
    contents = [_describe_rounded(action, matrices, context) for matrices in groups]
    # What an arm before this one rounded alike is looked for before its memory is taken for anything else.
    found = [context.spare.find(content) for content in contents]
    try:
        for matrices, content, rounded in zip(groups, contents, found, strict=True):
            if (probed := matrices[0].probed) is not None:
                unpacked = torch.empty_like(matrices[0].weight)
                _round_matrix(action, matrices[0], unpacked, context.calibration)
                packed.enter_context(packed_matrix_replaced(probed, unpacked))
                continue
            parameter = matrices[0].tensor
            if rounded is None:
                rounded = context.spare.take(parameter.data)
                taken.append((None, rounded))
                for matrix in matrices:
                    _round_matrix(action, matrix, rounded, context.calibration)
                taken.pop()
            taken.append((content, rounded))
            stored.append((parameter, parameter.data))
            parameter.data = rounded
        yield
    finally:
        packed.close()
        for parameter, data in stored:
            parameter.data = data
        context.spare.give_back(taken)


def _group_by_parameter(action: Quantize, layer: DecoderLayer) -> list[list[Matrix]]:
    groups: dict[str, list[Matrix]] = {}
    for matrix in layer.matrices:
        if is_targeted(matrix.parameter, action.targets, action.ignore):
            groups.setdefault(matrix.parameter, []).append(matrix)
    return list(groups.values())


def _describe_rounded(action: Quantize, matrices: Sequence[Matrix], context: LayerContext) -> Hashable:
    """Return what decides how a parameter is rounded; `None` where that is not for this arm alone to say."""
    parameter = matrices[0].tensor
    own = {(matrix.parameter, matrix.expert) for matrix in matrices}
    if context.changed or any((group.parameter, group.expert) in own for group in action.holdout):
        return None
    written = (parameter.data_ptr(), parameter._version)
    return (matrices[0].parameter, written, action.recipe, action.recipe.weighs_columns and context.calibration)


def _round_matrix(action: Quantize, matrix: Matrix, target: Tensor, calibration: Calibration | None) -> None:
    kept = [
        group for group in action.holdout if (group.parameter, group.expert) == (matrix.parameter, matrix.expert)
    ]
    part = target if matrix.expert is None else target[matrix.expert]
    round_to_nearest(
        matrix.weight,
        action.recipe,
        index_scalars(matrix, kept) if kept else None,
        weigh_columns(action.recipe, matrix.parameter, matrix.shape[1], calibration),
        out=part.T if matrix.transposed else part,
    )


def order_by_rounding(arms: Sequence[Arm]) -> list[int]:
    """Return the numbers of arms in an order in which those that begin by rounding alike follow each other."""
    begins = [arm.acts[0].recipe if arm.acts and isinstance(arm.acts[0], Quantize) else None for arm in arms]
    return sorted(range(len(arms)), key=lambda number: begins.index(begins[number]))
