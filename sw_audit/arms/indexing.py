"""Where address groups lie in a matrix, as torch indexes it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sw_audit.checkpoint.matrices import Matrix
from sw_audit.errors import CheckpointError
from sw_audit.record.address import AddressGroup


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
