"""Follows a call of fused experts: which tokens each expert served, and what went into and came out of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sw_audit.checkpoint.experts import FusedExperts
from sw_audit.errors import CheckpointError

# Products made in another order differ by rounding: by a part of the output's norm, or by so many epsilons of it.
_TOLERANCE = 1e-4
_EPSILONS = 8.0


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
    tensors = [one for one in (*inputs, *named.values()) if isinstance(one, Tensor)]
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
    for one in passes:
        handed = one.outputs if norm is None else norm(one.outputs)
        total.index_add_(0, one.places, handed.float() * one.scales.float()[:, None])
    allowed = max(_TOLERANCE, _EPSILONS * torch.finfo(given.dtype).eps)
    # Not finite is refused elsewhere, with the layer's number.
    if bool(expected.isfinite().all()) and float((total - expected).norm()) > allowed * float(expected.norm()):
        found = "their output is not the sum of what each gives, times its routing weight"
        raise refuse_experts(f"experts {fused.name}", found)
    return total


def _list_routes(fused: FusedExperts, states: Tensor, routing: Sequence[Tensor]) -> Iterator[_Route]:
    """Yield the experts that served a token, in order."""
    index = next((one for one in routing if not one.is_floating_point()), None)
    weights = next((one for one in routing if one.is_floating_point()), None)
    if index is not None and weights is not None:
        yield from _read_routing(fused, index.reshape(len(states), -1), weights.reshape(len(states), -1))
    elif index is None and weights is None and len(states) % fused.count == 0:
        tokens = len(states) // fused.count
        spread = states.reshape(fused.count, tokens, -1)
        for expert, served in enumerate(spread.any(-1)):
            # A token that is not for this expert has the weight 0, and so it enters as zeros.
            found = served.nonzero().flatten()
            if len(found):
                yield _Route(expert, found, found + expert * tokens, None)
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
    return next(one for one in arguments if isinstance(one, Tensor))


def refuse_experts(asked: str, found: str) -> CheckpointError:
    """Make the refusal of experts that nothing here knows how to follow."""
    remedy = "the experts of this family cannot be followed; report it with the model's config.json"
    return CheckpointError(asked, found, remedy)
