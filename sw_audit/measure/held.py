"""Reads in an open model what a baseline knew: its super weights and its super activations."""

from __future__ import annotations

import math

import torch

from sw_audit.checkpoint.matrices import Matrix
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.errors import CheckpointError
from sw_audit.locate.probe import Probe, probe_prompt
from sw_audit.locate.settings import DEFAULT_SETTINGS
from sw_audit.locate.trace import find_span
from sw_audit.record.baseline import Baseline, HeldActivation, HeldWeight
from sw_audit.record.location import Location, SuperActivation, SuperWeight


def hold_against(checkpoint: Checkpoint, location: Location, baseline: Baseline) -> Baseline:
    """Complete a baseline with what the model at hand has in the same places.

    Args:
        checkpoint: The model.
        location: Where its own super weights are, and on which prompt.
        baseline: What it is held against.

    Returns:
        The baseline with `weights` and, where both can be compared, `activations`.
    """
    comparable = not baseline.list_obstacles(checkpoint.identity, location)
    weights, activations = read_location(checkpoint, baseline.location, prompt=comparable)
    return baseline.model_copy(update={"weights": weights, "activations": activations})


def read_location(
    checkpoint: Checkpoint, then: Location, *, prompt: bool = True
) -> tuple[tuple[HeldWeight, ...], tuple[HeldActivation, ...]]:
    """Read the super weights and super activations of another location in a model.

    Args:
        checkpoint: The model.
        then: Where they were, and on which prompt.
        prompt: Whether the prompt is run, and activations are read; a residual stream that is not finite on it
            gives none of them a value.
    """
    weights = tuple(
        HeldWeight(address=one.address, layer=one.layer, before=one.value, value=read_weight(checkpoint, one))
        for one in then.super_weights
    )
    if not prompt or not then.super_activations:
        return weights, ()
    try:
        probe = probe_prompt(checkpoint, then.token_ids)
    except CheckpointError:
        probe = None
    activations = tuple(
        HeldActivation(
            channel=one.channel,
            token=one.token,
            before=one.value,
            value=None if probe is None else read_activation(probe, one),
        )
        for one in then.super_activations
    )
    return weights, activations


def read_weight(checkpoint: Checkpoint, weight: SuperWeight) -> float | None:
    """Return the effective value that a model has at a super weight of another; `None` if none, or not finite.

    The scalar is sought by the name of its parameter, then, for adapters and wrappers rename what they take in,
    in the down-projection of the same layer.
    """
    matrix = _find_matrix(checkpoint, weight)
    if matrix is None or weight.row >= matrix.shape[0] or weight.column >= matrix.shape[1]:
        return None
    place = torch.tensor([weight.row]), torch.tensor([weight.column])
    return _finite(float(matrix.read_scalars(*(index.to(matrix.device) for index in place))[0]))


def read_activation(probe: Probe, activation: SuperActivation) -> float | None:
    """Return a super activation's value in a probe, the median over layers as the locator takes it."""
    first, last = find_span(probe, DEFAULT_SETTINGS)
    return _finite(float(probe.residual[first : last + 1, activation.token, activation.channel].median()))


def _find_matrix(checkpoint: Checkpoint, weight: SuperWeight) -> Matrix | None:
    if weight.layer >= len(checkpoint.layers):
        return None
    layer = checkpoint.layers[weight.layer]
    alike = [down for down in layer.down_projections if down.expert == weight.expert]
    named = next((down for down in alike if down.parameter == weight.parameter), None)
    return named or (layer.down_projection if weight.expert is None else None)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
