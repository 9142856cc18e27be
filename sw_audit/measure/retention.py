"""What a descendant kept of its parent: the super weights with their neighbours, and the super activations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.measure.attention import measure_attended
from sw_audit.measure.blocks import Seen
from sw_audit.measure.mechanism import see_with_attention
from sw_audit.record.address import WeightAddress
from sw_audit.record.descent import RetainedActivation, RetainedWeight
from sw_audit.record.location import Location, SuperActivation, SuperWeight


def translate_address(parent: Checkpoint, descendant: Checkpoint, address: WeightAddress) -> WeightAddress | None:
    """Return where a scalar of the parent is in the descendant; `None` if it has none such.

    What wraps a model, as adapters do, gives other names to its layers, but keeps their order and what is inside.

    Args:
        parent: The parent.
        descendant: The descendant.
        address: One of the parent's scalars.
    """
    for theirs, ours in zip(parent.layers, descendant.layers, strict=False):
        if theirs.find_matrix(address.parameter, address.expert) is None:
            continue
        name = ours.name + address.parameter.removeprefix(theirs.name)
        if any((one.parameter, one.expert) == (name, address.expert) for one in ours.matrices):
            return address.model_copy(update={"parameter": name})
    return None


@torch.no_grad()
def read_retained_weights(
    parent: Checkpoint, descendant: Checkpoint, super_weights: Sequence[SuperWeight]
) -> tuple[RetainedWeight, ...]:
    """Read the parent's super weights in the descendant, as it computes with them.

    Args:
        parent: The parent.
        descendant: The descendant, in any format.
        super_weights: The parent's.
    """
    return tuple(_read_weight(parent, descendant, one) for one in super_weights)


def _read_weight(parent: Checkpoint, descendant: Checkpoint, weight: SuperWeight) -> RetainedWeight:
    lost = RetainedWeight(address=weight.address, layer=weight.layer, parent=weight.value, value=None)
    there = parent.matrix(weight.parameter, weight.expert)
    found = translate_address(parent, descendant, weight.address)
    here = None if found is None else descendant.matrix(found.parameter, found.expert)
    if here is None or here.shape != there.shape:
        return lost
    whole = here.weight
    value = float(whole[weight.row, weight.column])
    if not math.isfinite(value):
        return lost.model_copy(update={"finite": False})
    original = there.weight
    return RetainedWeight(
        address=weight.address,
        layer=weight.layer,
        parent=weight.value,
        value=value,
        row_error=_measure_error(whole[weight.row], original[weight.row], weight.column),
        column_error=_measure_error(whole[:, weight.column], original[:, weight.column], weight.row),
    )


def _measure_error(here: Tensor, there: Tensor, left_out: int) -> float | None:
    """Return the norm of the difference over the norm, one entry left out; `None` if that is no number."""
    keep = torch.arange(len(there)) != left_out
    ours, theirs = (one.detach().cpu()[keep].double() for one in (here, there))
    error = float((ours - theirs).norm() / theirs.norm())
    return error if math.isfinite(error) else None


def follow_retained_activations(
    parent: Checkpoint, descendant: Checkpoint, location: Location
) -> tuple[RetainedActivation, ...]:
    """Follow the parent's super activations through both models, on the prompt that located them.

    Args:
        parent: The parent.
        descendant: The descendant.
        location: Where the parent's are.

    Returns:
        One entry per super activation, none where the two have another number of layers or another width.
    """
    if not location.super_activations or not is_alike(parent, descendant):
        return ()
    there = see_with_attention(parent, location.token_ids)
    here = see_with_attention(descendant, location.token_ids)
    return tuple(_follow(one, there, here) for one in location.super_activations)


def is_alike(parent: Checkpoint, descendant: Checkpoint) -> bool:
    """Tell whether the residual streams of two models can be held against each other, layer by layer."""
    one, two = parent.identity, descendant.identity
    return (one.layers, one.hidden_size) == (two.layers, two.hidden_size)


def _follow(activation: SuperActivation, there: Sequence[Seen], here: Sequence[Seen]) -> RetainedActivation:
    token, channel = activation.token, activation.channel
    layers = range(activation.first_layer, activation.last_layer + 1)
    states = [here[layer].leaving[token] for layer in layers]  # [hidden] each
    values = [float(state[channel]) for state in states]
    # What a layer adds to the stream is seen by the attention of those that follow.
    later = range(activation.first_layer + 1, min(activation.last_layer + 2, len(there)))
    return RetainedActivation(
        channel=channel,
        token=token,
        layers=tuple(layers),
        parent=tuple(float(there[layer].leaving[token, channel]) for layer in layers),
        value=tuple(value if math.isfinite(value) else None for value in values),
        loudest=tuple(int(state.abs().argmax()) == channel and bool(state.isfinite().all()) for state in states),
        sink_parent=_measure_sink([there[layer] for layer in later], token),
        sink=_measure_sink([here[layer] for layer in later], token),
    )


def _measure_sink(seen: Sequence[Seen], token: int) -> float | None:
    """Return the share of later tokens' attention that rests on a token, mean over layers; `None` if not known."""
    shares = [measure_attended(one.weights, token) for one in seen]
    known = [one for one in shares if one is not None and math.isfinite(one)]
    return math.fsum(known) / len(known) if known and len(known) == len(shares) else None
