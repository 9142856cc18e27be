"""The patterns of a quantization's configuration, and which modules they match."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sw_audit.record.checkpoint import PatternCount

if TYPE_CHECKING:
    from torch import nn

    Modules = Mapping[str, nn.Module]


Effect = Literal["skip", "select", "adjust"]


@dataclass(frozen=True)
class ModulePattern:
    """One pattern.

    Attributes:
        key: Where the configuration has it.
        text: As it stands there.
        effect: Whether what it matches is left as it is, is quantized where nothing else is, or is stored with
            settings of its own.
        matches_classes: Whether it may also be the name of a class.
        expression: The regular expression that it is, where its library takes it for one; `re:` begins one in all.
    """

    key: str
    text: str
    effect: Effect
    matches_classes: bool = False
    expression: str | None = None

    def matches(self, name: str, module: nn.Module | None = None) -> bool:
        """Tell whether it matches a module, by its name, or in some libraries by its class.

        Names match as in the libraries: whole, from the start or to the end at a dot, or as a regular expression.
        """
        if self.text.startswith("re:"):
            return _search(self.text.removeprefix("re:"), name)
        classes = type(module).__mro__ if self.matches_classes and module is not None else ()
        if any(self.text == kind.__name__ for kind in classes):
            return True
        if self.expression is not None:
            return _search(self.expression, name)
        ends = name == self.text or name.endswith(f".{self.text}") or name.startswith(f"{self.text}.")
        return ends or _search(rf"(?:{self.text})(?:(?<=\.)|(?=\.|$))", name)


def find_left_alone(patterns: Sequence[ModulePattern], name: str) -> ModulePattern | None:
    """Find the pattern by which a library leaves a module of that name as it is; `None` if none does.

    Where a pattern may be the name of a class, libraries take other names as a whole.
    """
    for pattern in patterns:
        whole = pattern.matches_classes and not pattern.text.startswith("re:")
        if pattern.effect == "skip" and (name == pattern.text if whole else pattern.matches(name)):
            return pattern
    return None


def count_matches(
    patterns: Sequence[ModulePattern], modules: Modules, projections: Modules, stored: set[str]
) -> tuple[PatternCount, ...]:
    """Count per pattern the projections it matches; if none, other modules; if none, the names in the files."""
    counts = []
    for pattern in patterns:
        count = sum(pattern.matches(name, module) for name, module in projections.items())
        count = count or sum(pattern.matches(name, module) for name, module in modules.items() if name)
        count = count or sum(pattern.matches(name) for name in stored)
        counts.append(PatternCount(key=pattern.key, pattern=pattern.text, modules=count))
    return tuple(counts)


def is_left_out(patterns: Sequence[ModulePattern], name: str, module: nn.Module | None) -> bool:
    """Tell whether patterns leave a module out: by skipping it, or by naming others only."""
    if any(pattern.effect == "skip" and pattern.matches(name, module) for pattern in patterns):
        return True
    selecting = [pattern for pattern in patterns if pattern.effect == "select"]
    return bool(selecting) and not any(pattern.matches(name, module) for pattern in selecting)


def flatten(value: Any) -> Iterator[str]:
    """Yield the texts of an entry of a configuration: itself, its members, or its keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Sequence | Mapping):
        for member in value:
            yield from flatten(member)


def _search(expression: str, name: str) -> bool:
    try:
        return re.match(expression, name) is not None
    except re.error:
        return False
