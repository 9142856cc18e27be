"""The patterns of a quantization's configuration, and which modules they match."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from sw_audit.record.quantized import PatternCount

_SKIPPING = ("ignore", "llm_int8_skip_modules", "modules_to_not_convert")
_CHOOSING = ("modules_in_block_to_quantize", "modules_to_convert")


@dataclass(frozen=True)
class Pattern:
    """One pattern.

    Attributes:
        key: Where the configuration has it.
        text: As it stands there.
        skips: Whether what it matches is left as it is; else that is quantized.
    """

    key: str
    text: str
    skips: bool

    def matches(self, name: str, module: nn.Module | None = None) -> bool:
        """Tell whether it matches a module, by its name, or in some libraries by its class.

        Names are matched as the libraries do: in whole, from the start or up to the end at a dot, or as a regular
        expression.
        """
        if self.text.startswith("re:"):
            return bool(_search(self.text.removeprefix("re:"), name))
        if module is not None and self.key.endswith(("targets", "ignore")):
            classes = {one.__name__ for one in type(module).__mro__}
            if self.text in classes:
                return True
        if self.key == "dynamic":
            return bool(_search(self.text.lstrip("+-:"), name))
        ends = name == self.text or name.endswith(f".{self.text}") or name.startswith(f"{self.text}.")
        return ends or bool(_search(rf"(?:{self.text})(?:(?<=\.)|(?=\.|$))", name))


def list_patterns(settings: Mapping[str, Any]) -> tuple[Pattern, ...]:
    """List every skip and target pattern of a configuration.

    Args:
        settings: Its quantization.
    """
    return tuple(_list(settings))


def _list(settings: Mapping[str, Any]) -> Iterator[Pattern]:
    for key, skips in (*((one, True) for one in _SKIPPING), *((one, False) for one in _CHOOSING)):
        yield from (Pattern(key, text, skips) for text in _flatten(settings.get(key)))
    for name, group in (settings.get("config_groups") or {}).items():
        key = f"config_groups.{name}.targets"
        yield from (Pattern(key, text, False) for text in _flatten(group.get("targets")))
    # GPTQModel: `-:` leaves out, `+:` and nothing choose other settings.
    yield from (Pattern("dynamic", text, text.startswith("-:")) for text in _flatten(settings.get("dynamic")))
    # auto-round: other settings by name; 16 bits and more leave as it is.
    for text, own in (settings.get("extra_config") or {}).items():
        skips = isinstance(own, Mapping) and (own.get("bits") or 0) >= 16
        yield Pattern("extra_config", text, skips)


def count_matches(
    patterns: Sequence[Pattern],
    modules: Mapping[str, nn.Module],
    projections: Mapping[str, nn.Module],
    stored: set[str],
) -> tuple[PatternCount, ...]:
    """Count what each pattern matches.

    Args:
        patterns: The patterns.
        modules: All modules of the model, by name.
        projections: Those that multiply by a matrix.
        stored: Names of modules as the files have them, which differ in some families.

    Returns:
        Per pattern, how many projections; where it names none, how many other modules or stored names.
    """
    found = []
    for pattern in patterns:
        count = sum(pattern.matches(name, module) for name, module in projections.items())
        count = count or sum(pattern.matches(name, module) for name, module in modules.items() if name)
        count = count or sum(pattern.matches(name) for name in stored)
        found.append(PatternCount(key=pattern.key, pattern=pattern.text, modules=count))
    return tuple(found)


def is_left_out(patterns: Sequence[Pattern], name: str, module: nn.Module | None) -> bool:
    """Tell whether patterns leave a module out: by skipping it, or by naming others only."""
    if any(pattern.skips and pattern.matches(name, module) for pattern in patterns):
        return True
    choosing = [one for one in patterns if not one.skips and one.key not in ("dynamic", "extra_config")]
    return bool(choosing) and not any(pattern.matches(name, module) for pattern in choosing)


def _flatten(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Sequence | Mapping):
        for one in value:
            yield from _flatten(one)


def _search(expression: str, name: str) -> re.Match[str] | None:
    try:
        return re.match(expression, name)
    except re.error:
        return None
