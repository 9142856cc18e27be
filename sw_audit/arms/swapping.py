"""`SwapModules`: parts of the parent's decoder layer in the place of a descendant's own."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sw_audit.arms.apply import LayerContext, register
from sw_audit.checkpoint.matrices import DecoderLayer
from sw_audit.errors import CheckpointError
from sw_audit.record.arm import Arm, SwapModules


class ModuleSource:
    """Keeps parts of the parent's layer in memory after it has run.

    A layer that is read when it runs is let go right after. What is needed of it is copied while it is there. Only
    references are copied, so the copy costs no memory but that the parts stay until the source goes. Parts are
    asked for by their names in the descendant; those of other layers are passed over.
    """

    def __init__(self, parents: DecoderLayer, own: DecoderLayer, modules: Sequence[str]) -> None:
        self._parents = parents
        self._paths = _list_paths(modules, own)
        self._kept: dict[str, nn.Module] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Copy the parts while the parent's layer runs."""

        def keep(*_: object) -> None:
            for path in self._paths:
                if path not in self._kept and (part := _find_part(self._parents.module, path)) is not None:
                    self._kept[path] = _copy_references(part)

        handle = self._parents.module.register_forward_pre_hook(keep)
        try:
            yield
        finally:
            handle.remove()

    def find(self, path: str) -> nn.Module:
        """Return a part, by its name inside of the layer.

        Raises:
            CheckpointError: If the parent has none of that name.
        """
        if path not in self._kept:
            raise _refuse(f"{self._parents.name}.{path}", "the parent")
        return self._kept[path]


def find_source(
    arms: Sequence[Arm], parents: DecoderLayer | None, own: DecoderLayer | None
) -> ModuleSource | None:
    """Return where arms get the parent's modules from; `None` if no arm swaps any in, or a layer is missing."""
    modules = [name for arm in arms for act in arm.acts if isinstance(act, SwapModules) for name in act.modules]
    return None if parents is None or own is None or not modules else ModuleSource(parents, own, modules)


def _restrict(action: SwapModules, layer: DecoderLayer) -> SwapModules:
    inside = tuple(name for name in action.modules if name.startswith(f"{layer.name}."))
    return action.model_copy(update={"modules": inside})


@register(SwapModules, touches=lambda action, layer: bool(_list_paths(action.modules, layer)), restrict=_restrict)
@contextmanager
def swapped_modules(action: SwapModules, context: LayerContext) -> Iterator[None]:
    """Let modules of the parent's layer run in the place of a descendant's.

    They compute in the parent's dtype; what enters and leaves them is converted. Modules of other layers are left
    alone.

    Raises:
        CheckpointError: If one of the two layers has no such module.
        ValueError: If there is no parent.
    """
    layer, parent_module = context.layer, context.parent_module
    stored: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for path in _list_paths(action.modules, layer):
            if parent_module is None:
                raise ValueError("modules can be swapped in only where a parent runs beside the model")
            if (part := _find_part(layer.module, path)) is None:
                raise _refuse(f"{layer.name}.{path}", "the model")
            above, _, name = path.rpartition(".")
            holder = layer.module.get_submodule(above)
            stored.append((holder, name, part))
            holder._modules[name] = parent_module(path)
        yield
    finally:
        for holder, name, part in reversed(stored):
            holder._modules[name] = part


def _list_paths(modules: Sequence[str], layer: DecoderLayer) -> list[str]:
    prefix = f"{layer.name}."
    return list(dict.fromkeys(name.removeprefix(prefix) for name in modules if name.startswith(prefix)))


def _find_part(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _copy_references(module: nn.Module) -> nn.Module:
    """Copy a module without its tensors' data and without hooks, and let it convert what it is given."""
    copied = _copy_module(module)
    first = next((parameter for parameter in module.parameters() if parameter.is_floating_point()), None)
    if first is not None:
        dtype, device = first.dtype, first.device
        given: list[torch.dtype] = []

        def convert(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
            given[:] = [value.dtype for value in (*inputs, *named.values()) if _is_floating(value)][:1]
            return (
                tuple(value.to(device, dtype) if _is_floating(value) else value for value in inputs),
                {key: value.to(device, dtype) if _is_floating(value) else value for key, value in named.items()},
            )

        def convert_back(_: nn.Module, __: Any, output: Any) -> Any:
            return output.to(given[0]) if given and isinstance(output, Tensor) else output

        copied.register_forward_pre_hook(convert, with_kwargs=True)
        copied.register_forward_hook(convert_back)
    return copied


def _copy_module(module: nn.Module) -> nn.Module:
    copied = copy.copy(module)
    copied._parameters = dict(module._parameters)
    copied._buffers = dict(module._buffers)
    copied._modules = {
        name: None if part is None else _copy_module(part) for name, part in module._modules.items()
    }
    for hooks in ("_forward_hooks", "_forward_pre_hooks"):
        setattr(copied, hooks, OrderedDict())
        setattr(copied, f"{hooks}_with_kwargs", OrderedDict())
    return copied


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _refuse(module: str, who: str) -> CheckpointError:
    return CheckpointError(f"module {module!r}", f"{who} has no such module", "name one that both have")
