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


@dataclass(frozen=True)
class _Route:
    expert: int
    tokens: Tensor
    places: Tensor
    scales: Tensor | None


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

    Args:
        fused: The experts.
        inputs: Positional arguments of the call.
        named: Keyword arguments of the call.
        only: Which experts; all by default.

    Returns:
        One entry per expert that served a token.

    Raises:
        CheckpointError: If the module is called in neither way.
    """
    tensors = [value for value in (*inputs, *named.values()) if isinstance(value, Tensor)]
    states = tensors[0].reshape(-1, tensors[0].shape[-1])  # [places, hidden]
    passes = []
    for route in _list_routes(fused, states, tensors[1:]):
        if only is not None and route.expert not in only:
            continue
        x = states[route.places]  # [served, hidden]
        leading = [
            nn.functional.linear(x, fused.matrix(name, route.expert), fused.bias(name, route.expert))
            for name in fused.inward
        ]
        inner = fused.activate(leading)  # [served, inner]
        down, bias = fused.matrix(fused.down, route.expert), fused.bias(fused.down, route.expert)
        y = nn.functional.linear(inner, down, bias)  # [served, hidden]
        scales = torch.ones_like(y[:, 0]) if route.scales is None else route.scales
        passes.append(ExpertPass(route.expert, route.tokens, route.places, inner, y, scales))
    return tuple(passes)


def check_passes(fused: FusedExperts, passes: Sequence[ExpertPass], output: Any) -> Tensor:
    """Check that the experts' outputs, each times its routing weight, add up to the module's output.

    Args:
        fused: The experts.
        passes: What `follow_experts` worked out, for all experts.
        output: What the module returned.

    Returns:
        The sum, float32 [places, hidden].

    Raises:
        CheckpointError: If they do not: then the module computes something else.
    """
    given = output if isinstance(output, Tensor) else output[0]
    expected = given.reshape(-1, given.shape[-1]).float()  # [places, hidden]
    total = torch.zeros_like(expected)
    norm = getattr(fused.module, "post_expert_norm", None)
    for served in passes:
        given_out = served.outputs if norm is None else norm(served.outputs)
        total.index_add_(0, served.places, given_out.float() * served.scales.float()[:, None])
    allowed = max(_TOLERANCE, _EPSILONS * torch.finfo(given.dtype).eps)
    # Not finite is refused elsewhere, with the layer's number.
    if bool(expected.isfinite().all()) and float((total - expected).norm()) > allowed * float(expected.norm()):
        found = "their output is not the sum of what each gives, times its routing weight"
        raise refuse_experts(f"experts {fused.name}", found)
    return total


def _list_routes(fused: FusedExperts, states: Tensor, routing: Sequence[Tensor]) -> Iterator[_Route]:
    """Yield the experts that served a token, in order."""
    index = next((tensor for tensor in routing if not tensor.is_floating_point()), None)
    weights = next((tensor for tensor in routing if tensor.is_floating_point()), None)
    if index is not None and weights is not None:
        yield from _read_routing(fused, index.reshape(len(states), -1), weights.reshape(len(states), -1))
    elif index is None and weights is None and len(states) % fused.count == 0:
        tokens = len(states) // fused.count
        spread = states.reshape(fused.count, tokens, -1)
        for expert, served in enumerate(spread.any(-1)):
            # A token that is not for this expert has the weight 0, and so it enters as zeros.
            tokens_served = served.nonzero().flatten()
            if len(tokens_served):
                yield _Route(expert, tokens_served, tokens_served + expert * tokens, None)
    else:
        raise refuse_experts(f"experts {fused.name}", "they are not told which experts each token goes to")


def _read_routing(fused: FusedExperts, index: Tensor, weights: Tensor) -> Iterator[_Route]:
    """Read experts and weights, [tokens, chosen] each; some families give the weights of all experts."""
    if weights.shape != index.shape:
        if weights.shape[1] != fused.count:
            raise refuse_experts(f"experts {fused.name}", "they are told more experts than weights")
        weights = weights.gather(1, index)
    for expert in sorted(set(index.flatten().tolist())):
        tokens, chosen = (index == expert).nonzero(as_tuple=True)
        # One past the last stands for no expert at all.
        if expert < fused.count:
            yield _Route(expert, tokens, tokens, weights[tokens, chosen])


def match_rows(rows: Tensor, among: Tensor) -> Tensor:
    """Find out which tokens entered an expert that is a module of its own.

    Args:
        rows: What entered it, [served, hidden].
        among: What entered the MLP, [tokens, hidden].

    Returns:
        Which of them those are, int64 [served]; of equal ones the earliest that is free.

    Raises:
        CheckpointError: If what enters the expert is something else.
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
