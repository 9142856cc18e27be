"""What arms and granularities are called, in the report, in the terminal and in JUnit alike."""

from __future__ import annotations

from sw_audit.policy.recipe import Recipe
from sw_audit.policy.scheme import HELD_OUT, NAIVE, SEARCHED, SMOOTHED
from sw_audit.record.arm import (
    BASELINE,
    FLIPPED,
    OTHER_OUTLIERS,
    PLACEBO_KINDS,
    PRUNED,
    RESTORED,
    Arm,
    Quantize,
    QuantizeActivations,
)

TIMES = "\N{MULTIPLICATION SIGN}"
_WAYS = {
    NAIVE: "naive",
    HELD_OUT: "super activation held out",
    SMOOTHED: "SmoothQuant",
    SEARCHED: "SmoothQuant, alpha searched",
}


def label_granularity(recipe: Recipe) -> str:
    """Name what shares one scale, for an axis."""
    match recipe.granularity.kind:
        case "tensor":
            return "whole matrix"
        case "row":
            return "row"
        case "run":
            return f"run of {recipe.granularity.size:,}"
        case "group":
            return f"group of {recipe.granularity.size:,}"
        case _:
            return f"{recipe.granularity.rows} {TIMES} {recipe.granularity.columns}"


def label_subset(name: str) -> str:
    """Name a part of the set of super weights by its arm's name, such as `alone/2`; nothing if it is none."""
    kind, _, number = name.partition("/")
    words = {
        "alone": "Only scalar {}",
        "row": "Row group {}",
        "column": "Column group {}",
        "without": "All but {}",
    }
    return words[kind].format(number) if kind in words else ""


def label_arm(arm: Arm) -> str:
    """Name an arm for people; the draws of one kind of placebo share a name."""
    if arm.name == BASELINE.name:
        return "Model as it is"
    if arm.name == PRUNED:
        return "Super weights zeroed"
    if arm.name == RESTORED:
        return "Zeroed, activation put back"
    if arm.name == FLIPPED:
        return "Super weights, sign flipped"
    if subset := label_subset(arm.name):
        return f"{subset} zeroed"
    if arm.name == OTHER_OUTLIERS:
        others = sum(len(group) for group in arm.addressed())
        return f"{others:,} other outliers zeroed"
    kind = arm.name.split("/")[1] if arm.name.startswith("placebo/") else ""
    if kind in PLACEBO_KINDS:
        return f"Placebo, {'random' if kind == 'random' else kind.replace('-', ' ')}"
    quantized = next((act for act in arm.acts if isinstance(act, Quantize)), None)
    if quantized is not None and arm.name.startswith(str(quantized.recipe)):
        held = "held out" if arm.name.endswith("hold-out") else "plain"
        return f"{quantized.recipe}, {held}"
    if any(isinstance(act, QuantizeActivations) for act in arm.acts):
        scheme, _, way = arm.name.partition(" ")
        return f"{scheme.upper()}, {_WAYS.get(way, way)}"
    return arm.name
