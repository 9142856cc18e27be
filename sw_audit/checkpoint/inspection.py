"""What can be said against a checkpoint from its files alone, in milliseconds, without torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sw_audit.checkpoint.folder import WEIGHTS, CheckpointFolder
from sw_audit.checkpoint.formats.adapter import ADAPTER_CONFIG
from sw_audit.checkpoint.headers import DamagedFileError
from sw_audit.errors import BrokenWeightsError, CheckpointError
from sw_audit.policy.model_policy import ModelPolicy

_AGAIN = "download or copy the checkpoint again"
_DECODER = "give a decoder-only language model"


def inspect_checkpoint(policy: ModelPolicy) -> None:
    """Complain about a checkpoint as far as its files and the headers of its weights allow.

    A hub repository is not downloaded for this; it is inspected when it is opened.

    Raises:
        CheckpointError: If it cannot be opened, as one line.
    """
    folder = CheckpointFolder.find(policy, fetch=False)
    if folder is not None:
        inspect_folder(folder)


def inspect_folder(folder: CheckpointFolder) -> None:
    """Complain about a checkpoint's folder.

    Raises:
        CheckpointError: If it cannot be opened, as one line.
    """
    with one_line_damage(folder):
        if not any(folder.path.iterdir()):
            raise CheckpointError(folder.asked, "the folder is empty", "give the folder of a checkpoint")
        stored = folder.format
        if stored.uses_config:
            _check_config(folder)
        stored.require(folder)
        if stored.uses_config:
            _check_index(folder)
        stored.inspect(folder)
        if (base := stored.find_base(folder)) is not None:
            _ = folder.headers
            inspect_checkpoint(base)
        if stored.uses_config:
            _check_kind(folder)
            if not folder.has_tokenizer:
                remedy = "put the tokenizer of the model it was made from beside the weights"
                raise CheckpointError(folder.asked, "there is no tokenizer in the folder", remedy)


@contextmanager
def one_line_damage(folder: CheckpointFolder) -> Iterator[None]:
    """Turn what a damaged or unreadable file raises into one line.

    Raises:
        CheckpointError: In place of it.
    """
    try:
        yield
    except DamagedFileError as error:
        raise BrokenWeightsError(folder.asked, error.found, error.remedy, where=error.where) from error
    except OSError as error:
        found = f"{Path(error.filename or folder.path).name} cannot be read ({error.strerror})"
        raise CheckpointError(folder.asked, found, "check the file and its permissions") from error


def _check_config(folder: CheckpointFolder) -> None:
    if (folder.path / ADAPTER_CONFIG).exists():
        found = "there is an adapter beside the model, and transformers would put it on without being asked"
        raise CheckpointError(folder.asked, found, "move one of the two into a folder of its own")
    if not isinstance(folder.config.get("model_type"), str):
        raise CheckpointError(folder.asked, "config.json names no model_type", _AGAIN)


def _check_index(folder: CheckpointFolder) -> None:
    """Hold what the index promises against what the shards hold."""
    if WEIGHTS in folder.headers or not folder.headers:
        return
    for tensor, shard in folder.index.items():
        if tensor not in folder.headers[shard]:
            found = f"the index promises tensor {tensor!r} in {shard}, which does not hold it"
            raise folder.refuse_index(found, tensor)


def _check_kind(folder: CheckpointFolder) -> None:
    """Refuse models that say in their configuration that they are no decoders."""
    config, kind = folder.config, folder.config["model_type"]
    if config.get("is_encoder_decoder"):
        raise CheckpointError(folder.asked, f"{kind} is an encoder-decoder model", _DECODER)
    architectures = config.get("architectures") or ()
    if any(str(name).endswith("ForMaskedLM") for name in architectures) and not config.get("is_decoder"):
        raise CheckpointError(folder.asked, f"{kind} is an encoder-only model", _DECODER)
