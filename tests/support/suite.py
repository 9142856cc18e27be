"""Judges locating methods on the generated suite: ours, and the naive one of the paper's released code."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.locate.attribution import attribute_activations, measure_contributions
from sw_audit.locate.locator import locate_super_weights
from sw_audit.locate.probe import Probe, probe_prompt
from sw_audit.locate.settings import DEFAULT_SETTINGS, LocatorSettings
from sw_audit.locate.trace import count_early_layers, find_span, find_super_activations
from sw_audit.record.address import WeightAddress
from sw_audit.testing import Design, PlantedModel, build_planted_model, draw_design
from sw_audit.testing.families import DENSE, EXPERTS, VISION

FAMILIES = (*DENSE, *EXPERTS, *VISION)
RELATIVE = (3.0, 5.0, 10.0, 20.0, 50.0, 100.0)
"""Thresholds of the naive method's generous variant, in multiples of a layer's median."""

EVERY_EARLY = 2
"""Of so many models one is also read no further than its early layers."""

SWEEP: Mapping[str, tuple[float, ...]] = {
    "prominence": (2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 30),
    "constancy": (1.1, 1.2, 1.4, 1.6, 2, 3, 5, 10),
    "early": (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7),
    "late": (0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 1.0),
    "relative_share": (0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5),
    "relative_height": (0, 0.03, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4),
    "explained": (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    "maximum_count": (2, 3, 4, 5, 6, 7, 8, 10, 12),
}


@dataclass(frozen=True)
class Score:
    """How many super weights were found, missed, and named though they are none."""

    found: int = 0
    missed: int = 0
    false: int = 0

    def __add__(self, other: Score) -> Score:
        return Score(self.found + other.found, self.missed + other.missed, self.false + other.false)

    @property
    def recall(self) -> float | None:
        return self.found / (self.found + self.missed) if self.found + self.missed else None

    @property
    def precision(self) -> float | None:
        return self.found / (self.found + self.false) if self.found + self.false else None

    @property
    def harmonic_mean(self) -> float:
        return 2 * self.found / max(1, 2 * self.found + self.missed + self.false)


@dataclass(frozen=True)
class Result:
    """What the methods made of one model."""

    number: int
    design: Design
    ours: Score
    absolute: Score
    relative: tuple[Score, ...]
    early: Score | None
    sweep: dict[tuple[str, float], Score] = field(default_factory=dict)


def judge_model(number: int, seed: int = 0, *, sweep: bool = False) -> Result:
    """Build one model of the suite and let every method locate its super weights."""
    torch.set_num_threads(1)
    planted = build_planted_model(draw_design(number, seed, FAMILIES))
    design, truth = planted.design, planted.super_weights
    located = locate_super_weights(planted.checkpoint, design.text)
    assert located.token_ids == design.prompt
    probe = probe_prompt(planted.checkpoint, design.prompt)
    return Result(
        number,
        design,
        score(located.addresses, truth),
        score(locate_naively(planted.checkpoint, probe, absolute=50.0), truth),
        tuple(score(locate_naively(planted.checkpoint, probe, times=times), truth) for times in RELATIVE),
        _judge_early(planted) if number % EVERY_EARLY == 0 else None,
        dict(_sweep(planted.checkpoint, probe, truth)) if sweep else {},
    )


def _judge_early(planted: PlantedModel) -> Score | None:
    """Locate while only the early layers run; where a super weight lies deeper that cannot succeed."""
    layers = planted.design.layers
    early = count_early_layers(layers, DEFAULT_SETTINGS) - DEFAULT_SETTINGS.early_beyond
    if any(one.layer >= early for one in planted.design.super_weights):
        return None
    located = locate_super_weights(planted.checkpoint, planted.design.text, depth="early")
    return score(located.addresses, planted.super_weights)


def score(found: Iterable[WeightAddress], truth: frozenset[WeightAddress]) -> Score:
    named = set(found)
    return Score(len(named & truth), len(truth - named), len(named - truth))


def locate_naively(
    checkpoint: Checkpoint, probe: Probe, *, absolute: float = 0.0, times: float = 0.0
) -> set[WeightAddress]:
    """Take each layer's largest input and largest output where both are over a threshold, as the released code.

    Args:
        checkpoint: The model.
        probe: One forward pass.
        absolute: The threshold as a number.
        times: The threshold in multiples of the layer's median magnitude.
    """
    found = set()
    for layer in checkpoint.layers:
        observed = probe.observed_in(layer.index)
        if not observed:
            continue
        seen = max(observed, key=lambda one: float(one.delivered.abs().max()))
        x, y = seen.inputs.abs(), seen.outputs.abs()
        if x.max() > max(absolute, times * float(x.median())) and y.max() > max(
            absolute, times * float(y.median())
        ):
            found.add(
                WeightAddress(
                    parameter=seen.down.parameter,
                    row=int(y.argmax()) % y.shape[1],
                    column=int(x.argmax()) % x.shape[1],
                    expert=seen.down.expert,
                )
            )
    return found


def _sweep(
    checkpoint: Checkpoint, probe: Probe, truth: frozenset[WeightAddress]
) -> Iterable[tuple[tuple[str, float], Score]]:
    [contributions] = measure_contributions(checkpoint, [probe], [range(len(checkpoint.layers))])
    for name, values in SWEEP.items():
        for value in values:
            settings = dataclasses.replace(DEFAULT_SETTINGS, **{name: value})
            yield (name, value), score(_locate(probe, contributions, settings), truth)


def _locate(probe: Probe, contributions: torch.Tensor, settings: LocatorSettings) -> tuple[WeightAddress, ...]:
    early = find_span(probe, settings)[0] + 1
    activations = find_super_activations(probe, settings)
    found = attribute_activations(probe, activations, contributions[:early], settings)
    return tuple(weight.address for weight in found.super_weights)
