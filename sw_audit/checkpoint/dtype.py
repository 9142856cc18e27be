"""Chooses the dtype that a model is opened in."""

from __future__ import annotations

import platform
from functools import cache

import torch

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.policy.model_policy import ModelPolicy


def choose_dtype(folder: CheckpointFolder) -> str:
    """Choose the dtype to open a model in: the one that the policy asks for, else the one that its files have.

    Bfloat16 is kept where the device multiplies in it (`multiplies_bfloat16`): there float32 takes 2.2 times as
    long. Where it does not, the model is opened in float32, which holds the same numbers and takes a quarter of
    the time (AVX2) or less than half of it (AVX-512 without BF16); one projection of 256 tokens, measured with
    `ONEDNN_MAX_CPU_ISA`. Float16 stays what it is, though float32 takes a fifth of the time: whether activations
    fit it is a question of its own (`range-fits-dtype`).

    Returns:
        A name of torch, or `auto`, which leaves it to transformers.
    """
    if folder.policy.dtype != "auto":
        return folder.policy.dtype
    stored = folder.format.find_dtype(folder)
    on_processor = torch.device(folder.policy.device).type == "cpu"
    if stored == "bfloat16" and on_processor and not multiplies_bfloat16():
        return "float32"
    # A configuration may ask for several dtypes; a GGUF file has none, and the library would always take float32.
    return "auto" if stored is None or folder.format.uses_config else stored


def keep_stored_dtype(policy: ModelPolicy) -> ModelPolicy:
    """Return the policy of a model that is to be written again: in bfloat16 if it is stored so, fast here or not.

    Raises:
        CheckpointError: If there is no such checkpoint.
    """
    folder = CheckpointFolder.require(policy)
    if policy.dtype == "auto" and folder.format.find_dtype(folder) == "bfloat16":
        return policy.model_copy(update={"dtype": "bfloat16"})
    return policy


@cache
def multiplies_bfloat16() -> bool:
    """Tell whether this processor has instructions that multiply matrices in bfloat16."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    # Elsewhere oneDNN takes bfloat16 only where the processor has it.
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
