"""Every parameter of a model, addressed as its scalars are: the matrices of its decoder layers, and all others.

What counts as zero is what the layer applies: some families multiply by 1 + w, so that a gain is gone at w = -1.
Which ones do is seen from what a norm does, not from what it is called.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import torch
from torch import Tensor, nn

from sw_audit.checkpoint.effective import is_opaque
from sw_audit.checkpoint.matrices import DecoderLayer, Matrix
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.errors import CheckpointError
from sw_audit.record.address import ScalarAddress

_MOST_DIMENSIONS = 3


@dataclass(frozen=True, eq=False)
class ModelParameter:
    """A parameter, seen as its scalars are addressed.

    Attributes:
        name: Qualified name; of tied parameters the first.
        shape: As addressed: matrices of decoder layers (out, in), fused experts (experts, out, in), else as
            stored; a single number is a vector of one.
        layer: Decoder layer; `None` outside of them.
        names: The other names of a tied parameter.
        offset: What the layer adds before it multiplies: 1 where a norm's gain is stored less 1, else 0.
        is_gain: Whether it is the gain of a norm.
        matrix: The decoder matrix that it is, if it is one and no fused experts.
    """

    name: str
    shape: tuple[int, ...]
    layer: int | None
    names: tuple[str, ...] = ()
    offset: float = 0.0
    is_gain: bool = False
    matrix: Matrix | None = None
    _view: Callable[[], Tensor] = field(kw_only=True, repr=False)
    _see: Callable[[Tensor], Tensor] = field(default=lambda stored: stored, kw_only=True, repr=False)

    @property
    def weight(self) -> Tensor:
        """The parameter as addressed, any floating dtype; a view, unless a module keeps it packed."""
        return self._view()

    @property
    def size(self) -> int:
        """Number of its scalars."""
        return torch.Size(self.shape).numel()

    def see(self, stored: Tensor) -> Tensor:
        """Return a tensor that is laid out as the parameter is stored, such as its gradient, as addressed."""
        return self._see(stored)

    def read(self, index: Sequence[int]) -> float:
        """Return one scalar as it is stored.

        Raises:
            CheckpointError: If the index lies outside.
        """
        require_inside(ScalarAddress(parameter=self.name, index=tuple(index)), self.shape)
        if self.matrix is not None:
            rows, columns = (torch.tensor([place], device=self.matrix.device) for place in index)
            return float(self.matrix.read_scalars(rows, columns)[0])
        return float(self.weight[tuple(index)])

    def list_channels(self, index: Sequence[int], hidden: int) -> tuple[int, ...]:
        """Return the channels of the residual stream, `hidden` wide, that a scalar reads, scales or writes."""
        lengths = self.shape[-2:]
        return tuple(
            place for place, length in zip(index[-len(lengths) :], lengths, strict=True) if length == hidden
        )


def require_inside(address: ScalarAddress, shape: Sequence[int]) -> None:
    """Raise CheckpointError for a scalar that lies outside of its parameter, whose shape is as addressed."""
    if len(address.index) != len(shape) or any(map(int.__ge__, address.index, shape)):
        found = f"the parameter is {' x '.join(map(str, shape))}"
        remedy = "give as many numbers, counted from 0; of a decoder matrix the output channel first"
        raise CheckpointError(f"scalar {address}", found, remedy)


def list_parameters(checkpoint: Checkpoint) -> tuple[ModelParameter, ...]:
    """List the floating parameters of a model: first those of its decoder layers' matrices, then all others.

    Tied ones are listed once. What a module keeps packed is listed as the matrix that it multiplies by. Parameters
    of more than three dimensions are left out.
    """
    return tuple(chain(_list_matrices(checkpoint.layers), _list_others(checkpoint)))


def name_parameters(checkpoint: Checkpoint) -> dict[str, ModelParameter]:
    """Return the parameters of a model by their names, a tied one by each of its."""
    return {name: one for one in list_parameters(checkpoint) for name in (one.name, *one.names)}


def find_parameter(checkpoint: Checkpoint, name: str) -> ModelParameter | None:
    """Return the parameter of a qualified name, also the second name of a tied one; `None` if there is none."""
    return name_parameters(checkpoint).get(name)


def _list_matrices(layers: Sequence[DecoderLayer]) -> Iterator[ModelParameter]:
    for layer in layers:
        experts: defaultdict[str, list[Matrix]] = defaultdict(list)
        for matrix in layer.matrices:
            if matrix.expert is None:
                yield ModelParameter(
                    matrix.parameter,
                    matrix.shape,
                    layer.index,
                    matrix=matrix,
                    _view=partial(_read_matrix, matrix),
                    _see=_transpose if matrix.transposed else _same,
                )
            else:
                experts[matrix.parameter].append(matrix)
        for name, fused in experts.items():
            yield ModelParameter(
                name,
                (len(fused), *fused[0].shape),
                layer.index,
                _view=partial(_read_experts, layer, fused),
                _see=_transpose if fused[0].transposed else _same,
            )


def _read_matrix(matrix: Matrix) -> Tensor:
    return matrix.weight


def _read_experts(layer: DecoderLayer, fused: Sequence[Matrix]) -> Tensor:
    if fused[0].paged is not None:
        return torch.stack([matrix.weight for matrix in fused])
    stored = layer.module.get_parameter(fused[0].parameter.removeprefix(f"{layer.name}.")).detach()
    return _transpose(stored) if fused[0].transposed else stored


def _same(stored: Tensor) -> Tensor:
    return stored


def _transpose(stored: Tensor) -> Tensor:
    return stored.transpose(-1, -2)


def _list_others(checkpoint: Checkpoint) -> Iterator[ModelParameter]:
    matrices = {matrix.parameter for layer in checkpoint.layers for matrix in layer.matrices}
    packed = tuple(f"{name}." for name, module in checkpoint.model.named_modules() if is_opaque(module))
    names: defaultdict[int, list[str]] = defaultdict(list)
    parameters: dict[int, nn.Parameter] = {}
    for name, parameter in checkpoint.model.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
        parameters[id(parameter)] = parameter
    gains: dict[tuple[type, int], float | None] = {}
    for key, parameter in parameters.items():
        name, *others = names[key]
        if matrices.intersection(names[key]) or name.startswith(packed):
            continue
        if not parameter.is_floating_point() or parameter.ndim > _MOST_DIMENSIONS or not parameter.numel():
            continue
        path, _, last = name.rpartition(".")
        module = checkpoint.model.get_submodule(path)
        offset = None
        if parameter.ndim == 1 and last == "weight":
            kind = (type(module), len(parameter))
            if kind not in gains:
                gains[kind] = find_gain_offset(module, len(parameter))
            offset = gains[kind]
        layer = next((layer for layer in checkpoint.layers if name.startswith(f"{layer.name}.")), None)
        yield ModelParameter(
            name,
            tuple(parameter.shape) or (1,),
            None if layer is None else layer.index,
            tuple(others),
            offset or 0.0,
            offset is not None,
            _view=partial(_read_parameter, checkpoint, layer, name),
        )


def _read_parameter(checkpoint: Checkpoint, layer: DecoderLayer | None, name: str) -> Tensor:
    # Read anew each time: whoever brings layers in one by one may put another parameter there.
    with nullcontext() if layer is None else layer.present():
        stored: Tensor = checkpoint.model.get_parameter(name).detach()
    if stored.is_meta and checkpoint.read_module is not None:
        stored = checkpoint.read_module(name.rpartition(".")[0])[name].to(checkpoint.device)
    return stored if stored.ndim else stored.view(1)


def find_gain_offset(module: nn.Module, width: int) -> float | None:
    """Return what a norm adds to its `weight` before it multiplies by it, 0 or 1; `None` if it is no norm's gain.

    A copy of the module is tried on random numbers: with a gain of 0 nothing is left but its bias, which is set to
    0. Parameters are not set in the module itself, for a quantizer's store may write through to the weights.
    """
    if next(module.children(), None) is not None:
        return None
    x = torch.randn(1, 2, width, generator=torch.Generator().manual_seed(0))
    for stored, offset in ((0.0, 0.0), (-1.0, 1.0)):
        tried = copy(module)
        tried.__dict__.pop("forward", None)  # a wrapper of it belongs to the module
        tried._parameters = {
            name: nn.Parameter(torch.full(parameter.shape, stored if name == "weight" else 0.0), False)
            for name, parameter in module.named_parameters()
        }
        try:
            output = type(module).forward(tried, x)
        except Exception:
            return None
        if not isinstance(output, Tensor) or output.shape != x.shape:
            return None
        if not bool(output.any()):
            return offset
    return None
