"""The built-in checks: what each claims, in one line, and what it needs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CheckInfo:
    """One check, for people.

    Attributes:
        id: Stable id.
        title: What it claims, a short sentence.
        meaning: What it means for somebody who ships the model.
        quantity: What is measured, with its unit.
        needs_super_weight: Whether it is skipped where no super weight was located.
    """

    id: str
    title: str
    meaning: str
    quantity: str
    needs_super_weight: bool = True


CHECKS: tuple[CheckInfo, ...] = (
    CheckInfo(
        "super-weight-located",
        "At most six super weights, in an early layer's down-projection",
        "One data-free forward pass finds the scalars that make the super activation.",
        "super weights",
        needs_super_weight=False,
    ),
    CheckInfo(
        "super-activation-persists",
        "The super activation keeps channel, token and magnitude",
        "Whatever the prompt, the same channel carries the same value from layer to layer.",
        "largest relative deviation",
    ),
    CheckInfo(
        "prune-collapses",
        "Zeroing the super weights destroys the model",
        "These few scalars carry the model: a compressor or fine-tune that loses them loses everything.",
        "perplexity ratio",
    ),
    CheckInfo(
        "other-outliers-harmless",
        "Zeroing many other large weights does little",
        "Size alone does not make a weight critical.",
        "perplexity ratio",
        needs_super_weight=False,
    ),
    CheckInfo(
        "placebo-harmless",
        "Zeroing matched controls does nothing",
        "The damage belongs to these scalars, not to their row, column or size.",
        "perplexity ratio, worst control",
    ),
    CheckInfo(
        "effect-exceeds-placebos",
        "Zeroing the super weights does more harm than any matched control",
        "Had these scalars been drawn like the controls, so large an effect would be this rare.",
        "p-value of the rank among the controls",
    ),
    CheckInfo(
        "damage-follows-dose",
        "The less is left of the super weights, the more the model is damaged",
        "A cause has a dose: what shrinks these scalars part of the way does part of the harm.",
        "perplexity with more left over perplexity with less left, worst pair",
    ),
    CheckInfo(
        "restored-activation-heals",
        "Putting the super activation back heals part of the damage",
        "The super weights act through the super activation.",
        "share of the loss recovered",
    ),
    CheckInfo(
        "stopword-shift",
        "How pruning shifts probability to or from stop words",
        "Without its super weights a model falls back on words without meaning, in most families.",
        "stop-word mass ratio",
    ),
    CheckInfo(
        "accuracy-falls-to-chance",
        "Pruned, the model falls towards guessing at multiple choice",
        "The loss is of ability, not only of fluency.",
        "share of the accuracy above guessing that is lost",
    ),
    CheckInfo(
        "rtn-holdout-quality",
        "Round-to-nearest with the super weights held out keeps quality",
        "Per recipe: what the simplest quantizer can do when it leaves these scalars alone.",
        "perplexity ratio to full precision",
        needs_super_weight=False,
    ),
    CheckInfo(
        "holdout-beats-plain-rtn",
        "Holding the super weights out beats plain round-to-nearest",
        "Where a block is large, one outlier spoils the scale for everything that shares it.",
        "plain perplexity over hold-out perplexity",
    ),
    CheckInfo(
        "activation-holdout-quality",
        "Quantized activations with the super activation held out keep quality",
        "Per scheme: what 8-bit activations cost when this one scalar stays in full precision.",
        "perplexity ratio to full precision",
        needs_super_weight=False,
    ),
    CheckInfo(
        "holdout-closes-gap",
        "Holding the super activation out wins back what quantizing activations costs",
        "How much of the gap between naive rounding and full precision one scalar closes, beside SmoothQuant.",
        "share of the loss saved",
    ),
    CheckInfo(
        "matches-published-index",
        "The located super weights are the published ones",
        "Others have found this model's super weights: what was made from it should still have them there.",
        "published coordinates found",
        needs_super_weight=False,
    ),
)
