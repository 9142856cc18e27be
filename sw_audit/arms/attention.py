"""The products that attention makes of activations: query times key, and probabilities times value.

They have no module to hook. While a block that mixes tokens runs, every torch function that it calls is looked at
(`torch.overrides.TorchFunctionMode`), whichever way the family takes to it: step by step (`eager`), by
`scaled_dot_product_attention`, through the library's table of attention functions or past it. A fused product is
made step by step, for only then there are probabilities to round. Kernels that are no torch functions (flash
attention, flex attention) are not seen, and `attention_products` refuses them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sw_audit.checkpoint.families import mixes_tokens
from sw_audit.checkpoint.matrices import DecoderLayer
from sw_audit.errors import CheckpointError
from sw_audit.quantize.calibration import Operand

Change = Callable[[Operand, Tensor], Tensor]
"""Is given an operand, any shape with channels last, and returns what takes its place."""

# Where the two factors stand among the arguments, and what they are called.
_PRODUCTS: dict[Any, tuple[int, tuple[str, ...]]] = {
    torch.matmul: (0, ("input", "other")),
    Tensor.matmul: (0, ("self", "other")),
    Tensor.__matmul__: (0, ("self", "other")),
    torch.bmm: (0, ("input", "mat2")),
    Tensor.bmm: (0, ("self", "mat2")),
    torch.baddbmm: (1, ("batch1", "batch2")),
    Tensor.baddbmm: (1, ("batch1", "batch2")),
}
_KNOWN = ("eager", "sdpa")
_SCORES_AT_ONCE = 1 << 20
"""So many scores are made at a time, 4 MiB in float32: fewer are slow to hand out, more leave the cache."""


@contextmanager
def attention_products(layer: DecoderLayer, change: Change) -> Iterator[None]:
    """Let every operand of a layer's attention products pass through a function first.

    Args:
        layer: The layer. Afterwards, also after an exception, its blocks run as before.
        change: Is given query, key, probabilities and value as they enter their product; keys and probabilities
            come with channels last too.

    Raises:
        CheckpointError: If the model computes attention by a kernel that cannot be looked into.
    """
    with ExitStack() as stack:
        if (reason := explain_unseen(layer)) is not None:
            asked = f"the attention products of {layer.name}"
            raise CheckpointError(asked, reason, "load the model with attn_implementation='eager' or 'sdpa'")
        for block in _list_mixing_blocks(layer):
            stack.enter_context(_watched(block, change))
        yield


def explain_unseen(layer: DecoderLayer) -> str | None:
    """Say why a layer's attention products cannot be seen; `None` if they can."""
    for block in _list_mixing_blocks(layer):
        for module in block.modules():
            chosen = getattr(getattr(module, "config", None), "_attn_implementation", None)
            if chosen is not None and chosen not in _KNOWN:
                return f"its attention is made by {chosen!r}, which nothing here can look into"
    return None


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    change: Change,
    first: int = 0,
) -> Tensor:
    """Do what `torch.nn.functional.scaled_dot_product_attention` does, step by step, its operands changed.

    Args:
        query: [..., heads, queries, channels], any floating dtype; computed in float32 at least.
        key: [..., heads, keys, channels].
        value: [..., heads, keys, channels].
        attn_mask: What is added to the scores, or bool: where to look.
        dropout_p: Must be 0.
        is_causal: Whether a query sees no later key.
        scale: Of the scores; by default the root of the number of channels, divided by.
        enable_gqa: Whether several heads of queries share one of keys and values.
        change: Is given the operands.
        first: Number of the first of the two products.

    Raises:
        ValueError: If there is dropout.
    """
    if dropout_p:
        raise ValueError("attention is looked into in evaluation mode only, without dropout")
    dtype = query.dtype
    wide = torch.promote_types(dtype, torch.float32)
    query, key = change(Operand(first, 0), query).to(wide), change(Operand(first, 1), key).to(wide)
    value = change(Operand(first + 1, 1), value).to(wide)
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    size = max(1, _SCORES_AT_ONCE // (query[0].numel() // query.shape[-1] * key.shape[-2]))
    attended = []
    for begin in range(0, len(query), size):
        some = slice(begin, begin + size)
        scores = (query[some] @ key[some].mT).mul_(factor)  # [sequences, heads, queries, keys]
        if is_causal:
            seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
            scores.masked_fill_(~seen, -torch.inf)
        if attn_mask is not None:
            apart = attn_mask.ndim == query.ndim and len(attn_mask) == len(query)
            mask = attn_mask[some] if apart else attn_mask
            scores = scores.masked_fill_(~mask, -torch.inf) if mask.dtype is torch.bool else scores.add_(mask)
        probabilities = change(Operand(first + 1, 0), scores.softmax(-1).to(dtype)).to(wide)
        attended.append((probabilities @ value[some]).to(dtype))
    return torch.cat(attended)


class _Products(TorchFunctionMode):
    """Changes the operands of every product of two activations."""

    def __init__(self, change: Change, weights: frozenset[int]) -> None:
        super().__init__()
        self._change, self._weights, self._made = change, weights, 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        number = self._made
        if func is nn.functional.scaled_dot_product_attention:
            self._made += 2
            return attend(*args, **kwargs, change=self._change, first=number)
        if func not in _PRODUCTS:
            return func(*args, **kwargs)
        begin, names = _PRODUCTS[func]
        places = [begin, begin + 1]
        found = [
            args[place] if place < len(args) else kwargs[name] for place, name in zip(places, names, strict=True)
        ]
        if not all(self._is_activation(one) for one in found):
            return func(*args, **kwargs)
        self._made += 1
        left = self._change(Operand(number, 0), found[0])
        # A key comes transposed, [channels, keys]: its channels are what the product sums over.
        right = self._change_right(number, found[1])
        positional = [
            left if place == begin else right if place == begin + 1 else one for place, one in enumerate(args)
        ]
        for place, name, one in zip(places, names, (left, right), strict=True):
            if place >= len(args):
                kwargs[name] = one
        return func(*positional, **kwargs)

    def _change_right(self, number: int, right: Tensor) -> Tensor:
        if number % 2:
            return self._change(Operand(number, 1), right)
        return self._change(Operand(number, 1), right.mT).mT

    def _is_activation(self, operand: Any) -> bool:
        if not isinstance(operand, Tensor) or operand.ndim < 3 or not operand.is_floating_point():
            return False
        return operand.untyped_storage().data_ptr() not in self._weights


@contextmanager
def _watched(block: nn.Module, change: Change) -> Iterator[None]:
    stored = block.__dict__.get("forward")
    run = block.forward

    @functools.wraps(run)
    def forward(*args: Any, **kwargs: Any) -> Any:
        # Read anew for each call: a rounded tensor may stand in for a parameter.
        weights = frozenset(
            one.untyped_storage().data_ptr() for held in (block.parameters(), block.buffers()) for one in held
        )
        with _Products(change, weights):
            return run(*args, **kwargs)

    try:
        block.forward = forward
        yield
    finally:
        block.__dict__.pop("forward", None)
        if stored is not None:
            block.forward = stored


def _list_mixing_blocks(layer: DecoderLayer) -> list[nn.Module]:
    return [child for child in layer.module.children() if mixes_tokens(child)]
