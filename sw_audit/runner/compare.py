"""Quantizers side by side, on one page: round-to-nearest and what other libraries make of a model, in one pass."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from sw_audit.arms.apply import applied_arm
from sw_audit.arms.matrices import SpareTensors
from sw_audit.arms.rounding import count_stored_bits
from sw_audit.backends.costs import measure_peak
from sw_audit.backends.method import Method
from sw_audit.backends.models import describe_method, prepare_methods
from sw_audit.backends.registry import METHODS, find_methods
from sw_audit.checkpoint.matrices import DecoderLayer
from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.checkpoint.suppress_output import quiet_libraries
from sw_audit.checks.estimate import keep_finite
from sw_audit.checks.statistics import bound_perplexity_ratio
from sw_audit.corpus.choices import read_choices
from sw_audit.corpus.protocol import describe_protocol, list_cautions
from sw_audit.corpus.text import read_corpus
from sw_audit.corpus.windows import cut_calibration, window_corpus, window_prompt
from sw_audit.leftovers import temporary_folder
from sw_audit.locate.controls import count_weights
from sw_audit.measure.arms import measure_arms
from sw_audit.measure.calibration import NOTHING_SEEN
from sw_audit.measure.start import try_starts
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.policy.recipe import PerTensor, count_groups
from sw_audit.policy.targets import match_targets
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.address import AddressGroup, group_addresses
from sw_audit.record.arm import BASELINE, Arm, Custom, Quantize, ReplaceLayer, Rounding
from sw_audit.record.measurement import ROUND_TO_NEAREST, ComparedQuantizer, Comparison, Measurement, Quality
from sw_audit.record.record import ModelResult, Record
from sw_audit.runner.run import compose_record
from sw_audit.runner.single import locate_model
from sw_audit.runner.text import settle_corpus

RECIPES = (
    "int4/group64",
    "int4/16x16",
    *(f"int4/{block}{clip}" for clip in ("", "/z9", "/search") for block in ("64x64", "512x512", "tensor")),
    "nf4/group64",
    "int8/row",
)
"""What is compared by default: block sizes, large ones also clipped, and the other libraries' formats."""


def compare_quantizers(
    policy: Policy, methods: Sequence[str] | None = None, progress: Progress = ignore_progress
) -> Record:
    """Compare quantizers on the one model of a policy, and return a record that holds nothing else.

    Every recipe of the policy is measured plain, and once more with the located super weights held out if there
    are any; blocks that hold every matrix whole are left out where the whole matrix is measured anyway. Every
    method of another library is measured as that library's own layers compute, where it works on layers; one that
    works on a whole model quantizes in a process of its own. A method whose package is missing, or that fails, is
    a row that says so.

    Args:
        policy: The model, the text, the recipes and which matrices they are for, how intervals are drawn; how many
            windows are calibrated on (`activations.calibration_windows`).
        methods: Names of other libraries' methods; by default all that there are.
        progress: Told where the work stands.

    Raises:
        InputError: If the model, the text or a name cannot be used.
    """
    started = time.perf_counter()
    (model,) = policy.models
    asked, policy = policy, settle_corpus(policy, model)
    chosen = METHODS if methods is None else find_methods(methods)
    progress("opening", 0, 1)
    checkpoint = open_checkpoint(model).starting(policy.bos_rule(model))
    with ExitStack() as stack:
        stack.enter_context(quiet_libraries())
        scratch = stack.enter_context(temporary_folder())
        evidence = _gather(checkpoint, model, policy, chosen, scratch, progress)
    seconds = time.perf_counter() - started
    return compose_record([evidence.model_copy(update={"seconds": seconds})], asked)


def check_methods(names: Sequence[str] | None) -> None:
    """Complain about the name of a method that there is not, before anything heavy is done."""
    find_methods(names or ())


def _gather(
    checkpoint: Checkpoint,
    model: ModelPolicy,
    policy: Policy,
    methods: Sequence[Method],
    scratch: Path,
    progress: Progress,
) -> ModelResult:
    text, tokenizer = read_corpus(policy.corpus), checkpoint.tokenizer
    windows = window_corpus(text, tokenizer, policy.corpus, checkpoint.maximum_positions, checkpoint.start.bos)
    protocol = describe_protocol(text, windows, tokenizer, checkpoint.identity.dtype, policy.seed)
    unscored = cut_calibration(text, tokenizer, windows, policy.activations.calibration_windows)
    parameters = [matrix.parameter for layer in checkpoint.layers for matrix in layer.matrices]
    targets = match_targets(parameters, policy.quantization.targets, policy.quantization.ignore)
    trial = try_starts(checkpoint, windows)
    progress("locating", 0, 1)
    location = locate_model(checkpoint)
    shapes = {matrix.shape for layer in checkpoint.layers for matrix in layer.matrices}
    ours = plan_rounding(policy, group_addresses(location.addresses), shapes)
    tokens = None if unscored is None else unscored.token_ids
    quantizers, obstacles = prepare_methods(methods, model, tokens, policy.seed, scratch, progress)
    theirs = [Arm(purpose=Custom(label=name), acts=(ReplaceLayer(method=name),)) for name in quantizers]
    arms = [BASELINE, *ours, *theirs]
    measurements = measure_arms(
        checkpoint,
        arms,
        windows,
        protocol=protocol.signature,
        choices=read_choices(policy.corpus) or (),
        choice_arms=[arm.purpose for arm in arms],
        calibration=(unscored or window_prompt(location.token_ids)) if _any_searches(ours) else None,
        factories=quantizers,
        progress=progress,
    )
    # A method that failed on its way was run as the model itself from there: that is no measurement of it.
    obstacles |= {
        name: quantizer.failure for name, quantizer in quantizers.items() if quantizer.failure is not None
    }
    kept = {measured.arm.name: measured for measured in measurements if measured.arm.name not in obstacles}
    quality = {name: rate_quality(measured, measurements[0], policy) for name, measured in kept.items()}
    rows = [_describe_rounding(arm, quality[arm.name], checkpoint, bool(location.addresses)) for arm in ours]
    rows += [
        describe_method(method, quality.get(method.name), quantizers.get(method.name), obstacles.get(method.name))
        for method in methods
    ]
    return ModelResult(
        model=checkpoint.identity,
        protocol=protocol,
        location=location,
        start=trial,
        measurements=tuple(kept.values()),
        targets=targets,
        comparison=Comparison(
            protocol=protocol.signature,
            baseline=quality[BASELINE.name],
            dtype_bits=8 * checkpoint.layers[0].matrices[0].tensor.element_size(),
            confidence=policy.confidence,
            calibration_windows=0 if unscored is None else len(unscored.token_ids),
            rows=tuple(rows),
        ),
        decoder_weights=count_weights(checkpoint.layers),
        notes=list_cautions(text, tokenizer, checkpoint.vocabulary, trial, location),
    )


def plan_rounding(
    policy: Policy, held: tuple[AddressGroup, ...], shapes: Collection[tuple[int, int]] = ()
) -> list[Arm]:
    """List the arms of the policy's recipes: each one plain, and held out if there is anything to hold out.

    A recipe whose blocks cut none of the matrices' shapes is left out where the whole matrix is measured anyway.
    """
    which, recipes = policy.quantization, policy.quantization.parsed()
    whole = {recipe for recipe in recipes if recipe.granularity == PerTensor()}
    kept = [
        recipe
        for recipe in recipes
        if recipe in whole
        or recipe.model_copy(update={"granularity": PerTensor()}) not in whole
        or any(count_groups(recipe, shape) > 1 for shape in shapes)
    ]
    return [
        Arm(
            purpose=Rounding(recipe=recipe, keep=bool(groups)),
            acts=(Quantize(recipe=recipe, holdout=groups, targets=which.targets, ignore=which.ignore),),
        )
        for recipe in kept
        for groups in dict.fromkeys(((), held))
    ]


def _describe_rounding(arm: Arm, quality: Quality, checkpoint: Checkpoint, located: bool) -> ComparedQuantizer:
    (act,) = (act for act in arm.acts if isinstance(act, Quantize))
    seconds, peak = _time_rounding(arm, checkpoint)
    bits, left = count_stored_bits(act, checkpoint.layers)
    return ComparedQuantizer(
        method=ROUND_TO_NEAREST,
        settings=str(act.recipe),
        hold_out="held" if act.holdout else "none" if located else "nothing-to-hold",
        what="round-to-nearest, simulated",
        arm=arm.name,
        quality=quality,
        bits_per_weight=bits,
        seconds=seconds,
        peak_bytes=peak,
        left_alone=left,
    )


def _time_rounding(arm: Arm, checkpoint: Checkpoint) -> tuple[float, int]:
    """Round every layer once more for the clock, and one of each shape for the memory that it takes."""
    spare, seconds, peak, measured = SpareTensors(), 0.0, 0, set()
    for layer in checkpoint.layers:
        shape = tuple(sorted(matrix.shape for matrix in layer.matrices))
        if shape not in measured:
            measured.add(shape)
            peak = max(peak, measure_peak(partial(_round_once, arm, layer))[1])
        started = time.perf_counter()
        with applied_arm(arm, layer, NOTHING_SEEN, spare):
            seconds += time.perf_counter() - started
    return seconds, peak


def _round_once(arm: Arm, layer: DecoderLayer) -> None:
    with applied_arm(arm, layer, NOTHING_SEEN):
        pass


def _any_searches(arms: Iterable[Arm]) -> bool:
    acts = [act for arm in arms for act in arm.acts if isinstance(act, Quantize)]
    return any(act.recipe.weighs_columns for act in acts)


def rate_quality(measured: Measurement, baseline: Measurement, policy: Policy) -> Quality:
    """Rate one arm beside the model as it is.

    The interval is that of every verdict, paired window by window. With fewer windows than the policy wants for an
    interval there is none.

    Args:
        measured: The arm; may be the baseline itself.
        baseline: The model as it is, under the same protocol.
        policy: How sure intervals are.

    Raises:
        ValueError: If the two were not scored on the same tokens.
    """
    loss, base = measured.loss, baseline.loss
    if measured.protocol != baseline.protocol or loss.tokens != base.tokens:
        raise ValueError(f"arm {measured.arm.name!r} was not scored on the baseline's tokens")
    ratio = low = high = None
    if loss.perplexity is not None and base.perplexity is not None:
        bounds = bound_perplexity_ratio(loss.finite_nats, base.finite_nats, loss.tokens, policy.confidence)
        ratio, low, high = map(keep_finite, bounds)
        if len(loss.tokens) < policy.minimum_windows:
            low = high = None
    return Quality(
        perplexity=loss.perplexity,
        ratio=ratio,
        low=low,
        high=high,
        divergence=measured.agreement.mean_divergence,
        top1=measured.agreement.top1,
        accuracy=None if measured.choices is None else measured.choices.accuracy,
    )
