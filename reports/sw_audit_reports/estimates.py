"""What verdicts conclude about arms: figures with their intervals, by the name of the arm."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sw_audit.record.arm import (
    BASELINE,
    FLIPPED,
    OTHER_OUTLIERS,
    PRUNED,
    RESTORED,
    SUBSET_PARTS,
    Arm,
    Quantize,
    QuantizeActivations,
)
from sw_audit.record.verdict import Finding, Verdict

_RATIO_ARMS = {"prune-collapses": PRUNED.name, "other-outliers-harmless": OTHER_OUTLIERS.name}


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval; `None` is not finite, or missing."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


def take_estimate(figure: Verdict | Finding) -> Estimate:
    """Take the figure of a verdict or of a finding."""
    return Estimate(figure.observed, figure.low, figure.high)


def list_ratios(verdicts: Iterable[Verdict]) -> dict[str, Estimate]:
    """List perplexity ratios to the baseline by the name of the arm."""
    ratios: dict[str, Estimate] = {}
    for verdict in verdicts:
        if not verdict.quantity.startswith("perplexity ratio"):
            continue
        for finding in verdict.findings:
            ratios[finding.label] = take_estimate(finding)
            ratios[f"{finding.label} hold-out"] = take_estimate(finding)
        if verdict.check in _RATIO_ARMS:
            ratios[_RATIO_ARMS[verdict.check]] = take_estimate(verdict)
    return ratios


def list_ranks(verdicts: Iterable[Verdict]) -> dict[str, float | None]:
    """List p-values of ranks among the matched controls by the name of the arm."""
    ranked = next((verdict for verdict in verdicts if verdict.check == "effect-exceeds-placebos"), None)
    if ranked is None:
        return {}
    return {PRUNED.name: ranked.observed, **{finding.label: finding.observed for finding in ranked.findings}}


def group_arm(arm: Arm) -> tuple[str, bool]:
    """Return the group that an arm is shown in, and whether it changes the super weights."""
    name = arm.name
    if name == BASELINE.name:
        return "", False
    if name in (PRUNED.name, RESTORED.name, FLIPPED.name) or name.startswith(
        tuple(f"{kind}/" for kind in SUBSET_PARTS)
    ):
        return "Super weights", True
    if name == OTHER_OUTLIERS.name or name.startswith("placebo/"):
        return "Controls", False
    if any(isinstance(act, Quantize | QuantizeActivations) for act in arm.acts):
        return "Rounded", not name.endswith("hold-out")
    return "Other", False
