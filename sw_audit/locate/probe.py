"""One forward pass with hooks: the residual stream, and what goes into and comes out of each down-projection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sw_audit.checkpoint.matrices import DecoderLayer
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.errors import CheckpointError


@dataclass(frozen=True)
class Probe:
    """What one prompt showed; everything float32 on the CPU.

    Attributes:
        token_ids: The prompt.
        embedded: What enters the first decoder layer, [tokens, hidden].
        residual: Output of each decoder layer, [layers, tokens, hidden].
        down_inputs: Per layer, input of its down-projection, [tokens, inner], or `None` without one.
        down_outputs: Per layer, output of its down-projection, [tokens, hidden], or `None`.
    """

    token_ids: tuple[int, ...]
    embedded: Tensor
    residual: Tensor
    down_inputs: tuple[Tensor | None, ...]
    down_outputs: tuple[Tensor | None, ...]


@torch.no_grad()
def probe_prompt(checkpoint: Checkpoint, token_ids: Sequence[int]) -> Probe:
    """Run the model once on one prompt.

    Args:
        checkpoint: The model, whose weights are not changed.
        token_ids: The prompt, BOS included if wanted.

    Raises:
        CheckpointError: If the residual stream is not finite on the prompt.
    """
    layers = checkpoint.layers
    entering: list[Tensor] = []
    residual: dict[int, Tensor] = {}
    down_inputs: dict[int, Tensor] = {}
    down_outputs: dict[int, Tensor] = {}
    tokens = len(token_ids)

    def keep_entering(_: object, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        entering.append(_flat(inputs[0] if inputs else named["hidden_states"], tokens))

    def keep_residual(depth: int, _: object, __: object, output: Any) -> None:
        residual[depth] = _flat(output if isinstance(output, Tensor) else output[0], tokens)

    def keep_down(depth: int, _: object, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        down_inputs[depth] = _flat(inputs[0], tokens)
        down_outputs[depth] = _flat(output, tokens)

    handles = [layers[0].module.register_forward_pre_hook(keep_entering, with_kwargs=True)]
    try:
        for layer in layers:
            handles += _watch(layer, keep_residual, keep_down)
        device = next(checkpoint.model.parameters()).device
        checkpoint.model(input_ids=torch.tensor([list(token_ids)], device=device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    _refuse_non_finite(checkpoint, residual)
    return Probe(
        token_ids=tuple(token_ids),
        embedded=entering[0],
        residual=torch.stack([residual[depth] for depth in range(len(layers))]),
        down_inputs=tuple(down_inputs.get(depth) for depth in range(len(layers))),
        down_outputs=tuple(down_outputs.get(depth) for depth in range(len(layers))),
    )


def _watch(
    layer: DecoderLayer, keep_residual: Callable[..., None], keep_down: Callable[..., None]
) -> list[torch.utils.hooks.RemovableHandle]:
    handles = [layer.module.register_forward_hook(partial(keep_residual, layer.index))]
    if layer.down_projection is not None:
        handles.append(layer.down_projection.module.register_forward_hook(partial(keep_down, layer.index)))
    return handles


def _flat(states: Tensor, tokens: int) -> Tensor:
    # One prompt: whether a family keeps or flattens the batch dimension, tokens come first after this.
    return states.detach().float().reshape(tokens, -1).cpu()


def _refuse_non_finite(checkpoint: Checkpoint, residual: dict[int, Tensor]) -> None:
    for depth, states in sorted(residual.items()):
        if not bool(states.isfinite().all()):
            raise CheckpointError(
                f"model {checkpoint.identity.source}",
                f"the output of decoder layer {depth} is not finite in {checkpoint.identity.dtype}",
                "load it in a wider dtype, such as float32, or repair the checkpoint",
            )
