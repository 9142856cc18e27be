"""Evidence in steps: how far each step goes."""

from __future__ import annotations

from sw_audit.record.measurement import Look

FIRST_TOKENS = 256
"""Tokens of the first step, in each arm. Each further step doubles what has been measured."""
FIRST_ITEMS = 32
"""Multiple-choice items of the first step."""
# A step that would leave less than half as much as it reaches goes to the end.
_REST = 1.5


def plan_looks(windows: int, window: int, items: int, minimum: int) -> tuple[Look, ...]:
    """Return how far each step reaches; the last one reaches the end of both.

    Args:
        windows: How many windows there are.
        window: Tokens in each.
        items: How many multiple-choice items there are.
        minimum: So many windows are needed for an interval, and so in the first step.
    """
    counts = _double(max(minimum, -(-FIRST_TOKENS // window)), windows)
    answers = _double(FIRST_ITEMS, items)
    steps = max(len(counts), len(answers))
    return tuple(
        Look(windows=counts[min(step, len(counts) - 1)], items=answers[min(step, len(answers) - 1)])
        for step in range(steps)
    )


def _double(first: int, whole: int) -> list[int]:
    """Return `first`, twice that, and so on up to the whole, to which the last step goes if little is left."""
    counts = [min(first, whole)]
    while counts[-1] < whole:
        double = 2 * counts[-1]
        counts.append(whole if double * _REST > whole else double)
    return counts
