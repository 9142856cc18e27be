"""Ranks all scalars of a model by one backward pass, one decoder layer at a time.

The score of a scalar is |w dL/dw|, with w as the layer applies it: what the loss changes by, to first order, where
the scalar is zeroed (Mozer and Smolensky 1989, Advances in Neural Information Processing Systems 1, pages 107 to
115; Molchanov et al. 2017, arXiv 1611.06440). It is taken on short pieces of the text and summed: in one piece a
scalar helps and in the next it harms, and over a long one both cancel. It does not see sets that matter only
together, nor values on a plateau, where the loss is flat around the value and is not at zero.

1. The layers run without gradients; what enters each is kept, [sequences, tokens, hidden] per batch, on disk where
   it outgrows `Checkpoint.memory`.
2. Embedding, last norm and head are differentiated at what leaves the last layer. Of the head what enters it and
   the gradient of its logits are kept, of the embedding the rows of the tokens that came: the scores of so large a
   matrix are made of these, some rows at a time.
3. From the last layer to the first: the layer runs once more, with gradients, on what entered it; its parameters'
   scores are kept as far as they are among the highest, and the gradient goes on to what entered. Where gradients
   and scores of all its parameters outgrow the memory, it runs once for some of them at a time.

So one layer's gradients are in memory at a time, whatever the depth, and a layer that is in memory only while it
runs can be differentiated, too. Beside it a layer's down-projection shows its largest products W[r, c] x[c]: a
plateau hides a spike from the gradient, but not from them. Nor does it hide what makes the neuron c fire: the
largest products of the matrices that lead into it, and the gains of the layer's norms on their channels. Of the
embedding it is the entries that make up most of a token's row.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import EllipsisType
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sw_audit.arms.matrices import packed_matrix_replaced
from sw_audit.checkpoint.matrices import DecoderLayer, DownProjection, take_states
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.checkpoint.parameters import ModelParameter, list_parameters
from sw_audit.corpus.windows import Windows
from sw_audit.errors import CheckpointError
from sw_audit.locate.weight_norms import find_inward_matrices, list_rows
from sw_audit.measure.engine import LayerwiseRunner
from sw_audit.measure.readers import batch_windows
from sw_audit.measure.states import KeptState, States, StateStore
from sw_audit.progress import Progress, ignore_progress

NEURONS, ENTRIES, EMBEDDED = 4, 3, 12
"""Of so many neurons so many entries are told in each matrix that leads into them; of the embedding so many."""
RANKED = 4096
"""So many of the highest scores are kept, and so many ranks are known."""
_SCORED_AT_ONCE = 1 << 20
"""Scalars of a parameter that are scored at once; it is the same whatever the memory, so that ties end alike."""
_BYTES_PER_SCALAR = 8
"""What a gradient and a score take, in float32."""

Place = tuple[int | slice | EllipsisType, ...]
"""Some neighbours in a tensor."""


class NoGradientError(Exception):
    """No gradient can be taken of a model, and why."""


@dataclass(frozen=True, eq=False)
class Scored:
    """One scalar with a score.

    Attributes:
        parameter: Whose it is.
        index: Which one, as addressed.
        score: |w dL/dw| in nats per token, summed over pieces of text; or of a product its size over the norm of
            the residual stream.
        value: As it is stored.
    """

    parameter: ModelParameter
    index: tuple[int, ...]
    score: float
    value: float


@dataclass(frozen=True, eq=False)
class Ranking:
    """What one pass forth and back showed.

    Attributes:
        by_gradient: Highest |w dL/dw| first, `RANKED` of them or all.
        by_product: Largest products of down-projections first, over the norm of the residual stream.
        feeding: What makes the neurons of the largest products fire, or makes up most of a token's embedding.
        ranked: How many scalars a gradient reached.
        unreached: Names of parameters that none did.
        nats: The loss, nats per token.
    """

    by_gradient: list[Scored]
    by_product: list[Scored]
    feeding: list[Scored]
    ranked: int
    unreached: list[str]
    nats: float


def rank_scalars(
    checkpoint: Checkpoint,
    pieces: Windows,
    *,
    products: int = 0,
    own_predictions: bool = False,
    progress: Progress = ignore_progress,
) -> Ranking:
    """Rank the scalars of a model by |w dL/dw| on some text; see the head of this file.

    Args:
        checkpoint: The model; its weights, and what they ask of gradients, are as before afterwards.
        pieces: The text, cut short.
        products: So many of the largest products of down-projections are told beside.
        own_predictions: Whether the loss is that of the tokens that the model itself finds likeliest.
        progress: Told after each layer.

    Raises:
        CheckpointError: If the loss is not finite.
        NoGradientError: If a module lets no gradient through.
    """
    with _asking_gradients(checkpoint), StateStore.of(checkpoint) as store:
        return _Backward(checkpoint, pieces, products, progress, store).rank(own_predictions)


def cut_pieces(windows: Windows, length: int, count: int) -> Windows:
    """Cut the first windows of a text into pieces of so many tokens, each with BOS in front if they have it."""
    lead = [] if windows.bos is None else [windows.bos]
    rows = [
        [*lead, *row[begin : begin + length]]
        for row in windows.token_ids[:count].tolist()
        for begin in range(len(lead), len(row), length)
    ]
    longest = max(map(len, rows))
    whole = [row for row in rows if len(row) == longest][:count]
    return Windows(torch.tensor(whole), torch.ones(len(whole), dtype=torch.long), bos=windows.bos)


@contextmanager
def _asking_gradients(checkpoint: Checkpoint) -> Iterator[None]:
    before = [(parameter, parameter.requires_grad) for parameter in checkpoint.model.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, asked in before:
            parameter.requires_grad_(asked)


@dataclass
class _Highest:
    """The highest scores so far, of all parameters that were added."""

    count: int
    owners: list[ModelParameter] = field(default_factory=list)
    scores: Tensor = field(default_factory=lambda: torch.empty(0))
    values: Tensor = field(default_factory=lambda: torch.empty(0))
    places: Tensor = field(default_factory=lambda: torch.empty(0, 2, dtype=torch.long))  # owner, place in it

    def add(self, parameter: ModelParameter, scores: Tensor, weight: Tensor) -> None:
        """Add the scores of a parameter and what it holds, both as addressed."""
        for place, first in _cut(scores.shape):
            self.add_some(parameter, scores[place], weight[place], first)

    def add_some(self, parameter: ModelParameter, scores: Tensor, weight: Tensor, first: int) -> None:
        """Add the scores of neighbours in a parameter, of which so many scalars come before them."""
        flat = scores.flatten()
        # Most have none that are high enough: finding that out is all that they cost.
        floor = float(self.scores[-1]) if len(self.scores) == self.count else -math.inf
        above = (flat > floor).nonzero()[:, 0]
        if not len(above):
            return
        best = flat[above].topk(min(self.count, len(above)))
        indices = above[best.indices]
        held = weight[torch.unravel_index(indices, scores.shape)].float().cpu()
        if not self.owners or self.owners[-1] is not parameter:
            self.owners.append(parameter)
        owner = torch.full((len(indices),), len(self.owners) - 1)
        merged = torch.cat([self.scores, best.values.cpu()])
        kept = merged.topk(min(self.count, len(merged)))
        self.scores = kept.values
        self.values = torch.cat([self.values, held])[kept.indices]
        places = torch.stack([owner, first + indices.cpu()], 1)
        self.places = torch.cat([self.places, places])[kept.indices]

    def list(self) -> list[Scored]:
        found = []
        rows = zip(self.scores.tolist(), self.values.tolist(), self.places.tolist(), strict=True)
        for score, value, (owner, place) in rows:
            parameter = self.owners[owner]
            index = tuple(int(one) for one in numpy.unravel_index(place, parameter.shape))
            found.append(Scored(parameter, index, score, value))
        return found


class _Backward:
    def __init__(
        self, checkpoint: Checkpoint, pieces: Windows, products: int, progress: Progress, store: StateStore
    ) -> None:
        self.checkpoint, self.progress, self.store = checkpoint, progress, store
        self.batches = [
            batch
            for number in range(len(pieces.token_ids))
            for batch in batch_windows(pieces.part(number, number + 1), checkpoint.vocabulary)
        ]
        self.runner = LayerwiseRunner(checkpoint, [batch.token_ids for batch in self.batches], store)
        self.parameters = list_parameters(checkpoint)
        self.highest, self.products = _Highest(RANKED), _Highest(products)
        self.reached: set[str] = set()
        self.gains: dict[str, list[float]] = {}  # as stored
        self.entering: dict[str, tuple[DecoderLayer, DownProjection, Tensor]] = {}  # by parameter; [hidden]
        self._outside = _Scores()
        self._products: defaultdict[str, list[tuple[KeptState, KeptState]]] = defaultdict(list)
        self.ranked = 0

    def rank(self, own_predictions: bool) -> Ranking:
        layers = self.checkpoint.layers
        steps = 2 * len(layers)
        entering: list[States] = []
        states = self.runner.embedded
        with torch.no_grad():
            for depth, layer in enumerate(layers):
                entering.append(states)
                with layer.present():
                    states = self._run_layer(layer, depth, states)
                self.progress("ranking", depth + 1, steps)
        outside = {one.name: one for one in self.parameters if one.layer is None}
        nats, gradients = self._differentiate_head(outside, states, own_predictions)
        for depth in reversed(range(len(layers))):
            with layers[depth].present():
                gradients = self._differentiate_layer(layers[depth], depth, entering.pop(), gradients)
            self.progress("ranking", steps - depth, steps)
        self._differentiate_embedding(outside, gradients)
        unreached = [one.name for one in self.parameters if one.name not in self.reached]
        products = self.products.list()
        feeding = [*self._list_embedded(), *self._list_feeding(products)] if self.products.count else []
        return Ranking(self.highest.list(), products, feeding, self.ranked, unreached, nats)

    def _run_layer(self, layer: DecoderLayer, depth: int, entering: States) -> States:
        calls = self.runner.calls[depth]
        downs = [down for down in layer.down_projections if self.products.count and down.fused is None]
        with ExitStack() as stack:
            seen = [(down, stack.enter_context(_seeing_inputs(down.module))) for down in downs]
            before = [
                (down, stack.enter_context(_seeing_inputs(module)))
                for down in downs
                if (module := self._find_inward_module(layer, down)) is not None
            ]
            leaving, of_batches = States(self.store), []
            for call, states in zip(calls, entering, strict=True):
                of_batches.append(states.flatten(0, 1).float().norm(dim=-1))
                leaving.append(take_states(call(layer.module, states)))
        norms = torch.cat(of_batches)
        for down, inputs in seen:
            self._add_products(down, inputs, norms)
        for down, inputs in before:
            if inputs:
                self.entering[down.parameter] = (layer, down, torch.cat(inputs).abs().amax(0))
        return leaving

    def _find_inward_module(self, layer: DecoderLayer, down: DownProjection) -> nn.Module | None:
        """Return the first module that leads into a down-projection: what enters it enters all of them."""
        inward = find_inward_matrices(layer, down)
        module: nn.Module | None = None
        if inward and down.expert_module is None:
            module = self.checkpoint.model.get_submodule(inward[0].parameter.rpartition(".")[0])
        return module

    def _add_products(self, down: DownProjection, seen: Sequence[Tensor], norms: Tensor) -> None:
        """Score each product by its largest size over the norm of the residual stream that it is added to."""
        parameter = self._find(down.parameter)
        if parameter is None or not seen:
            return
        inputs = torch.cat(list(seen))  # [tokens, inner]
        # Of experts that are modules only some tokens come by; the smallest norm stands for all then.
        over = norms[:, None] if len(inputs) == len(norms) else norms.min()
        largest = (inputs.abs() / over.clamp_min(torch.finfo(torch.float32).tiny)).amax(0)  # [inner]
        weight = parameter.weight

        def score(place: Place) -> Tensor:
            return weight[place].abs().float() * largest

        if all(bool(score(place).isfinite().all()) for place, _ in _cut(weight.shape)):
            for place, first in _cut(weight.shape):
                self.products.add_some(parameter, score(place), weight[place], first)

    def _find(self, name: str) -> ModelParameter | None:
        return next((one for one in self.parameters if one.name == name and one.matrix is not None), None)

    def _list_embedded(self) -> list[Scored]:
        """List the entries that make up most of a token's embedding, beyond what other tokens have there."""
        weight = self.checkpoint.model.get_input_embeddings().weight
        names = [name for name, one in self.checkpoint.model.named_parameters() if one is weight]
        parameter = next((one for one in self.parameters if one.name in names), None)
        if parameter is None:
            return []
        tokens = torch.unique(torch.cat([batch.token_ids.flatten() for batch in self.batches]))
        rows = parameter.weight[tokens.to(weight.device)].float()  # [tokens, hidden]
        beyond = rows.abs() - rows.abs().median(dim=0).values
        shares = beyond / rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        best = shares.flatten().topk(min(EMBEDDED, shares.numel()))
        found = []
        for share, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            token, channel = divmod(place, rows.shape[1])
            index = (int(tokens[token]), channel)
            found.append(Scored(parameter, index, share, float(rows[token, channel])))
        return found

    def _list_feeding(self, products: Sequence[Scored]) -> list[Scored]:
        """List what makes the neurons of the largest products fire: entries, and gains on their channels."""
        neurons = list(dict.fromkeys((one.parameter.name, one.index[1]) for one in products))
        found = []
        for name, neuron in [one for one in neurons if one[0] in self.entering][:NEURONS]:
            layer, down, entering = self.entering[name]
            for matrix in find_inward_matrices(layer, down):
                if (parameter := self._find(matrix.parameter)) is None:
                    continue
                rows = list_rows(matrix, down, neuron)
                weight = parameter.weight[rows]  # [rows, hidden]
                scores = weight.abs().float() * entering
                best = scores.flatten().topk(ENTRIES)
                for score, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                    row, channel = divmod(place, scores.shape[1])
                    found.append(Scored(parameter, (rows[row], channel), score, float(weight[row, channel])))
                channel = int(scores.amax(0).argmax())
                gains = [one for one in self.parameters if one.is_gain and one.layer == layer.index]
                found += [
                    Scored(gain, (channel,), float(scores.max()), self.gains[gain.name][channel])
                    for gain in gains
                    if gain.shape == (scores.shape[1],) and gain.name in self.gains
                ]
        return found

    def _differentiate_head(
        self, outside: dict[str, ModelParameter], states: States, own_predictions: bool
    ) -> tuple[float, States]:
        tokens = sum(len(places) for batch in self.batches for places in batch.pieces)
        total, gradients = 0.0, States(self.store)
        with self._asking_outside(outside, embedding=False) as leaves:
            for batch, leaving in zip(self.batches, states, strict=True):
                hidden, of_batch = leaving.detach().requires_grad_(), torch.zeros_like(leaving)
                for places in batch.pieces:
                    with torch.enable_grad():
                        logits = self.runner.run_head(batch.token_ids, hidden, places).float()
                        following = batch.token_ids.flatten()[places + 1].to(logits.device)
                        targets = logits.argmax(-1) if own_predictions else following
                        loss = cross_entropy(logits, targets, reduction="sum") / tokens
                    total += float(loss.detach())
                    if not math.isfinite(total):
                        found = "its loss on the text is not finite"
                        remedy = "audit the model's weights first, or run it in a wider dtype"
                        raise CheckpointError(f"scalars of {self.checkpoint.identity.source!r}", found, remedy)
                    given, *rest = self._differentiate(loss, [hidden, *leaves.values()])
                    if given is not None:
                        of_batch += given
                    self._outside.add(outside, leaves, rest)
                gradients.append(of_batch)
        return total, gradients

    def _differentiate_embedding(self, outside: dict[str, ModelParameter], gradients: States) -> None:
        with self._asking_outside(outside, embedding=True) as leaves:
            for batch, gradient in zip(self.batches, gradients, strict=True):
                with torch.enable_grad():
                    embedded = self.runner.embed(batch.token_ids)
                if embedded.requires_grad:
                    given = self._differentiate(embedded, [*leaves.values()], gradient)
                    self._outside.add(outside, leaves, given)
        for name, parameter in outside.items():
            if name in self._outside.weights or name in self._products:
                self._keep_outside(parameter)

    def _differentiate_layer(self, layer: DecoderLayer, depth: int, entering: States, gradients: States) -> States:
        parameters = [one for one in self.parameters if one.layer == layer.index]
        onward = States(self.store)
        for number, group in enumerate(self._group(parameters)):
            scores = _Scores()
            for call, states, gradient in zip(self.runner.calls[depth], entering, gradients, strict=True):
                inputs = states.detach().requires_grad_()
                with ExitStack() as stack, torch.enable_grad():
                    leaves = stack.enter_context(_leaves_of(layer, group))
                    leaving = take_states(call(layer.module, inputs))
                    given, *rest = self._differentiate(leaving, [inputs, *leaves.values()], gradient)
                scores.add(group, leaves, rest)
                if not number:
                    onward.append(given if given is not None else torch.zeros_like(inputs))
            for name, parameter in group.items():
                if name in scores.held:
                    held = parameter.see(scores.held[name]).reshape(parameter.shape)
                    weight = scores.weights[name]
                    self.highest.add(parameter, held.nan_to_num_(math.inf, math.inf), weight)
                    self._note_reached(parameter, weight)
        return onward

    def _group(self, parameters: Sequence[ModelParameter]) -> list[dict[str, ModelParameter]]:
        """Cut parameters into groups whose gradients and scores take half of the memory; neighbours together."""
        memory, groups, taken = self.checkpoint.memory, [dict[str, ModelParameter]()], 0
        for parameter in parameters:
            taken += parameter.size * _BYTES_PER_SCALAR
            if memory is not None and groups[-1] and taken > memory // 2:
                groups.append({})
                taken = parameter.size * _BYTES_PER_SCALAR
            groups[-1][parameter.name] = parameter
        return groups

    def _differentiate(
        self, output: Tensor, of: Sequence[Tensor], gradient: Tensor | None = None
    ) -> tuple[Tensor | None, ...]:
        try:
            return torch.autograd.grad(output, of, gradient, allow_unused=True)
        except RuntimeError as error:
            raise NoGradientError(str(error).splitlines()[0]) from error

    @contextmanager
    def _asking_outside(
        self, outside: dict[str, ModelParameter], *, embedding: bool
    ) -> Iterator[dict[str, Tensor]]:
        """Let what is outside of the layers take gradients; of a product note what they are made of instead."""
        leaves: dict[str, Tensor] = {}

        def begin(name: str, key: str, module: nn.Module, _: Any) -> None:
            # By now a module that is in memory only while it runs is there.
            leaves[name] = module.get_parameter(key).requires_grad_()

        with ExitStack() as stack:
            for name, parameter in outside.items():
                uses = [one.rpartition(".")[::2] for one in (name, *parameter.names)]
                modules = [(self.checkpoint.model.get_submodule(path), key) for path, key in uses]
                tables = [module for module, _ in modules if isinstance(module, nn.Embedding)]
                products = [module for module, key in modules if type(module) is nn.Linear and key == "weight"]
                for product in products:
                    hook = product.register_forward_hook(partial(self._see_product, name))
                    stack.callback(hook.remove)
                for table in tables:
                    stack.callback(setattr, table, "sparse", table.sparse)
                    table.sparse = True
                if products and not (tables and embedding):
                    continue
                module, key = modules[0]
                if module.get_parameter(key).is_meta:
                    stack.callback(module.register_forward_pre_hook(partial(begin, name, key)).remove)
                else:
                    leaves[name] = module.get_parameter(key).requires_grad_()
            try:
                yield leaves
            finally:
                for leaf in leaves.values():
                    leaf.requires_grad_(False)

    def _see_product(self, name: str, _: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        entering = self.store.keep(given[0].detach().flatten(0, -2))  # [tokens, in]

        def keep(gradient: Tensor) -> None:
            self._products[name].append((entering, self.store.keep(gradient.flatten(0, -2))))

        if output.requires_grad:
            output.register_hook(keep)  # type: ignore[no-untyped-call]

    def _keep_outside(self, parameter: ModelParameter) -> None:
        """Score a parameter that is outside of the layers, some of its rows at a time, over all of its uses."""
        name, scores = parameter.name, self._outside
        weight = found if (found := scores.weights.get(name)) is not None else parameter.weight
        for place, first in _cut(parameter.shape):
            score = torch.zeros(weight[place].shape, device=weight.device)
            for entering, gradient in self._products[name]:
                of_use = gradient.load()[:, place[0]].T @ entering.load()  # [rows, in]
                score += (of_use * weight[place]).abs_().float()
            if name in scores.held:
                score += scores.held[name].reshape(parameter.shape)[place]
            for tokens, of_rows in scores.rows[name]:
                begin = first // of_rows.shape[1]
                inside = (tokens >= begin) & (tokens < begin + len(score))
                score.index_add_(0, tokens[inside] - begin, of_rows[inside])
            self.highest.add_some(parameter, score.nan_to_num_(math.inf, math.inf), weight[place], first)
        self._note_reached(parameter, weight)

    def _note_reached(self, parameter: ModelParameter, weight: Tensor) -> None:
        self.reached.add(parameter.name)
        if parameter.is_gain:
            self.gains[parameter.name] = weight.tolist()
        self.ranked += parameter.size


def _cut(shape: Sequence[int]) -> Iterator[tuple[Place, int]]:
    """Cut a tensor into runs of neighbours, each with how many scalars come before it."""
    if not shape:
        yield (...,), 0
        return
    length, *rest = shape
    inner = math.prod(rest)
    if inner > _SCORED_AT_ONCE and len(rest) > 1:
        for one in range(length):
            yield from (((one, *place), one * inner + first) for place, first in _cut(rest))
        return
    count = max(1, _SCORED_AT_ONCE // max(1, inner))
    for first in range(0, length, count):
        yield (slice(first, min(first + count, length)),), first * inner


@dataclass
class _Scores:
    """|w dL/dw| by the parameter's name, float32, summed over pieces of text and uses.

    Attributes:
        held: All scores of a parameter, laid out as it is stored.
        rows: Of a table of which only some rows are used: which, int64 [rows], and theirs, [rows, ...], per use.
        weights: The parameters themselves, as addressed.
    """

    held: dict[str, Tensor] = field(default_factory=dict)
    rows: defaultdict[str, list[tuple[Tensor, Tensor]]] = field(default_factory=lambda: defaultdict(list))
    weights: dict[str, Tensor] = field(default_factory=dict)

    def add(
        self,
        parameters: dict[str, ModelParameter],
        leaves: Mapping[str, Tensor],
        gradients: Sequence[Tensor | None],
    ) -> None:
        for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
            if gradient is None:
                continue
            parameter, weight = parameters[name], leaf.detach()
            self.weights[name] = parameter.see(weight).reshape(parameter.shape)
            if gradient.is_sparse:
                gradient = gradient.coalesce()
                [rows], values = gradient.indices(), gradient.values()
                self.rows[name].append((rows, (values * weight[rows]).abs_().float()))
                continue
            if name not in self.held:
                self.held[name] = torch.zeros(leaf.shape, device=leaf.device)
            held = self.held[name]
            for place, _ in _cut(leaf.shape):
                applied = weight[place] + parameter.offset if parameter.offset else weight[place]
                held[place] += (gradient[place] * applied).abs_().float()


@contextmanager
def _seeing_inputs(module: nn.Module) -> Iterator[list[Tensor]]:
    """Note what enters a module, float32 [tokens, channels] per call."""
    inputs: list[Tensor] = []

    def see(_: nn.Module, given: tuple[Any, ...]) -> None:
        inputs.append(given[0].detach().flatten(0, -2).float())

    handle = module.register_forward_pre_hook(see)
    try:
        yield inputs
    finally:
        handle.remove()


@contextmanager
def _leaves_of(layer: DecoderLayer, parameters: dict[str, ModelParameter]) -> Iterator[dict[str, Tensor]]:
    """Let a layer's parameters take gradients once it runs; what is packed answers with a matrix that does."""
    leaves: dict[str, Tensor] = {}

    def begin(module: nn.Module, *_: Any) -> None:
        # By now a layer that is in memory only while it runs is there.
        for inside, parameter in module.named_parameters():
            name = f"{layer.name}.{inside}"
            if name in parameters and name not in leaves:
                leaves[name] = parameter.requires_grad_()

    with ExitStack() as stack:
        for name, parameter in parameters.items():
            if parameter.matrix is not None and parameter.matrix.probed is not None:
                leaves[name] = parameter.weight.detach().clone().requires_grad_()
                stack.enter_context(packed_matrix_replaced(parameter.matrix.probed, leaves[name]))
        stack.callback(layer.module.register_forward_pre_hook(begin).remove)
        try:
            yield leaves
        finally:
            for leaf in leaves.values():
                leaf.requires_grad_(False)
