"""Experts that are fused into one parameter: where each expert's matrices are, and what each did in a call."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sw_audit.errors import CheckpointError

# What the last of an expert's matrices is called; where none is, it is the one defined last.
_NAMES_OF_DOWN = ("down", "w2", "output")
_NAMES_OF_ACTIVATION = ("act_fn", "activation_fn", "act", "activation")
# Products made in another order differ by rounding: by a part of the output's norm, or by so many epsilons of it.
_TOLERANCE = 1e-4
_EPSILONS = 8.0


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

    def multiply(self, name: str, expert: int, x: Tensor) -> Tensor:
        """Multiply by one expert's matrix, and add its bias if there is one."""
        return nn.functional.linear(x, self.matrix(name, expert), self.bias(name, expert))

    def activate(self, states: Sequence[Tensor]) -> Tensor:
        """Apply the module's own gate or activation to what the inward matrices gave, [served, .] each."""
        gate: Any = getattr(self.module, "_apply_gate", None)
        gated = getattr(self.module, "has_gate", True)
        if len(states) == 1 and gated and gate is not None:
            activated: Tensor = gate(states[0])
            return activated
        act: Any = next(held for name in _NAMES_OF_ACTIVATION if (held := getattr(self.module, name, None)))
        inner = self._parameter(self.down).shape[1 if self.transposed else 2]
        parts = states if len(states) > 1 else torch.split(states[0], inner, dim=-1)
        activated = act(parts[0])
        return activated * parts[1] if len(parts) > 1 else activated

    def _parameter(self, name: str) -> nn.Parameter:
        # Read anew each time: whoever brings layers in one by one may put another parameter there.
        parameter: nn.Parameter = getattr(self.module, name)
        return parameter


def find_fused_experts(module: nn.Module, name: str, hidden: int) -> FusedExperts | None:
    """Return how a module's own parameters fuse experts, if they do; `hidden` is the residual stream's width."""
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
    """Read the layout from the module, else from whichever parameter is not square."""
    declared = getattr(module, "is_transposed", None)
    if declared is not None:
        return bool(declared)
    for key, parameter in fused.items():
        first, last = parameter.shape[1:]
        if (first == hidden) != (last == hidden):
            return bool((last if key == down else first) == hidden)
    return False


@dataclass(frozen=True, eq=False)
class ExpertPass:
    """What one expert did with the tokens of one call.

    Attributes:
        expert: Which one.
        tokens: Which tokens it served, counted over the whole call, int64 [served], ascending.
        places: Where its output goes in the module's own, flattened to [places, hidden], int64 [served].
        inputs: What entered its down-projection, [served, inner].
        outputs: What left it, [served, hidden].
        scales: What the output is multiplied by before it is added up: routing weights, [served].
    """

    expert: int
    tokens: Tensor
    places: Tensor
    inputs: Tensor
    outputs: Tensor
    scales: Tensor


@torch.no_grad()
def follow_experts(
    fused: FusedExperts,
    inputs: Sequence[Any],
    named: Mapping[str, Any],
    only: Collection[int] | None = None,
) -> tuple[ExpertPass, ...]:
    """Work out what each expert did with one call of its module, from what the module was called with.

    There is no submodule to watch, and the library multiplies all experts at once in one of several ways. So
    the products are made again, expert by expert, with the module's own gate. A module is either told which
    experts each token goes to and with which weight, or (Llama 4) is given all tokens once per expert, with
    the weights already in them.

    Returns:
        One entry per expert that served a token.

    Raises:
        CheckpointError: If the module is called in neither way.
    """
    tensors = [value for value in (*inputs, *named.values()) if isinstance(value, Tensor)]
    states = tensors[0].reshape(-1, tensors[0].shape[-1])  # [places, hidden]
    passes = []
    for expert, tokens, places, scales in _list_routes(fused, states, tensors[1:]):
        if only is None or expert in only:
            x = states[places]  # [served, hidden]
            inner = fused.activate([fused.multiply(name, expert, x) for name in fused.inward])  # [served, inner]
            passes.append(
                ExpertPass(expert, tokens, places, inner, fused.multiply(fused.down, expert, inner), scales)
            )
    return tuple(passes)


def check_passes(fused: FusedExperts, passes: Sequence[ExpertPass], output: Any) -> None:
    """Check that the experts' outputs, each times its routing weight, add up to the module's output.

    Raises:
        CheckpointError: If they do not: then the module computes something else.
    """
    given = output if isinstance(output, Tensor) else output[0]
    expected = given.reshape(-1, given.shape[-1]).float()  # [places, hidden]
    total = torch.zeros_like(expected)
    norm = getattr(fused.module, "post_expert_norm", None)
    for served in passes:
        outputs = served.outputs if norm is None else norm(served.outputs)
        total.index_add_(0, served.places, outputs.float() * served.scales.float()[:, None])
    allowed = max(_TOLERANCE, _EPSILONS * torch.finfo(given.dtype).eps)
    # Not finite is refused elsewhere, with the layer's number.
    if bool(expected.isfinite().all()) and float((total - expected).norm()) > allowed * float(expected.norm()):
        found = "their output is not the sum of what each gives, times its routing weight"
        raise refuse_experts(f"experts {fused.name}", found)


def _list_routes(
    fused: FusedExperts, states: Tensor, routing: Sequence[Tensor]
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Yield the experts that served a token, in order, each with `tokens`, `places` and `scales` of its pass."""
    index = next((tensor for tensor in routing if not tensor.is_floating_point()), None)
    weights = next((tensor for tensor in routing if tensor.is_floating_point()), None)
    if index is not None and weights is not None:
        index, weights = index.reshape(len(states), -1), weights.reshape(len(states), -1)  # [tokens, chosen]
        # Some families give the weights of all experts.
        if weights.shape != index.shape:
            if weights.shape[1] != fused.count:
                raise refuse_experts(f"experts {fused.name}", "they are told more experts than weights")
            weights = weights.gather(1, index)
        for expert in sorted(set(index.flatten().tolist())):
            tokens, chosen = (index == expert).nonzero(as_tuple=True)
            # One past the last stands for no expert at all.
            if expert < fused.count:
                yield expert, tokens, tokens, weights[tokens, chosen]
    elif index is None and weights is None and len(states) % fused.count == 0:
        count = len(states) // fused.count
        for expert, served in enumerate(states.reshape(fused.count, count, -1).any(-1)):
            # A token that is not for this expert has the weight 0, and so it enters as zeros.
            tokens = served.nonzero().flatten()
            if len(tokens):
                yield expert, tokens, tokens + expert * count, states.new_ones(len(tokens))
    else:
        raise refuse_experts(f"experts {fused.name}", "they are not told which experts each token goes to")


def match_rows(rows: Tensor, among: Tensor) -> Tensor:
    """Find which rows of `among` [tokens, hidden] those of `rows` [served, hidden] are, int64 [served].

    Of equal rows the earliest that is free is taken.

    Raises:
        CheckpointError: If a row is not among them.
    """
    taken: list[int] = []
    for row in rows:
        equal = (among == row).all(1).nonzero().flatten().tolist()
        free = [place for place in equal if place not in taken]
        if not free:
            raise refuse_experts("experts that are modules", "what enters an expert is not what enters its MLP")
        taken.append(free[0])
    return torch.tensor(taken, dtype=torch.long, device=rows.device)


def find_first_tensor(arguments: Sequence[Any]) -> Tensor:
    """Return the first tensor among a call's arguments: in every family, the hidden states."""
    return next(value for value in arguments if isinstance(value, Tensor))


def refuse_experts(asked: str, found: str) -> CheckpointError:
    """Make the refusal of experts that nothing here knows how to follow."""
    remedy = "the experts of this family cannot be followed; report it with the model's config.json"
    return CheckpointError(asked, found, remedy)
