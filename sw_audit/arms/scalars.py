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
                    factor = action.factor if isinstance(action, Scale) else 0.0
                    values = None if isinstance(action, Scale) else torch.full(index[0].shape, action.value)
                    answer = answer_changed(matrix.probed, *index, factor, values)
                    stack.enter_context(answered_by(matrix.probed.module, answer))
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


def answer_changed(
    probed: Probed, rows: Tensor, columns: Tensor, factor: float, values: Tensor | None = None
) -> Callable[..., Any]:
    """Return what answers in a packed module's place, after what answers there now.

    Args:
        probed: The packed matrix.
        rows: Rows of the changed scalars, int64 [scalars].
        columns: Their columns, likewise; no scalar twice.
        factor: What each is multiplied by.
        values: What is added to each then, floating [scalars]; nothing by default.
    """
    before: Callable[..., Any] = probed.module.forward
    added = [0.0] * len(rows) if values is None else values.tolist()
    added_in_row: defaultdict[int, dict[int, float]] = defaultdict(dict)
    for row, column, value in zip(rows.tolist(), columns.tolist(), added, strict=True):
        added_in_row[row][column] = value
    rows_of_columns: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for row, in_row in added_in_row.items():
        rows_of_columns[tuple(sorted(in_row))].append(row)
    if len(rows_of_columns) <= _MOST_CALLS:
        more = {
            asked: None if values is None else torch.tensor([[added_in_row[row][c] for row in own] for c in asked])
            for asked, own in rows_of_columns.items()
        }
        return _ask_again(before, factor, rows_of_columns, more)
    return _add_missing(before, factor, rows, columns, values, probed)


def _ask_again(
    before: Callable[..., Any],
    factor: float,
    rows_of_columns: Mapping[tuple[int, ...], list[int]],
    more: Mapping[tuple[int, ...], Tensor | None],
) -> Callable[..., Any]:
    """Ask once more per set of columns, and take the rows that it is about from that answer.

    `more` is added to these scalars, [columns, rows].
    """

    def answer(x: Tensor, *inputs: Any, **named: Any) -> Tensor:
        given: Tensor = before(x, *inputs, **named)
        changed = given.clone()
        for columns, rows in rows_of_columns.items():
            other = x.clone()
            other[..., list(columns)] *= factor
            part = before(other, *inputs, **named)[..., rows]
            if (added := more[columns]) is not None:
                part = (part.float() + x[..., list(columns)].float() @ added.to(x.device)).to(part.dtype)
            changed[..., rows] = part
        return changed

    return answer


def _add_missing(
    before: Callable[..., Any], factor: float, rows: Tensor, columns: Tensor, values: Tensor | None, probed: Probed
) -> Callable[..., Any]:
    """Add the products that the changed scalars add beyond the old ones; rounding apart, the same."""
    more = probed.read_scalars(rows, columns).float() * (factor - 1)  # [scalars]
    if values is not None:
        more += values.to(more.device)

    def answer(x: Tensor, *inputs: Any, **named: Any) -> Tensor:
        given: Tensor = before(x, *inputs, **named)
        added = torch.zeros(given.shape, dtype=torch.float32, device=given.device)
        added.index_add_(-1, rows, x[..., columns].float() * more)
        return (given.float() + added).to(given.dtype)

    return answer
