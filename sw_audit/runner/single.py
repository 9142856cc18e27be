"""One model by itself: where its super weights are, and what it is worth in every arm that is asked for."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from sw_audit.arms.rounding import count_stored_bits
from sw_audit.checkpoint.budget import open_within
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.checks.arms import ArmTargets
from sw_audit.checks.judging import judge_result
from sw_audit.checks.plan import CHOICE_ARMS, Needs, plan_arms, plan_needs, plan_trials
from sw_audit.checks.registry import Need, list_needs
from sw_audit.checks.super_activation_persists import SuperActivationPersistsLimits
from sw_audit.corpus.choices import ChoiceItem, list_stop_words, read_choices, stop_word_ids
from sw_audit.corpus.looks import plan_looks
from sw_audit.corpus.protocol import describe_protocol, list_cautions
from sw_audit.corpus.text import read_corpus
from sw_audit.corpus.windows import (
    Windows,
    cut_calibration,
    draw_prompts,
    window_corpus,
    window_prompt,
)
from sw_audit.critical.search import search_by_policy
from sw_audit.errors import CheckpointError
from sw_audit.index.lookup import find_policy_model, list_dose_curves, open_index
from sw_audit.locate.controls import count_weights, draw_placebos, find_involved, find_largest_weights
from sw_audit.locate.locator import DEFAULT_PROMPT, encode_prompt, locate_super_weights
from sw_audit.locate.rotation import recognize_rotation
from sw_audit.locate.trace import trace_prompts
from sw_audit.locate.weight_norms import predict_from_weights
from sw_audit.measure.activation_setup import prepare_activations
from sw_audit.measure.arms import Calibrations, measure_arms
from sw_audit.measure.calibration import calibrate_on_prompt
from sw_audit.measure.experts import study_experts
from sw_audit.measure.generation import continue_prompts
from sw_audit.measure.keys import read_keys
from sw_audit.measure.maps import read_neighbourhoods
from sw_audit.measure.mechanism import follow_super_activations
from sw_audit.measure.retention import compare_with_baseline
from sw_audit.measure.routing import follow_routing
from sw_audit.measure.start import try_starts
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.policy.targets import PatternMatch, match_targets
from sw_audit.progress import Progress, ignore_progress, tell_stage
from sw_audit.record.arm import (
    BASELINE,
    PRUNED,
    Arm,
    Dose,
    Purpose,
    Quantize,
    QuantizeActivations,
    Rounding,
    Smooth,
)
from sw_audit.record.location import Depth, Location, Outcome, PromptTrace
from sw_audit.record.measurement import Look, Measurement
from sw_audit.record.record import ModelFailure, ModelResult
from sw_audit.record.store import find_baseline
from sw_audit.runner.cache import NO_CACHE, ArmCache
from sw_audit.runner.in_engine import EngineRun, count_positions
from sw_audit.runner.steps import list_open_arms, list_waiting, waits_for_items
from sw_audit.runner.weights import examine_weights, open_examined
from sw_audit.stopping import StoppedError
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
        saved: Whether the model is to be a baseline for others: then it is measured on the whole text as it is.
    """

    model: ModelPolicy
    policy: Policy
    checks: Sequence[str]
    progress: Progress = ignore_progress
    kept: ArmCache = NO_CACHE
    saved: bool = False


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


@dataclass(frozen=True)
class Prepared:
    """Everything that is found out about a model before its arms are measured.

    Attributes:
        result: The model, no arm measured yet.
        arms: The arms that the selected checks read, the baseline first.
        whole: All windows and items that there are.
    """

    result: ModelResult
    arms: tuple[Arm, ...]
    whole: Look


@dataclass(frozen=True)
class OpenModel:
    """A model ready to be measured on its text.

    Attributes:
        checkpoint: The model.
        whole: The text in windows of full length.
        windows: The text as it is measured.
        items: Multiple-choice items, none where no check asks for them.
        unscored: Text to calibrate on, if there is any.
    """

    checkpoint: Checkpoint
    whole: Windows
    windows: Windows
    items: tuple[ChoiceItem, ...]
    unscored: Windows | None


class Single:
    """The audit of one model by itself, which is opened when something has to be measured.

    Attributes:
        audit: What is asked.
        needs: What the selected checks need to know besides arms.
        run: The model in its engine, once it is open; `None` in transformers.
    """

    def __init__(self, audit: ModelAudit, checkpoint: Checkpoint | None = None) -> None:
        self.audit = audit
        self.needs = list_needs(audit.checks)
        self.run: EngineRun | None = None
        self._given = checkpoint
        self._calibrations: Calibrations | None = None

    @property
    def answering(self) -> tuple[Purpose, ...]:
        """The arms, besides the baseline, in which items are answered: in steps those that a verdict reads."""
        return CHOICE_ARMS if self.audit.policy.effort == "thorough" else (PRUNED,)

    @cached_property
    def opened(self) -> OpenModel:
        """The open model with its text and items."""
        audit, policy = self.audit, self.audit.policy
        audit.progress("opening", 0, 1)
        opened = self._given or open_within(audit.model, policy.memory)
        checkpoint, text = opened.starting(policy.bos_rule(audit.model)), read_corpus(policy.corpus)
        reserved, tokenizer = policy.activations.calibration_windows, checkpoint.tokenizer
        cut = partial(
            window_corpus, text, tokenizer, policy.corpus, checkpoint.maximum_positions, checkpoint.start.bos
        )
        whole = cut()
        windows = whole if policy.effort == "thorough" else cut(short=True, reserved=reserved)
        unscored = cut_calibration(text, tokenizer, windows, reserved)
        if audit.model.in_engine:
            positions = count_positions(whole, policy.descent, checkpoint.maximum_positions)
            self.run = EngineRun(audit.model, checkpoint, positions)
        items = read_choices(policy.corpus) if Need.CHOICES in self.needs else None
        return OpenModel(checkpoint, whole, windows, items or (), unscored)

    def _calibrate(self, location: Location) -> Calibrations:
        """Return the text that acts learn from; where there is none it is the locating prompt."""
        if self._calibrations is None:
            self._calibrations = Calibrations(self.opened.unscored or window_prompt(location.token_ids))
        return self._calibrations

    def prepare(self) -> Prepared | ModelFailure:
        """Find out everything but what the arms are worth, or why the model's weights are not fit to be opened."""
        audit, model, policy = self.audit, self.audit.model, self.audit.policy
        progress = audit.progress
        text = read_corpus(policy.corpus)
        progress("inspecting", 0, 1)
        report = examine_weights(model, self._given, progress)
        if isinstance(report, ModelFailure):
            return report
        opened = open_examined(model, report, lambda: self.opened)
        if isinstance(opened, ModelFailure):
            return opened
        checkpoint, windows, unscored = opened.checkpoint, opened.windows, opened.unscored
        tokenizer = checkpoint.tokenizer
        protocol = describe_protocol(
            text, windows, tokenizer, checkpoint.identity.dtype, policy.seed, audit.model.engine
        )
        trial = try_starts(checkpoint, opened.whole)
        progress("locating", 0, 1)
        location = locate_or_explain(checkpoint)
        weights = count_weights(checkpoint.layers)
        needs = plan_needs(policy, audit.checks, weights)
        progress("drawing controls", 0, 1)
        search = None
        if Need.CRITICAL in needs:
            named = text.identity.name
            location, search = search_by_policy(
                checkpoint, windows, location, policy, name=named, progress=progress
            )
        roles = _select_targets(checkpoint, location, needs, policy.seed)
        experts = study_experts(checkpoint, windows, location, search, policy) if Need.ROUTING in needs else None
        if experts is not None:
            roles = replace(roles, experts=experts.tried)
        progress("preparing activations", 0, 1)
        setup = (
            prepare_activations(checkpoint, location.token_ids, unscored, plan_trials(policy, audit.checks, roles))
            if Need.ACTIVATIONS in needs
            else None
        )
        arms = plan_arms(policy, audit.checks, roles, setup) if self.run is None else self.run.arms
        if experts is not None and unscored is not None and _learns(arms):
            experts = experts.model_copy(update={"calibration": follow_routing(checkpoint, unscored)})
        lookup = find_policy_model(policy, model, checkpoint.identity.digests)
        followed = Need.PERSISTENCE in needs and location.outcome is Outcome.LOCATED
        baseline, law = find_baseline(policy, model), policy.checks[SuperActivationPersistsLimits]
        progress("following super activations", 0, 1)
        mechanism, activation_map = (
            follow_super_activations(checkpoint, location) if Need.MECHANISM in needs else ((), None)
        )
        result = ModelResult(
            model=checkpoint.identity,
            protocol=protocol,
            location=location,
            start=trial,
            critical=search,
            experts=experts,
            persistence=_follow(checkpoint, location, windows, policy) if followed else (),
            prompt_search=search_prompts(checkpoint, location, law.examples, law.tolerance, policy.seed)
            if followed
            else None,
            continuations=continue_prompts(
                checkpoint,
                opened.whole,
                policy.descent,
                progress,
                None if self.run is None else self.run.continue_prompts,
            )
            if Need.GENERATION in needs
            else (),
            mechanism=mechanism,
            activation_map=activation_map,
            neighbourhoods=read_neighbourhoods(checkpoint, location.super_weights),
            bits_per_weight=_count_bits(arms, checkpoint),
            published_doses=list_dose_curves(open_index(policy.index), lookup.model)
            if any(isinstance(arm.purpose, Dose) for arm in arms)
            else (),
            published=lookup if Need.PUBLISHED in needs else None,
            activations=setup,
            targets=_match_targets(checkpoint, arms, policy),
            weights=report,
            engine=self.run and self.run.describe(text.text),
            attention_keys=read_keys(checkpoint, location.token_ids) if Need.KEYS in needs else None,
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
        )
        return Prepared(result, arms, Look(windows=len(windows.token_ids), items=len(opened.items)))

    def measure(
        self, arms: Sequence[Arm], result: ModelResult, begin: Look, end: Look, progress: Progress
    ) -> tuple[Measurement, ...]:
        """Measure some arms, the baseline first, on the windows and items between two looks."""
        opened, signature = self.opened, result.protocol.signature
        part = opened.windows.part(begin.windows, end.windows)
        stop_words = stop_word_ids(list_stop_words(self.audit.policy.corpus), opened.checkpoint.tokenizer)
        if self.run is not None:
            measured = self.run.measure([arm.purpose for arm in arms], part, signature, stop_words, progress)
            return tuple(measured[arm.purpose] for arm in arms)
        return measure_arms(
            opened.checkpoint,
            arms,
            part,
            protocol=signature,
            choices=opened.items[begin.items : end.items],
            choice_arms=self.answering,
            stop_words=stop_words,
            calibration=self._calibrate(result.location) if _learns(arms) else None,
            progress=progress,
        )


def measure_single(audit: ModelAudit, checkpoint: Checkpoint | None = None) -> ModelResult | ModelFailure:
    """Find and measure everything that the selected checks need to know about one model; it may be open already.

    The text is measured in steps: after each the checks judge, and only arms that an undecided verdict waits for
    go on. Under `effort = "thorough"` there is one step, the whole text.

    Returns:
        What was measured, or why the model's weights are not fit to be opened.

    Raises:
        InputError: If the model or the text cannot be used.
    """
    single = Single(audit, checkpoint)
    try:
        return _measure(single)
    finally:
        if single.run is not None:
            single.run.close()


def _measure(single: Single) -> ModelResult | ModelFailure:
    started, audit = time.perf_counter(), single.audit
    recalled = audit.kept.find("prepared", audit.kept.result, Prepared)
    prepared = recalled or single.prepare()
    if isinstance(prepared, ModelFailure):
        return prepared
    if recalled is None:
        audit.kept.keep("prepared", audit.kept.result, prepared)
    result = _measure_steps(single, prepared)
    return result.model_copy(update={"seconds": time.perf_counter() - started})


def _measure_steps(single: Single, prepared: Prepared) -> ModelResult:
    """Measure the arms step by step, until no verdict is undecided that more text or items may settle."""
    audit, policy, whole = single.audit, single.audit.policy, prepared.whole
    window = prepared.result.protocol.window
    looks = (
        (whole,)
        if policy.effort == "thorough"
        else plan_looks(whole.windows, window, whole.items, policy.minimum_windows)
    )
    steps = Steps(single, prepared)
    result = prepared.result.model_copy(update={"looks": looks if len(looks) > 1 else ()})
    names, items, going = {arm.name for arm in prepared.arms}, whole.items > 0, True
    for number, look in enumerate(looks):
        stage = "measuring" if len(looks) == 1 else f"measuring, step {number + 1} of at most {len(looks)}"
        try:
            steps.measure(names, look if items else look.model_copy(update={"items": steps.items}), stage)
        except StoppedError as stopped:
            if not number:
                raise
            return result.model_copy(update={"stopped": stopped.reason})
        result = result.model_copy(update={"measurements": steps.list_measurements()})
        # What is saved goes on to the end as it is, in the baseline alone, once nothing waits for it.
        waiting = list_waiting(judge_result(result, policy, audit.checks)) if going else []
        if not audit.model.in_engine or not waiting:
            names = list_open_arms(waiting)  # in an engine the arms are held against each other: all go on
        items, going = waits_for_items(waiting), bool(waiting)
        if not going and not audit.saved:
            break
    return result


class Steps:
    """What has been measured of each arm so far; the baseline has come as far as any arm.

    Attributes:
        items: How many items were answered.
    """

    def __init__(self, single: Single, prepared: Prepared) -> None:
        self._single, self._prepared = single, prepared
        self._measured: dict[str, Measurement] = {}
        self._windows: dict[str, int] = {}
        self.items = 0

    def list_measurements(self) -> tuple[Measurement, ...]:
        """Return what was measured, in the order of the arms."""
        return tuple(self._measured[arm.name] for arm in self._prepared.arms if arm.name in self._measured)

    def measure(self, names: Collection[str], look: Look, stage: str) -> None:
        """Take some arms, and the baseline, up to a look."""
        baseline, *others = self._prepared.arms
        chosen = [arm for arm in others if arm.name in names]
        begins = dict.fromkeys(self._windows.get(arm.name, 0) for arm in (baseline, *chosen))
        for begin in sorted(begins):
            arms = [baseline, *(arm for arm in chosen if self._windows.get(arm.name, 0) == begin)]
            if begin < look.windows or (begin == self._windows.get(baseline.name, 0) and self.items < look.items):
                self._measure_from(Look(windows=begin, items=self.items), look, arms, stage)
        self.items = max(self.items, look.items)

    def _measure_from(self, begin: Look, end: Look, arms: Sequence[Arm], stage: str) -> None:
        audit, result = self._single.audit, self._prepared.result
        measured = audit.kept.recall_arms(
            arms,
            lambda some: self._single.measure(some, result, begin, end, tell_stage(audit.progress, stage)),
            model_id=audit.model.id,
            protocol=result.protocol.signature,
            answering=(BASELINE.purpose, *self._single.answering) if end.items > begin.items else (),
            begin=begin,
            end=end,
        )
        for arm, one in zip(arms, measured, strict=True):
            known = self._windows.get(arm.name, 0)
            if known == begin.windows:
                self._measured[arm.name] = self._measured[arm.name] + one if known else one
                self._windows[arm.name] = end.windows


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


def _learns(arms: Sequence[Arm]) -> bool:
    """Whether an act of some arm learns from calibration text."""
    acts = [act for arm in arms for act in arm.acts]
    return any(
        isinstance(act, QuantizeActivations | Smooth) or (isinstance(act, Quantize) and act.recipe.weighs_columns)
        for act in acts
    )


def _match_targets(checkpoint: Checkpoint, arms: Sequence[Arm], policy: Policy) -> tuple[PatternMatch, ...]:
    """Prove that each pattern on the matrices to round matches some, where any arm rounds matrices."""
    names = [matrix.parameter for layer in checkpoint.layers for matrix in layer.matrices]
    which = policy.quantization
    rounds = any(isinstance(act, Quantize) for arm in arms for act in arm.acts)
    return match_targets(names, which.targets, which.ignore) if rounds and (names or which.targets) else ()


def _count_bits(arms: Sequence[Arm], checkpoint: Checkpoint) -> dict[str, float]:
    """Count what each recipe would store, by the name of the arm that rounds by it."""
    return {
        arm.name: count_stored_bits(act, checkpoint.layers)[0]
        for arm in arms
        for act in arm.acts
        if isinstance(arm.purpose, Rounding) and isinstance(act, Quantize)
    }


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
