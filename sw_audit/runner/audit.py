"""The whole story on one page: from a policy to a record."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sw_audit import __version__
from sw_audit.checks.registry import judge_evidence, list_checks
from sw_audit.checks.waivers import apply_waivers
from sw_audit.checks.weights import judge_failure
from sw_audit.errors import BrokenWeightsError
from sw_audit.index.lookup import find_policy_model
from sw_audit.policy.policy import Policy
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.baselines import find_baseline
from sw_audit.record.environment import describe_environment
from sw_audit.record.identity import Tool
from sw_audit.record.record import ModelFailure, ModelResult, Record
from sw_audit.runner.arm_cache import NO_CACHE, ArmCache
from sw_audit.runner.pair import measure_pair
from sw_audit.runner.single import locate_model, measure_single

__all__ = [
    "audit_models",
    "compose_record",
    "judge_evidence",
    "judge_model",
    "list_checks",
    "locate_model",
    "measure_model",
    "open_model",
    "preflight",
]

if TYPE_CHECKING:
    from sw_audit.checkpoint.opening import Checkpoint


def preflight(policy: Policy) -> None:
    """Complain about what can be known before anything heavy is loaded.

    Weights of a descendant that are not what they should be are no complaint: that is for `weights-intact` to say.

    Raises:
        InputError: A model, a text, an item file or an index that cannot be used, as far as files and headers
            tell, or an entry of the index that there is not.
    """
    from sw_audit.checkpoint.inspection import inspect_checkpoint
    from sw_audit.corpus.choices import read_choices
    from sw_audit.corpus.text import check_corpus
    from sw_audit.measure.tasks import require_tasks

    for model in policy.models:
        parent = policy.find_parent(model)
        if parent is None:
            inspect_checkpoint(model)
        else:
            inspect_checkpoint(parent)
            with suppress(BrokenWeightsError):
                inspect_checkpoint(model)
        find_policy_model(policy, model)
        find_baseline(policy, model)
    for text in (policy.corpus, *policy.descent.texts):
        check_corpus(text)
    read_choices(policy.corpus)
    require_tasks(policy.descent)


def open_model(model_id: str, policy: Policy) -> Checkpoint:
    """Open one of the policy's models.

    Raises:
        KeyError: If the policy has no such model.
        CheckpointError: If it cannot be used.
    """
    from sw_audit.checkpoint.opening import open_checkpoint

    return open_checkpoint(policy.find_model(model_id))


def measure_model(
    model_id: str,
    policy: Policy,
    checks: Collection[str],
    progress: Progress = ignore_progress,
    checkpoint: Checkpoint | None = None,
    memory: ArmCache = NO_CACHE,
) -> ModelResult | ModelFailure:
    """Find and measure everything that the selected checks need to know about one model.

    A model with a parent is held beside it (`measure_pair`), any other is taken by itself (`measure_single`).

    Args:
        model_id: Id of one of the policy's models.
        policy: The policy.
        checks: Ids of the selected checks.
        progress: Told where the work stands.
        checkpoint: The model, if it is open already.
        memory: What is remembered of it; see `measure_or_recall`.

    Returns:
        The evidence, or why the weights of a descendant are not fit to be opened.

    Raises:
        KeyError: If the policy has no such model.
        InputError: If the model or the text cannot be used.
    """
    wanted = policy.find_model(model_id)
    parent = policy.find_parent(wanted)
    if parent is None:
        return measure_single(wanted, policy, checks, progress, checkpoint, memory)
    return measure_pair(wanted, parent, policy, checks, progress, checkpoint, memory)


def compose_record(models: Iterable[ModelResult | ModelFailure], policy: Policy) -> Record:
    """Put everything about one audit into one document."""
    return Record(
        models=tuple(models),
        tool=Tool(version=__version__),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=describe_environment(threads=os.cpu_count() or 1),
        policy=policy,
    )


def audit_models(
    policy: Policy, checks: Collection[str] | None = None, progress: Progress = ignore_progress
) -> Record:
    """Audit every model of a policy, one after the other, and return the record.

    This is the library's way in; the command line and the pytest plugin measure and judge by the same parts.

    Raises:
        InputError: If a model or the text cannot be used.
    """
    preflight(policy)
    models = []
    for model in policy.models:
        selected = [check.id for check in list_checks(policy, model) if checks is None or check.id in checks]
        models.append(judge_model(measure_model(model.id, policy, selected, progress), policy, selected))
    return compose_record(models, policy)


def judge_model(
    model: ModelResult | ModelFailure, policy: Policy, checks: Sequence[str]
) -> ModelResult | ModelFailure:
    """Return a measured model with its verdicts, the policy's waivers put on them.

    Args:
        model: What was measured, or why it was not.
        policy: The limits and the waivers.
        checks: Ids of the checks.
    """
    if isinstance(model, ModelFailure):
        verdicts = judge_failure(model, policy, checks)
    else:
        verdicts = judge_evidence(model, policy, checks)
    today = datetime.now(UTC).date()
    return model.model_copy(update={"verdicts": apply_waivers(verdicts, policy.waivers, today)})
