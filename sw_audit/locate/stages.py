"""Stages of a super activation: where it was there before, was taken down, and was made again; and where it ends.

A channel may carry a massive activation in the first layers, lose it, and be given a larger one at the same token
later. The locator follows what persists, which is the last stage; here the earlier ones are told.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.locate.attribution import choose_layers_to_explain, find_causes, measure_contributions
from sw_audit.locate.probe import Probe
from sw_audit.locate.settings import LocatorSettings
from sw_audit.locate.trace import measure_prominence
from sw_audit.record.location import Stage, SuperActivation, TakeDown


def find_earlier_stages(
    checkpoint: Checkpoint, probe: Probe, activations: Sequence[SuperActivation], settings: LocatorSettings
) -> tuple[Stage, ...]:
    """Find the stages before those that persist, with the scalars that make them, in the order of their layers.

    An entry (token, channel) has an earlier stage if, before the super activation's first layer, it stands out
    (`prominence`) in at least two layers in a row, in which it keeps its sign and stays within the factor
    `constancy` of the largest of them, and if then, still before that layer, less than `relative_height` of that
    is left. What makes it is found as for the super activation itself (`find_causes`).

    Raises:
        CheckpointError: If experts cannot be followed.
    """
    prominent = measure_prominence(probe)[1] >= settings.prominence  # [layers, tokens, hidden]
    found = [
        stage
        for activation in activations
        for stage in _find_stages(
            probe.residual[:, activation.token, activation.channel],
            prominent[:, activation.token, activation.channel],
            activation,
            settings,
        )
    ]
    layers = {
        layer
        for held, _ in found
        for layer in choose_layers_to_explain(probe, (held,), held.last_layer + 1, settings)
    }
    [contributions] = measure_contributions(checkpoint, [probe], [layers])
    return tuple(
        Stage(
            **held.model_dump(exclude={"taken_down"}),
            taken_down=taken_down,
            causes=find_causes(probe, held, contributions[: held.last_layer + 1], settings),
        )
        for held, taken_down in sorted(found, key=lambda pair: pair[0].first_layer)
    )


def find_end(probe: Probe, activation: SuperActivation, settings: LocatorSettings) -> SuperActivation:
    """Return a super activation with the layers that take it down, where these leave less than is constant."""
    values = probe.residual[:, activation.token, activation.channel]
    taken_down = _find_take_down(values / activation.value, activation.last_layer, settings)
    gone = taken_down is not None and abs(taken_down.left) < 1 / settings.constancy
    return activation.model_copy(update={"taken_down": taken_down if gone else None})


def _find_stages(
    values: Tensor, prominent: Tensor, activation: SuperActivation, settings: LocatorSettings
) -> list[tuple[SuperActivation, TakeDown]]:
    """Find the stages of one entry, [layers], the largest and what comes before it."""
    stages, end = [], activation.first_layer
    while bool(prominent[:end].any()):
        peak = int((values[:end].abs() * prominent[:end]).argmax())
        ratio = values[:end] / values[peak]  # at most 1 where it stands out
        persists = (prominent[:end] & (ratio >= 1 / settings.constancy)).tolist()
        first = last = peak
        while first > 0 and persists[first - 1]:
            first -= 1
        while last + 1 < end and persists[last + 1]:
            last += 1
        taken_down = _find_take_down(ratio, last, settings)
        if last == first or taken_down is None or abs(taken_down.left) >= settings.relative_height:
            break
        held = SuperActivation(
            channel=activation.channel,
            token=activation.token,
            value=float(values[first : last + 1].median()),
            first_layer=first,
            last_layer=last,
        )
        stages.append((held, taken_down))
        end = first
    return stages


def _find_take_down(left: Tensor, last: int, settings: LocatorSettings) -> TakeDown | None:
    """Find where an entry goes, by what is left of it after each layer, [layers], the last that holds it given.

    It goes from the first layer that leaves less than 1 - `relative_height` of it, for good, to the first that
    leaves less than `relative_height`; where none does, to that which leaves the least.
    """
    shares = left.tolist()
    whole = max(
        (layer for layer in range(last + 1) if shares[layer] >= 1 - settings.relative_height), default=last
    )
    after = range(whole + 1, len(shares))
    if not after:
        return None
    least = min(after, key=lambda layer: abs(shares[layer]))
    end = next((layer for layer in after if abs(shares[layer]) < settings.relative_height), least)
    return TakeDown(first_layer=whole + 1, last_layer=end, left=shares[end])
