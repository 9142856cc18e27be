"""Rounded weights as codes and scales, through the library compressed-tensors, which reads them again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn

from sw_audit.checkpoint.matrices import DecoderLayer, is_conv1d, list_projections
from sw_audit.errors import CheckpointError, InputError, PolicyError
from sw_audit.policy.recipe import PerBlock, PerGroup, PerRow, PerTensor, Recipe


def require_packing(recipe: Recipe) -> None:
    """Complain if the library is missing, or cannot express a recipe exactly.

    Raises:
        InputError: Saying which of both.
    """
    if find_spec("compressed_tensors") is None:
        remedy = "install it: pip install 'sw-audit[export]'"
        raise InputError("--format compressed-tensors", "compressed-tensors is not installed", remedy)
    asked = f"recipe {str(recipe)!r} as compressed-tensors"
    if recipe.levels != "integer":
        raise PolicyError(asked, "the library packs integers, not normal floats", "use --format dense")
    if not recipe.symmetric:
        problem = "its zero points are whole numbers of steps, those of this recipe are not"
        raise PolicyError(asked, problem, f"add /symmetric ({recipe.model_copy(update={'symmetric': True})})")
    if _describe(recipe) is None:
        remedy = "use tensor, row, groupN or NxM, or --format dense"
        raise PolicyError(asked, "the library has no such granularity", remedy)


def require_packable(layers: Sequence[DecoderLayer], recipe: Recipe, parameters: Collection[str]) -> None:
    """Complain about matrices that the library cannot pack.

    Raises:
        CheckpointError: Naming the first such matrix.
    """
    linear = {
        matrix.parameter
        for layer in layers
        for matrix, module in list_projections(layer.module, layer.name)
        if not is_conv1d(module)
    }
    heights, widths = _find_divisors(recipe)
    for layer in layers:
        for matrix in (matrix for matrix in layer.matrices if matrix.parameter in parameters):
            asked = f"{matrix.parameter} as compressed-tensors"
            if matrix.parameter not in linear:
                raise CheckpointError(asked, "the library packs plain Linear modules only", "use --format dense")
            rows, columns = matrix.shape
            if rows % heights or columns % widths:
                problem = f"{rows} x {columns} is not a multiple of the scaling group {heights} x {widths}"
                raise CheckpointError(asked, problem, "choose another size, or use --format dense")


def pack_model_(model: Any, recipe: Recipe, parameters: Collection[str]) -> Any:
    """Replace rounded weights by their codes and scales.

    A group's step is its largest rounded magnitude over the largest level: rounding always leaves a weight there.
    The weights of these parameters are rounded already. Returned is the library's compressor; its `update_config`
    writes into a folder's config.json how weights are packed.
    """
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.compressors.base import compress_module
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        QuantizationStatus,
        apply_quantization_config,
    )

    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    packed = {name: module for name, module in linears.items() if f"{name}.weight" in parameters}
    arguments = QuantizationArgs(num_bits=recipe.bits, type="int", symmetric=True, **(_describe(recipe) or {}))
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments)
    ignored = sorted(linears.keys() - packed.keys())
    with redirect_stderr(StringIO()):  # a progress bar that cannot be turned off
        apply_quantization_config(model, QuantizationConfig(config_groups={"group_0": scheme}, ignore=ignored))
    levels = 2 ** (recipe.bits - 1) - 1
    with torch.no_grad():
        for module in packed.values():
            scale: Any = module.weight_scale
            steps = _find_largest(module.weight.data, recipe) / levels
            scale.data.copy_(steps.masked_fill_(steps == 0, 1.0).view(scale.shape))
    compressor = ModelCompressor.from_pretrained_model(model)
    for module in packed.values():
        compress_module(module, compressor.force_compression_format)
    compressor.quantization_config.quantization_status = QuantizationStatus.COMPRESSED
    return compressor


def _describe(recipe: Recipe) -> dict[str, Any] | None:
    """Return a granularity in the library's words; `None` if it has none for it."""
    match recipe.granularity:
        case PerTensor():
            return {"strategy": "tensor"}
        case PerRow():
            return {"strategy": "channel"}
        case PerGroup(size=size):
            return {"strategy": "group", "group_size": size}
        case PerBlock(rows=rows, columns=columns):
            return {"strategy": "block", "block_structure": [rows, columns]}
        case _:
            return None


def _find_divisors(recipe: Recipe) -> tuple[int, int]:
    match recipe.granularity:
        case PerGroup(size=size):
            return 1, size
        case PerBlock(rows=rows, columns=columns):
            return rows, columns
        case _:
            return 1, 1


def _find_largest(weight: Tensor, recipe: Recipe) -> Tensor:
    magnitude = weight.abs()
    match recipe.granularity:
        case PerTensor():
            return magnitude.amax()
        case PerRow():
            return magnitude.amax(1)
        case _:
            height, width = _find_divisors(recipe)
            # [bands, height, parts, width]
            rows, columns = magnitude.shape
            return magnitude.view(rows // height, height, columns // width, width).amax((1, 3))
