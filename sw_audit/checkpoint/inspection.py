"""What can be said against a checkpoint from its files alone, in milliseconds, without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sw_audit.checkpoint.formats import (
    ADAPTER,
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    GGUF,
    find_base,
    find_format,
    find_gguf,
    is_adapter,
    require_format,
)
from sw_audit.checkpoint.headers import FLOATS, DamagedFileError, TensorHeader, read_header
from sw_audit.checkpoint.source import find_folder, quote_source, refuse_pickle
from sw_audit.errors import BrokenWeightsError, CheckpointError
from sw_audit.policy.policy import ModelPolicy

_WEIGHTS, _PICKLE = "model.safetensors", "pytorch_model.bin"
_INDEX_SUFFIX = ".index.json"
_TOKENIZER_STARTS = ("tokenizer", "tokenization", "vocab", "spiece", "sentencepiece", "tekken")
_AGAIN = "download or copy the checkpoint again"
_DECODER = "give a decoder-only language model"


def inspect_checkpoint(wanted: ModelPolicy) -> None:
    """Complain about a checkpoint as far as its files and the headers of its weights allow.

    A hub repository is not downloaded for this; it is inspected when it is opened.

    Args:
        wanted: The model.

    Raises:
        CheckpointError: If it cannot be opened, as one line.
    """
    folder = find_folder(wanted, fetch=False)
    if folder is not None:
        inspect_folder(folder, wanted)


def inspect_folder(folder: Path, wanted: ModelPolicy) -> dict[str, Any]:
    """Inspect a checkpoint's folder.

    Args:
        folder: Where its files are.
        wanted: What it is called, and what is allowed.

    Returns:
        Its config.json; of an adapter and of a GGUF file, which have none, nothing.

    Raises:
        CheckpointError: If it cannot be opened, as one line.
    """
    try:
        return _inspect(folder, wanted)
    except DamagedFileError as error:
        raise BrokenWeightsError(quote_source(wanted), error.found, error.remedy, where=error.where) from error
    except OSError as error:
        found = f"{Path(error.filename or folder).name} cannot be read ({error.strerror})"
        raise CheckpointError(quote_source(wanted), found, "check the file and its permissions") from error


def _inspect(folder: Path, wanted: ModelPolicy) -> dict[str, Any]:
    if not any(folder.iterdir()):
        raise CheckpointError(quote_source(wanted), "the folder is empty", "give the folder of a checkpoint")
    if is_adapter(folder):
        _inspect_adapter(folder, wanted)
        return {}
    if find_gguf(folder, wanted) is not None:
        require_format(GGUF, wanted)
        return {}
    config = _read_config(folder, wanted)
    stored = find_format(config)
    if stored is not None:
        require_format(stored, wanted)
    headers = _read_headers(folder, wanted)
    _check_index(folder, headers, wanted)
    if stored is None:
        _check_codes(headers, wanted)
    _check_kind(config, wanted)
    if not has_tokenizer(folder):
        remedy = "put the tokenizer of the model it was made from beside the weights"
        raise CheckpointError(quote_source(wanted), "there is no tokenizer in the folder", remedy)
    return config


def list_weight_files(folder: Path, wanted: ModelPolicy) -> tuple[Path, ...]:
    """List the weight files that opening a checkpoint reads.

    Args:
        folder: Where its files are.
        wanted: What it is called, and whether pickles are allowed.

    Raises:
        CheckpointError: If there are none, one is missing, or there are only pickles and these are not allowed.
    """
    if is_adapter(folder):
        return (folder / ADAPTER_WEIGHTS,)
    if (gguf := find_gguf(folder, wanted)) is not None:
        return (folder / gguf,)
    safe = _list_stored(folder, _WEIGHTS, wanted)
    if safe:
        return safe
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    if pickles and not wanted.allow_pickle:
        raise refuse_pickle(wanted, pickles)
    stored = _list_stored(folder, _PICKLE, wanted)
    if stored:
        return stored
    others = sorted(path.name for pattern in ("*.gguf", "*.safetensors", "*.bin") for path in folder.glob(pattern))
    found = f"no {_WEIGHTS}, with or without an index" + (f", only {others[0]}" if others else "")
    remedy = "give a checkpoint in the layout of transformers" if others else _AGAIN
    raise CheckpointError(quote_source(wanted), found, remedy)


def _read_headers(folder: Path, wanted: ModelPolicy) -> dict[str, dict[str, TensorHeader]]:
    files = list_weight_files(folder, wanted)
    return {path.name: read_header(path) for path in files if path.suffix == ".safetensors"}


def _inspect_adapter(folder: Path, wanted: ModelPolicy) -> None:
    """Inspect an adapter's own files, and its base as far as it is here."""
    require_format(ADAPTER, wanted)
    base = find_base(folder, wanted)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        others = sorted(path.name for path in folder.glob("adapter_model.*"))
        found = f"there is no {ADAPTER_WEIGHTS}" + (f", only {others[0]}" if others else "")
        remedy = "store the adapter as safetensors" if others else _AGAIN
        raise BrokenWeightsError(quote_source(wanted), found, remedy, where=ADAPTER_WEIGHTS)
    _read_headers(folder, wanted)
    inspect_checkpoint(base)


def _list_stored(folder: Path, name: str, wanted: ModelPolicy) -> tuple[Path, ...]:
    """List a checkpoint's one file, or the shards that its index names."""
    if (folder / name).exists():
        return (folder / name,)
    if not (folder / (name + _INDEX_SUFFIX)).exists():
        return ()
    shards = sorted(set(_read_index(folder, name + _INDEX_SUFFIX, wanted).values()))
    for shard in shards:
        # An index that comes with a checkpoint must not reach out of its folder.
        if Path(shard).name != shard:
            raise _refuse_index(wanted, f"the index names {shard!r}, outside of the folder", shard)
        if not (folder / shard).exists():
            raise _refuse_index(wanted, f"shard {shard} is missing", shard)
    return tuple(folder / shard for shard in shards)


def _read_index(folder: Path, name: str, wanted: ModelPolicy) -> dict[str, str]:
    try:
        index = _read_json(folder / name, wanted)
    except CheckpointError as error:
        raise _refuse_index(wanted, error.found, name) from error
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(shard, str) for shard in shards.values()):
        raise _refuse_index(wanted, f"{name} has no map from tensors to files", name)
    return shards


def _refuse_index(wanted: ModelPolicy, found: str, where: str) -> BrokenWeightsError:
    return BrokenWeightsError(quote_source(wanted), found, _AGAIN, kind="shard-index", where=where)


def _read_config(folder: Path, wanted: ModelPolicy) -> dict[str, Any]:
    if (folder / ADAPTER_CONFIG).exists():
        found = "there is an adapter beside the model, and transformers would put it on without being asked"
        raise CheckpointError(quote_source(wanted), found, "move one of the two into a folder of its own")
    if not (folder / "config.json").exists():
        found = "there is no config.json in the folder"
        raise CheckpointError(quote_source(wanted), found, "give a checkpoint in the layout of transformers")
    config = _read_json(folder / "config.json", wanted)
    if not isinstance(config.get("model_type"), str):
        raise CheckpointError(quote_source(wanted), "config.json names no model_type", _AGAIN)
    return config


def _read_json(path: Path, wanted: ModelPolicy) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(quote_source(wanted), f"{path.name} is not JSON ({error})", _AGAIN) from error
    if not isinstance(content, dict):
        raise CheckpointError(quote_source(wanted), f"{path.name} is not a JSON object", _AGAIN)
    return content


def _check_index(folder: Path, headers: dict[str, dict[str, TensorHeader]], wanted: ModelPolicy) -> None:
    """Hold what the index promises against what the shards hold."""
    if _WEIGHTS in headers or not headers:
        return
    for tensor, shard in _read_index(folder, _WEIGHTS + _INDEX_SUFFIX, wanted).items():
        if tensor not in headers[shard]:
            found = f"the index promises tensor {tensor!r} in {shard}, which does not hold it"
            raise _refuse_index(wanted, found, tensor)


def _check_codes(headers: dict[str, dict[str, TensorHeader]], wanted: ModelPolicy) -> None:
    """Refuse codes that nothing says how to read: read as numbers they would mean nothing."""
    remedy = "put `quantization_config` back into config.json, or give the checkpoint that it was made from"
    for header in headers.values():
        for name, tensor in header.items():
            if name.endswith("weight") and len(tensor.shape) > 1 and tensor.dtype not in FLOATS:
                found = f"tensor {name!r} is stored as {tensor.dtype}, and config.json has no quantization_config"
                kind = "codes-without-config"
                raise BrokenWeightsError(quote_source(wanted), found, remedy, kind=kind, where=name)


def _check_kind(config: dict[str, Any], wanted: ModelPolicy) -> None:
    """Refuse models that say in their configuration that they are no decoders."""
    kind = config["model_type"]
    if config.get("is_encoder_decoder"):
        raise CheckpointError(quote_source(wanted), f"{kind} is an encoder-decoder model", _DECODER)
    architectures = config.get("architectures") or ()
    if any(str(name).endswith("ForMaskedLM") for name in architectures) and not config.get("is_decoder"):
        raise CheckpointError(quote_source(wanted), f"{kind} is an encoder-only model", _DECODER)


def has_tokenizer(folder: Path) -> bool:
    """Tell whether a folder holds a tokenizer."""
    return any(_is_tokenizer(path.name) for path in folder.iterdir())


def _is_tokenizer(name: str) -> bool:
    return (name.startswith(_TOKENIZER_STARTS) and name != "tokenizer_config.json") or name.endswith(
        (".tiktoken", ".model")
    )
