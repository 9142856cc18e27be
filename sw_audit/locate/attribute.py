"""From a super activation to its causes: the products `W[row, column] * x[column]` that add up to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from sw_audit.locate.observation import DownObservation, read_row
from sw_audit.locate.probe import Probe
from sw_audit.locate.settings import LocatorSettings
from sw_audit.record.location import SuperActivation, SuperWeight


@dataclass(frozen=True)
class Cause:
    """One product of one down-projection, seen at a super activation.

    Attributes:
        weight: The scalar, with the share of the super activation that its product explains.
        input_value: The down-projection's input there.
    """

    weight: SuperWeight
    input_value: float


@dataclass(frozen=True)
class Attribution:
    """What a probe comes down to.

    Attributes:
        activations: All super activations, one per channel, largest magnitude first.
        causes: Per channel of a super activation, the products that make it, largest share first.
        explained: The super activations that super weights make.
        super_weights: The set, largest share first.
    """

    activations: tuple[SuperActivation, ...]
    causes: dict[int, tuple[Cause, ...]]
    explained: tuple[SuperActivation, ...]
    super_weights: tuple[SuperWeight, ...]


def attribute_activations(
    probe: Probe, activations: Sequence[SuperActivation], reach: Tensor, settings: LocatorSettings
) -> Attribution:
    """Attribute super activations to scalars, or to nothing that so few scalars could be.

    Each channel is judged once, where it is largest; of tokens that differ by no more than `constancy` in this, at
    the one where one product adds most. What leaks of it into other tokens, where few products may happen to
    stand out, is no super activation of its own. There it is explained if at most `maximum_count` products make
    at least `explained` of it. Beside the largest explained one, those below `relative_height` of it do not
    count: what ordinary weights on its own column make of the same hot input looks like it, and is a matter of
    degree. The set ends where it would hold more than `maximum_count` scalars; if it leaves out most of what is
    explained, there is no set.

    Args:
        probe: One forward pass.
        activations: What it showed, largest magnitude first.
        reach: What the MLPs of the early layers add to the residual stream, [layers, tokens, hidden].
        settings: The thresholds.
    """
    same: dict[int, list[SuperActivation]] = {}
    for one in activations:
        same.setdefault(one.channel, []).append(one)
    judged = [_judge_channel(probe, entries, reach, settings) for entries in same.values()]
    judged.sort(key=lambda pair: -abs(pair[0].value))
    causes = {one.channel: made for one, made in judged}
    explained = tuple(one for one, made in judged if _is_explained(made, settings))
    kept = _keep_tallest(explained, {one.channel: len(causes[one.channel]) for one in explained}, settings)
    found = [cause.weight for one in kept for cause in causes[one.channel]]
    found.sort(key=lambda weight: -weight.share)
    return Attribution(tuple(one for one, _ in judged), causes, kept, tuple(found))


def _judge_channel(
    probe: Probe, entries: Sequence[SuperActivation], reach: Tensor, settings: LocatorSettings
) -> tuple[SuperActivation, tuple[Cause, ...]]:
    """Choose the token at which a channel is judged, and find its causes there.

    Args:
        probe: One forward pass.
        entries: The channel's super activations, largest magnitude first.
        reach: What the MLPs of the early layers add to the residual stream.
        settings: The thresholds.
    """
    lowest = abs(entries[0].value) / settings.constancy
    near = [(one, find_causes(probe, one, reach, settings)) for one in entries if abs(one.value) >= lowest]
    return max(near, key=lambda pair: abs(pair[0].value) * (pair[1][0].weight.share if pair[1] else 0.0))


def _keep_tallest(
    explained: Sequence[SuperActivation], counts: Mapping[int, int], settings: LocatorSettings
) -> tuple[SuperActivation, ...]:
    """Keep the tallest super activations that so few scalars make, if they are most of what is explained."""
    kept, scalars = [], 0
    for one in explained:
        scalars += counts[one.channel]
        if abs(one.value) < settings.relative_height * abs(explained[0].value) or scalars > settings.maximum_count:
            break
        kept.append(one)
    whole = sum(abs(one.value) for one in explained)
    return tuple(kept) if sum(abs(one.value) for one in kept) >= settings.explained * whole else ()


def find_causes(
    probe: Probe, activation: SuperActivation, reach: Tensor, settings: LocatorSettings
) -> tuple[Cause, ...]:
    """Find the products that make up a super activation, in all early layers.

    A product counts if it explains at least `relative_share` of what the largest one explains. What it
    explains is its part of the down-projection's output, times what of that output reaches the residual
    stream, over the super activation.

    Args:
        probe: One forward pass.
        activation: What is to be explained.
        reach: What the MLPs of the early layers add to the residual stream, [layers, tokens, hidden].
        settings: The thresholds.

    Returns:
        Largest share first; more than `maximum_count` where many share it.
    """
    found: list[tuple[float, DownObservation, int]] = []
    token, channel = activation.token, activation.channel
    for layer in range(len(reach)):
        reached = float(reach[layer, token, channel])
        observed = probe.observed_in(layer)
        delivered = sum(one.delivered_at(token, channel) for one in observed)
        if not reached or not delivered:
            continue
        for one in observed:
            if (products := one.products_at(token, channel)) is None:
                continue
            shares = products * (reached / delivered / activation.value)  # [inner]
            # None beyond the first few can matter: with that many the spike is distributed.
            top = shares.topk(min(settings.maximum_count + 1, len(shares)))
            places = zip(top.values.tolist(), top.indices.tolist(), strict=True)
            found += [(share, one, column) for share, column in places]
    found.sort(key=lambda entry: -entry[0])
    return tuple(
        _describe_cause(one, activation, column, share)
        for share, one, column in found
        if share > 0 and share >= settings.relative_share * found[0][0]
    )


def _describe_cause(seen: DownObservation, activation: SuperActivation, column: int, share: float) -> Cause:
    entering = seen.input_at(activation.token)
    weight = SuperWeight(
        parameter=seen.down.parameter,
        row=activation.channel,
        column=column,
        expert=seen.down.expert,
        layer=seen.layer,
        value=float(read_row(seen.down, activation.channel)[column]),
        share=share,
    )
    return Cause(weight, 0.0 if entering is None else float(entering[column]))


def _is_explained(causes: Sequence[Cause], settings: LocatorSettings) -> bool:
    total = sum(cause.weight.share for cause in causes)
    return 0 < len(causes) <= settings.maximum_count and total >= settings.explained
