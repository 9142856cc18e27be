"""One model beside its parent: what it kept, what it costs, and what putting parts of the parent back recovers."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property, partial

from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.checkpoint.quantization import describe_quantization
from sw_audit.checkpoint.streaming import CannotStreamError, open_streaming
from sw_audit.checks.recovery_plan import RecoveryPlan
from sw_audit.checks.registry import Need, list_needs
from sw_audit.corpus.protocol import list_cautions
from sw_audit.corpus.text import read_corpus
from sw_audit.corpus.windows import window_corpus
from sw_audit.errors import CheckpointError
from sw_audit.locate.controls import count_weights
from sw_audit.locate.locator import DEFAULT_PROMPT, encode_prompt, locate_super_weights
from sw_audit.locate.weight_norms import predict_from_weights
from sw_audit.measure.descent import (
    SharedText,
    compare_on_text,
    list_differences,
    rank_modules,
    restore_module,
    restore_super_weights,
    share_text,
)
from sw_audit.measure.generation import (
    GreedyContinuation,
    Prompt,
    draw_prompts,
    generate_continuations,
    pair_continuations,
)
from sw_audit.measure.retention import (
    compare_with_baseline,
    follow_retained_activations,
    is_alike,
    read_retained_weights,
    translate_address,
)
from sw_audit.measure.start import try_starts
from sw_audit.measure.tasks import Answers, answer_tasks, pair_answers
from sw_audit.policy.policy import CorpusPolicy, ModelPolicy
from sw_audit.record.descent import ComparedText, Descent, LayerError
from sw_audit.record.identity import ModelIdentity
from sw_audit.record.location import Location, Outcome
from sw_audit.record.measurement import Measurement
from sw_audit.record.record import ModelFailure, ModelResult
from sw_audit.record.store import find_baseline
from sw_audit.runner.single import ModelAudit, locate_model
from sw_audit.runner.weights import examine_files, open_examined

RANKED = 16
"""So many of the modules that differ most are named."""


class Pair:
    """The audit of a descendant and its parent, each opened when it is first asked for.

    Attributes:
        audit: The audit; its model is the descendant.
        origin: What the model was made from.
    """

    def __init__(self, audit: ModelAudit, origin: ModelPolicy, checkpoint: Checkpoint | None = None) -> None:
        self.audit = audit
        self.origin = origin
        self._given = checkpoint

    @property
    def is_open(self) -> bool:
        """Whether the descendant was open before."""
        return self._given is not None

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The descendant as a whole."""
        return self._given or open_checkpoint(self.audit.model)

    @cached_property
    def parent(self) -> Checkpoint:
        """The parent, each of whose layers is in memory only while it runs."""
        return open_by_layers(self.origin).starting(self.audit.policy.bos_rule(self.origin))

    def share(self, text: CorpusPolicy) -> SharedText:
        """Cut a text for both, BOS before each window as it is used for the parent."""
        parent = self.parent.starting(self.audit.policy.bos_rule(self.origin, text))
        return share_text(parent, self.checkpoint.starting_like(parent), text, self.audit.policy.seed)


@dataclass(frozen=True)
class ParentResult:
    """What is known of a parent once it has been let go.

    Attributes:
        identity: Which model it is.
        location: Where its super weights are.
        prompts: Prompts; none where nothing is generated.
        continuations: What it goes on with after each.
        answers: What it answers to each task; none where no tasks are asked for.
    """

    identity: ModelIdentity
    location: Location
    prompts: tuple[Prompt, ...] = ()
    continuations: tuple[GreedyContinuation, ...] = ()
    answers: tuple[Answers, ...] = ()


@dataclass(frozen=True)
class Recovery:
    """What putting modules of the parent back into a descendant recovers.

    Attributes:
        worst_modules: The modules that differ most, with their relative error, worst first.
        measurements: The first text, one measurement per module that was put back.
        seconds: Time spent.
    """

    worst_modules: tuple[tuple[str, float | None], ...] = ()
    measurements: tuple[Measurement, ...] = ()
    seconds: float = 0.0


def measure_pair(pair: Pair) -> ModelResult | ModelFailure:
    """Hold a model beside its parent.

    1. The model's files are looked at; unless they are intact nothing is opened.
    2. The parent is opened, asked what only a whole model can answer, and let go.
    3. The model is opened.
    4. The parent comes back layer by layer beside it.

    So two whole models are never in memory, unless the parent's format cannot be read by layers.

    Returns:
        What was measured, or why the model's weights are not fit to be opened.

    Raises:
        InputError: If a model or a text cannot be used.
    """
    started, audit, model = time.perf_counter(), pair.audit, pair.audit.model
    audit.progress("inspecting", 0, 1)
    report = examine_files(model)
    if isinstance(report, ModelFailure):
        return report
    ask_parent = partial(measure_parent, pair.origin, audit, by_layers=pair.is_open)
    origin = audit.kept.recall("parent", audit.kept.parent, ParentResult, ask_parent)
    audit.progress("opening", 0, 1)
    opened = open_examined(model, report, lambda: pair.checkpoint)
    if isinstance(opened, ModelFailure):
        return opened
    result = _measure_beside(pair, origin)
    return result.model_copy(update={"weights": report, "seconds": time.perf_counter() - started})


def measure_parent(model: ModelPolicy, audit: ModelAudit, *, by_layers: bool = False) -> ParentResult:
    """Open a parent, ask it what a whole model is needed for, and let it go.

    With `by_layers` each of its layers is in memory only while it runs, for another model is there already.

    Raises:
        InputError: If it, or the text, cannot be used.
    """
    policy, progress = audit.policy, audit.progress
    text, needs = read_corpus(policy.corpus), list_needs(audit.checks)
    progress("opening the parent", 0, 1)
    parent = open_by_layers(model, digest=True) if by_layers else open_checkpoint(model)
    parent = parent.starting(policy.bos_rule(model))
    progress("locating in the parent", 0, 1)
    location = predict_from_weights(parent.layers, locate_super_weights(parent))
    answers = answer_tasks(parent, policy.descent) if Need.TASKS in needs else ()
    result = ParentResult(parent.identity, location, answers=answers)
    if Need.GENERATION not in needs:
        return result
    limit = parent.maximum_positions
    windows = window_corpus(text, parent.tokenizer, policy.corpus, limit, parent.start.bos)
    prompts = draw_prompts(windows, parent.tokenizer, policy.descent, limit)
    return replace(result, prompts=prompts, continuations=generate_continuations(parent, prompts, progress))


def open_by_layers(model: ModelPolicy, *, digest: bool = False) -> Checkpoint:
    """Open a model so that each layer is in memory only while it runs; as a whole where that cannot be.

    Raises:
        CheckpointError: If it cannot be opened as it should be.
    """
    try:
        return open_streaming(model, digest=digest)
    except CannotStreamError:
        return open_checkpoint(model)


def _measure_beside(pair: Pair, origin: ParentResult) -> ModelResult:
    parent, there = pair.parent, origin.location
    checkpoint = pair.checkpoint.starting_like(parent)
    policy, progress, kept = pair.audit.policy, pair.audit.progress, pair.audit.kept
    texts = [pair.share(text) for text in (policy.corpus, *policy.descent.texts)]
    progress("locating", 0, 1)
    location, trial = _locate(checkpoint), try_starts(checkpoint, texts[0].windows)
    continuations = generate_continuations(checkpoint, origin.prompts, progress)
    answers = answer_tasks(checkpoint, policy.descent) if origin.answers else ()
    restored = restore_super_weights(parent, checkpoint, there.super_weights)
    layered = Need.LAYERS in list_needs(pair.audit.checks)
    compare = partial(compare_on_text, parent, checkpoint)
    arms = [restored] if restored else []
    compared = [
        kept.recall(
            "text",
            {"stage": number, **kept.result},
            tuple[ComparedText, tuple[LayerError, ...]],
            partial(compare, text, arms, progress, layers=layered and not number),
        )
        for number, text in enumerate(texts)
    ]
    baseline = find_baseline(policy, pair.audit.model)
    return ModelResult(
        model=checkpoint.identity,
        protocol=texts[0].protocol,
        location=location,
        start=trial,
        quantization=describe_quantization(checkpoint, pair.audit.model, there.super_weights),
        descent=Descent(
            parent=origin.identity,
            parent_location=there,
            super_weights=read_retained_weights(parent, checkpoint, there.super_weights),
            super_activations=follow_retained_activations(parent, checkpoint, there),
            texts=tuple(text for text, _ in compared),
            layers=compared[0][1],
            continuations=pair_continuations(origin.prompts, origin.continuations, continuations),
            tasks=pair_answers(origin.answers, answers),
            notes=tuple(list_differences(parent, checkpoint, origin.identity)),
        ),
        baseline=baseline and compare_with_baseline(checkpoint, location, baseline),
        decoder_weights=count_weights(checkpoint.layers),
        notes=list_cautions(read_corpus(policy.corpus), checkpoint.tokenizer, checkpoint.vocabulary, trial),
    )


def measure_recovery(pair: Pair, result: ModelResult, plan: RecoveryPlan) -> Recovery:
    """Measure on the first text what the parent's own modules recover, or recall it."""
    kept = pair.audit.kept
    make = partial(_put_modules_back, pair, result, plan)
    return kept.recall("recovery", {"plan": plan.model_dump(mode="json"), **kept.result}, Recovery, make)


def add_recovery(result: ModelResult, recovery: Recovery) -> ModelResult:
    """Return the model with what putting modules back recovers."""
    descent = result.descent
    if descent is None:
        return result
    first, *others = descent.texts
    first = first.model_copy(update={"measurements": (*first.measurements, *recovery.measurements)})
    update = {"texts": (first, *others), "worst_modules": recovery.worst_modules}
    seconds = result.seconds + recovery.seconds
    return result.model_copy(update={"descent": descent.model_copy(update=update), "seconds": seconds})


def _put_modules_back(pair: Pair, result: ModelResult, plan: RecoveryPlan) -> Recovery:
    started = time.perf_counter()
    parent, checkpoint = pair.parent, pair.checkpoint
    if result.descent is None or not is_alike(parent, checkpoint):
        return Recovery()
    ranked = rank_modules(parent, checkpoint, result.descent.parent_location.addresses)
    lost = [translate_address(parent, checkpoint, address) for address in plan.lost]
    names = [address.parameter.rpartition(".")[0] for address in lost if address is not None]
    names += [name for name, error in ranked if error != 0]
    arms = [restore_module(name) for name in list(dict.fromkeys(names))[: plan.modules]]
    text = pair.share(pair.audit.policy.corpus)
    compared, _ = compare_on_text(parent, checkpoint, text, arms, pair.audit.progress)
    return Recovery(tuple(ranked[:RANKED]), compared.measurements[2:], time.perf_counter() - started)


def _locate(checkpoint: Checkpoint) -> Location:
    """Locate the descendant's own super weights; one that is not finite has none, and the checks will say why."""
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
