"""Searches for the shortest prompt on which a super activation does not stay as it was located."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random

from hypothesis import HealthCheck, Phase, Verbosity, configuration, find, settings
from hypothesis.errors import NoSuchExample
from hypothesis.strategies import SearchStrategy

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.errors import CheckpointError
from sw_audit.leftovers import temporary_folder
from sw_audit.locate.trace import find_break, trace_prompts
from sw_audit.record.location import BreakingPrompt, Location, PromptSearch, PromptTrace
from sw_audit.testing.strategies import prompts

_Prompt = tuple[int, ...]
AT_ONCE = 50
"""Prompts that are tried at once: enough to have some of about one length."""


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
    channels = [activation.channel for activation in activations]
    known: dict[_Prompt, str | None] = {}
    ahead: list[_Prompt] = []

    def trace(*traced: _Prompt) -> tuple[PromptTrace, ...]:
        decode = checkpoint.tokenizer.decode
        texts = [decode(list(prompt), skip_special_tokens=True) for prompt in traced]
        return trace_prompts(
            checkpoint,
            channels,
            [(text, [*bos, *prompt]) for text, prompt in zip(texts, traced, strict=True)],
        )

    def breaks(prompt: _Prompt) -> bool:
        if prompt not in known:
            # What the search will ask next is tried along with it, unless that is the end of it.
            following = ahead[ahead.index(prompt) :][:AT_ONCE] if prompt in ahead else [prompt]
            asked = list(dict.fromkeys(one for one in following if one not in known))
            try:
                traces = trace(*asked)
            except CheckpointError:
                asked, traces = [prompt], trace(prompt)
            for number, one in enumerate(asked):
                own = traces[number * len(channels) :][: len(channels)]
                known[one] = find_break(own, activations, tolerance)
        return known[prompt] is not None

    def search(most: int) -> _Prompt | None:
        if most < 1:
            return None
        drawn = prompts(vocabulary, longest=most)
        # As the search begins it draws the same, until something breaks the law.
        ahead[:] = _rehearse(drawn, examples, random)
        return _search(drawn, breaks, examples, random)

    random = Random(seed)  # noqa: S311 - a reproducible search, not a secret
    prompt = search(longest)
    while prompt is not None:
        prompt = _leave_out(prompt, breaks)
        shorter = search(len(prompt) - 1)
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
    with temporary_folder() as folder:
        configuration.set_hypothesis_home_dir(str(folder))
        try:
            yield
        finally:
            configuration.set_hypothesis_home_dir(home)


def _rehearse(drawn: SearchStrategy[_Prompt], examples: int, random: Random) -> list[_Prompt]:
    """List what a search draws where nothing breaks the law; the state of `random` stays as it is."""
    listed: list[_Prompt] = []

    def holds(prompt: _Prompt) -> bool:
        listed.append(prompt)
        return False

    copy = Random()  # noqa: S311
    copy.setstate(random.getstate())
    _search(drawn, holds, examples, copy)
    return listed


def _search(
    drawn: SearchStrategy[_Prompt], breaks: Callable[[_Prompt], bool], examples: int, random: Random
) -> _Prompt | None:
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
        return find(drawn, breaks, settings=limits, random=random)
    except NoSuchExample:
        return None


def _leave_out(prompt: _Prompt, breaks: Callable[[_Prompt], bool]) -> _Prompt:
    """Leave out tokens, one after the other, as long as what is left still breaks the law."""
    place = 0
    while place < len(prompt) and len(prompt) > 1:
        without = (*prompt[:place], *prompt[place + 1 :])
        if breaks(without):
            prompt, place = without, 0
        else:
            place += 1
    return prompt
