"""Decoder layers in which every projection is another library's: copies that share all the rest."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field

import torch
from torch import nn

from sw_audit.backends.costs import count_stored_bits, measure_peak
from sw_audit.backends.method import Method, Pack, Packed, describe_failure
from sw_audit.checkpoint.matrices import DecoderLayer, Matrix, list_projections
from sw_audit.checkpoint.suppress_output import quiet_libraries


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
            with torch.no_grad(), quiet_libraries():
                return self._quantize(layer, self.method.pack)
        except Exception as error:  # libraries raise nearly everything
            self.failure = describe_failure(error)
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
        matrices = {matrix.parameter: matrix for matrix in layer.matrices}
        for parameter, result in packed.items():
            _try_out(result.module, matrices[parameter])
        self._account(layer, packed)
        return replace_projections(layer, {parameter: result.module for parameter, result in packed.items()})

    def _account(self, layer: DecoderLayer, packed: dict[str, Packed]) -> None:
        self.bits += sum(count_stored_bits(result.tensors) for result in packed.values())
        for matrix in layer.matrices:
            size = matrix.shape[0] * matrix.shape[1]
            self.weights += size
            if matrix.expert is not None or matrix.parameter not in packed:
                self.left += 1
                self.bits += 8 * size * matrix.tensor.element_size()


def replace_projections(layer: DecoderLayer, replacements: dict[str, nn.Module]) -> nn.Module:
    """Copy a layer's module, other modules in place of some projections.

    Replacements are named by the parameter of the matrix that a projection multiplies by. The copy shares no
    parameter with the layer but those of projections that are not replaced.
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
    # What the layer shares with an embedding or an earlier layer is not among its matrices.
    own = {matrix.parameter for matrix in layer.matrices}
    return {
        matrix.parameter: pack(_make_linear(matrix, module))
        for matrix, module in list_projections(layer.module, layer.name)
        if matrix.parameter in own
    }


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


def _try_out(module: nn.Module, matrix: Matrix) -> None:
    """Call a module once, so that a kernel that this machine lacks is known before it is relied on."""
    # Two rows, for one is another kernel in some libraries.
    output = module(torch.ones(1, 2, matrix.shape[1], dtype=matrix.tensor.dtype, device=matrix.tensor.device))
    if not torch.isfinite(output).all():
        raise ArithmeticError(f"what it makes of {matrix.parameter} gives outputs that are not finite")
