"""Measures a descendant beside its parent: both on one text, and with parts of the parent put back."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sw_audit.checkpoint.matrices import DecoderLayer, Matrix, take_states
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.corpus.choices import list_stop_words, stop_word_ids
from sw_audit.corpus.protocol import describe_protocol
from sw_audit.corpus.text import read_corpus
from sw_audit.corpus.windows import Windows, window_corpus
from sw_audit.errors import CheckpointError
from sw_audit.measure.arms import measure_arms
from sw_audit.measure.parent_passes import ParentPasses
from sw_audit.measure.ranges import DownProjectionRange
from sw_audit.measure.readers import WindowBatch, batch_windows
from sw_audit.measure.retention import is_alike, translate_address
from sw_audit.measure.states import States
from sw_audit.policy.model_policy import TRANSFORMERS
from sw_audit.policy.policy import CorpusPolicy
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.address import WeightAddress, group_addresses
from sw_audit.record.arm import (
    DESCENDANT,
    PARENT,
    RESTORED_WEIGHTS,
    Arm,
    Purpose,
    RestoredKind,
    RestoredLayer,
    RestoredLayers,
    RestoredModule,
    RestoredSet,
    SetTo,
    SwapModules,
)
from sw_audit.record.descent import ComparedText, LayerError
from sw_audit.record.identity import ModelIdentity, Protocol
from sw_audit.record.location import SuperWeight

_DESCENDANT = 1
"""The arm with the descendant as it is."""
_KINDS = 12
"""At most so many kinds of modules are put back; a dense layer has seven."""
_PROBED_COLUMNS = 64
"""Columns that are looked at of a matrix that has to be probed, besides those of super weights."""


@dataclass(frozen=True, eq=False)
class SharedText:
    """A text that two models are measured on, cut, with its protocol and ids of stop words, int64 [ids]."""

    windows: Windows
    protocol: Protocol
    stop_words: torch.Tensor

    def part(self, begin: int, end: int) -> SharedText:
        """Return some of its windows, still under its protocol."""
        return replace(self, windows=self.windows.part(begin, end))


def share_text(
    parent: Checkpoint,
    descendant: Checkpoint,
    policy: CorpusPolicy,
    seed: int,
    engine: str = TRANSFORMERS,
    *,
    short: bool = False,
) -> SharedText:
    """Cut a text for two models that are to be compared token by token, BOS before each window or not.

    `engine` is what the descendant is measured in. Of `short` windows see `window_corpus`.

    Raises:
        CorpusError: If it cannot be read, or is too short.
        CheckpointError: If the two make different tokens of it.
    """
    text, models = read_corpus(policy), (descendant, parent)
    limit = min((model.maximum_positions for model in models if model.maximum_positions is not None), default=None)
    ours, theirs = (
        window_corpus(text, model.tokenizer, policy, limit, model.start.bos, short=short) for model in models
    )
    if not torch.equal(ours.token_ids, theirs.token_ids):
        raise CheckpointError(
            f"model {descendant.identity.source!r} beside its parent {parent.identity.source!r}",
            f"their tokenizers make different tokens of the text {policy.source!r}",
            "put the parent's tokenizer beside the descendant's weights, or name the model that it was made from",
        )
    return SharedText(
        ours,
        describe_protocol(text, ours, descendant.tokenizer, descendant.identity.dtype, seed, engine),
        stop_word_ids(list_stop_words(policy), descendant.tokenizer),
    )


def compare_on_text(
    parent: Checkpoint,
    descendant: Checkpoint,
    text: SharedText,
    counterfactuals: Sequence[Arm] = (),
    progress: Progress = ignore_progress,
    *,
    layers: bool = False,
    passes: ParentPasses | None = None,
) -> tuple[ComparedText, tuple[LayerError, ...]]:
    """Measure both models on a text, side by side, and the descendant with parts of the parent put back.

    The parent's layers may be in memory only while they run; the descendant is bit-identical afterwards.
    Comparing layers runs each of the descendant's once more. With `passes` the parent is run once for all
    descendants that are measured on the same text; then no counterfactual may take modules from it.

    Returns:
        The measurements, and one entry per layer; none if nobody asked or the two are not of one shape.
    """
    errors = LayerErrorObserver(batch_windows(text.windows, max(parent.vocabulary, descendant.vocabulary)))
    measurements = measure_arms(
        descendant,
        [Arm(purpose=PARENT), Arm(purpose=DESCENDANT), *counterfactuals],
        text.windows,
        protocol=text.protocol.signature,
        stop_words=text.stop_words,
        parent=parent,
        parent_passes=passes,
        observer=errors if layers and is_alike(parent, descendant) else None,
        progress=progress,
    )
    return ComparedText(protocol=text.protocol, measurements=measurements), tuple(errors.errors)


def restore_super_weights(
    parent: Checkpoint, descendant: Checkpoint, super_weights: Sequence[SuperWeight]
) -> Arm | None:
    """Return the arm in which the parent's super weights are put back; `None` if it has none of them."""
    addresses = [(weight, translate_address(parent, descendant, weight.address)) for weight in super_weights]
    acts = tuple(
        SetTo(addresses=group_addresses([address]), value=weight.value)
        for weight, address in addresses
        if address is not None
    )
    return Arm(purpose=RESTORED_WEIGHTS, acts=acts) if acts else None


def restore_module(module: str) -> Arm:
    """Return the arm in which one module, by its qualified name in the descendant, is the parent's."""
    return _restore(RestoredModule(module=module), [module])


def restore_parts(
    parent: Checkpoint,
    descendant: Checkpoint,
    ranked: Sequence[tuple[str, float | None]],
    errors: Sequence[LayerError] = (),
    *,
    lost: Sequence[str] = (),
    modules: int,
    layers: int,
) -> list[Arm]:
    """Return the arms in which single parts of the parent are put back, as far as they differ.

    First single modules, then whole layers, then kinds of modules (all that have one path inside their layers),
    and last all that decoder layers hold. Layers and all of them include what has no matrix, such as norms.

    Args:
        parent: The parent.
        descendant: The descendant, whose names are used.
        ranked: What `rank_modules` gives.
        errors: What each layer adds to the error; the layers that add most are put back, else those of the modules
            that differ most.
        lost: Modules that come before all others.
        modules: At most so many single modules.
        layers: At most so many layers.
    """
    known, differing = {name for name, _ in ranked}, [name for name, error in ranked if error != 0]
    held: dict[int, list[str]] = {}  # per layer, what can be put back
    kinds: dict[str, list[str]] = {}
    order: dict[int, int] = {}  # per layer, the place of its worst module
    places = {name: place for place, name in enumerate(differing)}
    for theirs, ours in zip(parent.layers, descendant.layers, strict=False):
        for path in _list_shared(
            theirs.module, ours.module, {name.removeprefix(f"{ours.name}.") for name in known}
        ):
            name = f"{ours.name}.{path}"
            if name in known and name not in places:
                continue
            held.setdefault(ours.index, []).append(name)
            if name in places:
                kinds.setdefault(path, []).append(name)
                order[ours.index] = min(order.get(ours.index, len(places)), places[name])
    added = {error.layer: _rate_layer(error) for error in errors}
    worst = sorted(
        (layer for layer in held if added.get(layer) or (not added and layer in order)),
        key=lambda layer: (-added.get(layer, 0.0), order.get(layer, len(places))),
    )
    names = {layer.index: layer.name for layer in descendant.layers}
    several = sorted(
        (one for one in kinds.items() if len(one[1]) > 1), key=lambda one: min(map(places.__getitem__, one[1]))
    )
    arms = [restore_module(name) for name in list(dict.fromkeys([*lost, *differing]))[:modules]]
    arms += [_restore(RestoredLayer(layer=names[layer]), held[layer]) for layer in worst[:layers]]
    arms += [_restore(RestoredKind(path=path), members) for path, members in several[:_KINDS]]
    everything = [name for members in held.values() for name in members]
    return [*arms, _restore(RestoredLayers(), everything)] if everything else arms


def restore_together(purpose: RestoredSet, alone: Mapping[Purpose, Arm]) -> Arm:
    """Return the arm in which several parts are put back, from the arms in which each is by itself."""
    acts = [act for part in purpose.parts for act in alone[part].acts]
    names = [name for act in acts if isinstance(act, SwapModules) for name in act.modules]
    scalars = tuple(act for act in acts if not isinstance(act, SwapModules))
    swaps = (SwapModules(modules=tuple(dict.fromkeys(names))),) if names else ()
    return Arm(purpose=purpose, acts=(*scalars, *swaps))


def _restore(purpose: Purpose, modules: Sequence[str]) -> Arm:
    return Arm(purpose=purpose, acts=(SwapModules(modules=tuple(modules)),))


def _rate_layer(error: LayerError) -> float:
    """Return noise over signal that a layer adds by itself; infinite where it is not known to be finite."""
    if error.own_noise is None or not error.signal:
        return math.inf
    return error.own_noise / error.signal


def _list_shared(theirs: nn.Module, ours: nn.Module, ranked: Collection[str]) -> Iterator[str]:
    """Yield the paths of what one layer can take from another: ranked modules, and others of the same shape."""
    parents = dict(theirs.named_modules())
    for path, module in ours.named_modules():
        shapes = {name: tensor.shape for name, tensor in module.named_parameters(recurse=False)}
        there = parents.get(path)
        if not path or there is None or not (shapes or path in ranked):
            continue
        same = shapes == {name: tensor.shape for name, tensor in there.named_parameters(recurse=False)}
        if path in ranked or same:
            yield path


def list_differences(parent: Checkpoint, descendant: Checkpoint, parent_identity: ModelIdentity) -> Iterator[str]:
    """Say what a reader should know of two models that are compared.

    The parent's identity is given apart, for its digest is known only where it was asked for.
    """
    ours, theirs = descendant.identity, parent_identity
    if ours.digest and ours.digest == theirs.digest:
        yield "Its weight files are those of its parent, byte for byte: is that what was to be compared?"
    if (ours.layers, ours.hidden_size) != (theirs.layers, theirs.hidden_size):
        yield (
            f"It has {ours.layers} layers of width {ours.hidden_size}, its parent {theirs.layers} of width "
            f"{theirs.hidden_size}: layers and modules are not held against each other."
        )
    if descendant.vocabulary != parent.vocabulary:
        yield (
            f"It knows {descendant.vocabulary} tokens, its parent {parent.vocabulary}: distributions are compared "
            "on the tokens that both know."
        )
    if ours.dtype != theirs.dtype:
        yield f"It was measured in {ours.dtype}, its parent in {theirs.dtype}."
    start, bos = descendant.start, parent.start.bos is not None
    if start.token is not None and start.automatic != bos:
        yield (
            f"It was measured {'with' if bos else 'without'} a BOS token before every text, as its parent was; by "
            f"itself it is used {'with' if start.automatic else 'without'} one."
        )


class LayerErrorObserver:
    """Observes how far a descendant is from its parent, layer by layer, over the scored tokens.

    What is not scored is left out of signal and noise: the token that a window begins with carries a massive
    activation in most models, beside which every error would look small. `errors` has one entry per layer that
    both models have, as far as the parent is finite.
    """

    def __init__(self, batches: Sequence[WindowBatch]) -> None:
        self.errors: list[LayerError] = []
        # Which tokens are scored, bool [windows, tokens] each.
        self._scored = [
            torch.arange(batch.token_ids.shape[1])[None, :] >= batch.first_scored[:, None] for batch in batches
        ]

    def see(
        self,
        layer: DecoderLayer,
        calls: Sequence[Callable[..., Any]],
        entering: States,
        leaving: Sequence[States],
        span: DownProjectionRange,
    ) -> None:
        """Compare what left the descendant's layer with what left the parent's."""
        parents, own = leaving[0], leaving[_DESCENDANT]
        signal = noise = own_noise = 0.0
        for batch, (scored, call) in enumerate(zip(self._scored, calls, strict=False)):
            theirs, ours = parents[batch], own[batch]
            if theirs.shape != ours.shape:
                return
            signal += _sum_squares(scored, theirs)
            if not math.isfinite(signal):
                return
            noise += _sum_squares(scored, ours, theirs)
            onto = take_states(call(layer.module, entering[batch].to(ours.device, ours.dtype)))
            own_noise += _sum_squares(scored, onto, theirs)
        self.errors.append(
            LayerError(
                layer=layer.index,
                signal=signal,
                noise=noise if math.isfinite(noise) else None,
                own_noise=own_noise if math.isfinite(own_noise) else None,
                down_input=span.entering,
                down_output=span.leaving,
                finite=span.finite,
            )
        )


def _sum_squares(scored: Tensor, states: Tensor, others: Tensor | None = None) -> float:
    """Sum the squares of states, or of differences to others, over scored tokens."""
    kept = states[scored.to(states.device)].double()  # [tokens, hidden]
    if others is not None:
        kept = kept - others[scored.to(others.device)].to(kept.device).double()
    return float(kept.square().sum())


@torch.no_grad()
def rank_modules(
    parent: Checkpoint, descendant: Checkpoint, super_weights: Collection[WeightAddress] = ()
) -> tuple[tuple[str, float | None], ...]:
    """Rank the modules of a descendant by how far their weights are from the parent's.

    The figure is the norm of the difference over the norm of the parent's weights, all experts of a module
    together. A matrix that can only be probed is sampled: so many columns, spread over all of it, stand for the
    others; the columns of super weights, the parent's, stand for themselves.

    Returns:
        Qualified names in the descendant with their error, worst first: before all others what is not finite, with
        `None`. What only one of the two has, or in another shape, is left out.
    """
    errors = [
        (f"{ours.name}.{path}", error)
        for theirs, ours in zip(parent.layers, descendant.layers, strict=False)
        for path, error in _measure_layer(theirs, ours, super_weights)
    ]
    return tuple(sorted(errors, key=lambda module: -math.inf if module[1] is None else -module[1]))


def _measure_layer(
    theirs: DecoderLayer, ours: DecoderLayer, super_weights: Collection[WeightAddress]
) -> Iterator[tuple[str, float | None]]:
    """Yield each module of a layer, by its name inside of it, with the relative error of its weights."""
    sums: dict[str, list[float]] = {}
    own_matrices = {(matrix.parameter, matrix.expert): matrix for matrix in ours.matrices}
    for matrix in theirs.matrices:
        inside = matrix.parameter.removeprefix(theirs.name)
        own = own_matrices.get((ours.name + inside, matrix.expert))
        if own is None or own.shape != matrix.shape:
            continue
        key = (matrix.parameter, matrix.expert)
        hot = {weight.column for weight in super_weights if (weight.parameter, weight.expert) == key}
        of_module = sums.setdefault(inside.removeprefix(".").rpartition(".")[0], [0.0, 0.0])
        for columns, represented in _choose_columns(own, hot):
            original = _read(matrix, columns)
            of_module[0] += represented * float((_read(own, columns) - original).square().sum())
            of_module[1] += represented * float(original.square().sum())
    for path, (noise, signal) in sums.items():
        if signal:
            error = math.sqrt(noise / signal)
            yield path, error if math.isfinite(error) else None


def _choose_columns(matrix: Matrix, hot: Collection[int]) -> Iterator[tuple[Tensor | None, float]]:
    """Yield columns to look at, int64, or `None` for all; each time with how many columns each represents."""
    width = matrix.shape[1]
    others = torch.tensor([column for column in range(width) if column not in hot])
    if matrix.probed is None or len(others) <= _PROBED_COLUMNS:
        yield None, 1.0
        return
    yield others[torch.linspace(0, len(others) - 1, _PROBED_COLUMNS).long()], len(others) / _PROBED_COLUMNS
    if hot:
        yield torch.tensor(sorted(hot)), 1.0


def _read(matrix: Matrix, columns: Tensor | None) -> Tensor:
    if columns is None or matrix.probed is None:
        weight = matrix.weight.detach()
        return (weight if columns is None else weight[:, columns.to(weight.device)]).cpu().double()
    grid = torch.cartesian_prod(torch.arange(matrix.shape[0]), columns).to(matrix.device)  # [out * columns, 2]
    return matrix.read_scalars(grid[:, 0], grid[:, 1]).cpu().double().view(-1, len(columns))
