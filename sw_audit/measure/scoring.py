"""Log-probabilities of given tokens after given ones: all that an engine must say for decisions to be read."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.measure.engine import run_arms
from sw_audit.measure.readers import sequences_at_once
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.arm import BASELINE


@dataclass(frozen=True)
class ScoredSequence:
    """Token ids of which those from number `first` on, at least 1, are scored, each after all before it."""

    token_ids: tuple[int, ...]
    first: int


@dataclass
class _Row:
    """A sequence that is run: what it holds, and which places of it are asked for, each with (asked, token)."""

    token_ids: tuple[int, ...]
    targets: dict[int, list[tuple[int, int]]]


def score_sequences(
    checkpoint: Checkpoint, asked: Sequence[ScoredSequence], progress: Progress = ignore_progress
) -> tuple[float, ...]:
    """Return the sum of log-probabilities, in nats, of each sequence's scored tokens; NaN where not finite.

    The last token of a sequence is not run, and a sequence that another begins with is not run by itself: openings
    that differ in their last token cost one pass together. The weights of a model that is read as it runs are read
    once for all. Sequences are run with others of their length, without padding. A token that the model does not
    know makes its sequence NaN.
    """
    batches = list(_cut(_merge(asked, checkpoint.vocabulary), checkpoint.vocabulary))
    sums = [0.0] * len(asked)
    for number, one in enumerate(asked):
        if max(one.token_ids) >= checkpoint.vocabulary:
            sums[number] = math.nan
    if not batches:
        return tuple(sums)
    pieces = [_list_places(rows) for rows in batches]

    def read(batch: int, _: int, places: Tensor, logits: Tensor, __: Tensor) -> None:
        length = len(batches[batch][0].token_ids)
        log_p = logits.float().log_softmax(-1)
        for row, place in enumerate(places.tolist()):
            for number, token in batches[batch][place // length].targets.get(place % length, ()):
                nats = float(log_p[row, token])
                sums[number] = sums[number] + nats if math.isfinite(nats) else math.nan

    run_arms(
        checkpoint,
        [BASELINE],
        [torch.tensor([row.token_ids for row in rows]) for rows in batches],
        read,
        pieces=lambda batch: [pieces[batch]],
        progress=progress,
    )
    return tuple(sums)


def _merge(asked: Sequence[ScoredSequence], vocabulary: int) -> Iterator[_Row]:
    """Yield the sequences to run: those that no other begins with, with what is asked of either."""
    order = sorted(range(len(asked)), key=lambda number: asked[number].token_ids[:-1])
    row: _Row | None = None
    # From the last: what a sequence begins with comes right before it.
    for number in reversed(order):
        *run, _ = token_ids = asked[number].token_ids
        if max(token_ids) >= vocabulary:
            continue
        if row is None or row.token_ids[: len(run)] != tuple(run):
            if row is not None:
                yield row
            row = _Row(tuple(run), defaultdict(list))
        for place in range(asked[number].first, len(token_ids)):
            row.targets[place - 1].append((number, token_ids[place]))
    if row is not None:
        yield row


def _cut(rows: Iterator[_Row], vocabulary: int) -> Iterator[list[_Row]]:
    by_length: dict[int, list[_Row]] = defaultdict(list)
    for row in rows:
        by_length[len(row.token_ids)].append(row)
    for length in sorted(by_length):
        size, alike = sequences_at_once(length, vocabulary), by_length[length]
        yield from (alike[begin : begin + size] for begin in range(0, len(alike), size))


def _list_places(rows: Sequence[_Row]) -> Tensor:
    length = len(rows[0].token_ids)
    places = sorted({number * length + place for number, row in enumerate(rows) for place in row.targets})
    return torch.tensor(places)
