"""An arm applied to one decoder layer; afterwards, also after an exception, every bit is as before.

What one kind of action does to a layer stands in one file of this package, which registers itself with the
action's type (see `register`). All files of the package are imported before the first arm is applied, so that
none is listed.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import nn

from sw_audit.arms.matrices import SpareTensors
from sw_audit.checkpoint.matrices import DecoderLayer
from sw_audit.quantize.calibration import Calibration
from sw_audit.record.arm import Arm

ParentModule = Callable[[str], nn.Module]
"""Returns a module of the parent's layer by its name inside of the layer."""


@dataclass
class LayerContext:
    """The layer that an arm is applied to, and what its actions may use.

    Attributes:
        layer: The layer, whose weights are in memory.
        calibration: What calibration text showed of it. An action that changes what enters the projections
            replaces it for the actions after it.
        spare: Memory for rounded matrices.
        parent_module: Where the parent's modules come from.
    """

    layer: DecoderLayer
    calibration: Calibration | None = None
    spare: SpareTensors = field(default_factory=SpareTensors)
    parent_module: ParentModule | None = None


Apply = Callable[[Any, LayerContext], AbstractContextManager[None]]
_A = TypeVar("_A", bound=Apply)


@dataclass(frozen=True)
class _Handler:
    apply: Apply
    touches: Callable[[Any, DecoderLayer], bool]


_HANDLERS: dict[type, _Handler] = {}


def register(
    kind: type, *, touches: Callable[[Any, DecoderLayer], bool] = lambda _, __: True
) -> Callable[[_A], _A]:
    """Register what a kind of action does to a layer.

    The decorated function is called while the layer is as it was, before any action of the arm is in force. The
    context manager that it returns is entered when the actions before it are in force, and must leave the layer as
    it was on entering.

    Args:
        kind: The action's type; see `sw_audit.record.arm`.
        touches: Tells whether an action changes anything in a layer. Where no action of an arm does, the arm
            shares what was computed without it.
    """

    def add(apply: _A) -> _A:
        _HANDLERS[kind] = _Handler(apply, touches)
        return apply

    return add


def touches(arm: Arm, layer: DecoderLayer) -> bool:
    """Tell whether an arm changes anything in a layer."""
    return any(_find_handler(type(action)).touches(action, layer) for action in arm.acts)


@contextmanager
def applied_arm(
    arm: Arm,
    layer: DecoderLayer,
    calibration: Calibration | None = None,
    spare: SpareTensors | None = None,
    parent_module: ParentModule | None = None,
) -> Iterator[None]:
    """Apply an arm's actions to one layer, in order; undo them in reverse order on the way out.

    Args:
        arm: The condition.
        layer: The layer, whose weights are in memory.
        calibration: What calibration text showed of it.
        spare: Memory for rounded matrices, reused from arm to arm and layer to layer; new memory without.
        parent_module: Returns the parent's modules, where an arm swaps some in.

    Raises:
        CheckpointError: If an address lies outside its matrix, or a module or kernel does not allow an action.
        CorpusError: If an action needs calibration text and there is none, or it showed nothing of a matrix.
    """
    context = LayerContext(layer, calibration, spare or SpareTensors(), parent_module)
    with ExitStack() as stack:
        for action in [_find_handler(type(action)).apply(action, context) for action in arm.acts]:
            stack.enter_context(action)
        yield


@functools.cache
def _find_handler(kind: type) -> _Handler:
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")
    return _HANDLERS[kind]
