"""Locates super weights: one forward pass, the residual stream first, then its causes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.errors import CheckpointError
from sw_audit.facts.location import Location, Outcome, SuperActivation, SuperWeight
from sw_audit.locate.attribute import Cause, describe_spikes, find_causes
from sw_audit.locate.probe import probe_prompt
from sw_audit.locate.settings import DEFAULT_SETTINGS, LocatorSettings
from sw_audit.locate.trace import find_super_activations, measure_standing, trace_layers

DEFAULT_PROMPT = "Apple Inc. is a worldwide tech company."
"""The prompt of the paper's released code; any text serves, for the spike does not depend on it."""


def locate_super_weights(
    checkpoint: Checkpoint,
    prompt: str = DEFAULT_PROMPT,
    settings: LocatorSettings = DEFAULT_SETTINGS,
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

    Returns:
        What was found; a model without super weights is an answer (`Outcome.NONE`).

    Raises:
        CheckpointError: If the prompt has no tokens, or the residual stream is not finite on it.
    """
    token_ids, bos = encode_prompt(checkpoint.tokenizer, prompt)
    probe = probe_prompt(checkpoint, token_ids)
    activations = find_super_activations(probe, settings)
    causes = {one.channel: find_causes(checkpoint, probe, one, settings) for one in activations}
    explained = [one for one in activations if is_explained(causes[one.channel], settings)]
    super_weights = _combine(causes[one.channel] for one in explained)
    if len(super_weights) > settings.maximum_count:
        super_weights, explained = (), []
    if explained:
        outcome, because = Outcome.LOCATED, _say_located(explained, super_weights)
    elif activations:
        outcome, because = Outcome.DISTRIBUTED, _say_distributed(activations[0], causes, settings)
    else:
        largest = float(measure_standing(probe).standout[: max(1, len(probe.residual) - 1)].max())
        outcome = Outcome.NONE
        because = (
            "no entry of the residual stream stands out early and persists: the largest is "
            f"{largest:.3g} times its layer's median, and {settings.standout:g} would be asked of it throughout"
        )
    return Location(
        outcome=outcome,
        because=because,
        prompt=prompt,
        token_ids=tuple(token_ids),
        bos=bos,
        super_weights=super_weights,
        super_activations=tuple(explained or activations),
        candidates=describe_spikes(checkpoint, probe, activations, super_weights),
        trace=trace_layers(probe),
    )


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


def is_explained(causes: Sequence[Cause], settings: LocatorSettings) -> bool:
    """Tell whether few enough products explain enough of a super activation."""
    total = sum(cause.weight.share for cause in causes)
    return 0 < len(causes) <= settings.maximum_count and total >= settings.explained


def _combine(groups: Any) -> tuple[SuperWeight, ...]:
    found = [cause.weight for group in groups for cause in group]
    return tuple(sorted(found, key=lambda weight: -weight.share))


def _say_located(activations: Sequence[SuperActivation], weights: Sequence[SuperWeight]) -> str:
    first = activations[0]
    share = sum(weight.share for weight in weights if weight.row == first.channel)
    scalars = "one scalar explains" if len(weights) == 1 else f"{len(weights)} scalars explain"
    return (
        f"{scalars} {share:.0%} of the super activation in channel {first.channel}, which persists from layer "
        f"{first.first_layer} to layer {first.last_layer}"
    )


def _say_distributed(
    activation: SuperActivation, causes: dict[int, tuple[Cause, ...]], settings: LocatorSettings
) -> str:
    found = causes[activation.channel]
    share = sum(cause.weight.share for cause in found)
    return (
        f"channel {activation.channel} carries a massive activation from layer {activation.first_layer} to layer "
        f"{activation.last_layer}, but {len(found)} products of down-projections explain {share:.0%} of it; "
        f"at most {settings.maximum_count} must explain {settings.explained:.0%}"
    )
