"""Takes decoder layers apart and follows super activations: who makes them, carries them, and attends to them.

Nothing is taken from a family's source code: a layer is taken apart only where its parts are seen to add up, and
attention weights count only where the pass that showed them did what the model does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from sw_audit.arms.apply import applied_arm, touches
from sw_audit.checkpoint.families import mixes_tokens
from sw_audit.checkpoint.matrices import DecoderLayer, copy_rows, split_call, take_states
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.checkpoint.side_by_side import in_this_job, run_side_by_side
from sw_audit.measure.maps import map_activations
from sw_audit.record.address import group_addresses
from sw_audit.record.arm import BASELINE, PRUNED, Arm, Scale
from sw_audit.record.location import Contribution, LayerMechanism, Location, Mechanism, SuperActivation
from sw_audit.record.maps import ActivationMap

_IMPLEMENTATION = "_attn_implementation_internal"
# What is left unexplained may be so much of what was added, and so many roundings of the stream itself.
_RELATIVE, _ROUNDINGS = 1e-3, 4.0
# Two ways to compute attention differ by rounding, which a few layers let grow; a wrong mask differs by much more.
_NEAR = 1e-3


def follow_super_activations(
    checkpoint: Checkpoint, location: Location
) -> tuple[tuple[Mechanism, ...], ActivationMap | None]:
    """Take the layers apart at each super activation, as the model is and with its super weights zeroed.

    Four forward passes on the locating prompt: `see_with_attention` with and without the super weights. The
    paper says that the skip connections carry the super activation and that pruning takes 75 % of it away (Yu et
    al. 2024, section 3.2, figure 4), and that attention stays on its token (appendix): here each is measured. The
    model is bit-identical afterwards, and attends as before. No entry where a pass is not finite.

    Returns:
        What was followed, and the same passes by layer and token; nothing where there are no super weights.
    """
    if not location.super_weights:
        return (), None
    arm = Arm(purpose=PRUNED, acts=(Scale(addresses=group_addresses(location.addresses), factor=0.0),))
    intact, pruned = see_with_attention(checkpoint, location.token_ids, (BASELINE, arm))
    followed = (_follow(activation, intact, pruned) for activation in location.super_activations)
    seen = map_activations(checkpoint.tokenizer, location, *map(list_leaving, (intact, pruned)))
    return tuple(mechanism for mechanism in followed if mechanism is not None), seen


@dataclass(frozen=True)
class LayerParts:
    """One decoder layer in one forward pass on one prompt; everything float32 on the CPU.

    Attributes:
        entering: The residual stream as it comes in, [tokens, hidden].
        middle: The residual stream with what the block that mixes tokens added, [tokens, hidden]; `None`
            where the layer cannot be taken apart.
        leaving: The residual stream as it goes out, [tokens, hidden].
        weights: Attention weights, [heads, queries, keys], or `None`.
    """

    entering: Tensor
    middle: Tensor | None
    leaving: Tensor
    weights: Tensor | None


def list_leaving(layers: Sequence[LayerParts]) -> list[Tensor]:
    """List what goes out of each layer."""
    return [parts.leaving for parts in layers]


def see_with_attention(
    checkpoint: Checkpoint, token_ids: Sequence[int], arms: Sequence[Arm] = (BASELINE,)
) -> tuple[tuple[LayerParts, ...], ...]:
    """Take every decoder layer apart on one prompt, attention weights included, in each of some arms.

    Two forward passes: as the model runs, and once more to be shown attention weights, which count only where the
    second pass does what the first did. The model attends as before afterwards.
    """
    jobs = [partial(_see_arm, checkpoint, token_ids, arm) for arm in arms]
    plain = run_side_by_side(checkpoint, jobs)
    try:
        with eager_attention(checkpoint.model):
            eager = run_side_by_side(checkpoint, jobs)
    except RuntimeError:
        # Not every configuration that a fused kernel takes is one that the family's own steps take.
        return tuple(tuple(replace(parts, weights=None) for parts in of_arm) for of_arm in plain)
    near = max(_NEAR, 16 * torch.finfo(checkpoint.model.dtype).eps)
    return tuple(
        tuple(
            replace(parts, weights=shown.weights if _is_near(shown.leaving, parts.leaving, near) else None)
            for parts, shown in zip(*of_arm, strict=True)
        )
        for of_arm in zip(plain, eager, strict=True)
    )


def _see_arm(checkpoint: Checkpoint, token_ids: Sequence[int], arm: Arm) -> tuple[LayerParts, ...]:
    """Take the layers apart with an arm applied to each while it runs, for only then need its weights be there."""
    with ExitStack() as stack:
        for layer in checkpoint.layers:
            if touches(arm, layer):
                applied = stack.enter_context(ExitStack())
                begin, end = partial(_apply, arm, layer, applied), partial(_undo, applied)
                stack.callback(layer.module.register_forward_pre_hook(in_this_job(begin)).remove)
                stack.callback(layer.module.register_forward_hook(in_this_job(end)).remove)
        return see_layers(checkpoint, token_ids)


def _apply(arm: Arm, layer: DecoderLayer, applied: ExitStack, *_: Any) -> None:
    applied.enter_context(applied_arm(arm, applied.enter_context(layer.present())))


def _undo(applied: ExitStack, *_: Any) -> None:
    applied.close()


def measure_attended(weights: Tensor | None, token: int) -> float | None:
    """Return how much of the later tokens' attention, [heads, queries, keys], rests on one token.

    The mean over heads and queries, 0 to 1; `None` without weights, or where no token is later.
    """
    if weights is None or token + 1 >= weights.shape[1]:
        return None
    return min(max(float(weights[:, token + 1 :, token].mean()), 0.0), 1.0)


def _is_near(states: Tensor, others: Tensor, near: float) -> bool:
    return bool(((states - others).norm(dim=1) <= near * others.norm(dim=1)).all())


def _follow(
    activation: SuperActivation, intact: Sequence[LayerParts], pruned: Sequence[LayerParts]
) -> Mechanism | None:
    token, channel = activation.token, activation.channel
    layers = []
    for layer, (before, after) in enumerate(zip(intact, pruned, strict=True)):
        of_intact, of_pruned = (_read_contribution(parts, token, channel) for parts in (before, after))
        if of_intact is None or of_pruned is None:
            return None
        layers.append(
            LayerMechanism(
                layer=layer,
                intact=of_intact,
                pruned=of_pruned,
                attended=measure_attended(before.weights, token),
                attended_pruned=measure_attended(after.weights, token),
            )
        )
    return Mechanism(
        channel=channel,
        token=token,
        first_layer=activation.first_layer,
        last_layer=activation.last_layer,
        layers=tuple(layers),
    )


def _read_contribution(parts: LayerParts, token: int, channel: int) -> Contribution | None:
    skip, leaving = (float(states[token, channel]) for states in (parts.entering, parts.leaving))
    middle = None if parts.middle is None else float(parts.middle[token, channel])
    if not all(math.isfinite(value) for value in (skip, leaving, middle or 0.0)):
        return None
    if middle is None:
        return Contribution(skip=skip, leaving=leaving)
    return Contribution(skip=skip, attention=middle - skip, mlp=leaving - middle, leaving=leaving)


@dataclass(frozen=True)
class _Call:
    """One call of one part of a layer: what it was given and what it returned that is as wide as the stream."""

    mixes: bool
    given: list[Tensor]
    returned: list[Tensor]


@torch.no_grad()
def see_layers(checkpoint: Checkpoint, token_ids: Sequence[int]) -> tuple[LayerParts, ...]:
    """Run the model once on one prompt and take every decoder layer apart."""
    tokens, hidden = len(token_ids), checkpoint.identity.hidden_size
    calls: list[_Call] = []
    weights: list[Tensor] = []
    layers: list[LayerParts] = []

    def begin(*_: object) -> None:
        calls.clear()
        weights.clear()

    def keep(mixes: bool, _: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        given = (*inputs, *named.values())
        returned = output if isinstance(output, tuple) else (output,)
        calls.append(_Call(mixes, _list_states(given, tokens, hidden), _list_states(returned, tokens, hidden)))
        if mixes and (shown := find_weights(output, tokens)) is not None:
            weights.append(shown)

    def end(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        entering, leaving = copy_rows(split_call(inputs, named)[0]), copy_rows(take_states(output))
        middle = _find_middle(entering, leaving, calls, checkpoint.model.dtype)
        layers.append(LayerParts(entering, middle, leaving, weights[0] if weights else None))

    with ExitStack() as stack:
        for layer in checkpoint.layers:
            stack.callback(layer.module.register_forward_pre_hook(in_this_job(begin)).remove)
            for part in layer.module.children():
                hook = in_this_job(partial(keep, mixes_tokens(part)))
                stack.callback(part.register_forward_hook(hook, with_kwargs=True).remove)
            stack.callback(layer.module.register_forward_hook(in_this_job(end), with_kwargs=True).remove)
        checkpoint.model(input_ids=torch.tensor([list(token_ids)], device=checkpoint.device), use_cache=False)
    return tuple(layers)


def find_weights(output: Any, tokens: int) -> Tensor | None:
    """Find the attention weights in what an attention block returns for one sequence; `None` without.

    They are [heads, queries, keys], each query's weights over its keys, float32 on the CPU.
    """
    for part in output if isinstance(output, tuple) else ():
        if isinstance(part, Tensor) and part.ndim == 4 and part.shape[0] == 1 and part.shape[2:] == (tokens,) * 2:
            return part[0].detach().float().cpu()
    return None


def _find_middle(entering: Tensor, leaving: Tensor, calls: Sequence[_Call], dtype: torch.dtype) -> Tensor | None:
    """Find the residual stream between the block that mixes tokens and the MLP; `None` where nothing adds up.

    1. Blocks one after the other: the stream in between is what some part of the layer was given. What was added
       before and after it is, but for a factor, what parts of the layer returned (possibly after a norm; some
       parts add into the stream themselves).
    2. Blocks side by side: the sum of what both returned, each times a factor, is what was added.

    States are [tokens, hidden]; calls are in the order in which they ended; the dtype's rounding is forgiven.
    """
    first = next((number for number, call in enumerate(calls) if call.mixes), None)
    if first is None or not bool((entering + leaving).isfinite().all()):
        return None
    for number in range(first + 1, len(calls)):
        before, after = calls[first:number], calls[number:]
        for middle in calls[number].given:
            if _is_added(entering, middle, before, dtype) and _is_added(middle, leaving, after, dtype):
                return middle
    mixing, others = ([call for call in calls if call.mixes == mixes] for mixes in (True, False))
    for mixer, other in product(mixing, others):
        for attention, mlp in product(mixer.returned, other.returned):
            fitted = _fit(leaving - entering, attention, mlp)
            if _adds_up(entering, leaving, fitted[0] + fitted[1], dtype):
                return entering + fitted[0]
    return None


def _is_added(before: Tensor, after: Tensor, calls: Sequence[_Call], dtype: torch.dtype) -> bool:
    """Tell whether some call returned what makes one state of the stream the next."""
    for call in calls:
        # The first argument is what a part works on; a stream given beside it is there to be added to.
        adds_itself = any(torch.equal(state, before) for state in call.given[1:])
        for output in call.returned:
            added = output - before if adds_itself else _fit(after - before, output)[0]
            if _adds_up(before, after, added, dtype):
                return True
    return False


def _adds_up(before: Tensor, after: Tensor, added: Tensor, dtype: torch.dtype) -> bool:
    """Tell whether `before + added` is `after`, at every token, and not only because nothing can be told."""
    step = (after - before).norm(dim=1)  # [tokens]
    stream = torch.maximum(before.norm(dim=1), after.norm(dim=1))
    allowed = _RELATIVE * step + _ROUNDINGS * torch.finfo(dtype).eps * stream
    unexplained = (after - before - added).norm(dim=1)
    return bool((unexplained <= allowed).all()) and bool((allowed < step / 4).any())


def _fit(whole: Tensor, *parts: Tensor) -> list[Tensor]:
    """Scale parts by one number each so that their sum comes closest to a whole."""
    columns = torch.stack([part.double().flatten() for part in parts], dim=1)  # [entries, parts]
    factors = torch.linalg.lstsq(columns, whole.double().flatten()[:, None]).solution.flatten()
    return [part * float(factor) for part, factor in zip(parts, factors, strict=True)]


def _list_states(values: Sequence[Any], tokens: int, hidden: int) -> list[Tensor]:
    """List what can be a finite state of the residual stream, [tokens, hidden] each."""
    return [
        copy_rows(value)
        for value in values
        if isinstance(value, Tensor) and value.is_floating_point() and value.shape[-1:] == (hidden,)
        if value.numel() == tokens * hidden and bool(value.isfinite().all())
    ]


@contextmanager
def eager_attention(model: Any) -> Iterator[None]:
    """Let a transformers model compute attention step by step, which is when it has weights to show.

    Fused kernels never hold them. Afterwards, also after an exception, every configuration in the model names
    the implementation that it named before. A family that has no other way than its own stays as it is.
    """
    configs = _list_configs(model)
    stored = [config.__dict__.get(_IMPLEMENTATION, ...) for config in configs]
    try:
        # Not by `set_attn_implementation`, which leaves some families as they are, Falcon and BLOOM among them.
        for config in configs:
            config.__dict__[_IMPLEMENTATION] = "eager"
        yield
    finally:
        for config, implementation in zip(configs, stored, strict=True):
            if implementation is ...:
                config.__dict__.pop(_IMPLEMENTATION, None)
            else:
                config.__dict__[_IMPLEMENTATION] = implementation


def _list_configs(model: Any) -> list[Any]:
    """List every configuration in a model once, those of its parts and of configurations inside others too."""
    waiting = [module.config for module in model.modules() if hasattr(module, "config")]
    configs: dict[int, Any] = {}
    while waiting:
        config = waiting.pop()
        if id(config) in configs or not hasattr(config, "sub_configs"):
            continue
        configs[id(config)] = config
        waiting += [getattr(config, name, None) for name in config.sub_configs]
    return list(configs.values())
