"""What was found in a checkpoint's files, how they are quantized, and what was written."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sw_audit.fact import Fact
from sw_audit.policy.targets import PatternMatch
from sw_audit.record.address import Index, WeightAddress

FlawKind = Literal[
    "unreadable",
    "missing-tensor",
    "unexpected-tensor",
    "mismatched-tensor",
    "loading-message",
    "non-finite",
    "constant",
    "zero-group",
    "degenerate-scale",
    "codes-without-config",
    "config-without-codes",
    "unknown-method",
    "shard-index",
    "tied-weights",
    "digest",
    "unquantized-experts",
    "other-architecture",
    "code-beside",
    "pickle-beside",
    "weights-beside",
    "template-reach",
    "gguf-layout",
    "gguf-tokenizer",
    "codes-left-alone",
    "unfit",
]
"""What kind of thing is wrong."""


class Flaw(Fact):
    """One thing that is wrong with a checkpoint.

    Attributes:
        kind: What kind of thing.
        where: The tensor, file or key it was found in.
        found: What was found, in words, without a final stop.
        serious: Whether the weights are not intact; what is only unusual is told and fails nothing.
    """

    kind: FlawKind
    where: str
    found: str
    serious: bool = True


class WeightsReport(Fact):
    """What a static look at a checkpoint found; no flaw is an answer too.

    Attributes:
        files: How many weight files were looked at.
        tensors: How many tensors they hold.
        scanned: How many of these were read value by value.
        flaws: What is wrong, serious things first, at most `LISTED` of a kind.
        counts: Per kind, how many were found.
        serious: How many of all these are serious.
        manifest: Whether file digests were held against a manifest.
        remedy: What to do about the first serious flaw, as an imperative; `None` without one.
    """

    files: Index
    tensors: Index
    scanned: Index = 0
    flaws: tuple[Flaw, ...] = ()
    counts: dict[str, int] = Field(default_factory=dict)
    serious: Index = 0
    manifest: bool = False
    remedy: str | None = None

    @property
    def intact(self) -> bool:
        """Whether nothing serious was found."""
        return not any(flaw.serious for flaw in self.flaws)


LISTED = 5
"""So many flaws of a kind are listed by name; the others are counted."""


class PatternCount(Fact):
    """What one pattern of a configuration matched.

    Attributes:
        key: Where the configuration has it, such as `ignore` or `llm_int8_skip_modules`.
        pattern: As it stands there.
        modules: How many modules it matched; none is a mistake in most cases.
    """

    key: str
    pattern: str
    modules: Index


class QuantizedModule(Fact):
    """How one module's weight is stored.

    Attributes:
        module: Qualified name, such as `model.layers.2.mlp.down_proj`.
        bits: Bits per code; `None` where that is not known.
        group: Weights that share one scale along the input; `None` for whole rows or tensors.
        activations: Bits of the activations that enter it; `None` where they are not quantized.
    """

    module: str
    bits: float | None
    group: Index | None = None
    activations: int | None = None


class Contradiction(Fact):
    """Something that is stored otherwise than is said of it.

    Attributes:
        where: The module, tensor or file.
        said: Who says what, such as `ignore 'lm_head' leaves it as it is`.
        stored: How it is stored, in words.
        serious: Whether it fails; what is only unusual is told.
    """

    where: str
    said: str
    stored: str
    serious: bool = True


class HeldScalar(Fact):
    """One of the parent's super weights in a quantized checkpoint.

    Attributes:
        address: Which scalar.
        module: How its module is stored; `None` where it is not quantized.
        parent: Its value in the parent.
        value: The effective value here; `None` if it cannot be had or is not finite.
        step: The scale of its group, the distance of two codes; `None` where not known.
    """

    address: WeightAddress
    module: QuantizedModule | None
    parent: float
    value: float | None
    step: float | None = None


class QuantizationReport(Fact):
    """How a checkpoint is quantized.

    Attributes:
        method: The configuration's `quant_method`, or the file format such as `gguf`.
        described: The configuration's own words, short, such as `nf4, double quantized`.
        patterns: What each skip and target pattern of the configuration matched.
        quantized: The modules that are stored quantized.
        unquantized: Names of decoder matrices that are not, though no pattern leaves them out: fused experts,
            Conv1D and the like.
        exact: Whether the effective weights that are read are exactly those that it computes with.
        because: Why not, in words; what quantized activations add; empty where exact.
        super_weights: The parent's super weights in it; empty without a parent.
        contradictions: What is stored otherwise than the configuration, or a file's name, says.
    """

    method: str
    described: str = ""
    patterns: tuple[PatternCount, ...] = ()
    quantized: tuple[QuantizedModule, ...] = ()
    unquantized: tuple[str, ...] = ()
    exact: bool = True
    because: str = ""
    super_weights: tuple[HeldScalar, ...] = ()
    contradictions: tuple[Contradiction, ...] = ()


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
