"""The search for a prompt that breaks the law of the super activation, as an audit makes and records it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

from hypothesis import configuration

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.checks.limits import SuperActivationPersistsLimits
from sw_audit.errors import CheckpointError
from sw_audit.record.location import Location
from sw_audit.record.prompt_search import BreakingPrompt, PromptSearch
from sw_audit.testing.counterexamples import find_counterexample

EXAMPLES_KEY = "[checks.super-activation-persists] examples"


def search_prompts(
    checkpoint: Checkpoint, location: Location, limits: SuperActivationPersistsLimits, seed: int = 0
) -> PromptSearch:
    """Search as a policy asks, and say what came of it, or why there was no search.

    Args:
        checkpoint: The model; it is not changed.
        location: What was located in it.
        limits: How many prompts, and how far the super activation may deviate on one.
        seed: Of the search: the same seed finds the same prompt.
    """
    search = PromptSearch(examples=limits.examples, tolerance=limits.tolerance)
    if not limits.examples:
        return search.model_copy(update={"omitted": f"`{EXAMPLES_KEY}` is 0"})
    try:
        with _notes_thrown_away():
            found = find_counterexample(
                checkpoint, location, limits.tolerance, examples=limits.examples, seed=seed
            )
    except CheckpointError as error:
        return search.model_copy(update={"stopped": error.found})
    if found is None:
        return search
    broken = BreakingPrompt(
        prompt=found.text, token_ids=found.token_ids, because=found.because, traces=found.traces
    )
    return search.model_copy(update={"found": broken})


@contextmanager
def _notes_thrown_away() -> Iterator[None]:
    """Keep hypothesis from leaving a folder of its own where the audit is run."""
    home = getattr(configuration, "__hypothesis_home_directory", None)
    with TemporaryDirectory() as elsewhere:
        configuration.set_hypothesis_home_dir(elsewhere)
        try:
            yield
        finally:
            configuration.set_hypothesis_home_dir(home)
