"""Greedy continuations of short prompts and a long one, decoded by the model itself with its key-value cache.

Prompts of a model that is read as it runs are continued side by side, so that its weights are read once per token
of the longest continuation, not once per token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.checkpoint.side_by_side import run_side_by_side
from sw_audit.checkpoint.suppress_output import quiet_libraries
from sw_audit.corpus.windows import Windows
from sw_audit.policy.policy import DescentPolicy
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.descent import Continuation
from sw_audit.record.measurement import PromptContinuation


@dataclass(frozen=True)
class Prompt:
    """A prompt, and how far a model is to continue it.

    Attributes:
        text: The prompt, without special tokens.
        token_ids: Its ids, BOS included if the text's windows begin with it.
        tokens: Its length, BOS not counted.
        new_tokens: At most so many tokens are generated.
    """

    text: str
    token_ids: tuple[int, ...]
    tokens: int
    new_tokens: int


@dataclass(frozen=True)
class GreedyContinuation:
    """What one model continues a prompt with, and whether all logits were finite.

    Tokens end before the one that ends the text or whose logits are not finite.
    """

    tokens: tuple[int, ...]
    text: str
    finite: bool


Generate = Callable[[Sequence[Prompt], Progress], tuple[GreedyContinuation, ...]]
"""Continues prompts greedily."""


def draw_prompts(
    windows: Windows, tokenizer: Any, policy: DescentPolicy, maximum: int | None = None
) -> tuple[Prompt, ...]:
    """Take prompts from a text, each from another place; the longest comes once more, for a long continuation.

    A prompt longer than one window runs on into the next. Where the model takes sequences of at most `maximum`
    tokens, prompts are made shorter, then continuations.
    """
    stream, starts = _join(windows)
    lead = [] if windows.bos is None else [windows.bos]
    lengths = [(length, policy.new_tokens) for length in policy.prompt_tokens]
    lengths.append((max(policy.prompt_tokens), policy.long_new_tokens))
    prompts = []
    for number, (length, new_tokens) in enumerate(lengths):
        available = len(stream) + new_tokens if maximum is None else maximum - len(lead)
        fresh = min(new_tokens, max(available - 1, 1))
        kept = max(min(length, available - fresh, len(stream)), 1)
        start = min(starts[number * len(starts) // len(lengths)], len(stream) - kept)
        token_ids = stream[start : start + kept]
        text = tokenizer.decode(token_ids, skip_special_tokens=True)
        prompts.append(Prompt(text, (*lead, *token_ids), kept, fresh))
    return tuple(prompts)


def count_longest(policy: DescentPolicy, maximum: int | None) -> int:
    """Count the tokens of the longest continuation of a model that takes at most `maximum` tokens at once."""
    longest = max(policy.new_tokens, policy.long_new_tokens)
    return longest if maximum is None else min(longest, max(maximum - 2, 1))


def generate_continuations(
    checkpoint: Checkpoint, prompts: Sequence[Prompt], progress: Progress = ignore_progress
) -> tuple[GreedyContinuation, ...]:
    """Let a model continue each prompt, greedily; those of one length together.

    Others are not made as long, for padding would be another thing to go wrong. The model is bit-identical
    afterwards; progress is told after each token.
    """
    if not prompts:
        return ()
    alike: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts):
        alike.setdefault(len(prompt.token_ids), []).append(number)
    continuations: dict[int, GreedyContinuation] = {}
    longest = [max(prompts[number].new_tokens for number in numbers) for numbers in alike.values()]
    add_up = max if checkpoint.is_streamed else sum
    done = [0] * len(longest)

    def tell(place: int) -> None:
        done[place] += 1
        progress("generating", add_up(done), add_up(longest))

    with _decoding_greedily(checkpoint) as ends, torch.no_grad(), quiet_libraries():
        jobs = [
            partial(_continue_together, checkpoint, [prompts[one] for one in numbers], ends, partial(tell, place))
            for place, numbers in enumerate(alike.values())
        ]
        for numbers, together in zip(alike.values(), run_side_by_side(checkpoint, jobs), strict=True):
            continuations.update(zip(numbers, together, strict=True))
        progress("generating", add_up(longest), add_up(longest))
    return tuple(continuations[number] for number in range(len(prompts)))


def continue_prompts(
    checkpoint: Checkpoint,
    windows: Windows,
    policy: DescentPolicy,
    progress: Progress = ignore_progress,
    generate: Generate | None = None,
) -> tuple[PromptContinuation, ...]:
    """Let a model by itself continue prompts from a text; see `draw_prompts` and `generate_continuations`.

    With `generate` that does it, such as an engine.
    """
    generate = generate or partial(generate_continuations, checkpoint)
    prompts = draw_prompts(windows, checkpoint.tokenizer, policy, checkpoint.maximum_positions)
    return tuple(
        PromptContinuation(
            prompt=prompt.text, tokens=prompt.tokens, new_tokens=own.tokens, text=own.text, finite=own.finite
        )
        for prompt, own in zip(prompts, generate(prompts, progress), strict=True)
    )


def pair_continuations(
    prompts: Sequence[Prompt], parent: Sequence[GreedyContinuation], descendant: Sequence[GreedyContinuation]
) -> tuple[Continuation, ...]:
    """Put the continuations of both models, one per prompt, side by side."""
    return tuple(
        Continuation(
            prompt=prompt.text,
            tokens=prompt.tokens,
            parent=theirs.tokens,
            descendant=ours.tokens,
            parent_text=theirs.text,
            descendant_text=ours.text,
            finite=ours.finite,
        )
        for prompt, theirs, ours in zip(prompts, parent, descendant, strict=True)
    )


def _join(windows: Windows) -> tuple[list[int], list[int]]:
    """Put the text together again from its windows; return it and where each window's new tokens begin in it."""
    stream: list[int] = []
    starts = []
    for number, row in enumerate(windows.token_ids.tolist()):
        # Of the first row everything is new, also a first token that nothing predicts.
        first = int(windows.bos is not None) if number == 0 else int(windows.first_scored[number])
        starts.append(len(stream))
        stream += row[first:]
    return stream, starts


class _EachToken(LogitsProcessor):
    """Notes per token which rows have sound logits, tells progress, and changes nothing."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self.tell = tell
        self.sound: list[list[bool]] = []

    def __call__(self, _input_ids: Tensor, scores: Tensor) -> Tensor:
        """Look at the logits of the next token; see the library's `LogitsProcessor`."""
        # A token that a model rules out has a logit of minus infinity, which is no fault.
        sound = ~(scores.isnan() | scores.isposinf()).any(-1) & ~scores.isneginf().all(-1)
        self.sound.append(sound.tolist())
        self.tell()
        return scores


def _continue_together(
    checkpoint: Checkpoint, prompts: Sequence[Prompt], ends: frozenset[int], tell: Callable[[], None]
) -> list[GreedyContinuation]:
    token_ids = torch.tensor([prompt.token_ids for prompt in prompts], device=checkpoint.device)
    each = _EachToken(tell)
    generated = checkpoint.model.generate(
        token_ids,
        attention_mask=torch.ones_like(token_ids),
        max_new_tokens=max(prompt.new_tokens for prompt in prompts),
        logits_processor=LogitsProcessorList([each]),
    )
    continuations = []
    for row, prompt in enumerate(prompts):
        tokens = generated[row, token_ids.shape[1] :].tolist()[: prompt.new_tokens]
        # What ended before the others is filled up after its end.
        end = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
        bad = next((place for place in range(min(end + 1, len(tokens))) if not each.sound[place][row]), None)
        tokens = tokens[: end if bad is None else bad]
        text = checkpoint.tokenizer.decode(tokens)
        continuations.append(GreedyContinuation(tuple(tokens), text, bad is None))
    return continuations


def find_ends(checkpoint: Checkpoint) -> frozenset[int]:
    """Return the ids of the tokens that end a model's text, as its files have them."""
    end = getattr(checkpoint.model.generation_config, "eos_token_id", None)
    end = checkpoint.tokenizer.eos_token_id if end is None else end
    return frozenset([] if end is None else [end] if isinstance(end, int) else end)


@contextmanager
def _decoding_greedily(checkpoint: Checkpoint) -> Iterator[frozenset[int]]:
    """Replace the model's own settings, which may sample or punish repetition; yield the end tokens."""
    model = checkpoint.model
    before, ends = model.generation_config, sorted(find_ends(checkpoint))
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
    )
    try:
        yield frozenset(ends)
    finally:
        model.generation_config = before
