"""A model that is in memory already, taken for an open checkpoint: nothing is copied, and all stays as it is.

It may be in the middle of being trained. So everything about it that code can change is noted before and put
back afterwards: each module's attributes, among them its mode, its hooks and the buffers that it makes anew, and
what its parameters ask of gradients. Weights are written only within a `with` of who writes them. Their version
counters are put back too, for a caller may still have a backward pass before it. Random numbers go on as if nobody
had drawn any.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy
import torch
import transformers
from torch import nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter

from sw_audit.checkpoint.dispatched import dispatched_layers, is_dispatched, waits
from sw_audit.checkpoint.families import find_decoder_layers, require_down_projections
from sw_audit.checkpoint.opening import Checkpoint, identify_model, refuse_unusable
from sw_audit.checkpoint.start import find_start
from sw_audit.errors import CheckpointError
from sw_audit.policy.model_policy import ModelPolicy

# What torch puts around a model: a compiled one, one of several processes.
_WRAPPED = ("_orig_mod", "module")
_COMPILED = "_compiled_call_impl"


@contextmanager
def open_live_model(model: Any, tokenizer: Any, asked: ModelPolicy | None = None) -> Iterator[Checkpoint]:
    """Take a live model, such as a trainer's or a notebook's, for an open checkpoint.

    It may have an adapter on it, be quantized, compiled, or in training. Afterwards, also after an exception, its
    weights, its modules and the random state are bit for bit as they were.

    Args:
        model: A transformers model, or what peft or torch has put around one.
        tokenizer: Its tokenizer.
        asked: What it is called; by default `model`.

    Raises:
        CheckpointError: If it is no decoder, or its weights are not all in this process.
    """
    asked = asked or ModelPolicy(source="model")
    inner, named = _unwrap(model), f"model {asked.id!r}"
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # a processor's
    if not isinstance(inner, transformers.PreTrainedModel):
        found = f"it is a {type(inner).__module__}.{type(inner).__name__}"
        raise CheckpointError(named, found, "give a model of transformers")
    if not isinstance(tokenizer, transformers.PreTrainedTokenizerBase):
        found = "it has no tokenizer" if tokenizer is None else f"its tokenizer is a {type(tokenizer).__name__}"
        raise CheckpointError(named, found, "give the model's own tokenizer as `tokenizer`")
    if any(getattr(one, "is_prompt_learning", False) for one in getattr(model, "peft_config", {}).values()):
        raise CheckpointError(named, "its adapter is made of prompts, not of weights", "audit its base model")
    _refuse_absent(inner, named)
    with ExitStack() as stack:
        for kept in (
            _kept_modules(model),
            _kept_parameters(inner),
            _kept_chance(inner),
            _computing_plainly(inner),
        ):
            stack.enter_context(kept)
        for module in inner.modules():
            vars(module).pop(_COMPILED, None)
        inner.train(False)
        layers = (
            stack.enter_context(dispatched_layers(inner, named))
            if is_dispatched(inner)
            else find_decoder_layers(inner)
        )
        require_down_projections(layers, asked.source)
        refuse_unusable(inner, tokenizer, named)
        asked = asked.model_copy(update={"device": str(inner.get_input_embeddings().weight.device)})
        identity = identify_model(inner, layers, asked, ()).model_copy(update={"in_place": True})
        yield Checkpoint(inner, tokenizer, identity, layers, find_start(tokenizer))


def name_live_model(model: Any) -> ModelPolicy:
    """Name a live model of which a policy says nothing: by its class, and by what it was loaded from as its id."""
    inner = _unwrap(model)
    source, origin = type(inner).__name__, getattr(inner, "name_or_path", "")
    return ModelPolicy(source=source, id=ModelPolicy(source=origin or source).id)


def _unwrap(model: Any) -> Any:
    while not isinstance(model, transformers.PreTrainedModel):
        held = vars(model).get("_modules", {}) if isinstance(model, nn.Module) else {}
        if hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
            model = model.get_base_model()
        elif (inside := next((held[name] for name in _WRAPPED if name in held), None)) is not None:
            model = inside
        else:
            break
    return model


def _refuse_absent(model: nn.Module, named: str) -> None:
    for name, tensor in model.named_parameters():
        owner = model.get_submodule(name.rpartition(".")[0])
        if not tensor.numel() or hasattr(tensor, "device_mesh"):
            found = "its weights are spread over several processes, none of which holds them all"
            raise CheckpointError(named, found, "audit the checkpoints that it saves instead")
        if tensor.is_meta and not waits(owner):
            raise CheckpointError(named, f"{name} has no data", "load the model's weights first")
        if tensor.is_inference():
            found = f"{name} was made under torch.inference_mode, and cannot be written elsewhere"
            raise CheckpointError(named, found, "load the model outside of it")


@contextmanager
def _kept_modules(model: nn.Module) -> Iterator[None]:
    """Put back every attribute of every module, and what is in those that are dictionaries."""
    noted = [
        (vars(module), {key: (value, _copy(value)) for key, value in vars(module).items()})
        for module in model.modules()
    ]
    try:
        yield
    finally:
        for held, before in noted:
            for key in held.keys() - before.keys():
                del held[key]
            for key, (value, content) in before.items():
                held[key] = value
                if content is not None and not _holds(value, content):
                    value.clear()
                    value.update(content)


def _copy(value: object) -> dict[Any, Any] | None:
    return dict(value) if isinstance(value, dict) else None


def _holds(value: dict[Any, Any], content: dict[Any, Any]) -> bool:
    return list(map(id, value)) == list(map(id, content)) and _are_same(value.values(), content.values())


def _are_same(values: Iterable[object], others: Iterable[object]) -> bool:
    return list(map(id, values)) == list(map(id, others))


@contextmanager
def _kept_parameters(model: nn.Module) -> Iterator[None]:
    """Put back what parameters ask of gradients, and their version counters: their values are put back already."""
    asked = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    # torch has no public name for it; without it a backward pass of before the audit would be refused.
    with _unsafe_preserve_version_counter(tuple(parameter for parameter, _ in asked)):
        try:
            yield
        finally:
            for parameter, wanted in asked:
                parameter.requires_grad_(wanted)


@contextmanager
def _kept_chance(model: nn.Module) -> Iterator[None]:
    own, numbers = random.getstate(), numpy.random.get_state()
    devices = {tensor.device for tensor in model.parameters()} - {torch.device("cpu"), torch.device("meta")}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([]))
        for device in devices:
            stack.enter_context(torch.random.fork_rng([device], device_type=device.type))
        try:
            yield
        finally:
            random.setstate(own)
            numpy.random.set_state(numbers)


@contextmanager
def _computing_plainly(model: nn.Module) -> Iterator[None]:
    """Compute as on a checkpoint that was opened, whatever the caller is in the middle of."""
    with ExitStack() as stack:
        for state in (torch.inference_mode(mode=False), torch.no_grad()):
            stack.enter_context(state)
        for kind in {"cpu"} | {tensor.device.type for tensor in model.parameters()} - {"meta"}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield
