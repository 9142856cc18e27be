"""Tensors without data that remember how they are made, so that it can be done on real data later."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Where data goes is decided when there is data.
_MOVES = {Tensor.cpu, Tensor.cuda, Tensor.detach}


@dataclass(frozen=True)
class Step:
    """One call that made a tensor; `part` says which of its results the tensor is, where it returns several."""

    function: Callable[..., Any]
    positional: tuple[Any, ...]
    named: Mapping[str, Any]
    part: int | None = None


class LazyTensor(Tensor):
    """A tensor on the meta device that stands for one in a file, or for one made from such.

    `origin` is the name of the tensor in the files, or the step that makes it.
    """

    origin: str | Step

    @classmethod
    def of(cls, name: str, shape: Sequence[int], dtype: torch.dtype) -> LazyTensor:
        """Stand for a tensor in a file."""
        return _mark(torch.empty(tuple(shape), dtype=dtype, device="meta"), name)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Do it without data, and note that it was done."""
        named = dict(kwargs or {})
        if func is Tensor.to:
            # The dtype that it is converted to is kept, where and how it is sent is not.
            args = (args[0], *(value for value in (*args[1:], *named.values()) if isinstance(value, torch.dtype)))
            named = {}
        with torch._C.DisableTorchFunctionSubclass():
            if _changes_nothing(func, args):
                # Not the object itself: a parameter made of it must be another one.
                return _mark(args[0].as_subclass(Tensor).detach(), args[0].origin)
            result = func(*args, **named)
            if result is args[0]:
                return result
            if isinstance(result, Tensor):
                return _mark(result, Step(func, args, named))
            if isinstance(result, tuple | list) and any(isinstance(part, Tensor) for part in result):
                return [_mark(tensor, Step(func, args, named, part)) for part, tensor in enumerate(result)]
        return result


def make_real(tensor: LazyTensor, read: Callable[[str], Tensor]) -> Tensor:
    """Do on real data what was done to a tensor without; `read` returns a tensor of the files by its name."""
    real: Tensor = _repeat(tensor, read, {})
    return real


def make_entry_real(tensor: LazyTensor, index: int, read: Callable[[str], Tensor]) -> Tensor:
    """Return `make_real(tensor, read)[index]`, without the other entries where these were stacked."""
    step = tensor.origin
    if isinstance(step, Step) and step.function is torch.stack and step.named.get("dim", 0) == 0:
        entries = step.positional[0]
        if len(step.positional) == 1 and isinstance(entries[index], LazyTensor):
            return make_real(entries[index], read)
    return make_real(tensor, read)[index]


def list_sources(value: Any) -> list[str]:
    """List the names of the tensors in the files that a tensor, or several in lists, are made from."""
    if isinstance(value, LazyTensor):
        step = value.origin
        return [step] if isinstance(step, str) else list_sources([step.positional, *step.named.values()])
    return [name for member in value for name in list_sources(member)] if isinstance(value, tuple | list) else []


def _repeat(value: Any, read: Callable[[str], Tensor], made: dict[int, Any]) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(_repeat(member, read, made) for member in value)
    if not isinstance(value, LazyTensor):
        return value
    if isinstance(value.origin, str):
        return read(value.origin)
    step = value.origin
    # Parts of one result are made together; the key is what the parts share.
    key = id(step.positional)
    if key not in made:
        named = {name: _repeat(argument, read, made) for name, argument in step.named.items()}
        made[key] = step.function(*_repeat(step.positional, read, made), **named)
    return made[key] if step.part is None else made[key][step.part]


def _mark(tensor: Tensor, origin: str | Step) -> LazyTensor:
    marked = tensor.as_subclass(LazyTensor)
    marked.origin = origin
    return marked


def _changes_nothing(func: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    if func is Tensor.to:
        return args[1:] in ((), (args[0].dtype,))
    return func in _MOVES or (func is Tensor.__getitem__ and args[1] is Ellipsis)
