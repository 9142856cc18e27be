"""A quantized checkpoint that was written: from what, how, and what was held out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sw_audit.fact import Fact
from sw_audit.policy.targets import PatternMatch
from sw_audit.record.address import WeightAddress

Form = Literal["dense", "compressed-tensors"]


class HeldWeight(Fact):
    """A weight that was held out.

    Attributes:
        address: Where it is.
        value: What it is, as it was and is.
    """

    address: WeightAddress
    value: float


class Export(Fact):
    """What was done to a checkpoint's weights.

    Attributes:
        source: The model, as the user named it.
        revision: Hub revision, if one was given.
        digest: Of the weight files that were read.
        dtype: In which it was rounded and written.
        recipe: In the notation of `parse_recipe`.
        form: `dense`: dequantized weights in that dtype; `compressed-tensors`: packed codes and scales.
        patterns: What was quantized and what was ignored, with how many matrices each pattern matched.
        matrices: How many matrices were rounded.
        held_out: The weights that were held out; none is an answer, too.
        because: Why these, or why none.
        untouched: Modules that stay in full precision because a held-out weight is in them.
        bits_per_weight: What the recipe takes, scales and held-out weights included, over the decoder's matrices;
            whatever stays in full precision counts with the bits of its dtype.
        tool: Name and version of what wrote it.
    """

    source: str
    revision: str | None
    digest: str
    dtype: str
    recipe: str
    form: Form
    patterns: tuple[PatternMatch, ...]
    matrices: int = Field(ge=1)
    held_out: tuple[HeldWeight, ...] = ()
    because: str
    untouched: tuple[str, ...] = ()
    bits_per_weight: float = Field(gt=0)
    tool: str
