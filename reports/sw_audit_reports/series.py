"""What the charts show: series taken from the evidence, with intervals taken from the verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sw_audit.policy.policy import Policy
from sw_audit.policy.recipe import Recipe
from sw_audit.record.arm import (
    BASELINE,
    FLIPPED,
    OTHER_OUTLIERS,
    PRUNED,
    RESTORED,
    Quantize,
    QuantizeActivations,
    is_dose,
    name_rounding,
)
from sw_audit.record.measurement import Measurement
from sw_audit.record.record import ModelResult
from sw_audit.record.subset import SUBSET_KINDS
from sw_audit.record.verdict import Finding, Verdict
from sw_audit_reports.text import name_arm, name_granularity

INTACT = "intact"
TOUCHED = "touched"
SPIKE = "spike"
ATTENTION = "attention"
_GROUPS = ("", "Super weights", "Controls", "Rounded", "Other")
_RATIO_ARMS = {"prune-collapses": PRUNED, "other-outliers-harmless": OTHER_OUTLIERS}


@dataclass(frozen=True)
class Point:
    """One measured figure; `None` is not finite.

    Attributes:
        value: The figure.
        low: Lower end of its interval, if it has one.
        high: Upper end.
    """

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class LayerPoint:
    """One magnitude in one layer.

    Attributes:
        layer: Decoder layer.
        series: `intact`, `touched` (super weights zeroed) or `spike` (raw output of the down-projection).
        value: Absolute value.
    """

    layer: int
    series: str
    value: float


@dataclass(frozen=True)
class ArmRow:
    """One row of the perplexity chart: an arm, or all draws of one placebo.

    Attributes:
        group: Heading that it stands under; none for the model as it is.
        label: Name for people.
        series: `intact` or `touched`: whether the arm changes the super weights.
        points: Perplexities.
    """

    group: str
    label: str
    series: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class RecipePoint:
    """One recipe's perplexity ratio to the model as it is.

    Attributes:
        recipe: Its notation.
        family: Its notation without the granularity: points of one family make one line.
        label: Its granularity, in words.
        series: `intact` (super weights held out) or `touched` (plain).
        ratio: The ratio.
        limit: What the policy allows with hold-out, if anything.
    """

    recipe: str
    family: str
    label: str
    series: str
    ratio: Point
    limit: float | None = None


def list_ratios(verdicts: Iterable[Verdict]) -> dict[str, Point]:
    """Collect perplexity ratios to the baseline, with intervals, by the name of the arm.

    A check of one arm gives its own figures; a check of several gives findings that are labelled with the
    arm or with the recipe.
    """
    ratios: dict[str, Point] = {}
    for verdict in verdicts:
        if not verdict.quantity.startswith("perplexity ratio"):
            continue
        for finding in verdict.findings:
            ratios[finding.label] = _take(finding)
        if verdict.check in _RATIO_ARMS:
            ratios[_RATIO_ARMS[verdict.check]] = _take(verdict)
    return ratios


def list_layers(evidence: ModelResult) -> tuple[LayerPoint, ...]:
    """List the largest magnitude per layer: as the model is, with super weights zeroed, and raw spikes."""
    points: list[LayerPoint] = []
    for arm, series in ((BASELINE.name, INTACT), (PRUNED, TOUCHED)):
        measured = evidence.measured(arm)
        peaks = measured.peaks if measured else ()
        points += [LayerPoint(layer, series, peak) for layer, peak in enumerate(peaks) if peak]
    # Without a corpus pass the locating prompt's own trace still shows the residual stream.
    if not any(point.series == INTACT for point in points):
        points += [LayerPoint(seen.layer, INTACT, seen.residual) for seen in evidence.location.trace]
    outputs = [(seen.layer, seen.down_output) for seen in evidence.location.trace]
    points += [LayerPoint(layer, SPIKE, output) for layer, output in outputs if output]
    # A logarithmic axis has no place for zero.
    return tuple(point for point in points if point.value > 0)


def list_arms(evidence: ModelResult, verdicts: Sequence[Verdict]) -> tuple[ArmRow, ...]:
    """List perplexities in the order in which the arms were measured, grouped for reading.

    What a dose does is shown by its own chart.
    """
    ratios = list_ratios(verdicts)
    baseline = _perplexity(evidence.measured(BASELINE.name))
    rows: dict[tuple[str, str], ArmRow] = {}
    for measured in evidence.measurements:
        if is_dose(measured.arm):
            continue
        group, series = _classify(measured)
        label = name_arm(measured.arm)
        point = _with_interval(measured, _find_ratio(ratios, measured), baseline)
        before = rows[group, label].points if (group, label) in rows else ()
        rows[group, label] = ArmRow(group, label, series, (*before, point))
    return tuple(sorted(rows.values(), key=lambda row: _GROUPS.index(row.group)))


def list_recipes(evidence: ModelResult, verdicts: Sequence[Verdict], policy: Policy) -> tuple[RecipePoint, ...]:
    """List each recipe's perplexity ratio, plain and with hold-out, in the policy's order."""
    ratios = list_ratios(verdicts)
    limits = policy.checks.rtn_holdout_quality.maximum_ratio
    baseline = _perplexity(evidence.measured(BASELINE.name))
    points: list[RecipePoint] = []
    for recipe in policy.quantization.parsed():
        for holdout, series in ((False, TOUCHED), (True, INTACT)):
            measured = evidence.measured(name_rounding(recipe, holdout=holdout))
            if measured is None or not baseline:
                continue
            perplexity = _perplexity(measured)
            ratio = None if perplexity is None else perplexity / baseline
            known = _find_ratio(ratios, measured)
            point = Point(ratio, known.low, known.high) if known and ratio is not None else Point(ratio)
            limit = limits.get(str(recipe)) if holdout else None
            points.append(
                RecipePoint(str(recipe), _name_family(recipe), name_granularity(recipe), series, point, limit)
            )
    return tuple(points)


def _take(figure: Verdict | Finding) -> Point:
    return Point(figure.observed, figure.low, figure.high)


def _find_ratio(ratios: dict[str, Point], measured: Measurement) -> Point | None:
    """Find an arm's ratio; a finding that is labelled with a bare recipe is about its hold-out arm."""
    name = measured.arm.name
    recipe = name.removesuffix(" hold-out") if name.endswith(" hold-out") else None
    return ratios.get(name) or (ratios.get(recipe) if recipe else None)


def _with_interval(measured: Measurement, ratio: Point | None, baseline: float | None) -> Point:
    perplexity = _perplexity(measured)
    if ratio is None or baseline is None or perplexity is None:
        return Point(perplexity)
    low, high = (None if end is None else end * baseline for end in (ratio.low, ratio.high))
    return Point(perplexity, low, high)


def _classify(measured: Measurement) -> tuple[str, str]:
    name = measured.arm.name
    if name == BASELINE.name:
        return "", INTACT
    if name in (PRUNED, RESTORED, FLIPPED) or name.startswith(tuple(f"{kind}/" for kind in SUBSET_KINDS)):
        return "Super weights", TOUCHED
    if name == OTHER_OUTLIERS or name.startswith("placebo/"):
        return "Controls", INTACT
    if any(isinstance(act, Quantize | QuantizeActivations) for act in measured.arm.acts):
        return "Rounded", INTACT if name.endswith("hold-out") else TOUCHED
    return "Other", INTACT


def _perplexity(measured: Measurement | None) -> float | None:
    return measured.loss.perplexity if measured else None


def _name_family(recipe: Recipe) -> str:
    notation = str(recipe).split("/")
    return "/".join([notation[0], *notation[2:]])
