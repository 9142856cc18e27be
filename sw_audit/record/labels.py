"""What arms, granularities and outcomes are called, in the report, in the terminal and in JUnit alike."""

from __future__ import annotations

from sw_audit.policy.recipe import Recipe
from sw_audit.record.arm import (
    HELD_OUT,
    NAIVE,
    SEARCHED,
    SMOOTHED,
    ActivationRounding,
    Arm,
    CacheRounding,
    Dequantized,
    Dose,
    OtherOutliers,
    Placebo,
    Purpose,
    RestoredKind,
    RestoredLayer,
    RestoredLayers,
    RestoredModule,
    RestoredScalars,
    RestoredSet,
    RestoredWeights,
    Rounding,
    Subset,
    Treatment,
    ZeroedExpert,
    ZeroedExperts,
)
from sw_audit.record.verdict import Evidence, Status, Verdict

TIMES = "\N{MULTIPLICATION SIGN}"
_KINDS = {
    "baseline": "Model as it is",
    "pruned": "Super weights zeroed",
    "restored-activation": "Zeroed, activation put back",
    "flipped": "Super weights, sign flipped",
    "parent": "Parent",
    "descendant": "This model",
    "restored-weights": "Super weights put back",
}
"""Purposes that are named by their kind alone."""
_PARTS = {"alone": "Only scalar", "row": "Row group", "column": "Column group", "without": "All but"}
_TREATMENTS: dict[Treatment, str] = {
    NAIVE: "naive",
    HELD_OUT: "super activation held out",
    SMOOTHED: "SmoothQuant",
    SEARCHED: "SmoothQuant, alpha searched",
}

_LAWS = {Status.PASS: "holds", Status.FAIL: "does not hold", Status.INCONCLUSIVE: "undecided"}


def label_status(verdict: Verdict) -> str:
    """Name how a check ended: a gate by its status, a law by whether it holds."""
    if verdict.level == "law":
        return _LAWS.get(verdict.status, verdict.status.value)
    return verdict.status.value


def label_evidence(evidence: Evidence) -> str:
    """Say how much a verdict rests on, such as `4 windows, 252 tokens; step 1 of at most 6`."""
    tokens = "" if evidence.tokens is None else f", {evidence.tokens:,} tokens"
    unit = evidence.unit if evidence.count != 1 else evidence.unit.removesuffix("s")
    steps = f"; step {evidence.look} of at most {evidence.looks}" if evidence.looks > 1 else ""
    return f"{evidence.count:,} {unit}{tokens}{steps}"


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


def label_purpose(purpose: Purpose) -> str:
    """Name what an arm is for; the draws of one kind of placebo share a name."""
    match purpose:
        case Subset():
            return f"{label_subset(purpose)} zeroed"
        case Placebo(control=control):
            return f"Placebo, {'random' if control == 'random' else control.replace('-', ' ')}"
        case ZeroedExpert(layer=layer, number=number, control=control):
            return f"{'Control, layer' if control else 'Layer'} {layer}, expert {number} zeroed"
        case ZeroedExperts(control=control):
            return f"All {'control' if control else 'marked'} experts zeroed"
        case Rounding(recipe=recipe, keep=keep):
            return f"{recipe}, {'held out' if keep else 'plain'}"
        case ActivationRounding(scheme=scheme, treatment=treatment):
            return f"{str(scheme).upper()}, {_TREATMENTS[treatment]}"
        case Dose(factor=factor):
            return f"Super weights times {factor:.12g}"
        case Dequantized(parent=parent):
            return f"{'Parent' if parent else 'Same files'} in transformers"
        case CacheRounding(form=form):
            return f"Key-value cache in {form}"
        case (
            RestoredModule()
            | RestoredLayer()
            | RestoredKind()
            | RestoredLayers()
            | RestoredSet()
            | RestoredScalars()
        ):
            return f"{label_restored(purpose)} put back"
        case _:
            return _KINDS.get(purpose.kind, purpose.name)


def label_restored(purpose: Purpose) -> str:
    """Name what is put back in an arm; in full, such as `every mlp.down_proj`."""
    match purpose:
        case RestoredWeights():
            return "Super weights"
        case RestoredScalars(scalar=scalar):
            return "Critical scalars" if scalar is None else str(scalar)
        case RestoredModule(module=module):
            return module
        case RestoredLayer(layer=layer):
            return f"All of {layer}"
        case RestoredKind(path=path):
            return f"Every {path}"
        case RestoredLayers():
            return "All decoder layers"
        case RestoredSet(parts=parts):
            return " + ".join(map(label_restored, parts))
        case _:
            return label_purpose(purpose)


def label_arm(arm: Arm) -> str:
    """Name an arm for people, with what is counted in it."""
    if not isinstance(arm.purpose, OtherOutliers):
        return label_purpose(arm.purpose)
    which = "other outliers" if arm.purpose.feeding else "outliers that feed no super activation"
    return f"{sum(1 for _ in arm.addressed()):,} {which} zeroed"


def label_subset(subset: Subset) -> str:
    """Name a part of the set of super weights."""
    return f"{_PARTS[subset.part]} {subset.number}"
