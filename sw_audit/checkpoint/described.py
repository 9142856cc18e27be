"""How one module's weight is stored: bits, groups, and the distance of two codes at one scalar."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sw_audit.record.quantized import QuantizedModule

# The levels of a 4-bit float (E2M1), which two more formats share; of 8 bits torch knows them.
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


@dataclass(frozen=True)
class Scaled:
    """The codes around one scalar.

    Attributes:
        scale: What a code is multiplied by.
        levels: What the codes stand for before that, ascending; `None` for whole numbers.
    """

    scale: float
    levels: Tensor | None = None

    def step(self, value: float) -> float | None:
        """Return the distance from the level that a value is at to its neighbour, the nearer one to zero."""
        if self.levels is None:
            return abs(self.scale)
        if not self.scale:
            return None
        place = int((self.levels - value / self.scale).abs().argmin())
        inward = place + (1 if float(self.levels[place]) < 0 else -1)
        if not 0 <= inward < len(self.levels):
            return None
        return abs(float(self.levels[place] - self.levels[inward])) * abs(self.scale)


def unwrap(module: nn.Module) -> nn.Module:
    """Return what an adapter is put on; a module without one as it is."""
    base = getattr(module, "base_layer", None)
    return base if isinstance(base, nn.Module) else module


def describe_module(name: str, module: nn.Module, settings: Mapping[str, Any]) -> QuantizedModule | None:
    """Describe how a packed module stores its weight, as far as the module says so, else its configuration.

    Args:
        name: Its qualified name.
        module: The module.
        settings: The configuration's quantization, for what the module does not say.
    """
    module = unwrap(module)
    weight: Any = module._parameters.get("weight")
    scheme: Any = getattr(module, "quantization_scheme", None)
    if scheme is not None and scheme.weights is not None:
        given = scheme.input_activations
        size = scheme.weights.group_size
        return QuantizedModule(
            module=name,
            bits=scheme.weights.num_bits,
            group=size if size and size > 0 else None,
            activations=None if given is None else given.num_bits,
        )
    if (state := getattr(weight, "quant_state", None)) is not None:
        return QuantizedModule(module=name, bits=4, group=state.blocksize)
    if type(module).__name__ == "Linear8bitLt":
        return QuantizedModule(module=name, bits=8, activations=8)
    if hasattr(weight, "__tensor_flatten__") and hasattr(weight, "dequantize"):
        return _describe_torchao(name, weight)
    bits, size = getattr(module, "bits", None), getattr(module, "group_size", settings.get("group_size"))
    if isinstance(bits, int):
        return QuantizedModule(module=name, bits=bits, group=size if isinstance(size, int) and size > 0 else None)
    plain = type(weight) is nn.Parameter and weight.is_floating_point()
    return None if plain else QuantizedModule(module=name, bits=None)


def _describe_torchao(name: str, weight: Any) -> QuantizedModule:
    codes = getattr(weight, "qdata", None)
    target = getattr(weight, "target_dtype", None) or getattr(codes, "dtype", None)
    digits = re.search(r"\d+", str(target))
    block = getattr(weight, "block_size", None)
    columns = weight.shape[-1]
    return QuantizedModule(
        module=name,
        bits=float(digits.group()) if digits else None,
        group=int(block[-1]) if block is not None and int(block[-1]) < columns else None,
        activations=8 if getattr(weight, "act_quant_kwargs", None) is not None else None,
    )


@torch.no_grad()
def find_scale(module: nn.Module, row: int, column: int, shape: tuple[int, int]) -> Scaled | None:
    """Find the scale of one scalar's group; `None` where it is not known how a module keeps it.

    Args:
        module: A packed module.
        row: Output channel.
        column: Input channel.
        shape: Of its matrix, (out, in).
    """
    module = unwrap(module)
    weight: Any = module._parameters.get("weight")
    scheme: Any = getattr(module, "quantization_scheme", None)
    if scheme is not None and scheme.weights is not None:
        return _scale_of_scheme(module, scheme.weights, row, column, shape)
    if (state := getattr(weight, "quant_state", None)) is not None:
        return _scale_of_blocks(state, row * shape[1] + column)
    if type(module).__name__ == "Linear8bitLt":
        scales: Any = getattr(weight, "SCB", None)
        state_8bit: Any = getattr(module, "state", None)
        scales = scales if scales is not None else getattr(state_8bit, "SCB", None)
        return None if scales is None else Scaled(float(scales[row]) / 127)
    if hasattr(weight, "dequantize") and isinstance(held := getattr(weight, "scale", None), Tensor):
        codes = getattr(weight, "qdata", None)
        levels = list_levels(codes.dtype) if isinstance(codes, Tensor) and codes.is_floating_point() else None
        return Scaled(pick_scale(held, row, column, shape), levels)
    packed: Any = getattr(module, "scales", None)
    if isinstance(packed, Tensor) and packed.ndim == 2 and packed.shape[1] == shape[0]:
        belongs: Any = getattr(module, "g_idx", None)
        known = isinstance(belongs, Tensor) and len(belongs) == shape[1]
        group = int(belongs[column]) if known else column * packed.shape[0] // shape[1]
        return Scaled(float(packed[group, row]))
    return None


def pick_scale(scales: Tensor, row: int, column: int, shape: tuple[int, int]) -> float:
    """Pick one scalar's scale from those of a matrix, of which each stands for a block.

    Args:
        scales: One for all, one per row, or [bands, parts].
        row: Output channel.
        column: Input channel.
        shape: Of the matrix, (out, in).
    """
    if scales.numel() == 1:
        return float(scales.float().flatten()[0])
    grid = scales.float().reshape(scales.shape[0], -1)  # [bands, parts]
    # The last block of each row and column may be smaller than the others.
    height, width = (-(-size // count) for size, count in zip(shape, grid.shape, strict=True))
    return float(grid[row // height, column // width])


def list_levels(dtype: torch.dtype) -> Tensor:
    """List what the codes of an 8-bit float stand for, ascending."""
    every = torch.arange(256, dtype=torch.uint8).view(dtype).float()
    levels: Tensor = torch.unique(every[every.isfinite()])
    return levels


def _scale_of_scheme(
    module: nn.Module, weights: Any, row: int, column: int, shape: tuple[int, int]
) -> Scaled | None:
    held: Any = getattr(module, "weight_scale", None)
    if not isinstance(held, Tensor):
        return None
    if weights.type == "int":
        return Scaled(pick_scale(held, row, column, shape))
    if weights.num_bits == 8:
        return Scaled(pick_scale(held, row, column, shape), list_levels(torch.float8_e4m3fn))
    scale = pick_scale(held, row, column, shape)
    whole: Any = getattr(module, "weight_global_scale", None)
    if isinstance(whole, Tensor):
        scale /= float(whole.flatten()[0])
    elif held.dtype == torch.uint8:
        scale = 2.0 ** (scale - 127)
    levels = torch.tensor([*(-one for one in reversed(_E2M1[1:])), *_E2M1])
    return Scaled(scale, levels)


def _scale_of_blocks(state: Any, place: int) -> Scaled:
    """Find the scale of one of bitsandbytes' blocks, which count along the flattened matrix."""
    largest = state.absmax
    if state.nested:
        from bitsandbytes.functional import dequantize_blockwise

        largest = dequantize_blockwise(state.absmax, state.state2) + state.offset
    return Scaled(float(largest[place // state.blocksize]), state.code.float().sort().values)
