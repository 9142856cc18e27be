"""How a model calls one of its decoder layers, kept so that the layer can be called again by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class LayerCall:
    """Everything that a decoder layer is called with but the hidden states: masks, positions, ..."""

    positional: tuple[Any, ...]
    named: dict[str, Any]
    by_name: bool

    def __call__(self, forward: Callable[..., Any], hidden: Tensor) -> Any:
        """Call a layer, or what stands in its place, with other hidden states."""
        if self.by_name:
            return forward(*self.positional, hidden_states=hidden, **self.named)
        return forward(hidden, *self.positional, **self.named)


def split_call(positional: tuple[Any, ...], named: dict[str, Any]) -> tuple[Tensor, LayerCall]:
    """Split the arguments of a call into the hidden states and all others."""
    if positional:
        return positional[0], LayerCall(positional[1:], named, by_name=False)
    rest = dict(named)
    return rest.pop("hidden_states"), LayerCall((), rest, by_name=True)


def take_states(output: Any) -> Tensor:
    """Return the hidden states of what a decoder layer returns: a tensor, or a tuple that begins with it."""
    states: Tensor = output if isinstance(output, Tensor) else output[0]
    return states


def copy_rows(states: Tensor) -> Tensor:
    """Copy what a module of a model saw or gave on one prompt, one row per token.

    A copy, for some families go on to add into it (Falcon's residual stream).

    Args:
        states: Any floating dtype, [1, tokens, channels]; [tokens, channels] where the batch is flattened (OPT).

    Returns:
        Float32 on the CPU, [tokens, channels].
    """
    return states.detach().reshape(-1, states.shape[-1]).to("cpu", torch.float32, copy=True)
