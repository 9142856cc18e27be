"""`QuantizeActivations`: what enters every projection of a layer, and its attention products, rounded to integers.

Which scalars are held out is found at run time, once per sequence; Yu et al. 2024 (section 4.1) leave open how:

- In what enters a projection from the residual stream (query, key, value, gate, up): in each located channel, the
  token at which it is largest. After a norm too, that is where the super activation is.
- In what enters a super weight's down-projection: in the super weight's column, the token at which it is largest.
- In what enters the output projection of attention, other down-projections and attention products: nothing.

In layers before the super activation, the largest entry of its channel is an ordinary one, and holding it out
hardly changes anything.

The products that attention makes of activations, query times key and probabilities times value, have no module to
hook. While a block that mixes tokens runs, every torch function that it calls is intercepted
(`torch.overrides.TorchFunctionMode`). So it does not matter how a family computes attention: step by step
(`eager`), by `scaled_dot_product_attention`, through the library's table of attention functions or past it. A
fused product is computed step by step, since only then there are probabilities to round. Kernels that are no torch
functions (flash attention, flex attention) are not seen, and `attention_products` refuses them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sw_audit.arms.apply import LayerContext, register
from sw_audit.arms.matrices import keep_scalars_of
from sw_audit.checkpoint.effective import answered_by
from sw_audit.checkpoint.families import mixes_tokens
from sw_audit.checkpoint.matrices import DecoderLayer, Matrix, list_projections, split_call
from sw_audit.errors import CheckpointError, CorpusError
from sw_audit.quantize.activations import find_largest_tokens, round_activations
from sw_audit.quantize.calibration import Calibration, Operand
from sw_audit.record.arm import QuantizeActivations

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


def _restrict(action: QuantizeActivations, layer: DecoderLayer) -> QuantizeActivations:
    return (
        action.model_copy(update={"columns": keep_scalars_of(action.columns, layer)}) if action.columns else action
    )


@register(QuantizeActivations, restrict=_restrict)
@contextmanager
def quantized_activations(action: QuantizeActivations, context: LayerContext) -> Iterator[None]:
    """Round what enters every projection of a layer, and both its attention products, while it runs.

    Rounding is by `round_activations`; an operand of an attention product has one scale per head and token.

    Raises:
        CheckpointError: If the layer has experts, or attention that cannot be looked into.
        CorpusError: If a static scale is wanted and there was no calibration text.
    """
    layer, calibration = context.layer, context.calibration
    if (reason := explain_unroundable([layer])) is not None:
        raise CheckpointError(
            f"the activations of {layer.name}, rounded", reason, "set `enabled = false` in `[activations]`"
        )
    if action.scale == "tensor" and calibration is None:
        raise CorpusError(
            "static activation scales",
            "no calibration text is left beyond the scored windows",
            "give a longer text in `[corpus] source`, fewer `[corpus] windows`, or scales per token",
        )
    mixing = {module for block in _list_mixing_blocks(layer) for module in block.modules()}
    rounder = _Rounder(action, calibration if action.scale == "tensor" else None)
    with ExitStack() as stack:
        hook = layer.module.register_forward_pre_hook(rounder.begin, with_kwargs=True)
        stack.callback(hook.remove)
        for matrix, module in list_projections(layer.module, layer.name):
            channels = tuple(list_hot_channels(action, layer, matrix))
            enter = partial(rounder.enter, matrix.parameter, channels, module in mixing)
            stack.callback(module.register_forward_pre_hook(enter).remove)
        stack.enter_context(attention_products(layer, rounder.multiply))
        yield


def explain_unroundable(layers: Sequence[DecoderLayer]) -> str | None:
    """Say why the activations of a model cannot all be rounded; `None` if they can."""
    if any(layer.keeps_experts for layer in layers):
        return "its MLP has experts, and what enters an expert cannot be rounded here"
    return next((reason for layer in layers if (reason := explain_unseen(layer)) is not None), None)


def list_hot_channels(action: QuantizeActivations, layer: DecoderLayer, matrix: Matrix) -> list[int]:
    """List the channels of a projection's input in which a scalar is held out.

    What is as wide as the residual stream is taken to be fed by it. The output projection of attention is as
    wide in most families and is not: it is told by being called after the products, when the layer runs.
    """
    own = [group.columns for group in action.columns if group.parameter == matrix.parameter]
    if any(own):
        return sorted({column for columns in own for column in columns})
    downs = layer.down_projections
    hidden = downs[0].shape[0] if downs else matrix.shape[1]
    is_down = matrix.parameter in {down.parameter for down in downs}
    return sorted(set(action.channels)) if matrix.shape[1] == hidden and not is_down else []


@dataclass
class _Rounder:
    action: QuantizeActivations
    calibration: Calibration | None
    length: int = 1
    multiplied: bool = False
    # What several projections read together is rounded once: what came in, held channels, range; what came out.
    last: tuple[Tensor, tuple[int, ...], float | None, Tensor] | None = field(default=None, repr=False)

    def begin(self, _: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        hidden = split_call(inputs, named)[0]
        self.length, self.multiplied, self.last = hidden.shape[1], False, None

    def enter(
        self, parameter: str, channels: tuple[int, ...], mixing: bool, _: nn.Module, inputs: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        x = inputs[0]
        channels = () if mixing and self.multiplied else channels
        largest = None if self.calibration is None else self.calibration.find_range(parameter, channels)
        last = self.last
        if last is None or last[0] is not x or last[1:3] != (channels, largest):
            hot = torch.tensor(channels, dtype=torch.long, device=x.device)
            held = find_largest_tokens(x, self.length, hot) if channels else None
            self.last = last = (x, channels, largest, round_activations(x, self.action.bits, largest, held))
        return (last[3], *inputs[1:])

    def multiply(self, operand: Operand, x: Tensor) -> Tensor:
        self.multiplied = True
        largest = None if self.calibration is None else self.calibration.operands.get(operand)
        if self.calibration is not None and largest is None:
            raise CorpusError(
                f"the range of an operand of attention product {operand.product + 1}",
                "the calibration text never reached it",
                "give a longer text in `[corpus] source`",
            )
        return round_activations(x, self.action.bits, largest)


@contextmanager
def attention_products(layer: DecoderLayer, change: Change) -> Iterator[None]:
    """Let every operand of a layer's attention products pass through a function first.

    The function is given query, key, probabilities and value as they enter their product; keys and probabilities
    come with channels last too. Afterwards, also after an exception, the layer's blocks run as before.

    Raises:
        CheckpointError: If the model computes attention by a kernel that cannot be looked into.
    """
    if (reason := explain_unseen(layer)) is not None:
        asked = f"the attention products of {layer.name}"
        raise CheckpointError(asked, reason, "load the model with attn_implementation='eager' or 'sdpa'")
    with ExitStack() as stack:
        for block in _list_mixing_blocks(layer):
            stack.enter_context(answered_by(block, partial(_run_changed, block, block.forward, change)))
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

    Query is [..., heads, queries, channels], key and value are [..., heads, keys, channels]; whatever their dtype,
    they are multiplied in float32 at least. `first` is the number of the first of the two products.

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
        given: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
        left, right = (begin + side if begin + side < len(args) else names[side] for side in (0, 1))
        if not (self._is_activation(given[left]) and self._is_activation(given[right])):
            return func(*args, **kwargs)
        self._made += 1
        given[left] = self._change(Operand(number, 0), given[left])
        # A key comes transposed, [channels, keys]: its channels are what the product sums over.
        transposed = number % 2 == 0
        changed = self._change(Operand(number, 1), given[right].mT if transposed else given[right])
        given[right] = changed.mT if transposed else changed
        return func(*(given[place] for place in range(len(args))), **{name: given[name] for name in kwargs})

    def _is_activation(self, operand: Any) -> bool:
        if not isinstance(operand, Tensor) or operand.ndim < 3 or not operand.is_floating_point():
            return False
        return operand.untyped_storage().data_ptr() not in self._weights


def _run_changed(block: nn.Module, run: Callable[..., Any], change: Change, *args: Any, **kwargs: Any) -> Any:
    # Read anew for each call: a rounded tensor may stand in for a parameter.
    weights = frozenset(tensor.untyped_storage().data_ptr() for tensor in (*block.parameters(), *block.buffers()))
    with _Products(change, weights):
        return run(*args, **kwargs)


def _list_mixing_blocks(layer: DecoderLayer) -> list[nn.Module]:
    return [child for child in layer.module.children() if mixes_tokens(child)]
