"""Takes decoder layers apart: what the skip connection brings, and what each block really adds to it.

Nothing is taken from a family's source code: a layer is taken apart only where its parts are seen to add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from sw_audit.checkpoint.calls import copy_rows
from sw_audit.checkpoint.families import mixes_tokens
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.measure.attention import find_weights

# What is left unexplained may be so much of what was added, and so many roundings of the stream itself.
_RELATIVE, _ROUNDINGS = 1e-3, 4.0


@dataclass(frozen=True)
class Seen:
    """One decoder layer in one forward pass on one prompt; everything float32 on the CPU.

    Attributes:
        entering: The residual stream as it comes in, [tokens, hidden].
        middle: The residual stream with what the block that mixes tokens added, [tokens, hidden]; `None`
            where the layer cannot be taken apart.
        leaving: The residual stream as it goes out, [tokens, hidden].
        weights: Attention weights, [heads, queries, keys], or `None`.
    """

    entering: Tensor
    middle: Tensor | None
    leaving: Tensor
    weights: Tensor | None


@dataclass(frozen=True)
class _Call:
    """One call of one part of a layer: what it was given and what it gave that is as wide as the stream."""

    mixes: bool
    given: list[Tensor]
    gave: list[Tensor]


@torch.no_grad()
def see_layers(checkpoint: Checkpoint, token_ids: Sequence[int]) -> tuple[Seen, ...]:
    """Run the model once on one prompt and take every decoder layer apart.

    Args:
        checkpoint: The model; it is not changed.
        token_ids: The prompt, BOS included if wanted.
    """
    tokens, hidden = len(token_ids), checkpoint.identity.hidden_size
    calls: list[_Call] = []
    weights: list[Tensor] = []
    seen: list[Seen] = []

    def begin(*_: object) -> None:
        calls.clear()
        weights.clear()

    def keep(mixes: bool, _: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        given = (*inputs, *named.values())
        parts = output if isinstance(output, tuple) else (output,)
        calls.append(_Call(mixes, _list_states(given, tokens, hidden), _list_states(parts, tokens, hidden)))
        if mixes and (found := find_weights(output, tokens)) is not None:
            weights.append(found)

    def end(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        entering = copy_rows(inputs[0] if inputs else named["hidden_states"])
        leaving = copy_rows(output if isinstance(output, Tensor) else output[0])
        middle = find_middle(entering, leaving, calls, checkpoint.model.dtype)
        seen.append(Seen(entering, middle, leaving, weights[0] if weights else None))

    handles = []
    try:
        for layer in checkpoint.layers:
            handles.append(layer.module.register_forward_pre_hook(begin))
            for part in layer.module.children():
                hook = partial(keep, mixes_tokens(part))
                handles.append(part.register_forward_hook(hook, with_kwargs=True))
            handles.append(layer.module.register_forward_hook(end, with_kwargs=True))
        checkpoint.model(input_ids=torch.tensor([list(token_ids)], device=checkpoint.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(seen)


def find_middle(entering: Tensor, leaving: Tensor, calls: Sequence[_Call], dtype: torch.dtype) -> Tensor | None:
    """Find the residual stream between the block that mixes tokens and the MLP.

    Blocks one after the other: the stream in between is what some part of the layer was given, and what was
    added before and after it is, but for a factor, what parts of the layer gave (possibly after a norm, and
    some parts add into the stream themselves). Blocks side by side: the sum of both is what was added.

    Args:
        entering: The residual stream as it comes in, [tokens, hidden].
        leaving: The residual stream as it goes out, [tokens, hidden].
        calls: The parts of the layer in the order in which they ended.
        dtype: What the model computes in, whose rounding is forgiven.

    Returns:
        [tokens, hidden], or `None` where nothing adds up.
    """
    first = next((place for place, call in enumerate(calls) if call.mixes), None)
    if first is None or not bool((entering + leaving).isfinite().all()):
        return None
    for place in range(first + 1, len(calls)):
        before, after = calls[first:place], calls[place:]
        for middle in calls[place].given:
            if _is_added(entering, middle, before, dtype) and _is_added(middle, leaving, after, dtype):
                return middle
    mixed, others = ([call for call in calls if call.mixes == mixes] for mixes in (True, False))
    for one, two in product(mixed, others):
        for attention, mlp in product(one.gave, two.gave):
            fitted = _fit(leaving - entering, attention, mlp)
            if _adds_up(entering, leaving, fitted[0] + fitted[1], dtype):
                return entering + fitted[0]
    return None


def _is_added(before: Tensor, after: Tensor, calls: Sequence[_Call], dtype: torch.dtype) -> bool:
    """Tell whether some call gave what makes one state of the stream the next."""
    for call in calls:
        # The first argument is what a part works on; a stream given beside it is there to be added to.
        adds_itself = any(torch.equal(state, before) for state in call.given[1:])
        for output in call.gave:
            added = output - before if adds_itself else _fit(after - before, output)[0]
            if _adds_up(before, after, added, dtype):
                return True
    return False


def _adds_up(before: Tensor, after: Tensor, added: Tensor, dtype: torch.dtype) -> bool:
    """Tell whether `before + added` is `after`, at every token, and not only because nothing can be told."""
    step = (after - before).norm(dim=1)  # [tokens]
    stream = torch.maximum(before.norm(dim=1), after.norm(dim=1))
    allowed = _RELATIVE * step + _ROUNDINGS * torch.finfo(dtype).eps * stream
    unexplained = (after - before - added).norm(dim=1)
    return bool((unexplained <= allowed).all()) and bool((allowed < step / 4).any())


def _fit(whole: Tensor, *parts: Tensor) -> list[Tensor]:
    """Scale parts by one number each so that their sum comes closest to a whole."""
    columns = torch.stack([part.double().flatten() for part in parts], dim=1)  # [entries, parts]
    factors = torch.linalg.lstsq(columns, whole.double().flatten()[:, None]).solution.flatten()
    return [part * float(factor) for part, factor in zip(parts, factors, strict=True)]


def _list_states(values: Sequence[Any], tokens: int, hidden: int) -> list[Tensor]:
    """List what can be a finite state of the residual stream, [tokens, hidden] each."""
    return [
        copy_rows(value)
        for value in values
        if isinstance(value, Tensor) and value.is_floating_point() and value.shape[-1:] == (hidden,)
        if value.numel() == tokens * hidden and bool(value.isfinite().all())
    ]
