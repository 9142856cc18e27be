"""Opening a checkpoint that need not fit into memory: each decoder layer is there only while it runs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from sw_audit.checkpoint.families import find_decoder_layers, require_down_projections
from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checkpoint.inspection import inspect_folder
from sw_audit.checkpoint.loading import (
    check_loading,
    choose_class,
    load_tokenizer,
    one_line_refusals,
    read_config,
)
from sw_audit.checkpoint.mapped import MappedFiles, UnknownDtypeError
from sw_audit.checkpoint.meta_model import build_meta_model
from sw_audit.checkpoint.opening import (
    Checkpoint,
    check_vocabulary,
    digest_parts,
    find_device,
    identify_model,
)
from sw_audit.checkpoint.paging import Pager, empty_model
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
    if not folder.format.uses_config or folder.quantization:
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
    slots = empty_model(model)
    # What is not stored is made when the model is made, and stays.
    for module in model.modules():
        for key, buffer in module._buffers.items():
            if buffer is not None and not buffer.is_meta:
                module._buffers[key] = buffer.to(device)
    pager = Pager(files, slots, policy, device, on_layer)
    return Checkpoint(model, tokenizer, identity, pager.attach(layers))


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
