"""How a checkpoint is quantized: what its configuration says, and what was found in the model."""

from __future__ import annotations

from sw_audit.fact import Fact
from sw_audit.record.address import Index, WeightAddress


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
    """

    method: str
    described: str = ""
    patterns: tuple[PatternCount, ...] = ()
    quantized: tuple[QuantizedModule, ...] = ()
    unquantized: tuple[str, ...] = ()
    exact: bool = True
    because: str = ""
    super_weights: tuple[HeldScalar, ...] = ()
