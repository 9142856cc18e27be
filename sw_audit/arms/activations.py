"""What enters every projection of a layer, and its attention products, rounded to integers and back.

Which scalars are held out is found at run time, once per sequence; Yu et al. 2024 (section 4.1) leave open how:

- In what enters a projection from the residual stream (query, key, value, gate, up): in each located channel, the
  token at which it is largest. After a norm too, that is where the super activation is.
- In what enters a super weight's down-projection: in the super weight's column, the token at which it is largest.
- In what enters the output projection of attention, other down-projections and attention products: nothing.

Where a layer comes before the super activation, the largest entry of its channel is an ordinary one, and holding
it out does nothing worth speaking of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sw_audit.arms.attention import attention_products, explain_unseen
from sw_audit.checkpoint.families import mixes_tokens
from sw_audit.checkpoint.matrices import DecoderLayer, Matrix, list_projections
from sw_audit.errors import CheckpointError, CorpusError
from sw_audit.quantize.activations import find_largest_tokens, round_activations
from sw_audit.quantize.calibration import Calibration, Operand
from sw_audit.record.arm import QuantizeActivations


@contextmanager
def quantized_activations(
    act: QuantizeActivations, layer: DecoderLayer, calibration: Calibration | None = None
) -> Iterator[None]:
    """Round what enters every projection of a layer, and both its attention products, while it runs.

    Rounding is by `round_activations`; an operand of an attention product has one scale per head and token.

    Args:
        act: How; what is held out.
        layer: The layer. Afterwards, also after an exception, it runs as before.
        calibration: What calibration text showed of it; needed for static scales.

    Raises:
        CheckpointError: If the layer has experts, or attention that cannot be looked into.
        CorpusError: If a static scale is wanted and there was no calibration text.
    """
    if (reason := explain_unroundable([layer])) is not None:
        raise CheckpointError(
            f"the activations of {layer.name}, rounded", reason, "set `enabled = false` in `[activations]`"
        )
    if act.scale == "tensor" and calibration is None:
        raise CorpusError(
            "static activation scales",
            "no calibration text is left beyond the scored windows",
            "give a longer text in `[corpus] source`, fewer `[corpus] windows`, or scales per token",
        )
    mixing = {one for block in layer.module.children() if mixes_tokens(block) for one in block.modules()}
    rounder = _Rounder(act, calibration if act.scale == "tensor" else None)
    with ExitStack() as stack:
        hook = layer.module.register_forward_pre_hook(rounder.begin, with_kwargs=True)
        stack.callback(hook.remove)
        for matrix, module in list_projections(layer.module, layer.name):
            entry = _Entry(matrix.parameter, tuple(list_hot_channels(act, layer, matrix)), module in mixing)
            stack.callback(module.register_forward_pre_hook(partial(rounder.enter, entry)).remove)
        stack.enter_context(attention_products(layer, rounder.multiply))
        yield


def explain_unroundable(layers: Sequence[DecoderLayer]) -> str | None:
    """Say why the activations of a model cannot all be rounded; `None` if they can."""
    if any(layer.keeps_experts for layer in layers):
        return "its MLP has experts, and what enters an expert cannot be rounded here"
    return next((reason for layer in layers if (reason := explain_unseen(layer)) is not None), None)


def list_hot_channels(act: QuantizeActivations, layer: DecoderLayer, matrix: Matrix) -> list[int]:
    """List the channels of a projection's input in which a scalar is held out.

    What is as wide as the residual stream is taken to be fed by it. The output projection of attention is as
    wide in most families and is not: it is told by being called after the products, when the layer runs.

    Args:
        act: Which channels of the residual stream, and which super weights.
        layer: The layer.
        matrix: One of its projections.
    """
    columns = {column for group in act.columns if group.parameter == matrix.parameter for column in group.columns}
    if columns:
        return sorted(columns)
    downs = layer.down_projections
    hidden = downs[0].shape[0] if downs else matrix.shape[1]
    fed = matrix.shape[1] == hidden and matrix.parameter not in {one.parameter for one in downs}
    return sorted(set(act.channels)) if fed else []


@dataclass(frozen=True)
class _Entry:
    """One projection: its weight's name, the channels held out of its input, whether it is a part of attention."""

    parameter: str
    channels: tuple[int, ...]
    mixing: bool


@dataclass
class _Rounder:
    act: QuantizeActivations
    calibration: Calibration | None
    length: int = 1
    multiplied: bool = False
    # What several projections read together is rounded once: what came in, held channels, range; what came out.
    last: tuple[Tensor, tuple[int, ...], float | None, Tensor] | None = field(default=None, repr=False)

    def begin(self, _: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        hidden = inputs[0] if inputs else named["hidden_states"]
        self.length, self.multiplied, self.last = hidden.shape[1], False, None

    def enter(self, entry: _Entry, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x = inputs[0]
        channels = () if entry.mixing and self.multiplied else entry.channels
        largest = None if self.calibration is None else self.calibration.find_range(entry.parameter, channels)
        last = self.last
        if last is None or last[0] is not x or last[1:3] != (channels, largest):
            hot = torch.tensor(channels, dtype=torch.long, device=x.device)
            held = find_largest_tokens(x, self.length, hot) if channels else None
            self.last = last = (x, channels, largest, round_activations(x, self.act.bits, largest, held))
        return (last[3], *inputs[1:])

    def multiply(self, operand: Operand, x: Tensor) -> Tensor:
        self.multiplied = True
        largest = None if self.calibration is None else self.calibration.operands.get(operand)
        if self.calibration is not None and largest is None:
            raise CorpusError(
                f"the range of an operand of attention product {operand.product + 1}",
                "the calibration text never reached it",
                "give a longer text in `[corpus] source`",
            )
        return round_activations(x, self.act.bits, largest)
