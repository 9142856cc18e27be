"""Asking transformers for a model: in silence, and with each of its many refusals turned into one line."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
)
from transformers.initialization import no_init_weights

from sw_audit.checkpoint.bounds import refuse_excess
from sw_audit.checkpoint.dtype import choose_dtype
from sw_audit.checkpoint.effective import FLOATING_DTYPES, find_module_device, find_sizes, is_opaque
from sw_audit.checkpoint.families import refuse_other_architectures
from sw_audit.checkpoint.folder import CheckpointFolder, inspect_folder, quote_source
from sw_audit.checkpoint.headers import FLOATS, SIZES, DamagedFileError
from sw_audit.checkpoint.lint_headers import compare_with_config
from sw_audit.checkpoint.start import SHORT_TEXT
from sw_audit.checkpoint.stored import open_stored
from sw_audit.checkpoint.suppress_output import quiet_libraries, suppress_output
from sw_audit.errors import BrokenWeightsError, CheckpointError
from sw_audit.policy.model_policy import ModelPolicy

# Characters of a library's own words that fit into one line with the rest.
_LONGEST_REASON = 160
_ACCELERATORS = ("GPU", "CUDA", "XPU", "accelerator")
# No dtype that a model computes in takes fewer bytes.
_LEAST_BYTES = 2
# Of what is stored in fewest bits four weights are in a byte.
_MOST_PER_BYTE = 4
# Up to so many times what the files hold, what does not fit is told by name and shape; tied weights count twice.
_TIMES = 4
_AGAIN = "quantize again, or take an earlier checkpoint"
_WRITER = "write the checkpoint again with the library that quantized it"


def load(folder: CheckpointFolder, device: torch.device) -> tuple[Any, Any, tuple[CheckpointFolder, ...]]:
    """Load a model in whatever format its weights are stored, and its tokenizer.

    Returns:
        Model, tokenizer, and the folders that the weights are from: its own first, then that of an adapter's base.

    Raises:
        CheckpointError: If it cannot be loaded.
        BrokenWeightsError: If it would not consist of exactly the tensors of its files, or of anything not finite.
    """
    inspect_folder(folder)
    refuse_disagreement(folder)
    if (base := folder.format.find_base(folder)) is not None:
        model, tokenizer, below = load(CheckpointFolder.require(base), device)
        with one_line_refusals(folder, "its adapter"), suppress_output():
            info = model.load_adapter(str(folder.path))
            kinds = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
            check_loading({kind: getattr(info, kind, None) or () for kind in kinds}, folder)
        if folder.has_tokenizer:
            tokenizer = load_tokenizer(folder)
    else:
        with folder.format.reading():
            config, tokenizer, below = read_config(folder), load_tokenizer(folder), ()
            model = _load_model(folder, config, device)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        # What a library has packed into a tensor of its own is tried out instead.
        if type(tensor) in (torch.Tensor, nn.Parameter) and tensor.dtype in FLOATING_DTYPES:
            refuse_non_finite(name, tensor, folder.policy)
    _try_packed(model, folder)
    return model, tokenizer, (folder, *below)


def import_models() -> None:
    """Import what transformers makes models with, which it does by itself when the first is opened."""
    with quiet_libraries(), suppress_output():
        _ = transformers.PreTrainedModel


def read_config(folder: CheckpointFolder) -> Any:
    """Read the configuration; CheckpointError if it needs code of its own, is unknown or is no decoder."""
    policy, options = folder.policy, folder.format.choose_file_options(folder)
    kind = folder.declared.get("model_type")
    if not options and kind not in CONFIG_MAPPING:
        if not folder.declared.get("auto_map"):
            found = f"model_type {kind!r} is unknown to transformers {transformers.__version__}"
            raise CheckpointError(folder.asked, found, "correct config.json, or upgrade transformers")
        if not policy.trust_remote_code:
            raise _refuse_code(folder)
    with one_line_refusals(folder, next(iter(options.values()), "config.json")):
        config = AutoConfig.from_pretrained(
            folder.path, local_files_only=True, trust_remote_code=policy.trust_remote_code, **options
        )
    refuse_other_architectures(config, policy.source)
    return config


def load_tokenizer(folder: CheckpointFolder) -> Any:
    """Load the tokenizer; CheckpointError if there is none that knows more than its special tokens."""
    # A GGUF file holds a tokenizer too; files beside it are the model's own and nearer to the truth.
    options = {} if folder.has_tokenizer else folder.format.choose_file_options(folder)
    with one_line_refusals(folder, "its tokenizer"), folder.alone() as place:
        tokenizer = AutoTokenizer.from_pretrained(
            place, local_files_only=True, trust_remote_code=folder.policy.trust_remote_code, **options
        )
        # Where files are missing the library makes up a tokenizer that knows its special tokens only.
        words = len(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens))
        # One that loads may still fail at its first text, such as for want of its unknown token.
        if isinstance(tokenizer.model_max_length, int | float):
            tokenizer.encode(SHORT_TEXT)
    if not words:
        found = "its tokenizer is empty"
        raise CheckpointError(folder.asked, found, "put the tokenizer's files beside the weights")
    longest = tokenizer.model_max_length
    if not isinstance(longest, int | float):
        found = f"tokenizer_config.json says that model_max_length is {longest!r:.40}"
        raise CheckpointError(folder.asked, found, "give a number of tokens there, or leave it out")
    return tokenizer


def choose_class(config: Any, folder: CheckpointFolder) -> tuple[Any, Any]:
    """Choose how to open a model: as its configuration says, else as text only, else with what it sees.

    Returns:
        One of the library's Auto classes, and the class that it opens the model as; `None` for that if the
        library has none.
    """
    declared = set(getattr(config, "architectures", None) or ())
    kinds: list[tuple[Any, Any]] = [
        (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING),
        (AutoModelForImageTextToText, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING),
    ]
    able = [(auto, mapping[type(config)]) for auto, mapping in kinds if type(config) in mapping]
    if able:
        return next((pair for pair in able if pair[1].__name__ in declared), able[0])
    if "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        if not folder.policy.trust_remote_code:
            raise _refuse_code(folder)
        return AutoModelForCausalLM, None
    found = f"{config.model_type} is not a language model that transformers can open"
    raise CheckpointError(folder.asked, found, "give a decoder-only language model")


def refuse_larger(own_class: Any, config: Any, folder: CheckpointFolder) -> None:
    """Raise BrokenWeightsError where a model would have far more parameters than the files hold.

    The library makes what does not fit at random, however large. `own_class` may be `None`, of which nothing is
    known.
    """
    if own_class is None or not all(path.suffix == ".safetensors" for path in folder.weight_files):
        return
    stored = [header for headers in folder.headers.values() for header in headers.values()]
    entries = sum(
        math.prod(header.shape) * (1 if header.dtype in FLOATS else _MOST_PER_BYTE * SIZES.get(header.dtype, 1))
        for header in stored
    )
    try:
        with suppress_output(), torch.device("meta"), no_init_weights():
            asked = sum(parameter.numel() for parameter in own_class(copy.deepcopy(config)).parameters())
    except Exception:  # of which loading says why
        return
    if stored and asked > _TIMES * entries:
        found = f"config.json asks for a model of {asked} parameters, and the files hold {entries} at most"
        remedy = "compare config.json with the weights, or download the checkpoint again"
        raise BrokenWeightsError(folder.asked, found, remedy, kind="mismatched-tensor", where="config.json")


def check_loading(info: Mapping[str, Any], folder: CheckpointFolder) -> None:
    """Raise BrokenWeightsError unless a model consists of exactly the tensors of its checkpoint.

    `info` is what the library says of loading it.
    """
    asked, remedy = folder.asked, "compare config.json with the weights, or download the checkpoint again"
    flaws = (
        ("mismatched-tensor", [(name, _compare_shapes(*shapes)) for name, *shapes in info["mismatched_keys"]]),
        ("missing-tensor", [(name, "is missing") for name in info["missing_keys"]]),
        ("unexpected-tensor", [(name, "has no place in the model") for name in info["unexpected_keys"]]),
    )
    for kind, tensors in flaws:
        if tensors:
            name, state = min(tensors)
            others = f" (and {len(tensors) - 1} more like it)" if len(tensors) > 1 else ""
            raise BrokenWeightsError(asked, f"tensor {name!r} {state}{others}", remedy, kind=kind, where=name)
    for message in info["error_msgs"]:
        raise BrokenWeightsError(asked, _first_line(message), remedy, kind="loading-message")


def refuse_non_finite(name: str, tensor: Tensor, policy: ModelPolicy) -> None:
    """Raise BrokenWeightsError if a floating tensor holds NaN or an infinity."""
    if tensor.numel() == 0 or not tensor.is_floating_point():
        return
    # One pass without a mask as large as the tensor: a NaN or an infinity always reaches an extreme.
    low, high = torch.aminmax(tensor.detach())
    if not torch.isfinite(low + high * 0):
        found = f"tensor {name!r} holds {'NaN' if torch.isnan(low) else 'an infinity'}"
        remedy = "repair the weights or take an earlier checkpoint"
        raise BrokenWeightsError(quote_source(policy), found, remedy, kind="non-finite", where=name)


def count_parameters(model: nn.Module) -> int:
    """Count a model's parameters, those that are packed as many as they stand for, scales and codebooks not."""
    count, inside = 0, set[int]()
    for module in model.modules():
        # What an opaque module is made of, such as the matrices of an adapter, is counted with it.
        if id(module) not in inside and is_opaque(module):
            rows, columns = find_sizes(module) or (0, 0)
            bias = getattr(module, "bias", None)
            count += rows * columns + (bias.numel() if isinstance(bias, torch.Tensor) else 0)
            inside |= {id(held) for part in module.modules() for held in (part, *part.parameters(recurse=False))}
    return count + sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in inside)


@contextmanager
def one_line_refusals(folder: CheckpointFolder, what: str) -> Iterator[None]:
    """Turn whatever the library raises into a CheckpointError of one line."""
    asked = folder.asked
    try:
        yield
    except CheckpointError:
        raise
    except ImportError as error:
        raise CheckpointError(asked, _first_line(error), "install the missing package") from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        found = f"{what} do not fit into the memory of {folder.policy.device}"
        raise CheckpointError(asked, found, "choose a smaller dtype or another device") from error
    except Exception as error:  # the library raises nearly everything for a checkpoint it cannot read
        if "trust_remote_code" in str(error):
            raise _refuse_code(folder) from error
        found = f"transformers cannot read {what} ({type(error).__name__}: {_first_line(error)})"
        remedy = "repair or replace the checkpoint"
        # Some formats want an accelerator: that is no flaw of the weights.
        if "weights" in what and not any(word in str(error) for word in _ACCELERATORS):
            raise BrokenWeightsError(asked, found, remedy, where="") from error
        raise CheckpointError(asked, found, remedy) from error


def _load_model(folder: CheckpointFolder, config: Any, device: torch.device) -> Any:
    known, policy, plain = folder.format, folder.policy, folder.is_plain
    auto_class, own_class = choose_class(config, folder)
    refuse_larger(own_class, config, folder)
    dtype = choose_dtype(folder)
    options = {"dtype": dtype, **known.choose_loading_options(folder, config, str(device))}
    if folder.file is not None and known.uses_config:
        config.transformers_weights = folder.file.name
    with one_line_refusals(folder, "its weights"), suppress_output(unless=plain):
        model, info = auto_class.from_pretrained(
            folder.path,
            config=config,
            use_safetensors=all(path.suffix == ".safetensors" for path in folder.weight_files),
            local_files_only=True,
            trust_remote_code=policy.trust_remote_code,
            # Mismatches come back as a list of names and shapes instead of a table to print.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
        check_loading(info, folder)
        if "device_map" not in options and device.type != "cpu":
            model.to(device)
    if plain:
        return model
    with one_line_refusals(folder, "its quantized weights"), suppress_output():
        known.finish_(model)
        if known.dequantized:
            _finish_dequantized_(model, folder, dtype)
        elif not any(is_opaque(module) for module in model.modules()):
            found = f"config.json says {known.method}, and no module of the model is quantized"
            kind = "config-without-codes"
            raise BrokenWeightsError(folder.asked, found, _WRITER, kind=kind, where="config.json")
    return model


def refuse_disagreement(folder: CheckpointFolder) -> None:
    """Raise BrokenWeightsError where configuration and headers disagree so much that it need not be tried."""
    try:
        stored = open_stored(folder)
    except DamagedFileError as error:
        if folder.is_plain:  # a pickle, of which transformers says why
            return
        raise BrokenWeightsError(folder.asked, error.found, error.remedy, where=error.where) from error
    refuse_excess(folder, stored.headers)
    if folder.is_plain or not folder.format.uses_config:
        return
    for flaw in compare_with_config(folder, stored):
        if flaw.serious:
            found = flaw.found if flaw.where == "config.json" else f"tensor {flaw.where!r}: {flaw.found}"
            remedy = f"{_WRITER}, config.json included"
            raise BrokenWeightsError(folder.asked, found, remedy, kind=flaw.kind, where=flaw.where)


def _finish_dequantized_(model: Any, folder: CheckpointFolder, dtype: str) -> None:
    """See that no codes are left over, and convert the model to the dtype that was chosen."""
    for name, parameter in model.named_parameters():
        if parameter.dtype.itemsize < _LEAST_BYTES:
            found = f"tensor {name!r} has codes and no scales"
            raise BrokenWeightsError(folder.asked, found, _AGAIN, kind="missing-tensor", where=name)
    if dtype != "auto":
        # What a model makes by itself, such as the frequencies of its positions, stays as precise as it was made.
        for tensor in model.state_dict(keep_vars=True).values():
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(getattr(torch, dtype))


def _try_packed(model: nn.Module, folder: CheckpointFolder) -> None:
    """Refuse packed weights that stand for anything not finite: every opaque module is called once."""
    dtype: torch.dtype = getattr(model, "dtype", torch.float32)
    for name, module in model.named_modules():
        if not is_opaque(module):
            continue
        _, columns = find_sizes(module) or (0, 0)
        device = find_module_device(module)
        # On some machines libraries have kernels for some shapes only.
        with torch.no_grad(), one_line_refusals(folder, f"module {name!r}"):
            output = module.forward(torch.ones(1, 2, columns, dtype=dtype, device=device))
        if not bool(output.isfinite().all()):
            found = f"module {name!r} gives outputs that are not finite"
            raise BrokenWeightsError(folder.asked, found, _AGAIN, kind="non-finite", where=name)


def _refuse_code(folder: CheckpointFolder) -> CheckpointError:
    remedy = "read that code, then set trust_remote_code = true if you trust it"
    return CheckpointError(folder.asked, "it needs code that comes with the checkpoint", remedy)


def _compare_shapes(stored: Sequence[int], expected: Sequence[int]) -> str:
    return f"has shape {list(stored)}, config.json asks for {list(expected)}"


def _first_line(error: object) -> str:
    # Further sentences advise calls that nobody here can make.
    line = (str(error).strip().splitlines() or ["no reason given"])[0].partition(". ")[0]
    return line[:_LONGEST_REASON].rstrip(". ")
