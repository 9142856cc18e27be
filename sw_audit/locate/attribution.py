"""From a super activation to its causes: the products `W[row, column] * x[column]` that add up to it.

The paper takes each layer's largest input and output and leaves thresholds open (Yu et al. 2024, section 3.1).
Here:

1. `choose_layers_to_explain`: layers that change a super activation by less than the smallest cause that counts
   are left out.
2. `measure_contributions`: each remaining layer runs once more with its down-projections silenced. The difference
   is what the MLP really adds to the residual stream, whatever stands between the two.
3. `find_causes`: a product's share is its part of the down-projection's output, times what of that output reaches
   the residual stream, over the super activation. Products with at least `relative_share` of the largest share
   are causes.
4. `attribute_activations` decides which super activations are explained by few causes; see there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sw_audit.checkpoint.effective import answered_by, give_zeros
from sw_audit.checkpoint.matrices import DecoderLayer, list_projections, take_states
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.locate.probe import DownObservation, Probe, read_row
from sw_audit.locate.settings import LocatorSettings
from sw_audit.locate.weight_norms import find_inward_matrices
from sw_audit.record.location import SuperActivation, SuperWeight


@dataclass(frozen=True)
class Attribution:
    """What a probe comes down to.

    Attributes:
        activations: All super activations, one per channel, largest magnitude first.
        causes: Per channel of a super activation, the scalars whose products make it, largest share first.
        explained: The super activations that super weights make.
        super_weights: The set, largest share first.
    """

    activations: tuple[SuperActivation, ...]
    causes: dict[int, tuple[SuperWeight, ...]]
    explained: tuple[SuperActivation, ...]
    super_weights: tuple[SuperWeight, ...]


def choose_layers_to_explain(
    probe: Probe, activations: Sequence[SuperActivation], early: int, settings: LocatorSettings
) -> tuple[int, ...]:
    """Choose the layers, of so many early ones, in which causes of super activations can be.

    In a layer that changes an entry by less than the smallest cause that counts, there is no cause of it. A cause
    that counts is at least `relative_share` of the largest, and the largest of at most `maximum_count` that make
    `explained` is no smaller than their mean.
    """
    smallest = settings.relative_share * settings.explained / settings.maximum_count
    stream = torch.cat([probe.embedded[None], probe.residual[:early]])  # [1 + early, tokens, hidden]
    chosen: set[int] = set()
    for activation in activations:
        steps = stream[:, activation.token, activation.channel].diff().abs()  # [early]
        chosen |= set((steps >= smallest * abs(activation.value)).nonzero().flatten().tolist())
    return tuple(sorted(chosen))


@torch.no_grad()
def measure_contributions(
    checkpoint: Checkpoint, probes: Sequence[Probe], layers: Sequence[Collection[int]]
) -> list[Tensor]:
    """Measure what the down-projections of some layers add to the residual stream.

    Between a down-projection's output and the residual stream there may be a norm (Gemma 2, OLMo 2), a
    multiplier (Granite), or nothing; and other blocks may write beside it (parallel attention). So it is
    measured: these layers run once more, each on what it was given before, with the output of its
    down-projections set to zero. What is missing then is what they had added.

    Args:
        checkpoint: The model.
        probes: The prompts of one pass.
        layers: For each, the layers that are asked for; each runs once for all.

    Returns:
        For each probe what is missing, float32 on the CPU, [layers up to the last of them, tokens, hidden]; 0
        where it is less than rounding, and in layers that were not asked for.
    """
    asked = list(zip(probes, layers, strict=True))
    contributions = [torch.zeros_like(probe.residual[: max(own, default=-1) + 1]) for probe, own in asked]
    for index in sorted(set().union(*layers)):
        states = _run_silenced(checkpoint.layers[index], probes[0])
        # The difference of two numbers that were rounded says nothing below their last digits.
        rounding = 2 * torch.finfo(states.dtype).eps
        for contribution, (probe, own) in zip(contributions, asked, strict=True):
            if index in own:
                whole = probe.residual[index]
                missing = whole - probe.take(states)
                contribution[index] = missing.where(missing.abs() > rounding * whole.abs(), 0.0)
    return contributions


def _run_silenced(layer: DecoderLayer, probe: Probe) -> Tensor:
    with ExitStack() as stack:
        if (down := layer.down_projection) is not None:
            # Products of a dense MLP need not be computed where its output is dropped.
            silent = {down.parameter, *(inward.parameter for inward in find_inward_matrices(layer, down))}
            for matrix, module in list_projections(layer.module, layer.name):
                if matrix.parameter in silent:
                    stack.enter_context(answered_by(module, partial(give_zeros, matrix.shape[0])))
        # Fused experts are one module with many down-projections.
        for module in dict.fromkeys(down.module for down in layer.down_projections):
            stack.callback(module.register_forward_hook(_silence).remove)
        return take_states(probe.calls[layer.index](layer.module, probe.entries[layer.index].clone()))


def _silence(_: nn.Module, __: object, output: Any) -> Any:
    if isinstance(output, Tensor):
        return torch.zeros_like(output)
    return (torch.zeros_like(output[0]), *output[1:])


def attribute_activations(
    probe: Probe, activations: Sequence[SuperActivation], contributions: Tensor, settings: LocatorSettings
) -> Attribution:
    """Attribute super activations to scalars, or to nothing that so few scalars could be.

    1. A channel may hold a super activation at several tokens: it is large at one, and leaks into others, where a
       few products may happen to stand out. So each channel is judged once, at the token where it is largest. If
       other tokens come within the factor `constancy` of that, it is judged at the one of these where the largest
       product adds most.
    2. Its causes there are found (`find_causes`). It is explained if there are at most `maximum_count` causes,
       which together make at least `explained` of it.
    3. Of the explained ones, those lower than `relative_height` of the tallest do not count: the hot input behind
       the tallest makes such lesser spikes of the ordinary weights on its column.
    4. The set takes the causes of the tallest, the next tallest and so on, and ends before it would hold more than
       `maximum_count` scalars.
    5. If the super activations in the set are less than `explained` of all explained ones, by the sum of their
       magnitudes, there is no set.
    """
    by_channel: dict[int, list[SuperActivation]] = {}
    for activation in activations:
        by_channel.setdefault(activation.channel, []).append(activation)
    judged: list[tuple[SuperActivation, tuple[SuperWeight, ...]]] = []
    for entries in by_channel.values():
        lowest = abs(entries[0].value) / settings.constancy
        near = [entry for entry in entries if abs(entry.value) >= lowest]
        explaining = [(entry, find_causes(probe, entry, contributions, settings)) for entry in near]
        judged.append(
            max(explaining, key=lambda pair: abs(pair[0].value) * (pair[1][0].share if pair[1] else 0.0))
        )
    judged.sort(key=lambda pair: -abs(pair[0].value))
    causes = {activation.channel: weights for activation, weights in judged}
    explained = [
        activation
        for activation, weights in judged
        if 0 < len(weights) <= settings.maximum_count
        and sum(weight.share for weight in weights) >= settings.explained
    ]
    kept = _keep_tallest(explained, causes, settings)
    weights = [weight for activation in kept for weight in causes[activation.channel]]
    weights.sort(key=lambda weight: -weight.share)
    return Attribution(tuple(activation for activation, _ in judged), causes, kept, tuple(weights))


def _keep_tallest(
    explained: Sequence[SuperActivation], causes: Mapping[int, Sequence[SuperWeight]], settings: LocatorSettings
) -> tuple[SuperActivation, ...]:
    """Steps 3 to 5."""
    kept, scalars = [], 0
    for activation in explained:
        scalars += len(causes[activation.channel])
        is_low = abs(activation.value) < settings.relative_height * abs(explained[0].value)
        if is_low or scalars > settings.maximum_count:
            break
        kept.append(activation)
    total, of_kept = (sum(abs(activation.value) for activation in part) for part in (explained, kept))
    return tuple(kept) if of_kept >= settings.explained * total else ()


def find_causes(
    probe: Probe, activation: SuperActivation, contributions: Tensor, settings: LocatorSettings
) -> tuple[SuperWeight, ...]:
    """Find the products that make up a super activation, in all early layers, largest share first.

    Contributions are [layers, tokens, hidden]. More than `maximum_count` are returned where many share it.
    """
    products: list[tuple[float, DownObservation, int]] = []
    token, channel = activation.token, activation.channel
    for layer in range(len(contributions)):
        added = float(contributions[layer, token, channel])
        observed = probe.observed_in(layer)
        delivered = sum(seen.delivered_at(token, channel) for seen in observed)
        if not added or not delivered:
            continue
        for seen in observed:
            if (terms := seen.products_at(token, channel)) is None:
                continue
            shares = terms * (added / delivered / activation.value)  # [inner]
            # None beyond the first few can matter: with that many the spike is distributed.
            top = shares.topk(min(settings.maximum_count + 1, len(shares)))
            largest = zip(top.values.tolist(), top.indices.tolist(), strict=True)
            products += [(share, seen, column) for share, column in largest]
    products.sort(key=lambda product: -product[0])
    return tuple(
        SuperWeight(
            parameter=seen.down.parameter,
            row=channel,
            column=column,
            expert=seen.down.expert,
            layer=seen.layer,
            value=float(read_row(seen.down, channel)[column]),
            share=share,
        )
        for share, seen, column in products
        if share > 0 and share >= settings.relative_share * products[0][0]
    )
