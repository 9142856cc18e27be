"""One model beside its parent: what it kept, what it costs, and what putting parts of the parent back recovers."""

from __future__ import annotations

import time
from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING

from sw_audit.checks.registry import judge_evidence
from sw_audit.errors import BrokenWeightsError, CheckpointError
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.baselines import find_baseline
from sw_audit.record.descent import ComparedText, Descent, LayerError, RetainedWeight
from sw_audit.record.location import Location, Outcome
from sw_audit.record.record import ModelFailure, ModelResult
from sw_audit.record.verdict import Status
from sw_audit.record.weights import WeightsReport
from sw_audit.runner.arm_cache import NO_CACHE, ArmCache
from sw_audit.runner.single import locate_model

if TYPE_CHECKING:
    from sw_audit.checkpoint.opening import Checkpoint
    from sw_audit.runner.parent import ParentResult

QUALITY = "perplexity-ratio"
"""The check that decides whether modules are put back one by one."""
RANKED = 16
"""So many of the modules that differ most are named."""
_LAYERED = ("layer-error", "range-fits-dtype")


def measure_pair(
    wanted: ModelPolicy,
    parent: ModelPolicy,
    policy: Policy,
    checks: Collection[str],
    progress: Progress = ignore_progress,
    checkpoint: Checkpoint | None = None,
    memory: ArmCache = NO_CACHE,
) -> ModelResult | ModelFailure:
    """Hold a model beside its parent.

    Its files are looked at first, and unless they are intact nothing is opened. Then the parent is opened, asked
    what only a whole model can answer, and let go; then the model itself; last, the parent comes back layer by
    layer beside it. So two whole models are never in memory, unless the parent's format cannot be read by layers.

    Args:
        wanted: The model.
        parent: What it was made from.
        policy: The policy.
        checks: Ids of the selected checks.
        progress: Told where the work stands.
        checkpoint: The model, if it is open already.
        memory: What is remembered of both; see `measure_or_recall`.

    Returns:
        The evidence, or why the model's weights are not fit to be opened.

    Raises:
        InputError: If a model or a text cannot be used.
    """
    from sw_audit.checkpoint.lint import add_flaw, lint_checkpoint, report_broken
    from sw_audit.checkpoint.opening import open_checkpoint
    from sw_audit.runner.parent import ParentResult, measure_parent

    started = time.perf_counter()
    progress("inspecting", 0, 1)
    try:
        report = lint_checkpoint(wanted)
    except BrokenWeightsError as error:
        return ModelFailure(model=wanted.id, message=str(error), weights=report_broken(error))
    if not report.intact:
        return ModelFailure(model=wanted.id, message=_tell_flaw(wanted, report), weights=report)
    meet = partial(measure_parent, parent, policy, checks, progress, by_layers=checkpoint is not None)
    ancestor = memory.recall("parent", ParentResult, meet)
    progress("opening", 0, 1)
    try:
        checkpoint = checkpoint or open_checkpoint(wanted)
    except BrokenWeightsError as error:
        return ModelFailure(model=wanted.id, message=str(error), weights=add_flaw(report, error))
    evidence = _measure_beside(checkpoint, wanted, ancestor, policy, checks, progress, memory)
    return evidence.model_copy(update={"weights": report, "seconds": time.perf_counter() - started})


def _measure_beside(
    checkpoint: Checkpoint,
    wanted: ModelPolicy,
    ancestor: ParentResult,
    policy: Policy,
    checks: Collection[str],
    progress: Progress,
    memory: ArmCache,
) -> ModelResult:
    from sw_audit.checkpoint.quantization import describe_quantization
    from sw_audit.corpus.protocol import list_cautions
    from sw_audit.locate.controls import count_weights
    from sw_audit.measure.descent import compare_on_text, list_differences, restore_super_weights, share_text
    from sw_audit.measure.generation import generate_continuations, pair_continuations
    from sw_audit.measure.held import hold_against
    from sw_audit.measure.retention import follow_retained_activations, read_retained_weights
    from sw_audit.measure.tasks import answer_tasks, pair_answers
    from sw_audit.runner.parent import open_by_layers

    parent, there = open_by_layers(ancestor.wanted), ancestor.location
    texts = [share_text(parent, checkpoint, one, policy.seed) for one in (policy.corpus, *policy.descent.texts)]
    progress("locating", 0, 1)
    location = _locate(checkpoint)
    speeches = generate_continuations(checkpoint, ancestor.openings, progress)
    answers = answer_tasks(checkpoint, policy.descent) if ancestor.answers else ()
    restored = restore_super_weights(parent, checkpoint, there.super_weights)
    layered = any(check in checks for check in _LAYERED)
    compare = partial(compare_on_text, parent, checkpoint)
    counterfactuals = [restored] if restored else []
    compared = [
        memory.recall(
            "text",
            tuple[ComparedText, tuple[LayerError, ...]],
            partial(compare, text, counterfactuals, progress, layers=layered and not number),
            number,
        )
        for number, text in enumerate(texts)
    ]
    baseline = find_baseline(policy, wanted)
    evidence = ModelResult(
        model=checkpoint.identity,
        protocol=texts[0].protocol,
        location=location,
        quantization=describe_quantization(checkpoint, wanted, there.super_weights),
        descent=Descent(
            parent=ancestor.identity,
            parent_location=there,
            super_weights=read_retained_weights(parent, checkpoint, there.super_weights),
            super_activations=follow_retained_activations(parent, checkpoint, there),
            texts=tuple(text for text, _ in compared),
            layers=compared[0][1],
            continuations=pair_continuations(ancestor.openings, ancestor.speeches, speeches),
            tasks=pair_answers(ancestor.answers, answers),
            notes=tuple(list_differences(parent, checkpoint, ancestor.identity)),
        ),
        baseline=baseline and hold_against(checkpoint, location, baseline),
        decoder_weights=count_weights(checkpoint.layers),
        notes=list_cautions(policy.corpus, checkpoint.vocabulary),
    )
    [quality] = judge_evidence(evidence, policy, [QUALITY])
    if quality.status not in (Status.FAIL, Status.INCONCLUSIVE) or not policy.descent.modules:
        return evidence
    return _put_modules_back(evidence, parent, checkpoint, policy, progress)


def _put_modules_back(
    evidence: ModelResult, parent: Checkpoint, checkpoint: Checkpoint, policy: Policy, progress: Progress
) -> ModelResult:
    """Rank the modules, and measure on the first text what the parent's own in place of each recovers."""
    from sw_audit.measure.descent import compare_on_text, restore_module, share_text
    from sw_audit.measure.modules import rank_modules
    from sw_audit.measure.retention import is_alike, translate_address

    descent = evidence.descent
    if descent is None or not is_alike(parent, checkpoint):
        return evidence
    ranked = rank_modules(parent, checkpoint, descent.parent_location.addresses)
    limit = policy.checks.super_weight_retained.maximum_error
    lost = [
        translate_address(parent, checkpoint, one.address) for one in descent.super_weights if _is_lost(one, limit)
    ]
    names = [address.parameter.rpartition(".")[0] for address in lost if address is not None]
    names += [name for name, error in ranked if error != 0]
    chosen = list(dict.fromkeys(names))[: policy.descent.modules]
    first, *others = descent.texts
    text = share_text(parent, checkpoint, policy.corpus, policy.seed)
    again, _ = compare_on_text(parent, checkpoint, text, [restore_module(name) for name in chosen], progress)
    whole = first.model_copy(update={"measurements": (*first.measurements, *again.measurements[2:])})
    update = {"texts": (whole, *others), "worst_modules": ranked[:RANKED]}
    return evidence.model_copy(update={"descent": descent.model_copy(update=update)})


def _is_lost(weight: RetainedWeight, limit: float) -> bool:
    error = weight.relative_error
    return error is None or not abs(error) <= limit


def _locate(checkpoint: Checkpoint) -> Location:
    """Locate the descendant's own super weights; one that is not finite has none, and the checks will say why."""
    from sw_audit.locate.locator import DEFAULT_PROMPT, encode_prompt

    try:
        return locate_model(checkpoint)
    except CheckpointError as error:
        token_ids, bos = encode_prompt(checkpoint.tokenizer, DEFAULT_PROMPT)
        return Location(
            outcome=Outcome.NONE,
            because=error.found,
            prompt=DEFAULT_PROMPT,
            token_ids=tuple(token_ids),
            bos=bos,
            super_weights=(),
            super_activations=(),
            candidates=(),
            trace=(),
        )


def _tell_flaw(wanted: ModelPolicy, report: WeightsReport) -> str:
    flaw = next(one for one in report.flaws if one.serious)
    return f"model {wanted.source!r}: {flaw.where}: {flaw.found}; {report.remedy or 'replace the checkpoint'}"
