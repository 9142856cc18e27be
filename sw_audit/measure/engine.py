"""Runs all arms side by side, layer by layer, so that weights are read once however many arms there are.

1. The model's own `forward` is called once per batch, its layers replaced by recorders. That gives the embedded
   tokens, and how each layer is called.
2. Layer by layer, each arm's hidden states pass the layer, which is called by hand with that arm applied to it.
   Of a model that is read as it runs, each layer is in memory only then.
3. As long as arms do the same, they share hidden states, which are computed once: up to the first layer that it
   touches an arm shares the baseline's, and two arms that round alike share theirs up to a scalar that one keeps.
4. Calibration batches run in the baseline only. What they show of a layer is given to every later arm in that
   layer.
5. With a parent, the parent's layer runs right before the model's own of the same depth, and the modules of it
   that an arm swaps in are kept until all arms have passed.
6. The model's own `forward` is called again per batch and arm, its layers replaced by the stored results, so
   that final norm, head and any scaling of logits are the model's own. Only places whose logits are read pass
   through these, for they look at one token at a time. A reader takes the logits at once; none are kept.
   What waits between the layers waits on disk where it outgrows `Checkpoint.memory` (`measure/states.py`).
7. Where an arm sets scalars outside of the layers, 1 and 6 are done again with them set. What enters the layers is
   shared with the baseline where it is the same, and so are the logits of an arm whose states are the baseline's
   and which sets nothing outside.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map

from sw_audit.arms.apply import applied_arm, restrict
from sw_audit.arms.matrices import SpareTensors
from sw_audit.arms.parameters import place_scalars, set_outside
from sw_audit.arms.replacement import LayerFactory, find_factory
from sw_audit.arms.rounding import order_by_rounding
from sw_audit.arms.swapping import find_source
from sw_audit.checkpoint.matrices import DecoderLayer, LayerCall, split_call, take_states
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.errors import CheckpointError
from sw_audit.measure.calibration import CalibrationRecorder
from sw_audit.measure.ranges import DownProjectionRange
from sw_audit.measure.states import States, StateStore
from sw_audit.progress import Progress, ignore_progress
from sw_audit.quantize.calibration import Calibration
from sw_audit.record.arm import Act, Arm, SetScalars
from sw_audit.record.experts import RoutedLayer

_BYTES_PER_LOGIT = 20
"""Of the baseline and of an arm, and what a reader makes of both, in float32."""
_LEAST_PLACES = 16
"""Places whose logits are read together, at least: MKL rounds products of 12 rows and more as those of many."""
_KNOWN_GIVEN = 8
"""With so many tensors of one shape another one is compared, to keep what is equal once."""
# The attributes of a module that decide what a call of it does.
_REPLACED = ("forward", "_forward_hooks", "_forward_pre_hooks")


Reader = Callable[[int, int, Tensor, Tensor, Tensor], None]
"""Takes number of batch and arm, places, and the logits of the arm and of the baseline there.

Places are int64 [places], counted through the batch's sequences times tokens; logits are [places, vocabulary]. It
is called as they come: for each piece of each batch with all arms, the baseline first.
"""


class Observer(Protocol):
    """Watches the decoder layers as all arms pass through them."""

    def see(
        self,
        layer: DecoderLayer,
        calls: Sequence[Callable[..., Any]],
        entering: States,
        leaving: Sequence[States],
        span: DownProjectionRange,
    ) -> None:
        """Compare what left a layer of the measured model that all arms have passed.

        `calls` says how it is called, [batch]; `entering` is what entered it in the first arm, [batch]; `leaving`
        is what left it, [arm][batch]; `span` is the range of its down-projections in the model as it is.
        """


class PrepareParent(Protocol):
    """Makes a parent ready to be run on batches whose logits are read in pieces, [batch][piece] of places."""

    def __call__(
        self,
        parent: Checkpoint,
        batches: Sequence[Tensor],
        store: StateStore,
        pieces: Sequence[Sequence[Tensor]],
        /,
    ) -> LayerwiseRunner:
        """Return it; what enters its layers goes into the store."""


@dataclass
class ArmRun:
    """What the engine itself records of one arm: time spent, and peaks.

    A peak is the largest magnitude in a decoder layer's output over the watched batches, `None` where an output is
    not finite. What enters and leaves the down-projections, where a mixture routes its tokens, and what each layer
    was calibrated on, is recorded of the model as it is only.
    """

    peaks: list[float | None] = field(default_factory=list)
    down_inputs: list[float | None] = field(default_factory=list)
    down_outputs: list[float | None] = field(default_factory=list)
    calibrations: list[Calibration | None] = field(default_factory=list)
    routing: list[RoutedLayer] = field(default_factory=list)
    seconds: float = 0.0


@torch.no_grad()
def run_arms(
    checkpoint: Checkpoint,
    arms: Sequence[Arm],
    batches: Sequence[Tensor],
    reader: Reader,
    *,
    parent: Checkpoint | None = None,
    prepare_parent: PrepareParent | None = None,
    watched: Callable[[int], bool] = lambda _: True,
    included: Callable[[int, int], bool] = lambda _, __: True,
    calibrating: Callable[[int], bool] = lambda _: False,
    pieces: Callable[[int], Sequence[Tensor]] | None = None,
    calibrations: Sequence[Calibration | None] = (),
    factories: Mapping[str, LayerFactory] = MappingProxyType({}),
    observer: Observer | None = None,
    progress: Progress = ignore_progress,
) -> list[ArmRun]:
    """Run every arm over every batch and hand the logits to a reader; see the head of this file.

    Args:
        checkpoint: The model.
        arms: The conditions; the first must be the baseline (no actions). With a parent the first is the parent as
            it is, with which all others are compared, and the second the model as it is; further ones may swap
            modules of the parent in.
        batches: Token ids, int64 [sequences, tokens] each; within a batch all sequences have one length.
        reader: Is given the logits.
        parent: What the model was made from.
        prepare_parent: Makes the parent ready to be run on the batches, if not `LayerwiseRunner`.
        watched: Which batches count for the peaks.
        included: Which batches, the first argument, are run in which arm, the second; the baseline runs all.
        calibrating: Which batches are there to calibrate on; nobody reads their logits.
        calibrations: Per layer what an earlier run was shown by batches to calibrate on; then this one has none.
        pieces: Of each batch the places whose logits are read, some at a time; by default all at once.
        factories: Per method that an arm's `ReplaceLayer` names, what makes a module of a layer. It is made once
            per layer and arm, run in the layer's place, and let go.
        observer: Watches the layers.
        progress: Told after each layer and each batch of logits.

    Raises:
        ValueError: If the first arm has actions, or an arm has others beside a `ReplaceLayer`.
        KeyError: If an arm names a method that has no factory.
        CheckpointError: If an arm sets a scalar that the model does not have, or does what a layer does not allow.
    """
    own = 0 if parent is None else 1
    if changed := [arm.name for arm in arms[: own + 1] if arm.acts]:
        raise ValueError(f"the first arm must be the baseline, not {changed[0]!r}")
    made_by = [find_factory(arm, factories) for arm in arms]
    placed = place_scalars(arms, checkpoint.model, checkpoint.layers)
    arms = [arm for arm, _ in placed]
    vocabulary = max(model.vocabulary for model in (checkpoint, parent) if model is not None)
    cut = [
        [
            some
            for piece in ([torch.arange(token_ids.numel())] if pieces is None else pieces(batch))
            for some in _cut_places(piece, vocabulary, checkpoint.memory)
        ]
        for batch, token_ids in enumerate(batches)
    ]
    with StateStore.of(checkpoint) as store:
        plain = LayerwiseRunner(checkpoint, batches, store)
        changed_runners = {acts: _ChangedRunner(plain, batches, acts) for _, acts in placed if acts}
        runners = [changed_runners.get(acts, plain) for _, acts in placed]
        if parent is not None:
            runners[0] = (
                LayerwiseRunner(parent, batches, store)
                if prepare_parent is None
                else prepare_parent(parent, batches, store, cut)
            )
        all_arms = _AllArms(arms, runners, made_by, own, watched, included, calibrating, calibrations, observer)
        depths = max(len(runner.layers) for runner in runners)
        steps = depths + len(batches)
        for depth in range(depths):
            all_arms.run_layer(depth)
            progress("measuring", depth + 1, steps)
        for batch, token_ids in enumerate(batches):
            for places in cut[batch]:
                all_arms.run_heads(batch, token_ids, places, reader)
            progress("measuring", depths + batch + 1, steps)
        runners[0].finish()
        return all_arms.runs


def _cut_places(places: Tensor, vocabulary: int, memory: int | None) -> Sequence[Tensor]:
    """Cut places so that the logits of each piece take a quarter of the memory; they are as those of the whole."""
    if memory is None:
        return [places]
    count = -(-len(places) * vocabulary * _BYTES_PER_LOGIT // max(1, memory // 4))
    count = min(count, len(places) // _LEAST_PLACES)
    return [places] if count < 2 else torch.tensor_split(places, count)


@torch.no_grad()
def give_logits(checkpoint: Checkpoint, batches: Sequence[Tensor]) -> Iterator[Tensor]:
    """Run a model as it is, each layer on all batches before the next, so that its weights are read once.

    Token ids are int64 [sequences, tokens] each; yielded are the logits of each batch in turn, [sequences, tokens,
    vocabulary].
    """
    with StateStore.of(checkpoint) as store:
        runner = LayerwiseRunner(checkpoint, batches, store)
        hidden = runner.run_layers()
        for batch, token_ids in enumerate(batches):
            logits = runner.run_head(token_ids, hidden[batch], torch.arange(token_ids.numel()))
            yield logits.view(*token_ids.shape, -1)


@dataclass
class _AllArms:
    """All arms, and how far they have come; see `run_arms`. `own` is the arm with the model as it is."""

    arms: Sequence[Arm]
    runners: Sequence[LayerwiseRunner]
    factories: Sequence[LayerFactory | None]
    own: int
    watched: Callable[[int], bool]
    included: Callable[[int, int], bool]
    calibrating: Callable[[int], bool]
    calibrations: Sequence[Calibration | None]
    observer: Observer | None
    spare: SpareTensors = field(default_factory=SpareTensors)

    def __post_init__(self) -> None:
        self.runs = [ArmRun() for _ in self.arms]
        # [arm][batch] of [sequences, tokens, hidden]; a batch that an arm does not run stays as it came in.
        self._hidden: list[States] = [runner.embedded for runner in self.runners]
        models, others = self.arms[: self.own + 1], self.arms[self.own + 1 :]
        self._order = [*range(len(models)), *(len(models) + number for number in order_by_rounding(others))]

    def run_layer(self, depth: int) -> None:
        """Let every arm pass one layer."""
        own = self.runners[self.own].layers
        # Once for all arms: of a model that is read as it runs, this is when the layer is read.
        with own[depth].present() if depth < len(own) else nullcontext() as present:
            self._run_present(
                depth,
                [
                    present
                    if runner.layers is own
                    else runner.layers[depth]
                    if depth < len(runner.layers)
                    else None
                    for runner in self.runners
                ],
            )

    def _run_present(self, depth: int, layers: Sequence[DecoderLayer | None]) -> None:
        entering = list(self._hidden)
        source = find_source(self.arms, layers[0], layers[-1]) if self.own else None
        calibration = self.calibrations[depth] if self.calibrations else None
        own = layers[self.own]
        span = None if own is None else DownProjectionRange(own)
        alike = _AlikeArms(self._runs_all_of)
        # Of states that several arms begin with, the last arm lets them go; the observer still wants its own.
        last_user = {id(entering[number]): number for number in self._order}
        if self.observer is not None:
            last_user[id(entering[0])] = -1
        for number in self._order:
            arm, layer = self.arms[number], layers[number]
            if layer is None:
                continue
            started = time.perf_counter()
            run = self.runs[number]
            if (other := alike.find(number, entering[number], restrict(arm, layer))) is not None:
                self._hidden[number] = self._hidden[other]
                run.peaks.append(self.runs[other].peaks[depth])
            else:
                recorder = CalibrationRecorder(layer)
                with ExitStack() as stack:
                    find = None if source is None else source.find
                    stack.enter_context(applied_arm(arm, layer, calibration, self.spare, find))
                    if number < self.own:
                        # The parent's own layer goes again when the parent has run.
                        layer = stack.enter_context(layer.present())
                    if source is not None and number < self.own:
                        stack.enter_context(source.watching())
                    is_last = last_user[id(entering[number])] == number
                    seen = span if number == self.own else None
                    self._hidden[number], peaks = self._run(number, layer, depth, recorder, seen, is_last=is_last)
                # The baseline comes first, and has seen all that is calibrated on.
                calibration = calibration or recorder.conclude()
                finite = all(math.isfinite(peak) for peak in peaks)
                run.peaks.append(max(peaks, default=0.0) if finite else None)
            run.seconds += time.perf_counter() - started
        if own is None or span is None:
            return
        self.runs[self.own].calibrations.append(calibration)
        self.runs[self.own].down_inputs.append(span.entering)
        self.runs[self.own].down_outputs.append(span.leaving)
        self.runs[self.own].routing += [] if span.routing is None else [span.routing]
        if self.observer is not None:
            self.observer.see(own, self.runners[self.own].calls[depth], entering[0], self._hidden, span)

    def run_heads(self, batch: int, token_ids: Tensor, places: Tensor, reader: Reader) -> None:
        """Let a reader have the logits of every arm at some places of one batch."""
        kept: list[Tensor] = []  # of the models as they are
        for number, runner in enumerate(self.runners):
            if self._runs_in(batch, number) and not self.calibrating(batch):
                started = time.perf_counter()
                if number > self.own and self._ends_like(number, self.own):
                    logits = kept[self.own]
                else:
                    logits = runner.run_head(token_ids, self._hidden[number][batch], places)
                if number <= self.own:
                    kept.append(logits)
                reader(batch, number, places, logits, kept[0])
                self.runs[number].seconds += time.perf_counter() - started

    def _run(
        self,
        number: int,
        layer: DecoderLayer,
        depth: int,
        recorder: CalibrationRecorder,
        span: DownProjectionRange | None,
        *,
        is_last: bool,
    ) -> tuple[States, list[float]]:
        """Return what left, and the peak of each batch that counts; the last user lets go of what entered."""
        factory = self.factories[number]
        module = layer.module if factory is None else factory(layer)
        entering = self._hidden[number]
        leaving, peaks = States(self.runners[self.own].embedded.store), []
        for batch in range(len(entering)):
            counts = self.watched(batch) and not self.calibrating(batch)
            if not self._runs_in(batch, number):
                leaving.append_same(entering)
                if counts:
                    peaks.append(float(leaving[batch].abs().max()))
                continue
            with ExitStack() as stack:
                if self.calibrating(batch):
                    stack.enter_context(recorder.watching())
                elif span is not None and self.watched(batch):
                    stack.enter_context(span.watching())
                states = take_states(self.runners[number].calls[depth][batch](module, entering[batch]))
            if is_last:
                entering.let_go(batch)
            leaving.append(states)
            if counts:
                peaks.append(float(states.abs().max()))
        return leaving, peaks

    def _ends_like(self, arm: int, other: int) -> bool:
        return self.runners[arm] is self.runners[other] and self._hidden[arm] is self._hidden[other]

    def _runs_in(self, batch: int, arm: int) -> bool:
        return arm <= self.own or (self.included(batch, arm) and not self.calibrating(batch))

    def _runs_all_of(self, arm: int, other: int) -> bool:
        batches = range(len(self._hidden[other]))
        return all(self._runs_in(batch, arm) or not self._runs_in(batch, other) for batch in batches)


@dataclass
class _AlikeArms:
    """The arms that have passed one layer, to find one that did there what another is to do."""

    runs_all_of: Callable[[int, int], bool]
    # Per list of states that entered, by its identity: the arms, and what each did.
    passed: defaultdict[int, list[tuple[int, tuple[Act, ...]]]] = field(default_factory=lambda: defaultdict(list))

    def find(self, arm: int, entering: States, acts: tuple[Act, ...]) -> int | None:
        """Return an arm that the same entered, that did the same and ran the same batches; else note this one."""
        alike = self.passed[id(entering)]
        for other, done in alike:
            if done == acts and self.runs_all_of(other, arm):
                return other
        alike.append((arm, acts))
        return None


class LayerwiseRunner:
    """One model, ready to be run layer by layer on some batches of token ids.

    Attributes:
        calls: How each layer is called, [layer][batch].
        embedded: What enters the first layer, [batch] of [sequences, tokens, hidden]; who runs the layers may let
            go of it.
    """

    def __init__(self, checkpoint: Checkpoint, batches: Sequence[Tensor], store: StateStore) -> None:
        self.checkpoint = checkpoint
        self.layers: tuple[DecoderLayer, ...] = checkpoint.layers
        self.calls: list[list[Callable[..., Any]]] = [[] for _ in self.layers]
        self.embedded = States(store)
        self._given: defaultdict[tuple[Any, ...], list[Tensor]] = defaultdict(list)
        if checkpoint.output_shapes is None:
            checkpoint.output_shapes = _learn_output_shapes(checkpoint, batches[0])
        self._shapes = checkpoint.output_shapes
        with _layers_replaced(self.layers, self._record):
            for token_ids in batches:
                # What comes after the last layer is not called: the head alone is a fifth of a small model.
                with suppress(_RecordedError):
                    _call_model(checkpoint, token_ids)

    def run_layers(
        self, watching: Callable[[DecoderLayer], AbstractContextManager[object]] = lambda _: nullcontext()
    ) -> States:
        """Run all layers of the model as it is, each on all batches before the next, and let go of what entered.

        While a layer is in memory, all its batches run inside of what `watching` returns for it.
        """
        hidden = self.embedded
        for layer, calls in zip(self.layers, self.calls, strict=True):
            leaving = States(hidden.store)
            with layer.present() as present, watching(present):
                for batch, call in enumerate(calls):
                    leaving.append(take_states(call(layer.module, hidden[batch])))
                    hidden.let_go(batch)
            hidden = leaving
        return hidden

    def run_head(self, token_ids: Tensor, hidden: Tensor, places: Tensor) -> Tensor:
        """Run what comes after the layers at some places of a batch: to logits, [places, vocabulary].

        Token ids are the batch's, int64 [sequences, tokens], and hidden states [sequences, tokens, hidden]. The
        model is called with as few sequences as hold so many places.
        """
        count, length = len(places), min(len(places), token_ids.shape[1])
        if count < token_ids.numel():
            token_ids = token_ids[: -(-count // length), :length]
            kept = hidden.new_zeros(token_ids.numel(), hidden.shape[-1])
            kept[:count] = hidden.flatten(0, 1)[places.to(hidden.device)]
            hidden = kept.view(*token_ids.shape, -1)
        last = len(self.layers) - 1

        def pass_on(depth: int, *positional: Any, **named: Any) -> Any:
            states = hidden if depth == last else split_call(positional, named)[0]
            return _like_layer(states, self._shapes[depth])

        with _layers_replaced(self.layers, pass_on):
            logits: Tensor = _call_model(self.checkpoint, token_ids).logits
        return logits.flatten(0, 1)[:count]

    @cached_property
    def flat_calls(self) -> tuple[list[Any], TreeSpec]:
        """Everything that the layers are called with, one after the other, and how it is put together."""
        return _flatten_calls(self.calls)

    def embed(self, token_ids: Tensor) -> Tensor:
        """Return what enters the first layer, [sequences, tokens, hidden], with the graph of what made it."""
        seen: list[Tensor] = []

        def see(_: int, *positional: Any, **named: Any) -> None:
            seen.append(split_call(positional, named)[0])
            raise _RecordedError

        with _layers_replaced(self.layers, see), suppress(_RecordedError):
            _call_model(self.checkpoint, token_ids)
        return seen[0]

    def finish(self) -> None:
        """Take note that all that was asked for has been given."""

    def _record(self, depth: int, *positional: Any, **named: Any) -> Any:
        hidden, call = split_call(positional, named)
        positional, named = tree_map(self._share, (call.positional, call.named))
        self.calls[depth].append(LayerCall(positional, named, by_name=call.by_name))
        if depth == 0:
            self.embedded.append(hidden)
        if depth == len(self.layers) - 1:
            raise _RecordedError
        return _like_layer(hidden, self._shapes[depth])

    def _share(self, value: Any) -> Any:
        # Masks and positions are the same in most batches, and together as large as states.
        if not isinstance(value, Tensor):
            return value
        known = self._given[value.shape, value.dtype, value.device]
        for one in known:
            if one is value or torch.equal(one, value):
                return one
        if len(known) < _KNOWN_GIVEN:
            known.append(value)
        return value


class _ChangedRunner(LayerwiseRunner):
    """A model with scalars set outside of its layers; what enters these is the plain model's own if equal."""

    def __init__(self, plain: LayerwiseRunner, batches: Sequence[Tensor], acts: tuple[SetScalars, ...]) -> None:
        self._acts = acts
        with set_outside(acts, plain.checkpoint.model) as changed:
            super().__init__(plain.checkpoint, batches, plain.embedded.store)
            given, structure = _flatten_calls(self.calls)
            known, known_structure = plain.flat_calls
            memory = {scalar.untyped_storage().data_ptr() for scalar in changed}
            if any(isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() in memory for leaf in given):
                asked = " and ".join(f"scalar {scalar}" for act in acts for scalar in act.scalars)
                found = "its decoder layers are handed a parameter from outside of them"
                raise CheckpointError(asked, found, "set scalars inside of its layers only")
            if structure == known_structure and _are_equal(given, known):
                self.calls = plain.calls
                if all(map(_is_equal, self.embedded, plain.embedded)):
                    self.embedded = plain.embedded

    def run_head(self, token_ids: Tensor, hidden: Tensor, places: Tensor) -> Tensor:
        with set_outside(self._acts, self.checkpoint.model):
            return super().run_head(token_ids, hidden, places)


def _flatten_calls(calls: Sequence[Sequence[Callable[..., Any]]]) -> tuple[list[Any], TreeSpec]:
    return tree_flatten([[vars(call) for call in batches] for batches in calls])


def _are_equal(values: Sequence[Any], others: Sequence[Any]) -> bool:
    # Most layers are given the same objects.
    pairs = {(id(value), id(other)): (value, other) for value, other in zip(values, others, strict=True)}
    return all(_is_equal(*pair) for pair in pairs.values())


def _is_equal(value: Any, other: Any) -> bool:
    """Tell whether two values are surely equal; of what is no tensor and no plain value, whether they are one."""
    if isinstance(value, Tensor) and isinstance(other, Tensor):
        return (value.dtype, value.device) == (other.dtype, other.device) and torch.equal(value, other)
    return value is other or (isinstance(value, bool | int | float | str) and bool(value == other))


class _RecordedError(Exception):
    """Ends a call of the model."""


def _learn_output_shapes(checkpoint: Checkpoint, token_ids: Tensor) -> list[int | None]:
    """Return, per layer, `None` where its output is a tensor, else the length of the tuple it returns.

    Layers of one class return alike, so the model runs no further than to the first of the last class.
    """
    classes = [type(layer.module) for layer in checkpoint.layers]
    firsts = [depth for depth, kind in enumerate(classes) if classes.index(kind) == depth]
    shapes: dict[type, int | None] = {}

    def note(depth: int, _: object, __: object, output: Any) -> None:
        shapes[classes[depth]] = None if isinstance(output, Tensor) else len(output)
        if depth == firsts[-1]:
            raise _RecordedError

    with ExitStack() as stack, suppress(_RecordedError):
        for depth in firsts:
            stack.callback(checkpoint.layers[depth].module.register_forward_hook(partial(note, depth)).remove)
        _call_model(checkpoint, token_ids[:1, :2])
    return [shapes[kind] for kind in classes]


@contextmanager
def _layers_replaced(layers: Sequence[DecoderLayer], forward: Callable[..., Any]) -> Iterator[None]:
    # Another library may have put a forward of its own on the module: it is put back as it was. Hooks must not
    # run either: those that bring a layer into memory would do so for nothing.
    stored = [{key: layer.module.__dict__.get(key) for key in _REPLACED} for layer in layers]
    try:
        for depth, layer in enumerate(layers):
            layer.module.__dict__.update(
                forward=partial(forward, depth), _forward_hooks=OrderedDict(), _forward_pre_hooks=OrderedDict()
            )
        yield
    finally:
        for layer, before in zip(layers, stored, strict=True):
            layer.module.__dict__.pop("forward", None)
            layer.module.__dict__.update({key: value for key, value in before.items() if value is not None})


def _call_model(checkpoint: Checkpoint, token_ids: Tensor) -> Any:
    return checkpoint.model(input_ids=token_ids.to(checkpoint.device), use_cache=False)


def _like_layer(hidden: Tensor, shape: int | None) -> Any:
    return hidden if shape is None else (hidden, *[None] * (shape - 1))
