"""What round-to-nearest costs with the super weights kept in full precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from sw_audit.checks.arms import ArmPlan
from sw_audit.checks.context import CheckContext
from sw_audit.checks.estimate import Estimate
from sw_audit.checks.limited_quality import judge_limited_quality
from sw_audit.checks.limits import Limits, Ratio
from sw_audit.checks.registry import check
from sw_audit.errors import PolicyError
from sw_audit.policy.recipe import Recipe, parse_recipe
from sw_audit.record.arm import Arm, Rounding
from sw_audit.record.verdict import Verdict

if TYPE_CHECKING:
    from sw_audit.policy.policy import Policy


class RtnHoldoutQualityLimits(Limits):
    """Limits of `rtn-holdout-quality`.

    Attributes:
        maximum_ratio: Per recipe, perplexity with hold-out over perplexity in full precision. Recipes
            without a limit are reported. Coarser blocks than 64x64 do not hold in the paper either.
    """

    maximum_ratio: dict[Annotated[str, AfterValidator(_is_recipe)], Ratio] = Field(
        default_factory=lambda: {"int4/16x16": 1.2, "int4/64x64": 1.2}
    )


def _plan(plan: ArmPlan) -> list[Arm]:
    recipes = plan.policy.quantization.parsed()
    return [
        Arm(purpose=Rounding(recipe=recipe, keep=True), acts=(plan.quantize(recipe, keep=True),))
        for recipe in recipes
    ]


def _examine(policy: Policy) -> str | None:
    limits = policy.checks[RtnHoldoutQualityLimits]
    unmeasured = [name for name in limits.maximum_ratio if name not in policy.quantization.recipes]
    # A policy that is read back from a record has every default written out.
    if not unmeasured or limits.maximum_ratio == RtnHoldoutQualityLimits().maximum_ratio:
        return None
    return f"{rtn_holdout_quality.id} limits {unmeasured[0]!r}, which is not among the recipes"


@check(
    id="rtn-holdout-quality",
    order=110,
    title="Round-to-nearest with the super weights held out keeps quality",
    meaning="Per recipe: what the simplest quantizer can do when it leaves these scalars alone.",
    quantity="perplexity ratio to full precision",
    fails="INT4 in 16x16 or 64x64 blocks grows perplexity more than 1.2 times",
    limits=RtnHoldoutQualityLimits,
    level="law",
    known="INT4 in blocks of 256x256 keeps 63.4 % of 70.1 % for Llama-7B (Yu et al. 2024, figure 7)",
    side="at most",
    arms=_plan,
    examine=_examine,
)
def rtn_holdout_quality(context: CheckContext) -> Verdict:
    """Rule of `rtn-holdout-quality` (Yu et al. 2024, section 4.2, figure 7).

    Recipes with a limit decide, the worst one first; the others are reported as findings with status SKIPPED.
    A model without super weights has nothing to hold out, so its plain arm stands in where only that
    was measured. If no measured recipe has a limit the check does not apply.
    """
    limits, key = context.limits(RtnHoldoutQualityLimits).maximum_ratio, context.key("maximum_ratio")
    return judge_limited_quality(
        context,
        {str(recipe): _compare_quality(context, recipe) for recipe in context.policy.quantization.parsed()},
        limits,
        kind="recipe",
        failed=lambda recipe: (
            f"Use smaller blocks or more bits than {recipe}, or a quantizer that learns its "
            f"scales; if this loss is acceptable, raise its limit in `{key}`."
        ),
    )


def _compare_quality(context: CheckContext, recipe: Recipe) -> Estimate:
    held = Rounding(recipe=recipe, keep=True)
    if not context.located and context.find_measurement(held) is None:
        return context.compare_perplexities(Rounding(recipe=recipe, keep=False))
    return context.compare_perplexities(held)


def _is_recipe(notation: str) -> str:
    try:
        return str(parse_recipe(notation))
    except PolicyError as error:
        raise ValueError(str(error)) from error
