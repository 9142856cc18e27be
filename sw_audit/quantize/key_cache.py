"""Rounding keys and values as engines do that keep a quantized cache.

llama.cpp's `q8_0` and `q4_0` cut a head into blocks of 32 channels. One step serves a block; it is stored as
float16 (ggml-quants.c, `quantize_row_q8_0_ref` and `quantize_row_q4_0_ref`). `fp8` rounds each number by itself to
float8_e4m3fn, with a scale of 1 as vLLM has it where no scales were calibrated; what is larger than 448 becomes
448. The `gguf` package has the first two as well; it is an extra, and a test holds these against it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sw_audit.record.keys import CacheKind

BLOCK = 32
"""Channels of a block."""
TURNED = 64
"""Channels that are turned together before they are rounded."""


def can_cache(kind: CacheKind, channels: int) -> bool:
    """Whether heads with so many channels can be kept in such a cache: llama.cpp wants whole blocks."""
    return kind == "fp8" or channels % BLOCK == 0


def round_cached(states: Tensor, kind: CacheKind) -> Tensor:
    """Round keys or values, [..., channels], and return what is read from the cache, float32.

    The channels must be whole blocks where there are blocks, see `can_cache`.
    """
    states = states.float()
    if kind == "fp8":
        most = torch.finfo(torch.float8_e4m3fn).max
        return states.clamp(-most, most).to(torch.float8_e4m3fn).float()
    blocks = states.reshape(*states.shape[:-1], -1, BLOCK)
    if kind == "q8_0":
        step = blocks.abs().amax(-1, keepdim=True) / 127
        levels = _divide(blocks, step)
        rounded = (levels.abs() + 0.5).floor() * levels.sign()
    else:
        # The number of the largest magnitude, with its sign, is level -8.
        largest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
        step = largest / -8
        rounded = (_divide(blocks, step) + 8.5).floor().clamp(0, 15) - 8
    cached: Tensor = rounded * step.half().float()
    return cached.reshape(states.shape)


def turn_hadamard(states: Tensor) -> Tensor:
    """Turn heads by the Hadamard matrix of 64, [..., channels], as llama.cpp does with queries and keys.

    It does so before it rounds to blocks, since April 2026 and where heads are whole 64s (pull request 21038).
    """
    matrix = torch.ones(1, 1)
    while len(matrix) < TURNED:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    parts = states.float().reshape(*states.shape[:-1], -1, TURNED)
    turned: Tensor = parts @ matrix.to(states.device) / TURNED**0.5
    return turned.reshape(states.shape)


def _divide(blocks: Tensor, step: Tensor) -> Tensor:
    return torch.where(step == 0, 0.0, blocks * (1 / step))
