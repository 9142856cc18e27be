"""Locates super weights: one forward pass, the residual stream first, then its causes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import repeat

import torch

from sw_audit.checkpoint.formats.format import CannotStreamError
from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.checkpoint.streaming import open_streaming
from sw_audit.errors import CheckpointError
from sw_audit.locate.attribution import (
    Attribution,
    attribute_activations,
    choose_layers_to_explain,
    measure_contributions,
)
from sw_audit.locate.probe import Probe, probe_prompts, read_row, require_finite
from sw_audit.locate.settings import DEFAULT_SETTINGS, LocatorSettings
from sw_audit.locate.stages import find_earlier_stages, find_end
from sw_audit.locate.trace import (
    count_early_layers,
    find_span,
    find_super_activations,
    measure_prominence,
    trace_layers,
)
from sw_audit.policy.policy import ModelPolicy
from sw_audit.printable import printable
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.address import WeightAddress
from sw_audit.record.location import (
    Candidate,
    Depth,
    Location,
    Outcome,
    PromptLocation,
    SuperActivation,
    find_common,
)

DEFAULT_PROMPT = "Apple Inc. is a worldwide tech company."
"""The prompt of the paper's released code; any text serves, for the spike does not depend on it."""
DEFAULT_PROMPTS = (
    DEFAULT_PROMPT,
    "def mean(values):\n    return sum(values) / len(values)\n",
    "Morgens steht der Nebel über dem Fluss, und niemand ist wach.",
)
"""That prompt, code, and another language: what is located is not to hang on one sentence."""


def locate_super_weights(
    checkpoint: Checkpoint,
    prompt: str | None = None,
    settings: LocatorSettings = DEFAULT_SETTINGS,
    depth: Depth = "full",
) -> Location:
    """Locate the super weights of a model with one forward pass on a few prompts, without data or gradients.

    Begins at the residual stream: a super activation is a (token, channel) that stands out against its
    layer, appears early and persists at near-constant magnitude to near the end. Its causes are the products
    `W[row, column] * x[column]` of the down-projections up to the layer where it appears. At most six that
    together explain most of it are the super weights (after Yu et al. 2024, section 3.1, which takes each
    layer's largest input and output and leaves thresholds open). The set is what more than half of the prompts
    show by themselves. Where the tokenizer defines a BOS token, the same pass tells what is located with it and
    without.

    Args:
        checkpoint: The model; it is not changed.
        prompt: Any text; by default there are three (`DEFAULT_PROMPTS`). BOS stands before it as before every
            text (`checkpoint.start`).
        settings: The thresholds.
        depth: `early` stops after the early layers (`count_early_layers`): then a super activation must persist
            through those that ran, and whether it persists to near the end stays open.

    Raises:
        CheckpointError: If the prompt has no tokens, or the residual stream is not finite on it.
    """
    texts = DEFAULT_PROMPTS if prompt is None else (prompt,)
    layers = count_early_layers(len(checkpoint.layers), settings) if depth == "early" else None
    start, other, bos = checkpoint.start, checkpoint.start.other, checkpoint.start.bos is not None
    own = [encode_prompt(checkpoint, text) for text in texts]
    turned = [] if other is None else [[*other.lead, *token_ids[len(start.lead) :]] for token_ids in own]
    # Without BOS nothing may be left of a prompt.
    probes = probe_prompts(checkpoint, [*own, *(turned if all(turned) else ())], layers)
    for probe in probes[: len(own)]:
        require_finite(checkpoint, probe)
    if not all(bool(probe.residual.isfinite().all()) for probe in probes):
        probes = probes[: len(own)]
    attributions = _attribute(checkpoint, probes, settings)
    asked = [*zip(texts, own, repeat(bos)), *zip(texts, turned, repeat(not bos))][: len(probes)]
    shown = [
        _conclude_prompt(text, token_ids, begun, probe, attribution, settings)
        for (text, token_ids, begun), probe, attribution in zip(asked, probes, attributions, strict=True)
    ]
    prompts = shown[: len(own)]
    place, chosen = choose_prompt(prompts)
    probe, attribution = probes[place], replace(attributions[place], super_weights=chosen.super_weights)
    chosen = chosen.model_copy(
        update={"super_activations": tuple(find_end(probe, held, settings) for held in chosen.super_activations)}
    )
    return Location(
        **dict(chosen),
        earlier_stages=find_earlier_stages(checkpoint, probe, chosen.super_activations, settings),
        candidates=_describe_spikes(checkpoint, probe, attribution),
        trace=trace_layers(probe),
        depth=depth,
        layers_seen=len(probe.residual),
        prompts=tuple(prompts) if len(prompts) > 1 else (),
        other_start=tuple(shown[len(own) :]),
    )


def _attribute(checkpoint: Checkpoint, probes: Sequence[Probe], settings: LocatorSettings) -> list[Attribution]:
    activations = [find_super_activations(probe, settings) for probe in probes]
    # Only the layers that add to a super activation run once more, all prompts side by side.
    explained = [
        choose_layers_to_explain(probe, held, find_span(probe, settings)[0] + 1, settings)
        for probe, held in zip(probes, activations, strict=True)
    ]
    contributions = measure_contributions(checkpoint, probes, explained)
    return [
        attribute_activations(*of_prompt, settings)
        for of_prompt in zip(probes, activations, contributions, strict=True)
    ]


def choose_prompt(prompts: Sequence[PromptLocation]) -> tuple[int, PromptLocation]:
    """Choose the prompt that the answer is told of, and hold it to what more than half of the prompts show.

    Returns:
        Which prompt it is, and what is told of it: its super weights are those of most prompts, whether it shows
        them itself or not, and its super activations what these make.
    """
    common = find_common(prompts)
    if not common:
        # Most prompts show nothing in common: the first that shows no super weight speaks for them.
        place = next((number for number, one in enumerate(prompts) if one.outcome is not Outcome.LOCATED), 0)
        told = prompts[place]
        if told.outcome is Outcome.LOCATED:
            because = f"each of {len(prompts)} prompts shows other scalars, and none of them is shown by most"
            told = told.model_copy(
                update={"outcome": Outcome.DISTRIBUTED, "because": because, "super_weights": ()}
            )
        return place, told
    place = max(range(len(prompts)), key=lambda number: len({*common} & {*prompts[number].addresses}))
    told = prompts[place]
    if {*common} == {*told.addresses}:
        return place, told
    weights = {weight.address: weight for one in (*prompts[::-1], told) for weight in one.super_weights}
    kept = sorted((weights[address] for address in common), key=lambda weight: -weight.share)
    rows = {weight.row for weight in kept}
    return place, told.model_copy(
        update={
            "because": f"{len(kept)} of the scalars that {len(prompts)} prompts show are shown by most; on the "
            f"prompt that is told of, {told.because}",
            "super_weights": tuple(kept),
            "super_activations": tuple(held for held in told.super_activations if held.channel in rows),
        }
    )


def stream_location(
    model: ModelPolicy,
    prompt: str | None = None,
    depth: Depth = "full",
    progress: Progress = ignore_progress,
    settings: LocatorSettings = DEFAULT_SETTINGS,
) -> Location:
    """Locate the super weights of a checkpoint while reading it: each decoder layer is there only while it runs.

    The result is that of `locate_super_weights(open_checkpoint(model), ...)`, to the last bit. With depth `early`
    only the early layers are read. Progress is told after each layer.

    Raises:
        CheckpointError: If the checkpoint cannot be used, or a layer that was read is not finite.
    """
    checkpoint = open_for_locating(model, depth=depth, digest=False, progress=progress, settings=settings)
    return locate_super_weights(checkpoint, prompt, settings, depth)


def open_for_locating(
    model: ModelPolicy,
    *,
    depth: Depth = "full",
    digest: bool = True,
    progress: Progress = ignore_progress,
    settings: LocatorSettings = DEFAULT_SETTINGS,
) -> Checkpoint:
    """Open a checkpoint so that its layers are read as they run; as a whole where that cannot be, and say so.

    The depth to which it will be run is for the progress, which is told after each layer that runs for the first
    time. A digest of its files reads all of them.

    Raises:
        CheckpointError: If the checkpoint cannot be used.
    """
    done = total = 0

    def tell(layer: int) -> None:
        nonlocal done
        # The first layers may run again, once it is known what is to be explained.
        if layer >= done:
            done = layer + 1
            progress("locating", done, total)

    try:
        checkpoint = open_streaming(model, digest=digest, on_layer=tell)
    except CannotStreamError as reason:
        sys.stderr.write(f"sw-audit: {printable(f'model {model.source!r} is loaded whole, for {reason}')}\n")
        return open_checkpoint(model)
    layers = len(checkpoint.layers)
    total = count_early_layers(layers, settings) if depth == "early" else layers
    progress("locating", 0, total)
    return checkpoint


def encode_prompt(checkpoint: Checkpoint, prompt: str) -> list[int]:
    """Return a prompt's token ids as the model sees it, BOS before them as before every text.

    Raises:
        CheckpointError: If nothing is left to run the model on.
    """
    try:
        text_ids = checkpoint.tokenizer.encode(prompt, add_special_tokens=False)
    except Exception as error:  # tokenizers raise bare exceptions, such as for an unknown token that is none
        found = f"the tokenizer cannot read it ({error})"
        raise CheckpointError(f"prompt {prompt!r}", found, "repair or replace the tokenizer") from error
    token_ids = [*checkpoint.start.lead, *text_ids]
    if not token_ids:
        raise CheckpointError(f"prompt {prompt!r}", "the tokenizer makes no token of it", "give another prompt")
    return token_ids


def _conclude_prompt(
    text: str, token_ids: list[int], bos: bool, probe: Probe, attribution: Attribution, settings: LocatorSettings
) -> PromptLocation:
    outcome, because = _conclude(probe, attribution, settings)
    return PromptLocation(
        prompt=text,
        token_ids=tuple(token_ids),
        bos=bos,
        outcome=outcome,
        because=because,
        super_weights=attribution.super_weights,
        super_activations=attribution.explained or attribution.activations,
    )


def _conclude(probe: Probe, attribution: Attribution, settings: LocatorSettings) -> tuple[Outcome, str]:
    if attribution.explained:
        tallest, weights = attribution.explained[0], attribution.super_weights
        share = sum(weight.share for weight in weights if weight.row == tallest.channel)
        scalars = "one scalar explains" if len(weights) == 1 else f"{len(weights)} scalars explain"
        return Outcome.LOCATED, (
            f"{scalars} {share:.0%} of the super activation in channel {tallest.channel}, which persists from "
            f"layer {tallest.first_layer} to layer {tallest.last_layer}"
        )
    if attribution.activations:
        tallest = attribution.activations[0]
        causes = attribution.causes[tallest.channel]
        if len(causes) > settings.maximum_count:
            because = f"more than {settings.maximum_count} products of down-projections share it"
        else:
            because = (
                f"{len(causes)} products of down-projections explain {sum(cause.share for cause in causes):.0%} "
                f"of it; at most {settings.maximum_count} must explain {settings.explained:.0%}"
            )
        return Outcome.DISTRIBUTED, (
            f"channel {tallest.channel} carries a massive activation from layer {tallest.first_layer} to layer "
            f"{tallest.last_layer}, but {because}"
        )
    first, last = find_span(probe, settings)
    largest = float(measure_prominence(probe)[1][first : last + 1].amin(0).max())
    return Outcome.NONE, (
        f"no entry of the residual stream stands out early and persists: from layer {first} to layer {last} none "
        f"is more than {largest:.3g} times the median of its layer and token throughout, at least "
        f"{settings.prominence:g} would be asked of it"
    )


def _describe_spikes(checkpoint: Checkpoint, probe: Probe, attribution: Attribution) -> tuple[Candidate, ...]:
    """Say of each layer's largest down-projection output why it is, or is not, made by a super weight.

    These are the spikes that a reader sees first (Yu et al. 2024, figure 3), and the largest of them is often
    in a late layer and harmless.
    """
    accepted = {weight.address for weight in attribution.super_weights}
    candidates = []
    for layer in checkpoint.layers:
        observed = probe.observed_in(layer.index)
        if not observed:
            continue
        # What an expert hands on is what counts: its output times its routing weight.
        seen = max(observed, key=lambda candidate: float(candidate.delivered.abs().max()))
        place, row = divmod(int(seen.delivered.abs().argmax()), seen.outputs.shape[1])
        down, x = seen.down, seen.inputs[place]
        weights = read_row(down, row)
        output = float(seen.outputs[place, row])
        shares = weights * x / output if output else torch.zeros_like(weights)
        column = int(shares.argmax())
        address = WeightAddress(parameter=down.parameter, row=row, column=column, expert=down.expert)
        candidate = Candidate(
            **address.model_dump(),
            layer=layer.index,
            token=int(seen.tokens[place]),
            input_value=float(x[column]),
            output_value=output,
            weight=float(weights[column]),
            share=float(shares[column]),
            accepted=address in accepted,
            because="",  # needs the rest
        )
        because = _explain_spike(candidate, attribution.activations, probe)
        candidates.append(candidate.model_copy(update={"because": because}))
    return tuple(candidates)


def _explain_spike(spike: Candidate, activations: Sequence[SuperActivation], probe: Probe) -> str:
    last, end = probe.layers - 1, len(probe.residual) - 1
    if spike.accepted:
        to = "to near the end" if probe.is_whole else f"through layer {end}, the last that ran"
        return f"this product makes a super activation that persists {to}"
    carried = next((activation for activation in activations if activation.channel == spike.row), None)
    if carried is not None and spike.layer > carried.first_layer:
        first = carried.first_layer
        return f"the super activation in channel {spike.row} is older: it is there from layer {first} on"
    if carried is not None:
        return f"many products share this output: the largest explains {spike.share:.0%}"
    if spike.layer >= last - 1:
        return "it appears in the last layers, where nothing is left to carry"
    level = abs(float(probe.residual[spike.layer, spike.token, spike.row]))
    later = abs(float(probe.residual[min(max(spike.layer + 1, last - 1), end), spike.token, spike.row]))
    if later < level / 2:
        when = "before the last layer" if probe.is_whole else f"by layer {end}, the last that ran"
        return f"the residual stream does not keep it: it is gone {when}"
    return "it does not stand out in the residual stream"
