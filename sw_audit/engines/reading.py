"""From what engines expect at the places of a text to sums per window: loss, divergence, the likeliest token."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from sw_audit.corpus.windows import Windows
from sw_audit.engines.engine import Distributions, Engine, Piece, cut_pieces
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.arm import Arm, Purpose
from sw_audit.record.measurement import Agreement, Measurement, PerWindow, StopWordMass, TokenLoss

_LEAST_REST = 1e-6
"""What is left of 1 is known no better than single precision adds up."""


def measure_in_engines(
    engines: Mapping[Purpose, tuple[Engine, Purpose]],
    windows: Windows,
    *,
    model: str,
    protocol: str,
    stop_words: Tensor | None = None,
    progress: Progress = ignore_progress,
) -> dict[Purpose, Measurement]:
    """Measure one text in several engines side by side, piece by piece.

    Where engines tell all log-probabilities, agreement is as everywhere else. Where one tells the likeliest tokens
    alone, divergence is that of the tokens that both tell, each a class of its own, with all others as one class:
    never more than the divergence of the whole distributions. Mass on stop words is then not known.

    Args:
        engines: By what each is for: the engine, which may have several purposes and runs once, and the purpose of
            the one that it is held against; where that is not among them, against itself.
        windows: The text.
        model: Id of the model.
        protocol: Signature of the protocol.
        stop_words: Ids of stop words, int64 [ids]; `None` leaves their mass out.
        progress: Told after each window.

    Raises:
        EngineError: If an engine does not do as asked.
    """
    count, length = windows.token_ids.shape
    running = {id(engine): engine for engine, _ in engines.values()}
    pieces = cut_pieces(windows, max(engine.identity.vocabulary for engine in running.values()))
    sums = {purpose: _Sums(count, stop_words) for purpose in engines}
    seconds = dict.fromkeys(running, 0.0)
    streams = {key: engine.score(windows, pieces) for key, engine in running.items()}
    progress("scoring", 0, count)
    for piece in pieces:
        given = {}
        targets = windows.token_ids[piece.window, piece.first + 1 : piece.end + 1]
        for key, stream in streams.items():
            begun = time.perf_counter()
            given[key] = next(stream)
            seconds[key] += time.perf_counter() - begun
        for purpose, (engine, against) in engines.items():
            reference = engines.get(against, (engine, against))[0]
            sums[purpose].add(piece, targets, given[id(engine)], given[id(reference)])
        if piece.end == length - 1:
            progress("scoring", piece.window + 1, count)
    return {
        purpose: sums[purpose].collect(model, Arm(purpose=purpose), protocol, windows, seconds[id(engine)])
        for purpose, (engine, _) in engines.items()
    }


class _Sums:
    """What one engine's figures are made of."""

    def __init__(self, windows: int, stop_words: Tensor | None) -> None:
        self._nats, self._divergence, self._mass = torch.zeros(3, windows, dtype=torch.float64)
        self._same_top = torch.zeros(windows, dtype=torch.long)
        self._tokens: list[Tensor] = []
        self._stop_words = stop_words
        self._told: int | None = None  # the fewest tokens that were told at a place, of two; `None` if all

    def add(self, piece: Piece, targets: Tensor, own: Distributions, reference: Distributions) -> None:
        """Add one piece; `targets` are the ids of the tokens that follow, int64 [places]."""
        window = piece.window
        self._nats[window] -= own.targets.double().sum()
        if own.token_ids is None and self._stop_words is not None:
            self._mass[window] += own.log_probabilities[:, self._stop_words].exp().double().sum()
        for one in (own, reference):
            if one.token_ids is not None:
                told = one.token_ids.shape[1]
                self._told = told if self._told is None else min(self._told, told)
        same = torch.ones(len(targets), dtype=torch.bool) if own is reference else own.top == reference.top
        self._same_top[window] += (same & (own.top >= 0)).sum()
        if own is not reference:
            divergence = diverge(reference, own, targets)
            self._divergence[window] += divergence.sum()
            self._tokens.append(divergence)

    def collect(self, model: str, arm: Arm, protocol: str, windows: Windows, seconds: float) -> Measurement:
        tokens = tuple((windows.token_ids.shape[1] - windows.first_scored).tolist())
        mass = None
        if self._stop_words is not None and self._told is None:
            mass = StopWordMass(mass=_list_finite(self._mass), tokens=tokens)
        return Measurement(
            model=model,
            arm=arm,
            protocol=protocol,
            loss=TokenLoss(nats=_list_finite(self._nats), tokens=tokens),
            agreement=Agreement(
                divergence=_list_finite(self._divergence),
                same_top=tuple(self._same_top.tolist()),
                tokens=tokens,
                token_divergence=_list_finite(torch.cat(self._tokens).clamp_min(0.0)) if self._tokens else (),
                top_tokens=self._told,
            ),
            stop_words=mass,
            peaks=(),
            seconds=seconds,
        )


def diverge(reference: Distributions, own: Distributions, targets: Tensor) -> Tensor:
    """Return KL(reference || own) in nats, float64 [places]; NaN where either is not known to be finite.

    Where not all tokens are told, those that both tell are classes of their own, and all others one class. The
    token that follows, of ids int64 [places], is told by both. Of two vocabularies the common tokens count.
    """
    known = [one.targets.isfinite() for one in (reference, own)]
    if reference.token_ids is None and own.token_ids is None:
        common = min(reference.log_probabilities.shape[-1], own.log_probabilities.shape[-1])
        log_p, log_q = (_take_common(one.log_probabilities, common) for one in (reference, own))
        divergence = (log_p.exp() * (log_p - log_q)).masked_fill(log_p.isneginf(), 0.0).sum(-1)
    else:
        size = max(_count_tokens(one, targets) for one in (reference, own))
        log_p, log_q = (_spread(one, targets, size) for one in (reference, own))
        both = ~(log_p.isnan() | log_q.isnan())
        p, q = (log.exp().masked_fill(~both, 0.0) for log in (log_p, log_q))
        divergence = (p * (log_p - log_q)).masked_fill(~both | (p == 0), 0.0).sum(-1)
        rest_p, rest_q = ((1.0 - one.sum(-1)).clamp_min(_LEAST_REST) for one in (p, q))
        divergence += rest_p * (rest_p.log() - rest_q.log())
    return divergence.masked_fill(~(known[0] & known[1]), math.nan)


def _take_common(log_p: Tensor, common: int) -> Tensor:
    log_p = log_p.double()
    return log_p if log_p.shape[-1] == common else log_p[:, :common].log_softmax(-1)


def _count_tokens(one: Distributions, targets: Tensor) -> int:
    if one.token_ids is None:
        return one.log_probabilities.shape[-1]
    return int(max(one.token_ids.max(), targets.max())) + 1


def _spread(one: Distributions, targets: Tensor, size: int) -> Tensor:
    """Return the log-probability of every token, float64 [places, size]; NaN of what is not told."""
    spread = torch.full((len(targets), size), math.nan, dtype=torch.float64)
    if one.token_ids is None:
        spread[:, : one.log_probabilities.shape[-1]] = one.log_probabilities.double()
    else:
        spread.scatter_(1, one.token_ids, one.log_probabilities.double())
    return spread.scatter_(1, targets[:, None], one.targets.double()[:, None])


def _list_finite(values: Tensor) -> PerWindow:
    return tuple(value if math.isfinite(value) else None for value in values.tolist())
