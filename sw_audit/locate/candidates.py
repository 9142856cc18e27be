"""Says of each layer's largest spike why it is, or is not, the work of a super weight."""

from __future__ import annotations

import torch

from sw_audit.checkpoint.matrices import DownProjection
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.locate.observation import read_row
from sw_audit.locate.probe import Probe
from sw_audit.record.address import WeightAddress
from sw_audit.record.location import Candidate, SuperActivation, SuperWeight


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
    accepted = {weight.address for weight in super_weights}
    candidates = []
    for layer in checkpoint.layers:
        observed = probe.observed_in(layer.index)
        if not observed:
            continue
        # What an expert hands on is what counts: its output times its routing weight.
        seen = max(observed, key=lambda one: float(one.delivered.abs().max()))
        place, row = divmod(int(seen.delivered.abs().argmax()), seen.outputs.shape[1])
        token, down, x = int(seen.tokens[place]), seen.down, seen.inputs[place]
        weights = read_row(down, row)
        output = float(seen.outputs[place, row])
        shares = weights * x / output if output else torch.zeros_like(weights)
        column = int(shares.argmax())
        is_super = _address(down, row, column) in accepted
        candidates.append(
            Candidate(
                layer=layer.index,
                parameter=down.parameter,
                row=row,
                column=column,
                expert=down.expert,
                token=token,
                input_value=float(x[column]),
                output_value=output,
                weight=float(weights[column]),
                share=float(shares[column]),
                accepted=is_super,
                because=_explain(layer.index, row, token, float(shares[column]), is_super, activations, probe),
            )
        )
    return tuple(candidates)


def _address(down: DownProjection, row: int, column: int) -> WeightAddress:
    return WeightAddress(parameter=down.parameter, row=row, column=column, expert=down.expert)


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
        to = "to near the end" if probe.is_whole else f"through layer {len(probe.residual) - 1}, the last that ran"
        return f"this product makes a super activation that persists {to}"
    carried = next((one for one in activations if one.channel == row), None)
    if carried is not None and layer > carried.first_layer:
        return f"the super activation in channel {row} is older: it is there from layer {carried.first_layer} on"
    if carried is not None:
        return f"many products share this output: the largest explains {share:.0%}"
    last, end = probe.layers - 1, len(probe.residual) - 1
    if layer >= last - 1:
        return "it appears in the last layers, where nothing is left to carry"
    level = abs(float(probe.residual[layer, token, row]))
    later = abs(float(probe.residual[min(max(layer + 1, last - 1), end), token, row]))
    if later < level / 2:
        when = "before the last layer" if probe.is_whole else f"by layer {end}, the last that ran"
        return f"the residual stream does not keep it: it is gone {when}"
    return "it does not stand out in the residual stream"
