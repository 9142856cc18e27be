"""Asking transformers for a model: in silence, and with each of its many refusals turned into one line."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sw_audit.checkpoint.families import refuse_other_architectures
from sw_audit.checkpoint.formats import find_format, find_gguf
from sw_audit.checkpoint.inspection import has_tokenizer, list_weight_files
from sw_audit.checkpoint.packed import choose_settings
from sw_audit.checkpoint.source import quote_source
from sw_audit.errors import BrokenWeightsError, CheckpointError
from sw_audit.policy.policy import ModelPolicy

# Characters of a library's own words that fit into one line with the rest.
_LONGEST_REASON = 160
_ACCELERATORS = ("GPU", "CUDA", "XPU", "accelerator")


def read_config(folder: Path, declared: dict[str, Any], wanted: ModelPolicy) -> Any:
    """Read the configuration, and refuse what needs code of its own or is no decoder.

    Args:
        folder: Where the files are.
        declared: What config.json says; nothing of a GGUF file, which says it itself.
        wanted: The model.

    Raises:
        CheckpointError: If transformers does not know such a model, or it is no decoder.
    """
    import transformers
    from transformers import CONFIG_MAPPING, AutoConfig

    gguf = find_gguf(folder, wanted)
    kind = declared.get("model_type")
    if gguf is None and kind not in CONFIG_MAPPING:
        if not declared.get("auto_map"):
            found = f"model_type {kind!r} is unknown to transformers {transformers.__version__}"
            raise CheckpointError(quote_source(wanted), found, "correct config.json, or upgrade transformers")
        if not wanted.trust_remote_code:
            raise _refuse_code(wanted)
    with one_line_refusals(wanted, gguf or "config.json"):
        config = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=wanted.trust_remote_code, **_name_gguf(gguf)
        )
    refuse_other_architectures(config, wanted.source)
    return config


def load_tokenizer(folder: Path, wanted: ModelPolicy) -> Any:
    """Load the tokenizer.

    Raises:
        CheckpointError: If there is none that knows more than its special tokens.
    """
    from transformers import AutoTokenizer

    # A GGUF file holds a tokenizer too; files beside it are the model's own and nearer to the truth.
    gguf = None if has_tokenizer(folder) else find_gguf(folder, wanted)
    with one_line_refusals(wanted, "its tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=wanted.trust_remote_code, **_name_gguf(gguf)
        )
        # Where files are missing the library makes up a tokenizer that knows its special tokens only.
        words = len(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens))
    if not words:
        found = "its tokenizer is empty"
        raise CheckpointError(quote_source(wanted), found, "put the tokenizer's files beside the weights")
    return tokenizer


def load_model(folder: Path, config: Any, device: torch.device, wanted: ModelPolicy) -> Any:
    """Load the weights, once, and refuse whatever did not fit.

    Args:
        folder: Where the files are.
        config: What `read_config` returned.
        device: Where the model goes.
        wanted: The model.

    Raises:
        CheckpointError: If the model would not consist of exactly the tensors of its checkpoint.
    """
    auto_class = choose_class(config, wanted)
    safe = all(path.suffix == ".safetensors" for path in list_weight_files(folder, wanted))
    stored = find_format(config.to_dict())
    with one_line_refusals(wanted, "its weights"):
        model, info = auto_class.from_pretrained(
            folder,
            config=config,
            dtype="auto" if stored is not None and stored.dequantized else wanted.dtype,
            use_safetensors=safe,
            local_files_only=True,
            trust_remote_code=wanted.trust_remote_code,
            # Mismatches come back as a list of names and shapes instead of a table to print.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **_name_gguf(find_gguf(folder, wanted)),
            **choose_settings(stored, config, device),
        )
        check_loading(info, wanted)
        if stored is None and device.type != "cpu":
            model.to(device)
    return model


def _name_gguf(name: str | None) -> dict[str, str]:
    return {} if name is None else {"gguf_file": name}


def choose_class(config: Any, wanted: ModelPolicy) -> Any:
    """Choose how to open a model: as its configuration says, else as text only, else with what it sees.

    Returns:
        One of the library's Auto classes.

    Raises:
        CheckpointError: If there is no way.
    """
    from transformers import AutoModelForCausalLM

    declared = set(getattr(config, "architectures", None) or ())
    able = _list_classes(config)
    for auto, own in able:
        if _name_class(own) in declared:
            return auto
    if able:
        return able[0][0]
    if "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        if not wanted.trust_remote_code:
            raise _refuse_code(wanted)
        return AutoModelForCausalLM
    found = f"{config.model_type} is not a language model that transformers can open"
    raise CheckpointError(quote_source(wanted), found, "give a decoder-only language model")


def choose_own_class(config: Any, wanted: ModelPolicy) -> Any:
    """Return the model's own class, as `choose_class` would choose it; `None` if the library has none for it.

    Raises:
        CheckpointError: If there is no way to open it.
    """
    chosen = choose_class(config, wanted)
    return next((own for auto, own in _list_classes(config) if auto is chosen), None)


def _list_classes(config: Any) -> list[tuple[Any, Any]]:
    """List the Auto classes that can open a model, each with the class that it opens it as."""
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
    )

    kinds = [
        (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING),
        (AutoModelForImageTextToText, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING),
    ]
    return [(auto, mapping[type(config)]) for auto, mapping in kinds if type(config) in mapping]


def _name_class(found: Any) -> str:
    name: str = found.__name__
    return name


def check_loading(info: Mapping[str, Any], wanted: ModelPolicy) -> None:
    """Refuse a model that does not consist of exactly the tensors of its checkpoint.

    Args:
        info: What the library says of loading it.
        wanted: The model.

    Raises:
        BrokenWeightsError: Naming one tensor that is missing, left over or of another shape.
    """
    asked, remedy = quote_source(wanted), "compare config.json with the weights, or download the checkpoint again"
    for name, stored, expected in sorted(info["mismatched_keys"]):
        found = f"tensor {name!r} has shape {list(stored)}, config.json asks for {list(expected)}"
        found += _count_others(info["mismatched_keys"])
        raise BrokenWeightsError(asked, found, remedy, kind="mismatched-tensor", where=name)
    keys = (
        ("missing_keys", "is missing", "missing-tensor"),
        ("unexpected_keys", "has no place in the model", "unexpected-tensor"),
    )
    for key, state, kind in keys:
        for name in sorted(info[key]):
            found = f"tensor {name!r} {state}{_count_others(info[key])}"
            raise BrokenWeightsError(asked, found, remedy, kind=kind, where=name)
    for message in info["error_msgs"]:
        raise BrokenWeightsError(asked, _first_line(message), remedy, kind="loading-message")


@contextmanager
def one_line_refusals(wanted: ModelPolicy, what: str) -> Iterator[None]:
    """Turn whatever the library raises into one line.

    Raises:
        CheckpointError: In place of it.
    """
    try:
        yield
    except CheckpointError:
        raise
    except ImportError as error:
        raise CheckpointError(quote_source(wanted), _first_line(error), "install the missing package") from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        found = f"{what} do not fit into the memory of {wanted.device}"
        raise CheckpointError(quote_source(wanted), found, "choose a smaller dtype or another device") from error
    except Exception as error:  # the library raises nearly everything for a checkpoint it cannot read
        if "trust_remote_code" in str(error):
            raise _refuse_code(wanted) from error
        found = f"transformers cannot read {what} ({type(error).__name__}: {_first_line(error)})"
        remedy = "repair or replace the checkpoint"
        # Some formats want an accelerator: that is no flaw of the weights.
        if "weights" in what and not any(word in str(error) for word in _ACCELERATORS):
            raise BrokenWeightsError(quote_source(wanted), found, remedy, where="") from error
        raise CheckpointError(quote_source(wanted), found, remedy) from error


def _refuse_code(wanted: ModelPolicy) -> CheckpointError:
    remedy = "read that code, then set trust_remote_code = true if you trust it"
    return CheckpointError(quote_source(wanted), "it needs code that comes with the checkpoint", remedy)


def _count_others(names: Collection[Any]) -> str:
    return f" (and {len(names) - 1} more like it)" if len(names) > 1 else ""


def _first_line(error: object) -> str:
    # Further sentences advise calls that nobody here can make.
    line = (str(error).strip().splitlines() or ["no reason given"])[0].partition(". ")[0]
    return line[:_LONGEST_REASON].rstrip(". ")
