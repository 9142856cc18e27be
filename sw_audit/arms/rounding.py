"""Rounded matrices that stand in for a layer's own, in memory that is used again for the next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from sw_audit.arms.indexing import index_scalars
from sw_audit.arms.opaque import matrix_answered
from sw_audit.checkpoint.matrices import DecoderLayer, Matrix
from sw_audit.errors import CorpusError
from sw_audit.policy.clip import SearchClip
from sw_audit.policy.targets import is_targeted
from sw_audit.quantize.calibration import Calibration
from sw_audit.quantize.rtn import round_into_
from sw_audit.record.arm import Quantize


class SpareTensors:
    """Tensors that nobody uses at present, at most as many as one layer has parameters.

    Fresh memory costs about as much as a third of rounding a matrix into it, for the pages have to be mapped.
    """

    def __init__(self) -> None:
        self._spare: list[Tensor] = []

    def take(self, like: Tensor) -> Tensor:
        """Return a contiguous tensor of the same shape, dtype and device, with anything in it."""
        for number, tensor in enumerate(self._spare):
            if (tensor.shape, tensor.dtype, tensor.device) == (like.shape, like.dtype, like.device):
                return self._spare.pop(number)
        # What does not fit now, another layer's, is let go before there is more.
        self._spare.clear()
        return torch.empty(like.shape, dtype=like.dtype, device=like.device)

    def give_back(self, tensors: Sequence[Tensor]) -> None:
        """Keep tensors for the next who takes one."""
        self._spare += tensors


def rounds_something(act: Quantize, layer: DecoderLayer) -> bool:
    """Tell whether any matrix of a layer is among an act's targets."""
    return any(is_targeted(matrix.parameter, act.targets, act.ignore) for matrix in layer.matrices)


@contextmanager
def rounded_parameters(
    act: Quantize,
    layer: DecoderLayer,
    calibration: Calibration | None = None,
    spare: SpareTensors | None = None,
) -> Iterator[None]:
    """Let rounded tensors stand in for the parameters of a layer that are among an act's targets.

    Args:
        act: What is rounded and how.
        layer: The layer, whose weights are at hand.
        calibration: What calibration text showed of it; wanted where clips are searched on a corpus.
        spare: Where memory comes from and goes to.

    Raises:
        CorpusError: If a clip is searched on a corpus and the calibration text showed nothing of a matrix.
        CheckpointError: If a held-out address lies outside its matrix.
    """
    spare = spare or SpareTensors()
    stored: list[tuple[torch.nn.Parameter, Tensor]] = []
    taken: list[Tensor] = []
    answering = ExitStack()
    try:
        for matrices in _group_by_parameter(act, layer):
            if matrices[0].probed is not None:
                (matrix,) = matrices
                rounded = torch.empty_like(matrix.weight)
                _round_matrix(act, matrix, rounded, calibration)
                answering.enter_context(matrix_answered(matrix, rounded))
                continue
            parameter = matrices[0].tensor
            rounded = spare.take(parameter.data)
            taken.append(rounded)
            for matrix in matrices:
                _round_matrix(act, matrix, rounded, calibration)
            stored.append((parameter, parameter.data))
            parameter.data = rounded
        yield
    finally:
        answering.close()
        for parameter, data in stored:
            parameter.data = data
        spare.give_back(taken)


def _group_by_parameter(act: Quantize, layer: DecoderLayer) -> list[list[Matrix]]:
    """List targeted parameters: each one's matrix, or all experts that are fused in it."""
    found: dict[str, list[Matrix]] = {}
    for matrix in layer.matrices:
        if is_targeted(matrix.parameter, act.targets, act.ignore):
            found.setdefault(matrix.parameter, []).append(matrix)
    return list(found.values())


def _round_matrix(act: Quantize, matrix: Matrix, whole: Tensor, calibration: Calibration | None) -> None:
    """Round one matrix into its place in a tensor of its parameter's shape."""
    own = (matrix.parameter, matrix.expert)
    held = [group for group in act.holdout if (group.parameter, group.expert) == own]
    place = whole if matrix.expert is None else whole[matrix.expert]
    round_into_(
        place.T if matrix.transposed else place,
        matrix.weight,
        act.recipe,
        index_scalars(matrix, held) if held else None,
        _find_importance(act, matrix, calibration),
    )


def _find_importance(act: Quantize, matrix: Matrix, calibration: Calibration | None) -> Tensor | None:
    if act.recipe.clip != SearchClip(on="corpus"):
        return None
    if calibration is None or matrix.parameter not in calibration.mean_square:
        raise CorpusError(
            f"recipe {str(act.recipe)!r} for {matrix.parameter}",
            "no calibration text showed what it is multiplied by",
            "calibrate on a text that reaches it, or search without one (/search)",
        )
    return calibration.mean_square[matrix.parameter]
