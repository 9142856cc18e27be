"""How often verdicts are wrong on streams of real windows: the tables of docs/intervals.md."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools.soak.pages import write_between
from tools.soak.simulate import (
    CONFIDENCE,
    DATA,
    EACH,
    WINDOW_LOOKS,
    Case,
    Result,
    list_cases,
    measure_misses,
    simulate,
)

PAGE = Path(__file__).parents[2] / "docs" / "intervals.md"
STREAMS = 20_000
SIZES = WINDOW_LOOKS[:5]


def soak_intervals(streams: int = STREAMS) -> int:
    """Simulate every case, print it, and put the tables into the page; nothing fails by it."""
    cases = [case for path in sorted(DATA.glob("*.json")) for case in list_cases(path.stem)]
    results = []
    for case in cases:
        result = simulate(case, streams)
        results.append(result)
        sys.stdout.write("\n".join(tell(result)) + "\n")
        sys.stdout.flush()
    write_between(PAGE, "errors", list_errors(results))
    for confidence in (CONFIDENCE, EACH):
        write_between(PAGE, f"coverage {100 * confidence:.3g}", list_coverage(cases, confidence, streams))
    return 0


def tell(result: Result) -> Iterator[str]:
    """Yield what became of a case, a line for each limit."""
    case = result.case
    yield (
        f"{case.model}, {case.arm}, {case.kind} {case.truth:.4g}: misses {result.low_missed:.2%} above, "
        f"{result.high_missed:.2%} below"
    )
    for one in result.rates:
        yield (
            f"  limit {one.limit:.4g}: wrong {one.wrong:.2%}, contradicted {one.contradicted:.2%}, "
            f"early {one.early:.2%}, open {one.open:.1%}, after {one.units:.1f}"
        )


def list_errors(results: Sequence[Result]) -> Iterator[str]:
    """Yield a table: per kind of figure and model the worst arm."""
    yield "| figure | model | arms | interval misses at some look | wrong | contradicted | early | decided after |"
    yield "|---|---|---|---|---|---|---|---|"
    groups: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        groups[result.case.kind, result.case.model].append(result)
    for (kind, model), group in groups.items():
        own = [one for result in group for one in result.rates[: len(result.case.limits)]]
        close = [one for result in group for one in result.rates[len(result.case.limits) :]]
        misses = max(result.missed for result in group)
        rates = [
            " / ".join(f"{max(getattr(one, name) for one in part):.2%}" if part else "-" for part in (own, close))
            for name in ("wrong", "contradicted", "early")
        ]
        units = " to ".join(f"{end(one.units for one in own):.1f}" for end in (min, max)) if own else "-"
        yield f"| {kind} | {model} | {len(group)} | {misses:.2%} | {' | '.join(rates)} | {units} |"


def list_coverage(cases: Sequence[Case], confidence: float, streams: int) -> Iterator[str]:
    """Yield a table: per kind of figure and size the least and largest coverage of all arms of all models."""
    yield f"| figure | {' | '.join(f'{size} windows' for size in SIZES)} |"
    yield f"|---|{'---|' * len(SIZES)}"
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        if case.looks == WINDOW_LOOKS:
            groups[case.kind].append(case)
    for kind, group in groups.items():
        cells = []
        for size in SIZES:
            covered = [1 - sum(measure_misses(case, size, confidence, streams)) for case in group]
            cells.append(f"{min(covered):.3f} to {max(covered):.3f}")
        yield f"| {kind} | {' | '.join(cells)} |"
