"""Follows super activations through the layers: who makes them, who carries them, who attends to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor

from sw_audit.arms.apply import applied_arm, touches
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.measure.attention import eager_attention, measure_attended
from sw_audit.measure.blocks import Seen, see_layers
from sw_audit.record.address import WeightAddress, group_addresses
from sw_audit.record.arm import PRUNED, Arm, Scale
from sw_audit.record.location import Location, SuperActivation
from sw_audit.record.mechanism import Contribution, LayerMechanism, Mechanism

# Two ways to compute attention differ by rounding, which a few layers let grow; a wrong mask differs by much more.
_NEAR = 1e-3


def follow_super_activations(checkpoint: Checkpoint, location: Location) -> tuple[Mechanism, ...]:
    """Take the layers apart at each super activation, as the model is and with its super weights zeroed.

    Four forward passes on the locating prompt: with and without the super weights as the model runs, and once
    more each to be shown attention weights, which count only where the second pass does what the first did. The
    paper says that the skip connections carry the super activation and that pruning takes 75 % of it away (Yu et
    al. 2024, section 3.2, figure 4), and that attention stays on its token (appendix): here each is measured.

    Args:
        checkpoint: The model; bit-identical afterwards, and attending as before.
        location: What was located in it.

    Returns:
        One entry per super activation; none where nothing was located or a pass is not finite there.
    """
    if not location.super_weights:
        return ()
    intact = see_with_attention(checkpoint, location.token_ids)
    with ExitStack() as stack:
        _prune_(checkpoint, location.addresses, stack)
        pruned = see_with_attention(checkpoint, location.token_ids)
    followed = (_follow(one, intact, pruned) for one in location.super_activations)
    return tuple(mechanism for mechanism in followed if mechanism is not None)


def see_with_attention(checkpoint: Checkpoint, token_ids: Sequence[int]) -> tuple[Seen, ...]:
    """Take every decoder layer apart on one prompt, attention weights included.

    Two forward passes: as the model runs, and once more to be shown attention weights, which count only where the
    second pass does what the first did.

    Args:
        checkpoint: The model; attending as before afterwards.
        token_ids: The prompt, BOS included if wanted.
    """
    plain = see_layers(checkpoint, token_ids)
    try:
        with eager_attention(checkpoint.model):
            shown = see_layers(checkpoint, token_ids)
    except RuntimeError:
        # Not every configuration that a fused kernel takes is one that the family's own steps take.
        return tuple(replace(one, weights=None) for one in plain)
    near = max(_NEAR, 16 * torch.finfo(checkpoint.model.dtype).eps)
    return tuple(
        replace(one, weights=two.weights if _is_near(two.leaving, one.leaving, near) else None)
        for one, two in zip(plain, shown, strict=True)
    )


def _is_near(states: Tensor, others: Tensor, near: float) -> bool:
    """Tell whether states, [tokens, hidden], are others at every token but for rounding."""
    return bool(((states - others).norm(dim=1) <= near * others.norm(dim=1)).all())


def _prune_(checkpoint: Checkpoint, super_weights: Sequence[WeightAddress], stack: ExitStack) -> None:
    """Zero the super weights in the whole model until the stack is left."""
    arm = Arm(name=PRUNED, acts=(Scale(addresses=group_addresses(super_weights), factor=0.0),))
    for layer in checkpoint.layers:
        if touches(arm, layer):
            stack.enter_context(applied_arm(arm, layer))


def _follow(activation: SuperActivation, intact: Sequence[Seen], pruned: Sequence[Seen]) -> Mechanism | None:
    token, channel = activation.token, activation.channel
    whole, zeroed = ([_contribute(one, token, channel) for one in seen] for seen in (intact, pruned))
    layers = [
        LayerMechanism(
            layer=layer,
            intact=before,
            pruned=after,
            attended=measure_attended(intact[layer].weights, token),
            attended_pruned=measure_attended(pruned[layer].weights, token),
        )
        for layer, (before, after) in enumerate(zip(whole, zeroed, strict=True))
        if before is not None and after is not None
    ]
    if len(layers) < len(intact):
        return None
    return Mechanism(
        channel=channel,
        token=token,
        first_layer=activation.first_layer,
        last_layer=activation.last_layer,
        layers=tuple(layers),
    )


def _contribute(seen: Seen, token: int, channel: int) -> Contribution | None:
    def read(states: Tensor) -> float:
        return float(states[token, channel])

    skip, leaving = read(seen.entering), read(seen.leaving)
    middle = None if seen.middle is None else read(seen.middle)
    if not all(math.isfinite(one) for one in (skip, leaving, *([] if middle is None else [middle]))):
        return None
    if middle is None:
        return Contribution(skip=skip, leaving=leaving)
    return Contribution(skip=skip, attention=middle - skip, mlp=leaving - middle, leaving=leaving)
