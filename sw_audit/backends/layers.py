"""Decoder layers in which every projection is another library's: copies that share all the rest."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

from sw_audit.backends.costs import count_stored_bits, measure_peak
from sw_audit.backends.method import Method, Pack, Packed, tell_failure
from sw_audit.backends.suppress_output import quiet_alternatives
from sw_audit.checkpoint.matrices import DecoderLayer, Matrix, list_projections


@dataclass
class LayerQuantizer:
    """Makes the layers of one method, one after the other, and keeps account of what that costs.

    A method that fails on a layer has failed: from then on it returns the layers as they are, so that whoever
    runs them can go on, and `failure` says why its figures are void.

    Attributes:
        method: The method, which quantizes projection by projection.
        bits: Bits stored for the matrices of the layers so far, those that it leaves alone included.
        weights: Weights of these matrices.
        left: How many of these matrices it leaves alone, such as experts that are fused into one parameter.
        seconds: Time spent quantizing.
        peak_bytes: Most memory held while one layer was quantized, over the layers so far.
        failure: Why there is no result; `None` if there is.
    """

    method: Method
    bits: int = 0
    weights: int = 0
    left: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0
    failure: str | None = None
    _measured: set[tuple[tuple[int, int], ...]] = field(default_factory=set)

    def __call__(self, layer: DecoderLayer) -> nn.Module:
        """Return a module that stands in for a layer; the layer itself stays as it is, to the last bit."""
        if self.failure is not None or self.method.pack is None:
            return layer.module
        try:
            with torch.no_grad(), quiet_alternatives():
                return self._quantize(layer, self.method.pack)
        except Exception as error:  # libraries raise nearly everything
            self.failure = tell_failure(error)
            return layer.module

    def _quantize(self, layer: DecoderLayer, pack: Pack) -> nn.Module:
        shape = tuple(sorted(matrix.shape for matrix in layer.matrices))
        if shape not in self._measured:
            # Layers are mostly alike, and counting memory takes time, so it is not done in the timed run.
            self._measured.add(shape)
            self.peak_bytes = max(self.peak_bytes, measure_peak(lambda: _pack_all(layer, pack))[1])
        started = time.perf_counter()
        packed = _pack_all(layer, pack)
        self.seconds += time.perf_counter() - started
        for name, found in packed.items():
            _try_out(name, found.module, _find_width(layer, name))
        self._account(layer, packed)
        return replace_projections(layer, {name: found.module for name, found in packed.items()})

    def _account(self, layer: DecoderLayer, packed: dict[str, Packed]) -> None:
        for found in packed.values():
            self.bits += count_stored_bits(found.tensors)
        for matrix in layer.matrices:
            size = matrix.shape[0] * matrix.shape[1]
            self.weights += size
            if matrix.expert is not None or matrix.parameter not in packed:
                self.left += 1
                self.bits += 8 * size * matrix.tensor.element_size()


def replace_projections(layer: DecoderLayer, replacements: dict[str, nn.Module]) -> nn.Module:
    """Copy a layer's module, other modules in place of some projections.

    Args:
        layer: The layer.
        replacements: By the parameter of the matrix that a projection multiplies by.

    Returns:
        A copy that shares no parameter with the layer but those of projections that are not replaced.
    """
    projections = {matrix.parameter: module for matrix, module in list_projections(layer.module, layer.name)}
    # A projection that stands in the memo is taken over as it is, so its weight is never copied.
    copied: nn.Module = copy.deepcopy(layer.module, {id(module): module for module in projections.values()})
    for parameter, replacement in replacements.items():
        place = parameter.removesuffix(".weight").removeprefix(f"{layer.name}.")
        parent, _, name = place.rpartition(".")
        setattr(copied.get_submodule(parent), name, replacement)
    return copied


def _pack_all(layer: DecoderLayer, pack: Pack) -> dict[str, Packed]:
    return {matrix.parameter: pack(_make_linear(matrix, module)) for matrix, module in _list_own(layer)}


def _list_own(layer: DecoderLayer) -> Iterator[tuple[Matrix, nn.Module]]:
    """Yield the layer's projections; what it shares with an embedding or an earlier layer is not its own."""
    own = {matrix.parameter for matrix in layer.matrices}
    for matrix, module in list_projections(layer.module, layer.name):
        if matrix.parameter in own:
            yield matrix, module


def _make_linear(matrix: Matrix, module: nn.Module) -> nn.Linear:
    """Make a Linear of a projection, whatever its layout, that shares the weight and can be taken apart."""
    rows, columns = matrix.shape
    bias = getattr(module, "bias", None)
    linear = nn.Linear(columns, rows, bias=bias is not None, device="meta")
    # A Conv1D's weight is stored (in, out), and not every library takes a transposed view.
    linear.weight = nn.Parameter(matrix.weight.contiguous(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return linear.eval()


def _find_width(layer: DecoderLayer, parameter: str) -> tuple[int, torch.nn.Parameter]:
    found = next(matrix for matrix in layer.matrices if matrix.parameter == parameter)
    return found.shape[1], found.tensor


def _try_out(name: str, module: nn.Module, place: tuple[int, torch.nn.Parameter]) -> None:
    """Call a module once, so that a kernel that this machine has not is known before it is relied on."""
    columns, tensor = place
    # Two rows, for one is another kernel in some libraries.
    output = module(torch.ones(1, 2, columns, dtype=tensor.dtype, device=tensor.device))
    if not torch.isfinite(output).all():
        raise ArithmeticError(f"what it makes of {name} gives outputs that are not finite")
