"""An arm in force on one decoder layer; afterwards, also after an exception, every bit is as before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from sw_audit.arms.activations import quantized_activations
from sw_audit.arms.indexing import index_scalars
from sw_audit.arms.opaque import scalars_answered
from sw_audit.arms.restoration import restored_activation
from sw_audit.arms.rounding import SpareTensors, rounded_parameters, rounds_something
from sw_audit.arms.smoothing import smoothed
from sw_audit.arms.swapping import ModuleSource, borrowed_modules, borrows
from sw_audit.checkpoint.matrices import DecoderLayer, Matrix
from sw_audit.quantize.calibration import Calibration
from sw_audit.record.address import AddressGroup
from sw_audit.record.arm import (
    Act,
    Arm,
    Quantize,
    QuantizeActivations,
    ReplaceLayer,
    RestoreActivation,
    Scale,
    SetTo,
    Smooth,
    SwapModules,
)


def touches(arm: Arm, layer: DecoderLayer) -> bool:
    """Tell whether an arm changes anything in a layer."""
    if any(isinstance(act, QuantizeActivations | Smooth | ReplaceLayer) for act in arm.acts):
        return True
    if any(isinstance(act, SwapModules) and borrows(act, layer) for act in arm.acts):
        return True
    if any(isinstance(act, Quantize) and rounds_something(act, layer) for act in arm.acts):
        return True
    return any(layer.find_matrix(group.parameter, group.expert) is not None for group in arm.addressed())


@contextmanager
def applied_arm(
    arm: Arm,
    layer: DecoderLayer,
    calibration: Calibration | None = None,
    spare: SpareTensors | None = None,
    lender: ModuleSource | None = None,
) -> Iterator[None]:
    """Put an arm's acts in force on one layer, in order; undo them in reverse order on the way out.

    Scalars are written in place and their saved values written back; a rounded matrix is a second tensor
    that stands in for the first; where a module keeps its matrix packed, what it answers is changed instead.
    So the layer is bit-identical afterwards, whatever happens inside.

    Args:
        arm: The condition.
        layer: The layer, whose weights are at hand.
        calibration: What calibration text showed of it; acts that need none do without.
        spare: ArmCache for rounded matrices, reused from arm to arm and layer to layer; new memory without.
        lender: Has the parent's modules, where an arm borrows some.

    Raises:
        CheckpointError: If an address lies outside its matrix, or names an expert that there is not.
        CorpusError: If a clip is searched on a corpus and the calibration text showed nothing of a matrix.
    """
    with ExitStack() as stack:
        original = {
            group: _gather(layer, group)
            for act in arm.acts
            if isinstance(act, RestoreActivation)
            for group in act.addresses
        }
        for act in arm.acts:
            if isinstance(act, Smooth):
                calibration = stack.enter_context(smoothed(act, layer, calibration))
            else:
                stack.enter_context(_act_in_force(act, layer, original, calibration, spare, lender))
        yield


@contextmanager
def _act_in_force(
    act: Act,
    layer: DecoderLayer,
    original: dict[AddressGroup, tuple[Matrix, Tensor] | None],
    calibration: Calibration | None,
    spare: SpareTensors | None,
    lender: ModuleSource | None,
) -> Iterator[None]:
    with ExitStack() as stack:
        match act:
            case Scale() | SetTo():
                for group in act.addresses:
                    stack.enter_context(_scalars_written(act, layer, group))
            case Quantize():
                stack.enter_context(rounded_parameters(act, layer, calibration, spare))
            case SwapModules():
                stack.enter_context(borrowed_modules(act, layer, lender))
            case QuantizeActivations():
                stack.enter_context(quantized_activations(act, layer, calibration))
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
    if matrix.probed is not None:
        with scalars_answered(act, matrix, group):
            yield
        return
    weight, place = matrix.weight, index_scalars(matrix, [group])
    saved = weight[place].clone()
    try:
        weight[place] = saved * act.factor if isinstance(act, Scale) else torch.full_like(saved, act.value)
        yield
    finally:
        weight[place] = saved


def _find(layer: DecoderLayer, group: AddressGroup) -> Matrix | None:
    return layer.find_matrix(group.parameter, group.expert)


def _gather(layer: DecoderLayer, group: AddressGroup) -> tuple[Matrix, Tensor] | None:
    matrix = _find(layer, group)
    return None if matrix is None else (matrix, matrix.read_scalars(*index_scalars(matrix, [group])))
