"""The short fingerprint of a model's lineage, and whose descendant it looks like: evidence, not proof."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Self

from sw_audit.fact import Fact
from sw_audit.record.address import Index
from sw_audit.record.identity import ModelIdentity
from sw_audit.record.location import Location
from sw_audit.record.published import Impact, PublishedModel

Kin = Literal["same", "close", "moved", "partial", "none"]
"""How alike two fingerprints are, the most alike first."""
KIN: tuple[Kin, ...] = ("same", "close", "moved", "partial", "none")
NEAR = 0.25
"""Relative difference up to which a value is near: rounding to 4 bits and fine-tuning stay within it."""


class FingerprintWeight(Fact):
    """One super weight of a fingerprint.

    Attributes:
        layer: Decoder layer, counted from 0.
        row: Output channel of its down-projection.
        column: Input channel.
        expert: Index of the expert, where there are several.
        value: The weight; `None` where it is not known.
        ratio: Its value over that of the first one; `None` where one of them is not known.
        outlier: By how much its row stands out from the median row, from the weights alone; `None` if unknown.
    """

    layer: Index
    row: Index
    column: Index
    expert: Index | None = None
    value: float | None = None
    ratio: float | None = None
    outlier: float | None = None

    @property
    def coordinate(self) -> tuple[int, int, int, int | None]:
        """Layer, row, column and expert."""
        return self.layer, self.row, self.column, self.expert

    def __str__(self) -> str:
        expert = "" if self.expert is None else f"{self.expert}:"
        value = "" if self.value is None else f"={self.value:+.4g}"
        return f"{self.layer}[{expert}{self.row},{self.column}]{value}"


class FingerprintActivation(Fact):
    """One super activation of a fingerprint.

    Attributes:
        channel: Channel of the residual stream.
        value: Its value on the locating prompt.
        gain: That over the value of the largest super weight of its row; `None` if there is none.
    """

    channel: Index
    value: float
    gain: float | None = None


class Fingerprint(Fact):
    """What a model shows of its lineage; fine-tuning and quantizing hardly change it.

    Attributes:
        schema_number: Version of the form.
        name: What the model is called.
        family: Its `model_type`; `None` where it is not known.
        layers: Number of decoder layers; `None` where it is not known.
        hidden_size: Width of the residual stream; `None` where it is not known.
        weights: Its super weights, by coordinate.
        activations: Its super activations, by channel.
    """

    schema_number: Literal[1] = 1
    name: str
    family: str | None = None
    layers: Index | None = None
    hidden_size: Index | None = None
    weights: tuple[FingerprintWeight, ...] = ()
    activations: tuple[FingerprintActivation, ...] = ()

    @property
    def shape(self) -> tuple[int, int] | None:
        """Layers and width, if both are known."""
        return None if self.layers is None or self.hidden_size is None else (self.layers, self.hidden_size)

    def __str__(self) -> str:
        shape = "?" if self.shape is None else f"{self.layers}x{self.hidden_size}"
        return " ".join((f"{self.family or '?'}/{shape}", *(str(weight) for weight in self.weights))) or "none"

    @classmethod
    def of_model(cls, identity: ModelIdentity, location: Location, name: str | None = None) -> Self:
        """Take the fingerprint of a model that was located."""
        located = sorted(
            location.super_weights,
            key=lambda weight: (weight.layer, weight.expert or 0, weight.row, weight.column),
        )
        prediction = location.weight_norm_prediction
        outliers = {
            (weight.parameter, weight.expert, weight.row, weight.column): weight.row_ratio
            for weight in (prediction.weights if prediction else ())
        }
        weights = tuple(
            FingerprintWeight(
                **weight.model_dump(include={"layer", "row", "column", "expert", "value"}),
                ratio=weight.value / located[0].value if located[0].value else None,
                outlier=outliers.get((weight.parameter, weight.expert, weight.row, weight.column)),
            )
            for weight in located
        )
        activations = []
        for loud in sorted(location.super_activations, key=lambda activation: activation.channel):
            own = max((weight.value for weight in located if weight.row == loud.channel), key=abs, default=0.0)
            gain = loud.value / own if own else None
            activations.append(FingerprintActivation(channel=loud.channel, value=loud.value, gain=gain))
        return cls(
            name=name or identity.id,
            **identity.model_dump(include={"family", "layers", "hidden_size"}),
            weights=weights,
            activations=tuple(activations),
        )

    @classmethod
    def of_entry(cls, entry: PublishedModel) -> Self:
        """Take what an entry of the index tells: whole coordinates that nobody has refuted."""
        known = [
            FingerprintWeight(**weight.model_dump(include={"layer", "row", "column", "expert", "value"}))
            for weight in entry.weights
            if weight.is_scalar and weight.bearing is not Impact.REFUTED
        ]
        return cls(name=entry.id, weights=tuple(known))


class Kinship(Fact):
    """How alike the fingerprints of two models are.

    Attributes:
        other: The model that was compared with.
        kin: How alike.
        shared: How many coordinates both have.
        of: How many the other has.
        drift: Largest relative difference of a shared value; `None` if no value is known on both sides.
        because: The same in words.
    """

    other: str
    kin: Kin
    shared: Index
    of: Index
    drift: float | None = None
    because: str


def compare_fingerprints(mine: Fingerprint, other: Fingerprint) -> Kinship:
    """Tell how alike two fingerprints are.

    `same`: all of the other's coordinates are there, with the same values. `close`: all are there, with values
    that rounding or fine-tuning explains (`NEAR`), or values are not known. `moved`: all are there, with other
    values or signs. `partial`: some are. `none`: none is, or the models are of different shapes.
    """
    theirs = {weight.coordinate: weight for weight in other.weights}
    shared = [weight for weight in mine.weights if weight.coordinate in theirs]

    def answer(kin: Kin, because: str, drift: float | None = None) -> Kinship:
        return Kinship(other=other.name, kin=kin, shared=len(shared), of=len(theirs), drift=drift, because=because)

    if mine.shape is not None and other.shape is not None and mine.shape != other.shape:
        shapes = [f"{print_.layers} layers of width {print_.hidden_size}" for print_ in (mine, other)]
        return answer("none", f"they are of different shapes: {shapes[0]}, and {shapes[1]}")
    if not theirs or not mine.weights:
        return answer("none", f"{other.name if mine.weights else 'this model'} has no super weight to compare")
    if not shared:
        return answer("none", f"none of its {len(theirs)} coordinates is a super weight here")
    values = [(weight.value, theirs[weight.coordinate].value) for weight in shared]
    known = [(here, there) for here, there in values if here is not None and there]
    drift = max((abs(here - there) / abs(there) for here, there in known), default=None)
    coordinates = ", ".join(f"{weight.layer} [{weight.row}, {weight.column}]" for weight in shared)
    words = f"{len(shared)} of its {len(theirs)} coordinates are super weights here (layer {coordinates})"
    values_differ = "; values are not known" if drift is None else f"; their values differ by at most {drift:.2%}"
    if len(shared) < len(theirs):
        return answer("partial", words + values_differ, drift)
    if drift == 0:
        return answer("same", f"{words}; their values are the same", drift)
    return answer("moved" if drift is not None and drift > NEAR else "close", words + values_differ, drift)


def rank_kin(mine: Fingerprint, others: Iterable[Fingerprint]) -> tuple[Kinship, ...]:
    """Compare with several models; the most alike first, then by how many coordinates are shared, then by name."""
    kinships = [compare_fingerprints(mine, other) for other in others]
    return tuple(sorted(kinships, key=lambda kin: (KIN.index(kin.kin), -kin.shared, kin.drift or 0.0, kin.other)))
