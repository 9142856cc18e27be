"""The matrices of a model: each one with its name, seen as (out, in) whatever its layout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch


@dataclass(frozen=True, eq=False)
class Matrix:
    """A weight matrix `W` of `y = W @ x`, where it lives in the model.

    Attributes:
        parameter: Qualified name, such as `model.layers.2.mlp.down_proj.weight`.
        tensor: The parameter as the module stores it: (out, in), or (in, out) if transposed.
        transposed: Whether it is stored (in, out), as Conv1D does.
    """

    parameter: str
    tensor: torch.nn.Parameter
    transposed: bool

    @property
    def weight(self) -> torch.Tensor:
        """The matrix as (out, in); a view, so writing into it changes the model."""
        stored = self.tensor.detach()
        return stored.T if self.transposed else stored


@dataclass(frozen=True, eq=False)
class DownProjection(Matrix):
    """The last matrix of an MLP, which writes into the residual stream.

    Attributes:
        layer: Decoder layer, counted from 0.
        module: The module that multiplies by the matrix; forward hooks on it see `x` and `y`. Some families
            call it with [batch, tokens, channels], some (OPT) with [batch * tokens, channels]; some (Falcon)
            go on to add into its output, so that a hook must copy what it keeps.
    """

    layer: int
    module: torch.nn.Module

    @property
    def bias(self) -> torch.Tensor | None:
        """What the module adds to `W @ x` [out], if anything."""
        bias = getattr(self.module, "bias", None)
        return bias.detach() if isinstance(bias, torch.Tensor) else None


@dataclass(frozen=True, eq=False)
class DecoderLayer:
    """One layer of the decoder.

    Attributes:
        index: Counted from 0.
        name: Qualified name of the module, such as `model.layers.0`.
        module: The layer.
        down_projection: `None` where the MLP's experts are fused, or there is no MLP.
        matrices: Every matrix of the layer that multiplies activations, in the order of definition; a matrix
            shared with an embedding or an earlier layer is not listed again.
    """

    index: int
    name: str
    module: torch.nn.Module
    down_projection: DownProjection | None
    matrices: tuple[Matrix, ...]


def list_projections(root: torch.nn.Module, prefix: str) -> Iterator[tuple[Matrix, torch.nn.Module]]:
    """Yield every matrix below a module together with the module that multiplies by it.

    Only plain floating matrices count: what a quantization package packs into a Linear is not one.

    Args:
        root: Where to look, itself included.
        prefix: Its qualified name.
    """
    for name, module in root.named_modules(prefix=prefix):
        conv1d = is_conv1d(module)
        if not conv1d and not isinstance(module, torch.nn.Linear):
            continue
        weight = module._parameters.get("weight")
        if weight is not None and weight.ndim == 2 and weight.is_floating_point():
            yield Matrix(f"{name}.weight", weight, transposed=conv1d), module


def is_conv1d(module: torch.nn.Module) -> bool:
    """Tell whether a module is GPT-2's Conv1D, a Linear that stores its weight (in, out)."""
    return isinstance(module, _conv1d_class())


@lru_cache(maxsize=1)
def _conv1d_class() -> type[torch.nn.Module]:
    # Looking for a class must not be what imports transformers.
    from transformers.pytorch_utils import Conv1D

    found: type[torch.nn.Module] = Conv1D
    return found


def identify_storage(tensor: torch.Tensor) -> int:
    """Return a number that tensors sharing memory have in common, also where there is no memory (meta)."""
    return tensor.data_ptr() or id(tensor)
