"""A baseline: what was once known of a model, kept to hold its successors against."""

from __future__ import annotations

from sw_audit.fact import Fact
from sw_audit.record.address import Index, WeightAddress
from sw_audit.record.critical import CriticalSearch
from sw_audit.record.descent import RetainedScalar
from sw_audit.record.identity import ModelIdentity, Protocol, Tool
from sw_audit.record.location import Location
from sw_audit.record.measurement import Measurement, TokenLoss

REMEMBERED = 12
"""How many earlier runs a baseline remembers."""


class HeldWeight(Fact):
    """One of the baseline's super weights, then and now.

    Attributes:
        address: Which scalar, by its name in the baseline.
        layer: Decoder layer.
        before: Its value then.
        value: The effective value in the model held against it; `None` if there is none, or it is not finite.
    """

    address: WeightAddress
    layer: Index
    before: float
    value: float | None

    @property
    def drift(self) -> float | None:
        """(value - before) / |before|; `None` where there is no value."""
        return None if self.value is None or not self.before else (self.value - self.before) / abs(self.before)


class HeldActivation(Fact):
    """One of the baseline's super activations on the locating prompt, then and now.

    Attributes:
        channel: Channel of the residual stream.
        token: Position in the prompt.
        before: Its value then, the median over the layers that were read.
        value: Likewise in the model that is held against the baseline; `None` if not finite.
    """

    channel: Index
    token: Index
    before: float
    value: float | None


class EarlierRun(Fact):
    """A run that a baseline was held against when it was made, or that one of those was.

    Attributes:
        name: What that baseline was called.
        created: When its record was made, ISO 8601 in UTC.
        tool: Version of the program that made it.
        model: Id of the model.
        digest: Digest of its weights.
        protocol: Signature of the protocol of its loss.
        loss: The model's loss as it was.
    """

    name: str
    created: str
    tool: str
    model: str
    digest: str
    protocol: str
    loss: TokenLoss


class Baseline(Fact):
    """What was once known of a model; it stands in for its weights where these are not at hand.

    Attributes:
        name: What it is called.
        created: When its record was made, ISO 8601 in UTC.
        tool: What made it.
        model: Which model it was.
        protocol: How figures were measured.
        location: Where its super weights were.
        measurement: The model as it was, no act in force.
        weights: Its super weights in the model that is held against it; empty until that is open.
        activations: Likewise its super activations; empty where prompt, dtype or shape of the models differ.
        critical: The search for its critical scalars; `None` if nobody searched.
        scalars: These, then and now; empty until the model is open that is held against it.
        earlier: What it was itself held against, and so on, the oldest first, at most `REMEMBERED`. It is for the
            report: no verdict reads it.
    """

    name: str
    created: str
    tool: Tool
    model: ModelIdentity
    protocol: Protocol
    location: Location
    measurement: Measurement
    weights: tuple[HeldWeight, ...] = ()
    activations: tuple[HeldActivation, ...] = ()
    critical: CriticalSearch | None = None
    scalars: tuple[RetainedScalar, ...] = ()
    earlier: tuple[EarlierRun, ...] = ()

    def remember(self) -> tuple[EarlierRun, ...]:
        """Return its history with itself at the end: what a run that was held against it remembers."""
        itself = EarlierRun(
            name=self.name,
            created=self.created,
            tool=self.tool.version,
            model=self.model.id,
            digest=self.model.digest,
            protocol=self.measurement.protocol,
            loss=self.measurement.loss,
        )
        return (*self.earlier, itself)[-REMEMBERED:]

    def list_obstacles(self, model: ModelIdentity, location: Location) -> tuple[str, ...]:
        """Say in words why a model's super activations cannot be held against this; nothing where they can."""
        then, now = self.model, model
        obstacles = []
        if (then.layers, then.hidden_size) != (now.layers, now.hidden_size):
            shape = f"{then.layers} layers of width {then.hidden_size}"
            obstacles.append(f"it has {shape}, this model {now.layers} of width {now.hidden_size}")
        if self.location.token_ids != location.token_ids:
            obstacles.append("it was located on another prompt, or with another tokenizer")
        if then.dtype != now.dtype:
            obstacles.append(f"it was run in {then.dtype}, this model in {now.dtype}")
        if (self.location.depth, location.depth) != ("full", "full"):
            obstacles.append("not all layers were read")
        return tuple(obstacles)
