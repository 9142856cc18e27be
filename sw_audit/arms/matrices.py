"""What several actions do with a matrix: index its scalars, replace it where it is packed, and reuse memory."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from sw_audit.checkpoint.effective import Probed, answered_by
from sw_audit.checkpoint.matrices import DecoderLayer, Matrix
from sw_audit.errors import CheckpointError
from sw_audit.record.address import AddressGroup
from sw_audit.record.arm import RestoreActivation, Scale, SetTo


def names_scalars_of(action: Scale | SetTo | RestoreActivation, layer: DecoderLayer) -> bool:
    """Tell whether any of an action's scalars is in a layer."""
    return any(layer.find_matrix(group.parameter, group.expert) is not None for group in action.addresses)


def keep_scalars_of(groups: Sequence[AddressGroup], layer: DecoderLayer) -> tuple[AddressGroup, ...]:
    """Return those of some scalars that are in a layer."""
    return tuple(group for group in groups if layer.find_matrix(group.parameter, group.expert) is not None)


def restrict_scalars(action: Scale | SetTo | RestoreActivation, layer: DecoderLayer) -> Any:
    """Return an action on those of its scalars that are in a layer."""
    return action.model_copy(update={"addresses": keep_scalars_of(action.addresses, layer)})


def index_scalars(matrix: Matrix, groups: Sequence[AddressGroup]) -> tuple[Tensor, Tensor]:
    """Turn address groups of one matrix into index tensors: rows and columns, int64, [scalars].

    Raises:
        CheckpointError: If an address lies outside the matrix.
    """
    rows = torch.tensor([row for group in groups for row in group.rows], dtype=torch.long)
    columns = torch.tensor([column for group in groups for column in group.columns], dtype=torch.long)
    height, width = matrix.shape
    if rows.numel() and (int(rows.max()) >= height or int(columns.max()) >= width):
        raise CheckpointError(
            f"address [{int(rows.max())}, {int(columns.max())}] of {matrix.parameter}",
            f"the matrix is {height} x {width}",
            "give row (output channel) before column (input channel), both counted from 0",
        )
    device = matrix.device
    return rows.to(device), columns.to(device)


@contextmanager
def packed_matrix_replaced(probed: Probed, weight: Tensor) -> Iterator[None]:
    """Let a module whose matrix is packed multiply by another matrix, [out, in], plainly."""
    nothing = torch.zeros(1, 1, probed.shape[1], dtype=probed.dtype, device=probed.device)
    bias = probed.module.forward(nothing)[0, 0].detach()
    bias = torch.where(bias.isfinite(), bias, 0.0)

    def answer(x: Tensor, *_: Any, **__: Any) -> Tensor:
        return linear(x, weight.to(x.dtype)) + bias.to(x.dtype)

    with answered_by(probed.module, answer):
        yield


class SpareTensors:
    """Tensors that nobody uses at present, at most as many as one layer has parameters.

    Fresh memory costs about as much as a third of rounding a matrix into it, for the pages have to be mapped. What
    is in a tensor may be what the next one needs: who gives it back says what it is, in any form that can be
    compared, or `None`.
    """

    def __init__(self) -> None:
        self._spare: list[tuple[Hashable, Tensor]] = []

    def take(self, like: Tensor) -> Tensor:
        """Return a contiguous tensor of the same shape, dtype and device, with anything in it."""
        for number, (_, tensor) in enumerate(self._spare):
            if (tensor.shape, tensor.dtype, tensor.device) == (like.shape, like.dtype, like.device):
                return self._spare.pop(number)[1]
        # What does not fit now is another layer's: it is let go before more is taken.
        self._spare.clear()
        return torch.empty(like.shape, dtype=like.dtype, device=like.device)

    def find(self, content: Hashable) -> Tensor | None:
        """Return the tensor that holds something, if one does."""
        for number, (held, tensor) in enumerate(self._spare):
            if content is not None and held == content:
                self._spare.pop(number)
                return tensor
        return None

    def give_back(self, tensors: Iterable[tuple[Hashable, Tensor]]) -> None:
        """Keep tensors, each with what is in it, for the next who takes one."""
        self._spare += tensors
