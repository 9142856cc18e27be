"""Acts on matrices that a module keeps packed: what it answers is changed, and nothing that it holds.

Scaling the scalar `W[r, c]` by `s` is exactly: ask the module again with input channel `c` scaled by `s`, and take
output row `r` from that answer, all other rows from the first. Nothing is unpacked, nothing cancels. Where a
module rounds what enters it, that row's other products are rounded as if channel `c` had been scaled, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from sw_audit.arms.indexing import index_scalars
from sw_audit.checkpoint.effective import Probed, answered_by
from sw_audit.checkpoint.matrices import Matrix
from sw_audit.record.address import AddressGroup
from sw_audit.record.arm import Scale, SetTo

# With more sets of columns than these, asking again for each costs more than adding what is missing.
_MOST_CALLS = 12


@contextmanager
def scalars_answered(act: Scale | SetTo, matrix: Matrix, group: AddressGroup) -> Iterator[None]:
    """Let a module answer as if some scalars of its matrix were scaled, or set to a value.

    Args:
        act: What is done.
        matrix: The module's matrix, which is probed.
        group: Which scalars.

    Raises:
        CheckpointError: If an address lies outside the matrix.
    """
    probed = _require(matrix)
    rows, columns = index_scalars(matrix, [group])
    by_row: defaultdict[int, set[int]] = defaultdict(set)
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        by_row[row].add(column)
    sets: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for row, own in by_row.items():
        sets[tuple(sorted(own))].append(row)
    before: Callable[..., Any] = probed.module.forward
    if len(sets) <= _MOST_CALLS:
        answer = _ask_again(before, act, dict(sets))
    else:
        answer = _add_missing(before, act, rows, columns, probed)
    with answered_by(probed.module, answer):
        yield


@contextmanager
def matrix_answered(matrix: Matrix, weight: Tensor) -> Iterator[None]:
    """Let a module multiply by another matrix, plainly.

    Args:
        matrix: The module's matrix, which is probed.
        weight: The other one, [out, in].
    """
    probed = _require(matrix)
    nothing = torch.zeros(1, 1, probed.shape[1], dtype=probed.dtype, device=probed.device)
    bias = probed.module.forward(nothing)[0, 0].detach()
    bias = torch.where(bias.isfinite(), bias, 0.0)

    def answer(x: Tensor, *_: Any, **__: Any) -> Tensor:
        return linear(x, weight.to(x.dtype)) + bias.to(x.dtype)

    with answered_by(probed.module, answer):
        yield


def _ask_again(
    before: Callable[..., Any], act: Scale | SetTo, sets: dict[tuple[int, ...], list[int]]
) -> Callable[..., Any]:
    """Ask once more per set of columns, and take the rows that it is about from that answer."""

    def answer(x: Tensor, *inputs: Any, **named: Any) -> Tensor:
        given: Tensor = before(x, *inputs, **named)
        changed = given.clone()
        for columns, rows in sets.items():
            other = x.clone()
            other[..., list(columns)] *= act.factor if isinstance(act, Scale) else 0.0
            part = before(other, *inputs, **named)[..., rows]
            if isinstance(act, SetTo):
                added = x[..., list(columns)].float().sum(-1, keepdim=True) * act.value
                part = (part.float() + added).to(part.dtype)
            changed[..., rows] = part
        return changed

    return answer


def _add_missing(
    before: Callable[..., Any], act: Scale | SetTo, rows: Tensor, columns: Tensor, probed: Probed
) -> Callable[..., Any]:
    """Add the products that the changed scalars add beyond the old ones; rounding apart, the same."""
    held = probed.read_scalars(rows, columns).float()
    more = held * (act.factor - 1) if isinstance(act, Scale) else act.value - held  # [scalars]

    def answer(x: Tensor, *inputs: Any, **named: Any) -> Tensor:
        given: Tensor = before(x, *inputs, **named)
        added = torch.zeros(given.shape, dtype=torch.float32, device=given.device)
        added.index_add_(-1, rows, x[..., columns].float() * more)
        return (given.float() + added).to(given.dtype)

    return answer


def _require(matrix: Matrix) -> Probed:
    if matrix.probed is None:
        raise ValueError(f"{matrix.parameter} is no packed matrix")
    return matrix.probed
