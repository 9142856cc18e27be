"""One model beside its parent: what it kept, what it costs, and what putting parts of the parent back recovers."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial

from sw_audit.checkpoint.budget import open_within
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.checkpoint.quantization import describe_quantization
from sw_audit.checks.critical_scalars_retained import CriticalScalarsRetainedLimits
from sw_audit.checks.judging import judge_result
from sw_audit.checks.recovery_plan import RecoveryPlan
from sw_audit.checks.registry import Need, list_needs
from sw_audit.corpus.looks import plan_looks
from sw_audit.corpus.protocol import list_cautions
from sw_audit.corpus.text import read_corpus
from sw_audit.corpus.windows import window_corpus
from sw_audit.critical.search import search_by_policy
from sw_audit.errors import CheckpointError
from sw_audit.files.compare import compare_files
from sw_audit.locate.controls import count_weights
from sw_audit.locate.locator import locate_super_weights
from sw_audit.locate.weight_norms import predict_from_weights
from sw_audit.measure.answer_lengths import pair_lengths, write_chat_prompts
from sw_audit.measure.critical_scalars import read_critical_scalars, restore_scalars
from sw_audit.measure.decisions import Margins, Questions, measure_margins, pair_decisions
from sw_audit.measure.descent import (
    SharedText,
    compare_on_text,
    list_differences,
    rank_modules,
    restore_parts,
    restore_super_weights,
    restore_together,
    share_text,
)
from sw_audit.measure.generation import (
    GreedyContinuation,
    Prompt,
    draw_prompts,
    generate_continuations,
    pair_continuations,
)
from sw_audit.measure.keys import read_keys
from sw_audit.measure.parent_passes import MOST_BYTES, ParentPasses
from sw_audit.measure.retention import (
    compare_with_baseline,
    follow_retained_activations,
    read_retained_weights,
    translate_address,
)
from sw_audit.measure.start import try_starts
from sw_audit.measure.tasks import Answers, answer_tasks, pair_answers
from sw_audit.policy.policy import CorpusPolicy, ModelPolicy, Policy
from sw_audit.progress import Progress, tell_stage
from sw_audit.record.arm import DESCENDANT, PARENT, PARENT_DEQUANTIZED, Arm, Purpose
from sw_audit.record.checkpoint import WeightsReport
from sw_audit.record.critical import CriticalSearch
from sw_audit.record.descent import ComparedText, Descent, LayerError
from sw_audit.record.files import ComparedFiles
from sw_audit.record.identity import ModelIdentity
from sw_audit.record.location import Location
from sw_audit.record.measurement import Look, Measurement
from sw_audit.record.record import ModelFailure, ModelResult
from sw_audit.record.store import find_baseline
from sw_audit.runner.decisions import prepare_decisions
from sw_audit.runner.in_engine import EngineRun, count_positions
from sw_audit.runner.single import ModelAudit, locate_or_explain
from sw_audit.runner.steps import list_waiting
from sw_audit.runner.weights import examine_weights, open_examined
from sw_audit.stopping import StoppedError

RANKED = 16
"""So many of the modules that differ most are named."""
_DECIDED = ("Decisions are read from the files in transformers, not in the engine.",)
_PASSES = 8
"""One part in so many of a budget of memory is taken to keep what the parent gave on texts."""
_OWN = 2
"""Measurements of a text that come before those with parts put back: the parent's and the descendant's."""


class Parents:
    """Parents of one run: the last one stays open for the descendants that follow.

    One that can be read by layers has each layer in memory only while it runs; any other is there as a whole.

    Attributes:
        passes: What it gave on the texts.
    """

    def __init__(self) -> None:
        self.passes = ParentPasses()
        self._asked: dict[Hashable, ParentResult] = {}
        self._last: tuple[ModelPolicy, Checkpoint, bool] | None = None
        self._state = ""

    def let_go_unless(self, state: str) -> None:
        """Let go of the parent that is open unless its files are in the same state as before it was opened."""
        if state != self._state:
            self._last, self._state = None, state

    def open(self, model: ModelPolicy, budget: int | None = None) -> tuple[Checkpoint, bool]:
        """Open a parent within a budget of memory, in bytes, and say whether it is there as a whole.

        Raises:
            CheckpointError: If it cannot be opened as it should be, or does not fit.
        """
        if self._last is None or self._last[0] != model:
            kept = MOST_BYTES if budget is None else min(MOST_BYTES, budget // _PASSES)
            self._last, self.passes, self._asked = None, ParentPasses(kept), {}
            checkpoint = open_within(model, budget, streamed=True)
            self._last = model, checkpoint, not checkpoint.streamed
        return self._last[1:]

    def ask(self, model: ModelPolicy, audit: ModelAudit, *, by_layers: bool) -> ParentResult:
        """Return what `measure_parent` finds; of the parent that is open what it found before."""
        question = (audit.policy.corpus, frozenset(list_needs(audit.checks)), by_layers)
        self.open(model, audit.policy.memory)
        if question not in self._asked:
            self._asked[question] = measure_parent(model, audit, self, by_layers=by_layers)
        return self._asked[question]


class Pair:
    """The audit of a descendant and its parent, each opened when it is first asked for.

    Attributes:
        audit: The audit; its model is the descendant.
        origin: What the model was made from.
        parents: Where it may be open already.
        given: The descendant, if it was open before.
    """

    def __init__(
        self,
        audit: ModelAudit,
        origin: ModelPolicy,
        checkpoint: Checkpoint | None = None,
        parents: Parents | None = None,
    ) -> None:
        self.audit = audit
        self.origin = origin
        self.parents = parents or Parents()
        self.given = checkpoint

    @property
    def in_place(self) -> bool:
        """Whether the descendant is a model in memory, of which there are no files."""
        return self.given is not None and self.given.identity.in_place

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The descendant, as a whole where it fits into memory beside a layer of its parent."""
        policy = self.audit.policy
        return self.given or open_within(self.audit.model, policy.memory, beside=self.origin)

    @cached_property
    def parent(self) -> Checkpoint:
        """The parent, each of whose layers is in memory only while it runs."""
        policy = self.audit.policy
        return self.parents.open(self.origin, policy.memory)[0].starting(policy.bos_rule(self.origin))

    def ask_parent(self) -> ParentResult:
        """Return what is found out about the parent alone, which serves every descendant of it."""
        audit = self.audit
        ask = partial(self.parents.ask, self.origin, audit, by_layers=self.given is not None)
        return audit.kept.recall_shared("parent", audit.kept.parent, ParentResult, ask, audit.progress)

    def share(self, text: CorpusPolicy, *, short: bool = False) -> SharedText:
        """Cut a text for both, BOS before each window as for the parent; of `short` see `window_corpus`."""
        policy, engine = self.audit.policy, self.audit.model.engine
        parent = self.parent.starting(policy.bos_rule(self.origin, text))
        descendant = self.checkpoint.starting_like(parent)
        return share_text(parent, descendant, text, policy.seed, engine, short=short)

    @cached_property
    def run(self) -> EngineRun | None:
        """Both in their engines; `None` where the descendant is measured in transformers."""
        audit = self.audit
        if not audit.model.in_engine:
            return None
        longest = max((text.windows for text in self.texts), key=lambda windows: windows.token_ids.shape[1])
        checkpoints = (self.parent, self.checkpoint)
        limits = [one.maximum_positions for one in checkpoints if one.maximum_positions is not None]
        positions = count_positions(longest, audit.policy.descent, min(limits, default=None))
        return EngineRun(audit.model, self.checkpoint, positions, self.origin, self.parent)

    @cached_property
    def texts(self) -> list[SharedText]:
        """Every text that both are measured on, the policy's own first.

        In steps of evidence that one comes in short windows, and once more in windows of full length: some damage
        shows only at positions beyond the short ones.
        """
        policy = self.audit.policy
        if policy.effort == "thorough":
            return [self.share(text) for text in (policy.corpus, *policy.descent.texts)]
        short, *others = [self.share(text, short=True) for text in (policy.corpus, *policy.descent.texts)]
        whole = self.share(policy.corpus)
        if whole.protocol.windows < policy.minimum_windows:  # as long as gives an interval
            window = max(2, whole.protocol.window * whole.protocol.windows // policy.minimum_windows)
            cut = {"window": window, "windows": policy.minimum_windows, "stride": None}
            whole = self.share(policy.corpus.model_copy(update=cut))
        return [short, *([whole] if whole.protocol.window > short.protocol.window else []), *others]


@dataclass(frozen=True)
class ParentResult:
    """What is known of a parent once it has been let go.

    Attributes:
        identity: Which model it is.
        location: Where its super weights are.
        prompts: Prompts; none where nothing is generated.
        continuations: What it goes on with after each.
        chat_prompts: Chat prompts; none where the length of answers is not measured.
        chat_answers: What it answers to each.
        unasked: Why there are no chat prompts, if they were asked for.
        answers: What it answers to each task; none where no tasks are asked for.
        critical: The search for its critical scalars; `None` where there was none.
        questions: What it is asked to decide; none where nobody asks.
        margins: How clearly it decides each.
    """

    identity: ModelIdentity
    location: Location
    prompts: tuple[Prompt, ...] = ()
    continuations: tuple[GreedyContinuation, ...] = ()
    chat_prompts: tuple[Prompt, ...] = ()
    chat_answers: tuple[GreedyContinuation, ...] = ()
    unasked: str = ""
    answers: tuple[Answers, ...] = ()
    critical: CriticalSearch | None = None
    questions: tuple[Questions, ...] = ()
    margins: tuple[Margins, ...] = ()


@dataclass(frozen=True)
class PreparedPair:
    """Everything that is found out about a model beside its parent before both are measured on text.

    Attributes:
        result: The model; its texts hold no measurements yet.
        parts: Arms of the descendant with parts of the parent put back.
        scalars: Likewise with critical scalars that it has not kept; on the first text only.
    """

    result: ModelResult
    parts: tuple[Arm, ...]
    scalars: tuple[Arm, ...] = ()


@dataclass(frozen=True)
class Recovery:
    """What putting parts of the parent back into a descendant recovers.

    Attributes:
        text: The beginning of the first text: parent, descendant, and an arm per part or set that was put back.
        worst_modules: The modules that differ most, with their relative error, worst first.
        modules: How many modules were ranked.
        seconds: Time spent.
    """

    text: ComparedText
    worst_modules: tuple[tuple[str, float | None], ...] = ()
    modules: int = 0
    seconds: float = 0.0


_Measured = tuple[ComparedText, tuple[Measurement, ...], tuple[LayerError, ...]]
"""Both on a text, in an engine the model by itself, and the error of each layer."""


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
    try:
        return _measure(pair)
    finally:
        if (run := pair.__dict__.get("run")) is not None:  # asking for it would open it
            run.close()


def _measure(pair: Pair) -> ModelResult | ModelFailure:
    started, audit = time.perf_counter(), pair.audit
    recalled = audit.kept.find("beside", audit.kept.result, PreparedPair)
    prepared = recalled or _prepare(pair)
    if isinstance(prepared, ModelFailure):
        return prepared
    if recalled is None:
        audit.kept.keep("beside", audit.kept.result, prepared)
    result = _measure_texts(pair, prepared)
    return result.model_copy(update={"seconds": time.perf_counter() - started})


def measure_parent(
    model: ModelPolicy, audit: ModelAudit, parents: Parents, *, by_layers: bool = False
) -> ParentResult:
    """Open a parent, ask it what a whole model is needed for, and let it go if it can be read by layers.

    With `by_layers` each of its layers is in memory only while it is used, for another model is there already.

    Raises:
        InputError: If it, or the text, cannot be used.
    """
    policy, progress = audit.policy, audit.progress
    text, needs = read_corpus(policy.corpus), list_needs(audit.checks)
    progress("opening the parent", 0, 1)
    parent, whole = parents.open(model, policy.memory)
    parent = (parent if whole or by_layers else open_within(model, policy.memory)).starting(policy.bos_rule(model))
    progress("locating in the parent", 0, 1)
    location = predict_from_weights(parent.layers, locate_super_weights(parent))
    critical = None
    if Need.CRITICAL in needs:
        location, critical = search_by_policy(parent, policy.corpus, location, policy, progress=progress)
    answers = answer_tasks(parent, policy.descent) if Need.TASKS in needs else ()
    questions = prepare_decisions(parent, policy) if Need.DECISIONS in needs else ()
    margins = measure_margins(parent, questions, progress)
    result = ParentResult(parent.identity, location, answers=answers, critical=critical)
    result = replace(result, questions=questions, margins=margins)
    if Need.GENERATION in needs:
        limit = parent.maximum_positions
        windows = window_corpus(text, parent.tokenizer, policy.corpus, limit, parent.start.bos)
        result = replace(result, prompts=draw_prompts(windows, parent.tokenizer, policy.descent, limit))
    if Need.LENGTHS in needs:
        chat_prompts, unasked = write_chat_prompts(parent, policy.descent)
        result = replace(result, chat_prompts=chat_prompts, unasked=unasked)
    # All in one go: a model that is read as it runs is read no more often for that.
    made = generate_continuations(parent, (*result.prompts, *result.chat_prompts), progress)
    chat = len(result.prompts)
    return replace(result, continuations=made[:chat], chat_answers=made[chat:])


def _prepare(pair: Pair) -> PreparedPair | ModelFailure:
    """Find out everything but what the two are worth on text."""
    audit, model = pair.audit, pair.audit.model
    audit.progress("inspecting", 0, 1)
    report = examine_weights(model, pair.given, audit.progress, beside=True)
    if isinstance(report, ModelFailure):
        return report if pair.in_place else _explain(pair, report)
    needs = list_needs(audit.checks)
    files = ComparedFiles()
    if not pair.in_place:
        files = compare_files(model, pair.origin, audit.policy, needs, audit.progress)
    origin = pair.ask_parent()
    try:
        return _open_beside(pair, origin, report, files)
    except CheckpointError as error:
        if not files.is_serious(audit.policy.descent.may_differ):
            raise
        # What was found in the files says why: that is a verdict, and no input that cannot be used.
        return ModelFailure(model=model.id, message=str(error), weights=report, files=files)


def _explain(pair: Pair, failure: ModelFailure) -> ModelFailure:
    """Add the settings of a model whose weights do not fit: often one of them is why."""
    asked = list_needs(pair.audit.checks) & {Need.SETTINGS}
    with suppress(CheckpointError):
        files = compare_files(pair.audit.model, pair.origin, pair.audit.policy, asked, pair.audit.progress)
        return failure.model_copy(update={"files": files})
    return failure


def _open_beside(
    pair: Pair, origin: ParentResult, report: WeightsReport, files: ComparedFiles
) -> PreparedPair | ModelFailure:
    """Open a descendant whose files are intact beside its parent."""
    audit, model = pair.audit, pair.audit.model
    audit.progress("opening", 0, 1)
    opened = open_examined(model, report, lambda: pair.checkpoint)
    if isinstance(opened, ModelFailure):
        return opened.model_copy(update={"files": files})
    parent, there = pair.parent, origin.location
    checkpoint = pair.checkpoint.starting_like(parent)
    policy, progress = pair.audit.policy, pair.audit.progress
    texts = pair.texts
    progress("locating", 0, 1)
    location = locate_or_explain(checkpoint)
    same = [text for text in texts if text.protocol.corpus == texts[0].protocol.corpus]
    trial = try_starts(checkpoint, max(same, key=lambda text: text.protocol.window).windows)
    run, chat = pair.run, len(origin.prompts)
    prompts, theirs = (*origin.prompts, *origin.chat_prompts), (*origin.continuations, *origin.chat_answers)
    if run is None:
        ours = generate_continuations(checkpoint, prompts, progress)
    else:
        ours = run.continue_prompts(prompts, progress)
        theirs = run.continue_prompts(prompts, progress, parent=True)
    answers = answer_tasks(checkpoint, policy.descent) if origin.answers else ()
    margins = measure_margins(checkpoint, origin.questions, progress)
    baseline = find_baseline(policy, model)
    keys = read_keys(checkpoint, location.token_ids) if Need.KEYS in list_needs(audit.checks) else None
    retained, activation_map = follow_retained_activations(parent, checkpoint, there)
    restored = None if run else restore_super_weights(parent, checkpoint, there.super_weights)
    scalars = origin.critical and read_critical_scalars(checkpoint, origin.critical, there, parent)
    limit = policy.checks[CriticalScalarsRetainedLimits].maximum_error
    planned = tuple(_plan_text(text, policy) for text in texts)
    result = ModelResult(
        model=checkpoint.identity,
        protocol=texts[0].protocol,
        location=location,
        start=trial,
        weights=report,
        files=files,
        attention_keys=keys,
        quantization=None if pair.in_place else describe_quantization(checkpoint, model, there.super_weights),
        descent=Descent(
            parent=origin.identity,
            parent_location=there,
            super_weights=read_retained_weights(parent, checkpoint, there.super_weights),
            super_activations=retained,
            activation_map=activation_map,
            critical=origin.critical,
            critical_scalars=scalars or (),
            texts=planned,
            continuations=pair_continuations(origin.prompts, theirs[:chat], ours[:chat]),
            answers=pair_lengths(origin.chat_prompts, theirs[chat:], ours[chat:]),
            unasked=origin.unasked,
            tasks=pair_answers(origin.answers, answers),
            decisions=pair_decisions(origin.questions, origin.margins, margins),
            notes=tuple(list_differences(parent, checkpoint, origin.identity)),
        ),
        engine=run and run.describe(read_corpus(policy.corpus).text, _DECIDED if origin.margins else ()),
        looks=planned[0].looks if run else (),
        baseline=baseline and compare_with_baseline(checkpoint, location, baseline),
        decoder_weights=count_weights(checkpoint.layers),
        notes=list_cautions(
            read_corpus(policy.corpus), checkpoint.tokenizer, checkpoint.vocabulary, trial, location
        ),
    )
    mended = () if run else restore_scalars(parent, checkpoint, scalars or (), limit)
    return PreparedPair(result, (restored,) if restored else (), mended)


def _plan_text(text: SharedText, policy: Policy) -> ComparedText:
    """Plan the steps of a text, of which nothing is measured yet."""
    cut = text.protocol
    looks = () if policy.effort == "thorough" else plan_looks(cut.windows, cut.window, 0, policy.minimum_windows)
    return ComparedText(protocol=cut, measurements=(), looks=looks if len(looks) > 1 else ())


def _measure_texts(pair: Pair, prepared: PreparedPair) -> ModelResult:
    """Measure both on every text, step by step, until no verdict is undecided that more text may settle."""
    result = prepared.result
    steps = dict.fromkeys(range(len(result.descent.texts)), 0) if result.descent else {}  # taken, by text
    going = list(steps)
    while going:
        try:
            for number in going:
                parts = prepared.parts if number else (*prepared.parts, *prepared.scalars)
                result = _measure_text(pair, result, number, steps[number], parts)
                steps[number] += 1
        except StoppedError as stopped:
            if not all(steps.values()):
                raise
            return result.model_copy(update={"stopped": stopped.reason})
        waiting = list_waiting(judge_result(result, pair.audit.policy, pair.audit.checks))
        waited = {verdict.protocol for verdict in waiting}
        texts = result.descent.texts if result.descent else ()
        if pair.audit.saved:  # the first text is what others will be held against
            waited.add(result.protocol.signature)
        # A text that was not waited for may be later: where another has settled, it decides.
        going = [
            number
            for number, text in enumerate(texts)
            if text.protocol.signature in waited and steps[number] < len(text.looks)
        ]
    return result


def _measure_text(pair: Pair, result: ModelResult, number: int, step: int, parts: Sequence[Arm]) -> ModelResult:
    """Take all arms one step further on one text; layers are compared in the first step of the first text.

    In an engine the model by itself goes with the first text.
    """
    audit, descent = pair.audit, result.descent
    if descent is None:
        return result
    text = descent.texts[number]
    looks = text.looks or (Look(windows=text.protocol.windows),)
    begin, end = 0 if step == 0 else looks[step - 1].windows, looks[step].windows
    name = [*descent.label_texts()][number]
    stage = f"measuring on {name}" + (f", step {step + 1} of at most {len(looks)}" if len(looks) > 1 else "")
    layered = Need.LAYERS in list_needs(audit.checks) and number == step == 0

    def measure() -> _Measured:
        part, progress = pair.texts[number].part(begin, end), tell_stage(audit.progress, stage)
        if pair.run is not None:
            return *_compare_in_engines(pair.run, part, progress, alone=number == 0), ()
        passes = pair.parents.passes
        compared, errors = compare_on_text(
            pair.parent, pair.checkpoint, part, parts, progress, layers=layered, passes=passes
        )
        return compared, (), errors

    question = {"stage": number, "windows": [begin, end], **audit.kept.result}
    measured, own, errors = audit.kept.recall("text", question, _Measured, measure)
    texts = list(descent.texts)
    texts[number] = text.model_copy(update={"measurements": _join(text.measurements, measured.measurements)})
    update = {"texts": tuple(texts), "layers": errors or descent.layers}
    beside = {"descent": descent.model_copy(update=update)}
    return result.model_copy(update={**beside, "measurements": _join(result.measurements, own)})


def _join(known: Sequence[Measurement], more: Sequence[Measurement]) -> tuple[Measurement, ...]:
    """Join what arms gave on some windows with what they give on the next ones; either may be none."""
    if not known or not more:
        return (*known, *more)
    return tuple(before + after for before, after in zip(known, more, strict=True))


def _compare_in_engines(
    run: EngineRun, text: SharedText, progress: Progress, *, alone: bool
) -> tuple[ComparedText, tuple[Measurement, ...]]:
    """Measure both in their engines, and with `alone` the model by itself."""
    beside: list[Purpose] = [PARENT, DESCENDANT]
    if run.parent_engine.identity.top_tokens is not None:
        beside.append(PARENT_DEQUANTIZED)  # what two programs differ by is the least that can be told
    own = [arm.purpose for arm in run.arms] if alone else []
    signature = text.protocol.signature
    measured = run.measure([*beside, *own], text.windows, signature, text.stop_words, progress)
    compared = ComparedText(protocol=text.protocol, measurements=tuple(measured[one] for one in beside))
    return compared, tuple(measured[one] for one in own)


def measure_recovery(pair: Pair, result: ModelResult, plan: RecoveryPlan) -> Recovery:
    """Measure on the beginning of the first text what the parent's own parts recover, or recall it."""
    kept = pair.audit.kept
    make = partial(_put_sets_back if plan.sets else _put_parts_back, pair, result, plan)
    return kept.recall("recovery", {"plan": plan.model_dump(mode="json"), **kept.result}, Recovery, make)


def add_recovery(result: ModelResult, recovery: Recovery) -> ModelResult:
    """Return the model with what putting parts back recovers, after what is known of that already."""
    descent = result.descent
    if descent is None:
        return result
    update: dict[str, object] = {"recovery": recovery.text}
    if descent.recovery is None:
        update |= {"worst_modules": recovery.worst_modules, "modules": recovery.modules}
    else:
        known, more = descent.recovery.measurements, recovery.text.measurements[_OWN:]
        update["recovery"] = descent.recovery.model_copy(update={"measurements": (*known, *more)})
    seconds = result.seconds + recovery.seconds
    return result.model_copy(update={"descent": descent.model_copy(update=update), "seconds": seconds})


def _put_parts_back(pair: Pair, result: ModelResult, plan: RecoveryPlan) -> Recovery:
    started, parent, checkpoint = time.perf_counter(), pair.parent, pair.checkpoint
    descent = result.descent
    location = None if descent is None else descent.parent_location
    ranked = rank_modules(parent, checkpoint, location.addresses if location else ())
    lost = [translate_address(parent, checkpoint, address) for address in plan.lost]
    weights = restore_super_weights(parent, checkpoint, location.super_weights if location else ())
    parts = restore_parts(
        parent,
        checkpoint,
        ranked,
        descent.layers if descent else (),
        lost=[address.parameter.rpartition(".")[0] for address in lost if address is not None],
        modules=plan.modules,
        layers=plan.layers,
    )
    text = _measure_parts(pair, plan, [*([weights] if weights else []), *parts])
    return Recovery(text, tuple(ranked[:RANKED]), len(ranked), time.perf_counter() - started)


def _put_sets_back(pair: Pair, result: ModelResult, plan: RecoveryPlan) -> Recovery:
    started = time.perf_counter()
    recovery = result.descent and result.descent.recovery
    alone = {measured.arm.purpose: measured.arm for measured in recovery.measurements} if recovery else {}
    text = _measure_parts(pair, plan, [restore_together(purpose, alone) for purpose in plan.sets])
    return Recovery(text, seconds=time.perf_counter() - started)


def _measure_parts(pair: Pair, plan: RecoveryPlan, arms: Sequence[Arm]) -> ComparedText:
    policy, cut = pair.audit.policy, {"window": plan.window, "windows": plan.windows, "stride": None}
    text = pair.share(policy.corpus.model_copy(update=cut))
    compared, _ = compare_on_text(pair.parent, pair.checkpoint, text, arms, pair.audit.progress)
    return compared
