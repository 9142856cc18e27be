"""Parts of the parent's decoder layer in the place of a descendant's own."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sw_audit.checkpoint.matrices import DecoderLayer
from sw_audit.errors import CheckpointError
from sw_audit.record.arm import SwapModules


class ModuleSource:
    """Keeps the wanted parts of the parent's layer at hand after it has run.

    A layer that is read when it runs is let go right after; what is wanted of it is copied while it is there. Only
    references are copied, so that costs no memory but that the parts stay until the lender goes.

    Args:
        source: The parent's layer.
        borrower: The descendant's, in whose names the parts are asked for.
        modules: Qualified names of modules, those of other layers among them.
    """

    def __init__(self, source: DecoderLayer, borrower: DecoderLayer, modules: Sequence[str]) -> None:
        self._source = source
        own = f"{borrower.name}."
        self._paths = dict.fromkeys(name.removeprefix(own) for name in modules if name.startswith(own))
        self._kept: dict[str, nn.Module] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Copy the parts while the parent's layer runs."""
        handle = self._source.module.register_forward_pre_hook(lambda *_: self._keep())
        try:
            yield
        finally:
            handle.remove()

    def lend(self, path: str) -> nn.Module:
        """Return a part, by its name inside of the layer.

        Raises:
            CheckpointError: If the parent has none of that name.
        """
        if path not in self._kept:
            raise _refuse(f"{self._source.name}.{path}", "the parent")
        return self._kept[path]

    def _keep(self) -> None:
        for path in self._paths:
            if path not in self._kept and (part := _find_part(self._source.module, path)) is not None:
                self._kept[path] = _copy_references(part)


@contextmanager
def borrowed_modules(act: SwapModules, layer: DecoderLayer, lender: ModuleSource | None) -> Iterator[None]:
    """Let modules of the parent's layer stand in for a descendant's.

    They compute in the parent's dtype; what enters and leaves them is converted.

    Args:
        act: Which modules; those of other layers are left alone.
        layer: The descendant's layer; afterwards, also after an exception, every module is its own again.
        lender: Has the parent's.

    Raises:
        CheckpointError: If one of the two layers has no such module.
        ValueError: If there is nobody to borrow from.
    """
    own = f"{layer.name}."
    paths = [name.removeprefix(own) for name in act.modules if name.startswith(own)]
    if paths and lender is None:
        raise ValueError("modules can be borrowed only where a parent runs beside the model")
    stored: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for path in paths:
            if (part := _find_part(layer.module, path)) is None or lender is None:
                raise _refuse(own + path, "the model")
            above, _, name = path.rpartition(".")
            holder = layer.module.get_submodule(above)
            stored.append((holder, name, part))
            holder._modules[name] = lender.lend(path)
        yield
    finally:
        for holder, name, part in reversed(stored):
            holder._modules[name] = part


def borrows(act: SwapModules, layer: DecoderLayer) -> bool:
    """Tell whether any module of a layer is among those that an act borrows."""
    return any(name.startswith(f"{layer.name}.") for name in act.modules)


def _find_part(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _copy_references(module: nn.Module) -> nn.Module:
    """Copy a module without its tensors' data and without hooks, and let it convert what it is given."""
    whole = _copy_module(module)
    floating = (one for one in module.parameters() if one.is_floating_point())
    if (first := next(floating, None)) is not None:
        dtype, device = first.dtype, first.device
        given: list[torch.dtype] = []

        def convert(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
            given[:] = [one.dtype for one in (*inputs, *named.values()) if _is_floating(one)][:1]
            return (
                tuple(one.to(device, dtype) if _is_floating(one) else one for one in inputs),
                {key: one.to(device, dtype) if _is_floating(one) else one for key, one in named.items()},
            )

        def convert_back(_: nn.Module, __: Any, output: Any) -> Any:
            return output.to(given[0]) if given and isinstance(output, Tensor) else output

        whole.register_forward_pre_hook(convert, with_kwargs=True)
        whole.register_forward_hook(convert_back)
    return whole


def _copy_module(module: nn.Module) -> nn.Module:
    made = copy.copy(module)
    made._parameters = dict(module._parameters)
    made._buffers = dict(module._buffers)
    made._modules = {name: None if one is None else _copy_module(one) for name, one in module._modules.items()}
    for hooks in ("_forward_hooks", "_forward_pre_hooks"):
        setattr(made, hooks, OrderedDict())
        setattr(made, f"{hooks}_with_kwargs", OrderedDict())
    return made


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _refuse(module: str, who: str) -> CheckpointError:
    return CheckpointError(f"module {module!r}", f"{who} has no such module", "name one that both have")
