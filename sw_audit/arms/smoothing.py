"""`Smooth`: SmoothQuant (Xiao et al. 2023), activations divided and weights multiplied, channel by channel.

What is divided is what a norm gives to the projections that it feeds. In a checkpoint the division is folded into
the norm's own weight; here it is done to what enters the projections, which is the same sum in full precision
whatever else reads the norm and however a family writes its weight (Gemma stores it minus one). Only what could be
folded is smoothed: inputs that come straight from a norm with weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from sw_audit.arms.apply import LayerContext, register
from sw_audit.arms.matrices import packed_matrix_replaced
from sw_audit.checkpoint.matrices import Matrix, list_projections
from sw_audit.errors import CorpusError
from sw_audit.quantize.activations import find_smoothing_scales
from sw_audit.record.arm import Smooth


@register(Smooth)
@contextmanager
def smoothed(action: Smooth, context: LayerContext) -> Iterator[None]:
    """Move part of the range of what a layer's norms give into the projections that they feed.

    The context's calibration becomes what the calibration text would have shown of the smoothed layer.

    Raises:
        CorpusError: If there was no calibration text.
    """
    layer, calibration = context.layer, context.calibration
    if calibration is None:
        raise CorpusError(
            "SmoothQuant's scales",
            "no calibration text is left beyond the scored windows",
            "give a longer text in `[corpus] source`, or fewer `[corpus] windows`",
        )
    # The layer's own matrix, where it has one: it knows the dtype that a packed one is probed with.
    projections = {
        matrix.parameter: (layer.find_matrix(matrix.parameter, None) or matrix, module)
        for matrix, module in list_projections(layer.module, layer.name)
    }
    with ExitStack() as stack:
        for feed in calibration.feeds:
            if not feed.weighted:
                continue
            readers = [projections[parameter] for parameter in feed.parameters]
            weights = [matrix.weight for matrix, _ in readers]
            scales = find_smoothing_scales(calibration.largest[feed.parameters[0]], weights, action.alpha)
            divider = _Divider(scales)
            for matrix, module in readers:
                stack.callback(module.register_forward_pre_hook(divider.divide).remove)
                stack.enter_context(_multiplied(matrix, scales))
            calibration = calibration.divide(feed.parameters, scales)
        context.calibration = calibration
        yield


class _Divider:
    """Divides what several projections read together once, so that it stays one tensor."""

    def __init__(self, scales: Tensor) -> None:
        self._scales = scales
        self._last: tuple[Tensor, Tensor] | None = None

    def divide(self, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x = inputs[0]
        if self._last is None or self._last[0] is not x:
            self._last = (x, (x / self._scales).to(x.dtype))
        return (self._last[1], *inputs[1:])


@contextmanager
def _multiplied(matrix: Matrix, scales: Tensor) -> Iterator[None]:
    if matrix.probed is not None:
        with packed_matrix_replaced(matrix.probed, matrix.weight * scales):
            yield
        return
    parameter = matrix.tensor
    stored = parameter.data
    try:
        # [in, out] where the layout is transposed
        parameter.data = (stored * (scales[:, None] if matrix.transposed else scales)).to(stored.dtype)
        yield
    finally:
        parameter.data = stored
