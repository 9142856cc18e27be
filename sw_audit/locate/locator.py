"""Locates super weights: one forward pass, the residual stream first, then its causes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.errors import CheckpointError
from sw_audit.locate.attribute import Attribution, attribute_activations
from sw_audit.locate.candidates import describe_spikes
from sw_audit.locate.contribution import choose_layers_to_explain, measure_reach
from sw_audit.locate.probe import Probe, probe_prompt
from sw_audit.locate.settings import DEFAULT_SETTINGS, LocatorSettings
from sw_audit.locate.trace import (
    count_early_layers,
    find_span,
    find_super_activations,
    measure_standing,
    trace_layers,
)
from sw_audit.record.location import Depth, Location, Outcome, SuperActivation, SuperWeight

DEFAULT_PROMPT = "Apple Inc. is a worldwide tech company."
"""The prompt of the paper's released code; any text serves, for the spike does not depend on it."""


def locate_super_weights(
    checkpoint: Checkpoint,
    prompt: str = DEFAULT_PROMPT,
    settings: LocatorSettings = DEFAULT_SETTINGS,
    depth: Depth = "full",
) -> Location:
    """Locate the super weights of a model with one forward pass on one prompt, without data or gradients.

    Begins at the residual stream: a super activation is a (token, channel) that stands out against its
    layer, appears early and persists at near-constant magnitude to near the end. Its causes are the products
    `W[row, column] * x[column]` of the down-projections up to the layer where it appears. At most six that
    together explain most of it are the super weights (after Yu et al. 2024, section 3.1, which takes each
    layer's largest input and output and leaves thresholds open).

    Args:
        checkpoint: The model; it is not changed.
        prompt: Any text. A BOS token is put before it if the tokenizer has one.
        settings: The thresholds.
        depth: `early` stops after the early layers (`count_early_layers`): then a super activation must persist
            through those that ran, and whether it persists to near the end stays open.

    Returns:
        What was found; a model without super weights is an answer (`Outcome.NONE`).

    Raises:
        CheckpointError: If the prompt has no tokens, or the residual stream is not finite on it.
    """
    token_ids, bos = encode_prompt(checkpoint.tokenizer, prompt)
    layers = count_early_layers(len(checkpoint.layers), settings) if depth == "early" else None
    probe = probe_prompt(checkpoint, token_ids, layers)
    found = explain_probe(checkpoint, probe, settings)
    outcome, because = _conclude(probe, found, settings)
    return Location(
        outcome=outcome,
        because=because,
        prompt=prompt,
        token_ids=tuple(token_ids),
        bos=bos,
        super_weights=found.super_weights,
        super_activations=found.explained or found.activations,
        candidates=describe_spikes(checkpoint, probe, found.activations, found.super_weights),
        trace=trace_layers(probe),
        depth=depth,
        layers_seen=len(probe.residual),
    )


def explain_probe(
    checkpoint: Checkpoint, probe: Probe, settings: LocatorSettings = DEFAULT_SETTINGS
) -> Attribution:
    """Find the super activations that a probe shows, and the scalars that make them.

    Only where there is a super activation, the layers that add to it run once more, to see what of their
    down-projections' outputs reaches the residual stream.
    """
    activations = find_super_activations(probe, settings)
    early = find_span(probe, settings)[0] + 1
    layers = choose_layers_to_explain(probe, activations, early, settings)
    return attribute_activations(probe, activations, measure_reach(checkpoint, probe, layers), settings)


def encode_prompt(tokenizer: Any, prompt: str) -> tuple[list[int], bool]:
    """Return a prompt's token ids and whether a BOS token was put before them.

    BOS is put there explicitly if the tokenizer has one: whether a tokenizer adds it by itself is not what
    its `add_bos_token` says in every family.

    Raises:
        CheckpointError: If nothing is left to run the model on.
    """
    token_ids = list(tokenizer.encode(prompt, add_special_tokens=False))
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is not None:
        token_ids = [bos, *token_ids]
    if not token_ids:
        raise CheckpointError(f"prompt {prompt!r}", "the tokenizer makes no token of it", "give another prompt")
    return token_ids, bos is not None


def _conclude(probe: Probe, found: Attribution, settings: LocatorSettings) -> tuple[Outcome, str]:
    if found.explained:
        return Outcome.LOCATED, _say_located(found.explained, found.super_weights)
    if found.activations:
        return Outcome.DISTRIBUTED, _say_distributed(found, settings)
    first, last = find_span(probe, settings)
    largest = float(measure_standing(probe).standout[first : last + 1].amin(0).max())
    return Outcome.NONE, (
        f"no entry of the residual stream stands out early and persists: from layer {first} to layer {last} none "
        f"is more than {largest:.3g} times the median of its layer and token throughout, at least "
        f"{settings.standout:g} would be asked of it"
    )


def _say_located(activations: Sequence[SuperActivation], weights: Sequence[SuperWeight]) -> str:
    first = activations[0]
    share = sum(weight.share for weight in weights if weight.row == first.channel)
    scalars = "one scalar explains" if len(weights) == 1 else f"{len(weights)} scalars explain"
    return (
        f"{scalars} {share:.0%} of the super activation in channel {first.channel}, which persists from layer "
        f"{first.first_layer} to layer {first.last_layer}"
    )


def _say_distributed(found: Attribution, settings: LocatorSettings) -> str:
    activation = found.activations[0]
    causes = found.causes[activation.channel]
    if len(causes) > settings.maximum_count:
        because = f"more than {settings.maximum_count} products of down-projections share it"
    else:
        share = sum(cause.weight.share for cause in causes)
        because = (
            f"{len(causes)} products of down-projections explain {share:.0%} of it; at most "
            f"{settings.maximum_count} must explain {settings.explained:.0%}"
        )
    return (
        f"channel {activation.channel} carries a massive activation from layer {activation.first_layer} to layer "
        f"{activation.last_layer}, but {because}"
    )
