"""Lets a model show its attention weights, and leaves no trace of having asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

_CHOICE = "_attn_implementation_internal"


@contextmanager
def eager_attention(model: Any) -> Iterator[None]:
    """Let a transformers model compute attention step by step, which is when it has weights to show.

    Fused kernels never hold them. Afterwards, also after an exception, every configuration in the model names
    the implementation that it named before. A family that has no other way than its own stays as it is.

    Args:
        model: A `PreTrainedModel`.
    """
    configs = _list_configs(model)
    stored = [config.__dict__.get(_CHOICE, ...) for config in configs]
    try:
        # Not by `set_attn_implementation`, which leaves some families as they are, Falcon and BLOOM among them.
        for config in configs:
            config.__dict__[_CHOICE] = "eager"
        yield
    finally:
        for config, choice in zip(configs, stored, strict=True):
            if choice is ...:
                config.__dict__.pop(_CHOICE, None)
            else:
                config.__dict__[_CHOICE] = choice


def find_weights(output: Any, tokens: int) -> Tensor | None:
    """Find the attention weights in what an attention block returns.

    Args:
        output: A tensor, or a tuple of all that the block returns.
        tokens: Length of the one sequence that it was given.

    Returns:
        [heads, queries, keys], each query's weights over its keys, float32 on the CPU; `None` without.
    """
    for part in output if isinstance(output, tuple) else ():
        if isinstance(part, Tensor) and part.ndim == 4 and part.shape[0] == 1 and part.shape[2:] == (tokens,) * 2:
            return part[0].detach().float().cpu()
    return None


def measure_attended(weights: Tensor | None, token: int) -> float | None:
    """Return how much of the later tokens' attention rests on one token, the mean over heads and queries.

    Args:
        weights: [heads, queries, keys], or `None` where there are none.
        token: The token that is attended to.

    Returns:
        0 to 1; `None` without weights, or where no token is later.
    """
    if weights is None or token + 1 >= weights.shape[1]:
        return None
    return min(max(float(weights[:, token + 1 :, token].mean()), 0.0), 1.0)


def _list_configs(model: Any) -> list[Any]:
    """List every configuration in a model once, those of its parts and of configurations inside others too."""
    waiting = [module.config for module in model.modules() if hasattr(module, "config")]
    found: dict[int, Any] = {}
    while waiting:
        config = waiting.pop()
        if id(config) in found or not hasattr(config, "sub_configs"):
            continue
        found[id(config)] = config
        waiting += [getattr(config, name, None) for name in config.sub_configs]
    return list(found.values())
