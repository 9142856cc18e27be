"""How super weights work, as series: what is left at each dose, what parts of the set do, who adds and carries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sw_audit.record.address import WeightAddress, list_addresses
from sw_audit.record.arm import BASELINE, FLIPPED, PRUNED, Arm, Scale
from sw_audit.record.location import SuperWeight
from sw_audit.record.mechanism import Mechanism
from sw_audit.record.record import ModelResult
from sw_audit.record.subset import Subset, list_pruned, list_subsets
from sw_audit.record.verdict import Verdict
from sw_audit_reports.series import ATTENTION, INTACT, SPIKE, TOUCHED, Point, list_ratios
from sw_audit_reports.text import count, name_subset


@dataclass(frozen=True)
class DoseFigure:
    """What is left of the model at one dose.

    Attributes:
        factor: What the super weights were multiplied by.
        ratio: Perplexity over that of the model as it is.
    """

    factor: float
    ratio: Point


@dataclass(frozen=True)
class SetRow:
    """A part of the set of super weights, changed on its own.

    Attributes:
        label: What was done, and to which scalars.
        ratio: Perplexity over that of the model as it is.
        share: Part of the damage of zeroing them all, in nats per token; `None` where that has no measure.
        rank: p-value of its rank among the matched controls; `None` where no rank was taken.
    """

    label: str
    ratio: Point
    share: float | None
    rank: float | None


@dataclass(frozen=True)
class StreamPoint:
    """A figure of one decoder layer.

    Attributes:
        layer: Decoder layer.
        series: `intact` or `touched` for the entry as it leaves the layer, as the model is and with its super
            weights zeroed; `attention` or `spike` for what attention and the MLP add to it.
        value: The figure, with its sign.
    """

    layer: int
    series: str
    value: float


def list_doses(evidence: ModelResult, verdicts: Sequence[Verdict]) -> tuple[DoseFigure, ...]:
    """List every factor that the whole set was multiplied by, with what it did; the smallest first."""
    ratios = list_ratios(verdicts)
    doses = {}
    for measured in evidence.measurements:
        factor = _find_factor(measured.arm, frozenset(evidence.location.addresses))
        if factor is not None:
            point = Point(1.0) if factor == 1 else _measure(evidence, measured.arm.name, ratios)
            doses[factor] = DoseFigure(factor, point)
    return tuple(doses[factor] for factor in sorted(doses))


def list_sets(evidence: ModelResult, verdicts: Sequence[Verdict]) -> tuple[SetRow, ...]:
    """List what zeroing all of the set, its parts, and flipping its sign does.

    A part is looked up by its scalars, for what two parts have in common was measured once. Of a set of two, all
    but one is the other alone: that has no row of its own.
    """
    found = evidence.location.addresses
    arms = {pruned: one.arm.name for one in evidence.measurements if (pruned := list_pruned(one.arm))}
    names = {one.address: _name_scalar(one) for one in evidence.location.super_weights}
    whole = names[found[0]] if len(found) == 1 else count(len(found), "scalar")
    labels = [(f"All zeroed: {whole}", arms.get(frozenset(found)))]
    for subset in list_subsets(found):
        if len(found) > 2 or subset.kind != "without":
            label = f"{name_subset(subset.name)} zeroed: {_name_members(subset, found, names)}"
            labels.append((label, arms.get(frozenset(subset.members))))
    labels.append((f"All, sign flipped: {whole}", FLIPPED))
    ratios, ranks, damage = list_ratios(verdicts), _list_ranks(verdicts), _damage(evidence, PRUNED)
    rows = []
    for label, arm in labels:
        if arm is None or evidence.measured(arm) is None:
            continue
        own = _damage(evidence, arm)
        share = own / damage if own is not None and damage else None
        rows.append(SetRow(label, _measure(evidence, arm, ratios), share, ranks.get(arm)))
    return tuple(rows)


def count_controls(evidence: ModelResult) -> int:
    """Count the matched controls; those that hold the same scalars count once, as in their rank."""
    controls = (one.arm for one in evidence.measurements if one.arm.name.startswith("placebo/"))
    return len({frozenset(list_addresses(arm.addressed())) for arm in controls})


def list_stream(mechanism: Mechanism) -> tuple[StreamPoint, ...]:
    """List the super activation's entry per layer, with and without the super weights, and what is added to it."""
    points = []
    for one in mechanism.layers:
        points.append(StreamPoint(one.layer, INTACT, one.intact.leaving))
        points.append(StreamPoint(one.layer, TOUCHED, one.pruned.leaving))
        for series, value in ((ATTENTION, one.intact.attention), (SPIKE, one.intact.mlp)):
            if value is not None:
                points.append(StreamPoint(one.layer, series, value))
    return tuple(points)


def list_attended(mechanism: Mechanism) -> tuple[StreamPoint, ...]:
    """List the attention that rests on the super activation's token, with and without the super weights."""
    pairs = [(one.layer, INTACT, one.attended) for one in mechanism.layers]
    pairs += [(one.layer, TOUCHED, one.attended_pruned) for one in mechanism.layers]
    return tuple(StreamPoint(layer, series, value) for layer, series, value in pairs if value is not None)


def _name_scalar(weight: SuperWeight) -> str:
    expert = "" if weight.expert is None else f"expert {weight.expert}, "
    return f"layer {weight.layer} [{expert}{weight.row}, {weight.column}]"


def _name_members(subset: Subset, found: Sequence[WeightAddress], names: dict[WeightAddress, str]) -> str:
    first = subset.members[0]
    scalars = count(len(subset.members), "scalar")
    match subset.kind:
        case "alone":
            return names[first]
        case "row":
            return f"row {first.row}, {scalars}"
        case "column":
            return f"{names[first].partition(' [')[0]}, column {first.column}, {scalars}"
        case "without":
            [kept] = set(found) - set(subset.members)
            return f"{names[kept]} stays"


def _list_ranks(verdicts: Sequence[Verdict]) -> dict[str, float | None]:
    """Collect p-values of ranks among the matched controls by the name of the arm."""
    ranked = next((verdict for verdict in verdicts if verdict.check == "effect-exceeds-placebos"), None)
    if ranked is None:
        return {}
    return {PRUNED: ranked.observed, **{finding.label: finding.observed for finding in ranked.findings}}


def _find_factor(arm: Arm, super_weights: frozenset[WeightAddress]) -> float | None:
    """Return what an arm multiplies the whole set by, if that is all it does."""
    if arm.name == BASELINE.name:
        return 1.0
    if len(arm.acts) != 1 or not isinstance(act := arm.acts[0], Scale):
        return None
    return act.factor if super_weights and frozenset(list_addresses(act.addresses)) == super_weights else None


def _measure(evidence: ModelResult, arm: str, ratios: dict[str, Point]) -> Point:
    damage = _damage(evidence, arm)
    known = ratios.get(arm)
    ratio = None if damage is None or damage > math.log(1e300) else math.exp(damage)
    return Point(ratio, known.low, known.high) if known and ratio is not None else Point(ratio)


def _damage(evidence: ModelResult, arm: str) -> float | None:
    """Return how many nats per token an arm loses against the model as it is."""
    measured, baseline = evidence.measured(arm), evidence.measured(BASELINE.name)
    if measured is None or baseline is None:
        return None
    lost, base = measured.loss.mean_nats, baseline.loss.mean_nats
    return None if lost is None or base is None else lost - base
