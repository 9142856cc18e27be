"""Watches the down-projections of one decoder layer while the model runs once, experts included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sw_audit.checkpoint.calls import copy_rows
from sw_audit.checkpoint.experts import (
    FusedExperts,
    check_passes,
    find_first_tensor,
    follow_experts,
    match_rows,
    refuse_experts,
)
from sw_audit.checkpoint.matrices import DecoderLayer, DownProjection
from sw_audit.locate.observation import DownObservation, observe_every_token


@dataclass
class LayerWatch:
    """Hooks on one layer's MLP, and what they saw.

    Attributes:
        layer: The layer.
        seen: What each down-projection did.
        entered: What entered an expert that is a module of its own, [served, hidden].
    """

    layer: DecoderLayer
    seen: dict[DownProjection, DownObservation] = field(default_factory=dict)
    entered: dict[DownProjection, Tensor] = field(default_factory=dict)

    def hook(self) -> Iterator[RemovableHandle]:
        """Put the hooks on, and yield what takes them off."""
        for down in self.layer.down_projections:
            if down.fused is None:
                yield down.module.register_forward_hook(partial(self._see_module, down))
            if down.expert_module is not None:
                keep = partial(self._see_entering, down)
                yield down.expert_module.register_forward_pre_hook(keep, with_kwargs=True)
        for fused in self.layer.fused_experts:
            yield fused.module.register_forward_hook(partial(self._see_fused, fused), with_kwargs=True)
        if self.layer.keeps_experts:
            for block in self.layer.module.children():
                inside = set(block.modules())
                downs = [down for down in self.layer.down_projections if down.module in inside]
                if any(down.fused is None for down in downs) and len(downs) > 1:
                    yield block.register_forward_hook(partial(self._see_block, downs), with_kwargs=True)

    def observations(self) -> tuple[DownObservation, ...]:
        """Return what was seen, in the order of the layer's down-projections."""
        return tuple(self.seen[down] for down in self.layer.down_projections if down in self.seen)

    def _see_module(self, down: DownProjection, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.seen[down] = observe_every_token(down, copy_rows(inputs[0]), copy_rows(output))

    def _see_entering(
        self, down: DownProjection, _: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> None:
        self.entered[down] = copy_rows(find_first_tensor((*inputs, *named.values())))

    def _see_fused(
        self, fused: FusedExperts, _: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any
    ) -> None:
        passes = follow_experts(fused, inputs, named)
        check_passes(fused, passes, output)
        by_expert = {down.expert: down for down in self.layer.down_projections if down.fused is fused}
        for one in passes:
            if (down := by_expert.get(one.expert)) is not None:
                self.seen[down] = DownObservation(
                    down,
                    one.tokens.cpu(),
                    copy_rows(one.inputs),
                    copy_rows(one.outputs),
                    one.scales.detach().float().cpu(),
                )

    def _see_block(
        self,
        downs: Sequence[DownProjection],
        block: nn.Module,
        inputs: tuple[Any, ...],
        named: Mapping[str, Any],
        output: Any,
    ) -> None:
        """Find out what a block multiplies the outputs of its modules by before it adds them up."""
        entering = copy_rows(find_first_tensor((*inputs, *named.values())))
        leaving = output if isinstance(output, Tensor) else output[0]
        given = copy_rows(leaving)  # [tokens, hidden]
        open_ones = []
        for down in downs:
            if (seen := self.seen.get(down)) is None:
                continue
            if down.fused is not None:
                given.index_add_(0, seen.tokens, -seen.delivered)
            else:
                served = match_rows(self.entered[down], entering) if down in self.entered else seen.tokens
                open_ones.append(DownObservation(down, served, seen.inputs, seen.outputs, seen.scales))
        scales = _solve_scales(open_ones, given)
        allowed = max(1e-3, 8 * torch.finfo(leaving.dtype).eps) * float(copy_rows(leaving).norm())
        for one, scale in zip(open_ones, scales, strict=True):
            self.seen[one.down] = DownObservation(one.down, one.tokens, one.inputs, one.outputs, scale)
            given.index_add_(0, one.tokens, -self.seen[one.down].delivered)
        if bool(given.isfinite().all()) and float(given.norm()) > allowed:
            found = "its output is no weighted sum of what its experts give"
            raise refuse_experts(f"{type(block).__name__} of {self.layer.name}", found)


def _solve_scales(observed: Sequence[DownObservation], given: Tensor) -> list[Tensor]:
    """Solve for the factors with which outputs add up to what is given, token by token, by least squares.

    Args:
        observed: Outputs of few down-projections per token.
        given: What they add up to, float32 [tokens, hidden].

    Returns:
        The factors of each down-projection, float32 [served].
    """
    scales = [torch.zeros(len(one.tokens)) for one in observed]
    for token in range(len(given)):
        served = [
            (number, place)
            for number, one in enumerate(observed)
            for place in (one.tokens == token).nonzero().flatten().tolist()
        ]
        if served:
            terms = torch.stack(
                [observed[number].outputs[place] for number, place in served], 1
            )  # [hidden, terms]
            solved = torch.linalg.lstsq(terms.double(), given[token, :, None].double(), driver="gelsd").solution
            for (number, place), factor in zip(served, solved.flatten().tolist(), strict=True):
                scales[number][place] = factor
    return scales
