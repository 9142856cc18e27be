"""Opening a checkpoint: everything is checked that the library would let pass in silence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from sw_audit.checkpoint.digest import digest_files, digest_manifest
from sw_audit.checkpoint.families import find_decoder_layers, require_down_projections
from sw_audit.checkpoint.finite import refuse_non_finite
from sw_audit.checkpoint.inspection import inspect_folder
from sw_audit.checkpoint.loading import load_model, load_tokenizer, quiet_libraries, read_config
from sw_audit.checkpoint.matrices import DecoderLayer, Matrix
from sw_audit.checkpoint.source import find_folder, quote_source
from sw_audit.errors import CheckpointError
from sw_audit.facts.identity import ModelIdentity
from sw_audit.facts.policy import ModelPolicy


@dataclass
class Checkpoint:
    """An open model, in evaluation mode and without gradients.

    Attributes:
        model: The transformers model.
        tokenizer: Its tokenizer.
        identity: Which model it is.
        layers: Its decoder layers.
    """

    model: Any
    tokenizer: Any
    identity: ModelIdentity
    layers: tuple[DecoderLayer, ...]

    def matrix(self, parameter: str, expert: int | None = None) -> Matrix:
        """Return the matrix of that qualified name, and of that expert where experts are fused.

        Raises:
            KeyError: If no decoder layer has it.
        """
        return self._matrices[parameter, expert]

    @property
    def device(self) -> torch.device:
        """Where the model runs, also where its weights are there only while they are used."""
        return torch.device(self.identity.device)

    @property
    def maximum_positions(self) -> int | None:
        """How many tokens the model takes at once; `None` if its configuration does not say."""
        text = self.model.config.get_text_config(decoder=True)
        return getattr(text, "max_position_embeddings", None)

    @property
    def vocabulary(self) -> int:
        """Number of tokens that the model gives logits for."""
        size: int = self.model.config.get_text_config(decoder=True).vocab_size
        return size

    @cached_property
    def _matrices(self) -> Mapping[tuple[str, int | None], Matrix]:
        found = (one for layer in self.layers for one in (*layer.matrices, *layer.down_projections))
        return {(matrix.parameter, matrix.expert): matrix for matrix in found}


def open_checkpoint(wanted: ModelPolicy) -> Checkpoint:
    """Open a model, or say in one line why not.

    A checkpoint opens only if every tensor it holds was asked for, every tensor that was asked for is there
    in the right shape, and every weight is finite. Pickles and code that comes with a checkpoint are read
    only if the policy says so. A local path is never looked up on the network.

    Args:
        wanted: The model: path or hub id, revision, dtype, device.

    Raises:
        CheckpointError: If it cannot be opened as it should be.
    """
    folder = require_folder(wanted)
    declared = inspect_folder(folder, wanted)
    device = find_device(wanted)
    with quiet_libraries():
        config = read_config(folder, declared, wanted)
        tokenizer = load_tokenizer(folder, wanted)
        model = load_model(folder, config, device, wanted)
    for name, parameter in model.named_parameters():
        refuse_non_finite(name, parameter, wanted)
    check_vocabulary(model, tokenizer, wanted)
    model.eval().requires_grad_(False)
    layers = find_decoder_layers(model)
    require_down_projections(layers, wanted.source)
    return Checkpoint(model, tokenizer, identify_model(model, layers, folder, wanted), layers)


def require_folder(wanted: ModelPolicy) -> Path:
    """Return the folder of a checkpoint, fetched if it is on the hub.

    Raises:
        CheckpointError: If there is none.
    """
    folder = find_folder(wanted, fetch=True)
    if folder is None:  # pragma: no cover - fetching finds a folder or raises
        raise CheckpointError(quote_source(wanted), "there is no such folder", "correct the path")
    return folder


def find_device(wanted: ModelPolicy) -> torch.device:
    """Return the device that a model is to run on.

    Raises:
        CheckpointError: If this machine has none such.
    """
    try:
        device = torch.device(wanted.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        found = f"device {wanted.device!r} is not available here"
        raise CheckpointError(quote_source(wanted), found, "name a device of this machine, such as cpu") from error
    return device


def check_vocabulary(model: Any, tokenizer: Any, wanted: ModelPolicy) -> None:
    """Refuse a tokenizer that knows more tokens than its model.

    Raises:
        CheckpointError: If it does.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer.vocab_size > rows:
        found = f"its tokenizer has {tokenizer.vocab_size} tokens, its embedding only {rows} rows"
        raise CheckpointError(quote_source(wanted), found, "put the model's own tokenizer beside the weights")


def identify_model(
    model: Any, layers: Sequence[DecoderLayer], folder: Path, wanted: ModelPolicy, *, digest: bool = True
) -> ModelIdentity:
    """Say which model it is.

    Args:
        model: The model, its weights in memory or not.
        layers: Its decoder layers.
        folder: Where its files are.
        wanted: What it is called.
        digest: Whether to digest the files, which reads all of them.
    """
    files = digest_files(folder, allow_pickle=wanted.allow_pickle) if digest else ()
    return ModelIdentity(
        id=wanted.id,
        source=wanted.source,
        revision=wanted.revision,
        family=model.config.model_type,
        architecture=type(model).__name__,
        layers=len(layers),
        hidden_size=model.config.get_text_config(decoder=True).hidden_size,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        dtype=str(model.dtype).removeprefix("torch."),
        device=wanted.device,
        files=files,
        digest=digest_manifest(files) if digest else "",
    )
