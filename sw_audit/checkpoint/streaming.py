"""Opening a checkpoint that need not fit into memory: each decoder layer is there only while it runs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.initialization import no_init_weights

from sw_audit.checkpoint.families import find_decoder_layers, require_down_projections
from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checkpoint.inspection import inspect_folder
from sw_audit.checkpoint.lazy_tensor import LazyTensor
from sw_audit.checkpoint.loading import (
    check_loading,
    choose_class,
    load_tokenizer,
    one_line_refusals,
    read_config,
)
from sw_audit.checkpoint.opening import (
    Checkpoint,
    check_vocabulary,
    digest_parts,
    find_device,
    identify_model,
)
from sw_audit.checkpoint.paging import MappedFiles, Pager, UnknownDtypeError, empty_model_
from sw_audit.checkpoint.suppress_output import quiet_libraries
from sw_audit.policy.model_policy import ModelPolicy


class CannotStreamError(Exception):
    """A checkpoint that can be opened as a whole only, and why."""


def open_streaming(
    policy: ModelPolicy, *, digest: bool = True, on_layer: Callable[[int], None] = lambda _: None
) -> Checkpoint:
    """Open a model without reading its weights; each decoder layer is read when it runs, every time it runs.

    The library loads the model once, from tensors that have a shape and no data. What it does to them (other
    names, experts stacked into one parameter, another dtype, ties) is noted, and done again on each layer's
    tensors when the layer runs. So the same checks hold as in `open_checkpoint`, but weights are checked for
    being finite only as far as they are read.

    Args:
        policy: The model: path or hub id, revision, dtype, device.
        digest: Whether to digest the files, which reads all of them.
        on_layer: Told the index of each decoder layer that has run.

    Raises:
        CheckpointError: If it cannot be opened as it should be; also later, from a layer that is not finite.
        CannotStreamError: If it can be opened as a whole only.
    """
    folder = CheckpointFolder.require(policy)
    inspect_folder(folder)
    device = find_device(policy)
    if any(path.suffix != ".safetensors" for path in folder.weight_files):
        raise CannotStreamError("its weights are no safetensors")
    if not folder.is_plain:
        raise CannotStreamError("its weights are packed, or an adapter is on them")
    with quiet_libraries():
        config = read_config(folder)
        tokenizer = load_tokenizer(folder)
        if policy.trust_remote_code and getattr(config, "auto_map", None):
            raise CannotStreamError("it runs code of its own")
        files = MappedFiles(folder)
        model = _build_model(files, config, folder)
    model.eval().requires_grad_(False)
    check_vocabulary(model, tokenizer, policy)
    layers = find_decoder_layers(model)
    require_down_projections(layers, policy.source)
    identity = identify_model(model, layers, policy, digest_parts([folder]) if digest else ())
    slots = empty_model_(model)
    # What is not stored is made when the model is made, and stays.
    for module in model.modules():
        for key, buffer in module._buffers.items():
            if buffer is not None and not buffer.is_meta:
                module._buffers[key] = buffer.to(device)
    pager = Pager(files, slots, policy, device, on_layer)
    return Checkpoint(model, tokenizer, identity, pager.attach(layers))


def build_meta_model(own_class: Any, config: Any, dtype: str, stored: Mapping[str, LazyTensor]) -> Any:
    """Make a model whose tensors are the stored ones, if nothing needs to be done to them but to convert them.

    That is so for a dense model of one part, whose tensors have the names and shapes that it asks for (of two
    that are tied, files hold one, as a rule), none of them kept in a wider dtype. The library's own loading gives
    the same, and takes longer: it reads the rules of all families first.

    Args:
        own_class: The model's class.
        config: Its configuration.
        dtype: Which dtype to have it in; `auto` is what the configuration says.
        stored: What the files hold, by name.

    Returns:
        The model, its parameters and persistent buffers `LazyTensor`; `None` where that is not so.
    """
    target = config.dtype if dtype == "auto" else getattr(torch, dtype)
    if not isinstance(target, torch.dtype) or config.get_text_config() is not config:
        return None
    with _parameters_without_data(), no_init_weights():
        model = own_class._from_config(config, dtype=target)
    asked = {name: tuple(tensor.shape) for name, tensor in model.state_dict(keep_vars=True).items()}
    if asked != {name: tuple(tensor.shape) for name, tensor in stored.items()}:
        return None
    kept = model._keep_in_fp32_modules | model._keep_in_fp32_modules_strict
    if kept or any(tensor.ndim > 2 for tensor in stored.values()):
        return None
    for prefix, module in model.named_modules():
        for held in (module._parameters, module._buffers):
            for key, tensor in held.items():
                name = f"{prefix}.{key}" if prefix else key
                if tensor is not None and name in stored:
                    lazy = stored[name]
                    held[key] = lazy.to(target) if lazy.is_floating_point() else lazy
    return model


def _build_model(files: MappedFiles, config: Any, folder: CheckpointFolder) -> Any:
    """Make the model without data; where that is no simple matter the library does, and says what does not fit."""
    try:
        tensors = files.list_lazy()
    except UnknownDtypeError as error:
        raise CannotStreamError(str(error)) from error
    _, own_class = choose_class(config, folder)
    if own_class is None:
        raise CannotStreamError("it runs code of its own")
    with one_line_refusals(folder, "its weights"):
        # The library writes into a configuration that it is given.
        model = build_meta_model(own_class, copy.deepcopy(config), folder.policy.dtype, tensors)
        if model is not None:
            return model
        model, info = own_class.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            dtype=folder.policy.dtype,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        check_loading(info, folder)
    return model


@contextmanager
def _parameters_without_data() -> Iterator[None]:
    """Let every parameter that is made have no data; buffers that are not stored have theirs."""
    register = nn.Module.register_parameter

    def register_empty(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and not param.is_meta:
            param = nn.Parameter(param.to("meta"), requires_grad=param.requires_grad)
        register(module, name, param)

    # transformers has no way to make parameters without data and buffers with; accelerate, which is optional, does
    # it so, too.
    setattr(nn.Module, "register_parameter", register_empty)  # noqa: B010 - assigning is what mypy refuses
    try:
        yield
    finally:
        setattr(nn.Module, "register_parameter", register)  # noqa: B010
