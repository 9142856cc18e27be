"""How a super activation is made and carried: what each block of each layer adds to it, and who attends to it."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from sw_audit.fact import Fact
from sw_audit.record.address import Index

Share = Annotated[float, Field(ge=0, le=1)]


class Contribution(Fact):
    """One entry of the residual stream in one layer, as a sum.

    `skip + attention + mlp` is `leaving`, up to the rounding of the model's own dtype.

    Attributes:
        skip: What the skip connection brings: the entry as it comes into the layer.
        attention: What the block that mixes tokens adds to it; `None` where a family's layer cannot be taken
            apart, as with a norm over the sum.
        mlp: What the MLP adds; `None` likewise.
        leaving: The entry as it leaves the layer.
    """

    skip: float
    attention: float | None = None
    mlp: float | None = None
    leaving: float

    @property
    def added(self) -> float:
        """What both blocks add together."""
        return self.leaving - self.skip


class LayerMechanism(Fact):
    """One decoder layer, as the model is and with its super weights zeroed.

    Attributes:
        layer: Decoder layer.
        intact: The super activation's entry, as the model is.
        pruned: The same entry with the super weights zeroed.
        attended: Attention that rests on the super activation's token, the mean over heads and over the later
            tokens of the prompt; `None` where the layer gives no attention weights or no token follows.
        attended_pruned: The same with the super weights zeroed.
    """

    layer: Index
    intact: Contribution
    pruned: Contribution
    attended: Share | None = None
    attended_pruned: Share | None = None

    @property
    def dampened(self) -> float | None:
        """Part of the entry's magnitude that pruning takes away; `None` where there is nothing to take."""
        return 1 - abs(self.pruned.leaving) / abs(self.intact.leaving) if self.intact.leaving else None


class Mechanism(Fact):
    """One super activation, followed through the layers on the locating prompt.

    Attributes:
        channel: Channel of the residual stream.
        token: Position in the prompt.
        first_layer: First decoder layer whose output holds the super activation.
        last_layer: Last decoder layer whose output holds it.
        layers: One entry per decoder layer.
    """

    channel: Index
    token: Index
    first_layer: Index
    last_layer: Index
    layers: tuple[LayerMechanism, ...]

    @model_validator(mode="after")
    def _lies_inside(self) -> Self:
        if not self.first_layer <= self.last_layer < len(self.layers):
            raise ValueError(f"layers {self.first_layer} to {self.last_layer} of {len(self.layers)}")
        return self

    @property
    def carried(self) -> Share | None:
        """Part of the super activation that skip connections alone carry from layer to layer.

        Over the layers after the first that holds it, to the last: the least that `skip` is of `leaving`, at
        most 1; `None` where it does not ride through a second layer.
        """
        riding = self.layers[self.first_layer + 1 : self.last_layer + 1]
        shares = [layer.intact.skip / layer.intact.leaving for layer in riding if layer.intact.leaving]
        return min(max(min(shares), 0.0), 1.0) if shares else None

    @property
    def dampened(self) -> float | None:
        """Part of the super activation that pruning takes away: the median over the layers that hold it."""
        values = sorted(
            layer.dampened
            for layer in self.layers[self.first_layer : self.last_layer + 1]
            if layer.dampened is not None
        )
        middle = len(values) // 2
        if not values:
            return None
        return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2
