"""Putting an open model together: configuration, tokenizer, weights, and an adapter where there is one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sw_audit.checkpoint.finite import refuse_non_finite
from sw_audit.checkpoint.formats import GGUF, find_base, find_format, find_gguf, is_adapter
from sw_audit.checkpoint.headers import DamagedFileError
from sw_audit.checkpoint.inspection import has_tokenizer, inspect_folder, list_weight_files
from sw_audit.checkpoint.lint_formats import hold_against_config
from sw_audit.checkpoint.loading import (
    check_loading,
    load_model,
    load_tokenizer,
    one_line_refusals,
    read_config,
)
from sw_audit.checkpoint.packed import refuse_noise, unpack_
from sw_audit.checkpoint.source import find_folder, quote_source
from sw_audit.checkpoint.stored import open_stored
from sw_audit.checkpoint.suppress_output import suppress_output
from sw_audit.errors import BrokenWeightsError, CheckpointError
from sw_audit.policy.model_policy import ModelPolicy

_FLOATS = {torch.float64, torch.float32, torch.bfloat16, torch.float16}


@dataclass(frozen=True)
class Assembled:
    """A model with what belongs to it.

    Attributes:
        model: The transformers model.
        tokenizer: Its tokenizer.
        folders: Where its weights are from: its own folder, and that of an adapter's base.
    """

    model: Any
    tokenizer: Any
    folders: tuple[tuple[Path, ModelPolicy], ...]


def assemble(folder: Path, wanted: ModelPolicy, device: torch.device) -> Assembled:
    """Load a model with all that belongs to it, in whatever format its weights are stored.

    Args:
        folder: Where its files are.
        wanted: The model.
        device: Where it goes.

    Raises:
        CheckpointError: If it cannot be loaded.
        BrokenWeightsError: If it would not consist of exactly the tensors of its files, or of anything not finite.
    """
    declared = inspect_folder(folder, wanted)
    if is_adapter(folder):
        return _assemble_adapted(folder, wanted, device)
    gguf = find_gguf(folder, wanted)
    if gguf is not None:
        _require_whole(folder / gguf, wanted)
    config = read_config(folder, declared, wanted)
    tokenizer = load_tokenizer(folder, wanted)
    stored = find_format(declared) if gguf is None else GGUF
    if stored is None:
        model = load_model(folder, config, device, wanted)
    else:
        if stored is not GGUF:
            refuse_disagreement(folder, declared, wanted)
        with suppress_output():
            model = load_model(folder, config, device, wanted)
        with one_line_refusals(wanted, "its quantized weights"):
            unpack_(model, stored, wanted)
        if device.type != "cpu" and stored is GGUF:
            model.to(device)
    _refuse_non_finite(model, wanted)
    return Assembled(model, tokenizer, ((folder, wanted),))


def refuse_disagreement(folder: Path, declared: dict[str, Any], wanted: ModelPolicy) -> None:
    """Refuse a checkpoint whose tensors are not those that its quantization makes.

    Raises:
        BrokenWeightsError: Naming the first thing that does not agree.
    """
    remedy = "write the checkpoint again with the library that quantized it, config.json included"
    for flaw in hold_against_config(declared, open_stored(list_weight_files(folder, wanted))):
        if flaw.serious:
            found = flaw.found if flaw.where == "config.json" else f"tensor {flaw.where!r}: {flaw.found}"
            raise BrokenWeightsError(quote_source(wanted), found, remedy, kind=flaw.kind, where=flaw.where)


def _require_whole(file: Path, wanted: ModelPolicy) -> None:
    """Refuse a GGUF file that is cut off: transformers would say so in words about arrays."""
    try:
        open_stored([file])
    except DamagedFileError as error:
        raise BrokenWeightsError(quote_source(wanted), error.found, error.remedy, where=error.where) from error


def _assemble_adapted(folder: Path, wanted: ModelPolicy, device: torch.device) -> Assembled:
    """Load an adapter's base, which may be quantized, and put the adapter on."""
    base = find_base(folder, wanted)
    place = find_folder(base, fetch=True)
    if place is None:  # pragma: no cover - fetching finds a folder or raises
        raise CheckpointError(quote_source(base), "there is no such folder", "correct `base`")
    below = assemble(place, base, device)
    with one_line_refusals(wanted, "its adapter"), suppress_output():
        info = below.model.load_adapter(str(folder))
        names = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
        check_loading({name: getattr(info, name, None) or () for name in names}, wanted)
    _refuse_non_finite(below.model, wanted)
    tokenizer = load_tokenizer(folder, wanted) if has_tokenizer(folder) else below.tokenizer
    return Assembled(below.model, tokenizer, ((folder, wanted), *below.folders))


def _refuse_non_finite(model: Any, wanted: ModelPolicy) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        # What a library has packed into a tensor of its own is tried out instead.
        if type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.dtype in _FLOATS:
            refuse_non_finite(name, tensor, wanted)
    refuse_noise(model, wanted)
