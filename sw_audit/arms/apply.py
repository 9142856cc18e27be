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
from sw_audit.record.arm import Act, Arm

ParentModule = Callable[[str], nn.Module]
"""Returns a module of the parent's layer by its name inside of the layer."""


@dataclass
class LayerContext:
    """The layer that an arm is applied to, its weights in memory, and what the arm's actions may use.

    An action that changes what enters the projections replaces the calibration for the actions after it. `changed`
    says whether any action of the arm is in force yet.
    """

    layer: DecoderLayer
    calibration: Calibration | None = None
    spare: SpareTensors = field(default_factory=SpareTensors)
    parent_module: ParentModule | None = None
    changed: bool = False


Apply = Callable[[Any, LayerContext], AbstractContextManager[None]]
_A = TypeVar("_A", bound=Apply)


Touches = Callable[[Any, DecoderLayer], bool]
Restrict = Callable[[Any, DecoderLayer], Any]


@dataclass(frozen=True)
class _Handler:
    apply: Apply
    touches: Touches
    restrict: Restrict


_HANDLERS: dict[type, _Handler] = {}


def register(
    kind: type, *, touches: Touches = lambda _, __: True, restrict: Restrict = lambda action, _: action
) -> Callable[[_A], _A]:
    """Register what a kind of action does to a layer, and in which layers it changes anything.

    The decorated function is called while the layer is as it was, before any action of the arm is in force. The
    context manager that it returns is entered when the actions before it are in force, and must leave the layer as
    it was on entering. `restrict` returns the action without what it does in other layers: arms that do the same
    in a layer share what is computed, and where no action of an arm changes anything it shares the baseline's.
    """

    def add(apply: _A) -> _A:
        _HANDLERS[kind] = _Handler(apply, touches, restrict)
        return apply

    return add


def touches(arm: Arm, layer: DecoderLayer) -> bool:
    """Tell whether an arm changes anything in a layer."""
    return bool(restrict(arm, layer))


def restrict(arm: Arm, layer: DecoderLayer) -> tuple[Act, ...]:
    """Return what an arm does in a layer: its actions, without what they do elsewhere; none if it does nothing."""
    handled = [(action, _find_handler(type(action))) for action in arm.acts]
    return tuple(handler.restrict(act, layer) for act, handler in handled if handler.touches(act, layer))


@contextmanager
def applied_arm(
    arm: Arm,
    layer: DecoderLayer,
    calibration: Calibration | None = None,
    spare: SpareTensors | None = None,
    parent_module: ParentModule | None = None,
) -> Iterator[None]:
    """Apply an arm's actions to one layer, in order; undo them in reverse order on the way out.

    The layer's weights are in memory. Memory for rounded matrices, `spare`, is reused from arm to arm and layer to
    layer, and what is in it where it fits; without it new memory is taken.

    Raises:
        CheckpointError: If an address lies outside its matrix, or a module or kernel does not allow an action.
        CorpusError: If an action needs calibration text and there is none, or it showed nothing of a matrix.
        ValueError: If the layer's weights are not in memory, see `DecoderLayer.present`.
    """
    if touches(arm, layer) and any(matrix.paged is not None for matrix in layer.matrices):
        raise ValueError(f"the weights of {layer.name} are changed only while they are in memory")
    context = LayerContext(layer, calibration, spare or SpareTensors(), parent_module)
    with ExitStack() as stack:
        for applied in [_find_handler(type(action)).apply(action, context) for action in arm.acts]:
            stack.enter_context(applied)
            context.changed = True
        yield


@functools.cache
def _find_handler(kind: type) -> _Handler:
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")
    return _HANDLERS[kind]
