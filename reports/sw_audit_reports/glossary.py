"""The words of the report, each explained in one sentence."""

from __future__ import annotations

GLOSSARY = {
    "Super weight": "A single weight of a model, in an early layer's down-projection, whose loss can destroy the "
    "model.",
    "Super activation": "The one huge value that a super weight makes at one place of the text, which the skip "
    "connections carry on to later layers.",
    "Critical scalar": "Any single number of a model, wherever it stands, without which its perplexity is much "
    "higher.",
    "Gate": "A check that one stops a release for: it ends in PASS, FAIL or INCONCLUSIVE.",
    "Law": "A claim of the science about such models: one that does not hold here is a finding and no defect.",
    "PASS": "The figure, with its whole interval where it has one, is on the good side of the limit.",
    "FAIL": "The figure, with its whole interval where it has one, is on the bad side of the limit.",
    "INCONCLUSIVE": "The evidence decides neither way, or the figure is missing; that is no pass.",
    "Skipped": "The check does not apply to this model, and the reason is given.",
    "Waiver": "Somebody named answers for a check that does not pass, for a reason and until a day.",
    "Limit": "What a figure is held against; the policy can change it.",
    "Interval": "Where the true figure lies, with the confidence that is named, as far as a sample of text can "
    "tell.",
    "Parent": "The model that another was made from, and is held against.",
    "Descendant": "A model that was made from a parent, by training, rounding, pruning or merging.",
    "Baseline": "What an earlier audit measured, kept under a name, to hold later models against.",
    "Arm": "The model under one change, such as its super weights zeroed; all arms read the same text.",
    "Placebo": "The same change made to other weights that are like the super weights, to see whether it is these "
    "that matter.",
    "Perplexity": "How surprised a model is by a text: the exponential of its mean loss per token, lower is "
    "better.",
    "Perplexity ratio": "One perplexity over another on the same text: 1 is no difference, 2 twice as much.",
    "KL divergence": "How far one model's predictions of the next token are from another's: 0 is no difference.",
    "Top-1 agreement": "The share of tokens at which two models find the same next token most likely.",
    "Protocol": "Everything besides the weights that decides a figure: text, tokenizer, windows, dtype and seed, "
    "told apart by a signature.",
    "Window": "A piece of the text that the model reads at once.",
    "Look, or step": "Text is measured in steps, and after each the verdicts are looked at: what is decided "
    "needs no more.",
    "Putting back": "Parts of the parent are put into its descendant, to see how much of the loss they recover.",
    "Held out": "Kept in full precision while everything else is rounded.",
    "BOS token": "The token that marks the beginning of a text.",
    "Record": "The one file that an audit writes, with every measurement, from which this page is made.",
    "Policy": "The file that says what is audited, how, and against which limits.",
}
