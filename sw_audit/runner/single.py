"""One model by itself: where its super weights are, and what it is worth in every arm that is asked for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.checks.arms import ArmTargets
from sw_audit.checks.plan import CHOICE_ARMS, Needs, plan_arms, plan_needs, plan_trials
from sw_audit.checks.registry import Need
from sw_audit.checks.super_activation_persists import SuperActivationPersistsLimits
from sw_audit.corpus.choices import list_stop_words, read_choices, stop_word_ids
from sw_audit.corpus.protocol import describe_protocol, list_cautions
from sw_audit.corpus.text import read_corpus
from sw_audit.corpus.windows import Windows, cut_calibration, draw_prompts, window_corpus, window_prompt
from sw_audit.errors import CheckpointError
from sw_audit.index.lookup import find_policy_model, list_dose_curves, open_index
from sw_audit.locate.controls import count_weights, draw_placebos, find_involved, find_largest_weights
from sw_audit.locate.locator import DEFAULT_PROMPT, encode_prompt, locate_super_weights
from sw_audit.locate.rotation import recognize_rotation
from sw_audit.locate.trace import trace_prompts
from sw_audit.locate.weight_norms import predict_from_weights
from sw_audit.measure.activation_setup import prepare_activations
from sw_audit.measure.arms import measure_arms
from sw_audit.measure.calibration import calibrate_on_prompt
from sw_audit.measure.generation import continue_prompts
from sw_audit.measure.mechanism import follow_super_activations
from sw_audit.measure.retention import compare_with_baseline
from sw_audit.measure.start import try_starts
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.policy.targets import PatternMatch, match_targets
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.arm import BASELINE, Arm, Dose, Quantize
from sw_audit.record.location import Depth, Location, Outcome, PromptTrace
from sw_audit.record.record import ModelFailure, ModelResult
from sw_audit.record.store import find_baseline
from sw_audit.runner.cache import NO_CACHE, ArmCache
from sw_audit.runner.weights import examine_files, open_examined
from sw_audit.testing.counterexamples import search_prompts

__all__ = ["ModelAudit", "calibrate_on_prompt", "locate_model", "measure_single"]


@dataclass(frozen=True)
class ModelAudit:
    """What the measuring of one model is given.

    Attributes:
        model: The model.
        policy: The policy that names it.
        checks: Ids of the selected checks.
        progress: Told where the work stands.
        kept: What was measured before.
    """

    model: ModelPolicy
    policy: Policy
    checks: Sequence[str]
    progress: Progress = ignore_progress
    kept: ArmCache = NO_CACHE


def locate_model(checkpoint: Checkpoint, depth: Depth = "full") -> Location:
    """Locate the super weights of an open model, ask the weights alone about them, and whether they are rotated.

    See `locate_super_weights`, `predict_from_weights` and `recognize_rotation`.
    """
    location = predict_from_weights(checkpoint.layers, locate_super_weights(checkpoint, depth=depth))
    return recognize_rotation(checkpoint, location)


def locate_or_explain(checkpoint: Checkpoint) -> Location:
    """Locate a model's super weights; one that is not finite has none, and the checks will say why."""
    try:
        return locate_model(checkpoint)
    except CheckpointError as error:
        token_ids = encode_prompt(checkpoint, DEFAULT_PROMPT)
        return Location(
            outcome=Outcome.NONE,
            because=error.found,
            prompt=DEFAULT_PROMPT,
            token_ids=tuple(token_ids),
            bos=checkpoint.start.bos is not None,
            super_weights=(),
            super_activations=(),
            candidates=(),
            trace=(),
        )


def measure_single(audit: ModelAudit, checkpoint: Checkpoint | None = None) -> ModelResult | ModelFailure:
    """Find and measure everything that the selected checks need to know about one model; it may be open already.

    Returns:
        What was measured, or why the model's weights are not fit to be opened.

    Raises:
        InputError: If the model or the text cannot be used.
    """
    started = time.perf_counter()
    model, policy, checks, progress = audit.model, audit.policy, audit.checks, audit.progress
    text = read_corpus(policy.corpus)
    progress("inspecting", 0, 1)
    report = examine_files(model)
    if isinstance(report, ModelFailure):
        return report
    progress("opening", 0, 1)
    opened = open_examined(model, report, lambda: checkpoint or open_checkpoint(model))
    if isinstance(opened, ModelFailure):
        return opened
    checkpoint = opened.starting(policy.bos_rule(model))
    tokenizer = checkpoint.tokenizer
    windows = window_corpus(text, tokenizer, policy.corpus, checkpoint.maximum_positions, checkpoint.start.bos)
    protocol = describe_protocol(text, windows, tokenizer, checkpoint.identity.dtype, policy.seed)
    trial = try_starts(checkpoint, windows)
    progress("locating", 0, 1)
    location = locate_or_explain(checkpoint)
    weights = count_weights(checkpoint.layers)
    needs = plan_needs(policy, checks, weights)
    roles = _select_targets(checkpoint, location, needs, policy.seed)
    unscored = cut_calibration(text, tokenizer, windows, policy.activations.calibration_windows)
    setup = (
        prepare_activations(checkpoint, location.token_ids, unscored, plan_trials(policy, checks, roles))
        if Need.ACTIVATIONS in needs
        else None
    )
    arms = plan_arms(policy, checks, roles, setup)
    targets = _match_targets(checkpoint, arms, policy)
    lookup = find_policy_model(policy, model, checkpoint.identity.digests)
    followed = Need.PERSISTENCE in needs and location.outcome is Outcome.LOCATED
    baseline, law = find_baseline(policy, model), policy.checks[SuperActivationPersistsLimits]
    measure = partial(
        measure_arms,
        checkpoint,
        windows=windows,
        protocol=protocol.signature,
        choices=(read_choices(policy.corpus) if Need.CHOICES in needs else None) or (),
        choice_arms=CHOICE_ARMS,
        stop_words=stop_word_ids(list_stop_words(policy.corpus), tokenizer),
        calibration=_choose_calibration(arms, unscored, location, asked=Need.ACTIVATIONS in needs),
        progress=progress,
    )
    measurements = audit.kept.recall_arms(
        arms,
        measure,
        model_id=model.id,
        protocol=protocol.signature,
        answering=(BASELINE.purpose, *CHOICE_ARMS) if Need.CHOICES in needs else (),
    )
    return ModelResult(
        model=checkpoint.identity,
        protocol=protocol,
        location=location,
        start=trial,
        persistence=_follow(checkpoint, location, windows, policy) if followed else (),
        prompt_search=search_prompts(checkpoint, location, law.examples, law.tolerance, policy.seed)
        if followed
        else None,
        measurements=measurements,
        continuations=continue_prompts(checkpoint, windows, policy.descent, progress)
        if Need.GENERATION in needs
        else (),
        mechanism=follow_super_activations(checkpoint, location) if Need.MECHANISM in needs else (),
        published_doses=list_dose_curves(open_index(policy.index), lookup.model)
        if any(isinstance(arm.purpose, Dose) for arm in arms)
        else (),
        published=lookup if Need.PUBLISHED in needs else None,
        activations=setup,
        targets=targets,
        weights=report,
        baseline=baseline and compare_with_baseline(checkpoint, location, baseline),
        decoder_weights=weights,
        unigram_nats=windows.unigram_nats,
        notes=list_cautions(
            text,
            tokenizer,
            checkpoint.vocabulary,
            trial,
            location,
            uncalibrated=Need.ACTIVATIONS in needs and unscored is None,
        ),
        seconds=time.perf_counter() - started,
    )


def _select_targets(checkpoint: Checkpoint, location: Location, needs: Needs, seed: int) -> ArmTargets:
    super_weights = location.addresses
    others = find_largest_weights(checkpoint.layers, needs.other_outliers, super_weights)
    involved = find_involved(checkpoint, location)
    placebos = {
        placebo: draw_placebos(
            checkpoint.layers, super_weights, placebo.control, seed=f"{seed}/{placebo}", involved=involved
        )
        for placebo in needs.placebos
    }
    channels = tuple(dict.fromkeys(activation.channel for activation in location.super_activations))
    feeding = tuple(
        address
        for address in others
        if involved.feeds(checkpoint.matrix(address.parameter, address.expert), address.row, address.column)
    )
    return ArmTargets(
        super_weights=super_weights,
        other_outliers=others,
        feeding=feeding,
        placebos=placebos,
        channels=channels,
    )


def _choose_calibration(
    arms: Sequence[Arm], unscored: Windows | None, location: Location, *, asked: bool
) -> Windows | None:
    """Return the text that acts learn from; where there is none, a searched clip has the locating prompt."""
    if any(isinstance(act, Quantize) and act.recipe.weighs_columns for arm in arms for act in arm.acts):
        return unscored or window_prompt(location.token_ids)
    return unscored if asked else None


def _match_targets(checkpoint: Checkpoint, arms: Sequence[Arm], policy: Policy) -> tuple[PatternMatch, ...]:
    """Prove that each pattern on the matrices to round matches some, where any arm rounds matrices."""
    names = [matrix.parameter for layer in checkpoint.layers for matrix in layer.matrices]
    which = policy.quantization
    rounds = any(isinstance(act, Quantize) for arm in arms for act in arm.acts)
    return match_targets(names, which.targets, which.ignore) if rounds and (names or which.targets) else ()


def _follow(
    checkpoint: Checkpoint, location: Location, windows: Windows, policy: Policy
) -> tuple[PromptTrace, ...]:
    channels = [activation.channel for activation in location.super_activations]
    prompts: list[tuple[str, Sequence[int]]]
    if policy.prompts is not None:
        prompts = [(text, encode_prompt(checkpoint, text)) for text in policy.prompts]
    else:
        prompts = [(location.prompt, location.token_ids), *draw_prompts(windows, checkpoint.tokenizer)]
    return trace_prompts(checkpoint, channels, prompts)
