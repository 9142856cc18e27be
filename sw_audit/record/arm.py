"""An arm of the experiment: a condition that the model is measured in, what it is for and what it changes."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from sw_audit.fact import Fact
from sw_audit.policy.recipe import Recipe
from sw_audit.policy.scheme import Scheme
from sw_audit.record.address import AddressGroup, Index, ScalarAddress, WeightAddress, list_addresses
from sw_audit.record.experts import ExpertAddress


class Scale(Fact):
    """Multiply the addressed weights by a factor; 0 prunes them."""

    kind: Literal["scale"] = "scale"
    addresses: tuple[AddressGroup, ...]
    factor: float


class SetTo(Fact):
    """Set the addressed weights to one value."""

    kind: Literal["set"] = "set"
    addresses: tuple[AddressGroup, ...]
    value: float


class SetScalars(Fact):
    """Set scalars of any parameters, each to its own value: of decoder layers, of embedding, head and last norm.

    Attributes:
        scalars: Which ones.
        values: What each is set to, as it is stored; as many as scalars.
    """

    kind: Literal["set-scalars"] = "set-scalars"
    scalars: tuple[ScalarAddress, ...]
    values: tuple[float, ...]

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if len(self.scalars) != len(self.values):
            raise ValueError(f"{len(self.scalars)} scalars but {len(self.values)} values")
        return self


class ZeroExperts(Fact):
    """Let experts of a mixture add nothing: their down-projections, biases included, are zero."""

    kind: Literal["zero-experts"] = "zero-experts"
    experts: tuple[ExpertAddress, ...]


class Quantize(Fact):
    """Round decoder matrices to a recipe's grid and back.

    Embeddings, head and norms are left alone. The held-out weights are taken out before ranges are
    computed and put back in full precision after (Yu et al. 2024, section 4.2).

    Attributes:
        recipe: How.
        holdout: What is held out.
        targets: Which matrices: glob patterns on the parameter's name without `.weight`; none means all.
        ignore: Which of these are left alone, likewise.
    """

    kind: Literal["quantize"] = "quantize"
    recipe: Recipe
    holdout: tuple[AddressGroup, ...] = ()
    targets: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()


class RestoreActivation(Fact):
    """Put the super activation back that scaled or set weights took away (Yu et al. 2024, section 3.2).

    For each addressed row of a down-projection: at the one token at which the row's output with the
    original weights is largest, the output is what the original weights give; elsewhere it stays changed.
    """

    kind: Literal["restore-activation"] = "restore-activation"
    addresses: tuple[AddressGroup, ...]


class QuantizeActivations(Fact):
    """Round what enters every projection, and both attention products, to integers and back.

    Symmetric, as in SmoothQuant's W8A8. Where `channels` or `columns` are named, the super activation is held
    out: it is replaced by the median before ranges are taken, and put back in full precision after (Yu et al.
    2024, section 4.1).

    Attributes:
        bits: 2 to 8.
        scale: `token`: one scale per token, taken from it; `tensor`: one per input, learned on calibration text.
        channels: Channels of the residual stream that carry a super activation.
        columns: Super weights, whose columns are the hot inputs of their down-projections.
    """

    kind: Literal["quantize-activations"] = "quantize-activations"
    bits: int = Field(ge=2, le=8)
    scale: Literal["token", "tensor"] = "token"
    channels: tuple[Index, ...] = ()
    columns: tuple[AddressGroup, ...] = ()


class Smooth(Fact):
    """Move a part, `alpha`, of the activations' range into the weights (SmoothQuant, Xiao et al. 2023)."""

    kind: Literal["smooth"] = "smooth"
    alpha: float = Field(ge=0, le=1)


class ReplaceLayer(Fact):
    """Replace each decoder layer by what another library's method makes of it, such as `bitsandbytes-nf4`."""

    kind: Literal["replace-layer"] = "replace-layer"
    method: str


class SwapModules(Fact):
    """Replace modules by the parent's; they are named as in the model, such as `model.layers.2.mlp.down_proj`."""

    kind: Literal["swap-modules"] = "swap-modules"
    modules: tuple[str, ...]


Act = Annotated[
    Scale
    | SetTo
    | SetScalars
    | ZeroExperts
    | Quantize
    | RestoreActivation
    | QuantizeActivations
    | Smooth
    | ReplaceLayer
    | SwapModules,
    Field(discriminator="kind"),
]


class NamedPurpose(Fact):
    """What an arm is for; two arms of one model differ in it.

    Every kind has a `name`, which is how people, the command line and JSON call its arm.
    """

    kind: str

    def __str__(self) -> str:
        return self.kind

    @property
    def name(self) -> str:
        """Name of the arm, different for each purpose."""
        return str(self)


class Baseline(NamedPurpose):
    """The model as it is."""

    kind: Literal["baseline"] = "baseline"


class Pruned(NamedPurpose):
    """All super weights are zero."""

    kind: Literal["pruned"] = "pruned"


class Flipped(NamedPurpose):
    """All super weights have the opposite sign."""

    kind: Literal["flipped"] = "flipped"


SubsetPart = Literal["alone", "row", "column", "without"]
SUBSET_PARTS: tuple[SubsetPart, ...] = ("alone", "row", "column", "without")


class Subset(NamedPurpose):
    """Some of the super weights are zero.

    Attributes:
        part: `alone` (one scalar), `row` (all on one residual channel, whatever the layer), `column` (all fed by
            one neuron of one down-projection), `without` (all but one).
        number: Counts from 1 within the part; with `alone` and `without` it is the scalar's place in the set.
    """

    kind: Literal["subset"] = "subset"
    part: SubsetPart
    number: int = Field(ge=1)

    def __str__(self) -> str:
        return f"{self.part}/{self.number}"


class Dose(NamedPurpose):
    """All super weights are multiplied by a factor; 0 is `Pruned`, 1 is `Baseline`, -1 is `Flipped`."""

    kind: Literal["dose"] = "dose"
    factor: float

    def __str__(self) -> str:
        return f"dose/{self.factor:.12g}"


class OtherOutliers(NamedPurpose):
    """The largest weights that are no super weights are zero.

    Attributes:
        feeding: Whether those are among them that feed a super activation: that write into its channel, that the
            locator named, or that lead into a neuron of these.
    """

    kind: Literal["other-outliers"] = "other-outliers"
    feeding: bool = True

    def __str__(self) -> str:
        return self.kind if self.feeding else f"{self.kind}/not-feeding"


ControlKind = Literal["same-row", "same-column", "same-magnitude", "random"]
CONTROL_KINDS: tuple[ControlKind, ...] = ("same-row", "same-column", "same-magnitude", "random")


class Placebo(NamedPurpose):
    """As many other scalars as there are super weights are zero.

    Attributes:
        control: What they share with the super weights.
        draw: Counts from 1 within the kind of control.
    """

    kind: Literal["placebo"] = "placebo"
    control: ControlKind
    draw: int = Field(ge=1)

    def __str__(self) -> str:
        return f"placebo/{self.control}/{self.draw}"


class ZeroedExpert(NamedPurpose):
    """One expert of a mixture is zeroed.

    Attributes:
        layer: Decoder layer.
        number: Which of its experts, counted from 0.
        control: Whether it was drawn to be compared with.
    """

    kind: Literal["zeroed-expert"] = "zeroed-expert"
    layer: Index
    number: Index
    control: bool = False

    def __str__(self) -> str:
        return f"{'control-expert' if self.control else 'expert'}/{self.layer}/{self.number}"


class ZeroedExperts(NamedPurpose):
    """All experts that are tried are zeroed together, or all of their controls."""

    kind: Literal["zeroed-experts"] = "zeroed-experts"
    control: bool = False

    def __str__(self) -> str:
        return "control-experts" if self.control else "experts"


class RestoredActivation(NamedPurpose):
    """The super weights are zero and the super activation is put back."""

    kind: Literal["restored-activation"] = "restored-activation"


class Rounding(NamedPurpose):
    """Weights are rounded to the nearest step of a recipe.

    Attributes:
        recipe: How.
        keep: Whether the super weights are kept in full precision.
    """

    kind: Literal["rounding"] = "rounding"
    recipe: Recipe
    keep: bool

    def __str__(self) -> str:
        return f"{self.recipe} {'hold-out' if self.keep else 'plain'}"


Treatment = Literal["naive", "hold-out", "smoothquant", "smoothquant searched"]
NAIVE: Final = "naive"
HELD_OUT: Final = "hold-out"
SMOOTHED: Final = "smoothquant"
SEARCHED: Final = "smoothquant searched"


class ActivationRounding(NamedPurpose):
    """Activations are rounded, and weights as the scheme says.

    Attributes:
        scheme: Bits of weights and activations.
        treatment: What is done about outliers: `naive` nothing; `hold-out` keeps the super activation in full
            precision; `smoothquant` with the policy's alpha, or with the one found by search.
        trial: The alpha that is tried in a search on calibration text; `None` outside of a search.
    """

    kind: Literal["activation-rounding"] = "activation-rounding"
    scheme: Scheme
    treatment: Treatment
    trial: float | None = None

    def __str__(self) -> str:
        return f"{self.scheme} {self.treatment}" + ("" if self.trial is None else f" {self.trial:g}")


class Parent(NamedPurpose):
    """The model's parent."""

    kind: Literal["parent"] = "parent"


class Descendant(NamedPurpose):
    """The model as it is, beside its parent."""

    kind: Literal["descendant"] = "descendant"


class RestoredWeights(NamedPurpose):
    """The descendant with the parent's super weights put back."""

    kind: Literal["restored-weights"] = "restored-weights"

    def __str__(self) -> str:
        return "parent-super-weights"


class RestoredScalars(NamedPurpose):
    """The descendant with critical scalars of the parent put back that it has not kept.

    Attributes:
        scalar: The one that is put back, by its name in the parent; `None` for all of them together.
    """

    kind: Literal["restored-scalars"] = "restored-scalars"
    scalar: ScalarAddress | None = None

    def __str__(self) -> str:
        return "parent-critical-scalars" if self.scalar is None else f"parent-scalar/{self.scalar}"


class RestoredModule(NamedPurpose):
    """The descendant with one module of the parent, such as `model.layers.2.mlp.down_proj`."""

    kind: Literal["restored-module"] = "restored-module"
    module: str

    def __str__(self) -> str:
        return f"parent-module/{self.module}"


class RestoredLayer(NamedPurpose):
    """The descendant with all that one decoder layer of the parent holds, such as `model.layers.2`."""

    kind: Literal["restored-layer"] = "restored-layer"
    layer: str

    def __str__(self) -> str:
        return f"parent-layer/{self.layer}"


class RestoredKind(NamedPurpose):
    """The descendant with the parent's modules of one path inside every decoder layer, such as `mlp.down_proj`."""

    kind: Literal["restored-kind"] = "restored-kind"
    path: str

    def __str__(self) -> str:
        return f"parent-kind/{self.path}"


class RestoredLayers(NamedPurpose):
    """The descendant with all that the parent's decoder layers hold."""

    kind: Literal["restored-layers"] = "restored-layers"

    def __str__(self) -> str:
        return "parent-layers"


RestoredPart = Annotated[
    RestoredWeights | RestoredModule | RestoredLayer | RestoredKind, Field(discriminator="kind")
]
"""A part of the parent that can be put back by itself or together with others."""


class RestoredSet(NamedPurpose):
    """The descendant with several parts of the parent.

    Attributes:
        parts: In the order in which they were chosen; the last is the one that is tried beside the others.
    """

    kind: Literal["restored-set"] = "restored-set"
    parts: tuple[RestoredPart, ...] = Field(min_length=2)

    def __str__(self) -> str:
        return " + ".join(map(str, self.parts))


class Backend(NamedPurpose):
    """What another library's method makes of the model, such as `bitsandbytes-nf4`."""

    kind: Literal["backend"] = "backend"
    method: str

    def __str__(self) -> str:
        return self.method


class Dequantized(NamedPurpose):
    """The files that an engine runs, opened by transformers with the values that their codes stand for.

    Attributes:
        parent: Whether they are the parent's.
    """

    kind: Literal["dequantized"] = "dequantized"
    parent: bool = False

    def __str__(self) -> str:
        return "parent-dequantized" if self.parent else self.kind


class CacheRounding(NamedPurpose):
    """The model in its engine, with keys and values of the cache in another form.

    Attributes:
        form: As the engine calls it, such as `q8_0`.
    """

    kind: Literal["cache-rounding"] = "cache-rounding"
    form: str = Field(min_length=1)

    def __str__(self) -> str:
        return f"kv-cache/{self.form}"


class Custom(NamedPurpose):
    """Whatever a caller of the library wants to measure; the label names the arm."""

    kind: Literal["custom"] = "custom"
    label: str = Field(min_length=1)

    def __str__(self) -> str:
        return self.label


Purpose = Annotated[
    Baseline
    | Pruned
    | Flipped
    | Subset
    | Dose
    | OtherOutliers
    | Placebo
    | ZeroedExpert
    | ZeroedExperts
    | RestoredActivation
    | Rounding
    | ActivationRounding
    | Parent
    | Descendant
    | RestoredWeights
    | RestoredScalars
    | RestoredModule
    | RestoredLayer
    | RestoredKind
    | RestoredLayers
    | RestoredSet
    | Backend
    | Dequantized
    | CacheRounding
    | Custom,
    Field(discriminator="kind"),
]


class Arm(Fact):
    """A condition; the baseline has no acts.

    Attributes:
        purpose: What it is for; unique within one model's audit.
        acts: Done together, in order.
    """

    purpose: Purpose
    acts: tuple[Act, ...] = ()

    @property
    def name(self) -> str:
        """How people call it; as unique as its purpose."""
        return self.purpose.name

    def addressed(self) -> Iterator[ScalarAddress]:
        """Yield every scalar that the acts name."""
        for act in self.acts:
            groups: tuple[AddressGroup, ...] = ()
            match act:
                case SetScalars():
                    yield from act.scalars
                case Quantize():
                    groups = act.holdout
                case QuantizeActivations():
                    groups = act.columns
                case Scale() | SetTo() | RestoreActivation():
                    groups = act.addresses
            yield from (address.scalar for address in list_addresses(groups))


BASELINE = Arm(purpose=Baseline())
PRUNED, FLIPPED, OTHER_OUTLIERS, RESTORED = Pruned(), Flipped(), OtherOutliers(), RestoredActivation()
PARENT, DESCENDANT, RESTORED_WEIGHTS = Parent(), Descendant(), RestoredWeights()
RESTORED_SCALARS = RestoredScalars()
DEQUANTIZED, PARENT_DEQUANTIZED = Dequantized(), Dequantized(parent=True)


def dose(factor: float) -> Purpose:
    """Return the purpose of an arm in which the super weights are multiplied by a factor."""
    plain: dict[float, Purpose] = {0.0: PRUNED, 1.0: BASELINE.purpose, -1.0: FLIPPED}
    return plain.get(factor) or Dose(factor=factor)


def list_pruned(arm: Arm) -> frozenset[WeightAddress] | None:
    """Return the scalars that an arm prunes, if that is all it does."""
    if len(arm.acts) != 1 or not isinstance(act := arm.acts[0], Scale) or act.factor != 0:
        return None
    return frozenset(list_addresses(act.addresses))


def list_subsets(super_weights: Sequence[WeightAddress]) -> dict[Subset, tuple[WeightAddress, ...]]:
    """List the proper parts of a set that say who is responsible; a set of one has none.

    Rows and columns count where they hold more than one scalar and not all. Two parts of different kinds can hold
    the same scalars: of two scalars, the set without the first is the second alone.
    """
    if len(super_weights) < 2:
        return {}
    parts: dict[SubsetPart, list[tuple[WeightAddress, ...]]] = {
        "alone": [(address,) for address in super_weights],
        "row": _gather((address.row, address) for address in super_weights),
        "column": _gather(
            ((address.parameter, address.expert, address.column), address) for address in super_weights
        ),
        "without": [tuple(other for other in super_weights if other != address) for address in super_weights],
    }
    for part in ("row", "column"):
        parts[part] = [members for members in parts[part] if 1 < len(members) < len(super_weights)]
    return {
        Subset(part=part, number=number): members
        for part in SUBSET_PARTS
        for number, members in enumerate(parts[part], 1)
    }


def _gather(keyed: Iterable[tuple[Hashable, WeightAddress]]) -> list[tuple[WeightAddress, ...]]:
    gathered: dict[Hashable, list[WeightAddress]] = {}
    for key, address in keyed:
        gathered.setdefault(key, []).append(address)
    return [tuple(members) for members in gathered.values()]
