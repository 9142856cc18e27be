"""What an MLP really adds to the residual stream, whatever stands between its down-projection and the stream."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from sw_audit.checkpoint.matrices import DecoderLayer, DownProjection, Matrix, list_projections
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.locate.probe import Probe
from sw_audit.locate.settings import LocatorSettings
from sw_audit.locate.weight_norms import find_inward_matrices
from sw_audit.record.location import SuperActivation


def choose_layers_to_explain(
    probe: Probe, activations: Sequence[SuperActivation], early: int, settings: LocatorSettings
) -> tuple[int, ...]:
    """Choose the layers in which causes of super activations can be.

    In a layer that changes an entry by less than the smallest cause that counts, there is no cause of it.

    Args:
        probe: One forward pass.
        activations: What is to be explained.
        early: How many layers, from the first, may hold causes.
        settings: The thresholds; a cause that counts is at least `relative_share` of the largest, and the
            largest of at most `maximum_count` that make `explained` is no smaller than their mean.

    Returns:
        Their numbers, ascending.
    """
    smallest = settings.relative_share * settings.explained / settings.maximum_count
    stream = torch.cat([probe.embedded[None], probe.residual[:early]])  # [1 + early, tokens, hidden]
    chosen: set[int] = set()
    for one in activations:
        steps = stream[:, one.token, one.channel].diff().abs()  # [early]
        chosen |= set((steps >= smallest * abs(one.value)).nonzero().flatten().tolist())
    return tuple(sorted(chosen))


@torch.no_grad()
def measure_reach(checkpoint: Checkpoint, probe: Probe, layers: Collection[int]) -> Tensor:
    """Measure what the down-projections of some layers add to the residual stream.

    Between a down-projection's output and the residual stream there may be a norm (Gemma 2, OLMo 2), a
    multiplier (Granite), or nothing; and other blocks may write beside it (parallel attention). So it is
    measured: these layers run once more, each on what it was given before, with the output of its
    down-projections set to zero. What is missing then is what they had added.

    Args:
        checkpoint: The model; it is not changed.
        probe: What its prompt showed.
        layers: Which layers.

    Returns:
        What is missing, float32 on the CPU, [layers up to the last of them, tokens, hidden]; 0 where it is less
        than rounding, and in layers that were not asked for.
    """
    reach = torch.zeros_like(probe.residual[: max(layers, default=-1) + 1])
    for index in layers:
        states = _run_silenced(checkpoint.layers[index], probe)
        whole = probe.residual[index]
        missing = whole - states.reshape(whole.shape).to("cpu", torch.float32)
        # The difference of two numbers that were rounded says nothing below their last digits.
        rounding = 2 * torch.finfo(states.dtype).eps
        reach[index] = missing.where(missing.abs() > rounding * whole.abs(), 0.0)
    return reach


def _run_silenced(layer: DecoderLayer, probe: Probe) -> Tensor:
    """Run one layer as it ran in the probe, but with the output of its down-projections set to zero."""
    with ExitStack() as undo:
        if layer.down_projection is not None:
            for matrix, module in _list_mlp_projections(layer, layer.down_projection):
                undo.callback(_stop_multiplying_(module, matrix.shape[0]))
        # Fused experts are one module with many down-projections.
        for module in dict.fromkeys(down.module for down in layer.down_projections):
            undo.callback(module.register_forward_hook(_silence).remove)
        output: Any = probe.calls[layer.index](layer.module, probe.entries[layer.index].clone())
    states: Tensor = output if isinstance(output, Tensor) else output[0]
    return states


def _list_mlp_projections(layer: DecoderLayer, down: DownProjection) -> list[tuple[Matrix, nn.Module]]:
    """List the projections of a dense MLP: what nobody hears need not be said."""
    silent = {down.parameter, *(inward.parameter for inward in find_inward_matrices(layer, down))}
    return [pair for pair in list_projections(layer.module, layer.name) if pair[0].parameter in silent]


def _stop_multiplying_(module: nn.Module, width: int) -> Callable[[], None]:
    """Let a projection give zeros, without a look at its weights, until the function returned is called."""

    def give_zeros(states: Tensor) -> Tensor:
        return states.new_zeros(*states.shape[:-1], width)

    # A plain attribute, found before the method of the class; hooks of whoever reads the weights still run.
    module.forward = give_zeros
    return lambda: delattr(module, "forward")


def _silence(_: nn.Module, __: object, output: Any) -> Any:
    if isinstance(output, Tensor):
        return torch.zeros_like(output)
    return (torch.zeros_like(output[0]), *output[1:])
