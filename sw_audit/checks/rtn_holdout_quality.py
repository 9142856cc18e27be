"""What round-to-nearest costs with the super weights kept in full precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from sw_audit.checks.arms import ArmPlan
from sw_audit.checks.context import CheckContext
from sw_audit.checks.estimate import Estimate
from sw_audit.checks.limited_quality import is_small, judge_limited_quality
from sw_audit.checks.limits import Limits, Ratio
from sw_audit.checks.registry import check
from sw_audit.errors import PolicyError
from sw_audit.policy.recipe import Recipe, parse_recipe
from sw_audit.record.arm import Arm, Rounding
from sw_audit.record.verdict import Verdict

if TYPE_CHECKING:
    from sw_audit.policy.policy import Policy


LARGE_MODELS = {"int8/row": 1.02, "int4/group64": 1.2, "nf4/group64": 1.2, "int4/group128": 1.2}
"""Most that a model of a billion decoder weights or more may lose, by what people ship. No model of that size was
measured here. A fifth is four times what published tables of round-to-nearest in int4 groups of 128 give for
Llama-2-7B, 13B and 70B (1.02 to 1.05 times: Lin et al. 2024, AWQ, table 4); int8 is to cost next to nothing."""
SMALL_MODELS = {"int8/row": 1.05, "int4/group64": 1.5, "nf4/group64": 1.5, "int4/group128": 2.0}
"""The same for smaller models, which lose more. SmolLM2-135M: 1.013 in int8 rows, 1.30 and 1.26 in int4 and nf4
groups of 64, 1.64 in int4 groups of 128 (of weights that had been rounded to four bits in groups of 32 before);
the specimen: 1.012 in int4 groups of 64. GPT-2, which nobody ships so, is at 17 (torchao's published table)."""


class RtnHoldoutQualityLimits(Limits):
    """Limits of `rtn-holdout-quality`.

    Attributes:
        maximum_ratio: Per recipe, perplexity with hold-out over perplexity in full precision. Recipes without a
            limit are reported. If it is not given, the limits are those of what people ship, by the size of the
            model: from a billion decoder weights on int8/row 1.02, int4/group64, nf4/group64 and int4/group128
            1.2; below, 1.05, 1.5, 1.5 and 2. The paper's blocks have none: no model of that size is shipped in
            them.
    """

    maximum_ratio: dict[Annotated[str, AfterValidator(_is_recipe)], Ratio] | None = Field(
        default=None, examples=[{"int4/group64": 1.3}]
    )


def _plan(plan: ArmPlan) -> list[Arm]:
    recipes = plan.policy.quantization.parsed()
    return [
        Arm(purpose=Rounding(recipe=recipe, keep=True), acts=(plan.quantize(recipe, keep=True),))
        for recipe in recipes
    ]


def _examine(policy: Policy) -> str | None:
    limits = policy.checks[RtnHoldoutQualityLimits].maximum_ratio or {}
    unmeasured = [name for name in limits if name not in policy.quantization.recipes]
    if not unmeasured:
        return None
    return f"{rtn_holdout_quality.id} limits {unmeasured[0]!r}, which is not among the recipes"


@check(
    id="rtn-holdout-quality",
    order=110,
    title="Round-to-nearest with the super weights held out keeps quality",
    meaning="Per recipe: what the simplest quantizer can do when it leaves these scalars alone.",
    quantity="perplexity ratio to full precision",
    fails="perplexity grows more than 1.05 times in INT8 rows, or 1.5 times in INT4 or NF4 groups of 64 (1.02 and "
    "1.2 times from a billion weights on)",
    limits=RtnHoldoutQualityLimits,
    level="law",
    known="INT4 in blocks of 256x256 keeps 63.4 % of 70.1 % for Llama-7B (Yu et al. 2024, figure 7)",
    side="at most",
    arms=_plan,
    examine=_examine,
)
def rtn_holdout_quality(context: CheckContext) -> Verdict:
    """Rule of `rtn-holdout-quality` (Yu et al. 2024, section 4.2, figure 7).

    Recipes with a limit decide, the worst one first; the others, the curve over the paper's blocks, are
    reported as findings with status SKIPPED. A model without super weights has nothing to hold out, so its
    plain arm stands in where only that was measured. If no measured recipe has a limit the check does not
    apply.
    """
    limits, key = context.limits(RtnHoldoutQualityLimits).maximum_ratio, context.key("maximum_ratio")
    if limits is None:
        limits = SMALL_MODELS if is_small(context) else LARGE_MODELS
    return judge_limited_quality(
        context,
        {str(recipe): _compare_quality(context, recipe) for recipe in context.policy.quantization.parsed()},
        limits,
        kind="recipe",
        failed=lambda recipe: (
            f"Use smaller groups or more bits than {recipe}, or a quantizer that learns its "
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
