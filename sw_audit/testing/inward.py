"""The matrices that lead into the neurons of a down-projection, however a family stores gate and up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sw_audit.checkpoint.matrices import DecoderLayer, DownProjection, list_projections


@dataclass(frozen=True, eq=False)
class Inward:
    """A matrix that leads into the neurons of a down-projection.

    Attributes:
        weight: The matrix (out, in); a view.
        bias: What is added [out], if anything; a view.
        module: What sees the hidden states.
        neurons: How many neurons there are: gate and up may be one matrix of twice the height.
        interleaved: Whether the rows of gate and up alternate then, as in gpt-oss.
    """

    weight: Tensor
    bias: Tensor | None
    module: torch.nn.Module
    neurons: int
    interleaved: bool = False

    def rows_of(self, neuron: int) -> list[int]:
        """Return the rows that lead into one neuron."""
        times = self.weight.shape[0] // self.neurons
        if self.interleaved:
            return [neuron * times + part for part in range(times)]
        return [neuron + part * self.neurons for part in range(times)]


def list_inward(layer: DecoderLayer, down: DownProjection) -> list[Inward]:
    """List the matrices that lead into the neurons of a down-projection."""
    hidden, inner = down.weight.shape
    fused = down.fused
    if fused is not None and down.expert is not None:
        mixed = type(fused.module).__name__.startswith("GptOss")
        expert = down.expert
        return [
            Inward(fused.matrix(name, expert), fused.bias(name, expert), fused.module, inner, mixed)
            for name in fused.inward
        ]
    found = []
    for matrix, module in list_projections(layer.module, layer.name):
        if tuple(matrix.weight.shape) in {(inner, hidden), (2 * inner, hidden)}:
            bias = getattr(module, "bias", None)
            found.append(Inward(matrix.weight, bias.detach() if isinstance(bias, Tensor) else None, module, inner))
    return found
