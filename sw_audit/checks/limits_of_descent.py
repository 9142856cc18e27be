"""The limits of the checks that hold a model against its parent or a baseline, and why they are so."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sw_audit.checks.limits_of_rounding import Limits, Ratio, Share

Nonnegative = Annotated[float, Field(ge=0)]


class WeightsIntactLimits(Limits):
    """Limits of `weights-intact`."""


class QuantizationAsConfiguredLimits(Limits):
    """Limits of `quantization-as-configured`.

    Attributes:
        maximum_unmatched: So many patterns may match nothing.
        maximum_error: Largest relative rounding error of a super weight; `None` only reports it, for
            `super-weight-retained` judges it.
    """

    maximum_unmatched: int = Field(default=0, ge=0)
    maximum_error: Nonnegative | None = None


class SuperWeightRetainedLimits(Limits):
    """Limits of `super-weight-retained`.

    Attributes:
        maximum_error: Largest relative error of a super weight. Scaled to 0.75 two published models show no harm,
            below 0.5 they do; the specimen's perplexity grows 1.002 times at 0.75 and 1.3 times at 0.5.
    """

    maximum_error: Share = 0.25


class SuperActivationRetainedLimits(Limits):
    """Limits of `super-activation-retained`.

    Attributes:
        minimum_ratio: Smallest value over the parent's, over layers. A super weight that is just within its own
            limit, at 0.75, leaves 0.71 of the specimen's activation, harmlessly; at 0.5 it leaves 0.43, and harms.
            Sound 4-bit copies and fine-tunes keep 0.9 to 1.13.
        maximum_ratio: Largest; as far above 1 as the smallest is below.
    """

    minimum_ratio: Ratio = 0.6
    maximum_ratio: Ratio = 1.67


class PerplexityRatioLimits(Limits):
    """Limits of `perplexity-ratio`.

    Attributes:
        maximum_ratio: Margin of non-inferiority: perplexity over the parent's, the upper end of the interval. The
            specimen's sound 4-bit copies are at 1.008 to 1.09, its fine-tunes below 1.03; halving the super weight
            gives 1.3, three bits give 2.5, and a lost super weight 539.
    """

    maximum_ratio: Ratio = 1.1


class KlDivergenceLimits(Limits):
    """Limits of `kl-divergence`, in nats per token.

    Attributes:
        maximum_mean: Largest mean. The specimen's sound copies are at 0.09 and below, the mildest harmful ones at
            0.12 to 0.15 (4 bits for the whole tensor, a third of the weights pruned), three bits at 0.9.
        maximum_median: Largest median; only reported without.
        maximum_p99: Largest 99th percentile; only reported without.
    """

    maximum_mean: Nonnegative = 0.1
    maximum_median: Nonnegative | None = None
    maximum_p99: Nonnegative | None = None


class Top1AgreementLimits(Limits):
    """Limits of `top1-agreement`.

    Attributes:
        minimum_share: Smallest share of tokens at which both find the same token most likely. Where several
            tokens are about as likely, the least change turns their order: a fine-tune of the specimen whose
            perplexity is 1.03 times the parent's agrees at 0.87 of the tokens, sound 4-bit copies at 0.89 to 0.94,
            but three bits at 0.68.
    """

    minimum_share: Share = 0.85


class GenerationSaneLimits(Limits):
    """Limits of `generation-sane`.

    Attributes:
        maximum_repetition: Largest share of 4-grams that came before, where the parent's is below it. The
            specimen's sound copies repeat up to 0.45 in 144 tokens, one that lost its super weight 0.93 and more.
        maximum_dominance: Largest share of one token, where the parent's is below it: sound up to 0.24, without
            the super weight 0.97 and more.
        maximum_failures: So many continuations may fall apart.
    """

    maximum_repetition: Share = 0.6
    maximum_dominance: Share = 0.6
    maximum_failures: int = Field(default=0, ge=0)


class StopwordsNotRaisedLimits(Limits):
    """Limits of `stopwords-not-raised`.

    Attributes:
        maximum_ratio: Largest mass on stop words over the parent's. The specimen's sound copies stay within 1.02,
            two bits give 1.8; a fine-tune on another kind of text may shift some.
    """

    maximum_ratio: Ratio = 1.5


class TaskAccuracyLimits(Limits):
    """Limits of `task-accuracy`.

    Attributes:
        maximum_loss: Margin of non-inferiority: accuracy lost, a share of all items, the upper end of the
            interval. Sound 4-bit models lose a point or less on zero-shot tasks. To show a loss below two points
            takes some 200 items even where not one answer differs.
    """

    maximum_loss: Share = 0.02


class LayerErrorLimits(Limits):
    """Limits of `layer-error`, in decibels of noise to signal in the residual stream.

    Attributes:
        maximum_noise: Largest noise-to-signal after any layer: 0 dB is noise as large as the signal. The
            specimen's sound copies are at -5 dB and below, those that lost a super weight or its neighbours
            between -2 and +5 dB.
        maximum_jump: How far one layer's own noise may be above the median layer's: up to 8 dB in sound copies, 12
            where one scalar has spoilt the scale of its layer, or one layer has half the bits of the others.
        floor: Noise below this counts as this. Eight bits are at -40 dB: beside a layer so quiet, a sound one of
            four bits must not stand out.
    """

    maximum_noise: float = -3.0
    maximum_jump: Nonnegative = 10.0
    floor: float = -30.0


class RangeFitsDtypeLimits(Limits):
    """Limits of `range-fits-dtype`.

    Attributes:
        maximum_share: Largest down-projection input or output over the dtype's largest number. Half leaves room
            for text that is not in the corpus: a factor of two.
        dtype: The dtype that it will be run in; by default the one it was measured in.
    """

    maximum_share: Share = 0.5
    dtype: Literal["float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"] | None = None


class SuperWeightUnmovedLimits(Limits):
    """Limits of `super-weight-unmoved`.

    Attributes:
        maximum_drift: Largest relative change of a super weight; see `super-weight-retained`.
    """

    maximum_drift: Share = 0.25


class SuperActivationUnmovedLimits(Limits):
    """Limits of `super-activation-unmoved`.

    Attributes:
        minimum_ratio: Smallest value over the baseline's; see `super-activation-retained`.
        maximum_ratio: Largest.
    """

    minimum_ratio: Ratio = 0.6
    maximum_ratio: Ratio = 1.67


class QualityNotWorseLimits(Limits):
    """Limits of `quality-not-worse`.

    Attributes:
        maximum_ratio: Margin of non-inferiority: perplexity over the baseline's.
    """

    maximum_ratio: Ratio = 1.1
