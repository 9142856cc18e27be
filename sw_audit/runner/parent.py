"""Asks a parent what a whole model is needed for, so that it can be let go before its descendant is opened."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.checkpoint.streaming import CannotStreamError, open_streaming
from sw_audit.checks.registry import Need, list_needs
from sw_audit.corpus.text import read_corpus
from sw_audit.corpus.windows import window_corpus
from sw_audit.locate.locator import locate_super_weights
from sw_audit.locate.weight_norms import predict_from_weights
from sw_audit.measure.generation import GreedyContinuation, Prompt, draw_prompts, generate_continuations
from sw_audit.measure.tasks import Answers, answer_tasks
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.identity import ModelIdentity
from sw_audit.record.location import Location


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


def measure_parent(
    model: ModelPolicy,
    policy: Policy,
    checks: Collection[str],
    progress: Progress = ignore_progress,
    *,
    by_layers: bool = False,
) -> ParentResult:
    """Open a parent, ask it what a whole model is needed for, and let it go.

    Args:
        model: The parent.
        policy: The policy.
        checks: Ids of the selected checks.
        progress: Told where the work stands.
        by_layers: Whether each layer is to be in memory only while it runs, for another model is there already.

    Raises:
        InputError: If it, or the text, cannot be used.
    """
    text, needs = read_corpus(policy.corpus), list_needs(checks)
    progress("opening the parent", 0, 1)
    parent = open_by_layers(model, digest=True) if by_layers else open_checkpoint(model)
    progress("locating in the parent", 0, 1)
    location = predict_from_weights(parent.layers, locate_super_weights(parent))
    answers = answer_tasks(parent, policy.descent) if Need.TASKS in needs else ()
    result = ParentResult(parent.identity, location, answers=answers)
    if Need.GENERATION not in needs:
        return result
    limit = parent.maximum_positions
    windows = window_corpus(text, parent.tokenizer, policy.corpus, limit)
    prompts = draw_prompts(windows, parent.tokenizer, policy.descent, limit)
    return replace(result, prompts=prompts, continuations=generate_continuations(parent, prompts, progress))


def open_by_layers(model: ModelPolicy, *, digest: bool = False) -> Checkpoint:
    """Open a model so that each layer is in memory only while it runs; as a whole where that cannot be.

    Args:
        model: The model.
        digest: Whether to digest its files, which reads all of them.

    Raises:
        CheckpointError: If it cannot be opened as it should be.
    """
    try:
        return open_streaming(model, digest=digest)
    except CannotStreamError:
        return open_checkpoint(model)
