"""An arm of the experiment: a named condition that the model is measured in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from sw_audit.fact import Fact
from sw_audit.policy.recipe import Recipe
from sw_audit.record.address import AddressGroup, Index


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
        scale: `token`: one scale per token, taken from it (dynamic); `tensor`: one for the whole input, learned on
            calibration text (static).
        channels: Channels of the residual stream that carry a super activation.
        columns: Super weights, whose columns are the hot inputs of their down-projections.
    """

    kind: Literal["quantize-activations"] = "quantize-activations"
    bits: int = Field(ge=2, le=8)
    scale: Literal["token", "tensor"] = "token"
    channels: tuple[Index, ...] = ()
    columns: tuple[AddressGroup, ...] = ()


class Smooth(Fact):
    """Move part of the activations' range into the weights, channel by channel (SmoothQuant, Xiao et al. 2023).

    Attributes:
        alpha: How much of it; 0 leaves the activations as they are.
    """

    kind: Literal["smooth"] = "smooth"
    alpha: float = Field(ge=0, le=1)


class ReplaceLayer(Fact):
    """Let what another library makes of each decoder layer stand in for it.

    Attributes:
        method: Which, such as `bitsandbytes-nf4`.
    """

    kind: Literal["replace-layer"] = "replace-layer"
    method: str


class SwapModules(Fact):
    """Let modules of the parent stand in for the model's own.

    Attributes:
        modules: Qualified names in the model, such as `model.layers.2.mlp.down_proj`.
    """

    kind: Literal["swap-modules"] = "swap-modules"
    modules: tuple[str, ...]


Act = Annotated[
    Scale | SetTo | Quantize | RestoreActivation | QuantizeActivations | Smooth | ReplaceLayer | SwapModules,
    Field(discriminator="kind"),
]


class Arm(Fact):
    """A named condition; the baseline has no acts.

    Attributes:
        name: Unique within one model's audit.
        acts: Done together, in order.
    """

    name: str
    acts: tuple[Act, ...] = ()

    def addressed(self) -> Iterator[AddressGroup]:
        """Yield every group of scalars that the acts name."""
        for act in self.acts:
            match act:
                case Quantize():
                    yield from act.holdout
                case QuantizeActivations():
                    yield from act.columns
                case Scale() | SetTo() | RestoreActivation():
                    yield from act.addresses


BASELINE = Arm(name="baseline")
PRUNED = "pruned"
OTHER_OUTLIERS = "other-outliers"
RESTORED = "restored-activation"
FLIPPED = "flipped"
PLACEBO_KINDS = ("same-row", "same-column", "same-magnitude", "random")


def name_placebo(kind: str, draw: int) -> str:
    """Name the arm of one matched control, such as `placebo/same-row/1`."""
    return f"placebo/{kind}/{draw}"


def name_dose(factor: float) -> str:
    """Name the arm in which the super weights are multiplied by a factor, such as `dose/0.25`.

    0 is the pruned arm, 1 the baseline and -1 the flipped one: none of them has a second name.
    """
    plain = {0.0: PRUNED, 1.0: BASELINE.name, -1.0: FLIPPED}
    return plain.get(factor) or f"dose/{factor:.12g}"


def is_dose(arm: Arm) -> bool:
    """Tell whether an arm is one of a dose curve that no other arm is."""
    return arm.name.startswith("dose/")


def name_rounding(recipe: Recipe, *, holdout: bool) -> str:
    """Name the arm of one recipe, such as `int4/64x64 plain` or `int4/64x64 hold-out`."""
    return f"{recipe} {'hold-out' if holdout else 'plain'}"
