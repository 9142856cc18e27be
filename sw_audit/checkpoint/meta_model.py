"""A model without data, made straight from its configuration where the files hold exactly its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from sw_audit.checkpoint.lazy_tensor import LazyTensor


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
    from transformers.initialization import no_init_weights

    with _parameters_without_data(), no_init_weights():
        model = own_class._from_config(config, dtype=target)
    asked = model.state_dict(keep_vars=True)
    kept = model._keep_in_fp32_modules | model._keep_in_fp32_modules_strict
    if kept or {name: tuple(one.shape) for name, one in asked.items()} != {
        name: tuple(one.shape) for name, one in stored.items()
    }:
        return None
    if any(one.ndim > 2 for one in stored.values()):
        return None
    for prefix, module in model.named_modules():
        for held in (module._parameters, module._buffers):
            for key, tensor in held.items():
                name = f"{prefix}.{key}" if prefix else key
                if tensor is not None and name in stored:
                    one = stored[name]
                    held[key] = one.to(target) if one.is_floating_point() else one
    return model


@contextmanager
def _parameters_without_data() -> Iterator[None]:
    """Let every parameter that is made have no data; buffers that are not stored have theirs."""
    register = nn.Module.register_parameter

    def register_empty(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and not param.is_meta:
            param = nn.Parameter(param.to("meta"), requires_grad=param.requires_grad)
        register(module, name, param)

    # The library has no way to make parameters without data and buffers with: accelerate does it so, too.
    setattr(nn.Module, "register_parameter", register_empty)  # noqa: B010 - assigning is what mypy refuses
    try:
        yield
    finally:
        setattr(nn.Module, "register_parameter", register)  # noqa: B010
