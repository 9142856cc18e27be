"""The built-in checks: what each claims, in one line, and what it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Scope = Literal["model", "descendant", "baseline"]
"""What a check is about: a model alone, a model beside its parent, or beside what was once known of it."""


@dataclass(frozen=True)
class CheckInfo:
    """One check, for people.

    Attributes:
        id: Stable id.
        title: What it claims, a short sentence.
        meaning: What it means for somebody who ships the model.
        quantity: What is measured, with its unit.
        needs_super_weight: Whether it is skipped where no super weight was located.
        scope: What it is about, and so which models it runs on.
    """

    id: str
    title: str
    meaning: str
    quantity: str
    needs_super_weight: bool = True
    scope: Scope = "model"


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
    CheckInfo(
        "weights-intact",
        "The files hold what they should",
        "What loads without an exception can still be noise: this finds it before anything is computed.",
        "serious flaws",
        needs_super_weight=False,
        scope="descendant",
    ),
    CheckInfo(
        "quantization-as-configured",
        "What the configuration says of quantization is what was done",
        "Patterns that match nothing and parts left out in silence are how a compressor goes wrong unseen.",
        "patterns without a match",
        needs_super_weight=False,
        scope="descendant",
    ),
    CheckInfo(
        "super-weight-retained",
        "The parent's super weights are still there",
        "These few scalars carry the model: their value, sign and neighbours tell whether a compressor kept them.",
        "largest relative error",
        needs_super_weight=False,
        scope="descendant",
    ),
    CheckInfo(
        "super-activation-retained",
        "The parent's super activations are still there",
        "Channel, token and magnitude of the activation that these scalars make, layer by layer.",
        "smallest magnitude ratio",
        needs_super_weight=False,
        scope="descendant",
    ),
    CheckInfo(
        "perplexity-ratio",
        "Perplexity is not worse than the parent's by more than the margin",
        "The loss of quality on text, paired window by window.",
        "perplexity ratio to the parent",
        needs_super_weight=False,
        scope="descendant",
    ),
    CheckInfo(
        "kl-divergence",
        "Next-token distributions are close to the parent's",
        "Two models can share a perplexity and still say different things.",
        "mean KL divergence, nats per token",
        needs_super_weight=False,
        scope="descendant",
    ),
    CheckInfo(
        "top1-agreement",
        "Both find the same token most likely",
        "How often greedy decoding takes the same next step as the parent.",
        "share of tokens",
        needs_super_weight=False,
        scope="descendant",
    ),
    CheckInfo(
        "generation-sane",
        "Greedy continuations do not fall apart",
        "Looping, one token over and over, or garbage past a kernel's boundary: perplexity sees none of these.",
        "prompts that fell apart",
        needs_super_weight=False,
        scope="descendant",
    ),
    CheckInfo(
        "stopwords-not-raised",
        "Probability does not drift to stop words",
        "A model that lost its super weights falls back on words without meaning, in most families.",
        "stop-word mass ratio to the parent",
        needs_super_weight=False,
        scope="descendant",
    ),
    CheckInfo(
        "task-accuracy",
        "Zero-shot tasks are answered as well as by the parent",
        "What the model is used for, item by item beside the parent.",
        "accuracy lost, worst task",
        needs_super_weight=False,
        scope="descendant",
    ),
    CheckInfo(
        "layer-error",
        "No layer stands out in its error",
        "Where noise jumps from one layer to the next, that layer was compressed badly.",
        "worst jump in noise-to-signal, dB",
        needs_super_weight=False,
        scope="descendant",
    ),
    CheckInfo(
        "range-fits-dtype",
        "Activations of the down-projections fit the dtype",
        "The largest activations overflow first where a kernel computes in half precision.",
        "share of the dtype's maximum",
        needs_super_weight=False,
        scope="descendant",
    ),
    CheckInfo(
        "super-weight-unmoved",
        "The super weights are where they were",
        "Training on moves weights: these few may not move far.",
        "largest relative drift",
        needs_super_weight=False,
        scope="baseline",
    ),
    CheckInfo(
        "super-activation-unmoved",
        "The super activations are what they were",
        "Channel and magnitude of the activation that these scalars make.",
        "smallest magnitude ratio",
        needs_super_weight=False,
        scope="baseline",
    ),
    CheckInfo(
        "quality-not-worse",
        "Perplexity is not worse than the baseline's by more than the margin",
        "On the same text, by the same protocol, or not at all.",
        "perplexity ratio to the baseline",
        needs_super_weight=False,
        scope="baseline",
    ),
)
