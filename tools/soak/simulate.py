"""Streams of windows drawn with replacement from real ones, judged look by look as an audit judges them.

What is true of a stream is what all the windows that it is drawn from come to together.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy
from numpy.typing import NDArray

from sw_audit.checks.estimate import Estimate, EstimateStatus, hold_at_least, hold_at_most
from sw_audit.checks.statistics import (
    bound_lost_share,
    bound_paired_difference,
    bound_perplexity_ratio,
    bound_positive_ratio,
    bound_proportion,
    bound_ratio,
    bound_token_quantile,
    bound_token_share,
)
from sw_audit.corpus.looks import plan_looks
from sw_audit.policy.policy import Policy
from sw_audit.record.verdict import Side, Status

DATA = Path(__file__).parent / "data"
WINDOWS, ITEMS = 128, 200
"""Of the longest streams."""
CONFIDENCE = Policy().confidence
_PLAN = plan_looks(WINDOWS, 64, ITEMS, Policy().minimum_windows)
WINDOW_LOOKS = tuple(dict.fromkeys(look.windows for look in _PLAN))
ITEM_LOOKS = tuple(dict.fromkeys(look.items for look in _PLAN))
SHARE = "share of loss recovered"
UNHELD = ", not held"
"""Ends the kind of a figure that no check holds against a limit: those of the arm that only a share is read of."""
EACH = 1 - (1 - CONFIDENCE) / len(_PLAN)
"""Confidence of the intervals at one look: the error is shared by all looks that are planned."""

Indices: TypeAlias = NDArray[numpy.int64]
Bounds: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True)
class Case:
    """One figure of one arm, and the limits that it is held against.

    Attributes:
        kind: What the figure is.
        model: Of which model.
        arm: Of which arm.
        units: How many windows or items there are to draw from.
        bound: Returns the figure on some of them with its interval, at a confidence.
        side: Which side of a limit is good.
        limits: What it is held against: the checks' own limits.
        close: Two limits more, an error of a quarter of the longest stream away from the truth on either side.
        looks: After how many of them it is looked at.
    """

    kind: str
    model: str
    arm: str
    units: int
    bound: Callable[[Indices, float], Bounds]
    side: Side
    limits: tuple[float, ...]
    close: tuple[float, ...]
    looks: tuple[int, ...]

    @property
    def truth(self) -> float:
        """The figure on all of them."""
        return self.bound(numpy.arange(self.units), CONFIDENCE)[0]


@dataclass(frozen=True)
class Rates:
    """How one limit fared over all streams.

    Attributes:
        limit: The limit.
        wrong: Share of streams whose verdict is not the true one; undecided is not wrong.
        contradicted: Share of streams decided otherwise than by one look at the whole stream.
        early: Share of streams decided though one look at the whole stream leaves them open.
        open: Share of streams that no look decides.
        units: Windows or items until decided, on average; all of them where undecided.
    """

    limit: float
    wrong: float
    contradicted: float
    early: float
    open: float
    units: float


@dataclass(frozen=True)
class Result:
    """What became of a case.

    Attributes:
        case: The case.
        low_missed: Share of streams whose lower end is above the truth at some look.
        high_missed: Share of streams whose upper end is below it.
        rates: Per limit.
    """

    case: Case
    low_missed: float
    high_missed: float
    rates: tuple[Rates, ...]

    @property
    def missed(self) -> float:
        """Share of streams at some look of which the interval does not hold the truth: no limit has more wrong."""
        return self.low_missed + self.high_missed


def simulate(case: Case, streams: int, *, seed: int = 0) -> Result:
    """Draw streams and judge each at every look, and once more whole, at one look."""
    looks, truth = case.looks, case.truth
    ends, once = numpy.empty((streams, len(looks), 2)), numpy.empty((streams, 2))
    for number, stream in enumerate(draw(case, streams, looks[-1], seed)):
        ends[number] = [case.bound(stream[:size], EACH)[1:] for size in looks]
        once[number] = case.bound(stream, CONFIDENCE)[1:]
    low, high = (ends[:, :, 0] > truth).any(1), (ends[:, :, 1] < truth).any(1)
    rates = tuple(_rate(case, limit, ends, once) for limit in (*case.limits, *case.close))
    return Result(case, float(low.mean()), float((high & ~low).mean()), rates)


def measure_misses(
    case: Case, size: int, confidence: float, streams: int, *, seed: int = 0
) -> tuple[float, float]:
    """Return how often the interval of one look lies above the truth, and how often below."""
    truth = case.truth
    ends = numpy.array([case.bound(stream, confidence)[1:] for stream in draw(case, streams, size, seed)])
    return float((ends[:, 0] > truth).mean()), float((ends[:, 1] < truth).mean())


def draw(case: Case, streams: int, size: int, seed: int) -> Indices:
    """Draw which windows or items each stream consists of, int64 [streams, size]."""
    return numpy.random.default_rng(seed).integers(case.units, size=(streams, size))


def _rate(case: Case, limit: float, ends: NDArray[Any], once: NDArray[Any]) -> Rates:
    hold = hold_at_most if case.side == "at most" else hold_at_least

    def judge(low: float, high: float) -> Status:
        return hold(Estimate(EstimateStatus.MEASURED, "", 0.0, low, high), limit)

    right = judge(case.truth, case.truth)
    wrong = contradicted = early = undecided = units = 0
    for looked, at_once in zip(ends, once, strict=True):
        statuses = (judge(*look) for look in looked)
        decided = ((look, one) for look, one in enumerate(statuses) if one is not Status.INCONCLUSIVE)
        look, status = next(decided, (len(case.looks) - 1, Status.INCONCLUSIVE))
        units += case.looks[look]
        if status is Status.INCONCLUSIVE:
            undecided += 1
            continue
        whole = judge(*at_once)
        wrong += status is not right
        early += whole is Status.INCONCLUSIVE
        contradicted += whole is not Status.INCONCLUSIVE and whole is not status
    count = len(ends)
    return Rates(limit, wrong / count, contradicted / count, early / count, undecided / count, units / count)


def list_cases(name: str) -> Iterator[Case]:
    """Yield all figures of all arms of a model whose windows were measured, see `tools.soak.measure`."""
    measured = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    tokens = numpy.array(measured["tokens"])
    arms: Mapping[str, Mapping[str, Any]] = {
        arm: {
            key: numpy.array([*map(int, values)], dtype=bool) if key == "correct" else numpy.array(values)
            for key, values in kept.items()
        }
        for arm, kept in measured["arms"].items()
    }
    intact = arms["parent"]

    def make(kind: str, arm: str, bound: Any, side: Side, limits: tuple[float, ...], items: int = 0) -> Case:
        kind = f"{kind}{UNHELD}" if arm == "restored" and kind != SHARE else kind
        units, looks = (items, ITEM_LOOKS) if items else (len(tokens), WINDOW_LOOKS)
        case = Case(kind, name, arm, units, bound, side, limits, (), looks)
        return replace(case, close=_find_close(case))

    for arm, kept in arms.items():
        if arm == "parent":
            continue
        yield make("perplexity ratio", arm, _bound_perplexity(kept, intact, tokens), "at most", (1.1, 1.5, 10.0))
        if "divergence" not in kept:
            continue
        yield make("mean KLD", arm, _bound_divergence(kept, tokens), "at most", (0.1,))
        yield make("same top token", arm, _bound_top(kept, tokens), "at least", (0.85,))
        yield make("stop-word mass ratio", arm, _bound_mass(kept, intact), "at most", (1.5,))
        if len(kept.get("token_divergence", ())):
            for share in (0.5, 0.99):
                bound = _bound_quantile(kept, tokens, share)
                yield make(f"{100 * share:g} % KLD", arm, bound, "at most", ())
        if len(kept["correct"]):
            items, pair = len(kept["correct"]), (intact["correct"], kept["correct"])
            lost = _bound_lost(*pair, measured["chance"])
            yield make("lost accuracy above chance", arm, lost, "at least", (0.6,), items)
            yield make("accuracy lost", arm, _bound_paired(*pair), "at most", (0.02,), items)
            yield make("accuracy", arm, _bound_accuracy(kept["correct"]), "at least", (measured["chance"],), items)
    if "restored" in arms:
        share = _bound_share(arms["zeroed"], arms["restored"], intact)
        yield make(SHARE, "restored", share, "at least", (0.05, 0.8))


def _find_close(case: Case) -> tuple[float, float]:
    figures = [case.bound(stream, CONFIDENCE)[0] for stream in draw(case, 200, case.looks[-1] // 4, 1)]
    error = float(numpy.nanstd(figures))
    return case.truth - error, case.truth + error


def _bound_perplexity(arm: Mapping[str, Any], intact: Mapping[str, Any], tokens: Any) -> Any:
    return lambda drawn, confidence: bound_perplexity_ratio(
        arm["nats"][drawn], intact["nats"][drawn], tokens[drawn], confidence
    )


def _bound_divergence(arm: Mapping[str, Any], tokens: Any) -> Any:
    return lambda drawn, confidence: bound_positive_ratio(arm["divergence"][drawn], tokens[drawn], confidence)


def _bound_top(arm: Mapping[str, Any], tokens: Any) -> Any:
    return lambda drawn, confidence: bound_token_share(arm["same_top"][drawn], tokens[drawn], confidence)


def _bound_mass(arm: Mapping[str, Any], intact: Mapping[str, Any]) -> Any:
    return lambda drawn, confidence: bound_ratio(arm["stop_words"][drawn], intact["stop_words"][drawn], confidence)


def _bound_quantile(arm: Mapping[str, Any], tokens: Any, share: float) -> Any:
    windows = numpy.split(arm["token_divergence"], numpy.cumsum(tokens)[:-1])

    def bound(drawn: Indices, confidence: float) -> Bounds:
        values = numpy.concatenate([windows[one] for one in drawn])
        return bound_token_quantile(values, tokens[drawn], share, confidence)

    return bound


def _bound_share(lost: Mapping[str, Any], restored: Mapping[str, Any], intact: Mapping[str, Any]) -> Any:
    won, all_lost = lost["nats"] - restored["nats"], lost["nats"] - intact["nats"]
    return lambda drawn, confidence: bound_ratio(won[drawn], all_lost[drawn], confidence)


def _bound_lost(before: Any, after: Any, chance: float) -> Any:
    def bound(drawn: Indices, confidence: float) -> Bounds:
        right = before[drawn].tolist()
        if bound_proportion(sum(right), len(right), confidence)[0] <= chance:
            return math.nan, math.nan, math.nan
        return bound_lost_share(right, after[drawn].tolist(), chance, confidence)

    return bound


def _bound_paired(before: Any, after: Any) -> Any:
    def bound(drawn: Indices, confidence: float) -> Bounds:
        lost, won = int((before & ~after)[drawn].sum()), int((after & ~before)[drawn].sum())
        return (lost - won) / len(drawn), *bound_paired_difference(lost, won, len(drawn), confidence)

    return bound


def _bound_accuracy(right: Any) -> Any:
    def bound(drawn: Indices, confidence: float) -> Bounds:
        count = int(right[drawn].sum())
        return count / len(drawn), *bound_proportion(count, len(drawn), confidence)

    return bound
