"""`Quantize`: rounded tensors stand in for a layer's own, in memory that is used again for the next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from sw_audit.arms.apply import LayerContext, register
from sw_audit.arms.matrices import index_scalars, packed_matrix_replaced
from sw_audit.checkpoint.matrices import DecoderLayer, Matrix
from sw_audit.errors import CorpusError
from sw_audit.policy.recipe import SearchClip
from sw_audit.policy.targets import is_targeted
from sw_audit.quantize.calibration import Calibration
from sw_audit.quantize.rtn import round_to_nearest
from sw_audit.record.arm import Quantize


def _rounds_something(action: Quantize, layer: DecoderLayer) -> bool:
    return any(is_targeted(matrix.parameter, action.targets, action.ignore) for matrix in layer.matrices)


@register(Quantize, touches=_rounds_something)
@contextmanager
def rounded_parameters(action: Quantize, context: LayerContext) -> Iterator[None]:
    """Let rounded tensors stand in for the parameters of a layer that are among an action's targets.

    Raises:
        CorpusError: If a clip is searched on a corpus and the calibration text showed nothing of a matrix.
        CheckpointError: If the address of a scalar kept in full precision lies outside its matrix.
    """
    stored: list[tuple[torch.nn.Parameter, Tensor]] = []
    taken: list[Tensor] = []
    packed = ExitStack()
    try:
        for matrices in _group_by_parameter(action, context.layer):
            if (probed := matrices[0].probed) is not None:
                rounded = torch.empty_like(matrices[0].weight)
                _round_matrix(action, matrices[0], rounded, context.calibration)
                packed.enter_context(packed_matrix_replaced(probed, rounded))
                continue
            parameter = matrices[0].tensor
            rounded = context.spare.take(parameter.data)
            taken.append(rounded)
            for matrix in matrices:
                _round_matrix(action, matrix, rounded, context.calibration)
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


def _round_matrix(action: Quantize, matrix: Matrix, target: Tensor, calibration: Calibration | None) -> None:
    kept = [
        group for group in action.holdout if (group.parameter, group.expert) == (matrix.parameter, matrix.expert)
    ]
    part = target if matrix.expert is None else target[matrix.expert]
    round_to_nearest(
        matrix.weight,
        action.recipe,
        index_scalars(matrix, kept) if kept else None,
        _find_importance(action, matrix, calibration),
        out=part.T if matrix.transposed else part,
    )


def _find_importance(action: Quantize, matrix: Matrix, calibration: Calibration | None) -> Tensor | None:
    if action.recipe.clip != SearchClip(on="corpus"):
        return None
    if calibration is None or matrix.parameter not in calibration.mean_square:
        raise CorpusError(
            f"recipe {str(action.recipe)!r} for {matrix.parameter}",
            "no calibration text showed what it is multiplied by",
            "calibrate on a text that reaches it, or search without one (/search)",
        )
    return calibration.mean_square[matrix.parameter]
