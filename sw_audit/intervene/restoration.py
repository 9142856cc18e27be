"""Puts a super activation back that a changed weight took away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sw_audit.checkpoint.matrices import DecoderLayer, Matrix
from sw_audit.facts.address import AddressGroup


@contextmanager
def restored_activation(
    layer: DecoderLayer, matrix: Matrix, group: AddressGroup, original: Tensor
) -> Iterator[None]:
    """Let a down-projection give its original output at the one token where a row is largest.

    The original output is the changed output plus what the changed scalars would have added,
    `(W_original - W_now)[row, column] * x[column]`: the same sum that the paper gets by running the layer
    twice (Yu et al. 2024, section 3.2, "Prune SW, +SA").

    Args:
        layer: The decoder layer, whose call tells how many sequences there are.
        matrix: The down-projection's matrix, already changed.
        group: The changed scalars.
        original: Their original values, [scalars].
    """
    down = layer.down_projection
    if down is None or down.parameter != matrix.parameter:
        yield
        return
    rows = torch.tensor(group.rows, device=original.device)
    columns = torch.tensor(group.columns, device=original.device)
    missing = original.float() - matrix.weight[rows, columns].float()  # [scalars]
    sequences = [1]

    def note_batch(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        hidden = inputs[0] if inputs else named["hidden_states"]
        sequences[0] = hidden.shape[0]

    def put_back(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # Some families flatten sequences and tokens into one dimension.
        x = inputs[0].reshape(sequences[0], -1, inputs[0].shape[-1])  # [sequences, tokens, inner]
        y = output.clone().reshape(sequences[0], -1, output.shape[-1])  # [sequences, tokens, hidden]
        lost = x[..., columns].float() * missing  # [sequences, tokens, scalars]
        for row in sorted(set(group.rows)):
            whole = y[..., row].float() + lost[..., rows == row].sum(-1)  # [sequences, tokens]
            token = whole.abs().argmax(-1, keepdim=True)  # [sequences, 1]
            restored = y[..., row].scatter(1, token, whole.gather(1, token).to(y.dtype))
            y[..., row] = restored
        return y.reshape(output.shape)

    handles = [
        layer.module.register_forward_pre_hook(note_batch, with_kwargs=True),
        down.module.register_forward_hook(put_back),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
