"""A model that is in somebody else's hands, such as a trainer's, seen as an open checkpoint for a moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sw_audit.checkpoint.families import find_decoder_layers, require_down_projections
from sw_audit.checkpoint.opening import Checkpoint, identify_model
from sw_audit.errors import CheckpointError
from sw_audit.policy.policy import ModelPolicy


@contextmanager
def borrow_model(model: Any, tokenizer: Any, name: str = "model") -> Iterator[Checkpoint]:
    """Lend a live model as a checkpoint; inside it is in evaluation mode, afterwards every module is as it was.

    Args:
        model: A transformers model, with or without an adapter on it.
        tokenizer: Its tokenizer.
        name: What it is called.

    Raises:
        CheckpointError: If it is no decoder, or its weights are not all in this process.
    """
    inner = model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model
    if any(not parameter.numel() for parameter in inner.parameters()):
        found = "its weights are spread over several processes, none of which holds them all"
        raise CheckpointError(f"model {name!r}", found, "audit the checkpoints that it saves instead")
    modes = {module: module.training for module in model.modules()}
    model.train(False)
    try:
        layers = find_decoder_layers(inner)
        require_down_projections(layers, name)
        wanted = ModelPolicy(source=name, device=str(inner.device))
        yield Checkpoint(inner, tokenizer, identify_model(inner, layers, wanted, ()), layers)
    finally:
        for module, training in modes.items():
            module.training = training
