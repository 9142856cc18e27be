"""Experts that are fused into one parameter each: where each expert's matrices are, and what lies between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# What the last of an expert's matrices is called; where none is, it is the one defined last.
_NAMES_OF_DOWN = ("down", "w2", "output")
_NAMES_OF_ACTIVATION = ("act_fn", "activation_fn", "act", "activation")


@dataclass(frozen=True, eq=False)
class FusedExperts:
    """A module whose parameters hold all experts at once, [experts, ., .].

    Attributes:
        module: The module; it sees the hidden states and, in most families, which experts each token goes to.
        name: Its qualified name.
        inward: Names of the parameters that lead out of the residual stream: gate and up in one, or apart.
        down: Name of the parameter that leads back.
        transposed: Whether they are stored (in, out).
    """

    module: nn.Module
    name: str
    inward: tuple[str, ...]
    down: str
    transposed: bool

    @property
    def count(self) -> int:
        """Number of experts."""
        return self._parameter(self.down).shape[0]

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters with their qualified names, the down-projections last."""
        for name in (*self.inward, self.down):
            yield f"{self.name}.{name}", self._parameter(name)

    def matrix(self, name: str, expert: int) -> Tensor:
        """Return one expert's matrix as (out, in); a view."""
        stored = self._parameter(name).detach()[expert]
        return stored.T if self.transposed else stored

    def bias(self, name: str, expert: int) -> Tensor | None:
        """Return what one expert adds after that matrix [out], if anything."""
        bias = getattr(self.module, f"{name}_bias", None)
        return bias.detach()[expert] if isinstance(bias, Tensor) else None

    def activate(self, states: Sequence[Tensor]) -> Tensor:
        """Apply the module's own gate or activation.

        Args:
            states: What each of the inward matrices gave, [served, .] each.

        Returns:
            What enters the down-projection, [served, inner].
        """
        gate: Any = getattr(self.module, "_apply_gate", None)
        gated = getattr(self.module, "has_gate", True)
        if len(states) == 1 and gated and gate is not None:
            activated: Tensor = gate(states[0])
            return activated
        act: Any = next(found for one in _NAMES_OF_ACTIVATION if (found := getattr(self.module, one, None)))
        inner = self._parameter(self.down).shape[1 if self.transposed else 2]
        parts = states if len(states) > 1 else torch.split(states[0], inner, dim=-1)
        activated = act(parts[0])
        return activated * parts[1] if len(parts) > 1 else activated

    def _parameter(self, name: str) -> nn.Parameter:
        # Read anew each time: whoever brings layers in one by one may put another parameter there.
        parameter: nn.Parameter = getattr(self.module, name)
        return parameter


def find_fused_experts(module: nn.Module, name: str, hidden: int) -> FusedExperts | None:
    """Tell whether a module fuses experts, and how.

    Args:
        module: The module; only its own parameters count.
        name: Its qualified name.
        hidden: Width of the residual stream.
    """
    if isinstance(module, nn.Conv1d):
        return None
    fused = {
        key: parameter
        for key, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3 and parameter.is_floating_point()
    }
    if len(fused) < 2:
        return None
    down = next((key for key in fused if any(word in key for word in _NAMES_OF_DOWN)), list(fused)[-1])
    inward = tuple(key for key in fused if key != down)
    return FusedExperts(module, name, inward, down, _is_transposed(module, fused, down, hidden))


def _is_transposed(module: nn.Module, fused: Mapping[str, nn.Parameter], down: str, hidden: int) -> bool:
    """Read the layout off the module, else off whichever parameter is not square."""
    declared = getattr(module, "is_transposed", None)
    if declared is not None:
        return bool(declared)
    for key, parameter in fused.items():
        first, last = parameter.shape[1:]
        if (first == hidden) != (last == hidden):
            return bool((last if key == down else first) == hidden)
    return False
