"""The keys of every layer: what the weights alone make of them, and what rounding a cache would cost.

Which module makes the keys is seen and not read off names. A prompt is run with a cache. Rotary embedding leaves
the first position as it is, so the key that is cached there stands, number by number, in the output of the module
that made it: a projection, also one of queries, keys and values together, or a norm after it. Where it stands in
none (positions that begin at 1, keys put together from two projections), nothing is said. Of latent attention
(DeepSeek) it is the latent vector that is cached, and looked at.

From then on the modules themselves are asked: the norm before the projection with random inputs of unit variance,
the projection, and the norm after it. So packed weights, adapters and gains stored less 1 need no rule of their
own. What rotary embedding turns together, and by how much per position, is seen at the prompt's second token.

An error is compared with what in a key depends on the text. A part that is the same in every key may be huge, and
then it decides the step of a block (Qwen2's biases), but attention tells tokens apart by the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain, groupby
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from sw_audit.checkpoint.matrices import DecoderLayer
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.checkpoint.parameters import find_gain_offset
from sw_audit.checkpoint.side_by_side import in_this_job
from sw_audit.quantize.key_cache import TURNED, can_cache, round_cached, turn_hadamard
from sw_audit.record.keys import (
    CACHE_KINDS,
    CachedKeyError,
    CacheKind,
    KeyChannel,
    KeyReport,
    LayerKeys,
    UnreadKeys,
)

_DRAWS = 256
"""Random inputs: a root mean square over a head of 64 channels is then known to 1 %."""
_POSITIONS = 4096
"""Predicted keys are turned as at positions up to this one."""
_CLOSE = 1e-2
"""Two vectors are one if they differ by so much of their length: bfloat16 has steps of 2^-8."""


@torch.no_grad()
def read_keys(checkpoint: Checkpoint, token_ids: Sequence[int]) -> KeyReport:
    """Look at the keys of every layer of an open model, by one run of a prompt of two tokens or more.

    Nothing is changed. Random numbers come from a generator of their own.
    """
    limit = min(checkpoint.maximum_positions or _POSITIONS, _POSITIONS)
    watches = [_LayerWatch(layer, limit) for layer in checkpoint.layers]
    with ExitStack() as stack:
        for watch in watches:
            for module in watch.layer.module.modules():
                whole = module is watch.layer.module
                hook = in_this_job(watch.conclude if whole else watch.keep)
                # First of all hooks: while weights are there that are in memory only while the layer runs.
                stack.callback(module.register_forward_hook(hook, with_kwargs=True, prepend=True).remove)
        rows = torch.tensor([list(token_ids)], device=checkpoint.device)
        checkpoint.model(input_ids=rows, use_cache=True)
    missing = [(watch.layer.index, watch.because) for watch in watches if watch.found is None]
    missing.sort(key=lambda pair: pair[1])
    return KeyReport(
        layers=tuple(watch.found for watch in watches if watch.found is not None),
        unread=tuple(
            UnreadKeys(layers=tuple(layer for layer, _ in group), because=because)
            for because, group in groupby(missing, key=lambda pair: pair[1])
        ),
        draws=_DRAWS,
        tokens=len(token_ids),
    )


@dataclass(frozen=True, eq=False)
class _Call:
    """What a module was given and gave, [tokens, numbers], and how its last dimension was cut."""

    module: nn.Module
    given: Tensor
    gave: Tensor
    width: int


@dataclass(frozen=True, eq=False)
class _Source:
    """Where the keys of a layer come from.

    Attributes:
        before: The norm that the projection's input comes from.
        projection: What makes the keys.
        norm: What they pass after it.
        places: Where each head begins in what the last of these gives.
        factor: What a cached key is of what that gives: not 1 where rotary embedding is scaled (YaRN).
        normed: Where in what the projection gives each part begins that the norm is given.
    """

    before: _Call | None
    projection: _Call
    norm: _Call | None
    places: tuple[int, ...]
    factor: float
    normed: tuple[int, ...] = ()


@dataclass
class _LayerWatch:
    layer: DecoderLayer
    positions: int
    calls: list[_Call] = field(default_factory=list)
    found: LayerKeys | None = None
    because: str = "it did not run"
    asking: bool = False

    def keep(self, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        tensors = (one for one in chain(given, named.values()) if isinstance(one, Tensor))
        entered = next((one for one in tensors if one.is_floating_point()), None)
        if self.asking or entered is None or not isinstance(output, Tensor) or not output.is_floating_point():
            return
        if entered.ndim >= 2 and output.ndim >= 2:
            self.calls.append(_Call(module, entered.detach().clone(), output.detach().clone(), entered.shape[-1]))

    def conclude(self, _: nn.Module, given: tuple[Any, ...], named: dict[str, Any], __: Any) -> None:
        self.asking = True
        cache = next((one for one in chain(named.values(), given) if isinstance(one, Cache)), None)
        keys = _find_cached(cache, self.layer.index)
        if keys is None:
            self.because = "it keeps no keys by head and token"
        else:
            self._read(keys)
        self.calls.clear()
        self.asking = False

    def _read(self, cached: Tensor) -> None:
        """Look at a layer whose cached keys are [heads, tokens, channels]."""
        source = _find_source(self.calls, cached)
        if source is None:
            self.because = "what it caches is not what one projection, or a norm after it, gives"
            return
        names = {module: name for name, module in self.layer.module.named_modules(prefix=self.layer.name)}
        heads, tokens, channels = cached.shape
        made = _ask(source, _draw(source), channels)  # [heads, draws, channels]
        seen = _cut_heads(source, tokens, channels)
        if not bool(made.isfinite().all() and seen.isfinite().all()):
            self.because = "its keys are not finite"
            return
        constant = _find_constant(source, made, channels)
        turning = _find_turning(seen, cached.float())
        varying = made - constant[:, None]
        scale = varying.square().mean((1, 2)).sqrt()  # [heads]
        cached_scale = (seen - constant[:, None]).square().mean((1, 2)).sqrt()
        turned = made if turning is None else turning.turn(made, self.positions)
        channel_scale = varying.square().mean(1).sqrt()
        self.found = LayerKeys(
            layer=self.layer.index,
            projection=names[source.projection.module],
            norm=None if source.norm is None else names[source.norm.module],
            heads=heads,
            channels=channels,
            rotated=None if turning is None else len(turning.angles) * 2,
            constant=_name_largest(constant, scale[:, None], turning),
            spread=_name_largest(channel_scale, channel_scale.median(1, keepdim=True).values, turning),
            gain=None if source.norm is None else _read_gain(source.norm.module, channels),
            errors=tuple(
                _compare(kind, turned, scale, cached.float(), cached_scale)
                for kind in CACHE_KINDS
                if can_cache(kind, channels)
            ),
        )


def _find_cached(cache: Cache | None, layer: int) -> Tensor | None:
    """Return the keys that a layer has put into a cache of one prompt, [heads, tokens, channels]."""
    layers = getattr(cache, "layers", ())
    keys = getattr(layers[layer], "keys", None) if layer < len(layers) else None
    return keys[0] if isinstance(keys, Tensor) and keys.ndim == 4 and keys.shape[2] > 1 else None


def _find_source(calls: Sequence[_Call], cached: Tensor) -> _Source | None:
    """Find what made the keys at the first position, [heads, tokens, channels], and what leads there."""
    tokens = cached.shape[1]
    rows = [_by_token(call.gave, tokens) for call in calls]
    found = _find_parts(rows, cached[:, 0])
    if found is None:
        return None
    number, places, factor = found
    call, given = calls[number], _by_token(calls[number].given, tokens)
    if _is_affine(call):
        return _Source(_find_before(calls, call), call, None, places, factor)
    origin = None if given is None else _find_parts(rows[:number], given[0].view(-1, call.width))
    if origin is None or not _is_affine(projection := calls[origin[0]]):
        return None
    return _Source(_find_before(calls, projection), projection, call, places, factor, origin[1])


def _by_token(states: Tensor, tokens: int) -> Tensor | None:
    """Return what a module gave as [tokens, numbers], also where heads come first, or there is no batch."""
    if states.shape[0] == tokens and states.ndim == 2:
        return states
    if states.shape[0] != 1 or states.ndim < 3:
        return None
    if states.shape[1] == tokens:
        return states[0].flatten(1)
    return states[0].transpose(0, 1).flatten(1) if states.ndim == 4 and states.shape[2] == tokens else None


def _find_parts(rows: Sequence[Tensor | None], parts: Tensor) -> tuple[int, tuple[int, ...], float] | None:
    """Find the last module whose output at the first token holds each part, [parts, width], times one factor.

    Returns:
        The module's number, where each part begins, and the factor.
    """
    parts = parts.float()
    sizes = parts.square().sum(1)
    if not bool((sizes > 0).all()):
        return None
    for number in range(len(rows) - 1, -1, -1):
        row = rows[number]
        if row is None or row.shape[1] < parts.shape[1]:
            continue
        pieces = row[0].float().unfold(0, parts.shape[1], 1)  # [places, width]
        products, squares = parts @ pieces.T, pieces.square().sum(1).clamp_min(torch.finfo(torch.float32).tiny)
        rest = sizes[:, None] - products.square() / squares  # of each part without its share of each piece
        best = rest.argmin(1, keepdim=True)
        factors = (products / squares).gather(1, best)
        alike = (factors - factors.mean()).abs().max() <= _CLOSE * factors.mean().abs()
        if bool((rest.gather(1, best)[:, 0] <= _CLOSE**2 * sizes).all()) and bool(alike):
            factor = float(factors.mean())
            return number, tuple(best[:, 0].tolist()), 1.0 if abs(factor - 1) <= _CLOSE else factor
    return None


def _find_before(calls: Sequence[_Call], projection: _Call) -> _Call | None:
    """Find the norm whose output enters the projection; `None` if none does."""
    fitting = (
        call
        for call in calls
        if call.gave.shape == projection.given.shape
        and torch.equal(call.gave, projection.given)
        and call.given.shape == call.gave.shape
        and not _is_affine(call)
    )
    return next(fitting, None)


def _is_affine(call: _Call) -> bool:
    """Tell whether a module is a matrix, and no norm: twice the input is twice the output, but for a bias."""
    given = call.given.flatten(0, -2)[None, :1]
    zero, once, twice = (call.module(given * factor).float() for factor in (0, 1, 2))
    error, size = (twice - 2 * once + zero).norm(), (once - zero).norm()
    return bool(error <= 5 * _CLOSE * size) and bool(size > 0)


def _draw(source: _Source) -> Tensor:
    """Draw hidden states as the projection is given them, [1, draws, hidden]."""
    given = source.projection.given
    chance = torch.Generator().manual_seed(0)
    states = torch.randn(1, _DRAWS, given.shape[-1], generator=chance).to(given.device, given.dtype)
    if source.before is None:  # nothing says how large they are but the prompt
        return states * given.float().square().mean().sqrt().to(given.dtype)
    return _call(source.before.module, states)


def _call(module: nn.Module, states: Tensor) -> Tensor:
    made: Tensor = module(states)
    return made


def _ask(source: _Source, states: Tensor, channels: int) -> Tensor:
    """Have the modules make keys of hidden states, [1, draws, hidden]: float32, [heads, draws, channels]."""
    made = _call(source.projection.module, states)[0]  # [draws, numbers]
    if source.norm is not None:
        width = source.norm.width
        parts = torch.stack([made[:, place : place + width] for place in source.normed], 1)
        made = _call(source.norm.module, parts[None])[0].flatten(1)
    return source.factor * torch.stack([made[:, place : place + channels] for place in source.places]).float()


def _cut_heads(source: _Source, tokens: int, channels: int) -> Tensor:
    """Cut the prompt's keys out of what the last module gave, [heads, tokens, channels]."""
    last = source.projection if source.norm is None else source.norm
    rows = _by_token(last.gave, tokens)
    if rows is None:
        raise LookupError("its output was by token when its keys were found")
    return source.factor * torch.stack([rows[:, place : place + channels] for place in source.places]).float()


def _find_constant(source: _Source, made: Tensor, channels: int) -> Tensor:
    """Return the key that does not depend on the text, [heads, channels]: of an input of zero, or the mean."""
    if source.norm is not None:
        return made.mean(1)
    given = source.projection.given
    zero = torch.zeros(1, 1, given.shape[-1], device=given.device, dtype=given.dtype)
    return _ask(source, zero if source.before is None else _call(source.before.module, zero), channels)[:, 0]


@dataclass(frozen=True, eq=False)
class _Turning:
    """Rotary embedding: which channels turn together, [pairs], and by how much per position, radians [pairs]."""

    first: Tensor
    second: Tensor
    angles: Tensor

    def turn(self, keys: Tensor, positions: int) -> Tensor:
        """Turn keys, [heads, draws, channels], each draw as at a random position."""
        chance = torch.Generator().manual_seed(1)
        places = torch.randint(positions, (keys.shape[1], 1), generator=chance).to(keys.device)
        turned, parts = keys.clone(), torch.polar(torch.ones(()).to(keys), places * self.angles)
        pairs = torch.complex(keys[..., self.first], keys[..., self.second]) * parts
        turned[..., self.first], turned[..., self.second] = pairs.real, pairs.imag
        return turned

    def find_partner(self, channel: int) -> int | None:
        for ours, theirs in ((self.first, self.second), (self.second, self.first)):
            if bool((hit := ours == channel).any()):
                return int(theirs[hit][0])
        return None


def _find_turning(seen: Tensor, cached: Tensor) -> _Turning | None:
    """Find out what turns keys on their way into the cache, both [heads, tokens, channels].

    Pairs are halves apart, as in most families, or neighbours; in some only the first channels turn. `None` where
    nothing turns, or what does is neither.
    """
    tolerance = _CLOSE * seen.norm()
    if bool((cached - seen).norm() <= tolerance):
        return None
    channels = seen.shape[-1]
    for turned in range(channels, 0, -2):
        if bool((cached - seen)[..., turned:].norm() > tolerance):
            return None
        places = torch.arange(turned, device=seen.device)
        for first, second in ((places[: turned // 2], places[turned // 2 :]), (places[::2], places[1::2])):
            before = torch.complex(seen[..., first], seen[..., second])
            after = torch.complex(cached[..., first], cached[..., second])
            if bool((after.abs() - before.abs()).norm() <= tolerance):
                angles = (after[:, 1] * before[:, 1].conj()).sum(0).angle()
                return _Turning(first, second, angles)
    return None


def _name_largest(values: Tensor, against: Tensor, turning: _Turning | None) -> KeyChannel:
    """Name the channel that is largest, [heads, channels], against another figure, [heads, 1]."""
    ratios = values.abs() / against
    ratios = torch.where(against > 0, ratios, 0.0)
    head, channel = divmod(int(ratios.argmax()), values.shape[1])
    return KeyChannel(
        head=head,
        channel=channel,
        partner=None if turning is None else turning.find_partner(channel),
        value=float(values[head, channel]),
        ratio=float(ratios[head, channel]) if bool(against[head] > 0) else None,
    )


def _read_gain(norm: nn.Module, channels: int) -> KeyChannel | None:
    weight = norm._parameters.get("weight")
    if weight is None or weight.ndim != 1 or (offset := find_gain_offset(norm, len(weight))) is None:
        return None
    gains = (weight.float() + offset).view(-1, channels if len(weight) % channels == 0 else len(weight))
    return _name_largest(gains, gains.abs().median().expand(len(gains), 1), None)


def _compare(kind: CacheKind, made: Tensor, scale: Tensor, cached: Tensor, cached_scale: Tensor) -> CachedKeyError:
    """Round keys, both [heads, keys, channels], and compare what changes with what depends on the text."""
    predicted, measured = (
        (round_cached(keys, kind) - keys).square().mean((1, 2)).sqrt() / size
        for keys, size in ((made, scale), (cached, cached_scale))
    )
    turned = None
    if kind != "fp8" and made.shape[-1] % TURNED == 0:
        keys = turn_hadamard(made)
        turned = _keep_finite(((round_cached(keys, kind) - keys).square().mean((1, 2)).sqrt() / scale).max())
    head = int(predicted.nan_to_num(torch.inf, torch.inf).argmax())
    return CachedKeyError(
        kind=kind,
        predicted=_keep_finite(predicted[head]),
        head=head,
        rotated=turned,
        measured=_keep_finite(measured.max()),
    )


def _keep_finite(number: Tensor) -> float | None:
    return float(number) if bool(number.isfinite()) else None
