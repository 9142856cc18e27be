"""auto-round: its own layout of integers, which its own package reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sw_audit.checkpoint.formats.format import ACCELERATE, Headers, Package, Packing, register
from sw_audit.checkpoint.formats.gptq import Gptq
from sw_audit.checkpoint.formats.patterns import ModulePattern
from sw_audit.record.checkpoint import Flaw


@register
class AutoRound(Gptq):
    """Words along the input, with settings module by module."""

    method = "auto-round"
    packages = (Package("auto_round", "auto-round"), ACCELERATE)
    extra = "auto-round"
    packings = (Packing(".qweight", ".scales"), Packing(".weight_packed", ".weight_scale", exponents=True))
    module_packages = ("auto_round.",)
    loggers = ("auto_round",)

    def list_patterns(self, settings: Mapping[str, Any]) -> tuple[ModulePattern, ...]:
        """List also the settings by name; 16 bits and more leave a module as it is."""
        named = [
            ModulePattern(
                "extra_config",
                text,
                "skip" if isinstance(own, Mapping) and (own.get("bits") or 0) >= 16 else "adjust",
            )
            for text, own in (settings.get("extra_config") or {}).items()
        ]
        return (*super().list_patterns(settings), *named)

    def lint_shapes(self, settings: Mapping[str, Any], headers: Headers) -> Iterator[Flaw]:  # noqa: ARG002
        """Claim nothing: its layouts differ by version and by target."""
        return iter(())
