"""From a super activation to its causes: the products `W[row, column] * x[column]` that add up to it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sw_audit.checkpoint.matrices import DownProjection
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.facts.location import Candidate, SuperActivation, SuperWeight
from sw_audit.locate.probe import Probe
from sw_audit.locate.settings import LocatorSettings


@dataclass(frozen=True)
class Cause:
    """One product of one down-projection, seen at a super activation.

    Attributes:
        weight: The scalar, with the share of the super activation that its product explains.
        input_value: The down-projection's input there.
    """

    weight: SuperWeight
    input_value: float


def find_causes(
    checkpoint: Checkpoint, probe: Probe, activation: SuperActivation, settings: LocatorSettings
) -> tuple[Cause, ...]:
    """Find the products that make up a super activation, from the first layer to the one that holds it.

    A product counts if it explains at least `minimum_share` of the super activation, and at least
    `relative_share` of what the largest one explains.

    Args:
        checkpoint: The model.
        probe: One forward pass.
        activation: What is to be explained.
        settings: The thresholds.

    Returns:
        Largest share first.
    """
    causes: list[Cause] = []
    for layer in checkpoint.layers[: activation.first_layer + 1]:
        down, entering = layer.down_projection, probe.down_inputs[layer.index]
        if down is None or entering is None:
            continue
        x = entering[activation.token]  # [inner]
        weights = read_row(down, activation.channel)  # [inner]
        shares = weights * x / activation.value
        for column in (shares >= settings.minimum_share).nonzero().flatten().tolist():
            causes.append(
                Cause(
                    SuperWeight(
                        parameter=down.parameter,
                        row=activation.channel,
                        column=column,
                        layer=layer.index,
                        value=float(weights[column]),
                        share=float(shares[column]),
                    ),
                    float(x[column]),
                )
            )
    causes.sort(key=lambda cause: -cause.weight.share)
    return tuple(
        cause for cause in causes if cause.weight.share >= settings.relative_share * causes[0].weight.share
    )


def read_row(down: DownProjection, row: int) -> Tensor:
    """Return one row of a down-projection, float32 on the CPU, [inner]."""
    return down.weight[row].detach().float().cpu()


def describe_spikes(
    checkpoint: Checkpoint,
    probe: Probe,
    activations: tuple[SuperActivation, ...],
    super_weights: tuple[SuperWeight, ...],
) -> tuple[Candidate, ...]:
    """Say of each layer's largest down-projection output why it is, or is not, made by a super weight.

    These are the spikes that a reader sees first (Yu et al. 2024, figure 3), and the largest of them is often
    in a late layer and harmless.
    """
    accepted = {(weight.layer, weight.row, weight.column) for weight in super_weights}
    candidates = []
    for layer in checkpoint.layers:
        down, x = layer.down_projection, probe.down_inputs[layer.index]
        y = probe.down_outputs[layer.index]
        if down is None or x is None or y is None:
            continue
        token, row = divmod(int(y.abs().argmax()), y.shape[1])
        weights = read_row(down, row)
        output = float(y[token, row])
        shares = weights * x[token] / output if output else torch.zeros_like(weights)
        column = int(shares.argmax())
        is_super = (layer.index, row, column) in accepted
        candidates.append(
            Candidate(
                layer=layer.index,
                parameter=down.parameter,
                row=row,
                column=column,
                token=token,
                input_value=float(x[token, column]),
                output_value=output,
                weight=float(weights[column]),
                share=float(shares[column]),
                accepted=is_super,
                because=_explain(layer.index, row, token, float(shares[column]), is_super, activations, probe),
            )
        )
    return tuple(candidates)


def _explain(
    layer: int,
    row: int,
    token: int,
    share: float,
    is_super: bool,
    activations: tuple[SuperActivation, ...],
    probe: Probe,
) -> str:
    if is_super:
        return "this product makes a super activation that persists to near the end"
    carried = next((one for one in activations if one.channel == row), None)
    if carried is not None and layer > carried.first_layer:
        return f"the super activation in channel {row} is older: it is there from layer {carried.first_layer} on"
    if carried is not None:
        return f"many products share this output: the largest explains {share:.0%}"
    last = len(probe.residual) - 1
    if layer >= last - 1:
        return "it appears in the last layers, where nothing is left to carry"
    level = abs(float(probe.residual[layer, token, row]))
    later = abs(float(probe.residual[max(layer + 1, last - 1), token, row]))
    if later < level / 2:
        return "the residual stream does not keep it: it is gone before the last layer"
    return "it does not stand out in the residual stream"
