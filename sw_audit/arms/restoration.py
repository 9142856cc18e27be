"""`RestoreActivation`: a super activation that a changed weight took away is put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sw_audit.arms.apply import LayerContext, register
from sw_audit.arms.matrices import index_scalars, names_scalars_of, restrict_scalars
from sw_audit.checkpoint.experts import ExpertPass, find_first_tensor, follow_experts, match_rows
from sw_audit.checkpoint.matrices import DecoderLayer, DownProjection, Matrix, split_call
from sw_audit.record.address import AddressGroup
from sw_audit.record.arm import RestoreActivation


@register(RestoreActivation, touches=names_scalars_of, restrict=restrict_scalars)
def restored_activation(action: RestoreActivation, context: LayerContext) -> AbstractContextManager[None]:
    """Let a down-projection give its original output at the one token where a row is largest.

    The original output is the changed output plus what the changed scalars would have added,
    `(W_original - W_now)[row, column] * x[column]`: the same sum that the paper gets by running the layer
    twice (Yu et al. 2024, section 3.2, "Prune SW, +SA"). An expert restores one of the tokens that were routed
    to it: where experts are fused, the one at which its output times its routing weight is largest; an expert
    that is a module of its own is not told its routing weights.

    Raises:
        CheckpointError: When the layer is called, if its experts cannot be followed.
    """
    original = []
    for group in action.addresses:
        if (matrix := context.layer.find_matrix(group.parameter, group.expert)) is not None:
            original.append((matrix, group, matrix.read_scalars(*index_scalars(matrix, [group]))))
    return _restored(context.layer, original)


@contextmanager
def _restored(layer: DecoderLayer, original: list[tuple[Matrix, AddressGroup, Tensor]]) -> Iterator[None]:
    with ExitStack() as stack:
        for matrix, group, values in original:
            key = (matrix.parameter, matrix.expert)
            down = next((down for down in layer.down_projections if (down.parameter, down.expert) == key), None)
            if down is None:
                continue
            rows = torch.tensor(group.rows, device=values.device)
            columns = torch.tensor(group.columns, device=values.device)
            missing = values.float() - matrix.read_scalars(rows, columns).float()
            for handle in _Restorer(layer, down, rows, columns, missing).hook():
                stack.callback(handle.remove)
        yield


@dataclass
class _Restorer:
    """Puts back what changed scalars no longer add: `missing[i] * x[columns[i]]` to row `rows[i]`, [scalars]."""

    layer: DecoderLayer
    down: DownProjection
    rows: Tensor
    columns: Tensor
    missing: Tensor
    length: int = 1
    entering: Tensor = field(default_factory=lambda: torch.empty(0))
    entered: Tensor = field(default_factory=lambda: torch.empty(0))

    def hook(self) -> Iterator[torch.utils.hooks.RemovableHandle]:
        yield self.layer.module.register_forward_pre_hook(self._note_length, with_kwargs=True)
        if self.down.expert_module is not None:
            block = next(part for part in self.layer.module.children() if self.down.module in set(part.modules()))
            yield block.register_forward_pre_hook(partial(self._note, "entering"), with_kwargs=True)
            expert = self.down.expert_module
            yield expert.register_forward_pre_hook(partial(self._note, "entered"), with_kwargs=True)
        yield self.down.module.register_forward_hook(self._put_back, with_kwargs=True)

    def _note_length(self, _: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        hidden = split_call(inputs, named)[0]
        self.length = hidden.shape[1]

    def _note(self, name: str, _: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        states = find_first_tensor((*inputs, *named.values()))
        setattr(self, name, states.reshape(-1, states.shape[-1]))

    def _put_back(self, _: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> Tensor:
        restored = output.clone().reshape(-1, output.shape[-1])  # [places, hidden]
        for served in self._list_served(inputs, named, restored):
            sequences = served.tokens // self.length
            for row in sorted(set(self.rows.tolist())):
                in_row = self.rows == row
                lost = (served.inputs[:, self.columns[in_row]].float() * self.missing[in_row]).sum(-1)  # [served]
                scales = served.scales.float()
                whole = ((served.outputs[:, row].float() + lost) * scales).abs()
                for sequence in sorted(set(sequences.tolist())):
                    largest = whole.where(sequences == sequence, -1.0).argmax()
                    place = served.places[largest]
                    restored[place, row] = restored[place, row].float() + lost[largest] * scales[largest]
        return restored.reshape(output.shape)

    def _list_served(
        self, inputs: tuple[Any, ...], named: dict[str, Any], output: Tensor
    ) -> tuple[ExpertPass, ...]:
        if self.down.fused is not None and self.down.expert is not None:
            return follow_experts(self.down.fused, inputs, named, only=(self.down.expert,))
        # What is not fused counts as one expert. Some families flatten sequences and tokens into one dimension.
        x = find_first_tensor((*inputs, *named.values()))
        x = x.reshape(-1, x.shape[-1])
        places = torch.arange(len(x), device=x.device)
        tokens = places if self.down.expert_module is None else match_rows(self.entered, self.entering)
        return (ExpertPass(0, tokens, places, x, output, torch.ones_like(output[:, 0])),)
