"""`Scale` and `SetTo`: single scalars of a matrix, changed in place and written back.

Where a module keeps its matrix packed, what it answers is changed and nothing that it holds. Scaling the scalar
`W[r, c]` by `s` is exactly: ask the module again with input channel `c` scaled by `s`, and take output row `r`
from that answer, all other rows from the first. Nothing is unpacked, nothing cancels. Where a module rounds what
enters it, that row's other products are rounded as if channel `c` had been scaled, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from sw_audit.arms.apply import LayerContext, register
from sw_audit.arms.matrices import index_scalars, names_scalars_of, restrict_scalars
from sw_audit.checkpoint.effective import Probed, answered_by
from sw_audit.record.arm import Scale, SetTo

# With more sets of columns than these, asking again for each costs more than adding what is missing.
_MOST_CALLS = 12


@register(Scale, touches=names_scalars_of, restrict=restrict_scalars)
@register(SetTo, touches=names_scalars_of, restrict=restrict_scalars)
@contextmanager
def changed_scalars(action: Scale | SetTo, context: LayerContext) -> Iterator[None]:
    """Scale scalars of a layer, or set them to a value.

    Raises:
        CheckpointError: If an address lies outside its matrix.
    """
    with ExitStack() as stack:
        for group in action.addresses:
            if (matrix := context.layer.find_matrix(group.parameter, group.expert)) is not None:
                index = index_scalars(matrix, [group])
                if matrix.probed is None:
                    stack.enter_context(_written(action, matrix.weight, index))
                else:
                    stack.enter_context(answered_by(matrix.probed.module, _answer(action, matrix.probed, *index)))
        yield


@contextmanager
def _written(action: Scale | SetTo, weight: Tensor, index: tuple[Tensor, Tensor]) -> Iterator[None]:
    saved = weight[index].clone()
    try:
        weight[index] = (
            saved * action.factor if isinstance(action, Scale) else torch.full_like(saved, action.value)
        )
        yield
    finally:
        weight[index] = saved


def _answer(action: Scale | SetTo, probed: Probed, rows: Tensor, columns: Tensor) -> Callable[..., Any]:
    """Return what answers in a packed module's place, after what answers there now."""
    columns_of_row: defaultdict[int, set[int]] = defaultdict(set)
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        columns_of_row[row].add(column)
    rows_of_columns: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for row, own_columns in columns_of_row.items():
        rows_of_columns[tuple(sorted(own_columns))].append(row)
    before: Callable[..., Any] = probed.module.forward
    if len(rows_of_columns) <= _MOST_CALLS:
        return _ask_again(before, action, rows_of_columns)
    return _add_missing(before, action, rows, columns, probed)


def _ask_again(
    before: Callable[..., Any], action: Scale | SetTo, rows_of_columns: Mapping[tuple[int, ...], list[int]]
) -> Callable[..., Any]:
    """Ask once more per set of columns, and take the rows that it is about from that answer."""

    def answer(x: Tensor, *inputs: Any, **named: Any) -> Tensor:
        given: Tensor = before(x, *inputs, **named)
        changed = given.clone()
        for columns, rows in rows_of_columns.items():
            other = x.clone()
            other[..., list(columns)] *= action.factor if isinstance(action, Scale) else 0.0
            part = before(other, *inputs, **named)[..., rows]
            if isinstance(action, SetTo):
                added = x[..., list(columns)].float().sum(-1, keepdim=True) * action.value
                part = (part.float() + added).to(part.dtype)
            changed[..., rows] = part
        return changed

    return answer


def _add_missing(
    before: Callable[..., Any], action: Scale | SetTo, rows: Tensor, columns: Tensor, probed: Probed
) -> Callable[..., Any]:
    """Add the products that the changed scalars add beyond the old ones; rounding apart, the same."""
    held = probed.read_scalars(rows, columns).float()
    more = held * (action.factor - 1) if isinstance(action, Scale) else action.value - held  # [scalars]

    def answer(x: Tensor, *inputs: Any, **named: Any) -> Tensor:
        given: Tensor = before(x, *inputs, **named)
        added = torch.zeros(given.shape, dtype=torch.float32, device=given.device)
        added.index_add_(-1, rows, x[..., columns].float() * more)
        return (given.float() + added).to(given.dtype)

    return answer
