"""One forward pass on prompts with hooks: the residual stream, and what each down-projection did.

A down-projection is seen in the same way whether it serves every token or is one of many experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sw_audit.checkpoint.experts import (
    FusedExperts,
    check_passes,
    find_first_tensor,
    follow_experts,
    match_rows,
    refuse_experts,
)
from sw_audit.checkpoint.matrices import (
    DecoderLayer,
    DownProjection,
    LayerCall,
    copy_rows,
    split_call,
    take_states,
)
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.checkpoint.side_by_side import in_this_job
from sw_audit.errors import CheckpointError


@dataclass(frozen=True, eq=False)
class DownObservation:
    """What entered and left one down-projection; everything on the CPU.

    Attributes:
        down: The down-projection.
        tokens: Positions in the prompt that it served, int64 [served], ascending; an expert serves those that
            were routed to it.
        inputs: What entered, float32 [served, inner].
        outputs: What left it, bias included, float32 [served, hidden].
        scales: What its output is multiplied by on its way out of the MLP, float32 [served]: the routing
            weight of an expert, else 1.
    """

    down: DownProjection
    tokens: Tensor
    inputs: Tensor
    outputs: Tensor
    scales: Tensor

    @property
    def layer(self) -> int:
        """Decoder layer, counted from 0."""
        return self.down.layer

    def cut(self, begin: int, tokens: int) -> DownObservation | None:
        """Return what it did with so many tokens from a position on, which becomes 0; `None` if nothing."""
        inside = (self.tokens >= begin) & (self.tokens < begin + tokens)
        if not bool(inside.any()):
            return None
        parts = (self.tokens - begin, self.inputs, self.outputs, self.scales)
        return DownObservation(self.down, *(part[inside] for part in parts))

    @property
    def delivered(self) -> Tensor:
        """What it adds to the MLP's output, float32 [served, hidden]."""
        return self.outputs * self.scales[:, None]

    def products_at(self, token: int, row: int) -> Tensor | None:
        """Return what each product `W[row, column] * x[column]` adds to the MLP's output, float32 [inner].

        The scale is included; `None` if it did not serve the token.
        """
        place = self._places.get(token)
        return None if place is None else read_row(self.down, row) * self.inputs[place] * self.scales[place]

    def delivered_at(self, token: int, row: int) -> float:
        """Return what it adds to the MLP's output at a token and row; 0 if it did not serve the token."""
        place = self._places.get(token)
        return 0.0 if place is None else float(self.outputs[place, row] * self.scales[place])

    def input_at(self, token: int) -> Tensor | None:
        """Return what entered at a token, float32 [inner]; `None` if it did not serve it."""
        place = self._places.get(token)
        return None if place is None else self.inputs[place]

    def scale_at(self, token: int) -> float | None:
        """Return what the output at a token is multiplied by; `None` if it did not serve it."""
        place = self._places.get(token)
        return None if place is None else float(self.scales[place])

    @cached_property
    def _places(self) -> dict[int, int]:
        return {token: place for place, token in enumerate(self.tokens.tolist())}


def observe_every_token(down: DownProjection, inputs: Tensor, outputs: Tensor) -> DownObservation:
    """Make the observation of a down-projection that serves every token."""
    return DownObservation(down, torch.arange(len(inputs)), inputs, outputs, torch.ones(len(inputs)))


def read_row(down: DownProjection, row: int) -> Tensor:
    """Return one row of a down-projection, float32 on the CPU, [inner]."""
    return down.weight[row].detach().float().cpu()


@dataclass(frozen=True)
class Probe:
    """What one prompt showed; everything float32 on the CPU.

    Attributes:
        embedded: What enters the first decoder layer, [tokens, hidden].
        residual: Output of each decoder layer that ran, [layers, tokens, hidden].
        observations: What each down-projection did, layer by layer; an expert that served no token is left out.
        layers: How many decoder layers the model has.
        entries: What entered each decoder layer that ran, as it was: dtype, shape and device are the model's. All
            prompts of the pass are in it.
        calls: What else each was called with.
        place: Which of the prompts of the pass this is.
        prompts: How many prompts ran side by side.
    """

    embedded: Tensor
    residual: Tensor
    observations: tuple[DownObservation, ...]
    layers: int
    entries: tuple[Tensor, ...]
    calls: tuple[LayerCall, ...]
    place: int = 0
    prompts: int = 1

    def take(self, states: Tensor) -> Tensor:
        """Take this prompt's part of a decoder layer's output in the pass, float32, [tokens, hidden]."""
        return copy_rows(states).view(self.prompts, -1, states.shape[-1])[self.place, : len(self.embedded)]

    @property
    def is_whole(self) -> bool:
        """Whether all decoder layers ran."""
        return len(self.residual) == self.layers

    def observed_in(self, layer: int) -> tuple[DownObservation, ...]:
        """Return what the down-projections of one decoder layer did."""
        return tuple(observed for observed in self.observations if observed.layer == layer)


class _EnoughError(Exception):
    """The layers that were asked for have run."""


def probe_prompt(checkpoint: Checkpoint, token_ids: Sequence[int], layers: int | None = None) -> Probe:
    """Run the model once on one prompt, up to the last decoder layer that is asked for and no further.

    Weights are not changed. BOS is among the token ids if it is wanted; by default all layers run.

    Raises:
        CheckpointError: If the residual stream is not finite on the prompt, or experts cannot be followed.
    """
    [probe] = probe_prompts(checkpoint, [token_ids], layers)
    require_finite(checkpoint, probe)
    return probe


def require_finite(checkpoint: Checkpoint, probe: Probe) -> None:
    """Raise CheckpointError, which names the layer, if the residual stream is not finite on a prompt."""
    for depth, states in enumerate(probe.residual):
        _require_finite_states(checkpoint, depth, states)


def _require_finite_states(checkpoint: Checkpoint, depth: int, states: Tensor) -> None:
    if not bool(states.isfinite().all()):
        raise CheckpointError(
            f"model {checkpoint.identity.source}",
            f"the output of decoder layer {depth} is not finite in {checkpoint.identity.dtype}",
            "load it in a wider dtype, such as float32, or repair the checkpoint",
        )


@torch.no_grad()
def watch_residual(
    checkpoint: Checkpoint, prompts: Sequence[Sequence[int]], see: Callable[[int, Tensor, Tensor], None]
) -> None:
    """Run the model once on several prompts side by side, and show the output of each decoder layer.

    Args:
        checkpoint: The model.
        prompts: Token ids, BOS included if it is wanted; the end of a shorter one is filled up as by
            `probe_prompts`.
        see: Is given the layer's number, its output, float32 on the CPU, [prompts, tokens, hidden], 0 behind the
            end of a prompt, and where the prompts are, bool [prompts, tokens].

    Raises:
        CheckpointError: If the residual stream is not finite on a prompt.
    """
    rows, layers = _fill_up(prompts), checkpoint.layers
    inside = torch.arange(len(rows[0])) < torch.tensor(list(map(len, prompts)))[:, None]

    def show(depth: int, _: object, __: object, output: Any) -> None:
        states = take_states(output)
        shown = copy_rows(states).view(*inside.shape, states.shape[-1])
        shown[~inside] = 0
        _require_finite_states(checkpoint, depth, shown)
        see(depth, shown, inside)
        if depth == len(layers) - 1:
            raise _EnoughError

    with ExitStack() as stack:
        for depth, layer in enumerate(layers):
            hook = in_this_job(partial(show, depth))
            stack.callback(layer.module.register_forward_hook(hook).remove)
        with suppress(_EnoughError):
            checkpoint.model(input_ids=torch.tensor(rows, device=checkpoint.device), use_cache=False)


def _fill_up(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    longest = max(map(len, prompts))
    return [(list(prompt) * (longest // len(prompt) + 1))[:longest] for prompt in prompts]


@torch.no_grad()
def probe_prompts(
    checkpoint: Checkpoint, prompts: Sequence[Sequence[int]], layers: int | None = None
) -> tuple[Probe, ...]:
    """Run the model once on several prompts side by side; see `probe_prompt`.

    A shorter prompt is filled up behind its end with its own tokens again, and these are left out of its probe: in
    a decoder nothing that follows a token reaches it. So no mask is needed, with which some models compute in
    another way. A residual stream that is not finite is no error here.

    Raises:
        CheckpointError: If experts cannot be followed.
    """
    rows = _fill_up(prompts)
    longest = len(rows[0])
    to_run = checkpoint.layers[:layers]
    entries: list[Tensor] = []
    calls: list[LayerCall] = []
    residual: list[Tensor] = []
    watches = [_LayerWatch(layer) for layer in to_run]

    def keep_entering(_: object, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        hidden, call = split_call(positional, named)
        # A copy: some families add into what enters a layer.
        entries.append(hidden.detach().clone())
        calls.append(call)

    def keep_residual(_: object, __: object, output: Any) -> None:
        residual.append(copy_rows(take_states(output)))
        if len(residual) == len(to_run):
            # What follows, down to the head, would be for nothing.
            raise _EnoughError

    with ExitStack() as stack:
        for watch in watches:
            module = watch.layer.module
            stack.callback(module.register_forward_pre_hook(keep_entering, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(keep_residual).remove)
            for handle in watch.hook():
                stack.callback(handle.remove)
        with suppress(_EnoughError):
            checkpoint.model(input_ids=torch.tensor(rows, device=checkpoint.device), use_cache=False)
    embedded, stream = copy_rows(entries[0]), torch.stack(residual)  # [layers, prompts * tokens, hidden]
    observations = [observed for watch in watches for observed in watch.observations()]
    return tuple(
        Probe(
            embedded=embedded[place * longest :][: len(prompt)],
            residual=stream[:, place * longest :][:, : len(prompt)],
            observations=tuple(
                part for seen in observations if (part := seen.cut(place * longest, len(prompt))) is not None
            ),
            layers=len(checkpoint.layers),
            entries=tuple(entries),
            calls=tuple(calls),
            place=place,
            prompts=len(prompts),
        )
        for place, prompt in enumerate(prompts)
    )


@dataclass
class _LayerWatch:
    """Hooks on one layer's MLP: what each down-projection did, and what entered experts that are modules."""

    layer: DecoderLayer
    seen: dict[DownProjection, DownObservation] = field(default_factory=dict)
    entered: dict[DownProjection, Tensor] = field(default_factory=dict)

    def hook(self) -> Iterator[RemovableHandle]:
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
        return tuple(self.seen[down] for down in self.layer.down_projections if down in self.seen)

    def _see_module(self, down: DownProjection, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.seen[down] = observe_every_token(down, copy_rows(inputs[0]), copy_rows(output))

    def _see_entering(self, down: DownProjection, _: nn.Module, inputs: Any, named: Any) -> None:
        self.entered[down] = copy_rows(find_first_tensor((*inputs, *named.values())))

    def _see_fused(self, fused: FusedExperts, _: nn.Module, inputs: Any, named: Any, output: Any) -> None:
        passes = follow_experts(fused, inputs, named)
        check_passes(fused, passes, output)
        by_expert = {down.expert: down for down in self.layer.down_projections if down.fused is fused}
        for run in passes:
            if (down := by_expert.get(run.expert)) is not None:
                scales = run.scales.detach().float().cpu()
                inputs_of_run, outputs = copy_rows(run.inputs), copy_rows(run.outputs)
                self.seen[down] = DownObservation(down, run.tokens.cpu(), inputs_of_run, outputs, scales)

    def _see_block(
        self, downs: Sequence[DownProjection], block: nn.Module, inputs: Any, named: Any, output: Any
    ) -> None:
        """Find out what a block multiplies the outputs of its modules by before it adds them up."""
        entering = copy_rows(find_first_tensor((*inputs, *named.values())))
        leaving = take_states(output)
        rest = copy_rows(leaving)  # [tokens, hidden]
        unsolved = []
        for down in downs:
            if (seen := self.seen.get(down)) is None:
                continue
            if down.fused is not None:
                rest.index_add_(0, seen.tokens, -seen.delivered)
            else:
                served = match_rows(self.entered[down], entering) if down in self.entered else seen.tokens
                unsolved.append(replace(seen, tokens=served))
        allowed = max(1e-3, 8 * torch.finfo(leaving.dtype).eps) * float(copy_rows(leaving).norm())
        for seen, scales in zip(unsolved, _solve_scales(unsolved, rest), strict=True):
            self.seen[seen.down] = solved = replace(seen, scales=scales)
            rest.index_add_(0, solved.tokens, -solved.delivered)
        if bool(rest.isfinite().all()) and float(rest.norm()) > allowed:
            found = "its output is no weighted sum of what its experts give"
            raise refuse_experts(f"{type(block).__name__} of {self.layer.name}", found)


def _solve_scales(observed: Sequence[DownObservation], total: Tensor) -> list[Tensor]:
    """Solve for the factors with which outputs add up to a total, token by token, by least squares."""
    scales = [torch.zeros(len(seen.tokens)) for seen in observed]
    for token in range(len(total)):
        served = [
            (number, place)
            for number, seen in enumerate(observed)
            for place in (seen.tokens == token).nonzero().flatten().tolist()
        ]
        if served:
            # [hidden, terms]
            terms = torch.stack([observed[number].outputs[place] for number, place in served], 1)
            solved = torch.linalg.lstsq(terms.double(), total[token, :, None].double(), driver="gelsd").solution
            for (number, place), factor in zip(served, solved.flatten().tolist(), strict=True):
                scales[number][place] = factor
    return scales
