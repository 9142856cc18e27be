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

    def matrix(self, parameter: str) -> Matrix:
        """Return the matrix of that qualified name.

        Raises:
            KeyError: If no decoder layer has it.
        """
        return self._matrices[parameter]

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
    def _matrices(self) -> Mapping[str, Matrix]:
        downs = [layer.down_projection for layer in self.layers if layer.down_projection is not None]
        return {matrix.parameter: matrix for layer in self.layers for matrix in layer.matrices} | {
            down.parameter: down for down in downs
        }


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
    folder = find_folder(wanted, fetch=True)
    if folder is None:  # pragma: no cover - fetching finds a folder or raises
        raise CheckpointError(quote_source(wanted), "there is no such folder", "correct the path")
    declared = inspect_folder(folder, wanted)
    device = _find_device(wanted)
    with quiet_libraries():
        config = read_config(folder, declared, wanted)
        tokenizer = load_tokenizer(folder, wanted)
        model = load_model(folder, config, device, wanted)
    _check_finite(model, wanted)
    _check_vocabulary(model, tokenizer, wanted)
    model.eval().requires_grad_(False)
    layers = find_decoder_layers(model)
    require_down_projections(layers, wanted.source)
    return Checkpoint(model, tokenizer, _identify(model, layers, folder, wanted), layers)


def _find_device(wanted: ModelPolicy) -> torch.device:
    try:
        device = torch.device(wanted.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        found = f"device {wanted.device!r} is not available here"
        raise CheckpointError(quote_source(wanted), found, "name a device of this machine, such as cpu") from error
    return device


def _check_finite(model: Any, wanted: ModelPolicy) -> None:
    for name, parameter in model.named_parameters():
        if parameter.numel() == 0 or not parameter.is_floating_point():
            continue
        # One pass without a mask as large as the tensor: a NaN or an infinity always reaches an extreme.
        low, high = torch.aminmax(parameter.detach())
        if not torch.isfinite(low + high * 0):
            kind = "NaN" if torch.isnan(low) else "an infinity"
            found = f"tensor {name!r} holds {kind}"
            raise CheckpointError(quote_source(wanted), found, "repair the weights or take an earlier checkpoint")


def _check_vocabulary(model: Any, tokenizer: Any, wanted: ModelPolicy) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer.vocab_size > rows:
        found = f"its tokenizer has {tokenizer.vocab_size} tokens, its embedding only {rows} rows"
        raise CheckpointError(quote_source(wanted), found, "put the model's own tokenizer beside the weights")


def _identify(model: Any, layers: Sequence[DecoderLayer], folder: Path, wanted: ModelPolicy) -> ModelIdentity:
    files = digest_files(folder, allow_pickle=wanted.allow_pickle)
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
        digest=digest_manifest(files),
    )
