"""The way from a policy to a record: every model is measured, or recalled from the cache, and judged.

For each model of the policy:

1. The cache is asked for everything that the selected checks need; what it does not hold is measured
   (`measure_single`, or `measure_pair` beside a parent).
2. The checks judge what was measured.
3. As long as the verdicts ask for more (`plan_recovery`), that is measured, and the checks judge again.
4. The policy's waivers are put on the verdicts.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

from sw_audit import __version__
from sw_audit.checkpoint.budget import refuse_small_budget
from sw_audit.checkpoint.folder import inspect_checkpoint
from sw_audit.checkpoint.live import name_live_model, open_live_model
from sw_audit.checkpoint.loading import import_models
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.checkpoint.streaming import count_bytes_read
from sw_audit.checks.judging import is_measured, judge_verdicts, list_checks
from sw_audit.checks.recovery_plan import plan_recovery
from sw_audit.checks.registry import find_checks
from sw_audit.corpus.choices import read_choices
from sw_audit.corpus.decisions import read_decisions
from sw_audit.corpus.text import check_corpus
from sw_audit.engines.registry import require_engine
from sw_audit.errors import BrokenWeightsError, InputError, PolicyError, UnfitCheckpointError
from sw_audit.index.lookup import find_policy_model
from sw_audit.measure.tasks import require_tasks
from sw_audit.memory import PeakMemory, measuring_peak, return_freed_blocks, return_large_blocks, write_memory
from sw_audit.policy.origin import PolicyOrigin
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.identity import Tool, describe_environment
from sw_audit.record.memory import MemoryUse
from sw_audit.record.record import ModelFailure, ModelResult, Record
from sw_audit.record.redaction import add_redactions, redact
from sw_audit.record.store import find_baseline
from sw_audit.runner.cache import NO_CACHE, ArmCache, Cache
from sw_audit.runner.cache_keys import open_arm_cache
from sw_audit.runner.pair import Pair, Parents, add_recovery, measure_pair, measure_recovery
from sw_audit.runner.single import ModelAudit, measure_single
from sw_audit.runner.text import settle_corpus
from sw_audit.runner.watching import WatchedFiles
from sw_audit.specimen.shipped import tell_expected
from sw_audit.stopping import StoppedError, Stopper, deferring_interrupts

RECALLED = "Remembered from an earlier run: model, text, policy and program have not changed since (`--no-cache`)."

_Model = TypeVar("_Model", ModelResult, ModelFailure)


def run(
    policy: Policy | None = None,
    *,
    model: Any = None,
    tokenizer: Any = None,
    checks: Collection[str] | None = None,
    progress: Progress = ignore_progress,
    cache: Cache | None = None,
    saved: bool = False,
) -> Record:
    """Audit every model of a policy, one after the other, and return the record.

    A model that is in memory already, such as a notebook's or a trainer's, is audited in place. Its weights are
    not copied, and the model, its modules and the random state are bit for bit as before afterwards, also after an
    exception or Ctrl-C. Checks that read files are skipped. Nothing of it is kept in the cache, for no digest says
    what a live model computes.

    In the record home folders, user names in paths and secrets are marks, unless the policy's `redaction` is off.

    Args:
        policy: The models, the text, the limits; the default one for a live model.
        model: A live model of transformers, on its device and in its dtype; it may have an adapter on it or be
            quantized. The policy's one model says what it is called, what its parent is, and what to expect.
        tokenizer: The live model's tokenizer.
        checks: Ids of the only checks to run; by default those that the policy enables.
        progress: Told where the work stands.
        cache: Where measurements are kept for the next run; `None` keeps nothing.
        saved: Whether the record is to be a baseline for others: then the models as they are are measured on the
            whole text.

    Raises:
        InputError: If a model or the text cannot be used.
    """
    if model is not None:
        return _run_in_place(policy or Policy(), model, tokenizer, checks, progress, saved)
    if policy is None:
        raise InputError("an audit", "there is neither a policy nor a model", "give one of them")
    preflight(policy)
    progress, parents = Stopper(policy.budget).watch(progress), Parents()
    models = []
    for model in policy.models:
        selected = [check.id for check in list_checks(policy, model) if checks is None or check.id in checks]
        models.append(
            run_model(policy, model.id, selected, progress=progress, cache=cache, saved=saved, parents=parents)
        )
    return compose_record(models, policy)


def _run_in_place(
    policy: Policy, model: Any, tokenizer: Any, checks: Collection[str] | None, progress: Progress, saved: bool
) -> Record:
    if len(policy.models) > 1:
        names = " and ".join(one.id for one in policy.models)
        raise InputError(
            f"models {names}", "one live model was given", "name one model, and its parent by `parent`"
        )
    asked = policy.models[0] if policy.models else name_live_model(model)
    with deferring_interrupts(progress) as told, open_live_model(model, tokenizer, asked) as checkpoint:
        # What a parent's policy takes from it is where it is to run.
        asked = asked.model_copy(update={"device": checkpoint.identity.device})
        policy = policy.model_copy(update={"models": (asked,)})
        preflight(policy, in_place=True)
        told = Stopper(policy.budget).watch(told)
        selected = [check.id for check in list_checks(policy, asked) if checks is None or check.id in checks]
        result = run_model(policy, asked.id, selected, progress=told, checkpoint=checkpoint, saved=saved)
    return compose_record([result], policy)


def preflight(policy: Policy, *, in_place: bool = False) -> None:
    """Complain about what can be known before anything heavy is loaded.

    Weights of a model that are not what they should be are no complaint: that is for a check to say. Those of a
    parent are, for nothing can be held beside them. Nor is a descendant a complaint that is no language model. Of
    models that are audited in place there are no files.

    Raises:
        InputError: A model, a text, an item file or an index that cannot be used, as far as files and headers
            tell, or an entry of the index that there is not.
    """
    for model in policy.models:
        if (parent := policy.find_parent(model)) is not None:
            inspect_checkpoint(parent)
        if not in_place:
            with suppress(BrokenWeightsError, *([] if parent is None else [UnfitCheckpointError])):
                inspect_checkpoint(model)
                refuse_small_budget(model, policy.memory, parent)
            read_choices(settle_corpus(policy, model).corpus)
        find_policy_model(policy, model)
        find_baseline(policy, model)
        if in_place and model.in_engine:
            found = f"it is in memory, where {model.engine} cannot run it"
            raise PolicyError(f"model {model.id!r}", found, "leave `engine` out, or name its files")
        require_engine(model)
    for text in (policy.corpus, *policy.descent.texts):
        check_corpus(text)
    require_tasks(policy.descent)
    if policy.descent.decisions is not None:
        read_decisions(policy)


def run_model(
    policy: Policy,
    model_id: str,
    checks: Sequence[str],
    *,
    progress: Progress = ignore_progress,
    cache: Cache | None = None,
    checkpoint: Checkpoint | None = None,
    saved: bool = False,
    parents: Parents | None = None,
) -> ModelResult | ModelFailure:
    """Measure and judge one model of a policy.

    Args:
        policy: The policy.
        model_id: Id of one of its models.
        checks: Ids of the selected checks.
        progress: Told where the work stands.
        cache: Where measurements are kept for the next run; `None` keeps nothing.
        checkpoint: The model, if it is open already; of one that is audited in place nothing is kept.
        saved: Whether it is to be a baseline for others: then it is measured on the whole text as it is.
        parents: Parents of the same run, which stay open for several descendants.

    Returns:
        The model with its verdicts, or why it was not measured: its weights are not fit to be opened,
        `progress` raised `StoppedError`, or a file changed while it was measured; then nothing of it is kept.

    Raises:
        KeyError: If the policy has no such model.
        InputError: If the model or the text cannot be used.
    """
    read = count_bytes_read()
    if policy.memory is not None:
        # A part of the program, which the budget does not count.
        import_models()
        return_large_blocks()
        progress = _freeing_memory(progress)
    try:
        with measuring_peak() as memory:
            model = _run_model(policy, model_id, checks, progress, cache, checkpoint, saved, parents)
    except StoppedError as stopped:
        return fail_stopped(policy, model_id, checks, stopped.reason)
    return _tell_memory(model, policy, memory, count_bytes_read() - read)


def ask_parent(
    policy: Policy, model_id: str, checks: Sequence[str], cache: Cache, progress: Progress = ignore_progress
) -> tuple[str, str] | None:
    """Ask a model's parent what serves all of its descendants, and keep it in the cache.

    Returns:
        The entry of the cache, as its name in it and its text; `None` where nothing can be kept.

    Raises:
        InputError: If the model, its parent or the text cannot be used.
        StoppedError: If `progress` raised it.
    """
    policy = expect_shipped(policy)
    model = policy.find_model(model_id)
    policy = settle_corpus(policy, model)
    parent, watched = policy.find_parent(model), WatchedFiles(policy, model)
    progress = watched.watch(progress)
    kept = open_arm_cache(policy, model, checks, cache, watched=watched, progress=progress)
    if parent is None or kept.cache is None:
        return None
    try:
        Pair(ModelAudit(model, policy, checks, progress, kept), parent).ask_parent()
    finally:
        kept.discard()  # what is shared was moved out of it
    return cache.copy("parent", kept.parent)


def _freeing_memory(progress: Progress) -> Progress:
    """Give memory that was freed back to the system whenever progress is told, which is at least once a layer."""

    def tell(stage: str, done: int, total: int) -> None:
        return_freed_blocks()
        progress(stage, done, total)

    return tell


def _tell_memory(
    model: ModelResult | ModelFailure, policy: Policy, memory: PeakMemory, read: int
) -> ModelResult | ModelFailure:
    """Add how much memory was taken, and say so where that is more than the budget allows."""
    if policy.memory is None or isinstance(model, ModelFailure) or RECALLED in model.notes:
        return model
    used = MemoryUse(budget=policy.memory, program=memory.before, peak=memory.added, weights_read=read)
    notes = model.notes
    if memory.added is not None and used.exceeds:
        taken, budget = write_memory(memory.added), write_memory(policy.memory)
        over = f"{taken} of memory were taken, and the budget is {budget}."
        notes = (*notes, f"{over} Everything was measured; give a larger budget, or fewer windows.")
    return model.model_copy(update={"memory": used, "notes": notes})


def fail_stopped(policy: Policy, model_id: str, checks: Sequence[str], reason: str) -> ModelFailure:
    """Return a model of which nothing was measured before the run ended, its verdicts inconclusive.

    `reason` says why it ended, as a clause.
    """
    failure = ModelFailure(model=model_id, message=f"not measured, for {reason}", stopped=reason)
    return judge_model(failure, policy, checks)


def _run_model(
    policy: Policy,
    model_id: str,
    checks: Sequence[str],
    progress: Progress,
    cache: Cache | None,
    checkpoint: Checkpoint | None,
    saved: bool,
    parents: Parents | None,
) -> ModelResult | ModelFailure:
    policy = expect_shipped(policy)
    model = policy.find_model(model_id)
    live = checkpoint if checkpoint is not None and checkpoint.identity.in_place else None
    in_place = live is not None
    policy = settle_corpus(policy, model, None if live is None else live.tokenizer)
    watched, kept = WatchedFiles(policy, model, in_place=in_place), NO_CACHE
    progress = watched.watch(progress)
    if parents is not None:
        parents.let_go_unless(watched.parent)
    try:
        if cache is not None and not in_place:
            progress("digesting", 0, 1)
            kept = open_arm_cache(policy, model, checks, cache, watched=watched, saved=saved, progress=progress)
        judged = _measure_and_judge(policy, model, checks, progress, kept, checkpoint, saved, parents)
    except Exception:
        if watched.find_change() is None:
            kept.confirm()
            raise
    if (change := watched.find_change()) is not None:
        kept.discard()
        return fail_stopped(policy, model_id, checks, change)
    kept.confirm()
    if kept.cache is None or kept.cache.trouble is None or isinstance(judged, ModelFailure):
        return judged
    note = f"Nothing could be remembered for the next run: {kept.cache.trouble}."
    return judged.model_copy(update={"notes": (*judged.notes, note)})


def _measure_and_judge(
    policy: Policy,
    model: ModelPolicy,
    checks: Sequence[str],
    progress: Progress,
    kept: ArmCache,
    checkpoint: Checkpoint | None,
    saved: bool,
    parents: Parents | None,
) -> ModelResult | ModelFailure:
    known = find_checks()
    asked = [name for name in checks if is_measured(known[name], policy, model)]
    audit, parent = ModelAudit(model, policy, asked, progress, kept, saved), policy.find_parent(model)
    pair = None if parent is None else Pair(audit, parent, checkpoint, parents)
    recalled = kept.find("result", kept.judged, ModelResult)
    measured = recalled or measure_model(audit, pair, checkpoint)
    if isinstance(measured, ModelFailure):
        return judge_model(measured, policy, checks)
    if recalled is None and measured.stopped is None:
        kept.keep("result", kept.judged, measured)
    judged = judge_model(measured, policy, checks)
    if pair is None or model.in_engine:  # in an engine nothing can be put back
        return _tell_recalled(judged, recalled)
    while not judged.stopped and (plan := plan_recovery(judged, policy)) is not None:
        try:
            measured = add_recovery(measured, measure_recovery(pair, measured, plan))
        except StoppedError as stopped:
            measured = measured.model_copy(update={"stopped": stopped.reason})
        judged = judge_model(measured, policy, checks)
    return _tell_recalled(judged, recalled)


def _tell_recalled(judged: ModelResult, recalled: ModelResult | None) -> ModelResult:
    """Note that all that was measured was in the cache, if it was."""
    return judged if recalled is None else judged.model_copy(update={"notes": (*judged.notes, RECALLED)})


def is_recalled(model: ModelResult | ModelFailure) -> bool:
    """Whether all that was measured on a model was in the cache."""
    return isinstance(model, ModelResult) and RECALLED in model.notes


def measure_model(
    audit: ModelAudit, pair: Pair | None = None, checkpoint: Checkpoint | None = None
) -> ModelResult | ModelFailure:
    """Measure what the selected checks need: a descendant beside its parent, any other model by itself."""
    return measure_single(audit, checkpoint) if pair is None else measure_pair(pair)


def judge_model(model: _Model, policy: Policy, checks: Sequence[str]) -> _Model:
    """Return a measured model with its verdicts, by the waivers that hold today."""
    return model.model_copy(update={"verdicts": judge_verdicts(model, policy, checks, datetime.now(UTC).date())})


def compose_record(
    models: Iterable[ModelResult | ModelFailure], policy: Policy, origin: PolicyOrigin | None = None
) -> Record:
    """Put the models of one audit into one document, redacted unless the policy says otherwise."""
    record = Record(
        tool=Tool(version=__version__),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=describe_environment(threads=os.cpu_count() or 1),
        policy=expect_shipped(policy),
        origin=origin,
        models=tuple(models),
    )
    return redact_record(record)


def redact_record(record: Record) -> Record:
    """Return a record without home folders, user names and secrets, and with what was left out; see `redact`.

    Where its policy leaves them in it comes back as it is.
    """
    if not record.policy.redaction:
        return record
    redacted, found = redact(record)
    return redacted.model_copy(update={"redacted": add_redactions(record.redacted, found)}) if found else record


def expect_shipped(policy: Policy) -> Policy:
    """Return the policy with what is known of the models that ship with sw-audit, where it says nothing itself."""
    if "expect" in policy.model_fields_set:
        return policy
    models = tuple(
        model.model_copy(update={"expect": model.expect or tell_expected(model.source)}) for model in policy.models
    )
    return policy.model_copy(update={"models": models})
