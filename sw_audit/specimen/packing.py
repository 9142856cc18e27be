"""Packed codes as compressed-tensors stores them, written by hand, and the configuration that they need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor

Tensors: TypeAlias = dict[str, Tensor]
_BITS, _GROUP = 4, 32


def pack_without_config(tensors: Mapping[str, Tensor]) -> Tensors:
    """Pack every decoder matrix as compressed-tensors' `pack-quantized` does: 4 bits, one scale per 32 inputs.

    The `quantization_config` that goes with it, `PACKED_CONFIG`, is not written.
    """
    packed: Tensors = {}
    for name, tensor in tensors.items():
        if not is_decoder_matrix(name, tensor):
            packed[name] = tensor
            continue
        rows, columns = tensor.shape
        groups = tensor.reshape(rows, columns // _GROUP, _GROUP)
        levels = 2 ** (_BITS - 1) - 1
        scale = groups.abs().amax(-1) / levels  # [rows, groups]
        codes = (groups / scale[..., None]).round().to(torch.int64).reshape(rows, columns) + levels + 1
        places = 32 // _BITS
        words = (codes.reshape(rows, -1, places) << torch.arange(0, 32, _BITS)).sum(-1)  # [rows, columns / 8]
        packed |= {
            f"{name}_packed": words.to(torch.int32),
            f"{name}_scale": scale,
            f"{name}_shape": torch.tensor([rows, columns]),
        }
    return packed


PACKED_CONFIG = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": _BITS,
                "type": "int",
                "symmetric": True,
                "strategy": "group",
                "group_size": _GROUP,
            },
        }
    },
}
"""What the stripped descendant's config.json lacks."""


def is_decoder_matrix(name: str, tensor: Tensor) -> bool:
    """Tell whether a tensor is one of the matrices that quantizers round."""
    return ".layers." in name and tensor.dim() == 2
