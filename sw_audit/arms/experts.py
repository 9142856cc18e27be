"""`ZeroExperts`: experts of a mixture that add nothing to the residual stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor

from sw_audit.arms.apply import LayerContext, register
from sw_audit.checkpoint.effective import answered_by, give_zeros
from sw_audit.checkpoint.matrices import DecoderLayer, DownProjection
from sw_audit.errors import CheckpointError
from sw_audit.record.arm import ZeroExperts
from sw_audit.record.experts import ExpertAddress


def _is_inside(address: ExpertAddress, layer: DecoderLayer) -> bool:
    return layer.find_matrix(address.parameter, address.expert) is not None


def _touches(action: ZeroExperts, layer: DecoderLayer) -> bool:
    return any(_is_inside(address, layer) for address in action.experts)


def _restrict(action: ZeroExperts, layer: DecoderLayer) -> Any:
    inside = tuple(address for address in action.experts if _is_inside(address, layer))
    return action.model_copy(update={"experts": inside})


@register(ZeroExperts, touches=_touches, restrict=_restrict)
@contextmanager
def zeroed_experts(action: ZeroExperts, context: LayerContext) -> Iterator[None]:
    """Zero the down-projections of experts of a layer, and what these add to the product; others are left alone.

    Raises:
        CheckpointError: If the layer has no such expert.
    """
    with ExitStack() as stack:
        for address in _restrict(action, context.layer).experts:
            down = _find_expert(address, context.layer)
            if down.probed is not None:
                stack.enter_context(answered_by(down.module, partial(give_zeros, down.shape[0])))
                continue
            for tensor in (down.weight, down.bias):
                if tensor is not None:
                    stack.enter_context(_zeroed(tensor))
        yield


def _find_expert(address: ExpertAddress, layer: DecoderLayer) -> DownProjection:
    for down in layer.experts:
        if (down.parameter, down.expert) == (address.parameter, address.expert):
            return down
    remedy = "name the down-projection of an expert that tokens are routed to"
    raise CheckpointError(f"expert {address.parameter}", "it is no expert's down-projection", remedy)


@contextmanager
def _zeroed(tensor: Tensor) -> Iterator[None]:
    saved = tensor.clone()
    try:
        tensor.zero_()
        yield
    finally:
        tensor.copy_(saved)
