"""Searches for the shortest prompt on which a super activation does not stay as it was located."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, Phase, Verbosity, configuration, find, settings
from hypothesis.errors import NoSuchExample

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.errors import CheckpointError
from sw_audit.locate.trace import find_break, trace_prompts
from sw_audit.record.location import BreakingPrompt, Location, PromptSearch, PromptTrace
from sw_audit.testing.strategies import prompts


@dataclass(frozen=True)
class Counterexample:
    """A prompt that breaks the law.

    Attributes:
        token_ids: The prompt, BOS included.
        text: The prompt as text.
        because: What breaks.
        traces: The super activations' channels on it.
    """

    token_ids: tuple[int, ...]
    text: str
    because: str
    traces: tuple[PromptTrace, ...]


def find_counterexample(
    checkpoint: Checkpoint,
    location: Location,
    tolerance: float = 0.3,
    *,
    examples: int = 100,
    longest: int = 64,
    seed: int = 0,
) -> Counterexample | None:
    """Search for a prompt on which a super activation leaves its token or its magnitude, and shrink it.

    The law is that of Yu et al. 2024, section 3.2: whatever the prompt, the same channel carries the same value
    through the same layers. A BOS token stands before each prompt if one stood before the locating prompt. What
    is found is shrunk until no token can be left out, and until no shorter prompt turns up.

    Args:
        checkpoint: The model; it is not changed.
        location: What was located in it.
        tolerance: Largest relative deviation from the located magnitude.
        examples: How many prompts are tried, at each length that is asked for.
        longest: Most tokens, BOS not included.
        seed: Of the search: the same seed finds the same prompt.

    Returns:
        The prompt, or `None` if none turned up, also where there is no super activation.

    Raises:
        CheckpointError: If the residual stream is not finite on a prompt.
    """
    activations = location.super_activations
    if not activations or examples < 1:
        return None
    bos = location.token_ids[:1] if location.bos else ()
    vocabulary = (
        checkpoint.tokenizer if hasattr(checkpoint.tokenizer, "all_special_ids") else checkpoint.vocabulary
    )
    if (most := checkpoint.maximum_positions) is not None:
        longest = min(longest, most - len(bos))
    known: dict[tuple[int, ...], str | None] = {}

    def trace(prompt: tuple[int, ...]) -> tuple[PromptTrace, ...]:
        text = checkpoint.tokenizer.decode(list(prompt), skip_special_tokens=True)
        channels = [activation.channel for activation in activations]
        return trace_prompts(checkpoint, channels, [(text, [*bos, *prompt])])

    def breaks(prompt: tuple[int, ...]) -> bool:
        if prompt not in known:
            known[prompt] = find_break(trace(prompt), activations, tolerance)
        return known[prompt] is not None

    random = Random(seed)  # noqa: S311 - a reproducible search, not a secret
    prompt = _search(vocabulary, longest, breaks, examples, random)
    while prompt is not None:
        prompt = _leave_out(prompt, breaks)
        shorter = _search(vocabulary, len(prompt) - 1, breaks, examples, random)
        if shorter is None:
            traces = trace(prompt)
            return Counterexample((*bos, *prompt), traces[0].prompt, known[prompt] or "", traces)
        prompt = shorter
    return None


def search_prompts(
    checkpoint: Checkpoint, location: Location, examples: int, tolerance: float, seed: int = 0
) -> PromptSearch:
    """Search as a policy asks, and say what came of it, or why there was no search."""
    search = PromptSearch(examples=examples, tolerance=tolerance)
    if not examples:
        return search.model_copy(update={"omitted": "`examples` is 0"})
    try:
        with _discard_notes():
            counterexample = find_counterexample(checkpoint, location, tolerance, examples=examples, seed=seed)
    except CheckpointError as error:
        return search.model_copy(update={"stopped": error.found})
    if counterexample is None:
        return search
    broken = BreakingPrompt(
        prompt=counterexample.text,
        token_ids=counterexample.token_ids,
        because=counterexample.because,
        traces=counterexample.traces,
    )
    return search.model_copy(update={"found": broken})


@contextmanager
def _discard_notes() -> Iterator[None]:
    """Keep hypothesis from leaving a folder of its own where the audit is run."""
    home = getattr(configuration, "__hypothesis_home_directory", None)
    with TemporaryDirectory() as folder:
        configuration.set_hypothesis_home_dir(folder)
        try:
            yield
        finally:
            configuration.set_hypothesis_home_dir(home)


def _search(
    vocabulary: object,
    longest: int,
    breaks: Callable[[tuple[int, ...]], bool],
    examples: int,
    random: Random,
) -> tuple[int, ...] | None:
    if longest < 1:
        return None
    # Everything is set, so that no profile of the user's tests changes what is drawn.
    limits = settings(
        max_examples=examples,
        derandomize=False,
        backend="hypothesis",
        verbosity=Verbosity.quiet,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    try:
        return find(prompts(vocabulary, longest=longest), breaks, settings=limits, random=random)
    except NoSuchExample:
        return None


def _leave_out(prompt: tuple[int, ...], breaks: Callable[[tuple[int, ...]], bool]) -> tuple[int, ...]:
    """Leave out tokens, one after the other, as long as what is left still breaks the law."""
    place = 0
    while place < len(prompt) and len(prompt) > 1:
        without = (*prompt[:place], *prompt[place + 1 :])
        if breaks(without):
            prompt, place = without, 0
        else:
            place += 1
    return prompt
