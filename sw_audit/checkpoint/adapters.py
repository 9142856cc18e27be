"""What a LoRA adapter does to the tensors of its base, from files: `W + scale * B @ A` where it is put on."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sw_audit.checkpoint.folder import CheckpointFolder, one_line_damage
from sw_audit.checkpoint.formats.adapter import ADAPTER_CONFIG
from sw_audit.checkpoint.stored import open_stored

_PREFIX = "base_model.model."
_PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector)(?:\.weight)?"
)
# What changes the base as well, or is no sum of products.
_STRANGE_STARTS = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class Change:
    """What an adapter does to one tensor of its base; tensors in the dtype that they are stored in.

    Attributes:
        saved: What takes its place, if anything does.
        outward: `B`, [out, rank], or what is added to a bias, [out].
        inward: `A`, [rank, in].
        scale: What is added is multiplied by it.
        turned: Whether the tensor is stored (in, out).
        magnitude: DoRA's magnitudes of the rows of what comes of it, or of the columns if it is turned, [out].
    """

    saved: Tensor | None = None
    outward: Tensor | None = None
    inward: Tensor | None = None
    scale: float = 1.0
    turned: bool = False
    magnitude: Tensor | None = None

    def apply(self, weight: Tensor) -> Tensor:
        """Return what comes of a tensor of the base, in its dtype, which is the one to compute in."""
        made = weight if self.saved is None else self.saved.to(weight.dtype)
        if (added := self._multiply(weight, signed=True)) is None:
            return made
        made = made + added
        return made if self.magnitude is None else made * self._find_factor(made)

    def bound(self, weight: Tensor) -> Tensor:
        """Return the sum of the magnitudes that `apply` adds, which says how precise its result can be."""
        start = (weight if self.saved is None else self.saved.to(weight.dtype)).abs()
        if (added := self._multiply(weight, signed=False)) is None:
            return start
        bound = start + added
        if self.magnitude is None:
            return bound
        signed = self._multiply(weight, signed=True)
        factor = self._find_factor(weight if signed is None else weight + signed)
        return bound * factor.abs().clamp_min(1.0)

    def _multiply(self, weight: Tensor, *, signed: bool) -> Tensor | None:
        """Return what is added, or the sum of its magnitudes."""
        if self.outward is None:
            return None
        first, second = self.outward, self.inward
        if not signed:
            first, second = first.abs(), None if second is None else second.abs()
        scale = self.scale if signed else abs(self.scale)
        first = first.to(weight.dtype)
        added = first * scale if second is None else first @ second.to(weight.dtype) * scale
        return added.T if self.turned else added

    def _find_factor(self, made: Tensor) -> Tensor:
        if self.magnitude is None:
            return made.new_ones(())
        across = 0 if self.turned else 1
        sizes: Tensor = made.norm(dim=across, keepdim=True)
        return self.magnitude.to(made.dtype).flatten().unsqueeze(across) / sizes


@dataclass(frozen=True)
class AdapterTensors:
    """The tensors of an adapter, by what they change.

    Attributes:
        settings: Its configuration.
        parts: Those of LoRA by module and part.
        saved: Those that take the place of one of the base, by its name.
    """

    settings: Mapping[str, Any]
    parts: Mapping[str, Mapping[str, Tensor]]
    saved: Mapping[str, Tensor]

    @property
    def targets(self) -> list[str]:
        """The names of the tensors that are changed, as in a model without an adapter."""
        biases = [f"{module}.bias" for module, held in self.parts.items() if "lora_B.bias" in held]
        return [*(f"{module}.weight" for module in self.parts), *self.saved, *biases]

    def find_change(self, target: str) -> Change:
        """Find what is done to one of the targets."""
        module, _, last = target.rpartition(".")
        held, settings = self.parts.get(module, {}), self.settings
        inward, outward = (held.get(f"lora_{side}.weight", held.get(f"lora_embedding_{side}")) for side in "AB")
        saved = self.saved.get(target)
        if inward is None or outward is None:
            return Change(saved)
        rank = inward.shape[0]
        alpha = _find_setting(settings.get("alpha_pattern"), module, settings.get("lora_alpha", 8))
        scale = float(alpha) / (math.sqrt(rank) if settings.get("use_rslora") else rank)
        if last == "bias":
            return Change(saved, held["lora_B.bias"], scale=scale)
        turned = bool(settings.get("fan_in_fan_out")) or "lora_embedding_A" in held
        return Change(saved, outward, inward, scale, turned, held.get("lora_magnitude_vector"))


def read_adapter(folder: CheckpointFolder) -> AdapterTensors:
    """Read an adapter, mapped into memory as far as its file can be.

    Raises:
        CheckpointError: If it cannot be read.
    """
    settings = folder.read_json(ADAPTER_CONFIG)
    parts, saved = defaultdict[str, dict[str, Tensor]](dict), dict[str, Tensor]()
    with one_line_damage(folder):
        for full, tensor in open_stored(folder).read_all():
            name = full.removeprefix(_PREFIX).replace(".base_layer.", ".").replace(".modules_to_save.", ".")
            if (match := _PART.fullmatch(name)) is not None:
                parts[match["module"]][match["part"]] = tensor
            else:
                saved[name] = tensor
    return AdapterTensors(settings, dict(parts), saved)


def find_obstacle(settings: Mapping[str, Any]) -> str | None:
    """Say why an adapter is not merged from files, if it is not, by its configuration."""
    if settings.get("peft_type") != "LORA":
        return f"the adapter is of type {settings.get('peft_type')}, and only LoRA is replayed"
    start = str(settings.get("init_lora_weights")).lower()
    if start.startswith(_STRANGE_STARTS):
        return f"the adapter began as {start}, which changes its base too"
    if settings.get("target_parameters"):
        return "the adapter changes parameters that are no module's weight (`target_parameters`)"
    return None


def _find_setting(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """Find a setting of one module as peft does: by the first pattern that matches the end of its name."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(?:.*\.)?(?:{pattern})$", module):
            return value
    return default
