"""Builds a planted model from its design."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from random import Random

import torch

from sw_audit.checkpoint.matrices import DownProjection
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.record.address import WeightAddress
from sw_audit.testing.designs import Design, draw_design, is_normed
from sw_audit.testing.families import Numerals, build_random_model, wrap_model
from sw_audit.testing.planting import (
    Stem,
    choose_down,
    heat_column_,
    observe,
    plant_attended_activation_,
    plant_bias_,
    plant_embedded_activation_,
    plant_inert_weight_,
    plant_stems_,
)

QUIET = 30.0
"""What the ordinary weights on planted columns add is so many times smaller than the smallest spike."""


@dataclass(frozen=True)
class PlantedModel:
    """A model that was built, with the truth about it.

    Attributes:
        design: What it was built from.
        checkpoint: The model; its tokenizer reads numerals.
        super_weights: Where its super weights are.
    """

    design: Design
    checkpoint: Checkpoint
    super_weights: frozenset[WeightAddress]


def build_planted_model(design: Design) -> PlantedModel:
    """Build a model as designed: the traps and super weights are planted layer by layer, in float32, then cast.

    What overflows float16 is cast to bfloat16 instead, as whoever publishes it would, and its design says so.
    """
    model = build_random_model(design.family, design.layers, design.seed)
    bos = None if design.start == "first" else 1
    checkpoint = wrap_model(model, Numerals(bos), name=f"{design.family}-{design.seed}")
    planter = _Planter(checkpoint, design)
    planter.plant_()
    planted = {name: value.clone() for name, value in model.state_dict().items()}
    model.to(getattr(torch, design.dtype))
    if design.dtype == "float16" and not bool(observe(checkpoint, design.prompt).residual.isfinite().all()):
        design = dataclasses.replace(design, dtype="bfloat16")
        model.to(torch.bfloat16).load_state_dict(planted)
    checkpoint = wrap_model(model, checkpoint.tokenizer, checkpoint.identity.id)
    return PlantedModel(design, checkpoint, frozenset(planter.truth))


def draw_planted_model(number: int, seed: int = 0) -> PlantedModel:
    """Draw and build one model of a suite; see `draw_design`."""
    return build_planted_model(draw_design(number, seed))


class _Planter:
    def __init__(self, checkpoint: Checkpoint, design: Design) -> None:
        self.checkpoint, self.design = checkpoint, design
        self.random = Random(design.seed)  # noqa: S311 - a reproducible draw, not a secret
        self.place = (design.prompt, design.position)
        self.truth: set[WeightAddress] = set()
        hidden, inner = self._down(0).weight.shape
        taken = {scalar.row for scalar in design.super_weights}
        self.rows = [row for row in self.random.sample(range(hidden), hidden) if row not in taken]
        taken = {scalar.column for scalar in design.super_weights}
        self.columns = [column for column in self.random.sample(range(inner), inner) if column not in taken]
        residual = observe(checkpoint, design.prompt).residual.abs()
        self.typical = float(residual.flatten(1).median(1).values.max())
        self.quiet = self._smallest_spike() * self.typical / QUIET
        self.tallest = max((abs(scalar.height) for scalar in design.super_weights), default=100.0) * self.typical

    def plant_(self) -> None:
        traps = self.design.traps
        if "outlier-channels" in traps:
            with torch.no_grad():
                for channel in self.rows[-3:]:
                    self.checkpoint.model.get_input_embeddings().weight[:, channel] *= self.random.uniform(5, 15)
        if "embedding" in traps:
            plant_embedded_activation_(self.checkpoint, *self.place, self.rows.pop(), self._height(0.5, 2))
        middle = max(1, int(0.4 * self.design.layers))
        early = {trap: self.random.randrange(middle) for trap in ("attention", "bias", "distributed")}
        taken = {scalar.layer for scalar in self.design.super_weights}
        if is_normed(self.design.family) and early["distributed"] in taken:
            # Two spikes behind one norm would share its vector, and neither be as tall as it should.
            early["distributed"] = next(layer for layer in range(self.design.layers) if layer not in taken)
        for layer in range(self.design.layers):
            if "attention" in traps and early["attention"] == layer:
                plant_attended_activation_(
                    self.checkpoint, *self.place, layer, self.rows.pop(), self._height(0.5, 2)
                )
            if "bias" in traps and early["bias"] == layer:
                plant_bias_(self.checkpoint, *self.place, self._down(layer), self.rows.pop(), self._height(0.5, 1))
            if "distributed" in traps and early["distributed"] == layer:
                self._plant_distributed_(layer)
            self._plant_super_weights_(layer)
            if "propagated" in traps and layer == self.design.layers - 3 and layer > 0.5 * self.design.layers:
                row, height = self.design.super_weights[0].row, 0.3 * self.tallest
                now = float(
                    observe(self.checkpoint, self.design.prompt).residual[layer, self.design.position, row]
                )
                self._stem_(layer, row, self.columns.pop(), height if now > 0 else -height)
        if "late" in traps:
            layer = self.design.layers - self.random.randint(1, 2)
            self._stem_(layer, self.rows.pop(), self.columns.pop(), self._height(2, 5))

    def _plant_super_weights_(self, layer: int) -> None:
        scalars = [scalar for scalar in self.design.super_weights if scalar.layer == layer]
        if not scalars:
            return
        stems = [Stem(scalar.row, scalar.column, scalar.height * self.typical) for scalar in scalars]
        if "companions" in self.design.traps and scalars[0] is self.design.super_weights[0]:
            row = scalars[0].row
            whole = sum(stem.height for stem in stems if stem.row == row) * self.random.uniform(0.15, 0.5)
            count = self.random.randint(12, 30)
            stems += [Stem(row, column, whole / count) for column in self.columns[-count:]]
            del self.columns[-count:]
        down = self._down(layer)
        plant_stems_(self.checkpoint, *self.place, down, stems, self.random.uniform(2, 12), self.quiet)
        self.truth |= {
            WeightAddress(parameter=down.parameter, row=scalar.row, column=scalar.column, expert=down.expert)
            for scalar in scalars
        }
        if "hot-column" in self.design.traps:
            smallest = self._smallest_spike()
            for column in {scalar.column for scalar in scalars}:
                tallest = max(abs(scalar.height) for scalar in scalars if scalar.column == column)
                rows = [scalar.row for scalar in scalars if scalar.column == column]
                part = smallest / tallest / self.random.uniform(30, 100)
                heat_column_(down, column, rows, part, self.design.seed)
        if "inert" in self.design.traps:
            value = 10 * max(float(down.weight[scalar.row, scalar.column].abs()) for scalar in scalars)
            row, column = self.random.choice(self.rows), self.columns.pop()
            plant_inert_weight_(self.checkpoint.layers[layer], down, row, column, value)

    def _smallest_spike(self) -> float:
        spikes: dict[int, float] = {}
        for scalar in self.design.super_weights:
            spikes[scalar.row] = spikes.get(scalar.row, 0.0) + scalar.height
        return min((abs(spike) for spike in spikes.values()), default=100.0)

    def _plant_distributed_(self, layer: int) -> None:
        # Their neurons are of their own: none of a super weight is taken over.
        count = min(self.random.randint(12, 40), len(self.columns) - 40)
        row, height = self.rows.pop(), self._height(0.5, 2)
        columns = [self.columns.pop() for _ in range(count)]
        parts = [self.random.uniform(0.5, 1.5) for _ in columns]
        stems = [
            Stem(row, column, height * part / sum(parts)) for column, part in zip(columns, parts, strict=True)
        ]
        plant_stems_(self.checkpoint, *self.place, self._down(layer), stems, quiet=self.quiet)

    def _stem_(self, layer: int, row: int, column: int, height: float) -> None:
        stems = [Stem(row, column, height)]
        plant_stems_(self.checkpoint, *self.place, self._down(layer), stems, quiet=self.quiet)

    def _down(self, layer: int) -> DownProjection:
        return choose_down(self.checkpoint, layer, *self.place)

    def _height(self, low: float, high: float) -> float:
        return self.random.choice((-1, 1)) * self.tallest * self.random.uniform(low, high)
