"""What a model kept of the super weights and super activations of another: of its parent, or of a baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.errors import CheckpointError
from sw_audit.locate.probe import Probe, probe_prompt
from sw_audit.locate.settings import DEFAULT_SETTINGS
from sw_audit.locate.trace import find_span
from sw_audit.measure.critical_scalars import read_critical_scalars
from sw_audit.measure.maps import map_activations, read_neighbourhood
from sw_audit.measure.mechanism import LayerParts, list_leaving, measure_attended, see_with_attention
from sw_audit.record.address import WeightAddress
from sw_audit.record.baseline import Baseline, HeldActivation, HeldWeight
from sw_audit.record.descent import RetainedActivation, RetainedWeight
from sw_audit.record.location import Location, SuperActivation, SuperWeight
from sw_audit.record.maps import ActivationMap


def compare_with_baseline(checkpoint: Checkpoint, location: Location, baseline: Baseline) -> Baseline:
    """Complete a baseline with the weights and critical scalars that a model has in the same places.

    Where both can be compared, super activations are read too; the model's own location says on which prompt.
    """
    comparable = not baseline.list_obstacles(checkpoint.identity, location)
    weights, activations = read_location(checkpoint, baseline.location, prompt=comparable)
    search = baseline.critical
    scalars = () if search is None else read_critical_scalars(checkpoint, search, baseline.location)
    return baseline.model_copy(update={"weights": weights, "activations": activations, "scalars": scalars})


def read_location(
    checkpoint: Checkpoint, before: Location, *, prompt: bool = True
) -> tuple[tuple[HeldWeight, ...], tuple[HeldActivation, ...]]:
    """Read the super weights and super activations of an earlier location in a model.

    Activations are read only if the prompt is run; a residual stream that is not finite on it gives none of them a
    value.
    """
    weights = tuple(
        HeldWeight(
            address=weight.address, layer=weight.layer, before=weight.value, value=read_weight(checkpoint, weight)
        )
        for weight in before.super_weights
    )
    if not prompt or not before.super_activations:
        return weights, ()
    try:
        probe = probe_prompt(checkpoint, before.token_ids)
    except CheckpointError:
        probe = None
    activations = tuple(
        HeldActivation(
            channel=activation.channel,
            token=activation.token,
            before=activation.value,
            value=None if probe is None else read_activation(probe, activation),
        )
        for activation in before.super_activations
    )
    return weights, activations


def read_weight(checkpoint: Checkpoint, weight: SuperWeight) -> float | None:
    """Return the effective value that a model has at a super weight of another; `None` if none, or not finite.

    The scalar is sought by the name of its parameter, then, for adapters and wrappers rename what they take in,
    in the down-projection of the same layer.
    """
    if weight.layer >= len(checkpoint.layers):
        return None
    layer, key = checkpoint.layers[weight.layer], (weight.parameter, weight.expert)
    named = next((down for down in layer.down_projections if (down.parameter, down.expert) == key), None)
    matrix = named or (layer.down_projection if weight.expert is None else None)
    if matrix is None or weight.row >= matrix.shape[0] or weight.column >= matrix.shape[1]:
        return None
    index = (torch.tensor([position], device=matrix.device) for position in (weight.row, weight.column))
    return _finite(float(matrix.read_scalars(*index)[0]))


def read_activation(probe: Probe, activation: SuperActivation) -> float | None:
    """Return a super activation's value in a probe, the median over layers as the locator takes it."""
    first, last = find_span(probe, DEFAULT_SETTINGS)
    return _finite(float(probe.residual[first : last + 1, activation.token, activation.channel].median()))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def translate_address(parent: Checkpoint, descendant: Checkpoint, address: WeightAddress) -> WeightAddress | None:
    """Return where a scalar of the parent is in the descendant; `None` if it has none such.

    What wraps a model, as adapters do, gives other names to its layers, but keeps their order and what is inside.
    """
    for theirs, ours in zip(parent.layers, descendant.layers, strict=False):
        if theirs.find_matrix(address.parameter, address.expert) is None:
            continue
        name = ours.name + address.parameter.removeprefix(theirs.name)
        if any((matrix.parameter, matrix.expert) == (name, address.expert) for matrix in ours.matrices):
            return address.model_copy(update={"parameter": name})
    return None


@torch.no_grad()
def read_retained_weights(
    parent: Checkpoint, descendant: Checkpoint, super_weights: Sequence[SuperWeight]
) -> tuple[RetainedWeight, ...]:
    """Read the parent's super weights in the descendant, of any format, as it computes with them."""
    return tuple(_read_retained(parent, descendant, weight) for weight in super_weights)


def _read_retained(parent: Checkpoint, descendant: Checkpoint, weight: SuperWeight) -> RetainedWeight:
    lost = RetainedWeight(address=weight.address, layer=weight.layer, parent=weight.value, value=None)
    theirs = parent.matrix(weight.parameter, weight.expert)
    address = translate_address(parent, descendant, weight.address)
    if address is None:
        return lost
    ours = descendant.matrix(address.parameter, address.expert)
    if ours.shape != theirs.shape:
        return lost
    kept, original = ours.weight, theirs.weight
    around = {
        "parent_neighbourhood": read_neighbourhood(original, weight.address, weight.layer),
        "neighbourhood": read_neighbourhood(kept, address, weight.layer),
    }
    lost = lost.model_copy(update=around)
    value = float(kept[weight.row, weight.column])
    if not math.isfinite(value):
        return lost.model_copy(update={"finite": False})
    return lost.model_copy(
        update={
            "value": value,
            "row_error": _measure_error(kept[weight.row], original[weight.row], weight.column),
            "column_error": _measure_error(kept[:, weight.column], original[:, weight.column], weight.row),
        }
    )


def _measure_error(ours: Tensor, theirs: Tensor, left_out: int) -> float | None:
    """Return the norm of the difference over the norm, one entry left out; `None` if that is no number."""
    keep = torch.arange(len(theirs)) != left_out
    ours, theirs = (values.detach().cpu()[keep].double() for values in (ours, theirs))
    return _finite(float((ours - theirs).norm() / theirs.norm()))


def is_alike(parent: Checkpoint, descendant: Checkpoint) -> bool:
    """Tell whether the residual streams of two models can be compared, layer by layer."""
    theirs, ours = parent.identity, descendant.identity
    return (theirs.layers, theirs.hidden_size) == (ours.layers, ours.hidden_size)


def follow_retained_activations(
    parent: Checkpoint, descendant: Checkpoint, location: Location
) -> tuple[tuple[RetainedActivation, ...], ActivationMap | None]:
    """Follow the parent's super activations through both models, on the prompt that located them.

    Returns:
        One entry per super activation, and the same passes by layer and token, the parent's before the
        descendant's; nothing where the two have another number of layers or another width.
    """
    if not location.super_activations or not is_alike(parent, descendant):
        return (), None
    (theirs,), (ours,) = (see_with_attention(model, location.token_ids) for model in (parent, descendant))
    seen = map_activations(parent.tokenizer, location, *map(list_leaving, (theirs, ours)))
    return tuple(_follow(activation, theirs, ours) for activation in location.super_activations), seen


def _follow(
    activation: SuperActivation, theirs: Sequence[LayerParts], ours: Sequence[LayerParts]
) -> RetainedActivation:
    token, channel = activation.token, activation.channel
    layers = range(activation.first_layer, activation.last_layer + 1)
    states = [ours[layer].leaving[token] for layer in layers]  # [hidden] each
    # What a layer adds to the stream is seen by the attention of those that follow.
    later = range(activation.first_layer + 1, min(activation.last_layer + 2, len(theirs)))
    return RetainedActivation(
        channel=channel,
        token=token,
        layers=tuple(layers),
        parent=tuple(float(theirs[layer].leaving[token, channel]) for layer in layers),
        value=tuple(_finite(float(state[channel])) for state in states),
        loudest=tuple(int(state.abs().argmax()) == channel and bool(state.isfinite().all()) for state in states),
        sink_parent=_measure_sink([theirs[layer] for layer in later], token),
        sink=_measure_sink([ours[layer] for layer in later], token),
    )


def _measure_sink(layers: Sequence[LayerParts], token: int) -> float | None:
    """Return the share of later tokens' attention that rests on a token, mean over layers; `None` if not known."""
    shares = [measure_attended(parts.weights, token) for parts in layers]
    known = [share for share in shares if share is not None and math.isfinite(share)]
    return math.fsum(known) / len(known) if known and len(known) == len(shares) else None
