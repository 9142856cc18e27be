"""Groups of options: a command takes several options as one argument, and the help shows them one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from inspect import Parameter, signature
from typing import Any, get_args


@dataclass(frozen=True)
class Group:
    """Options that a command takes as one argument.

    Attributes:
        make: Takes the options, which its signature describes to Typer, and returns the argument.
    """

    make: Callable[..., Any]


def spread_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command whose signature names the options of its groups one by one, for Typer to read."""
    groups: dict[str, tuple[Callable[..., Any], list[str]]] = {}

    def list_parameters() -> Iterator[Parameter]:
        for parameter in signature(command, eval_str=True).parameters.values():
            group = next((mark for mark in get_args(parameter.annotation) if isinstance(mark, Group)), None)
            if group is None:
                yield parameter
            else:
                options = signature(group.make, eval_str=True).parameters
                groups[parameter.name] = group.make, list(options)
                yield from options.values()

    @wraps(command)
    def call(**values: Any) -> None:
        for name, (make, options) in groups.items():
            values[name] = make(**{option: values.pop(option) for option in options})
        command(**values)

    parameters = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in list_parameters()]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    call.__signature__ = signature(command).replace(parameters=parameters)  # type: ignore[attr-defined]
    return call
