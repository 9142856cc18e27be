"""What two models decide, from the logits of how an answer begins; no answer is generated and no model judges."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.measure.scoring import ScoredSequence, score_sequences
from sw_audit.progress import Progress, ignore_progress, tell_stage
from sw_audit.record.descent import Decision, Decisions

TokenIds = tuple[int, ...]


@dataclass(frozen=True)
class Question:
    """One question, as token ids.

    Attributes:
        name: What it is called.
        prompt: What comes before the answer.
        openings: What an answer begins with, by the decision that it says.
        expected: Whether the first decision is the better one; `None` if nobody says.
    """

    name: str
    prompt: TokenIds
    openings: tuple[tuple[TokenIds, ...], tuple[TokenIds, ...]]
    expected: bool | None = None


@dataclass(frozen=True)
class Questions:
    """The questions of one kind.

    Attributes:
        kind: Which kind.
        sides: What both decisions are called.
        questions: The questions; none where they cannot be asked.
        skipped: Why they cannot be asked, a clause; empty where they can.
    """

    kind: str
    sides: tuple[str, str]
    questions: tuple[Question, ...] = ()
    skipped: str = ""


Margins = tuple[float | None, ...]


def measure_margins(
    checkpoint: Checkpoint, kinds: Sequence[Questions], progress: Progress = ignore_progress
) -> tuple[Margins, ...]:
    """Measure how clearly a model decides each question of each kind, in nats.

    A margin is the logarithm of the probability that an answer begins as the first decision does, over that of the
    second: the log-sum-exp of the openings' log-probabilities of the one less that of the other. Where an opening
    has no finite one it is `None`.
    """
    asked = [
        ScoredSequence((*question.prompt, *opening), len(question.prompt))
        for kind in kinds
        for question in kind.questions
        for side in question.openings
        for opening in side
    ]
    scores = iter(score_sequences(checkpoint, asked, tell_stage(progress, "reading decisions")))
    return tuple(
        tuple(
            _subtract(*([next(scores) for _ in side] for side in question.openings)) for question in kind.questions
        )
        for kind in kinds
    )


def _subtract(first: Sequence[float], second: Sequence[float]) -> float | None:
    sums = [_add_up(scores) for scores in (first, second)]
    margin = sums[0] - sums[1]
    return margin if math.isfinite(margin) else None


def _add_up(scores: Sequence[float]) -> float:
    peak = max(scores) if all(math.isfinite(score) for score in scores) else math.nan
    return peak + math.log(math.fsum(math.exp(score - peak) for score in scores))


def pair_decisions(
    kinds: Sequence[Questions], parent: Sequence[Margins], descendant: Sequence[Margins]
) -> tuple[Decisions, ...]:
    """Put the margins of both models, one list per kind, side by side."""
    return tuple(
        Decisions(
            kind=kind.kind,
            sides=kind.sides,
            skipped=kind.skipped,
            decisions=tuple(
                Decision(name=question.name, parent=there, descendant=here, expected=question.expected)
                for question, there, here in zip(kind.questions, theirs, ours, strict=True)
            ),
        )
        for kind, theirs, ours in zip(kinds, parent, descendant, strict=True)
    )


def tokenize_question(
    checkpoint: Checkpoint, name: str, prompt: str, openings: Mapping[str, Sequence[str]], expected: bool | None
) -> Question:
    """Tokenize a question; spaces that the prompt ends with become those that its openings begin with.

    The prompt begins with BOS where the model is used with it. An opening that does not continue the prompt token
    by token, or is the same tokens as another, counts once and by its own tokens.
    """
    tokenizer, bos = checkpoint.tokenizer, checkpoint.start.bos

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return ids

    begun = prompt.rstrip(" ")
    lead, context = prompt[len(begun) :], encode(begun)

    def continue_with(opening: str) -> TokenIds:
        whole = encode(f"{begun}{lead}{opening}")
        apart = whole[: len(context)] != context
        return tuple(encode(f"{lead}{opening}") if apart else whole[len(context) :])

    sides = tuple(tuple(dict.fromkeys(map(continue_with, words))) for words in openings.values())
    start = [] if bos is None or context[:1] == [bos] else [bos]
    return Question(name, (*start, *context), (sides[0], sides[1]), expected)
