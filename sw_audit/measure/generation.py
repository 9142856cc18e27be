"""Greedy continuations of short prompts and a long one, as the model itself decodes, key-value cache and all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.checkpoint.suppress_output import quiet_libraries
from sw_audit.corpus.windows import Windows
from sw_audit.policy.policy import DescentPolicy
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.descent import Continuation


@dataclass(frozen=True)
class Prompt:
    """A prompt, and how far a model is to go on with it.

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
    """What one model goes on with.

    Attributes:
        tokens: The new tokens, up to the one that ends the text or whose logits are not finite, which is left out.
        text: The same as text.
        finite: Whether all logits were finite.
    """

    tokens: tuple[int, ...]
    text: str
    finite: bool


def draw_openings(
    windows: Windows, tokenizer: Any, wanted: DescentPolicy, maximum: int | None = None
) -> tuple[Prompt, ...]:
    """Take prompts from a text, each from another place; the longest comes once more, to be gone on with for long.

    Args:
        windows: The text, cut; a prompt longer than one window runs on into the next.
        tokenizer: What it was cut with.
        wanted: Lengths of prompts and continuations.
        maximum: The longest sequence that the model can take; prompts are made shorter, then continuations.
    """
    stream, starts = _join(windows)
    lead = [] if windows.bos is None else [windows.bos]
    longest = max(wanted.prompt_tokens)
    asked = [(length, wanted.new_tokens) for length in wanted.prompt_tokens] + [(longest, wanted.long_new_tokens)]
    openings = []
    for number, (length, new_tokens) in enumerate(asked):
        room = len(stream) + new_tokens if maximum is None else maximum - len(lead)
        fresh = min(new_tokens, max(room - 1, 1))
        kept = max(min(length, room - fresh, len(stream)), 1)
        start = min(starts[number * len(starts) // len(asked)], len(stream) - kept)
        token_ids = stream[start : start + kept]
        text = tokenizer.decode(token_ids, skip_special_tokens=True)
        openings.append(Prompt(text, (*lead, *token_ids), kept, fresh))
    return tuple(openings)


def generate_continuations(
    checkpoint: Checkpoint, openings: Sequence[Prompt], progress: Progress = ignore_progress
) -> tuple[GreedyContinuation, ...]:
    """Let a model go on with each prompt, greedily, one at a time: padding would be another thing to go wrong.

    Args:
        checkpoint: The model; bit-identical afterwards.
        openings: The prompts.
        progress: Told after each.
    """
    spoken = []
    with _decoding_greedily(checkpoint) as ends, torch.no_grad(), quiet_libraries():
        for number, opening in enumerate(openings):
            spoken.append(_go_on(checkpoint, opening, ends))
            progress("generating", number + 1, len(openings))
    return tuple(spoken)


def pair_continuations(
    openings: Sequence[Prompt], parent: Sequence[GreedyContinuation], descendant: Sequence[GreedyContinuation]
) -> tuple[Continuation, ...]:
    """Put what both models go on with side by side.

    Args:
        openings: The prompts.
        parent: What the parent goes on with, one per prompt.
        descendant: Likewise the descendant.
    """
    return tuple(
        Continuation(
            prompt=opening.text,
            tokens=opening.tokens,
            parent=theirs.tokens,
            descendant=ours.tokens,
            parent_text=theirs.text,
            descendant_text=ours.text,
            finite=ours.finite,
        )
        for opening, theirs, ours in zip(openings, parent, descendant, strict=True)
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


def _go_on(checkpoint: Checkpoint, opening: Prompt, ends: frozenset[int]) -> GreedyContinuation:
    prompt = torch.tensor([opening.token_ids], device=checkpoint.device)  # [1, tokens]
    found = checkpoint.model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=opening.new_tokens,
        output_logits=True,
        return_dict_in_generate=True,
    )
    new = found.sequences[0, prompt.shape[1] :].tolist()
    # A token that a model rules out has a logit of minus infinity, which is no fault.
    sound = [not bool((one.isnan() | one.isposinf()).any() | one.isneginf().all()) for one in found.logits]
    finite = all(sound)
    tokens = new if finite else new[: sound.index(False)]
    tokens = tokens[:-1] if finite and tokens and tokens[-1] in ends else tokens
    return GreedyContinuation(tuple(tokens), checkpoint.tokenizer.decode(tokens), finite)


@contextmanager
def _decoding_greedily(checkpoint: Checkpoint) -> Iterator[frozenset[int]]:
    """Take the model's own settings of decoding away inside, which may sample or punish repetition.

    Yields:
        The tokens that end a text.
    """
    from transformers import GenerationConfig

    model = checkpoint.model
    before = model.generation_config
    named = getattr(before, "eos_token_id", None)
    named = checkpoint.tokenizer.eos_token_id if named is None else named
    ends = [] if named is None else [named] if isinstance(named, int) else list(named)
    pad = ends[0] if ends else 0
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, num_beams=1, use_cache=True, eos_token_id=ends or None, pad_token_id=pad
    )
    try:
        yield frozenset(ends)
    finally:
        model.generation_config = before
