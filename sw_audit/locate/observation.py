"""What one down-projection did on one prompt, the same whether it serves every token or is one of many experts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sw_audit.checkpoint.matrices import DownProjection


@dataclass(frozen=True, eq=False)
class DownObservation:
    """What entered and left one down-projection; everything on the CPU.

    Attributes:
        down: The down-projection.
        tokens: Positions in the prompt that it served, int64 [served], ascending; an expert serves those that
            were routed to it.
        inputs: What entered, float32 [served, inner].
        outputs: What left it, bias included, float32 [served, hidden].
        scales: What its output is multiplied by on its way out of the MLP, float32 [served]: the routing
            weight of an expert, else 1.
    """

    down: DownProjection
    tokens: Tensor
    inputs: Tensor
    outputs: Tensor
    scales: Tensor

    @property
    def layer(self) -> int:
        """Decoder layer, counted from 0."""
        return self.down.layer

    @property
    def delivered(self) -> Tensor:
        """What it adds to the MLP's output, float32 [served, hidden]."""
        return self.outputs * self.scales[:, None]

    def products_at(self, token: int, row: int) -> Tensor | None:
        """Return what each product `W[row, column] * x[column]` adds to the MLP's output at a token.

        Args:
            token: Position in the prompt.
            row: Channel of the residual stream.

        Returns:
            Scale included, float32 [inner]; `None` if it did not serve the token.
        """
        place = self._places.get(token)
        if place is None:
            return None
        return read_row(self.down, row) * self.inputs[place] * self.scales[place]

    def delivered_at(self, token: int, row: int) -> float:
        """Return what it adds to the MLP's output at a token and row; 0 if it did not serve the token."""
        place = self._places.get(token)
        return 0.0 if place is None else float(self.outputs[place, row] * self.scales[place])

    def input_at(self, token: int) -> Tensor | None:
        """Return what entered at a token, float32 [inner]; `None` if it did not serve it."""
        place = self._places.get(token)
        return None if place is None else self.inputs[place]

    def scale_at(self, token: int) -> float | None:
        """Return what the output at a token is multiplied by; `None` if it did not serve it."""
        place = self._places.get(token)
        return None if place is None else float(self.scales[place])

    @cached_property
    def _places(self) -> dict[int, int]:
        return {token: place for place, token in enumerate(self.tokens.tolist())}


def observe_every_token(down: DownProjection, inputs: Tensor, outputs: Tensor) -> DownObservation:
    """Make the observation of a down-projection that serves every token.

    Args:
        down: The down-projection.
        inputs: What entered, float32 [tokens, inner].
        outputs: What left, float32 [tokens, hidden].
    """
    return DownObservation(down, torch.arange(len(inputs)), inputs, outputs, torch.ones(len(inputs)))


def read_row(down: DownProjection, row: int) -> Tensor:
    """Return one row of a down-projection, float32 on the CPU, [inner]."""
    return down.weight[row].detach().float().cpu()
