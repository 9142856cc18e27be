"""Records what enters each projection of a layer while the unchanged model runs on calibration text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sw_audit.arms.activations import attention_products, explain_unseen
from sw_audit.checkpoint.experts import find_first_tensor
from sw_audit.checkpoint.matrices import DecoderLayer, list_projections, split_call
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.locate.locator import locate_super_weights
from sw_audit.quantize.calibration import Calibration, NormFeed, Operand

NOTHING_SEEN = Calibration(largest={}, runner_up={}, mean_share={})
"""What is known of a layer that no text reached."""


@torch.no_grad()
def record_calibrations(checkpoint: Checkpoint, token_ids: Sequence[int]) -> list[Calibration | None]:
    """Return what one sequence of tokens shows of each layer; `None` for a layer that was not called."""
    recorders = [CalibrationRecorder(layer) for layer in checkpoint.layers]
    with ExitStack() as stack:
        for recorder in recorders:
            stack.enter_context(recorder.watching())
        checkpoint.model(input_ids=torch.tensor([list(token_ids)], device=checkpoint.device), use_cache=False)
    return [recorder.conclude() for recorder in recorders]


def calibrate_on_prompt(checkpoint: Checkpoint) -> list[Calibration | None]:
    """Return what the locating prompt shows of each layer of an open model."""
    return record_calibrations(checkpoint, locate_super_weights(checkpoint, depth="early").token_ids)


class CalibrationRecorder:
    """Records the calls of one decoder layer and makes a `Calibration` of them."""

    def __init__(self, layer: DecoderLayer) -> None:
        self._layer = layer
        self._largest: dict[str, Tensor] = {}
        self._runner_up: dict[str, Tensor] = {}
        self._shares: dict[str, Tensor] = {}
        self._rows: dict[str, int] = {}
        self._operands: dict[Operand, float] = {}
        self._fed_by: dict[str, str] = {}
        self._weighted: dict[str, bool] = {}
        self._outputs: list[tuple[str, Tensor]] = []
        self._length = 1
        self._tokens = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch every call of the layer; afterwards no hook is left."""
        listed = list_projections(self._layer.module, self._layer.name)
        projections = {module: matrix.parameter for matrix, module in listed}
        with ExitStack() as stack:
            hook = self._layer.module.register_forward_pre_hook(self._begin, with_kwargs=True)
            stack.callback(hook.remove)
            for module, parameter in projections.items():
                hook = module.register_forward_pre_hook(partial(self._record_input, parameter), with_kwargs=True)
                stack.callback(hook.remove)
            for name, module in self._layer.module.named_modules(prefix=self._layer.name):
                if module not in projections and not list(module.children()):
                    stack.callback(module.register_forward_hook(partial(self._record_output, name)).remove)
            if explain_unseen(self._layer) is None:
                stack.enter_context(attention_products(self._layer, self._record_operand))
            yield
        self._outputs.clear()

    def conclude(self) -> Calibration | None:
        """Return what was recorded; `None` if the layer was not called."""
        if not self._tokens:
            return None
        fed: dict[str, list[str]] = {}
        for parameter, name in self._fed_by.items():
            fed.setdefault(name, []).append(parameter)
        return Calibration(
            largest=self._largest,
            runner_up=self._runner_up,
            mean_share={name: (sums / self._rows[name]).float() for name, sums in self._shares.items()},
            operands=self._operands,
            feeds=tuple(NormFeed(name, self._weighted[name], tuple(fed[name])) for name in fed),
            tokens=self._tokens,
        )

    def _begin(self, _: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        hidden = split_call(inputs, named)[0]
        self._length = hidden.shape[1]
        self._tokens += hidden.shape[0] * hidden.shape[1]
        self._outputs.clear()

    def _record_output(self, name: str, module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            self._outputs.append((name, output))
            weight = getattr(module, "weight", None)
            self._weighted[name] = isinstance(weight, Tensor) and weight.shape == output.shape[-1:]

    def _record_input(self, parameter: str, _: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        x = find_first_tensor((*inputs, *named.values()))
        for name, output in self._outputs:
            if output.data_ptr() == x.data_ptr() and output.numel() == x.numel():
                self._fed_by[parameter] = name
        rows = x.reshape(-1, x.shape[-1]).float()  # [tokens, in]
        # In place, for a batch of them is several times as large as a layer of a small model.
        squares = rows.double().square_()
        shares = squares.div_(squares.sum(1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny)).sum(0)
        del squares
        whole = len(rows) % self._length == 0
        # An expert that is a module of its own serves some tokens of each sequence, and it is not known which.
        largest, second = find_top_two(rows.abs().view(-1, self._length if whole else 1, rows.shape[1]))
        if parameter in self._largest:
            largest = torch.maximum(largest, self._largest[parameter])
            second = torch.maximum(second, self._runner_up[parameter])
            shares += self._shares[parameter]
        self._largest[parameter], self._runner_up[parameter] = largest, second
        self._shares[parameter] = shares
        self._rows[parameter] = self._rows.get(parameter, 0) + len(rows)

    def _record_operand(self, operand: Operand, x: Tensor) -> Tensor:
        self._operands[operand] = max(float(x.abs().max()), self._operands.get(operand, 0.0))
        return x


def find_top_two(sequences: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest of each channel, and the largest if one of each sequence is left out; [in] each.

    `topk` over tokens takes four times as long.
    """
    largest = sequences.amax(1, keepdim=True)  # [sequences, 1, in]
    if sequences.shape[1] == 1:
        return largest.amax((0, 1)), torch.zeros_like(largest[0, 0])
    there = sequences == largest
    others = sequences.masked_fill(there, -torch.inf).amax(1)
    second = torch.where(there.sum(1) > 1, largest[:, 0], others)
    return largest.amax((0, 1)), second.amax(0)
