"""What quantized activations cost with the super activation kept in full precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from sw_audit.checks.activation_rounding import (
    advise_text,
    explain_skipped,
    mind_calibration,
    plan_schemes,
    report_treatments,
)
from sw_audit.checks.arms import ArmPlan
from sw_audit.checks.context import CheckContext
from sw_audit.checks.estimate import Estimate
from sw_audit.checks.limited_quality import is_small, judge_limited_quality
from sw_audit.checks.limits import Limits, Ratio
from sw_audit.checks.registry import Need, check
from sw_audit.errors import PolicyError
from sw_audit.policy.scheme import Scheme, parse_scheme
from sw_audit.record.arm import HELD_OUT, NAIVE, ActivationRounding, Arm
from sw_audit.record.verdict import Verdict

if TYPE_CHECKING:
    from sw_audit.policy.policy import Policy


LARGE_MODELS = {"w8a8": 1.05}
"""Most that a model of a billion decoder weights or more may lose: the paper's W8A8 stays below 1.04, for
models of one billion to thirty (Yu et al. 2024, tables 3 and 4)."""
SMALL_MODELS = {"w8a8": 1.2}
"""The same for smaller models: SmolLM2-135M is at 1.11, of which its weights, one scale per matrix, cost
nothing (1.00); the specimen at 1.001."""


class ActivationHoldoutQualityLimits(Limits):
    """Limits of `activation-holdout-quality`.

    Attributes:
        maximum_ratio: Per scheme, perplexity with the super activation held out over perplexity in full precision.
            Schemes without a limit are reported. If it is not given, W8A8 may lose what models of this size do:
            1.05 from a billion decoder weights on, 1.2 below.
    """

    maximum_ratio: dict[Annotated[str, AfterValidator(_is_scheme)], Ratio] | None = Field(
        default=None, examples=[{"w8a8": 1.05}]
    )


def _plan(plan: ArmPlan) -> list[Arm]:
    return plan_schemes(plan, HELD_OUT if plan.targets.super_weights else NAIVE)


def _examine(policy: Policy) -> str | None:
    limits = policy.checks[ActivationHoldoutQualityLimits].maximum_ratio or {}
    unmeasured = [name for name in limits if name not in policy.activations.schemes]
    if not unmeasured:
        return None
    return f"{activation_holdout_quality.id} limits {unmeasured[0]!r}, which is not among the schemes"


@check(
    id="activation-holdout-quality",
    order=130,
    title="Quantized activations with the super activation held out keep quality",
    meaning="Per scheme: what 8-bit activations cost when this one scalar stays in full precision.",
    quantity="perplexity ratio to full precision",
    fails="W8A8 grows perplexity more than 1.2 times (1.05 times from a billion weights on)",
    limits=ActivationHoldoutQualityLimits,
    level="law",
    known="W8A8: 5.68 becomes 5.74 for Llama-7B, naively 5.83 (Yu et al. 2024, table 3)",
    side="at most",
    needs=frozenset({Need.ACTIVATIONS}),
    arms=_plan,
    examine=_examine,
)
def activation_holdout_quality(context: CheckContext) -> Verdict:
    """Rule of `activation-holdout-quality` (Yu et al. 2024, section 4.1, tables 3 and 4).

    Schemes with a limit decide, the worst one first; the others are reported as findings with status SKIPPED,
    and so is what was measured of each scheme by other treatments: naive rounding and SmoothQuant. A model
    without super weights has no super activation to hold out, so its naive arm stands in where only that was
    measured.
    """
    if (reason := explain_skipped(context)) is not None:
        return context.skip(reason)
    limits, key = context.limits(ActivationHoldoutQualityLimits).maximum_ratio, context.key("maximum_ratio")
    if limits is None:
        limits = SMALL_MODELS if is_small(context) else LARGE_MODELS
    schemes = context.policy.activations.parsed()
    return judge_limited_quality(
        context,
        {str(scheme): _compare_quality(context, scheme) for scheme in schemes},
        limits,
        kind="scheme",
        failed=lambda scheme: (
            f"Give activations or weights more bits than {scheme}, weights a scale per row "
            "(`[activations] weights`), or use SmoothQuant where it does better here; if this loss is acceptable, "
            f"raise its limit in `{key}`."
        ),
        remedy=lambda estimate: advise_text(context, estimate),
        more=[finding for scheme in schemes for finding in report_treatments(context, scheme)],
    )


def _compare_quality(context: CheckContext, scheme: Scheme) -> Estimate:
    held = ActivationRounding(scheme=scheme, treatment=HELD_OUT)
    if not context.located and context.find_measurement(held) is None:
        held = ActivationRounding(scheme=scheme, treatment=NAIVE)
    return mind_calibration(context, context.compare_perplexities(held))


def _is_scheme(notation: str) -> str:
    try:
        return str(parse_scheme(notation))
    except PolicyError as error:
        raise ValueError(str(error)) from error
