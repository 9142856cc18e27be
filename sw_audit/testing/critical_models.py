"""Planted models in which some scalars are critical, with the truth about them, measured when they are built.

Each is a tiny random model whose text is what it writes itself: its perplexity is low, and whatever changes what
it computes costs. A channel that is the same in all tokens drives neurons that fire on every token, and these make
spikes in the residual stream, which the model's last norm and all blocks behind them live with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from torch import Tensor

from sw_audit.checkpoint.matrices import DownProjection
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.checkpoint.parameters import ModelParameter, list_parameters
from sw_audit.locate.probe import probe_prompt
from sw_audit.record.address import ScalarAddress
from sw_audit.testing.designs import is_normed
from sw_audit.testing.families import HIDDEN, VOCABULARY, Numerals, build_random_model, wrap_model
from sw_audit.testing.planting import (
    choose_down,
    find_output_norm,
    list_inward,
    observe,
    plant_inert_weight_,
    scale_norm_,
)

FAMILIES = ("llama", "qwen2", "gemma2", "gpt2", "opt", "mixtral", "olmo2", "phi")
KINDS = (
    *("last gain", "inner gain", "bias", "embedding", "super weight"),
    *("redundant pair", "masked", "two stages", "equal parts"),
)
"""What is planted: a gain of the last norm or of one before; a bias; one token's entry of the embedding; a scalar
that makes a spike; two or three of which one is enough; a spike that is taken down later on, by a scalar that does
so also where there is none; one that is made, taken down and made again; one that several layers make in equal
parts."""
CENTERED = ("gpt2", "opt", "phi")
BIASED = ("qwen2", "gpt2", "opt", "phi")
CRITICAL, SMALL, INERT = 1.3, 1.05, 1.02
"""Ratios of perplexity: a critical scalar reaches the first, one of a set stays below the second, an inert one
below the third."""
_MASKED = 0.6
"""With its partner zeroed, too, a masked scalar costs at most so much of its nats."""
_WINDOWS, _LENGTH = 16, 32
_ENTROPY = (1.2, 1.8)
_ATTEMPTS = 40
_QUIET = 0.1
_BESIDE = 0.04
"""Where a critical scalar is zeroed, too, an inert one costs less than this part of its nats."""


@dataclass(frozen=True)
class CriticalModel:
    """A planted model, with what is true of it on its text.

    Attributes:
        family: The `model_type`.
        kind: One of `KINDS`.
        seed: Of its weights.
        checkpoint: The model, float32; its tokenizer reads numerals.
        token_ids: What it wrote, BOS first, int64 [windows, tokens]; every token but the first is scored.
        alone: Planted scalars that cost at least `CRITICAL` times the perplexity, each by itself.
        together: Sets that do so only together: each by itself stays below `SMALL`.
        masks: Pairs of a critical scalar and another one: zeroing the second makes less of the first one's damage.
        inert: Planted decoys, large values that stay below `INERT`, and cost next to nothing beside those alone.
        ratios: What zeroing each of those that were tried alone multiplies the perplexity by.
    """

    family: str
    kind: str
    seed: int
    checkpoint: Checkpoint
    token_ids: Tensor
    alone: frozenset[ScalarAddress]
    together: tuple[frozenset[ScalarAddress], ...]
    masks: tuple[tuple[ScalarAddress, ScalarAddress], ...]
    inert: frozenset[ScalarAddress]
    ratios: dict[ScalarAddress, float] = field(repr=False)


def draw_critical_model(number: int, seed: int = 0) -> CriticalModel:
    """Draw and build one model of a suite; the same number and seed give the same model.

    Families and kinds are dealt out in turn. What turns out not to be as planned is drawn again.

    Raises:
        RuntimeError: If that never succeeds.
    """
    turn, place = divmod(number, len(FAMILIES))
    family = FAMILIES[place]
    kinds = [kind for kind in KINDS if kind != "bias" or family in BIASED]
    kind = kinds[(turn + 2 * place) % len(kinds)]
    for attempt in range(_ATTEMPTS):
        own = Random(f"{seed}/{number}/{attempt}").randrange(2**31)  # noqa: S311 - a reproducible draw
        model = build_critical_model(family, kind, own)
        if model is not None:
            return model
    raise RuntimeError(f"{family} with {kind}, number {number}, seed {seed}: no draw was as planned")


def build_critical_model(family: str, kind: str, seed: int) -> CriticalModel | None:
    """Build a model of a family with one kind of critical scalars; `None` if it turns out not to be as planned."""
    planter = _Planter(family, kind, seed)
    planter.plant_()
    return planter.verify()


@torch.no_grad()
def measure_nats(checkpoint: Checkpoint, token_ids: Tensor) -> float:
    """Return the mean nats per token of a plain pass over windows, int64 [windows, tokens]."""
    logits = checkpoint.model(input_ids=token_ids, use_cache=False).logits[:, :-1].double()
    targets = token_ids[:, 1:, None]
    return float((logits.logsumexp(-1) - logits.gather(-1, targets)[..., 0]).mean())


def measure_zeroed(
    checkpoint: Checkpoint,
    parameters: dict[str, ModelParameter],
    token_ids: Tensor,
    addresses: Iterable[ScalarAddress],
) -> float:
    """Return the mean nats per token with scalars zeroed as the layer applies them; the model is put back."""
    before = []
    try:
        for address in addresses:
            parameter = parameters[address.parameter]
            before.append((parameter, address.index, parameter.weight[address.index].clone()))
            parameter.weight[address.index] = -parameter.offset
        return measure_nats(checkpoint, token_ids)
    finally:
        for parameter, index, value in reversed(before):
            parameter.weight[index] = value


@dataclass(frozen=True)
class _Neuron:
    """A neuron that fires on every token."""

    down: DownProjection
    column: int

    def write(self, row: int) -> ScalarAddress:
        """Give the address of what it adds to a channel."""
        expert = () if self.down.expert is None else (self.down.expert,)
        return ScalarAddress(parameter=self.down.parameter, index=(*expert, row, self.column))


class _Planter:
    def __init__(self, family: str, kind: str, seed: int) -> None:
        self.family, self.kind, self.seed = family, kind, seed
        self.random = Random(seed)  # noqa: S311 - a reproducible draw, not a secret
        self.layers = self.random.randint(7 if kind == "equal parts" else 4, 8)
        model = build_random_model(family, self.layers, seed, tied=self.random.random() < 0.5)
        self.checkpoint = wrap_model(model, Numerals(), name=f"critical-{family}-{seed}")
        self.parameters = {one.name: one for one in list_parameters(self.checkpoint)}
        self.prompt = [1, *self.random.sample(range(3, VOCABULARY), 40)]
        self.channels = self.random.sample(range(HIDDEN), HIDDEN)
        self.columns = self.random.sample(range(100), 100)
        self.constant = self.channels.pop()
        self.spikes: list[int] = []
        self.tried: list[ScalarAddress] = []
        self.decoys: list[ScalarAddress] = []
        self.sets: list[tuple[ScalarAddress, ...]] = []
        self.masks: list[tuple[ScalarAddress, ScalarAddress]] = []
        self.experts: dict[int, DownProjection] = {}

    # What is planted

    @torch.no_grad()
    def plant_(self) -> None:
        """Plant a design, give the model its confidence and let it write its text."""
        self._make_constant_()
        plant: dict[str, Callable[[], None]] = {
            "last gain": self._plant_last_gain_,
            "inner gain": self._plant_spike_,
            "bias": self._plant_bias_,
            "embedding": self._plant_embedding_,
            "super weight": self._plant_spike_,
            "redundant pair": self._plant_pair_,
            "masked": self._plant_masked_,
            "two stages": self._plant_stages_,
            "equal parts": self._plant_parts_,
        }
        plant[self.kind]()
        self._plant_silent_()
        self._plant_dead_gain_()
        self._quiet_spikes_()
        self._write_text_()
        self._plant_unseen_()

    def _plant_last_gain_(self) -> None:
        for _ in range(self.random.randint(1, 3)):
            channel = self.channels.pop()
            self._scale_gain_(self.last_norm, channel, self.random.uniform(4, 8))
            self.tried.append(ScalarAddress(parameter=self.last_norm.name, index=(channel,)))

    def _plant_spike_(self) -> None:
        layer, row = self.random.randrange(self.layers // 2 + 1), self._take_spike()
        neuron = self._fire_(layer, self.constant)
        height = self._height()
        self._write_([neuron], row, [height])
        self._heat_(neuron, row)
        self.tried.append(neuron.write(row))
        self._try_source_(layer, neuron)
        self._try_gains_(layer, row)

    def _plant_bias_(self) -> None:
        layer, row = self.random.randrange(self.layers // 2 + 1), self._take_spike()
        down = self._choose_down(layer)
        if down.bias is not None and self.random.random() < 0.5:
            down.bias[row] += self._height()
            self.tried.append(self._name(down.bias, (row,)))
        elif down.bias is not None:
            neuron = self._fire_(layer, None)
            self._write_([neuron], row, [self._height()])
            [inward] = list_inward(self.checkpoint.layers[layer], down)
            assert inward.bias is not None  # noqa: S101
            self.tried += [neuron.write(row), self._name(inward.bias, (neuron.column,))]
        else:
            self._plant_value_bias_(layer, row)

    def _plant_value_bias_(self, layer: int, row: int) -> None:
        """Attention hands on what all values share, whatever it attends to."""
        attention: Any = self.checkpoint.layers[layer].module.self_attn
        place, each = self.random.randrange(len(attention.v_proj.bias)), attention.head_dim
        groups = attention.num_key_value_groups
        head, rest = divmod(place, each)
        attention.v_proj.weight[place] = 0.0
        attention.v_proj.bias[place] = 5.0
        columns = [(head * groups + group) * each + rest for group in range(groups)]
        attention.o_proj.weight[row, columns] = self._height() / 5.0 / groups
        self.tried.append(self._name(attention.v_proj.bias, (place,)))

    def _plant_embedding_(self) -> None:
        """The text has to hold the token often: what it is, a first text says."""
        self._write_text_()
        tokens = self.token_ids[:, 1:].flatten().bincount(minlength=VOCABULARY)
        token, channel = int(tokens.argmax()), self.channels.pop()
        embedding = self.checkpoint.model.get_input_embeddings().weight
        embedding[token, channel] = self._sign() * self.random.uniform(20, 40) * embedding[token].std()
        self.tried.append(self._name(embedding, (token, channel)))

    def _plant_pair_(self) -> None:
        """Two make a channel so large that a norm shows no other one; a later neuron reads it there.

        Where a norm stands behind the MLP, that one shows no other channel, and no later neuron is needed.
        """
        layer, row = self.random.randrange(self.layers // 2), self._take_spike()
        neurons = [self._fire_(layer, self.constant) for _ in range(self.random.randint(2, 3))]
        height = self._height(5, 8)
        parts = [height * self.random.uniform(0.8, 1.2) for _ in neurons]
        self._write_(neurons, row, parts)
        self.sets.append(tuple(neuron.write(row) for neuron in neurons))
        if not is_normed(self.family):
            later = self.random.randrange(layer + 1, self.layers)
            relay, last = self._fire_(later, row), self._take_spike()
            self._write_([relay], last, [self._sign() * abs(sum(parts)) * self.random.uniform(4, 6)])
            self.tried.append(relay.write(last))

    def _plant_masked_(self) -> None:
        """The layers that the spike is there for add little: what the model computes hardly needs it."""
        layer, row, height = self.random.randrange(self.layers // 2), self._take_spike(), self._height()
        last = self.random.randrange(self.layers // 2, self.layers) if layer else self.layers - 1
        last = max(layer + 1, last)
        if is_normed(self.family):  # its norm shows what else the block adds once the spike is gone
            self._quiet_layer_(layer)
        maker = self._fire_(layer, self.constant)
        self._write_([maker], row, [height])
        for later in range(layer + 1, last + 1):
            self._quiet_layer_(later)
        taker = self._fire_(last, self.constant)
        self._write_([taker], row, [-height])
        self.tried += [maker.write(row), taker.write(row)]
        self.masks.append((maker.write(row), taker.write(row)))

    def _plant_stages_(self) -> None:
        places = sorted(self.random.sample(range(self.layers), 3))
        row, height = self._take_spike(), self._height()
        for layer, part in zip(places, (height, -height, height * self.random.uniform(0.7, 1.5)), strict=True):
            neuron = self._fire_(layer, self.constant)
            self._write_([neuron], row, [part])
            self.tried.append(neuron.write(row))

    def _plant_parts_(self) -> None:
        number = self.random.randint(2, min(6, self.layers - 1))
        row, height, members = self._take_spike(), self._height(), []
        for layer in sorted(self.random.sample(range(self.layers - 1), number)):
            neuron = self._fire_(layer, self.constant)
            self._write_([neuron], row, [height / number])
            members.append(neuron.write(row))
        self.sets.append(tuple(members))

    # What is inert

    def _heat_(self, neuron: _Neuron, kept: int) -> None:
        """Give a hot column other large weights, in channels that nothing reads."""
        for row in (self.channels.pop() for _ in range(self.random.randint(1, 3))):
            for norm in (one for one in self.parameters.values() if one.is_gain and one.shape == (HIDDEN,)):
                norm.weight[row] = -norm.offset
            part = self._sign() * self.random.uniform(0.02, 0.15)
            neuron.down.weight[row, neuron.column] = part * neuron.down.weight[kept, neuron.column]
            self.decoys.append(neuron.write(row))

    def _plant_silent_(self) -> None:
        """Plant a huge weight behind a neuron that never fires."""
        layer = self.random.randrange(self.layers)
        down, row, column = self._choose_down(layer), self.channels[0], self.columns.pop()
        largest = max(float(one.weight.abs().max()) for one in self.parameters.values() if not one.is_gain)
        plant_inert_weight_(self.checkpoint.layers[layer], down, row, column, self._sign() * 3 * largest)
        self.decoys.append(_Neuron(down, column).write(row))

    def _plant_dead_gain_(self) -> None:
        """Give a norm a huge gain in a channel that nothing writes; a norm that centers would write it."""
        if self.family in CENTERED:
            return
        channel = self.channels.pop()
        for one in self.parameters.values():
            if one.shape[-2:-1] == (HIDDEN,):
                one.weight[..., channel, :] = 0.0
            elif not one.is_gain and one.shape[-1] == HIDDEN and one.layer is None:
                one.weight[..., channel] = 0.0
            elif not one.is_gain and one.shape == (HIDDEN,):
                one.weight[channel] = 0.0
        norm = self.random.choice(
            [one for one in self.parameters.values() if one.is_gain and one.shape == (HIDDEN,)]
        )
        norm.weight[channel] = self.random.uniform(20, 60)
        self.decoys.append(ScalarAddress(parameter=norm.name, index=(channel,)))

    def _plant_unseen_(self) -> None:
        """Give a token that the text does not hold a huge entry; where the head is tied it would show there."""
        model = self.checkpoint.model
        embedding = model.get_input_embeddings().weight
        unseen = [token for token in range(3, VOCABULARY) if not bool((self.token_ids == token).any())]
        if unseen and embedding is not model.get_output_embeddings().weight:
            token, channel = self.random.choice(unseen), self.channels[1]
            embedding[token, channel] = self._sign() * 50 * embedding.std()
            self.decoys.append(self._name(embedding, (token, channel)))

    # How it is done

    def _make_constant_(self) -> None:
        """Let one channel be the same in all tokens."""
        embedding = self.checkpoint.model.get_input_embeddings().weight
        embedded = probe_prompt(self.checkpoint, self.prompt).embedded
        times = float(embedded.std()) / float(embedding[self.prompt].std())  # some families multiply it
        embedding[:, self.constant] = self._sign() * 8.0 * max(1.0, float(embedded.std())) / times

    def _choose_down(self, layer: int) -> DownProjection:
        """Return the down-projection of a layer; of experts one, which all tokens are sent to from then on."""
        if layer not in self.experts:
            down = choose_down(self.checkpoint, layer, self.prompt, 1)
            self.experts[layer] = down
            if down.fused is not None and down.expert is not None:
                module = down.fused.module
                entered = observe(self.checkpoint, self.prompt, [module]).inputs[module][:, self.constant].mean()
                [router] = [
                    one.weight
                    for one in self.parameters.values()
                    if one.layer == layer and one.shape[1:] == (HIDDEN,) and one.shape[0] < 10
                ]
                router[down.expert] = 0.0
                router[down.expert, self.constant] = 20.0 / entered
        return self.experts[layer]

    def _fire_(self, layer: int, channel: int | None) -> _Neuron:
        """Let a neuron fire on every token, by a channel or by its bias."""
        down, column = self._choose_down(layer), self.columns.pop()
        drive = self.random.uniform(2, 5)
        for inward in list_inward(self.checkpoint.layers[layer], down):
            rows = inward.rows_of(column)
            inward.weight[rows] = 0.0
            if inward.bias is not None:
                inward.bias[rows] = drive if channel is None else 0.0
            if channel is not None:
                entered = observe(self.checkpoint, self.prompt, [inward.module]).inputs[inward.module]
                inward.weight[rows, channel] = drive / entered[:, channel].mean()
        down.weight[:, column] *= 0.01
        return _Neuron(down, column)

    def _write_(self, neurons: Sequence[_Neuron], row: int, heights: Sequence[float]) -> None:
        """Let neurons of one layer add so much to a channel, on average over a prompt's tokens."""
        down = neurons[0].down
        norm = find_output_norm(self.checkpoint.layers[down.layer], "mlp")
        for neuron in neurons:
            down.weight[row, neuron.column] = 0.0
        before = probe_prompt(self.checkpoint, self.prompt)
        [observed] = [one for one in before.observed_in(down.layer) if one.down is down]
        rest = float(observed.outputs.norm(dim=-1).mean()) + 1.0
        if norm is not None:
            down.weight[row] *= 0.01
        for neuron, height in zip(neurons, heights, strict=True):
            product = height if norm is None else 8.0 * rest * math.copysign(1.0, height)
            down.weight[row, neuron.column] = product / observed.inputs[:, neuron.column].mean()
        after = probe_prompt(self.checkpoint, self.prompt)
        reached = float((after.residual - before.residual)[down.layer, :, row].mean())
        if norm is not None:
            scale_norm_(norm, row, sum(heights) / reached)
        else:
            for neuron in neurons:
                down.weight[row, neuron.column] *= sum(heights) / reached

    def _quiet_layer_(self, layer: int) -> None:
        """Let a layer's blocks add little."""
        for block in ("attention", "mlp"):
            norm = find_output_norm(self.checkpoint.layers[layer], block)
            if norm is not None:
                for channel in range(HIDDEN):
                    scale_norm_(norm, channel, _QUIET)
        for one in self.parameters.values():
            if one.layer == layer and one.shape[-2:-1] == (HIDDEN,) and not is_normed(self.family):
                one.weight.mul_(_QUIET)

    def _quiet_spikes_(self) -> None:
        """Let the last norm make of each spike about what it makes of any other channel."""
        states = probe_prompt(self.checkpoint, self.prompt).residual[-1]
        usual = float(states.std(0).median())
        for row in (*self.spikes, self.constant):
            self._scale_gain_(self.last_norm, row, min(1.0, usual / float(states[:, row].abs().mean())))

    def _write_text_(self) -> None:
        """Give the model its confidence, in its last norm, and let it write."""
        target = self.random.uniform(*_ENTROPY)
        chance = torch.Generator().manual_seed(self.seed)
        self.token_ids = torch.randint(3, VOCABULARY, (_WINDOWS, _LENGTH), generator=chance)
        self.token_ids[:, 0] = 1
        for _ in range(3):
            logits = self.checkpoint.model(input_ids=self.token_ids, use_cache=False).logits.double()
            low, high = 1e-4, 1e4
            for _ in range(40):
                middle = math.sqrt(low * high)
                shares = (middle * logits).log_softmax(-1)
                low, high = (
                    (middle, high) if float(-(shares.exp() * shares).sum(-1).mean()) > target else (low, middle)
                )
            for channel in range(HIDDEN):
                self._scale_gain_(self.last_norm, channel, low)
            bias = getattr(self._find_module(self.last_norm), "bias", None)
            if bias is not None:
                bias *= low
            for place in range(1, _LENGTH):
                logits = self.checkpoint.model(input_ids=self.token_ids[:, :place], use_cache=False).logits[:, -1]
                self.token_ids[:, place] = logits.softmax(-1).multinomial(1, generator=chance)[:, 0]

    def _try_source_(self, layer: int, neuron: _Neuron) -> None:
        """Try what leads into a neuron."""
        if neuron.down.expert is None:
            for one in self.parameters.values():
                if (
                    one.layer == layer
                    and one.matrix is not None
                    and one.shape[1] == HIDDEN
                    and one.shape[0] > HIDDEN
                ):
                    self.tried.append(ScalarAddress(parameter=one.name, index=(neuron.column, self.constant)))

    def _try_gains_(self, layer: int, row: int) -> None:
        """Try the gains of a layer that read the constant channel or write the spike."""
        self.tried += [
            ScalarAddress(parameter=one.name, index=(channel,))
            for one in self.parameters.values()
            for channel in (self.constant, row)
            if one.is_gain and one.layer == layer and one.shape == (HIDDEN,)
        ]

    def _take_spike(self) -> int:
        row = self.channels.pop()
        self.spikes.append(row)
        return row

    def _height(self, low: float = 2, high: float = 6) -> float:
        typical = float(probe_prompt(self.checkpoint, self.prompt).residual[-1].norm(dim=-1).mean())
        return self._sign() * typical * self.random.uniform(low, high)

    def _sign(self) -> int:
        return self.random.choice((-1, 1))

    @property
    def last_norm(self) -> ModelParameter:
        return [one for one in self.parameters.values() if one.is_gain and one.layer is None][-1]

    def _scale_gain_(self, norm: ModelParameter, channel: int, factor: float) -> None:
        norm.weight[channel] = (norm.weight[channel] + norm.offset) * factor - norm.offset

    def _find_module(self, parameter: ModelParameter) -> torch.nn.Module:
        return self.checkpoint.model.get_submodule(parameter.name.rpartition(".")[0])  # type: ignore[no-any-return]

    def _name(self, tensor: Tensor, index: tuple[int, ...]) -> ScalarAddress:
        """Give the address of a scalar of a tensor that is a parameter, as stored."""
        [name] = [name for name, one in self.parameters.items() if one.weight.data_ptr() == tensor.data_ptr()]
        return ScalarAddress(parameter=name, index=index)

    # What is true

    def verify(self) -> CriticalModel | None:
        """Zero everything that was planted; `None` if it is not as planned."""
        base = measure_nats(self.checkpoint, self.token_ids)

        def zero(*addresses: ScalarAddress) -> float:
            return measure_zeroed(self.checkpoint, self.parameters, self.token_ids, addresses) - base

        members = [address for each in self.sets for address in each]
        nats = {address: zero(address) for address in (*self.tried, *members, *self.decoys)}
        ratios = {address: math.exp(min(one, 700.0)) for address, one in nats.items()}
        alone = frozenset(address for address in (*self.tried, *members) if ratios[address] >= CRITICAL)
        small = [frozenset(one for one in each if ratios[one] < SMALL) for each in self.sets]
        together = [each for each in small if len(each) > 1 and zero(*each) >= math.log(CRITICAL)]
        masks = [(first, second) for first, second in self.masks if zero(first, second) <= _MASKED * nats[first]]
        planned = {
            "last gain": any(self.parameters[address.parameter].is_gain for address in alone),
            "inner gain": any(self.parameters[address.parameter].is_gain for address in alone),
            "redundant pair": list(map(frozenset, self.sets)) == together,
            "masked": len(masks) == len(self.masks) and all(first in alone for first, _ in masks),
            "two stages": len(alone) > 1,
            "equal parts": bool(together) or bool(alone.intersection(members)),
        }.get(self.kind, bool(alone.intersection(self.tried[:2])))
        inert = all(
            abs(nats[address]) < math.log(INERT)
            and all(zero(address, spike) - nats[spike] < _BESIDE * nats[spike] for spike in alone)
            for address in self.decoys
        )
        if not planned or not inert:
            return None
        return CriticalModel(
            self.family,
            self.kind,
            self.seed,
            self.checkpoint,
            self.token_ids,
            alone,
            tuple(together),
            tuple(masks),
            frozenset(self.decoys),
            ratios,
        )
