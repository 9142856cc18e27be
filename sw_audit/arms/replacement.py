"""`ReplaceLayer`: a module that another library made of a layer runs in the layer's place.

The layer itself is left alone: who runs it calls the other module (see `sw_audit.measure.engine`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

from torch import nn

from sw_audit.arms.apply import LayerContext, register
from sw_audit.checkpoint.matrices import DecoderLayer
from sw_audit.record.arm import Arm, ReplaceLayer

LayerFactory = Callable[[DecoderLayer], nn.Module]
"""Makes a module that is called like a decoder layer and runs in its place."""


@register(ReplaceLayer)
def unchanged(_: ReplaceLayer, __: LayerContext) -> AbstractContextManager[None]:
    """Leave the layer as it is."""
    return nullcontext()


def find_factory(arm: Arm, factories: Mapping[str, LayerFactory]) -> LayerFactory | None:
    """Return what makes the layers of an arm; `None` if it runs the model's own.

    Raises:
        ValueError: If the arm has other actions beside a `ReplaceLayer`.
        KeyError: If there is no factory of its method.
    """
    methods = [action.method for action in arm.acts if isinstance(action, ReplaceLayer)]
    if methods and len(arm.acts) > 1:
        raise ValueError(f"arm {arm.name!r} changes a layer that something else stands in for")
    return factories[methods[0]] if methods else None
