"""`SetScalars`: scalars of any parameter, written in place and written back.

In decoder layers it is an action like others. Outside of them (embeddings, last norm, head) the engine of
`sw_audit.measure` puts it in force where the model runs what is before and after its layers. Tied parameters are
one: what is said of one name holds for all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sw_audit.arms.apply import LayerContext, register
from sw_audit.arms.scalars import answer_changed
from sw_audit.checkpoint.effective import FLOATING_DTYPES, Probed, answered_by
from sw_audit.checkpoint.matrices import DecoderLayer, Matrix, is_conv1d
from sw_audit.checkpoint.parameters import require_inside
from sw_audit.errors import CheckpointError
from sw_audit.record.address import ScalarAddress
from sw_audit.record.arm import Act, Arm, SetScalars


def _list_inside(action: SetScalars, layer: DecoderLayer) -> list[tuple[ScalarAddress, float]]:
    prefix = f"{layer.name}."
    pairs = zip(action.scalars, action.values, strict=True)
    return [pair for pair in pairs if pair[0].parameter.startswith(prefix)]


def _make_act(pairs: Sequence[tuple[ScalarAddress, float]]) -> SetScalars:
    return SetScalars(scalars=tuple(scalar for scalar, _ in pairs), values=tuple(value for _, value in pairs))


@register(
    SetScalars,
    touches=lambda action, layer: bool(_list_inside(action, layer)),
    restrict=lambda action, layer: _make_act(_list_inside(action, layer)),
)
@contextmanager
def set_in_layer(action: SetScalars, context: LayerContext) -> Iterator[None]:
    """Set scalars of a layer; those of other layers are left alone.

    Raises:
        CheckpointError: If the layer has no such parameter, or it has no such scalar that can be written.
    """
    packed: defaultdict[Probed, dict[tuple[int, ...], float]] = defaultdict(dict)
    written: list[tuple[Tensor, float]] = []
    for scalar, value in _list_inside(action, context.layer):
        matrix = _find_matrix(scalar, context.layer)
        if matrix is not None and matrix.probed is not None:
            packed[matrix.probed][scalar.index] = value
        else:
            written.append((_find_in_layer(scalar, context.layer, matrix), value))
    with ExitStack() as stack:
        stack.enter_context(_written(written))
        for probed, values in packed.items():
            rows, columns = torch.tensor(list(values), device=probed.device).T
            answer = answer_changed(probed, rows, columns, 0.0, torch.tensor(list(values.values())))
            stack.enter_context(answered_by(probed.module, answer))
        yield


@contextmanager
def set_outside(actions: Sequence[SetScalars], model: nn.Module) -> Iterator[list[Tensor]]:
    """Set scalars of a model outside of its decoder layers; afterwards every bit is as before.

    Inside, each scalar that is set, as a view of no dimensions. One of a module that is in memory only while it
    runs is set each time that this is, and is not among them.
    """
    present: list[tuple[Tensor, float]] = []
    with ExitStack() as stack:
        for act in actions:
            for scalar, value in zip(act.scalars, act.values, strict=True):
                place = _find_below(scalar, model)
                if place.is_meta:
                    fill = partial(_fill_below, scalar, value, model)
                    module = model.get_submodule(scalar.parameter.rpartition(".")[0])
                    stack.callback(module.register_forward_pre_hook(fill).remove)
                else:
                    present.append((place, value))
        stack.enter_context(_written(present))
        yield [place for place, _ in present]


def _fill_below(scalar: ScalarAddress, value: float, model: nn.Module, *_: Any) -> None:
    _find_below(scalar, model).fill_(value)


@contextmanager
def _written(values: Sequence[tuple[Tensor, float]]) -> Iterator[None]:
    saved: list[tuple[Tensor, Tensor]] = []
    try:
        for scalar, value in values:
            saved.append((scalar, scalar.clone()))
            scalar.fill_(value)
        yield
    finally:
        for scalar, before in reversed(saved):
            scalar.copy_(before)


def place_scalars(
    arms: Sequence[Arm], model: nn.Module, layers: Sequence[DecoderLayer]
) -> list[tuple[Arm, tuple[SetScalars, ...]]]:
    """Return each arm as the layers are to see it, with what it does outside of them.

    A scalar of a parameter that layers have under other names, too, is set by each of them.

    Raises:
        CheckpointError: If a scalar is in neither, or cannot be written.
    """
    if not any(isinstance(act, SetScalars) for arm in arms for act in arm.acts):
        return [(arm, ()) for arm in arms]
    places = _Places(model, layers)
    return [places.place(arm) for arm in arms]


class _Places:
    """Which parameters a model has, in which layer, and which of them are one."""

    def __init__(self, model: nn.Module, layers: Sequence[DecoderLayer]) -> None:
        self._model = model
        self._parameters = dict(model.named_parameters(remove_duplicate=False))
        self._names: defaultdict[Hashable, list[str]] = defaultdict(list)
        for name, parameter in self._parameters.items():
            self._names[_identify(parameter)].append(name)
        self._layers: dict[str, DecoderLayer] = {}
        for layer in layers:
            own = (name for name, _ in layer.module.named_parameters(layer.name, remove_duplicate=False))
            packed = (matrix.parameter for matrix in layer.matrices if matrix.probed is not None)
            self._layers |= dict.fromkeys([*own, *packed], layer)

    def place(self, arm: Arm) -> tuple[Arm, tuple[SetScalars, ...]]:
        """Return an arm as the layers are to see it, with what it does outside of them."""
        inside: list[Act] = []
        outside: list[SetScalars] = []
        for act in arm.acts:
            if not isinstance(act, SetScalars):
                inside.append(act)
                continue
            # Of tied parameters that are no layer's the first name, so that arms which do the same are alike.
            named = [
                (scalar if name == scalar.parameter else scalar.model_copy(update={"parameter": name}), value)
                for scalar, value in zip(act.scalars, act.values, strict=True)
                for name in self._list_names(scalar)
            ]
            within = [pair for pair in named if pair[0].parameter in self._layers]
            if within:
                inside.append(_make_act(within))
            if len(within) < len(named):
                outside.append(_make_act([pair for pair in named if pair[0].parameter not in self._layers]))
        return arm.model_copy(update={"acts": tuple(inside)}), tuple(outside)

    def _list_names(self, scalar: ScalarAddress) -> list[str]:
        """Return the names of a scalar's parameter in the layers, and one outside; see that it can be written."""
        layer = self._layers.get(scalar.parameter)
        parameter = self._parameters.get(scalar.parameter)
        if layer is not None:
            matrix = _find_matrix(scalar, layer)
            if matrix is None or (matrix.probed is None and matrix.paged is None):
                _find_in_layer(scalar, layer, matrix)
        elif parameter is not None:
            _find_below(scalar, self._model)
        else:
            near = get_close_matches(scalar.parameter, [*self._parameters, *self._layers], 1, 0.0)
            found = "the model has no parameter of that name"
            raise CheckpointError(f"scalar {scalar}", found, f"name one of its own, such as {''.join(near)}")
        names = [scalar.parameter] if parameter is None else self._names[_identify(parameter)]
        outside = [name for name in names if name not in self._layers]
        return [*(name for name in names if name in self._layers), *outside[:1]]


def _identify(parameter: Tensor) -> Hashable:
    return (parameter.data_ptr() or id(parameter), parameter.shape)


def _find_matrix(scalar: ScalarAddress, layer: DecoderLayer) -> Matrix | None:
    """Return the matrix of a layer that a scalar is in; the scalar's last two numbers are within it."""
    expert = scalar.index[0] if len(scalar.index) == 3 else None
    matrix = layer.find_matrix(scalar.parameter, expert)
    if matrix is not None:
        require_inside(scalar, matrix.shape if expert is None else (matrix.tensor.shape[0], *matrix.shape))
    return matrix


def _find_in_layer(scalar: ScalarAddress, layer: DecoderLayer, matrix: Matrix | None) -> Tensor:
    """Return a scalar of a layer, as a view of no dimensions."""
    if matrix is None:
        return _find_below(scalar, layer.module, f"{layer.name}.")
    return _view(scalar, matrix.weight, scalar.index[-2:])


def _find_below(scalar: ScalarAddress, root: nn.Module, prefix: str = "") -> Tensor:
    """Return a scalar of a parameter that is no matrix of a layer, as a view of no dimensions."""
    path, _, key = scalar.parameter.removeprefix(prefix).rpartition(".")
    module = root.get_submodule(path)
    parameter: Any = module._parameters[key]
    tensor = parameter.detach()
    # A matrix that several layers share is listed in the first.
    tensor = tensor.T if is_conv1d(module) and tensor.ndim == 2 else tensor
    tensor = tensor if tensor.ndim else tensor.view(1)
    require_inside(scalar, tensor.shape)
    return _view(scalar, tensor, scalar.index)


def _view(scalar: ScalarAddress, tensor: Tensor, index: tuple[int, ...]) -> Tensor:
    if tensor.dtype not in FLOATING_DTYPES:
        found = f"the parameter is packed: its values are {str(tensor.dtype).removeprefix('torch.')}"
        raise CheckpointError(f"scalar {scalar}", found, "give the checkpoint from before it was quantized")
    return tensor[index]
