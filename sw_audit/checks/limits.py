"""The limits of each check, with their defaults and the reason for each default."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, ConfigDict, Field

from sw_audit.checks.limits_of_descent import (
    GenerationSaneLimits,
    KlDivergenceLimits,
    LayerErrorLimits,
    PerplexityRatioLimits,
    QualityNotWorseLimits,
    QuantizationAsConfiguredLimits,
    RangeFitsDtypeLimits,
    StopwordsNotRaisedLimits,
    SuperActivationRetainedLimits,
    SuperActivationUnmovedLimits,
    SuperWeightRetainedLimits,
    SuperWeightUnmovedLimits,
    TaskAccuracyLimits,
    Top1AgreementLimits,
    WeightsIntactLimits,
)
from sw_audit.checks.limits_of_rounding import (
    ActivationHoldoutQualityLimits,
    HoldoutBeatsPlainRtnLimits,
    HoldoutClosesGapLimits,
    Limits,
    Ratio,
    RtnHoldoutQualityLimits,
    Share,
)
from sw_audit.fact import Fact
from sw_audit.record.published import Trust

__all__ = [
    "CHECK_IDS",
    "AccuracyFallsToChanceLimits",
    "ActivationHoldoutQualityLimits",
    "CheckLimits",
    "DamageFollowsDoseLimits",
    "EffectExceedsPlacebosLimits",
    "HoldoutBeatsPlainRtnLimits",
    "HoldoutClosesGapLimits",
    "Limits",
    "MatchesPublishedIndexLimits",
    "OtherOutliersHarmlessLimits",
    "PlaceboHarmlessLimits",
    "PruneCollapsesLimits",
    "RestoredActivationHealsLimits",
    "RtnHoldoutQualityLimits",
    "StopwordShiftLimits",
    "SuperActivationPersistsLimits",
    "SuperWeightLocatedLimits",
]


class SuperWeightLocatedLimits(Limits):
    """Limits of `super-weight-located`.

    Attributes:
        maximum_count: The paper finds at most six per model.
        early_fraction: The deepest published super weight that makes its own activation sits at 10 of 60
            layers (Llama-30B), replications reach 9 of 42 (EuroLLM-9B): a third leaves room.
    """

    maximum_count: int = Field(default=6, ge=1)
    early_fraction: Share = 1 / 3


class SuperActivationPersistsLimits(Limits):
    """Limits of `super-activation-persists`.

    Attributes:
        tolerance: Largest relative deviation from the median magnitude, over layers and prompts. With BOS
            the value is constant; without it replications see 5 to 30 percent.
        examples: How many more prompts, of random tokens, runs of the vocabulary, one token over and over, are
            tried in search of one that breaks the law; the shortest that does fails the check. 0 is no search.
    """

    tolerance: Share = 0.3
    examples: Annotated[int, BeforeValidator(lambda value: 50 if value is None else value)] = Field(
        # Records of 0.1.0 hold null for the default.
        default=50,
        ge=0,
        le=10_000,
    )


class PruneCollapsesLimits(Limits):
    """Limits of `prune-collapses`.

    Attributes:
        minimum_ratio: Perplexity with the super weights zeroed over perplexity without. Joint zeroing gives
            x214 and more for each published model; a tenth of the paper's effect is a collapse all the same.
    """

    minimum_ratio: Ratio = 10.0


class OtherOutliersHarmlessLimits(Limits):
    """Limits of `other-outliers-harmless`.

    Attributes:
        maximum_ratio: Perplexity ratio; the paper measures 1.07 for 7,000 weights of Llama-7B.
        count: How many weights are zeroed; by default `fraction` of the decoder's, between 100 and 7,000.
        fraction: Part of the decoder's weights, as in the released code.
    """

    maximum_ratio: Ratio = 1.2
    count: int | None = Field(default=None, ge=1)
    fraction: float = Field(default=1e-6, gt=0, lt=1)


class PlaceboHarmlessLimits(Limits):
    """Limits of `placebo-harmless`.

    Attributes:
        maximum_ratio: Perplexity ratio; a replication measures 1.001 for the 100 largest weights, one by one.
        draws: Sets drawn of each kind (same row, same column, same magnitude rank, random).
    """

    maximum_ratio: Ratio = 1.1
    draws: int = Field(default=3, ge=1, le=100)


class EffectExceedsPlacebosLimits(Limits):
    """Limits of `effect-exceeds-placebos`.

    Attributes:
        maximum_p: Largest p-value of the rank among the placebos. With n different placebos it cannot be
            below 1 / (n + 1): twelve allow 0.077, and twenty, five draws of each kind, 0.048.
    """

    maximum_p: Share = 0.1


class DamageFollowsDoseLimits(Limits):
    """Limits of `damage-follows-dose`.

    Attributes:
        maximum_rebound: Perplexity with more of the super weights left over perplexity with less, at most. In
            no published curve is it above 1, but once a model has collapsed its perplexity wanders.
    """

    maximum_rebound: Ratio = 1.2


class RestoredActivationHealsLimits(Limits):
    """Limits of `restored-activation-heals`.

    Attributes:
        minimum_share: Part of the loss, in nats per token, that the super activation recovers. The paper's
            Llama-7B figures (5.67, 1211.11, 720.57) are a share of 0.10; half of that is "partly healed".
    """

    minimum_share: Share = 0.05


class StopwordShiftLimits(Limits):
    """Limits of `stopword-shift`: none by default, for the direction is not universal.

    Attributes:
        minimum_ratio: Stop-word mass pruned over not pruned, at least.
        maximum_ratio: The same, at most.
    """

    minimum_ratio: Ratio | None = None
    maximum_ratio: Ratio | None = None


class AccuracyFallsToChanceLimits(Limits):
    """Limits of `accuracy-falls-to-chance`.

    Attributes:
        minimum_lost: Part of the accuracy above guessing that is lost. In the paper's table 1 (Llama-7B) it is
            0.65 on PIQA, 0.69 on Winogrande, 0.71 on ARC-easy, and more on the others; a little is left for
            the interval.
    """

    minimum_lost: Share = 0.6


class MatchesPublishedIndexLimits(Limits):
    """Limits of `matches-published-index`.

    Attributes:
        minimum_trust: A published coordinate counts if one of its sources is trusted at least so much (low,
            medium-low, medium, medium-good, good, high). Below medium are coordinates picked by magnitude,
            or copied from another model.
    """

    minimum_trust: Trust = "medium"


class CheckLimits(Fact):
    """The built-in checks' limits; the id of a check is the name of its field with hyphens."""

    model_config = ConfigDict(populate_by_name=True, alias_generator=lambda name: name.replace("_", "-"))

    super_weight_located: SuperWeightLocatedLimits = SuperWeightLocatedLimits()
    super_activation_persists: SuperActivationPersistsLimits = SuperActivationPersistsLimits()
    prune_collapses: PruneCollapsesLimits = PruneCollapsesLimits()
    other_outliers_harmless: OtherOutliersHarmlessLimits = OtherOutliersHarmlessLimits()
    placebo_harmless: PlaceboHarmlessLimits = PlaceboHarmlessLimits()
    effect_exceeds_placebos: EffectExceedsPlacebosLimits = EffectExceedsPlacebosLimits()
    damage_follows_dose: DamageFollowsDoseLimits = DamageFollowsDoseLimits()
    restored_activation_heals: RestoredActivationHealsLimits = RestoredActivationHealsLimits()
    stopword_shift: StopwordShiftLimits = StopwordShiftLimits()
    accuracy_falls_to_chance: AccuracyFallsToChanceLimits = AccuracyFallsToChanceLimits()
    rtn_holdout_quality: RtnHoldoutQualityLimits = RtnHoldoutQualityLimits()
    holdout_beats_plain_rtn: HoldoutBeatsPlainRtnLimits = HoldoutBeatsPlainRtnLimits()
    activation_holdout_quality: ActivationHoldoutQualityLimits = ActivationHoldoutQualityLimits()
    holdout_closes_gap: HoldoutClosesGapLimits = HoldoutClosesGapLimits()
    matches_published_index: MatchesPublishedIndexLimits = MatchesPublishedIndexLimits()
    weights_intact: WeightsIntactLimits = WeightsIntactLimits()
    quantization_as_configured: QuantizationAsConfiguredLimits = QuantizationAsConfiguredLimits()
    super_weight_retained: SuperWeightRetainedLimits = SuperWeightRetainedLimits()
    super_activation_retained: SuperActivationRetainedLimits = SuperActivationRetainedLimits()
    perplexity_ratio: PerplexityRatioLimits = PerplexityRatioLimits()
    kl_divergence: KlDivergenceLimits = KlDivergenceLimits()
    top1_agreement: Top1AgreementLimits = Top1AgreementLimits()
    generation_sane: GenerationSaneLimits = GenerationSaneLimits()
    stopwords_not_raised: StopwordsNotRaisedLimits = StopwordsNotRaisedLimits()
    task_accuracy: TaskAccuracyLimits = TaskAccuracyLimits()
    layer_error: LayerErrorLimits = LayerErrorLimits()
    range_fits_dtype: RangeFitsDtypeLimits = RangeFitsDtypeLimits()
    super_weight_unmoved: SuperWeightUnmovedLimits = SuperWeightUnmovedLimits()
    super_activation_unmoved: SuperActivationUnmovedLimits = SuperActivationUnmovedLimits()
    quality_not_worse: QualityNotWorseLimits = QualityNotWorseLimits()

    def of(self, check: str) -> Limits:
        """Return the limits of a check by its id.

        Raises:
            KeyError: If there is no such check.
        """
        limits = dict(self).get(check.replace("-", "_"))
        if not isinstance(limits, Limits):
            raise KeyError(check)
        return limits


CHECK_IDS: tuple[str, ...] = tuple(name.replace("_", "-") for name in CheckLimits.model_fields)
